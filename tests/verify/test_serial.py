"""What two processes tell each other arrives as it was."""

from __future__ import annotations

from pathlib import Path

import pytest

from memlint.capacity.simulate.settings import Settings, SimulationPlan
from memlint.devices import device
from memlint.verify.observations import Ending, LineSeen, Observations, OptimizerSeen, Sample
from memlint.verify.plan import Budget, Plan, WatchedLine
from memlint.verify.serial import dumped, loaded


def test_a_plan() -> None:
    line = WatchedLine(3, "/a/é.py", (1, 2), None, "reachable", ("total", "self.x"), 7)
    budget = Budget(steps=5, until=(5, 9))
    plan = Plan("a.py", False, ("--lr", "1"), (line,), budget, Path("/r"), Path("/p"), {"/a": "/b"}, 0, None)
    assert loaded(Plan, dumped(plan)) == plan


def test_settings_of_a_simulation() -> None:
    settings = Settings(device("t4"))
    plan = SimulationPlan("a.py", False, ("--lr", "1"), settings, Path("/r"), Path("/p"))
    assert loaded(SimulationPlan, dumped(plan)) == plan


def test_observations() -> None:
    seen = Observations(
        ending=Ending.RAISED,
        lines={2: LineSeen(3, [1, 2], [Sample(1, 1, 0, "list", items=4)], where={"a.py:3": 5})},
        optimizers=[OptimizerSeen("SGD", added_to=[1, 2])],
        holder_optimizers={2: [0]},
        losses=[(0.1).hex()],
    )
    assert loaded(Observations, dumped(seen)) == seen


@pytest.mark.parametrize("text", ["", "[]", '{"ending": "unheard of"}', '{"no such field": 1}'])
def test_what_is_damaged_is_refused(text: str) -> None:
    with pytest.raises((ValueError, TypeError, KeyError, AttributeError)):
        loaded(Observations, text)
