"""Compares a cold ``memlint check`` with bare parsing: what everything but the parser costs.

    python bench/parse_ratio.py

Two programs take turns over one wheel, each in a fresh process on one core: one only calls ``libcst.parse_module`` on
the files that pass the gate, the other is ``memlint check --no-cache --jobs 1`` on the whole wheel. Times are those of
the processor (user and system), which a machine with other work to do spoils less than those of the clock. What is
printed are medians over the turns: of the ratio of the whole command to the parse calls alone, and of that of whole
process to whole process.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from command import check
from wheels import PACKAGES, default_cache, unpacked

from memlint.check.gate import rules_that_can_fire
from memlint.registry import all_rules

PARSE = """\
import sys, time
import libcst
sources = [open(path, "rb").read() for path in sys.stdin.read().splitlines()]
start = time.process_time()
for source in sources:
    libcst.parse_module(source)
print(time.process_time() - start)
"""


@dataclass(frozen=True)
class Round:
    """Seconds of processor time that one turn of both programs took."""

    parse: float
    """The calls of ``libcst.parse_module`` alone."""
    parse_process: float
    """The process around them: start, imports, reading."""
    check: float
    """The memlint command from start to exit."""


def past_the_gate(files: Sequence[Path]) -> list[Path]:
    """The files that one of the rules that are on by default may speak about."""
    # The engine's own checks, of comments, need no syntax tree.
    rules = [rule for rule in all_rules() if rule.default and type(rule).__module__.startswith("memlint.rules.")]
    return [path for path in files if rules_that_can_fire(path.read_bytes(), rules)]


def parse(files: Sequence[Path]) -> tuple[float, float]:
    """Seconds of parsing ``files`` in a fresh process, and of that process."""
    start = _of_children()
    done = subprocess.run(
        [sys.executable, "-I", "-c", PARSE],
        input="\n".join(map(str, files)),
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout), _of_children() - start


def _of_children() -> float:
    """Seconds of processor time that the processes which this one has started, and which have ended, have taken."""
    times = os.times()
    return times.children_user + times.children_system


def turn(root: Path, gated: Sequence[Path]) -> Round:
    """One turn of both."""
    parsing, process = parse(gated)
    start = _of_children()
    check(["."], cwd=root, options=["--jobs", "1"])
    return Round(parsing, process, _of_children() - start)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Time of memlint check over time of bare parsing.")
    parser.add_argument("--cache", type=Path, default=default_cache(), help="where wheels are kept (%(default)s)")
    parser.add_argument("--package", default=PACKAGES[0], metavar="NAME==VERSION", help="(%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="turns, after one that does not count (%(default)s)")
    options = parser.parse_args()
    package = unpacked(options.package, options.cache)
    files = package.files()
    gated = past_the_gate(files)
    turn(package.root, gated)  # fills the disk cache
    rounds = [turn(package.root, gated) for _ in range(options.rounds)]
    parsing = statistics.median(one.parse for one in rounds)
    process = statistics.median(one.parse_process for one in rounds)
    checking = statistics.median(one.check for one in rounds)
    lines = sum(path.read_bytes().count(b"\n") for path in gated)
    print(f"{options.package}: {len(gated)} of {len(files)} files pass the gate, {lines:,} lines; {len(rounds)} rounds")
    print(f"libcst.parse_module  {parsing:6.2f} s   {lines / parsing:,.0f} lines/s")
    print(f"  its process        {process:6.2f} s")
    print(f"memlint check        {checking:6.2f} s")
    ratios = sorted(one.check / one.parse for one in rounds)
    spread = f"({ratios[0]:.2f} to {ratios[-1]:.2f})"
    print(f"check / parse calls  {statistics.median(ratios):6.2f}   {spread}")
    print(f"process / process    {statistics.median(one.check / one.parse_process for one in rounds):6.2f}")


if __name__ == "__main__":
    main()
