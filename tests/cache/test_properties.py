"""Whatever is edited, a run with a cache finds what a run without one finds."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from memlint.cache import world
from tests.cache import projects

SEEDS = int(os.environ.get("MEMLINT_CACHE_SEEDS", "2"))
EDITS = 12


@pytest.mark.parametrize("seed", range(SEEDS))
def test_edits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    monkeypatch.setenv("MEMLINT_DEBUG", "1")
    # Each edit follows a check, which takes longer than the file system counts.
    monkeypatch.setattr(world, "_SETTLED", 0 if seed % 2 else 2_000_000_000)
    monkeypatch.chdir(tmp_path)
    chance = random.Random(seed)
    projects.make(tmp_path)
    assert projects.warm(tmp_path) == projects.cold(tmp_path)
    done = []
    for _ in range(EDITS):
        done += [projects.edit(tmp_path, chance) for _ in range(chance.choice((1, 1, 1, 2, 5)))]
        assert projects.warm(tmp_path) == projects.cold(tmp_path), done
