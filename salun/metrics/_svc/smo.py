"""Sequential minimal optimisation on the very path that libsvm takes, compiled by numba.

libsvm stops at a tolerance of 1e-3, so another solver, however exact, calls a few targets otherwise. Here every choice
of a pair, every rounding and every shrinking of the active set is libsvm's; only the price of a step changes. The
gradient is kept times the label, H = y G, which takes all signs out of the passes over it. Kernel columns come from a
vectorised exponential in double precision; an entry too near to the middle of two floats to be rounded safely is
computed as libsvm does, by the same functions of BLAS and the C library. Equal points share their columns.
"""

import math
from typing import NamedTuple

import numpy as np

from salun.metrics._svc.intrinsics import bits_of, blas_dot, compiler, double_of, larger

BLOCK = 512
_TOLERANCE, _TINY = 1e-3, 1e-12
_LOG2E, _MAGIC = 1.4426950408889634, 6755399441055744.0
_LN2_HIGH, _LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10
NORMAL, _NOTHING = 87.0, 105.0
_LOST_BITS, HALF = (1 << 29) - 1, 1 << 28
ULPS = 1 << 13


# No NaN comes, and zeros are compared without their sign: maxima may be taken in vectors, while sums and
# products keep their order and rounding.
_compiled = compiler("nnan", "nsz")

# For what is not libsvm's to the last bit anyhow: a product may be added without being rounded.
_compiled_loosely = compiler("nnan", "nsz", "contract")


class Kernel(NamedTuple):
    """How entries of the kernel matrix are computed."""

    gamma: float  # of exp(-gamma |x - x'|^2)
    far: bool  # entries may be too small for a normal float
    doubt: int  # units of a double's last place around the middle of two floats, where libsvm's way is taken
    address: int  # of BLAS' ddot
    size: np.ndarray  # (2,) int32, the number of features and 1
    pair: np.ndarray  # (2, D) float64, room for two points
    products: np.ndarray  # (BLOCK,) float64, room for inner products


class State(NamedTuple):
    """The points in the order that shrinking has given them, and where the optimisation stands."""

    points: np.ndarray  # (D, L) float32
    squares: np.ndarray  # (L,) float64, squared lengths
    labels: np.ndarray  # (L,) float64, 1 or -1
    groups: np.ndarray  # (L,) int64, equal for equal points
    order: np.ndarray  # (L,) int64, where a point stood at the beginning
    alpha: np.ndarray  # (L,) float64, the dual variables
    slope: np.ndarray  # (L,) float64, label times gradient
    fixed: np.ndarray  # (L,) float64, label times the gradient's part from variables at the upper bound
    up: np.ndarray  # (L,) bool, label times alpha may grow
    low: np.ndarray  # (L,) bool, it may fall
    tops: np.ndarray  # largest -slope of a block of points that may grow


class Store(NamedTuple):
    """The columns of the kernel matrix that are kept, by group of equal points."""

    columns: np.ndarray  # (S, L) float32
    lengths: np.ndarray  # (S,) int64, how many entries are there
    owners: np.ndarray  # (S,) int64, the group
    slots: np.ndarray  # (G,) int64, by group, -1 where it has none
    turn: np.ndarray  # (1,) int64, the slot that is given away next


@_compiled_loosely
def _power(negative: float) -> float:
    """Compute e^x for -700 < x < 1 within 2,000 units in the last place, in a form that vectorises."""
    shifted = negative * _LOG2E + _MAGIC
    whole = shifted - _MAGIC
    rest = (negative - whole * _LN2_HIGH) - whole * _LN2_LOW
    value = 1 / 3628800 * rest + 1 / 362880
    value = value * rest + 1 / 40320
    value = value * rest + 1 / 5040
    value = value * rest + 1 / 720
    value = value * rest + 1 / 120
    value = value * rest + 1 / 24
    value = value * rest + 1 / 6
    value = value * rest + 0.5
    value = value * rest * rest + rest + 1.0
    scaled: float = double_of(bits_of(value) + (bits_of(shifted) << 52))
    return scaled


