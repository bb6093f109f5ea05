"""The profiler's trace of the first steps."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")

import torch

from memlint.trace.events import Phase
from memlint.trace.kineto import read_kineto
from memlint.verify.child.profile import StepProfile


def test_it_ends_with_its_steps_and_asks_for_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def asks() -> bool:
        raise AssertionError("CUDA would be initialized")

    monkeypatch.setattr(torch.cuda, "is_available", asks)
    monkeypatch.setattr(torch.cuda, "device_count", asks)
    path = tmp_path / "trace.json.gz"
    profile = StepProfile(path, 2)
    profile.start()
    for step in range(4):
        profile.reached(step, Phase.FORWARD)
        torch.ones(1000 + step).sum()
        profile.reached(step + 1, Phase.OPTIMIZER)
        profile.reached(step + 1, None)
    profile.stop()
    assert profile.write() is None
    sizes = {event.size for event in read_kineto(path).events}
    assert {4000, 4004} <= sizes
    assert not {4008, 4012} & sizes


def test_a_script_that_is_stopped_before_has_none(tmp_path: Path) -> None:
    profile = StepProfile(tmp_path / "trace.json.gz", 2)
    profile.start()
    try:
        assert "stopped" in (profile.write() or "")
        assert not (tmp_path / "trace.json.gz").exists()
    finally:
        profile.stop()
