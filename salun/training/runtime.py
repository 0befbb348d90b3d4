"""What a training runs with that does not belong to its settings."""

from dataclasses import dataclass, field

from salun.device import Precision
from salun.training.cost import PassCounter
from salun.training.distributed import SINGLE_PROCESS, Group
from salun.training.progress import Callback, no_callback
from salun.training.state import StateWriter


@dataclass(frozen=True)
class Runtime:
    """What a training runs with."""

    precision: Precision = "float32"
    compiled: bool = False
    cuda_graphs: bool = False
    callback: Callback = no_callback
    passes: PassCounter = field(default_factory=PassCounter)
    state: StateWriter | None = None
    group: Group = field(default_factory=lambda: SINGLE_PROCESS)
