import io
import json
import warnings
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hostile import damaged, examples, refused
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save
from torch import Tensor

from salun.latent.comparator_json import identity
from salun.latent.extraction import read_model
from salun.models.architecture import TINY, Architecture
from salun.models.build import build
from salun.models.checkpoint import load_checkpoint
from salun.unlearning.mask import load_mask

FILE = Path("a.pt")
SHAPE = {"channels": 1, "size": 8, "native": False}
CONFIG = {"model": TINY, "dataset": "digits", "nclasses": 3, "architecture": SHAPE, "excluded": [1, 2]}


def packed(content: Any) -> bytes:
    out = io.BytesIO()
    torch.save(content, out)
    return out.getvalue()


def weights() -> dict[str, Tensor]:
    with torch.random.fork_rng():
        return build(Architecture(TINY, 3, 1, 8)).state_dict()


WEIGHTS = weights()
CHECKPOINT = packed({"model": WEIGHTS, "optimizer": None, "config": CONFIG})
SAFETENSORS = save(WEIGHTS, {"salun": json.dumps(CONFIG)})
MASK = packed({name: tensor > 0 for name, tensor in list(WEIGHTS.items())[:12]})
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(2**62, 2**70)
    | st.floats()
    | st.text(max_size=20)
    | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8) | st.integers(), inner, max_size=4),
    max_leaves=8,
)


def tried(content: bytes, read: Any) -> list[str]:
    FILE.write_bytes(content)
    return refused(lambda: read(FILE))


def test_the_whole_files_are_taken() -> None:
    assert not tried(CHECKPOINT, load_checkpoint)
    assert not tried(SAFETENSORS, load_checkpoint)
    assert not tried(MASK, load_mask)


@examples(60)
@given(damaged(CHECKPOINT) | damaged(SAFETENSORS))
def test_a_damaged_checkpoint(content: bytes) -> None:
    tried(content, lambda path: load_checkpoint(path).restore())


@examples(40)
@given(damaged(MASK))
def test_a_damaged_mask(content: bytes) -> None:
    tried(content, load_mask)


@examples(40)
@given(st.recursive(st.none() | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_safetensors_of_another_config(config: Any) -> None:
    assert tried(save(WEIGHTS, {"salun": json.dumps(config)}), load_checkpoint)


def test_safetensors_whose_config_is_none_of_ours() -> None:
    for text in ("", "{", "[" * 10_000, '{"a": 1' + "0" * 5000 + "}", json.dumps([[]] * 10**6)):
        assert tried(save(WEIGHTS, {"salun": text}), load_checkpoint)


@examples(40)
@given(st.dictionaries(st.sampled_from([*CONFIG, "recipe", "split_seed"]), VALUES, min_size=1, max_size=3))
def test_a_checkpoint_whose_config_is_another(changed: dict[str, Any]) -> None:
    content = packed({"model": WEIGHTS, "optimizer": None, "config": CONFIG | changed})
    tried(content, lambda path: load_checkpoint(path).restore())


RUNS = st.dictionaries(st.sampled_from(["id", "seed", "method", "base", "forget", "mask"]), VALUES, max_size=3)


@examples(40)
@given(st.sampled_from(["unlearned", "recipe", "split_seed", "preparation", "class_names"]), VALUES | RUNS)
def test_a_checkpoint_that_records_another_past(key: str, value: Any) -> None:
    content = packed({"model": WEIGHTS, "optimizer": None, "config": CONFIG | {key: value}})

    tried(content, lambda path: identity(read_model(path)))


@examples(25)
@given(VALUES)
def test_a_file_of_other_values(content: Any) -> None:
    assert tried(packed(content), load_checkpoint)
    assert tried(packed(content), load_mask)


def odd_tensors() -> dict[str, Tensor]:
    with warnings.catch_warnings(action="ignore"):
        return {
            "a view of one value": torch.zeros(1).expand(2**40),
            "without memory": torch.zeros(2**40, device="meta"),
            "sparse": torch.sparse_coo_tensor(torch.zeros(1, 1, dtype=torch.int64), torch.ones(1), (2**40,)),
            "quantised": torch.quantize_per_tensor(torch.zeros(4), 0.1, 0, torch.qint8),
        }


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", odd_tensors())
def test_tensors_that_are_not_in_the_file(kind: str) -> None:
    odd = odd_tensors()[kind]
    for place in ("model", "optimizer"):
        content = {"model": WEIGHTS, "optimizer": None, "config": CONFIG} | {place: WEIGHTS | {"fc.bias": odd}}
        assert tried(packed(content), load_checkpoint)
    assert tried(packed({"fc.bias": odd}), load_mask)


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
def test_compressed_tensors(method: int) -> None:
    with zipfile.ZipFile(io.BytesIO(CHECKPOINT)) as plain, zipfile.ZipFile(FILE, "w", method) as changed:
        for member in plain.infolist():
            changed.writestr(member.filename, plain.read(member), method)
    assert refused(lambda: load_checkpoint(FILE))


@pytest.mark.parametrize("size", [2**20, 2**31, 2**40, 2**70])
def test_models_that_no_weights_fit(size: int) -> None:
    for changed in ({"nclasses": size}, {"architecture": SHAPE | {"size": size}}, {"excluded": [-size]}):
        content = packed({"model": WEIGHTS, "optimizer": None, "config": CONFIG | changed})
        assert tried(content, load_checkpoint)


def test_values_that_hold_each_other() -> None:
    loop: list[Any] = []
    loop.append(loop)
    tower: Any = [1]
    for _ in range(40):
        tower = [tower, tower]
    deep: Any = 1
    for _ in range(300):
        deep = [deep]
    for value in (loop, tower, deep):
        content = packed({"model": WEIGHTS, "optimizer": None, "config": CONFIG | {"note": value}})
        assert tried(content, load_checkpoint)