@_compiled
def _dot(points: np.ndarray, first: int, second: int, kernel: Kernel) -> float:
    """Compute the inner product of two points as libsvm does."""
    product = np.float64(points[0, first]) * np.float64(points[0, second])
    if len(points) > 1:
        for row in range(len(points)):
            kernel.pair[0, row] = points[row, first]
            kernel.pair[1, row] = points[row, second]
        product = blas_dot(kernel.address, kernel.size, kernel.pair[0], kernel.pair[1])
    return float(product)


@_compiled
def measure(state: State, kernel: Kernel) -> None:
    """Compute the squared lengths of all points as libsvm does."""
    for k in range(len(state.squares)):
        state.squares[k] = _dot(state.points, k, k, kernel)


@_compiled
def _exact_entries(column: np.ndarray, position: int, start: int, stop: int, state: State, kernel: Kernel) -> None:
    """Compute the entries in [start, stop) that are marked with -1 as libsvm does."""
    for other in range(start, stop):
        if column[other] < 0:
            product = _dot(state.points, position, other, kernel)
            distance = state.squares[position] + state.squares[other] - 2 * product
            column[other] = math.exp(-kernel.gamma * distance)


@_compiled_loosely
def _multiply(points: np.ndarray, position: int, start: int, stop: int, products: np.ndarray) -> None:
    """Compute inner products of a point with those in [start, stop), up to rounding in more than one dimension."""
    first, others = np.float64(points[0, position]), points[0, start:stop]
    for k in range(len(others)):
        products[k] = first * others[k]
    for row in range(1, len(points)):
        factor, others = np.float64(points[row, position]), points[row, start:stop]
        for k in range(len(others)):
            products[k] += factor * others[k]


@_compiled
def _fast_entries(column: np.ndarray, square: float, squares: np.ndarray, kernel: Kernel) -> int:
    """Compute entries from squared lengths and `kernel.products`, and count and mark with -1 those in doubt."""
    doubts, gamma, limit, products = 0, kernel.gamma, kernel.doubt, kernel.products[: len(column)]
    if not kernel.far:
        for k in range(len(column)):
            value = _power(-gamma * (square + squares[k] - 2 * products[k]))
            doubt = abs((bits_of(value) & _LOST_BITS) - HALF) <= limit
            column[k] = -1.0 if doubt else value
            doubts += doubt
        return doubts
    for k in range(len(column)):
        negative = -gamma * (square + squares[k] - 2 * products[k])
        value = _power(negative if negative > -NORMAL else -NORMAL)
        lost = (bits_of(value) & _LOST_BITS) - HALF
        doubt = (abs(lost) <= limit) | ((negative <= -NORMAL) & (negative > -_NOTHING))
        column[k] = -1.0 if doubt else value if negative > -NORMAL else 0.0
        doubts += doubt
    return doubts


@_compiled
def _fill(column: np.ndarray, position: int, start: int, stop: int, state: State, kernel: Kernel) -> None:
    """Compute entries [start, stop) of a position's column, bit for bit as libsvm does."""
    for begin in range(start, stop, BLOCK):
        end = min(begin + BLOCK, stop)
        _multiply(state.points, position, begin, end, kernel.products)
        if _fast_entries(column[begin:end], state.squares[position], state.squares[begin:end], kernel):
            _exact_entries(column, position, begin, end, state, kernel)


@_compiled
def _free_slot(store: Store, keep: int) -> int:
    """Take the next slot but one that is in use from its owner."""
    slot: int = store.turn[0]
    if slot == keep:
        slot = (slot + 1) % len(store.owners)
    store.turn[0] = (slot + 1) % len(store.owners)
    if store.owners[slot] >= 0:
        store.slots[store.owners[slot]] = -1
    store.lengths[slot] = 0
    return slot


