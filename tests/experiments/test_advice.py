import pytest
import torch

from salun.experiments.advice import few_steps_of_training, warnings_of
from salun.experiments.context import ModelCache, RunContext
from salun.experiments.plan import Repeats, plan
from salun.experiments.schema import validate
from salun.training.recipe import Recipe


@pytest.mark.parametrize(
    ("images", "keys", "warned"),
    [(200, {}, 1), (200, {"batch_size": 16}, 0), (200, {"lr": 0.002}, 0), (200, {"method": "ssd"}, 0), (2000, {}, 0)],
)
def test_default_settings_on_few_images_warn_once(images: int, keys: dict[str, object], warned: int) -> None:
    entry = {"model": "resnet_tiny", "dataset": f"synthetic:n={images},size=8,classes=4", "unlearning_rate": 0.1}
    cache = ModelCache(RunContext(torch.device("cpu")))
    lines = warnings_of(plan(validate([entry | {"method": "rl_split"} | keys], "test"), Repeats(3), cache, "test"))
    made = "18 forget and 162 retain images make 10 and 10 steps, too few to forget or to repair: give a b"
    told = f"rl_split: its defaults (lr 0.013, epochs 10, batch_size 256) are for tens of thousands of images; {made}"
    assert [line.startswith(told) for line in lines] == [True] * warned


@pytest.mark.parametrize(
    ("epochs", "images", "warned"), [(4, 160, 0), (4, 159, 0), (4, 144, 1), (39, 16, 1), (40, 16, 0)]
)
def test_fewer_than_40_steps_do_not_train_a_model(epochs: int, images: int, warned: int) -> None:
    lines = few_steps_of_training("retrain", Recipe(epochs=epochs, batch_size=16), images)
    steps = {144: 36, 16: 39}.get(images)
    made = (
        f"retrain: {epochs} epochs of {images} images in batches of 16 make {steps} steps, too few to train a new model"
    )
    assert [line.startswith(made) for line in lines] == [True] * warned
