import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from salun.unlearning import (
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Share,
    Task,
    TrainingConfig,
    method,
)
from salun.unlearning.freezing import training_weights
from salun.unlearning.gradients import trainable
from salun.unlearning.layers import head_layers, reset_layers
from salun.unlearning.noise import add_noise, noise_source

_NORMALISATIONS = (_NormBase, nn.LayerNorm, nn.GroupNorm)


@method(training=TrainingConfig(lr=0.03, epochs=9, batch_size=64))
def rni(
    task: Task,
    *,
    fine_epochs: NonNegativeInt = 4,
    fine_lr: PositiveFloat = 0.03,
    quiet_epochs: NonNegativeInt = 1,
    tensors: PositiveInt = 9,
    noise_share: Share = 0.7,
    noise_std: NonNegativeFloat = 0.04,
) -> None:
    """Re-initialise the head, and train a few random tensors of weights an epoch, to which noise was added (RNI).

    Args:
        task: what to unlearn.
        lr: learning rate of the first epochs, in which few tensors of weights are trained.
        epochs: passes over the retain set, of which the last ones train all weights.
        fine_epochs: how many of the epochs train all weights, without noise.
        fine_lr: learning rate of those.
        quiet_epochs: epochs at first without noise.
        tensors: tensors of weights that each of the first epochs draws and trains, beside all normalisations.
        noise_share: of the drawn tensors that get noise, unless an earlier epoch drew them.
        noise_std: standard deviation of the noise.
        schedule: has no effect, as no training is longer than an epoch.

    Equation:
        theta_head is drawn anew; in each of the first epochs S = `tensors` random tensors of weights, W <- W + e,
        e ~ N(0, std^2), for a share of S, then L = CE(retain) over S and all normalisations; in the last ones
        L = CE(retain) over all weights. Every epoch starts with an optimiser of its own.

    Deviations:
        The entry's learning rate is 2e-4, which leaves a model of a few thousand images damaged, of its last epochs
        2e-4, 2e-4, 2e-4 and 1e-3; here they have one. It tells
        normalisations by "bn" in their name, so that those of a ResNet's shortcuts are drawn too; here by their kind.
        The share is of the drawn tensors, where there are fewer than `tensors`.

    Source:
        Cadet, Borovykh, Malekzadeh, Ahmadi-Abhari and Haddadi, "Deep Unlearn: Benchmarking Machine Unlearning for Image
        Classification", 2024, https://arxiv.org/abs/2410.01276, RNI, the seventh entry of the NeurIPS 2023 unlearning
        competition; other settings of its code.
    """
    reset_layers(head_layers(task.model), (task.untrained or task.fresh)())
    norms, others = _parted(task.model)
    source, epochs = noise_source(task), task.training.epochs
    seen: set[int] = set()
    for epoch in range(epochs):
        if task.passes.exhausted:
            break
        if epoch >= epochs - fine_epochs:
            task.fit(lambda _: task.batches(task.retain), lr=fine_lr, epochs=1)
            continue
        order = torch.randperm(len(others), generator=source, device=source.device).tolist()
        places = order[:tensors]
        if epoch >= quiet_epochs:
            noisy = places[: int(noise_share * len(places))]
            add_noise(task, [others[place] for place in noisy if place not in seen], noise_std, source)
        seen |= set(places)
        with training_weights(task.model, [*norms, *(others[place] for place in places)]):
            task.fit(lambda _: task.batches(task.retain), epochs=1)


def _parted(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Part the weights of normalisations from all others."""
    layers = (module for module in model.modules() if isinstance(module, _NORMALISATIONS))
    norms = {id(weight) for layer in layers for weight in layer.parameters(recurse=False)}
    weights = list(trainable(model).values())
    return [each for each in weights if id(each) in norms], [each for each in weights if id(each) not in norms]
