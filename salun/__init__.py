"""Machine unlearning in image classifiers: train, unlearn, measure."""

from salun.imports import postpone

__version__ = "0.1.0"

postpone()
