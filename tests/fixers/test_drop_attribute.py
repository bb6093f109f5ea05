from __future__ import annotations

from tests.fixers.conftest import Repair


def test_takes_it_off_both_sides(repair: Repair) -> None:
    before = "head.weight.data = table.weight.data  # tied\n"
    after = repair(before, {"attribute": ("head.weight.data", "table.weight.data")})
    assert after == "head.weight = table.weight  # tied\n"


def test_keeps_what_comes_behind(repair: Repair) -> None:
    assert repair("a = [b.data, c]\n", {"attribute": "b.data"}) == "a = [b, c]\n"
