"""How fast a model learns again what it was to forget."""

import math
from collections.abc import Iterable
from copy import deepcopy

from torch import nn

from salun.data.images import Batch, Images
from salun.device import seeded, seeded_globally
from salun.metrics import Models, Value, metric
from salun.training import Recipe, accuracy, fit, predict

MOST_EPOCHS = 50
SLOWER = 10


@metric("relearn_time", unit="epochs", cost="weights", against=("base",))
def relearn_time(models: Models) -> Value:
    """Epochs of training on the forget set after which a copy of the model is as accurate on it as the base model.

    Formula:
        The least number of epochs e with a_f(copy after e epochs) >= a_f(base model), with a_f the accuracy on the
        forget set in evaluation mode, read before the first and after each epoch; no margin is given. The copy is
        trained on the forget set alone by SGD with batch size, momentum, weight decay and precision of the base
        model's recipe, at a tenth of its learning rate, held constant. 50 means "at least 50".

    Cannot see:
        Anything where it is 0: a model that never lost the forget set's accuracy, be it retrained or not. Nor what
        the retain set loses meanwhile. It moves in steps of one epoch, is coarse on large forget sets, and depends on
        the learning rate; a recipe of Adam gives a rate that SGD learns slowly with.

    Args:
        models: the model, the base model, the forget images and the recipe.

    Returns:
        Epochs from 0 to 50; good when it equals the retrained model's: fewer tell of traces that are left, more of
        a model that does worse than one that never saw the images. None of an empty forget set, and where a model's
        logits are no numbers.

    Source:
        Golatkar et al., "Forgetting Outside the Box", ECCV 2020, whose code trains on all images until the loss on
        the forget set is below a threshold; to the base model's accuracy as in the anamnesis index of Chundawat et
        al., "Zero-Shot Machine Unlearning", IEEE TIFS 2023, which counts mini-batches and allows a margin.
    """
    if not len(models.forget):
        return None
    images = models.forget.take(models.forget.rows.argsort(stable=True))
    goal, start = (accuracy(predict(model, images)) for model in (models.base, models.model))
    if math.isnan(goal + start):
        return None
    return 0.0 if start >= goal else float(epochs_to(goal, deepcopy(models.model), images, models.recipe, models.seed))


def epochs_to(goal: float, model: nn.Module, images: Images, recipe: Recipe, seed: int) -> int:
    """Train a model until it reaches an accuracy on the images that it is trained on.

    Args:
        goal: accuracy, a fraction in [0, 1] that the model has not reached.
        model: is trained in place, frozen weights too.
        images: what it learns.
        recipe: batch size, momentum, weight decay, precision and, ten times too large, learning rate.
        seed: of the order, the augmentation and the model's own dropout.

    Returns:
        Epochs, from 1 to 50.
    """
    generator = seeded(seed, images.device)
    given = 0

    def until_there(epoch: int) -> Iterable[Batch]:
        # All epochs are of one training, which keeps its momentum; once the goal is reached no more batches come.
        nonlocal given
        if epoch > given or (epoch and accuracy(predict(model, images)) >= goal):
            return ()
        given = epoch + 1
        return images.batches(recipe.batch_size, generator)

    with seeded_globally(seed, images.device):
        fit(
            model.requires_grad_(True),
            until_there,
            epochs=MOST_EPOCHS,
            lr=recipe.lr / SLOWER,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
            precision=recipe.precision,
        )
    return given if accuracy(predict(model, images)) >= goal else MOST_EPOCHS
