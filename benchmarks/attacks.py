"""Item: the five SVC attacks beside plain scikit-learn, and how many predictions differ.

Two shapes of data: confidences of a model that is still unsure, and those of one trained to the end, most of
which are exactly 1. The control is `SVC(C=3, kernel="rbf", gamma="auto")`, one attack after the other, as the
field does it. Ours are measured attack by attack on one thread, and together over the cores. With `--only-ours`
under `/usr/bin/time -v` the peak of memory can be seen.
"""

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from benchmarks import control
from benchmarks.control import Attack
from benchmarks.items import Bench, item
from benchmarks.measure import Result, Spread
from benchmarks.problem import settle
from salun.metrics._svc import called_members
from salun.metrics.scores import correctness, entropy, modified_entropy, probabilities, true_confidence
from salun.training.evaluate import Outputs

FEATURES = {
    "correctness": correctness,
    "confidence": true_confidence,
    "entropy": entropy,
    "modified entropy": modified_entropy,
    "probabilities": probabilities,
}
SHAPES = {"smooth": ((9, 2), (7, 4), (8, 3)), "saturated": ((26, 5), (18, 9), (22, 7))}
CLASSES = 10
PUBLISHED_SIDE = 32

Attacks = dict[str, Attack]


def outputs(count: int, margin: float, spread: float, generator: torch.Generator) -> Outputs:
    """Draw outputs whose true class's logit stands above the others' by a normally distributed margin.

    Args:
        count: images.
        margin: mean.
        spread: standard deviation.
        generator: of the draw.

    Returns:
        The outputs.
    """
    labels = torch.randint(0, CLASSES, (count,), generator=generator)
    logits = 2 * torch.randn(count, CLASSES, generator=generator)
    logits[torch.arange(count), labels] += margin + spread * torch.randn(count, generator=generator)
    return Outputs(logits, labels)


def drawn(shape: str, members: int, targets: int) -> Attacks:
    """Draw members, as many non-members, and targets, and compute their features.

    Args:
        shape: one of `SHAPES`.
        members: how many.
        targets: how many.

    Returns:
        Members, non-members and targets of each attack.
    """
    generator = torch.Generator().manual_seed(0)
    counts = (members, members, targets)
    sets = [outputs(count, *of, generator) for count, of in zip(counts, SHAPES[shape], strict=True)]
    found = {}
    for name, feature in FEATURES.items():
        one, other, asked = (feature(part).reshape(len(part.labels), -1) for part in sets)
        found[name] = (one, other, asked)
    return found


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Time a call.

    Args:
        call: what is measured.

    Returns:
        Seconds, and what it gave.
    """
    begun = time.perf_counter()
    result = call()
    return time.perf_counter() - begun, result


def compare(attacks: Attacks) -> dict[str, Any]:
    """Measure the attacks of one shape.

    Args:
        attacks: by name.

    Returns:
        Seconds, ratios and differing predictions.
    """
    found: dict[str, Any] = {}
    together, called = timed(lambda: called_members(attacks))
    for name, attack in attacks.items():
        theirs, wanted = timed(partial(control.called_members, *attack))
        ours, got = timed(partial(called_members, {name: attack}))
        differing = int((wanted != got[name]).sum() + (wanted != called[name]).sum())
        found[name] = {"plain": theirs, "ours": ours, "ratio": theirs / ours, "differing": differing}
    total = sum(row["plain"] for row in found.values())
    return {
        "attacks": found,
        "exactly 1": float((attacks["confidence"][0] == 1).mean()),
        "total": {"plain": total, "ours": together, "ratio": total / together, "threads": torch.get_num_threads()},
    }


def load() -> None:
    """Load the compiled code, by the smallest problem that it is used for."""
    values = torch.linspace(0, 1, 3002)[:, None].numpy()
    called_members({"": (values[::2], values[1::2], values[:1])})


@item("the five membership attacks, and whether predictions differ", devices=("cpu", "mps"))
def attacks(bench: Bench) -> list[Result]:
    """Measure the attacks beside scikit-learn's.

    Args:
        bench: how many images.

    Returns:
        A line a shape of data.
    """
    settle(bench, PUBLISHED_SIDE)
    load()
    results = []
    for shape in SHAPES:
        found = compare(drawn(shape, bench.scale.members, bench.scale.targets))
        differing = sum(row["differing"] for row in found["attacks"].values())
        ours, theirs = (Spread((found["total"][side],)) for side in ("ours", "plain"))
        note = f"{differing} predictions differ; {found['total']['threads']} threads"
        what = f"five attacks, {shape}, {bench.scale.members:,} members"
        results.append(Result(what, "s", ours, theirs, bench.goal(least=6, of_ratio=True), note))
    return results


def parsed(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line.

    Args:
        argv: arguments; None takes the process's.

    Returns:
        The flags.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, default=10000, metavar="N", help="members, and as many non-members")
    parser.add_argument("--targets", type=int, default=4500, metavar="K", help="targets")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--only-ours", action="store_true", help="run ours once and print nothing")
    return parser.parse_args(argv)


def write(shape: str, found: dict[str, Any]) -> None:
    """Print the figures of one shape.

    Args:
        shape: of the data.
        found: as `compare` gives it.
    """
    print(f"{shape}: {100 * found['exactly 1']:.0f} % of members with a confidence of exactly 1")
    line = "  {:18}plain {plain:6.2f} s, ours {ours:5.2f} s, {ratio:5.1f} x, "
    for name, row in found["attacks"].items():
        print((line + "differing {differing}").format(name, **row))
    print((line + "{threads} threads").format("all", **found["total"]))


def main(argv: list[str] | None = None) -> int:
    """Measure attack by attack, and print the figures.

    Args:
        argv: arguments; None takes the process's.

    Returns:
        The exit status.
    """
    flags = parsed(argv)
    problems = {shape: drawn(shape, flags.members, flags.targets) for shape in SHAPES}
    if flags.only_ours:
        called_members(problems["smooth"])
        return 0
    start, _ = timed(load)
    figures = {shape: compare(part) for shape, part in problems.items()}
    if flags.json:
        print(json.dumps({"start": start, "shapes": figures}))
        return 0
    for shape, found in figures.items():
        write(shape, found)
    print(f"loading the compiled code {start:.2f} s")
    return 0
