from __future__ import annotations

import pytest

from memlint.findings import CannotFix
from tests.fixers.conftest import Repair

TARGETS = {"loop": "for", "call": "loss.backward()", "batch": "64"}
STEPS = {"steps": "8", "batch": "8"}


def test_a_loop_is_made_to_count_and_steps_once_in_several_batches(repair: Repair) -> None:
    before = (
        "a = load(64)\n"
        "for x, y in a:\n"
        "    loss = f(x, y)\n"
        "    loss.backward()\n"
        "    # Now.\n"
        "    step()\n"
        "    clear()\n"
        "    log()\n"
    )
    after = (
        "a = load(8)\n"
        "for index, (x, y) in enumerate(a):\n"
        "    loss = f(x, y)\n"
        "    (loss / 8).backward()\n"
        "    # Now.\n"
        "    if (index + 1) % 8 == 0:\n"
        "        step()\n"
        "        clear()\n"
        "    log()\n"
    )
    assert repair(before, {**TARGETS, "step": ("step()", "clear()")}, **STEPS) == after


def test_what_is_cleared_first_is_cleared_before_the_first_of_several_batches(repair: Repair) -> None:
    before = "index = 0\nfor(x)in(load(64)):\n    clear()\n    loss = f(x)\n    loss.backward()\n    step()\n"
    after = (
        "index = 0\nfor index_2, (x)in enumerate((load(8))):\n    if index_2 % 8 == 0:\n        clear()\n"
        "    loss = f(x)\n    (loss / 8).backward()\n    if (index_2 + 1) % 8 == 0:\n        step()\n"
    )
    assert repair(before, {**TARGETS, "step": "step()", "clear": "clear()"}, **STEPS) == after


def test_a_loop_that_counts_already_is_not_made_to(repair: Repair) -> None:
    before = "for i, x in enumerate(load(64)):\n    loss.backward()\n    step()\n"
    after = "for i, x in enumerate(load(8)):\n    (loss / 8).backward()\n    if (i + 1) % 8 == 0:\n        step()\n"
    assert repair(before, {**TARGETS, "step": "step()"}, index="i", **STEPS) == after


@pytest.mark.parametrize(
    ("before", "reason"),
    [
        pytest.param("for x in f(64):\n    y = loss.backward()\n    step()\n", "larger", id="assigned"),
        pytest.param("for x in f(64):\n    loss.backward()\nstep()\n", "block", id="elsewhere"),
        pytest.param("for x in f(64):\n    loss.backward(); step()\n", "shares", id="one-row"),
        pytest.param("for x in y:\n    f(64)\n    loss.backward()\n    step()\n", "in the loop", id="inside"),
        pytest.param("for x in f(64), y:\n    loss.backward()\n    step()\n", "parentheses", id="tuple"),
        pytest.param(
            "async def g():\n    async for x in f(64):\n        loss.backward()\n        step()\n",
            "asynchronous",
            id="async",
        ),
    ],
)
def test_what_cannot_be_fixed(repair: Repair, before: str, reason: str) -> None:
    targets = {**TARGETS, "step": "step()", "loop": "async for" if "async" in before else "for"}
    with pytest.raises(CannotFix, match=reason):
        repair(before, targets, **STEPS)
