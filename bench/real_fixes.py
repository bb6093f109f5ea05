"""Applies memlint's fixes to real bugs and shows them beside what the project itself did.

    python bench/real_fixes.py --mirrors DIR --corpus DIR

For every bug that is marked as fixable by a tool and whose files the mirrors have: the file with the bug, in its whole
tree, goes through ``memlint check --fix --unsafe-fixes``. It must still parse, and what was found at the bug must be
gone. Whether both edits agree is first told by their effects (:data:`EFFECTS`); the diffs are printed side by side
(``--diffs``) for those who want to judge themselves.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from command import MemlintFailed, Run, check, memlint, print_table
from mirrors import Mirrors
from real_code import Corpus, share
from rich.table import Table
from scoring import RULES_OF_CLASS, Row, before
from trees import NEAR, Workshop

EFFECTS: Mapping[str, str] = {
    "no graph is kept": r"\bdetach(_)?\(|\.item\(|\.tolist\(|\bfloat\(|\.data\b|\.numpy\(",
    "no graph is built": r"no_grad|inference_mode|set_grad_enabled|enable_grad|requires_grad_?\b",
    "moved off the device": r"\.cpu\(|\.to\(|\b(move_)?to_(device|cpu)\(",
    "gradients are cleared": r"zero_grad|\.grad = None",
    "graph is freed": r"retain_graph|create_graph|autograd\.grad\(",
    "reference is dropped": r"\bdel\b|\.clear\(|= None\b|save_for_backward|weakref",
}
"""What an edit does to memory, by what its changed lines speak of."""

CONTEXT = 12
"""A hunk of the project's fix this many rows from the bug belongs to it; the rest of the commit is something else."""


@dataclass(frozen=True)
class Fixed:
    """One bug after memlint's fixes."""

    bug: Row
    offered: bool
    """Whether a finding at the bug came with a fix."""
    parses: bool
    gone: bool
    ours: tuple[str, ...]
    theirs: tuple[str, ...]

    @property
    def shared(self) -> frozenset[str]:
        """The effects that both edits have."""
        return effects(self.ours) & effects(self.theirs)


def effects(diff: Sequence[str]) -> frozenset[str]:
    """What a hunk of a diff speaks of more, or less, often than before: what moves from one place to another, too."""

    def count(hunk: Sequence[str], pattern: str, sign: str) -> int:
        return sum(len(re.findall(pattern, line)) for line in hunk if line.startswith(sign))

    return frozenset(
        name
        for hunk in _split(diff)
        for name, pattern in EFFECTS.items()
        if count(hunk, pattern, "+") != count(hunk, pattern, "-")
    )


def _split(diff: Sequence[str]) -> Iterator[Sequence[str]]:
    """The hunks of a diff, each behind its row."""
    starts = [position for position, line in enumerate(diff) if line.startswith("@")]
    yield from (diff[start:end] for start, end in pairwise((*starts, len(diff))))


def hunks(old: str, new: str, rows: Sequence[int] | None = None) -> tuple[str, ...]:
    """The changed lines from ``old`` to ``new`` with their signs; only those near ``rows`` of ``old`` when given."""
    before_lines, after_lines = old.splitlines(), new.splitlines()
    lines: list[str] = []
    matcher = difflib.SequenceMatcher(None, before_lines, after_lines, autojunk=False)
    for tag, start, end, new_start, new_end in matcher.get_opcodes():
        near = rows is None or any(start - CONTEXT <= row <= end + CONTEXT for row in rows)
        if tag != "equal" and near:
            lines.append(f"@ {start + 1}")
            lines += [f"-{line}" for line in before_lines[start:end]]
            lines += [f"+{line}" for line in after_lines[new_start:new_end]]
    return tuple(lines)


def parses(text: str) -> bool:
    """Whether ``text`` is Python 3."""
    try:
        ast.parse(text)
    except SyntaxError:
        return False
    return True


def fix(workshop: Workshop, bug: Row) -> Fixed | None:
    """Fixes one bug in its tree and puts the file back; None when a file is absent or not Python 3."""
    root = workshop.lay_out(before(bug))
    repaired = workshop.mirrors.read(bug["repo"], f"{bug['fix_commit']}:{bug['path']}")
    if root is None or repaired is None:
        return None
    path = root / bug["path"]
    data = path.read_bytes()
    old = data.decode("utf-8", "replace")
    if not parses(old):
        return None
    try:
        found = _at_bug(check([bug["path"]], cwd=root), path, bug)
        memlint("check", "--isolated", "--no-cache", "--fix", "--unsafe-fixes", "--", bug["path"], cwd=root)
        new = path.read_bytes().decode("utf-8", "replace")
        ours = hunks(old, new)
        left = _at_bug(check([bug["path"]], cwd=root), path, bug, _moved(old, new, bug["buggy_lines"]))
    finally:
        path.write_bytes(data)
    theirs = hunks(old, repaired.decode("utf-8", "replace"), bug["buggy_lines"])
    return Fixed(bug, offered=bool(found), parses=parses(new), gone=not left, ours=ours, theirs=theirs)


