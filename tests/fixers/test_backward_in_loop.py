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
    ("before", "reason"),
    [
        pytest.param("total += f(x)\nnew = 1\ntotal.backward()\n", "taken", id="name-taken"),
        pytest.param("total += f(x)\nz = total.backward()\n", "larger statement", id="no-statement-of-its-own"),
        pytest.param("total += f(\n    x  # why\n)\ntotal.backward()\n", "comment", id="comment-inside"),
    ],
)
def test_what_cannot_be_fixed(repair: Repair, before: str, reason: str) -> None:
    loss = before[len("total += ") : before.index(")") + 1] if "why" not in before else "f(\n    x  # why\n)"
    with pytest.raises(CannotFix, match=reason):
        repair(before, {"expression": loss, "call": "total.backward()"}, total="total", name="new")
