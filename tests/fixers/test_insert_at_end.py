from __future__ import annotations

import pytest

from memlint.findings import CannotFix
from tests.fixers.conftest import Repair


@pytest.mark.parametrize(
    ("body", "after"),
    [
        pytest.param("\n    a()\n", "\n    a()\n    self.outs.clear()\n", id="last"),
        pytest.param(
            "\n    a()\n    return x\n", "\n    a()\n    self.outs.clear()\n    return x\n", id="above-return"
        ),
        pytest.param("\n    return\n", "\n    self.outs.clear()\n    return\n", id="above-bare-return"),
        pytest.param(
            "\n    if x:\n        return 1\n",
            "\n    if x:\n        return 1\n    self.outs.clear()\n",
            id="below-inner-return",
        ),
        pytest.param("\n    pass  # todo\n", "\n    self.outs.clear()  # todo\n", id="instead-of-pass"),
        pytest.param(" ...\n", " self.outs.clear()\n", id="instead-of-ellipsis"),
        pytest.param(" a()\n", " a(); self.outs.clear()\n", id="suite"),
        pytest.param(" return x\n", " self.outs.clear(); return x\n", id="suite-with-return"),
        pytest.param("\n    '''Doc.'''\n", "\n    '''Doc.'''\n    self.outs.clear()\n", id="docstring"),
    ],
)
def test_inserts_it(repair: Repair, body: str, after: str) -> None:
    head = "class A:\n  def f(self):"
    indented = [text.replace("\n    ", "\n      ") for text in (body, after)]
    assert repair(head + indented[0], {"function": "def f"}, code="self.outs.clear()") == head + indented[1]


@pytest.mark.parametrize("value", ["torch.stack(self.outs)", "self.outs", "self.outs[0].mean()", "self"])
def test_not_above_a_return_of_what_it_changes(repair: Repair, value: str) -> None:
    with pytest.raises(CannotFix, match="returns what"):
        repair(f"def f(self):\n    return {value}\n", {"function": "def f"}, code="self.outs.clear()")


def test_not_below_a_raise(repair: Repair) -> None:
    with pytest.raises(CannotFix, match="raising"):
        repair("def f(self):\n    raise E\n", {"function": "def f"}, code="self.outs.clear()")
