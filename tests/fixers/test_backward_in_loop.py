from __future__ import annotations

import pytest

from memlint.findings import CannotFix
from tests.fixers.conftest import Repair


def test_a_name_is_differentiated_in_front_of_the_sum(repair: Repair) -> None:
    before = "for x in y:\n    total += loss\ntotal.backward()\nstep()\n"
    after = "for x in y:\n    loss.backward()\n    total += loss.detach()\nstep()\n"
    assert repair(before, {"expression": "loss", "call": "total.backward()"}, total="total", name="new") == after


def test_another_expression_gets_a_name(repair: Repair) -> None:
    before = "for x in y:\n    # sum\n    total = total + f(x) / 2\nscale(total).backward()\n"
    after = "for x in y:\n    new = f(x) / 2\n    scale(new).backward()\n    # sum\n    total = total + new.detach()\n"
    targets = {"expression": "f(x) / 2", "call": "scale(total).backward()"}
    assert repair(before, targets, total="total", name="new") == after


@pytest.mark.parametrize(
    ("before", "loss", "call", "reason"),
    [
        pytest.param(
            "total += f(x)\nnew = 1\ntotal.backward()\n", "f(x)", "total.backward()", "taken", id="name-taken"
        ),
        pytest.param("total += f(x)\nz = total.backward()\n", "f(x)", "total.backward()", "larger", id="assigned"),
        pytest.param(
            "total += f(  # why\n)\ntotal.backward()\n", "f(  # why\n)", "total.backward()", "comment", id="why"
        ),
        pytest.param("scale(f(x)).backward()\n", "f(x)", "scale(f(x)).backward()", "itself", id="no-sum"),
        pytest.param("total += f(x)\nsum(z).backward()\n", "f(x)", "sum(z).backward()", "does not name", id="unnamed"),
    ],
)
def test_what_cannot_be_fixed(repair: Repair, before: str, loss: str, call: str, reason: str) -> None:
    with pytest.raises(CannotFix, match=reason):
        repair(before, {"expression": loss, "call": call}, total="total", name="new")
