"""Several processes, one report."""

from __future__ import annotations

from pathlib import Path

import pytest

from memlint.findings import Watch
from memlint.verify.memory import RunMemory
from memlint.verify.ranks import RankResult, Ranks, merged
from memlint.verify.verdicts import Judged, Ruling, Verdict, confirmed, refuted
from tests.verify.test_decide import diagnostic


def test_one_process_is_no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert Ranks.from_environment() is None


def test_the_gravest_ruling_counts_and_the_spread_is_told(tmp_path: Path) -> None:
    memory = RunMemory("cpu", 100, 200)
    folder = tmp_path / "ranks"
    small, large = (confirmed("grows", "device", bytes_per_step=size) for size in (10, 20))
    rulings = [small, large, refuted("flat")]
    for rank, ruling in enumerate(rulings):
        Ranks(rank, 3, folder).publish(RankResult(rank, (ruling,), memory))
    results = Ranks(0, 3, folder).collect(5)
    assert [result.rank for result in results] == [0, 1, 2]
    (judged,) = merged([Judged(diagnostic(Watch.REACHABLE), small)], results)
    assert judged.ruling.bytes_per_step == 20
    assert judged.ruling.evidence == "grows (confirmed on 2 of 3 ranks, with 10 B to 20 B)"
    assert not folder.exists()


def test_who_does_not_report_is_missing(tmp_path: Path) -> None:
    ranks = Ranks(0, 2, tmp_path / "ranks")
    ranks.publish(RankResult(0, (Ruling(Verdict.INCONCLUSIVE, "why"),), None))
    assert [result.rank for result in ranks.collect(0.3)] == [0]
