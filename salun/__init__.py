"""Machine unlearning in image classifiers: train, unlearn, measure."""

__version__ = "0.2.0"
