from salun.registry import arguments_of, remarks_of, sections_of, summary_of


def described(first: int, second: int) -> int:
    """Add two numbers.

    This is a remark
    over two lines.

    And another: with a colon.

    Args:
        first: of the numbers,
            on two lines: with a colon.
        second: of the numbers.

    Returns:
        The sum.
    """
    return first + second


def bare() -> None:
    pass


def test_a_docstring_is_taken_apart() -> None:
    assert arguments_of(described) == {
        "first": "of the numbers, on two lines: with a colon.",
        "second": "of the numbers.",
    }

    assert summary_of(described) == "Add two numbers."
    assert remarks_of(described) == ["This is a remark over two lines.", "And another: with a colon."]
    assert sections_of(described)["Returns"] == "The sum."
    assert (arguments_of(bare), remarks_of(bare)) == ({}, [])
