"""What a training runs with that does not belong to its settings."""

from collections.abc import Callable
from dataclasses import dataclass, field

from salun.device import Precision
from salun.training.cost import PassCounter
from salun.training.distributed import SINGLE_PROCESS, Group
from salun.training.progress import Callback, no_callback
from salun.training.state import StateWriter


def _nothing() -> None:
    """Do nothing."""


@dataclass(frozen=True)
class WeightHold:
    """What holds weights still.

    Attributes:
        restore: puts the held weights back.
        clear_gradients: clears their gradients, so that clipping counts only the weights that may move.
    """

    restore: Callable[[], None] = _nothing
    clear_gradients: Callable[[], None] = _nothing


@dataclass(frozen=True)
class Runtime:
    """What a training runs with.

    Attributes:
        precision: of forward passes; weights and losses are float32.
        compiled: whether steps use `torch.compile`.
        cuda_graphs: whether steps of one shape are recorded as a CUDA graph.
        callback: is told of every step.
        passes: counts images, where it watches the model, and holds the budget.
        state: writes the training's state from time to time, and finds that of an earlier process.
        group: the processes that train the model together.
        hold: what a mask holds.
    """

    precision: Precision = "float32"
    compiled: bool = False
    cuda_graphs: bool = False
    callback: Callback = no_callback
    passes: PassCounter = field(default_factory=PassCounter)
    state: StateWriter | None = None
    group: Group = SINGLE_PROCESS
    hold: WeightHold = WeightHold()
