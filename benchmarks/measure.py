"""Clocks, medians, ratios and exponents."""

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from salun.device import clock

Side = Callable[[], float]

HIGHER_IS_BETTER = ("images/s", "TFLOP/s")


@dataclass(frozen=True)
class Spread:
    """A measured value.

    Attributes:
        values: of all repetitions, in the order in which they were measured.
    """

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle one."""
        return statistics.median(self.values)

    @property
    def low(self) -> float:
        """The least."""
        return min(self.values)

    @property
    def high(self) -> float:
        """The greatest."""
        return max(self.values)


@dataclass(frozen=True)
class Goal:
    """What a value, or a ratio, is to reach.

    Attributes:
        least: it is to be at least that; None for no such limit.
        most: it is to be at most that; None for no such limit.
        of_ratio: whether the ratio is meant.
    """

    least: float | None = None
    most: float | None = None
    of_ratio: bool = False

    def __str__(self) -> str:
        if self.least is not None and self.most is not None:
            return f"{self.least:.3g} to {self.most:.3g}"
        sign, limit = (">=", self.least) if self.most is None else ("<=", self.most)
        return f"{'ratio ' if self.of_ratio else ''}{sign} {limit:,g}"

    def met_by(self, value: float) -> bool:
        """Tell whether a value reaches it.

        Args:
            value: any.

        Returns:
            Whether it does.
        """
        return (self.least is None or value >= self.least) and (self.most is None or value <= self.most)


@dataclass(frozen=True)
class Result:
    """One line of the table.

    Attributes:
        what: was measured.
        unit: of both sides.
        ours: of this package.
        control: of the field's way, where there is one.
        goal: what is to be reached, where something is.
        note: what else a reader must know.
    """

    what: str
    unit: str
    ours: Spread
    control: Spread | None = None
    goal: Goal | None = None
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """How many times better ours is, of the medians; None without a control, and of nothing."""
        if self.control is None:
            return None
        ours, theirs = self.ours.median, self.control.median
        if not ours or not theirs:
            return None
        return ours / theirs if self.unit in HIGHER_IS_BETTER else theirs / ours

    @property
    def met(self) -> bool | None:
        """Whether the goal is reached; None without one."""
        if self.goal is None:
            return None
        value = self.ratio if self.goal.of_ratio else self.ours.median
        return value is not None and self.goal.met_by(value)


def timed(call: Callable[[], object], device: torch.device) -> Side:
    """Make of a call one that tells how long it took.

    Args:
        call: what is measured, whole.
        device: that is waited for before and after.

    Returns:
        A call that gives seconds.
    """

    def measured() -> float:
        begun = clock(device)
        call()
        return clock(device) - begun

    return measured


def interleaved(sides: Mapping[str, Side], repeats: int) -> dict[str, Spread]:
    """Measure in turn, forwards and backwards, so that what slows the machine for a while slows all alike.

    Args:
        sides: what is measured, by name.
        repeats: of each.

    Returns:
        Seconds by name.
    """
    found: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(repeats):
        for name in reversed(found) if number % 2 else found:
            found[name].append(sides[name]())
    return {name: Spread(tuple(values)) for name, values in found.items()}


def rates(seconds: Spread, work: float) -> Spread:
    """Turn seconds into pieces of work a second.

    Args:
        seconds: that the work took.
        work: pieces.

    Returns:
        Pieces a second.
    """
    return Spread(tuple(work / value for value in seconds.values))


def seconds_of(call: Callable[[], object]) -> float:
    """Time a call that leaves nothing on a device.

    Args:
        call: what is measured.

    Returns:
        Seconds.
    """
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """Fit cost = a size^b by least squares on logarithms.

    Args:
        sizes: two different ones at least, positive.
        costs: as many, positive.

    Returns:
        b: 1 where cost grows as size does, less where a fixed cost is large beside it.
    """
    return slope([math.log(size) for size in sizes], [math.log(cost) for cost in costs])[0]


def slope(places: Sequence[float], values: Sequence[float]) -> tuple[float, float]:
    """Fit a line by least squares.

    Args:
        places: two different ones at least.
        values: as many.

    Returns:
        Its slope, and its value at 0: of costs the one that is paid whatever the size.
    """
    found = statistics.linear_regression(places, values)
    return found.slope, found.intercept
