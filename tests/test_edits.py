from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memlint.diagnostics import Edit, Location
from memlint.edits import Moves, Replacement, applied, merged


def place(column: int) -> Location:
    return Location(1, column)


def test_edits_are_sorted_and_insertions_joined() -> None:
    edits = [
        Edit(place(5), place(6), "x"),
        Edit(place(2), place(2), "a"),
        Edit(place(2), place(3), "r"),
        Edit(place(2), place(2), "b"),
    ]
    assert merged(edits) == (
        Edit(place(2), place(2), "ab"),
        Edit(place(2), place(3), "r"),
        Edit(place(5), place(6), "x"),
    )


def test_edits_that_overlap_are_an_error() -> None:
    with pytest.raises(ValueError, match="overlap"):
        merged([Edit(place(1), place(4), ""), Edit(place(3), place(5), "")])


@pytest.mark.parametrize(
    ("one", "other", "touches"),
    [((0, 2), (3, 4), False), ((0, 2), (2, 4), True), ((1, 1), (1, 1), True), ((0, 9), (3, 4), True)],
)
def test_touching(one: tuple[int, int], other: tuple[int, int], touches: bool) -> None:
    assert Replacement(*one, "").touches(Replacement(*other, "")) is touches
    assert Replacement(*other, "").touches(Replacement(*one, "")) is touches


@st.composite
def texts_and_replacements(draw: st.DrawFn) -> tuple[str, list[Replacement]]:
    """A text of characters that occur once each, and replacements by others that touch neither."""
    text = "".join(map(chr, range(0x4E00, 0x4E00 + draw(st.integers(0, 40)))))
    borders = sorted(draw(st.sets(st.integers(0, len(text)), max_size=8)))
    pairs = zip(borders[::2], borders[1::2], strict=False)
    contents = st.text(alphabet="abc", max_size=4)
    return text, [Replacement(start, draw(st.sampled_from([start, end])), draw(contents)) for start, end in pairs]


@given(texts_and_replacements())
def test_what_is_not_replaced_stays_and_is_found_where_it_moved(drawn: tuple[str, list[Replacement]]) -> None:
    text, replacements = drawn
    after = applied(text, replacements)
    assert after.count("a") == sum(content.count("a") for _, _, content in replacements)
    for offset, character in enumerate(text):
        if any(start <= offset < end for start, end, _ in replacements):
            assert character not in after
        else:
            first, last = Moves(replacements).of(offset)
            assert first <= after.index(character) <= last
            assert after[last] == character
