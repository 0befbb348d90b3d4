"""What an entry of a list asks to forget, at once or in requests one after another, and its checks."""

from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError

from salun.data.forget_file import Order
from salun.data.split import ForgetRequest
from salun.errors import did_you_mean, nearest, shown
from salun.unlearning.registry import WHOLE_CLASSES

_SHARE_KEYS = ("unlearning_rate", "idxs_to_forget")

_KEYS = ("class_to_forget", *_SHARE_KEYS)

_ALONE = ("subclass_to_forget", "corrupt")  # no request of several is for these

FORGET_KEYS = (*_KEYS, *_ALONE, "requests")

SHARE_KEYS = (*_SHARE_KEYS, *_ALONE)

_MOST = 1000

_Label = Annotated[int, Field(ge=0)] | Annotated[str, Field(min_length=1)]

Labels = _Label | Annotated[list[_Label], Field(min_length=1)]

_SHARE = Field(gt=0, lt=1, description="Share of the training split to forget.")

_STRATIFIED = Field(
    description="Take the share of each class; false, as in the SalUn paper's code: whatever the images' classes."
)


class ForgetKeys(BaseModel):
    """The keys that say which images are to be forgotten."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    class_to_forget: Labels | None = Field(
        None, description="Class, by number or name, or list of classes, to forget as a whole."
    )
    unlearning_rate: Annotated[float, _SHARE] | None = None
    stratified: Annotated[bool, _STRATIFIED] = False
    idxs_to_forget: str | None = Field(
        None, min_length=1, description="File that lists the images to forget, by index, path or SHA-256."
    )
    indices_in: Order = Field("salun", description="Order that the file's indices count in.")

    def request(self, seed: int) -> ForgetRequest:
        """Say the same to who splits the data.

        Args:
            seed: of a share.
        """
        file, share = self.idxs_to_forget, self.unlearning_rate
        drawn = seed if share is not None else 0
        classes, indices = sorted_labels(self.class_to_forget), Path(file) if file else None
        return ForgetRequest(classes, share, drawn, indices, self.stratified, self.indices_in)


def sorted_labels(asked: Labels | None) -> tuple[int | str, ...]:
    """Sort the classes that are asked for, each once, numbers before names.

    Args:
        asked: one or more, or none.
    """
    listed = asked if isinstance(asked, list) else [] if asked is None else [asked]
    return tuple(sorted(set(listed), key=lambda label: (isinstance(label, str), label)))


class DrawnRequests(BaseModel):
    """Several requests for a share each, of the images that are left."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    count: int = Field(ge=1, le=_MOST, description="Number of requests.")
    unlearning_rate: Annotated[float, _SHARE]
    stratified: Annotated[bool, _STRATIFIED] = False


def _shape_of(value: Any) -> str:
    """Tell which of the two ways to give requests is meant."""
    return "drawn" if isinstance(value, dict | DrawnRequests) else "list"


Requests = Annotated[
    Annotated[list[ForgetKeys], Field(min_length=1, max_length=_MOST), Tag("list")]
    | Annotated[DrawnRequests, Tag("drawn")],
    Discriminator(_shape_of),
]


def each_request(requests: Requests | None) -> list[ForgetKeys]:
    """List requests, those that are drawn too.

    Args:
        requests: of a valid entry.
    """
    if isinstance(requests, DrawnRequests):
        one = ForgetKeys(unlearning_rate=requests.unlearning_rate, stratified=requests.stratified)
        return [one] * requests.count
    return requests or []


def valid_requests(given: Any) -> list[tuple[str, ForgetKeys]]:
    """Read those of a list of requests that are valid, whatever the others are.

    Args:
        given: as JSON gives it; only a list holds requests that name images.

    Returns:
        What lines about each begin with, and the request.
    """
    found = []
    for number, one in enumerate(given if isinstance(given, list) else [], 1):
        with suppress(ValidationError):
            found.append((f"requests: request {number}: ", ForgetKeys.model_validate(one)))
    return found


