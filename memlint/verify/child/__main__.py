"""Runs one plan: ``python -m memlint.verify.child PLAN``."""

from __future__ import annotations

import sys
from pathlib import Path

from memlint.verify.child.running import Run
from memlint.verify.plan import Plan
from memlint.verify.serial import loaded

if __name__ == "__main__":
    Run(loaded(Plan, Path(sys.argv[1]).read_text("utf-8"))).execute()
