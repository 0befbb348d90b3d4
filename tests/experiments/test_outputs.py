from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from outputs import compared, model, permuted, rewritten

from salun.experiments.outputs import digest_of, kept_outputs, write_outputs
from salun.io.arrays import write_arrays
from salun.metrics import METRICS, check_metrics, evaluate
from salun.metrics.evaluation import SETS

PATH = Path("outputs/run.npz")


def test_outputs_come_back_bit_for_bit() -> None:
    written = replace(model(3), random=model(4).forget)
    write_outputs(PATH, written)
    found = kept_outputs(Path(), "run", seconds=1.5)
    for name in (*SETS, "random"):
        for part in ("logits", "labels", "indices"):
            assert torch.equal(getattr(getattr(found, name), part), getattr(getattr(written, name), part))
            assert getattr(getattr(found, name), part).dtype == getattr(getattr(written, name), part).dtype
    assert len(found.earlier) == len(written.earlier) == 2
    assert all(torch.equal(one.logits, other.logits) for one, other in zip(found.earlier, written.earlier, strict=True))
    assert digest_of(found) == digest_of(written)
    assert (found.found, found.undiscovered, found.triggered) == (None, None, None)


def test_a_later_figure_equals_an_immediate_one() -> None:
    written = compared(5)
    free = tuple(name for name in check_metrics(("all",)) if METRICS[name].cost == "free")
    for name, held in {"run": written, "base": written.base, "retrained": written.retrained}.items():
        write_outputs(Path(f"outputs/{name}.npz"), held)
    later = replace(
        kept_outputs(Path(), "run", None, written.seconds, written.passes),
        base=kept_outputs(Path(), "base"),
        retrained=kept_outputs(Path(), "retrained"),
        earlier_seconds=written.earlier_seconds,
        earlier_passes=written.earlier_passes,
    )
    assert evaluate(later, free) == evaluate(written, free)


def test_the_digest_knows_values_and_order() -> None:
    one = model(1)
    assert digest_of(one) == digest_of(model(1)) != digest_of(model(2))
    assert digest_of(permuted(one)) != digest_of(one)


def test_files_are_compressed_and_plain() -> None:
    still = replace(model(1), retain=replace(model(1).retain, logits=torch.zeros(90, 4)))
    write_outputs(PATH, still)
    with np.load(PATH, allow_pickle=False) as content:
        assert content["retain/logits"].dtype == np.float32
        assert {name.split("/")[0] for name in content.files} == {*SETS, "request1", "request2"}
        assert content.zip.getinfo("retain/logits.npy").compress_size < 90 * 4 * 4 / 4


def test_outputs_of_many_classes_take_half_the_bytes() -> None:
    exact = model(1, classes=150)
    halves = rewritten(exact, lambda logits: logits.half().float())
    for written, kept in ((exact, np.float32), (halves, np.float16)):
        write_outputs(PATH, written)
        with np.load(PATH, allow_pickle=False) as content:
            assert content["retain/logits"].dtype == kept
        found = kept_outputs(Path(), "run", digest_of(written))
        assert found is not None
        assert torch.equal(found.retain.logits, written.retain.logits)
        assert found.retain.logits.dtype == torch.float32


def broken(arrays: dict[str, np.ndarray], harm: str) -> dict[str, np.ndarray]:
    changes = {
        "missing": {},
        "float64": {"test/logits": arrays["test/logits"].astype(np.float64)},
        "flat": {"test/logits": arrays["test/logits"].ravel()},
        "short": {"test/labels": arrays["test/labels"][:-1]},
        "far": {"test/labels": arrays["test/labels"] + 100},
        "negative": {"test/labels": arrays["test/labels"] - 100},
        "indices": {"test/indices": arrays["test/indices"].astype(np.float32)},
    }
    kept = {name: array for name, array in arrays.items() if harm != "missing" or name != "test/labels"}
    return kept | changes[harm]


@pytest.mark.parametrize("harm", ["missing", "float64", "flat", "short", "far", "negative", "indices"])
def test_what_is_no_file_of_outputs_is_not_taken(harm: str) -> None:
    write_outputs(PATH, model(1))
    with np.load(PATH, allow_pickle=False) as content:
        arrays = {name: content[name] for name in content.files}
    write_arrays(PATH, broken(arrays, harm))
    assert kept_outputs(Path(), "run") is None


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"not a file of arrays"])
def test_damaged_files_are_not_taken(content: bytes) -> None:
    PATH.parent.mkdir()
    PATH.write_bytes(content)
    assert kept_outputs(Path(), "run") is None
