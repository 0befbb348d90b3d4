"""Ids of records, of every kind of entry: a run that was recorded by an earlier version is not done again."""

from pathlib import Path
from typing import Any

import pytest
import torch

from salun.experiments.context import ModelCache, RunContext
from salun.experiments.plan import Repeats, plan
from salun.experiments.schema import validate
from salun.models.architecture import TINY, Architecture
from salun.models.build import build
from salun.models.checkpoint import Checkpoint, save_checkpoint
from salun.unlearning import METHODS
from salun.unlearning.mask import save_mask

BASE = {"model": TINY, "dataset": "digits"}
THREE = BASE | {"class_to_forget": 3}
RECORDED: list[tuple[dict[str, Any], str]] = [
    (THREE, "82ae8c2bd6fbf18b"),
    (THREE | {"method": "retrain"}, "2caa76f9daebad93"),
    (THREE | {"method": "retrain", "seed": 7}, "29366d7f0133da0b"),
    (BASE | {"class_to_forget": [1, 4], "method": "ga", "lr": 0.01, "epochs": 2}, "dca22b3a657c5b2c"),
    (BASE | {"unlearning_rate": 0.1, "method": "ft"}, "effce75451faa671"),
    (BASE | {"unlearning_rate": 0.1, "forget_seed": 5, "method": "ft"}, "f3278a0ba88b3918"),
    (BASE | {"unlearning_rate": 0.1, "stratified": True, "method": "neggrad_plus"}, "bca5c1b7222f5850"),
    (BASE | {"idxs_to_forget": "listed.json", "method": "scrub"}, "9afbb45e26679c11"),
    (THREE | {"use_mask": True, "method": "rl"}, "d62e80bf08ba6830"),
    (THREE | {"use_mask": True, "mask_thr": 0.3, "mask_score": "random", "method": "salun_soft"}, "cf32d42d69e2f075"),
    (THREE | {"use_mask": True, "mask_batches": 1, "method": "rl_split"}, "3e1f4e17f8160a87"),
    (THREE | {"load_mask": "some.mask", "method": "rl"}, "3200c669ac4480b2"),
    (THREE | {"prune": 0.5, "method": "ft"}, "da43f13ce480238f"),
    (THREE | {"prune": 0.5, "prune_epochs": 0, "use_mask": True, "method": "ft"}, "c8921433d2c3f11c"),
    (THREE | {"budget": 5000, "method": "bad_teacher"}, "96b80efdf637b27a"),
    (THREE | {"recipe": {"epochs": 3, "lr": 0.1}, "method": "l1_sparse"}, "c6ae9d129dc6fc20"),
    (THREE | {"split_seed": 1, "base_seed": 4, "method": "ssd"}, "323ab42810c7d4bd"),
    ({"checkpoint": "plain.pt", "class_to_forget": 3, "method": "ft"}, "3e4dcff5cd04eb2f"),
    ({"checkpoint": "recipe.pt", "class_to_forget": 3, "method": "retrain"}, "6dd8579e003d4e1e"),
    ({"checkpoint": "excluded.pt", "unlearning_rate": 0.05, "method": "duck"}, "1e8b42bc04a46b41"),
    (THREE | {"method": "rum"}, "7a91969b6dd46e38"),
    (THREE | {"method": "msg", "tag": "named", "metrics": ["all"]}, "09529ce444abb561"),
    (THREE | {"method": "amnesiac"}, "4fa1f96209782286"),
    (THREE | {"method": "amun"}, "6166c935e7bb1988"),
    (THREE | {"method": "assd"}, "2acaf6dc00e80c7d"),
    (THREE | {"method": "boundary_expand"}, "3755082b5cd93102"),
    (THREE | {"method": "boundary_shrink"}, "f73f6b6ba6cb7cd2"),
    (THREE | {"method": "cf_k"}, "22e3bd221ef8ad25"),
    (THREE | {"method": "ct", "lr": 1e-3}, "f3e3cbfd29e56082"),
    (THREE | {"method": "delete"}, "0f9d7224b3355106"),
    (THREE | {"method": "eu_k"}, "02e88bdd485df595"),
    (THREE | {"method": "fisher"}, "b385b78f088050c0"),
    (THREE | {"method": "ga_small"}, "9d9575da8cc2345e"),
    (THREE | {"method": "iu"}, "b3ebbeaec79ccf87"),
    (THREE | {"method": "jit"}, "e55917700870714c"),
    (THREE | {"method": "lfssd"}, "bc324d634aa4e37f"),
    (THREE | {"method": "negate"}, "69fd041e48a31605"),
    (THREE | {"method": "scar"}, "774b15bfca218528"),
    (THREE | {"method": "sfron"}, "b160a01e32c3bbd9"),
    (THREE | {"method": "unsir", "lr": 1e-4, "repair_lr": 1e-4, "batch_size": 256}, "6468e7c46f43f802"),
    (THREE | {"method": "lotus"}, "70d6c5754b6b4bf1"),
    (THREE | {"method": "mu_mis"}, "8b20afc970d349e4"),
    (THREE | {"method": "negmerge"}, "323e0dda0351d547"),
    (THREE | {"method": "task_arithmetic"}, "c4fcc44a07cfccc0"),
    (THREE | {"method": "uam"}, "e5f5fc4256e99b11"),
    (THREE | {"method": "cfw"}, "6f37d246b8ca6c8b"),
    (THREE | {"method": "fcs"}, "823921bd10d7ace5"),
    (THREE | {"method": "kde", "lr": 1e-3, "warmup_lr": 9e-4}, "a95274549968437c"),
    (THREE | {"method": "munba"}, "27bffc84fb151805"),
    (THREE | {"method": "noisy_ft"}, "9bbc65730f8c8965"),
    (THREE | {"method": "prmq"}, "45e2a62758fc52bb"),
    (THREE | {"method": "rni", "lr": 2e-4, "fine_lr": 2e-4}, "fb6d54f15b52d11e"),
    (THREE | {"method": "weight_distortion"}, "d602fdbdb0aa830f"),
]


@pytest.fixture(autouse=True)
def files(tmp_path: Path) -> None:
    """What entries name: checkpoints, a forget-set file and a mask, the same on every machine."""
    Path("listed.json").write_text("[3, 5, 8]")
    architecture = Architecture(TINY, 10, 1, 8)
    model = build(architecture)
    weights = {name: torch.zeros_like(value) for name, value in model.state_dict().items()}
    recorded = {"recipe": {"epochs": 3, "lr": 0.1}, "split_seed": 2}
    save_checkpoint(Path("plain.pt"), Checkpoint(weights, architecture, "digits"))
    save_checkpoint(Path("recipe.pt"), Checkpoint(weights, architecture, "digits", config=recorded))
    save_checkpoint(Path("excluded.pt"), Checkpoint(weights, architecture, "digits", excluded=(1, 2)))
    save_mask(Path("some.mask"), {name: torch.ones(part.shape).bool() for name, part in model.named_parameters()})


def test_ids_are_those_of_records_that_were_written_of_every_method() -> None:
    assert {entry.get("method", "rl") for entry, _ in RECORDED} >= METHODS.keys()
    cache, given = ModelCache(RunContext(torch.device("cpu"))), [entry for entry, _ in RECORDED]
    jobs = plan(validate(given, "list"), Repeats(1), cache, "list")
    assert [job.id for job in jobs] == [number for _, number in RECORDED]
