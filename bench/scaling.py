"""How time and memory of a cold ``memlint check`` grow with the size of a project.

    python bench/scaling.py --up-to 1000000

Projects of 1,000 lines and more, each ten times as large as the one before, are written to a temporary folder (see
``generated.py``) and checked by one process without a cache. What is printed is processor time, peak memory, and the
slope of the logarithm of the time over that of the lines: 1 is linear growth. The start of the process (imports, 0.3 to
0.5 s) is measured with an empty project and subtracted for the slope, or small projects would hide growth.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from generated import project
from usage import MEMLINT, Usage, usage


@dataclass(frozen=True)
class Point:
    """What one size takes."""

    lines: int
    files: int
    used: Usage


def points(sizes: Sequence[int]) -> tuple[Usage, list[Point]]:
    """What an empty project takes, and what projects of about that many lines take."""
    with tempfile.TemporaryDirectory() as folder:
        empty = Path(folder, "empty")
        empty.mkdir()
        (empty / "one.py").write_text("import torch\nx = torch.ones(1).cuda()\n")
        return checked(empty), [_point(Path(folder, str(size)), size) for size in sizes]


def _point(root: Path, size: int) -> Point:
    lines = project(root, lines=size)
    return Point(lines, sum(1 for _ in root.rglob("*.py")), checked(root))


def checked(root: Path) -> Usage:
    """A cold check of ``root`` by one process."""
    return usage([sys.executable, *MEMLINT, "check", "--no-cache", "--quiet", "--jobs", "1", "."], root)


def slope(start: Usage, found: Sequence[Point]) -> float:
    """Of log time over log lines, by least squares."""
    pairs = [(math.log(point.lines), math.log(max(point.used.cpu - start.cpu, 1e-3))) for point in found]
    middle_x = sum(x for x, _ in pairs) / len(pairs)
    middle_y = sum(y for _, y in pairs) / len(pairs)
    above = sum((x - middle_x) * (y - middle_y) for x, y in pairs)
    return above / sum((x - middle_x) ** 2 for x, _ in pairs)


def sizes(up_to: int) -> list[int]:
    """1,000 lines, 10,000, and so on, ``up_to`` included."""
    found = [1000]
    while found[-1] * 10 <= up_to:
        found.append(found[-1] * 10)
    return found


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Growth of time and memory with the size of a project.")
    parser.add_argument("--up-to", type=int, default=100_000, help="lines of the largest project (%(default)s)")
    options = parser.parse_args()
    start, found = points(sizes(options.up_to))
    print(f"{'lines':>10} {'files':>7} {'s':>8} {'lines/s':>9} {'MiB':>6}")
    for point in found:
        rate = point.lines / max(point.used.cpu - start.cpu, 1e-3)
        print(f"{point.lines:>10,} {point.files:>7,} {point.used.cpu:8.2f} {rate:9,.0f} {point.used.peak:6.0f}")
    print(f"start {start.cpu:.2f} s, slope {slope(start, found):.2f}")


if __name__ == "__main__":
    main()
