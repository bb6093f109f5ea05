"""Measures what ``examples/hazards.py`` holds in memory: as it is, with memlint's fixes, and against its clean twin.

    python bench/example_memory.py            # hazards.py and clean.py
    python bench/example_memory.py --fixed    # also hazards.py after --fix and after --fix --unsafe-fixes

Each script runs on the CPU, in a process and on a thread of its own; ``live_memory.py`` says what is counted. A stage's
*growth* is the median rise of live bytes from one of its optimizer steps to the next.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median

from rich import box
from rich.console import Console
from rich.table import Table

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
MIB = 1 << 20


@dataclass(frozen=True)
class Stage:
    """What one function of a script held: bytes, and bytes per optimizer step where there were two or more."""

    peak: int
    growth: float | None

    def __str__(self) -> str:
        growth = "" if self.growth is None else f"{self.growth / MIB:+.2f}"
        return f"{self.peak / MIB:.1f} {growth:>7}"


def measure(script: Path) -> dict[str, Stage]:
    """The stages of ``script`` in the order in which they ran."""
    run = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("live_memory.py")), str(script)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return {name: _stage(stage["peak"], stage["live_at_steps"]) for name, stage in json.loads(run.stdout).items()}


def _stage(peak: int, live_at_steps: list[int]) -> Stage:
    rises = [after - before for before, after in pairwise(live_at_steps)]
    return Stage(peak, median(rises) if rises else None)


def repaired(folder: Path, *options: str) -> Path:
    """``hazards.py`` in a copy of the examples, after ``memlint check`` with ``options``."""
    script = Path(shutil.copytree(EXAMPLES, folder)) / "hazards.py"
    subprocess.run([sys.executable, "-m", "memlint", "check", "--exit-zero", *options, str(script)], check=True)
    return script


def print_table(variants: dict[str, dict[str, Stage]]) -> None:
    """One row a stage; a peak and a growth for each variant."""
    table = Table("stage", box=box.SIMPLE_HEAD, padding=0)
    for variant in variants:
        table.add_column(variant, justify="right")
    for stage in next(iter(variants.values())):
        table.add_row(stage, *(str(stages.get(stage, "")) for stages in variants.values()))
    peaks = (max(stage.peak for stage in stages.values()) for stages in variants.values())
    table.add_row("whole run", *(str(Stage(peak, None)) for peak in peaks))
    console = Console()
    console.print("Live tensor memory on the CPU in MiB: peak, and growth per optimizer step")
    console.print(table)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description="Measures what examples/hazards.py holds in memory.")
    parser.add_argument("--fixed", action="store_true", help="also measure hazards.py with memlint's fixes applied")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        scripts = {"hazards.py": EXAMPLES / "hazards.py"}
        if options.fixed:
            scripts["--fix"] = repaired(Path(folder, "safe"), "--fix")
            scripts["--unsafe-fixes"] = repaired(Path(folder, "unsafe"), "--fix", "--unsafe-fixes")
        scripts["clean.py"] = EXAMPLES / "clean.py"
        print_table({variant: measure(script) for variant, script in scripts.items()})


if __name__ == "__main__":
    main()
