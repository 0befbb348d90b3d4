from pathlib import Path, PurePosixPath

from hostile import examples
from hypothesis import given
from hypothesis import strategies as st
from records import make

from salun.experiments.base_model import checkpoint_path
from salun.experiments.outputs import outputs_path
from salun.experiments.record import weights_path
from salun.io.files import mirrored_apart, name_part

ROOT = Path("out")
PATHS = ["..", "../../x", "/etc/passwd", "a/../../b", "~", "~root", ".", "", "a" * 300 + "/..", ".hidden", "x" * 5000]
OTHERS = ["-rf", "a\0b", "a\nb", "\x1b]0;x\x07", "\u202e", "C:\\x", "..\\..\\x", "$(touch x)", "`x`", "%2e%2e%2f"]
HARMFUL = st.sampled_from([*PATHS, *OTHERS, "．．／x", "∕etc"])
TEXTS = st.one_of(HARMFUL, st.text(st.characters(exclude_categories=["Cs"])), st.tuples(HARMFUL, HARMFUL).map("".join))


def is_inside(path: Path) -> bool:
    """Whether a path stays in the folder, and each part of it is a plain name."""
    split = PurePosixPath(path.relative_to(ROOT)).parts
    plain = all(part not in ("..", ".") and not part.startswith("-") and "\0" not in part for part in split)
    return plain and path.resolve().is_relative_to(ROOT.resolve())


@examples(100)
@given(TEXTS)
def test_every_name_is_one_plain_part_of_a_path(text: str) -> None:
    name = name_part(text)
    assert 0 < len(name) <= 72
    assert name.isascii()
    assert name.isprintable()
    assert not set(name) & set("/\\ \0~$`'\"*?;&|<>:%")
    assert name[0] not in "-."
    assert is_inside(ROOT / name)


@examples(60)
@given(TEXTS, TEXTS, TEXTS)
def test_checkpoints_stay_in_their_folder(model: str, dataset: str, comment: str) -> None:
    path = checkpoint_path(ROOT, model, dataset, comment)
    assert is_inside(path)
    assert path.parent == ROOT
    assert len(f".{path.stem}_forget.json.{2**22}.part") < 256
    assert path == checkpoint_path(ROOT, model, dataset, comment)


@examples(60)
@given(TEXTS, TEXTS, TEXTS)
def test_what_a_record_says_stays_in_its_folder(method: str, name: str, tag: str) -> None:
    record = make(method, id=name, tag=tag)
    for path in (weights_path(ROOT, record), outputs_path(ROOT, record.id), outputs_path(ROOT, record.base_name)):
        assert is_inside(path)


@examples(60)
@given(st.lists(st.lists(TEXTS.filter(lambda text: "\0" not in text), min_size=1, max_size=3), min_size=1, max_size=3))
def test_results_of_any_files_stay_in_their_folder(paths: list[list[str]]) -> None:
    files = [Path(*(part[:100] for part in split), "model.pt") for split in paths]
    for place in mirrored_apart(files, Path("checkpoints")):
        assert not place.is_absolute()
        assert is_inside(ROOT / place)
