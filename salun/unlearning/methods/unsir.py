from collections.abc import Iterator
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

from salun.data.images import Batch, Images
from salun.unlearning import Around, NonNegativeFloat, PositiveFloat, PositiveInt, Task, TrainingConfig, method


@method(training=TrainingConfig(lr=2e-3, epochs=1, batch_size=64, optimizer="adam", weight_decay=0.0), classwise=True)
def unsir(
    task: Task,
    *,
    repair_lr: Annotated[PositiveFloat, Around(30)] = 1e-3,
    repair_epochs: PositiveInt = 1,
    noise_lr: Annotated[PositiveFloat, Around(10)] = 0.1,
    noise_steps: PositiveInt = 25,
    noise_penalty: NonNegativeFloat = 0.1,
    noise_batches: PositiveInt = 20,
    samples_per_class: PositiveInt = 1000,
) -> None:
    """Impair with noise that the base model takes least for the class to forget, then repair on retain images.

    The forget images themselves are never looked at, only their class.

    Args:
        task: what to unlearn.
        lr: learning rate of the impair step.
        epochs: passes of the impair step.
        repair_lr: learning rate of the repair step.
        repair_epochs: passes of the repair step.
        batch_size: images a step, and noise images a class.
        noise_lr: learning rate of Adam on the noise.
        noise_steps: steps that the noise is trained for.
        noise_penalty: of the noise's squared norm.
        noise_batches: how often the noise images of a class are seen in an impair epoch.
        samples_per_class: retain images of a class in both steps, at most, drawn once.
        optimizer: of both steps: "sgd", "adam" or "adamw".
        momentum: of SGD; the first beta of Adam.
        schedule: of the learning rate, in each of the two steps.

    Equation:
        noise = argmin over N of -CE(N, forgotten class) + penalty * mean of norm(N)^2; impair: L = CE(noise under the
        forgotten class and retain samples); repair: L = CE(retain samples).

    Deviations:
        The noise is trained against the model in evaluation mode, so that it leaves the model as it is; the code has
        training mode, where noise moves the running statistics. With several forgotten classes the code labels all
        noise with the first; here each class's noise has its own. Retain samples are drawn at random, not the
        first of each class. No plateau schedule. The noise steps are those that later comparisons use (Foster, Schoepf
        and Brintrup, https://arxiv.org/abs/2308.07707), with learning rates of 1e-4 and batches of 256, which leave a
        model of a few thousand images damaged; the authors' CIFAR-10 notebook has 0.02, 0.01 and 40 steps.

    Source:
        Tarun, Chundawat, Mandal and Kankanhalli, "Fast Yet Effective Machine Unlearning", IEEE Transactions on Neural
        Networks and Learning Systems, 2023, https://arxiv.org/abs/2111.08947, equations 1 and 2.
    """
    noise, labels = _make_noise(task, task.training.batch_size, noise_lr, noise_steps, noise_penalty)
    samples = _draw_samples(task, samples_per_class)
    task.fit(lambda epoch: _noisy_batches(task, noise, labels, samples, noise_batches))
    task.fit(lambda epoch: task.batches(samples), lr=repair_lr, epochs=repair_epochs)


def _make_noise(task: Task, count: int, lr: float, steps: int, penalty: float) -> tuple[Tensor, Tensor]:
    """Find (N, C, H, W) inputs that the model takes least for the forgotten classes, and their labels."""
    generator, model = task.generator, task.frozen()
    shape = next(iter(task.forget.batches(1))).x.shape[1:]
    labels = torch.tensor(task.forgotten, device=task.forget.device).repeat_interleave(count)
    drawn = torch.randn(len(labels), *shape, generator=generator, device=generator.device).to(labels.device)
    found = []
    for start, label in zip(drawn.split(count), labels.split(count), strict=True):
        noise = start.clone().requires_grad_()
        adam = torch.optim.Adam([noise], lr=lr)
        for _ in range(steps):
            if task.passes.left < 2 * count:
                break
            adam.zero_grad()
            error = F.cross_entropy(task.logits(noise, model), label)
            (penalty * noise.square().flatten(1).sum(1).mean() - error).backward()
            adam.step()
        found.append(noise.detach())
    return torch.cat(found), labels


def _draw_samples(task: Task, most: int) -> Images:
    """Draw retain images at random, of each class as many as there are or the most that are asked for."""
    generator = task.generator
    order = torch.randperm(len(task.retain), generator=generator, device=generator.device).to(task.retain.device)
    shuffled = task.retain.labels[order]
    chosen = [order[shuffled == label][:most] for label in range(task.classes)]
    return task.retain.take(torch.cat(chosen))


def _noisy_batches(task: Task, noise: Tensor, labels: Tensor, samples: Images, copies: int) -> Iterator[Batch]:
    """Mix copies of the noise with samples; positions count the copies first, then the samples."""
    repeated, generator = copies * len(noise), task.generator
    order = torch.randperm(repeated + len(samples), generator=generator, device=generator.device).to(noise.device)
    chosen = order.split(task.training.batch_size)
    # Read once an epoch: where each batch knows how much of it is noise, no step waits for the device.
    counts = torch.stack([(places < repeated).sum() for places in chosen]).tolist()
    for places, count in zip(chosen, counts, strict=True):
        noise_first = places[(places >= repeated).to(torch.uint8).argsort(stable=True)]
        at, of_samples = noise_first[:count], noise_first[count:]
        x, y = noise[at % len(noise)], labels[at % len(noise)]
        if len(of_samples):
            batch = next(task.batches(samples.take(of_samples - repeated)))
            x, y = torch.cat([x, batch.x]), torch.cat([y, batch.y])
            at = torch.cat([at, of_samples[batch.at]])
        yield Batch(x, y, at)
