"""The commands: parse, call, print."""

import os

from salun.cli.startup import postpone

# Torch reads this as it is imported: an operator that MPS lacks then runs on the processor.
os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")
# POT reads these: it would import every array library that it finds, which takes seconds.
for _library in ("PYTORCH", "JAX", "CUPY", "TENSORFLOW"):
    os.environ.setdefault(f"POT_BACKEND_DISABLE_{_library}", "1")
postpone()
