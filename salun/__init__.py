"""Machine unlearning in image classifiers: train, unlearn, measure."""

import os

from salun.imports import postpone

__version__ = "0.2.0"

# Torch reads this as it is imported: an operator that MPS lacks then runs on the processor.
os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")
postpone()
