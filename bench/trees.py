"""Lays files of a commit out as a user has them, in their whole tree, and checks them there."""

from __future__ import annotations

import ast
import json
import re
import shutil
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from command import MemlintFailed, Reported, check
from mirrors import Mirrors, flat_rows

NEAR = 3
"""A finding this many rows from a labelled row still speaks about it."""


class Site(NamedTuple):
    """A file at a commit."""

    repo: str
    commit: str
    path: str


@dataclass(frozen=True)
class Checked:
    """What memlint said about one file; notebooks count rows in their flat form."""

    findings: tuple[Reported, ...]
    lines: tuple[str, ...]

    def near(self, rows: Iterable[int], codes: frozenset[str] | None = None) -> list[Reported]:
        """The findings of ``codes`` that start within :data:`NEAR` rows of one of ``rows``."""
        rows = tuple(rows)
        return [
            finding
            for finding in self.findings
            if (codes is None or finding.code in codes) and any(abs(finding.row - row) <= NEAR for row in rows)
        ]

    def on(self, row: int, codes: frozenset[str]) -> list[Reported]:
        """The findings of ``codes`` whose own rows hold ``row``."""
        return [finding for finding in self.findings if finding.code in codes and finding.row <= row <= finding.end_row]

    def in_function_of(self, row: int, codes: frozenset[str] | None = None) -> list[Reported]:
        """The findings of ``codes`` in the innermost function around ``row``; beside all functions if there is none."""
        mine = self._functions_at(row)
        return [
            finding
            for finding in self.findings
            if (codes is None or finding.code in codes) and self._functions_at(finding.row)[:1] == mine[:1]
        ]

    def _functions_at(self, row: int) -> list[tuple[int, int]]:
        """First and last row of the functions around ``row``, innermost first."""
        around = [span for span in self._functions if span[0] <= row <= span[1]]
        return sorted(around, key=lambda span: span[1] - span[0])

    @cached_property
    def _functions(self) -> tuple[tuple[int, int], ...]:
        try:
            tree = ast.parse("\n".join(self.lines))
        except SyntaxError:
            return ()
        defined = [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
        return tuple((node.lineno, node.end_lineno or node.lineno) for node in defined)

    def text(self, row: int) -> str:
        """The stripped line at ``row``."""
        return self.lines[row - 1].strip() if 0 < row <= len(self.lines) else ""


Results = Mapping[Site, Checked]


@dataclass
class Batch:
    """What became of files; one that is in neither table is absent."""

    checked: dict[Site, Checked] = field(default_factory=dict)
    failed: dict[Site, str] = field(default_factory=dict)
    """Files that memlint could not check, or not completely, and what it said. Their silence proves nothing."""
    seconds: dict[Path, float] = field(default_factory=dict)
    """How long the run in each tree took."""

    def add(self, other: Batch) -> None:
        """Takes in what became of other files."""
        self.checked |= other.checked
        self.failed |= other.failed
        self.seconds |= other.seconds


@dataclass(frozen=True)
class Workshop:
    """Lays trees out under ``folder`` and runs memlint in them."""

    mirrors: Mirrors
    folder: Path
    alone: bool
    """Whether each file stands alone, with the metadata of its project and without the rest of its repository."""
    select: str = ""
    """Rules to turn on instead of the default ones: ``ALL``, or codes with commas."""

    def check(self, sites: Sequence[Site]) -> Batch:
        """Checks files of one commit (a single file when ``alone``)."""
        root = self._root(sites[0])
        present = [site for site in sites if self.lay_out(site) is not None]
        if not present:
            return Batch()
        try:
            run = check(
                [site.path for site in present], cwd=root, options=["--select", self.select] if self.select else []
            )
        except MemlintFailed as error:
            return Batch(failed=dict.fromkeys(present, str(error)))
        batch = Batch(seconds={root: run.seconds})
        for site in present:
            complaint = next((line for line in run.complaints if site.path in line), None)
            if complaint is None:
                batch.checked[site] = _checked(root / site.path, run.findings)
            else:
                batch.failed[site] = complaint
        return batch

    def lay_out(self, site: Site) -> Path | None:
        """The root of the project in which the file now lies; None when no mirror has it."""
        root = self._root(site)
        if self.alone:
            self._lay_out_metadata(site, root)
        else:
            self._lay_out_tree(site, root)
        return root if self._lay_out_file(site, root) else None

    def _root(self, site: Site) -> Path:
        place = self.folder / site.repo.replace("/", "+")
        if self.alone:
            return place / f"{site.commit[:12]}-alone" / re.sub(r"\W", "_", site.path)
        return place / site.commit[:12]

    def _lay_out_tree(self, site: Site, root: Path) -> None:
        if root.exists():
            return
        # Renamed when complete, so that an interrupted run leaves no half tree behind.
        part = root.with_name(root.name + ".part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        for files in (self.mirrors.python_files, self.mirrors.metadata):
            for path, data in files(site.repo, site.commit):
                _write(part / path, data)
        part.rename(root)

    def _lay_out_metadata(self, site: Site, root: Path) -> None:
        """A file alone still runs with the versions that its project asks for, in its folder or above it."""
        folders = {*Path(site.path).parents}
        for path, data in self.mirrors.metadata(site.repo, site.commit) if not root.exists() else ():
            if path.parent in folders or path.parent.parent in folders:
                _write(root / path, data)

    def _lay_out_file(self, site: Site, root: Path) -> bool:
        target = root / site.path
        if not target.is_file():
            data = self.mirrors.read(site.repo, f"{site.commit}:{site.path}")
            if data is None:
                return False
            _write(target, data)
        (root / "pyproject.toml").touch()  # marks the root of the project
        return True


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _checked(path: Path, findings: Iterable[Reported]) -> Checked:
    """What is said about ``path`` among the findings of a run."""
    data = path.read_bytes()
    here = [finding for finding in findings if finding.path == path]
    if path.suffix != ".ipynb":
        return Checked(tuple(here), tuple(data.decode("utf-8", "replace").splitlines()))
    markers = flat_rows(data)
    flattened = [_flattened(finding, markers[finding.cell]) for finding in here if finding.cell is not None]
    return Checked(tuple(flattened), _flat_lines(data))


def _flat_lines(notebook: bytes) -> tuple[str, ...]:
    lines: list[str] = []
    cells = json.loads(notebook)["cells"]
    for number in flat_rows(notebook):
        lines.append(f"# cell {number}")
        lines += "".join(cells[number - 1]["source"]).split("\n")
    return tuple(lines)


def _flattened(finding: Reported, marker: int) -> Reported:
    return replace(finding, row=finding.row + marker, end_row=finding.end_row + marker)


def check_all(workshop: Workshop, sites: Iterable[Site], jobs: int) -> Batch:
    """Checks every site, the files of one commit in one run."""
    groups: dict[object, list[Site]] = defaultdict(list)
    for site in sorted(set(sites)):
        groups[site if workshop.alone else (site.repo, site.commit)].append(site)
    results = Batch()
    with ThreadPoolExecutor(jobs) as pool:
        for batch in pool.map(workshop.check, groups.values()):
            results.add(batch)
    return results
