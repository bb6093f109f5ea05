"""Runs one plan: ``python -m memlint.capacity.simulate.child PLAN``."""

from __future__ import annotations

import sys
from pathlib import Path

from memlint.capacity.simulate.child.running import Run
from memlint.capacity.simulate.settings import SimulationPlan
from memlint.verify.serial import loaded

if __name__ == "__main__":
    sys.exit(Run(loaded(SimulationPlan, Path(sys.argv[1]).read_text("utf-8"))).execute())
