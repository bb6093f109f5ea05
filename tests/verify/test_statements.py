"""Where findings stand: rows of statements and loops, and what can be looked at there."""

from __future__ import annotations

from pathlib import Path

import pytest

from memlint.diagnostics import Diagnostic, Location
from memlint.findings import Confidence, Severity
from memlint.verify.statements import Statements

SOURCE = """\
import torch

@torch.no_grad()
def fit(model, losses):
    for epoch in range(3):
        for x in range(9):
            losses.update(
                model(x),
                1,
            )
        with torch.no_grad():
            y = é = model(
                epoch)
    while (z := model(1)) > 0:
        a, b = model(z)
"""


def finding(text: str) -> Diagnostic:
    """A finding at the first place of ``text`` in the source."""
    before, found, _ = SOURCE.partition(text)
    assert found
    row = before.count("\n") + 1
    column = len(before) - (before.rfind("\n") + 1) + 1
    end_row = row + text.count("\n")
    end = len(text) - text.rfind("\n") if "\n" in text else column + len(text)
    return Diagnostic(
        "MEM101",
        "name",
        "message",
        Path("x.py"),
        Location(row, column),
        Location(end_row, end),
        Severity.ERROR,
        Confidence.CERTAIN,
        "",
        (),
        row,
        "",
    )


@pytest.mark.parametrize(
    ("text", "rows", "loop"),
    [
        ("model(x)", (7, 10), (6, 10)),
        ("torch.no_grad():", (11, 11), (5, 13)),
        ("model(\n                epoch)", (12, 13), (5, 13)),
        ("model(1)", (14, 14), None),
        ("model(z)", (15, 15), (14, 15)),
        ("import torch", (1, 1), None),
    ],
)
def test_rows(text: str, rows: tuple[int, int], loop: tuple[int, int] | None) -> None:
    place = Statements(SOURCE).place(finding(text))
    assert (place.rows, place.loop) == (rows, loop)


def test_the_function_begins_with_its_decorators() -> None:
    assert Statements(SOURCE).place(finding("model(x)")).function == 3
    assert Statements(SOURCE).place(finding("import torch")).function == 0


def test_what_a_call_is_made_on_and_with() -> None:
    place = Statements(SOURCE).place(finding("model(x)"))
    assert (place.receiver, place.arguments) == (None, ("x",))
    place = Statements(SOURCE).place(
        finding("losses.update(\n                model(x),\n                1,\n            )")
    )
    assert (place.receiver, place.arguments) == ("losses", ("model(x)", "1"))


def test_what_takes_a_value() -> None:
    assert Statements(SOURCE).place(finding("model(x)")).taker == "losses"
    assert Statements(SOURCE).place(finding("model(z)")).taker is None


def test_what_a_statement_binds() -> None:
    assert Statements(SOURCE).place(finding("model(z)")).targets == ("a", "b")
    assert Statements(SOURCE).place(finding("model(\n                epoch)")).targets == ("y", "é")


def test_names_mean_the_same_within_a_function() -> None:
    statements = Statements(SOURCE)
    here = finding("model(x)").location
    assert statements.same_function(here, finding("model(z)").location)
    assert not statements.same_function(here, finding("import torch").location)
