"""From a list of experiments to its records."""
