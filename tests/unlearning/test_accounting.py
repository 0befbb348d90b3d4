import math

import numpy as np
import pytest

from salun.unlearning.accounting import NoisySteps, epsilon_of


def test_one_step_without_decay_is_the_gaussian_mechanism() -> None:
    plan = NoisySteps(lr=0.1, decay=0.0, init_clip=3.0, step_clip=2.0)
    assert plan.rate(0.5, 1) == pytest.approx((2 * 3 + 2 * 0.1 * 2) ** 2 / (2 * 0.5**2))


def test_without_decay_the_noise_adds_up_and_the_distance_too() -> None:
    plan = NoisySteps(lr=0.1, decay=0.0, init_clip=3.0, step_clip=2.0)
    assert plan.rate(0.5, 20) == pytest.approx((2 * 3 + 2 * 0.1 * 2 * 20) ** 2 / (2 * 20 * 0.5**2))


@pytest.mark.parametrize("steps", [1, 7, 300])
def test_with_decay_it_is_the_sum_of_the_geometric_series(steps: int) -> None:
    lr, decay, start, clip, sigma = 0.01, 50.0, 20.0, 10.0, 1.3
    kept = 1 - lr * decay
    apart = 2 * start * kept**steps + 2 * clip / decay * (1 - kept**steps)
    noise = sigma**2 * (1 - kept ** (2 * steps)) / (lr * decay * (2 - lr * decay))
    assert NoisySteps(lr, decay, start, clip).rate(sigma, steps) == pytest.approx(apart**2 / (2 * noise))


def test_a_decay_that_takes_all_leaves_the_last_step() -> None:
    assert NoisySteps(0.5, 2.0, 100.0, 3.0).rate(1.0, 9) == pytest.approx((2 * 0.5 * 3) ** 2 / 2)


@pytest.mark.parametrize("rate", [1e-4, 0.02, 1.0, 30.0])
@pytest.mark.parametrize("delta", [1e-2, 1e-5, 1e-9])
def test_epsilon_is_the_least_over_all_orders(rate: float, delta: float) -> None:
    orders = 1 + np.logspace(-4, 6, 200_000)
    bounds = orders * rate + np.log(1 - 1 / orders) - (math.log(delta) + np.log(orders)) / (orders - 1)
    found = epsilon_of(rate, delta)
    assert found == pytest.approx(max(0.0, bounds.min()), rel=1e-4)
    assert found <= rate + 2 * math.sqrt(rate * math.log(1 / delta))


@pytest.mark.parametrize("rate", [0.02, 0.5, 5.0])
def test_epsilon_is_no_less_than_that_of_the_gaussian_mechanism_itself(rate: float) -> None:
    def tail(x: float) -> float:
        return math.erfc(x / math.sqrt(2)) / 2

    epsilon, distance = epsilon_of(rate, 1e-5), math.sqrt(2 * rate)
    exceeded = tail(epsilon / distance - distance / 2) - math.exp(epsilon) * tail(epsilon / distance + distance / 2)
    assert exceeded <= 1e-5


@pytest.mark.parametrize("epsilon", [1e-6, 0.1, 1.0, 50.0])
def test_the_noise_is_what_the_guarantee_takes(epsilon: float) -> None:
    plan = NoisySteps(0.01, 50.0, 20.0, 10.0)
    sigma = plan.sigma(epsilon, 1e-5, 11)
    assert epsilon_of(plan.rate(sigma, 11), 1e-5) == pytest.approx(epsilon, rel=1e-4)
    assert epsilon_of(plan.rate(1.01 * sigma, 11), 1e-5) < epsilon


@pytest.mark.parametrize(
    ("plan", "steps"),
    [
        (NoisySteps(0.01, 50.0, 20.0, 10.0), 11),  # ln(2 * 50 * 20 / 10) / (0.01 * 50), rounded up
        (NoisySteps(0.01, 0.0, 20.0, 10.0), 200),
        (NoisySteps(0.01, 0.1, 20.0, 10.0), 200),
        (NoisySteps(0.5, 0.0, 1.0, 10.0), 1),
    ],
)
def test_steps_are_those_of_the_authors_code(plan: NoisySteps, steps: int) -> None:
    assert plan.fewest() == steps
