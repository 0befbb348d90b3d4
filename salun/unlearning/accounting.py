"""What noisy steps guarantee: the accounting of certified unlearning."""

import math
from dataclasses import dataclass

import numpy as np
import scipy

_LEAST, _MOST = 1e-30, 1e30


@dataclass(frozen=True)
class NoisySteps:
    """Steps w <- w - lr (g + decay w) + noise from a start of bounded norm, with gradients g of bounded norm.

    Attributes:
        lr: learning rate.
        decay: L2 penalty, at most 1 / lr.
        init_clip: largest norm of the weights at the start.
        step_clip: largest norm of a gradient.
    """

    lr: float
    decay: float
    init_clip: float
    step_clip: float

    def fewest(self) -> int:
        """Count the steps after which more of them hardly lower the noise that is needed, as the authors' code does."""
        steps = math.ceil(self.init_clip / (self.step_clip * self.lr))
        apart = 2 * self.decay * self.init_clip / self.step_clip
        sooner = math.ceil(math.log(apart) / (self.lr * self.decay)) if apart > 1 else steps
        return max(1, min(steps, sooner))

    def rate(self, sigma: float, steps: int) -> float:
        """Bound how far the weights of two starts are apart after the steps, whatever the starts.

        Args:
            sigma: standard deviation of the noise of a step.
            steps: their number.

        Returns:
            The Rényi divergence of order a of the two is at most a times this.

        Source:
            Feldman, Mironov, Talwar and Thakurta, "Privacy Amplification by Iteration", FOCS 2018,
            https://arxiv.org/abs/1808.06651; as Koloskova et al., https://arxiv.org/abs/2506.06985, use it.
        """
        kept = (1 - self.lr * self.decay) ** np.arange(steps + 1, dtype=np.float64)
        apart = 2 * self.init_clip * kept[-1] + 2 * self.lr * self.step_clip * kept[:-1].sum()
        return float(apart**2 / (2 * sigma**2 * (kept[:-1] ** 2).sum()))

    def sigma(self, epsilon: float, delta: float, steps: int) -> float:
        """Find the noise by which the steps guarantee (epsilon, delta)."""
        bounds = math.log(_LEAST), math.log(_MOST)
        exponent = scipy.optimize.brentq(lambda x: epsilon_of(math.exp(x), delta) - epsilon, *bounds)
        return math.sqrt(self.rate(1.0, steps) / math.exp(exponent))


def epsilon_of(rate: float, delta: float) -> float:
    """Turn a bound on Rényi divergences into one on privacy loss.

    Args:
        rate: divergences of order a are at most a times this.
        delta: probability with which the loss may be larger, in (0, 1).

    Returns:
        The smallest epsilon over all orders.

    Source:
        Canonne, Kamath and Steinke, "The Discrete Gaussian for Differential Privacy", NeurIPS 2020,
        https://arxiv.org/abs/2004.00010, proposition 12.
    """

    def bound(exponent: float) -> float:
        beyond = math.exp(exponent)  # the order less one
        order = 1 + beyond
        return order * rate + math.log(beyond / order) - (math.log(delta) + math.log(order)) / beyond

    found = scipy.optimize.minimize_scalar(bound, bounds=(-20.0, 40.0), method="bounded", options={"xatol": 1e-10})
    return max(0.0, float(found.fun))
