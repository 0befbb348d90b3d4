"""The commands: parse, call, print."""

import os

from salun.cli.startup import postpone

# Torch reads this as it is imported: an operator that MPS lacks then runs on the processor.
os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")
postpone()
