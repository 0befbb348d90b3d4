"""Lists of what there is: metrics and methods, from their registries."""

import json
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from salun.errors import SalunError, did_you_mean
from salun.metrics import METRICS, Metric, load_metrics
from salun.registry import remarks_of
from salun.unlearning import METHODS, Method, find_method, load_methods

_INDENT = 2


def print_metrics(console: Console, names: Sequence[str] = ()) -> None:
    """Print metrics, a paragraph each; of those that are named all that is known.

    Args:
        console: whose width the paragraphs are fitted to.
        names: of metrics; none for all of them, in short.

    Raises:
        SalunError: there is no metric of a name; the nearest is named.
    """
    load_metrics()
    for name in names:
        if name not in METRICS:
            raise SalunError(f"--list-metrics: metric '{name}': unknown{did_you_mean(name, METRICS)}")
    for found in map(METRICS.__getitem__, names):
        _print_whole(console, found.name, [found.summary], metric_facts(found))
    for found in () if names else METRICS.values():
        facts = f"Unit: {unit_of(found)}. Good: {found.direction}; ideal: {found.ideal}. Cost: {found.cost}. "
        facts += f"In: {sets_of(found) or 'no set'}. Source: {found.source}"
        _print_short(console, found.name, f"{found.summary} {facts}")


def unit_of(found: Metric) -> str:
    """Say what a metric's values are."""
    return found.unit or "number"


def sets_of(found: Metric) -> str:
    """Say which sets of metrics hold a metric."""
    if found.original:
        return ""
    sets = {"default": found.default, "attacks": found.cost == "attack", "gone": found.gone, "all": True}
    return " ".join(name for name, holds in sets.items() if holds)


def metric_facts(found: Metric) -> dict[str, str]:
    """Gather what is known of a metric, and of those that are computed together with it, by heading."""
    family = [METRICS[name] for name in found.family]
    ideals = list(dict.fromkeys(member.ideal for member in family))
    ideal = ideals[0] if len(ideals) == 1 else ", ".join(f"{member.name} {member.ideal}" for member in family)
    held = " and ".join(found.against)
    return {
        "Formula": found.formula,
        "Unit": ", ".join(dict.fromkeys(map(unit_of, family))),
        "Good": f"{found.direction}; ideal: {ideal}",
        "Cost": found.cost + (f"; looks at the {held} model too" if held else ""),
        "In": sets_of(found).replace(" ", ", ") or "no set",
        "Cannot see": found.blind,
        "Source": found.source,
    }


def print_methods(console: Console, names: Sequence[str] = ()) -> None:
    """Print methods, a paragraph each; of those that are named all that is known.

    Args:
        console: whose width the paragraphs are fitted to.
        names: of methods; none for all of them, in short.

    Raises:
        SalunError: there is no method of a name; the nearest is named.
    """
    load_methods()
    for found in map(find_method, names):
        _print_whole(console, title_of(found), [found.summary, *remarks_of(found.run)], method_facts(found))
    for found in () if names else METHODS.values():
        settings = " ".join(f"{key}={json.dumps(default)}" for key, (_, default) in found.settings.items())
        facts = f"Forgets: {forgets_of(found)}. Mask: {mask_of(found)}. Settings: {settings or 'none'}."
        _print_short(console, title_of(found), f"{found.summary} {facts} Source: {found.source}")


def title_of(found: Method) -> str:
    """Give a method's names."""
    return found.name + (f" ({found.alias})" if found.alias else "")


def mask_of(found: Method) -> str:
    """Say whether a mask may hold weights while a method runs."""
    return "yes" if found.maskable else "no"


def forgets_of(found: Method) -> str:
    """Say what a method can forget."""
    return "whole classes" if found.classwise else "any images"


def method_facts(found: Method) -> dict[str, str | dict[str, str]]:
    """Gather what is known of a method by heading; its settings by key and default, with their meanings."""
    forgetting = "" if found.forgets else "; a whole class it hardly forgets at its authors' settings"
    keeping = "" if found.keeps else "; it does not keep the accuracy on the rest by itself"
    settings = {
        f"`{key}`, {json.dumps(default)}": found.meanings.get(key, "") for key, (_, default) in found.settings.items()
    }
    return {
        "Equation": found.equation,
        "Settings": settings or "none",
        "Forgets": forgets_of(found) + forgetting + keeping,
        "Mask": mask_of(found),
        "Deviations": found.deviations,
        "Source": found.source,
    }


def _print_short(console: Console, title: str, text: str) -> None:
    """Print one entry as a paragraph below its title, or in one line where lines may be as long as they are."""
    if console.is_terminal:
        console.print(Text(title, style="bold"))
        console.print(Padding(Text(text), (0, 0, 1, _INDENT)))
    else:
        console.print(Text(f"{title}: {text}"), soft_wrap=True)


def _print_whole(
    console: Console, title: str, words: Sequence[str], facts: Mapping[str, str | Mapping[str, str]]
) -> None:
    """Print all that is known of one entry."""
    console.print(Text(title, style="bold"))
    for text in words:
        console.print(Padding(Text(text), (0, 0, 0, _INDENT)))
    for heading, fact in facts.items():
        console.print(
            Padding(Text(f"{heading}: {fact}" if isinstance(fact, str) else f"{heading}:"), (0, 0, 0, _INDENT))
        )
        for key, meaning in () if isinstance(fact, str) else fact.items():
            console.print(Padding(Text(f"{key}: {meaning}".replace("`", "")), (0, 0, 0, 2 * _INDENT)))
    console.print()
