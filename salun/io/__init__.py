"""Files, whole or not at all: JSON, arrays, tensors, limits, locks."""