def explain(problem: Any) -> tuple[str, str]:
    """Put one of pydantic's findings on requests into a line.

    Args:
        problem: of the key "requests".

    Returns:
        What the line begins with, and the line.
    """
    _, shape, *path = (str(part) for part in problem["loc"])
    where, keys = "requests", DrawnRequests.model_fields
    if shape == "list" and path:
        where, keys, path = f"requests: request {int(path[0]) + 1}", ForgetKeys.model_fields, path[1:]
    key, value = ": ".join([where, *path[:1]]), shown(problem["input"])
    if problem["type"] == "extra_forbidden" and path[0] in (*_ALONE, "forget_choice"):
        return key, f"{key}: {value}: not in requests; it goes with one forget set alone"
    if problem["type"] == "extra_forbidden":
        return key, f"{key}: unknown key{did_you_mean(path[0], keys)}"
    if problem["type"] == "missing":
        return key, f"{key}: not given; drawn requests need count and unlearning_rate"
    if problem["type"] == "too_short" and not path:
        return key, f"{key}: {value}: must hold at least one request"
    if not path:
        asked = "a list of requests, or an object with count and unlearning_rate"
        return key, f"{key}: {value}: must be {asked if where == 'requests' else 'an object of keys and values'}"
    if path[0] == "class_to_forget":
        return key, f"{key}: {value}: must be a class, a number from 0 or a name, or a list"
    return key, f"{key}: {value}: {problem['msg'][0].lower()}{problem['msg'][1:]}"


def conflicts(given: dict[str, Any], keys: tuple[str, ...], known: Collection[str]) -> list[str]:
    """Find keys that do not go together, among those that say what to forget.

    Args:
        given: keys and values as JSON gives them, without null.
        keys: of which exactly one is to be given.
        known: all keys that there are.

    Returns:
        A line each.
    """
    lines = []
    asked = [key for key in keys if key in given]
    if len(asked) > 1:
        lines.append(f"{' and '.join(asked)}: exclude each other; give exactly one of {', '.join(keys)}")
    misspelt = {nearest(key, known) for key in given.keys() - {*known}}
    if not asked and not misspelt & set(keys):
        lines.append(f"nothing to forget; give exactly one of {', '.join(keys)}")
    needed = {
        "stratified": ("unlearning_rate", given.get("stratified") is True),
        "indices_in": ("idxs_to_forget", given.get("indices_in") == "imagefolder"),
    }
    return lines + without_effect(given, needed)


def without_effect(given: Collection[str], needed: dict[str, tuple[str, bool]]) -> list[str]:
    """Find keys that need another one, which is not given.

    Args:
        given: the keys that are given.
        needed: by key the other one, and whether the key asks for anything.

    Returns:
        A line each.
    """
    found = {key: other for key, (other, asks) in needed.items() if asks and other not in given}
    return [f"{key}: without effect unless {other} is given" for key, other in found.items()]


def not_null(value: Any, model: type[BaseModel]) -> Any:
    """Take null for not given; unknown keys stay, to be refused.

    Args:
        value: as JSON gives it.
        model: knows the keys.

    Returns:
        An object without the known keys that are null; any other value as it is.
    """
    if not isinstance(value, dict):
        return value
    return {key: part for key, part in value.items() if part is not None or key not in model.model_fields}


def request_conflicts(given: dict[str, Any], method: str, is_classwise: bool) -> list[str]:
    """Find what is wrong with the requests of an entry, beyond the types of their values.

    Args:
        given: keys and values of the entry, without null.
        method: of the entry.
        is_classwise: whether it forgets whole classes only.

    Returns:
        A line each; none of an entry without requests.
    """
    requests = given.get("requests")
    if requests is None:
        return []
    lines = []
    if "load_mask" in given:
        lines.append("load_mask: excluded by requests; use_mask computes a mask for each")
    if "prune" in given:
        lines.append("prune: excluded by requests, before each of which it would prune again")
    drawn = isinstance(requests, dict)
    entries = enumerate([requests] if drawn else requests if isinstance(requests, list) else [], 1)
    places = [("requests" if drawn else f"requests: request {number}", one) for number, one in entries]
    for where, one in places:
        wrong = [] if drawn or not isinstance(one, dict) else conflicts(one, _KEYS, ForgetKeys.model_fields)
        shares = [key for key in _SHARE_KEYS if isinstance(one, dict) and key in one] if is_classwise else []
        wrong += [f"{key}: {shown(one[key])}: method '{method}' {WHOLE_CLASSES}" for key in shares]
        lines += [f"{where}: {line}" for line in wrong]
    return lines + list(_named_twice(places))


def _named_twice(places: list[tuple[str, Any]]) -> Iterator[str]:
    """Find classes that two requests name alike."""
    seen: dict[Any, str] = {}
    for where, one in places:
        chosen = one.get("class_to_forget") if isinstance(one, dict) else None
        for label in chosen if isinstance(chosen, list) else [chosen]:
            if isinstance(label, int | str) and seen.setdefault(label, where) != where:
                earlier = seen[label].removeprefix("requests: ")
                yield f"{where}: class_to_forget: {shown(label)}: {earlier} has forgotten it"