@_compiled
def _fetch(position: int, length: int, keep: int, state: State, store: Store, kernel: Kernel) -> int:
    """Give the slot that holds the first entries of a position's column; slot `keep` stays as it is."""
    group = state.groups[position]
    slot: int = store.slots[group]
    if slot < 0:
        slot = _free_slot(store, keep)
        store.owners[slot], store.slots[group] = group, slot
    if store.lengths[slot] < length:
        _fill(store.columns[slot], position, store.lengths[slot], length, state, kernel)
        store.lengths[slot] = length
    return slot


@_compiled
def _forget(store: Store) -> None:
    """Empty the store, since the points have another order."""
    store.slots[:] = -1
    store.owners[:] = -1


@_compiled
def _advance(
    state: State, first: np.ndarray, second: np.ndarray, by_first: float, by_second: float, size: int
) -> tuple[float, float]:
    """Add multiples of two columns to the slopes."""
    highest = lowest = -np.inf
    for number, begin in enumerate(range(0, size, BLOCK)):
        end, top = min(begin + BLOCK, size), -np.inf
        slope, up, low = state.slope[begin:end], state.up[begin:end], state.low[begin:end]
        left, right = first[begin:end], second[begin:end]
        for k in range(len(slope)):
            slope[k] += left[k] * by_first + right[k] * by_second
        for k in range(len(slope)):
            top = larger(top, -slope[k] if up[k] else -np.inf)
            lowest = larger(lowest, slope[k] if low[k] else -np.inf)
        state.tops[number] = top
        highest = max(highest, top)
    return highest, lowest


@_compiled
def _extremes(state: State, size: int) -> tuple[float, float]:
    """Find what `_advance` returns, changing no slope."""
    nothing = np.zeros(size, np.float32)
    return _advance(state, nothing, nothing, 0.0, 0.0, size)


