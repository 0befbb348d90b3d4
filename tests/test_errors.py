import re
from typing import Any

import numpy as np
import pytest

from salun.errors import SalunError, SalunErrors, did_you_mean, first_line, one_line, whole_number


def test_hints_name_the_nearest_or_all() -> None:
    assert did_you_mean("ephocs", ["lr", "epochs"]) == "; did you mean 'epochs'?"
    assert did_you_mean("ua", ["UA", "TUA", "RA"]) == "; did you mean 'UA'?"
    assert did_you_mean("zzz", ["lr", "epochs"]) == "; accepted: epochs, lr"
    assert did_you_mean("zzz", [f"name{i:02}" for i in range(60)]).endswith("name38, name39, ...")


def test_whole_numbers_of_python_and_numpy() -> None:
    assert [whole_number("n", value) for value in (0, np.int64(3), 2**31 - 1)] == [0, 3, 2**31 - 1]


@pytest.mark.parametrize("value", [-1, 0.5, 1.0, "1", None, True, [1]])
def test_what_is_no_whole_number(value: Any) -> None:
    with pytest.raises(SalunError, match=f"^n={re.escape(repr(value))}: must be a whole number from 0$"):
        whole_number("n", value)


def test_a_whole_number_that_is_too_large() -> None:
    with pytest.raises(SalunError, match=r"^n=7: must be a whole number from 1, below 7$"):
        whole_number("n", 7, 1, 7)


def test_the_first_line_of_an_error_or_its_kind() -> None:
    assert [first_line(ValueError(text)) for text in ("one\ntwo", "\n one", "")] == ["one", "one", "ValueError"]


def test_several_mistakes_are_one_error() -> None:
    error = SalunErrors(["one", "two"])
    assert isinstance(error, SalunError)
    assert (str(error), error.lines) == ("one\ntwo", ["one", "two"])


@pytest.mark.parametrize("text", ["a b c", "a\nb\r\nc", " a \t b\u2028c ", "a\x1b b\x00 c", "a\ud800 b c\n"])
def test_one_line_keeps_the_words(text: str) -> None:
    assert one_line(text) == "a b c"
