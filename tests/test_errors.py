import pytest

from salun.errors import SalunError, SalunErrors, did_you_mean, one_line


def test_hints_name_the_nearest_or_all() -> None:
    assert did_you_mean("ephocs", ["lr", "epochs"]) == "; did you mean 'epochs'?"
    assert did_you_mean("zzz", ["lr", "epochs"]) == "; accepted: epochs, lr"
    assert did_you_mean("zzz", [f"name{i:02}" for i in range(60)]).endswith("name38, name39, ...")


def test_several_mistakes_are_one_error() -> None:
    error = SalunErrors(["one", "two"])
    assert isinstance(error, SalunError)
    assert (str(error), error.lines) == ("one\ntwo", ["one", "two"])


@pytest.mark.parametrize("text", ["a b c", "a\nb\r\nc", " a \t b\u2028c ", "a\x1b b\x00 c", "a\ud800 b c\n"])
def test_one_line_keeps_the_words(text: str) -> None:
    assert one_line(text) == "a b c"
