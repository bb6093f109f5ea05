from __future__ import annotations

import pytest

from memlint.findings import CannotFix
from tests.fixers.conftest import Repair

STATEMENT = "torch.no_grad()"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param(
            "def f():\n    torch.no_grad()  # off\n    a()\n\n    # then\n    b()\n\nc()\n",
            "def f():\n    with torch.no_grad():  # off\n        a()\n\n        # then\n        b()\n\nc()\n",
            id="function",
        ),
        pytest.param("torch.no_grad()\na()", "with torch.no_grad():\n    a()", id="module"),
        pytest.param("torch.no_grad();\na()\n", "with torch.no_grad():\n    a()\n", id="final-semicolon"),
        pytest.param("torch.no_grad(); a()\nb()\n", "with torch.no_grad():\n    a()\n    b()\n", id="joined"),
        pytest.param("a(); torch.no_grad(); b()\n", "a()\nwith torch.no_grad():\n    b()\n", id="joined-middle"),
        pytest.param("if x: torch.no_grad(); a()\n", "if x:\n    with torch.no_grad():\n        a()\n", id="suite"),
        pytest.param(
            "if x: a(); torch.no_grad(); b()\n",
            "if x:\n    a()\n    with torch.no_grad():\n        b()\n",
            id="middle-of-a-suite",
        ),
        pytest.param(
            'if x:\n  torch.no_grad()\n  a("""\nb""")\n',
            'if x:\n  with torch.no_grad():\n    a("""\nb""")\n',
            id="string",
        ),
    ],
)
def test_enters_it(repair: Repair, before: str, after: str) -> None:
    assert repair(before, {"statement": STATEMENT}) == after


@pytest.mark.parametrize(
    ("before", "statement", "reason"),
    [
        pytest.param("if x:\n    torch.no_grad()\na()\n", STATEMENT, "nothing follows", id="nothing-follows"),
        pytest.param("x = torch.no_grad()\na()\n", f"x = {STATEMENT}", "of its own", id="assigned"),
        pytest.param("def f():\n    torch.no_grad()\n    yield a\n", STATEMENT, "yield", id="yield"),
    ],
)
def test_refuses(repair: Repair, before: str, statement: str, reason: str) -> None:
    with pytest.raises(CannotFix, match=reason):
        repair(before, {"statement": statement})