def _at_bug(run: Run, path: Path, bug: Row, rows: Sequence[int] | None = None) -> list[str]:
    codes = RULES_OF_CLASS[bug["class"]]
    rows = bug["buggy_lines"] if rows is None else rows
    return [
        finding.code
        for finding in run.findings
        if finding.path == path and finding.code in codes and any(abs(finding.row - row) <= NEAR for row in rows)
    ]


def _moved(old: str, new: str, rows: Sequence[int]) -> list[int]:
    """Where rows of ``old`` stand in ``new``."""
    matcher = difflib.SequenceMatcher(None, old.splitlines(), new.splitlines(), autojunk=False)
    return [
        new_start + min(row - 1 - start, max(0, new_end - new_start - 1)) + 1
        for row in rows
        for _, start, end, new_start, new_end in matcher.get_opcodes()
        if start <= row - 1 < end
    ]


def verdict(one: Fixed) -> str:
    """One phrase: how the fix compares with the project's own."""
    if not one.offered:
        return "not found"
    if not one.ours:
        return "no fix"
    if not one.parses:
        return "BROKEN: does not parse"
    if not one.gone:
        return "finding stays"
    return "agrees" if one.shared else "differs"


def print_fixes(results: Sequence[Fixed], diffs: bool) -> None:
    """A row for each bug, and the diffs when asked."""
    table = Table(box=None, pad_edge=False)
    for column in ("bug", "verdict", "memlint's fix", "the project's fix"):
        table.add_column(column)
    for one in results:
        table.add_row(
            one.bug["id"], verdict(one), ", ".join(sorted(effects(one.ours))), ", ".join(sorted(effects(one.theirs)))
        )
    print_table(table)
    fixed = [one for one in results if one.offered and one.ours]
    agree = sum(verdict(one) == "agrees" for one in fixed)
    print(f"\nfixable bugs: {len(results)}; found: {sum(one.offered for one in results)}; fixed: {len(fixed)}")
    print(f"fixes that agree in effect: {agree} of {len(fixed)} ({share(agree, len(fixed))})")
    for one in results if diffs else ():
        print_table(_side_by_side(one))


def _side_by_side(one: Fixed) -> Table:
    table = Table(title=f"{one.bug['id']}: {verdict(one)}", title_justify="left")
    table.add_column("memlint", ratio=1, overflow="fold")
    table.add_column("project", ratio=1, overflow="fold")
    # Plain text: brackets in code are no markup.
    table.add_row(*("\n".join(side).replace("[", r"\[") or "(nothing)" for side in (one.ours, one.theirs)))
    return table


def fix_all(workshop: Workshop, bugs: Sequence[Row]) -> Iterator[Fixed]:
    """Fixes each bug of which both files are present; one that crashes memlint is told and left out."""
    for bug in bugs:
        try:
            result = fix(workshop, bug)
        except MemlintFailed as error:
            print(f"{bug['id']}: {error}")
            continue
        if result is not None:
            yield result


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Compares memlint's fixes with those that projects made.")
    parser.add_argument("--mirrors", type=Path, required=True, help="git mirrors at owner+name/repo")
    parser.add_argument("--corpus", type=Path, required=True, help="folder of the reference files (*.jsonl)")
    parser.add_argument("--trees", type=Path, help="keep the trees here for the next run (default: a temporary folder)")
    parser.add_argument("--only", default="", metavar="TEXT", help="rows whose repository, path or id holds TEXT")
    parser.add_argument("--alone", action="store_true", help="check each file without the rest of its repository")
    parser.add_argument("--diffs", action="store_true", help="print both diffs of every bug side by side")
    options = parser.parse_args()
    bugs = [bug for bug in Corpus.read(options.corpus, options.only, ["bugs_a"]).bugs["bugs_a"] if bug["autofixable"]]
    with tempfile.TemporaryDirectory(prefix="memlint-bench-") as temporary:
        folder: Path = (options.trees or Path(temporary)).resolve()
        workshop = Workshop(Mirrors(options.mirrors), folder, options.alone)
        results = list(fix_all(workshop, bugs))
    print_fixes(results, options.diffs)


if __name__ == "__main__":
    main()
