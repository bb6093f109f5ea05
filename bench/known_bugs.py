"""Finds memory bugs in releases that had them, and is silent in the releases that repaired them.

    python bench/known_bugs.py

``known_bugs.toml`` names the releases. Both wheels of a bug are downloaded, once, and the file with the bug is checked
inside its package as it was installed; nothing in the wheels is run. A bug counts as found when a rule of its class
speaks within three rows of it, and the repair as silent when none does there.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from command import MemlintFailed, Reported, check, print_table
from rich.table import Table
from scoring import RULES_OF_CLASS
from trees import NEAR
from wheels import default_cache, unpacked

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

LIST = Path(__file__).with_suffix(".toml")


@dataclass(frozen=True)
class Release:
    """A version, and the rows of the bug or of its repair."""

    version: str
    rows: tuple[int, ...]

    @classmethod
    def read(cls, entry: Mapping[str, Any]) -> Release:
        """The release of one entry of the list."""
        return cls(entry["version"], tuple(entry["rows"]))


@dataclass(frozen=True)
class KnownBug:
    """One entry of the list."""

    package: str
    file: str
    codes: frozenset[str]
    before: Release
    after: Release
    holds: str

    @classmethod
    def read(cls, entry: Mapping[str, Any]) -> KnownBug:
        """The bug of one entry of the list."""
        before, after = Release.read(entry["before"]), Release.read(entry["after"])
        return cls(entry["package"], entry["file"], RULES_OF_CLASS[entry["class"]], before, after, entry["holds"])

    def findings(self, release: Release, cache: Path) -> list[Reported]:
        """What memlint says near the rows of ``release``."""
        root = unpacked(f"{self.package}=={release.version}", cache).root
        run = check([self.file], cwd=root)
        if run.complaints:
            raise MemlintFailed("; ".join(run.complaints))
        return [
            finding
            for finding in run.findings
            if finding.code in self.codes and any(abs(finding.row - row) <= NEAR for row in release.rows)
        ]


@dataclass(frozen=True)
class Scored:
    """A bug, and what memlint says before and after its repair."""

    bug: KnownBug
    found: Sequence[Reported]
    still: Sequence[Reported]


def score(bug: KnownBug, cache: Path) -> Scored | None:
    """Checks both releases; None, with the reason printed, when memlint cannot check a file."""
    try:
        return Scored(bug, bug.findings(bug.before, cache), bug.findings(bug.after, cache))
    except MemlintFailed as error:
        print(f"{bug.package} {bug.file}: {error}")
        return None


def known_bugs(path: Path = LIST) -> list[KnownBug]:
    """The list."""
    with path.open("rb") as file:
        return [KnownBug.read(entry) for entry in tomllib.load(file)["bug"]]


def _codes(findings: Sequence[Reported]) -> str:
    return ", ".join(dict.fromkeys(f"{finding.code}:{finding.row}" for finding in findings)) or "-"


def print_scores(scores: Sequence[Scored]) -> None:
    """A row for each bug, and the shares."""
    table = Table(box=None, pad_edge=False)
    for column in ("package", "with the bug", "found", "repaired", "still said", "what it holds"):
        table.add_column(column)
    for score in scores:
        bug = score.bug
        table.add_row(
            bug.package, bug.before.version, _codes(score.found), bug.after.version, _codes(score.still), bug.holds
        )
    print_table(table)
    found = sum(bool(score.found) for score in scores)
    silent = sum(not score.still for score in scores)
    print(f"\nfound {found} of {len(scores)}; silent after the repair {silent} of {len(scores)}")
    print("missed:")
    for score in scores:
        if not score.found:
            print(f"  {score.bug.package} {score.bug.before.version} {score.bug.file}:{score.bug.before.rows[0]}")


def main() -> None:
    """The command line; exits with 1 when memlint could not check a file."""
    parser = argparse.ArgumentParser(description="Scores memlint on released memory bugs.")
    parser.add_argument("--cache", type=Path, default=default_cache(), help="where wheels are kept (%(default)s)")
    parser.add_argument("--package", action="append", metavar="NAME", help="only this package (repeatable)")
    options = parser.parse_args()
    bugs = [bug for bug in known_bugs() if not options.package or bug.package in options.package]
    results = [score(bug, options.cache) for bug in bugs]
    print_scores([one for one in results if one is not None])
    sys.exit(None in results)


if __name__ == "__main__":
    main()
