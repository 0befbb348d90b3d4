"""Batch normalisation by the statistics of a batch that several processes hold parts of."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode

_Total = Callable[[Tensor], Tensor]


class PooledNorms(TorchFunctionMode):
    """Lets every batch normalisation in training use mean and variance over the batches of all processes.

    It takes the place of torch's function, not of layers, so that it serves whatever layer calls that function, and the
    model stays as it is. Torch's own `SyncBatchNorm` takes no tensors of the CPU.
    """

    def __init__(self, total: _Total, counted: bool = True) -> None:
        """Prepare for forward passes.

        Args:
            total: adds up a tensor over all processes, each of which calls it as often.
            counted: whether this process's images belong to the batch; else they are normalised by the others' mean
                and variance, and nothing comes of them.
        """
        super().__init__()
        self.total, self.counted = total, counted

    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call a function of torch, or what stands in for it."""
        if func is not F.batch_norm:
            return func(*args, **(kwargs or {}))
        return self.batch_norm(*args, **(kwargs or {}))

    def batch_norm(
        self,
        x: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        """Normalise as `torch.nn.functional.batch_norm` does, in training over all processes.

        Args:
            x: (B, C, ...), at least one image.
            running_mean: (C,), is updated in training; None for none.
            running_var: (C,), likewise.
            weight: (C,); None for ones.
            bias: (C,); None for zeros.
            training: whether the batch's own statistics are used.
            momentum: share of the running statistics that the batch's replace.
            eps: is added to the variance.

        Returns:
            As x.
        """
        if not training:
            return F.batch_norm(x, running_mean, running_var, weight, bias, False, momentum, eps)
        mean, var, count = _pooled_statistics(x, self.total, self.counted)
        if running_mean is not None and running_var is not None:
            running_mean.mul_(1 - momentum).add_(mean.to(running_mean.dtype), alpha=momentum)
            unbiased = var * (count / (count - 1))
            running_var.mul_(1 - momentum).add_(unbiased.to(running_var.dtype), alpha=momentum)
        if weight is None:
            weight = torch.ones_like(mean, dtype=x.dtype if x.dtype == torch.float64 else torch.float32)
        bias = torch.zeros_like(weight) if bias is None else bias
        statistics = (mean.to(weight.dtype), var.to(weight.dtype), count.to(weight.dtype))
        found: Tensor = _PooledNorm.apply(x, weight, bias, *statistics, eps, self.total, self.counted)
        return found


@torch.no_grad()
def _pooled_statistics(x: Tensor, total: _Total, counted: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Find mean and variance of each channel over all processes."""
    channels = x.shape[1]
    values = x if x.dtype == torch.float64 else x.float()
    # As torch's own normalisation does; on processors its `var_mean` takes fifty times as long.
    mean, var = (found.double() for found in torch.batch_norm_update_stats(values, None, None, 0.0))
    own = x.numel() // channels if counted else 0
    sums = total(torch.cat([mean, var + mean.square(), torch.ones_like(mean[:1])]) * own)
    mean, square = (sums[:-1] / sums[-1]).chunk(2)
    return mean, (square - mean.square()).clamp_min(0), sums[-1]


class _PooledNorm(torch.autograd.Function):
    """Normalisation by given statistics, with the gradient that flows through them."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        mean: Tensor,
        var: Tensor,
        count: Tensor,
        eps: float,
        total: _Total,
        counted: bool,
    ) -> Tensor:
        """Normalise."""
        ctx.save_for_backward(x, weight, mean, var, count)
        ctx.eps, ctx.total, ctx.counted = eps, total, counted
        return torch.batch_norm(x, weight, bias, mean, var, False, 0.0, eps, torch.backends.cudnn.enabled)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Find the gradients."""
        x, weight, mean, var, count = ctx.saved_tensors
        statistics, wanted = (mean, var, None, None), (True, True, True)
        straight, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
            gradient, x, weight, *statistics, False, ctx.eps, wanted
        )
        every_weight, every_bias = ctx.total(torch.stack([of_weight, of_bias]))
        if ctx.counted:
            scale = (var + ctx.eps).rsqrt()
            slope = weight * scale.square() * every_weight / count
            offset = weight * scale * every_bias / count - slope * mean
            shape = (1, -1) + (1,) * (x.dim() - 2)
            straight.sub_(torch.addcmul(offset.view(shape), slope.view(shape), x))
        return straight, of_weight, of_bias, *(None,) * 6