@_compiled
def _last_highest(state: State, highest: float, size: int) -> int:
    """Find the last point that may grow and has the largest -slope."""
    for number in range((size - 1) // BLOCK, -1, -1):
        if state.tops[number] == highest:
            for k in range(min((number + 1) * BLOCK, size) - 1, number * BLOCK - 1, -1):
                if state.up[k] and -state.slope[k] == highest:
                    return k
    return -1


@_compiled
def _gain(highest: float, slope: float, low: bool, entry: float) -> float:
    """Compute twice the decrease of the objective that pairing with a point brings, -1 where it may not be paired."""
    fall, distance = highest + slope, 2.0 - 2.0 * np.float64(entry)
    value = fall * fall / (distance if distance > 0 else _TINY)
    return value if low & (fall > 0) else -1.0


@_compiled
def _last_best(state: State, column: np.ndarray, highest: float, size: int) -> int:
    """Find the last point with the largest gain; -1 where there is none."""
    best, place = -0.5, -1
    for begin in range(0, size, BLOCK):
        end, top = min(begin + BLOCK, size), -1.0
        slope, low, entries = state.slope[begin:end], state.low[begin:end], column[begin:end]
        for k in range(len(slope)):
            top = larger(top, _gain(highest, slope[k], low[k], entries[k]))
        if top >= best:
            best, place = top, begin
    if place < 0:
        return -1
    for k in range(min(place + BLOCK, size) - 1, place - 1, -1):
        if _gain(highest, state.slope[k], state.low[k], column[k]) == best:
            return k
    return -1


@_compiled
def _choose(state: State, store: Store, kernel: Kernel, highest: float, lowest: float, size: int) -> tuple[int, int]:
    """Choose the two points to move; the second is -1 where nothing is left to gain."""
    if highest + lowest < _TOLERANCE:
        return -1, -1
    first = _last_highest(state, highest, size)
    if first < 0:
        return -1, -1
    slot = _fetch(first, size, -1, state, store, kernel)
    return first, _last_best(state, store.columns[slot], highest, size)


@_compiled
def _move_apart(first: float, second: float, step: float, bound: float) -> tuple[float, float]:
    """Move two variables of different labels by the same step, within [0, bound], their difference kept."""
    difference, first, second = first - second, first + step, second + step
    if difference > 0:
        if second < 0:
            first, second = difference, 0.0
        if first > bound:
            first, second = bound, bound - difference
    else:
        if first < 0:
            first, second = 0.0, -difference
        if second > bound:
            first, second = bound + difference, bound
    return first, second


@_compiled
def _move_together(first: float, second: float, step: float, bound: float) -> tuple[float, float]:
    """Move two variables of one label by opposite steps, within [0, bound], their sum kept."""
    total, first, second = first + second, first - step, second + step
    if total > bound:
        if first > bound:
            first, second = bound, total - bound
        if second > bound:
            first, second = total - bound, bound
    else:
        if second < 0:
            first, second = total, 0.0
        if first < 0:
            first, second = 0.0, total
    return first, second


@_compiled
def _settle(state: State, position: int, value: float, bound: float) -> int:
    """Set a variable, and tell by how much the number of those at the upper bound changed."""
    rising = state.labels[position] > 0
    before = not (state.up if rising else state.low)[position]
    full, empty = value >= bound, value <= 0 and value < bound
    state.alpha[position] = value
    state.up[position] = not (full if rising else empty)
    state.low[position] = not (empty if rising else full)
    return int(full) - int(before)


@_compiled
def _fix(state: State, store: Store, kernel: Kernel, position: int, change: int, bound: float, keep: int) -> None:
    """Count a variable that came to its upper bound, or left it, into the fixed part of the gradient."""
    column = store.columns[_fetch(position, len(state.alpha), keep, state, store, kernel)]
    weight = change * bound * state.labels[position]
    for k in range(len(column)):
        state.fixed[k] += weight * column[k]


@_compiled
def _update(
    state: State, store: Store, kernel: Kernel, first: int, second: int, bound: float, size: int
) -> tuple[float, float]:
    """Move two points, and give what `_advance` returns."""
    i = _fetch(first, size, -1, state, store, kernel)
    j = _fetch(second, size, i, state, store, kernel)
    labels, slope, alpha = state.labels, state.slope, state.alpha
    distance = 2.0 - 2.0 * np.float64(store.columns[i, second])
    curvature = distance if distance > 0 else _TINY
    old = alpha[first], alpha[second]
    if labels[first] != labels[second]:
        step = (-labels[first] * slope[first] - labels[second] * slope[second]) / curvature
        new = _move_apart(old[0], old[1], step, bound)
    else:
        step = (labels[first] * slope[first] - labels[second] * slope[second]) / curvature
        new = _move_together(old[0], old[1], step, bound)
    changes = _settle(state, first, new[0], bound), _settle(state, second, new[1], bound)
    by_first, by_second = labels[first] * (new[0] - old[0]), labels[second] * (new[1] - old[1])
    found = _advance(state, store.columns[i], store.columns[j], by_first, by_second, size)
    if changes[0]:
        _fix(state, store, kernel, first, changes[0], bound, j)
    if changes[1]:
        _fix(state, store, kernel, second, changes[1], bound, -1)
    return found


@_compiled
def _restore(state: State, store: Store, kernel: Kernel, size: int) -> None:
    """Compute the slopes of the points that are not active."""
    for k in range(size, len(state.slope)):
        state.slope[k] = state.fixed[k] - state.labels[k]
    for position in range(size if size < len(state.slope) else 0):
        if state.up[position] and state.low[position]:
            column = store.columns[_fetch(position, len(state.slope), -1, state, store, kernel)]
            weight = state.alpha[position] * state.labels[position]
            for k in range(size, len(state.slope)):
                state.slope[k] += weight * column[k]


@_compiled
def _partition(idle: np.ndarray) -> tuple[np.ndarray, int]:
    """Exchange idle points with active ones from the end, as libsvm does."""
    order, size, position = np.arange(len(idle)), len(idle), 0
    while position < size:
        if idle[order[position]]:
            size -= 1
            while size > position and idle[order[size]]:
                size -= 1
            order[position], order[size] = order[size], order[position]
        position += 1
    return order, size


@_compiled
def _shrink(state: State, store: Store, highest: float, lowest: float, size: int) -> int:
    """Put the points that will most likely stay at their bound behind the others, and count the others."""
    slope = state.slope[:size]
    idle = (~state.up[:size] & (-slope > highest)) | (~state.low[:size] & (slope > lowest))
    order, active = _partition(idle)
    if np.all(order == np.arange(size)):
        return active
    for row in range(len(state.points)):
        state.points[row, :size] = state.points[row, :size][order]
    for values in (state.squares, state.labels, state.alpha, state.slope, state.fixed):
        values[:size] = values[:size][order]
    for places in (state.groups, state.order):
        places[:size] = places[:size][order]
    for flags in (state.up, state.low):
        flags[:size] = flags[:size][order]
    _forget(store)
    return active


@_compiled
def _offset(state: State) -> float:
    """Compute the decision function's offset."""
    count, total, least, most = 0, 0.0, np.inf, -np.inf
    for k in range(len(state.slope)):
        if state.up[k] and state.low[k]:
            count, total = count + 1, total + state.slope[k]
        elif state.up[k]:
            least = min(least, state.slope[k])
        else:
            most = max(most, state.slope[k])
    return total / count if count else (least + most) / 2


@_compiled
def optimise(state: State, store: Store, kernel: Kernel, bound: float) -> tuple[float, int]:
    """Solve the dual problem from alpha = 0.

    Args:
        state: the points in their first order; the solution stands there in the last.
        store: an empty one.
        kernel: how entries are computed.
        bound: C.

    Returns:
        The decision function's offset and the number of steps.
    """
    size = len(state.alpha)
    active, often, restored, steps = size, min(size, 1000), False, 0
    counter = often + 1
    highest, lowest = _extremes(state, active)
    while True:
        counter -= 1
        if counter == 0:
            counter = often
            if not restored and highest + lowest <= 10 * _TOLERANCE:
                restored = True
                _restore(state, store, kernel, active)
                active = size
            active = _shrink(state, store, highest, lowest, active)
            highest, lowest = _extremes(state, active)
        first, second = _choose(state, store, kernel, highest, lowest, active)
        if second < 0:
            _restore(state, store, kernel, active)
            active = size
            highest, lowest = _extremes(state, active)
            first, second = _choose(state, store, kernel, highest, lowest, active)
            if second < 0:
                return _offset(state), steps
            counter = 1
        steps += 1
        highest, lowest = _update(state, store, kernel, first, second, bound, active)


@_compiled_loosely
def weigh(targets: np.ndarray, points: np.ndarray, weights: np.ndarray, kernel: Kernel) -> np.ndarray:
    """Compute the weighted sums of kernels, up to rounding: (D, K) targets, (S, D) points, (S,) weights."""
    sums = np.zeros(targets.shape[1])
    for begin in range(0, len(sums), BLOCK):
        end = min(begin + BLOCK, len(sums))
        part, distances = sums[begin:end], kernel.products[: end - begin]
        for number in range(len(points)):
            distances[:] = 0.0
            for row in range(len(targets)):
                others, value = targets[row, begin:end], points[number, row]
                for k in range(len(part)):
                    distances[k] += (others[k] - value) * (others[k] - value)
            for k in range(len(part)):
                negative = max(-kernel.gamma * distances[k], -700.0)
                part[k] += weights[number] * _power(negative)
    return sums


@_compiled
def weigh_exactly(target: np.ndarray, points: np.ndarray, weights: np.ndarray, offset: float, kernel: Kernel) -> float:
    """Compute the decision function of one target as libsvm does: (D,) target, (S, D) points, (S,) weights."""
    total = 0.0
    for number in range(len(points)):
        kernel.pair[0] = target - points[number]
        distance = blas_dot(kernel.address, kernel.size, kernel.pair[0], kernel.pair[0])
        total += weights[number] * math.exp(-kernel.gamma * distance)
    return total - offset
