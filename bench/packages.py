"""Runs memlint over released packages: nothing may crash, no file may be left out without a reason.

    python bench/packages.py
    python bench/packages.py --show MEM101 --package trl

Prints files, lines, seconds and findings by rule and package; ``--show`` prints findings with the code around them, for
reading. The wheels are downloaded once, with pip, and nothing in them is run.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from command import MemlintFailed, Reported, Run, check, memlint, print_table
from rich.table import Table
from wheels import PACKAGES, Package, default_cache, unpacked


@dataclass(frozen=True)
class Result:
    """One package: what memlint said, or how it failed."""

    package: Package
    files: int
    lines: int
    unexplained: tuple[str, ...]
    """Files that memlint neither checked nor complained about."""
    run: Run | None
    failure: str | None = None


def measure(package: Package, options: Sequence[str]) -> Result:
    """Checks one package."""
    files = package.files()
    lines = sum(path.read_bytes().count(b"\n") for path in files)
    try:
        run = check(["."], cwd=package.root, options=options)
        visited = _visited(package.root)
    except MemlintFailed as error:
        return Result(package, len(files), lines, (), None, str(error))
    skipped = [str(path.relative_to(package.root)) for path in files if path not in visited]
    unexplained = tuple(path for path in skipped if not any(path in line for line in run.complaints))
    return Result(package, len(files), lines, unexplained, run)


def _visited(root: Path) -> set[Path]:
    """The files that memlint means to check in ``root``."""
    shown = memlint("check", "--isolated", "--show-files", ".", cwd=root)
    if shown.returncode != 0:
        raise MemlintFailed(f"--show-files fails in {root} (exit {shown.returncode}): {shown.stderr.strip()}")
    return {(root / line).resolve() for line in shown.stdout.splitlines()}


def print_summary(results: Sequence[Result]) -> None:
    """Files, lines, seconds and findings by rule, a column a package."""
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for column in (*(result.package.name for result in results), "all"):
        table.add_column(column, justify="right")

    def line(title: str, values: Sequence[float], form: str = "{:,.0f}") -> None:
        table.add_row(title, *(form.format(value) if value else "-" for value in (*values, sum(values))))

    runs = [result.run for result in results]
    line("files", [result.files for result in results])
    line("lines", [result.lines for result in results])
    line("seconds", [run.seconds if run else 0 for run in runs], "{:.1f}")
    line("crashes", [run is None for run in runs])
    line("files not checked", [len(run.complaints) if run else 0 for run in runs])
    line("left out, no reason", [len(result.unexplained) for result in results])
    counts = [Counter(finding.code for finding in run.findings) if run else Counter[str]() for run in runs]
    for code in sorted(set().union(*counts)):
        line(code, [count[code] for count in counts])
    line("findings", [count.total() for count in counts])
    print_table(table)


def print_trouble(results: Sequence[Result]) -> None:
    """Crashes, files that could not be checked and why, files left out."""
    for result in results:
        if result.failure:
            print(f"{result.package.name}: {result.failure}")
        for complaint in result.run.complaints if result.run else ():
            print(f"{result.package.name}: {complaint}")
        for path in result.unexplained:
            print(f"{result.package.name}: {path}: left out without a reason")


def print_findings(results: Sequence[Result], prefix: str, context: int) -> None:
    """The findings whose code starts with ``prefix``, each with the code around it."""
    for result in results:
        for finding in result.run.findings if result.run else ():
            if finding.code.startswith(prefix):
                print(frame(finding, result.package.root, context))


def frame(finding: Reported, root: Path, context: int) -> str:
    """One finding with ``context`` lines of code on either side; its own rows are marked."""
    lines = finding.path.read_text(encoding="utf-8", errors="replace").splitlines()
    first, last = max(1, finding.row - context), min(len(lines), finding.end_row + context)
    marked = [
        f"{'>' if finding.row <= row <= finding.end_row else ' '} {row:>5} | {lines[row - 1]}"
        for row in range(first, last + 1)
    ]
    place = f"{finding.path.relative_to(root)}:{finding.row}:{finding.column}"
    told = f"{finding.code} {finding.name} ({finding.severity}, {finding.confidence})"
    return "\n".join(["", f"{place} {told}", f"  {finding.message}", f"  holds: {finding.holds}", *marked])


def main() -> None:
    """The command line; exits with 1 when a package crashes memlint or a file is left out."""
    parser = argparse.ArgumentParser(description="Runs memlint over released packages.")
    parser.add_argument("--cache", type=Path, default=default_cache(), help="where wheels are kept (%(default)s)")
    parser.add_argument("--package", action="append", metavar="NAME", help="only this package (repeatable)")
    parser.add_argument("--show", metavar="CODE", help="print the findings of this code or prefix of codes")
    parser.add_argument("--context", type=int, default=8, help="lines of code around a shown finding (%(default)s)")
    parser.add_argument("--jobs", default="1", help="processes of memlint (%(default)s)")
    options = parser.parse_args()
    wanted = [one for one in PACKAGES if not options.package or one.split("==")[0] in options.package]
    if not wanted:
        parser.error(f"no such package; there are {', '.join(PACKAGES)}")
    results = [measure(unpacked(one, options.cache), ["--jobs", options.jobs]) for one in wanted]
    if options.show:
        print_findings(results, options.show, options.context)
    print_summary(results)
    print_trouble(results)
    sys.exit(any(result.failure or result.unexplained for result in results))


if __name__ == "__main__":
    main()
