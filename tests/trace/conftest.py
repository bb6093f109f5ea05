"""Where the tests find traces that were recorded on real GPUs, if they are there at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RECORDED = Path(os.environ.get("MEMLINT_RECORDED_TRACES", ROOT.parent / "shared" / "traces"))
"""A folder of published CUDA snapshots and profiler traces; they are not part of the repository."""


@pytest.fixture
def recorded() -> Callable[[str], Path]:
    """The path of a recorded trace by its file name; skips the test where it is not there."""

    def find(name: str) -> Path:
        path = RECORDED / name
        if not path.exists():
            pytest.skip(f"needs the recorded trace {name} (in $MEMLINT_RECORDED_TRACES)")
        return path

    return find
