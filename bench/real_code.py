"""Scores memlint on real code that people read by hand: recall, silence after the fix, precision, verdicts.

    python bench/real_code.py --mirrors DIR --corpus DIR

``--corpus`` holds the references (repository, commit, path, line) as JSON lines, ``--mirrors`` the git mirrors of the
repositories, at ``owner+name/repo``. A file that no mirror has is counted as absent and scored nowhere. Each file is
checked inside the whole tree of its commit, since its callers and imports decide much, at memlint's default settings
or with the rules that ``--select`` names.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from command import Reported, print_table
from mirrors import Mirrors
from rich.table import Table
from scoring import (
    CENSUS_CODES,
    DISPUTED,
    EFFICIENCY_CLASSES,
    FLOW_CLASSES,
    PARTIAL_FIXES,
    BugScore,
    ClassScore,
    LabelScore,
    Row,
    Verdict,
    after,
    before,
    score_bugs,
    score_census,
    score_label_lookalikes,
    score_labels,
    score_lookalikes,
    site_of,
)
from trees import Batch, Results, Site, Workshop, check_all

BUGS: Mapping[str, str] = {
    "bugs_a": "Bugs of graph retention and step hygiene",
    "bugs_b": "Bugs of capacity and efficiency",
}
PARTS = (*BUGS, "labels", *CENSUS_CODES)


@dataclass(frozen=True)
class Corpus:
    """The rows of the reference files."""

    bugs: Mapping[str, tuple[Row, ...]]
    lookalikes: Mapping[str, tuple[Row, ...]]
    labels: tuple[Row, ...]
    censuses: Mapping[str, tuple[Row, ...]]

    @classmethod
    def read(cls, folder: Path, only: str, parts: Collection[str] = PARTS) -> Corpus:
        """The rows of ``parts`` in ``folder`` whose repository, path or id holds ``only``."""

        def rows(name: str) -> tuple[Row, ...]:
            path = folder / f"{name}.jsonl"
            # A corpus of bugs need not have look-alikes.
            lines = path.read_text(encoding="utf-8").splitlines() if path.exists() or name in parts else []
            every = (json.loads(line) for line in lines)
            return tuple(row for row in every if only in f"{row['repo']} {row['path']} {row.get('id', '')}")

        return cls(
            bugs={name: rows(name) for name in BUGS if name in parts},
            lookalikes={name: rows(f"{name}_lookalikes") for name in BUGS if name in parts},
            labels=rows("labels") if "labels" in parts else (),
            censuses={name: rows(name) for name in CENSUS_CODES if name in parts},
        )

    def sites(self) -> Iterator[Site]:
        """Every file that the scores need."""
        for bug in (bug for bugs in self.bugs.values() for bug in bugs):
            yield before(bug)
            yield after(bug)
        for rows in (*self.lookalikes.values(), self.labels, *self.censuses.values()):
            yield from map(site_of, rows)


def share(part: int, whole: int) -> str:
    """``part`` of ``whole`` as a percentage, or a dash when there is nothing to divide by."""
    return f"{part / whole:.0%}" if whole else "-"


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for position, column in enumerate(columns):
        table.add_column(column, justify="right" if position else "left")
    return table


def _add(table: Table, *cells: object) -> None:
    table.add_row(*map(str, cells))


def _said(findings: Iterable[Reported]) -> str:
    return (
        ", ".join(f"{finding.code} at {finding.row} ({finding.severity}, {finding.confidence})" for finding in findings)
        or "nothing"
    )


def print_bugs(title: str, bugs: Sequence[Row], scores: Sequence[BugScore], results: Results) -> None:
    """The table of bugs by class, the misses, and what is still said after the fix."""
    print(title)
    table = _table("class", "bugs", "not scored", "found", "recall", "silent after fix")

    def line(name: str, some: Sequence[BugScore], total: int) -> None:
        found = sum(bool(score.found) for score in some)
        silent = [score.is_silent for score in some if score.is_silent is not None]
        _add(table, name, total, total - len(some), found, share(found, len(some)), share(sum(silent), len(silent)))

    by_class = Counter(bug["class"] for bug in bugs)
    for name in sorted(by_class):
        line(name, [score for score in scores if score.bug["class"] == name], by_class[name])
    cross = sum(bug.get("needs", "single-file") != "single-file" for bug in bugs)
    line("one file is enough", [score for score in scores if not score.cross_file], len(bugs) - cross)
    line("needs other files", [score for score in scores if score.cross_file], cross)
    line("all", scores, len(bugs))
    print_table(table)
    _print_unscored(bugs)
    print("\nMissed bugs")
    for score in scores:
        if not score.found:
            rows = score.bug["buggy_lines"]
            print(f"  {_place(before(score.bug), rows[0])}  [{score.bug['class']}, {score.bug['id']}]")
            print(f"      {results[before(score.bug)].text(rows[0])}")
            if len(rows) > 1 or score.other:
                print(f"      rows {', '.join(map(str, rows))}; said there: {_said(score.other)}")
    print("\nStill reported near the fix")
    for score in scores:
        for finding in score.still:
            _print_finding(after(score.bug), finding, results, f"{score.bug['class']}, {score.bug['id']}")


def _print_unscored(bugs: Iterable[Row]) -> None:
    for bug in bugs:
        if bug["id"] in DISPUTED:
            print(f"  not scored: {bug['id']}, since {DISPUTED[bug['id']]}")
        if bug["id"] in PARTIAL_FIXES:
            print(f"  silence not scored: {bug['id']}, since {PARTIAL_FIXES[bug['id']]}")


def print_labels(files: Sequence[Row], score: LabelScore, results: Results) -> None:
    """Precision and recall by class, the misses and the false alarms."""
    present = sum(site_of(file) in results for file in files)
    print(f"Labelled files: {present} of {len(files)} present")
    table = _table("class", "true", "false", "precision", "labels", "found", "recall")

    def line(name: str, one: ClassScore) -> None:
        precision, recall = share(one.true, one.true + one.false), share(one.hit, one.labels)
        _add(table, name, one.true, one.false, precision, one.labels, one.hit, recall)

    for name, one in score.classes.items():
        if one != ClassScore():
            line(name, one)
    line("graph, gradients, evaluation", sum((score.classes[name] for name in FLOW_CLASSES), ClassScore()))
    line("capacity and efficiency", sum((score.classes[name] for name in EFFICIENCY_CLASSES), ClassScore()))
    line("all", sum(score.classes.values(), ClassScore()))
    print_table(table)
    if score.unscored:
        told = ", ".join(f"{code} {count}" for code, count in sorted(score.unscored.items()))
        print(f"\nFindings of rules that no label covers, not scored: {told}")
    print("\nMissed labels")
    for site, label in score.missed:
        print(f"  {_place(site, label['line'])}  [{label['class']}, {label['certainty']}]")
        print(f"      {results[site].text(label['line'])}\n      {label['why']}")
    print("\nFalse alarms")
    for site, name, finding in score.false_alarms:
        _print_finding(site, finding, results, name)


def print_verdicts(title: str, rows: int, verdicts: Sequence[Verdict], results: Results) -> None:
    """How many verdicts are right, by expected verdict, and the wrong ones."""
    print(f"{title}: {len(verdicts)} of {rows} present")
    table = _table("expected", "places", "right", "share")
    for expected in sorted({verdict.expected for verdict in verdicts}):
        some = [verdict for verdict in verdicts if verdict.expected == expected]
        right = sum(verdict.right for verdict in some)
        _add(table, expected, len(some), right, share(right, len(some)))
    right = sum(verdict.right for verdict in verdicts)
    _add(table, "all", len(verdicts), right, share(right, len(verdicts)))
    print_table(table)
    for verdict in verdicts:
        if not verdict.right:
            print(f"  {_place(verdict.site, verdict.row)}  [{verdict.expected}]")
            print(f"      {results[verdict.site].text(verdict.row)}")
            print(f"      said {_said(verdict.said)}, but: {verdict.why}")


def print_state(sites: Iterable[Site], batch: Batch) -> None:
    """How many files there are, how many are absent, and which ones memlint could not check."""
    every = set(sites)
    absent = len(every) - len(batch.checked) - len(batch.failed)
    print(f"{len(every)} files: {len(batch.checked)} scored, {absent} absent, {len(batch.failed)} not checked")
    for site, why in sorted(batch.failed.items()):
        print(f"  {_place(site, 1)}: {why}")
    print()


def print_times(seconds: Mapping[Path, float]) -> None:
    """The total and the slowest runs, on standard error: they differ each time."""
    print(f"memlint ran {sum(seconds.values()):.0f} s; slowest:", file=sys.stderr)
    for root in sorted(seconds, key=lambda root: -seconds[root])[:5]:
        print(f"  {seconds[root]:6.1f} s  {root.parent.name} {root.name}", file=sys.stderr)


def _place(site: Site, row: int) -> str:
    return f"{site.repo}@{site.commit[:8]} {site.path}:{row}"


def _print_finding(site: Site, finding: Reported, results: Results, why: str) -> None:
    told = f"{finding.code} {finding.severity}, {finding.confidence}"
    print(f"  {_place(site, finding.row)}  {told}  [{why}]")
    print(f"      {results[site].text(finding.row)}\n      {finding.message}")


def report(corpus: Corpus, results: Results) -> None:
    """Prints every score."""
    for name, bugs in corpus.bugs.items():
        print_bugs(BUGS[name], bugs, score_bugs(bugs, results), results)
        print()
        seeming = corpus.lookalikes[name]
        print_verdicts("Look-alikes of these bugs", len(seeming), score_lookalikes(seeming, results), results)
        print()
    if corpus.labels:
        print_labels(corpus.labels, score_labels(corpus.labels, results), results)
        print()
        seen = sum(len(file["lookalikes"]) for file in corpus.labels)
        verdicts = score_label_lookalikes(corpus.labels, results)
        print_verdicts("Look-alikes in labelled files", seen, verdicts, results)
    for name, rows in corpus.censuses.items():
        print()
        print_verdicts(name, len(rows), score_census(rows, CENSUS_CODES[name], results), results)


def main() -> None:
    """The command line; exits with 1 when memlint could not check a file."""
    parser = argparse.ArgumentParser(description="Scores memlint on labelled real code.")
    parser.add_argument("--mirrors", type=Path, required=True, help="git mirrors at owner+name/repo")
    parser.add_argument("--corpus", type=Path, required=True, help="folder of the reference files (*.jsonl)")
    parser.add_argument("--trees", type=Path, help="keep the trees here for the next run (default: a temporary folder)")
    parser.add_argument("--only", default="", metavar="TEXT", help="rows whose repository, path or id holds TEXT")
    parser.add_argument(
        "--parts", nargs="+", choices=PARTS, default=PARTS, help="reference files to score (default: all)"
    )
    parser.add_argument("--select", default="", metavar="CODES", help="turn on these rules instead of the default ones")
    parser.add_argument("--alone", action="store_true", help="check each file without the rest of its repository")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs of memlint at a time")
    options = parser.parse_args()
    corpus = Corpus.read(options.corpus, options.only, options.parts)
    with tempfile.TemporaryDirectory(prefix="memlint-bench-") as temporary:
        folder: Path = (options.trees or Path(temporary)).resolve()
        workshop = Workshop(Mirrors(options.mirrors), folder, options.alone, options.select)
        batch = check_all(workshop, corpus.sites(), options.jobs)
    print_state(corpus.sites(), batch)
    report(corpus, batch.checked)
    print_times(batch.seconds)
    sys.exit(bool(batch.failed))


if __name__ == "__main__":
    main()
