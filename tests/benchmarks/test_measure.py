import pytest

from benchmarks.measure import Goal, Result, Spread, exponent, interleaved, rates, slope


@pytest.mark.parametrize("power", [0.0, 1.0, 1.5])
def test_finds_the_exponent_of_a_power(power: float) -> None:
    sizes = [1, 4, 16]
    assert exponent(sizes, [3 * size**power for size in sizes]) == pytest.approx(power)


def test_a_fixed_cost_lowers_the_exponent_and_is_told_apart() -> None:
    sizes = [10, 40, 160]
    costs = [5 + 0.1 * size for size in sizes]
    assert exponent(sizes, costs) < 0.6
    assert slope(sizes, costs) == (pytest.approx(0.1), pytest.approx(5))


def test_measures_in_turn_forwards_and_backwards() -> None:
    asked: list[str] = []

    def side(name: str, seconds: float) -> float:
        asked.append(name)
        return seconds

    found = interleaved({"ours": lambda: side("ours", 1.0), "control": lambda: side("control", 2.0)}, 3)
    assert asked == ["ours", "control", "control", "ours", "ours", "control"]
    assert {name: spread.values for name, spread in found.items()} == {"ours": (1, 1, 1), "control": (2, 2, 2)}


@pytest.mark.parametrize(("unit", "ratio"), [("s", 0.5), ("images/s", 2.0)])
def test_ratio_is_above_one_where_ours_is_better_and_there_is_none_to_nothing(unit: str, ratio: float) -> None:
    assert Result("", unit, Spread((4.0, 1.0, 90.0)), Spread((2.0,))).ratio == pytest.approx(ratio)
    assert Result("", "s", Spread((0.0,)), Spread((2.0,))).ratio is None
    assert rates(Spread((2.0, 4.0)), 8).values == (4, 2)


@pytest.mark.parametrize(
    ("goal", "met"),
    [
        (Goal(least=2, of_ratio=True), True),
        (Goal(least=2.1, of_ratio=True), False),
        (Goal(most=3), True),
        (Goal(most=2.9), False),
        (Goal(-1, 4), True),
        (None, None),
    ],
)
def test_goals_are_of_the_median_or_of_the_ratio(goal: Goal | None, met: bool | None) -> None:
    assert Result("", "s", Spread((3.0,)), Spread((6.0,)), goal).met is met
