"""Unlearning: the task of a method, the registry of methods, and what is written with."""

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from salun.training.recipe import Around, Momentum, OptimizerName, Range, Schedule, TrainingConfig
from salun.training.step import Step
from salun.unlearning.registry import METHODS, Method, find_method, load_methods, method, settled
from salun.unlearning.task import Diverged, Dual, Labels, Share, Task, unlearn

__all__ = [
    "METHODS",
    "Around",
    "Diverged",
    "Dual",
    "Labels",
    "Method",
    "Momentum",
    "NonNegativeFloat",
    "NonNegativeInt",
    "OptimizerName",
    "PositiveFloat",
    "PositiveInt",
    "Range",
    "Schedule",
    "Share",
    "Step",
    "Task",
    "TrainingConfig",
    "find_method",
    "load_methods",
    "method",
    "settled",
    "unlearn",
]
