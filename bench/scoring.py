"""How findings compare with what readers of the code said: classes, recall, silence, precision, verdicts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from command import Reported
from trees import NEAR, Checked, Results, Site


def _codes(*numbers: int) -> frozenset[str]:
    return frozenset(f"MEM{number}" for number in numbers)


RULES_OF_CLASS: Mapping[str, frozenset[str]] = {
    # Classes of the bugs and their look-alikes.
    "graph-accumulation": _codes(101, 102, 103, 107, 301, 606, 607, 703),
    "graph-in-container": _codes(101, 102, 103, 106, 111, 606, 607),
    "graph-in-attribute": _codes(102, 103, 106, 109, 110),
    "hidden-state": _codes(101, 103, 107),
    "retain-graph": _codes(104, 105),
    "hook-or-cycle": _codes(105, 106, 109, 112),
    "eval-without-no-grad": _codes(601, 602, 603),
    "device-retention": _codes(111, 604, 605, 606, 607, 704, 802),
    "missing-zero-grad": _codes(201, 203, 204),
    "other": _codes(110, 204, 304, 506, 507, 508, 509, 604, 802),
    "loading": _codes(801, 802),
    # Classes of capacity and efficiency.
    "zero-grad-not-none": _codes(202, 203, 204),
    "frozen-params": _codes(205, 603, 703),
    "no-accumulation": _codes(311),
    "no-amp": _codes(404, 411),
    "logits-upcast": _codes(403, 506, 507),
    "no-checkpointing": _codes(501, 502, 511),
    "attention-materialised": _codes(503, 504, 505),
    "output_hidden_states": _codes(505),
    "eval-outputs-on-gpu": _codes(604, 605, 606, 607),
    "duplicate-model-copy": _codes(704, 707, 802, 810),
    "optimizer-state": _codes(204, 205, 701, 702, 705),
    "load-to-gpu": _codes(801, 802),
    "ddp-buckets": _codes(805, 806, 809, 814),
    "fragmentation": _codes(804, 811, 812),
    "empty-cache-in-loop": _codes(803),
    "debug-left-on": _codes(206, 904, 905),
    "dataloader-host-memory": _codes(304, 901, 902, 903, 908),
    "graph kept in list": _codes(101, 102, 103, 106),
    # Classes of the labelled files.
    "G1": _codes(101, 102, 103, 106, 109, 111, 112, 301, 606, 607, 703),
    "G2": _codes(104, 105),
    "G3": _codes(103, 107),
    "Z1": _codes(201),
    "Z2": _codes(202, 203),
    "E1": _codes(601, 602, 603),
    "E2": _codes(604, 605),
    "X1": _codes(108),
    "X2": _codes(110),
    "L1": _codes(704, 801, 802, 810),
    "B1": _codes(303, 311),
    "P1": _codes(404, 411),
    "C1": _codes(502, 511),
    "O1": _codes(205),
    "D1": _codes(206, 803),
    "A1": _codes(503, 504),
    "H1": _codes(304, 901, 904, 905),
}
FLOW_CLASSES = ("G1", "G2", "G3", "Z1", "Z2", "E1", "E2", "X1", "X2")
"""The classes of the families graph retention, gradients and step hygiene, evaluation and inference."""
EFFICIENCY_CLASSES = ("L1", "X2", "A1", "D1", "H1", "O1", "P1", "C1")
"""The classes of memory that is wasted rather than leaked."""
CENSUS_CODES = {"g1_census": RULES_OF_CLASS["G1"] | RULES_OF_CLASS["G3"], "g2_census": RULES_OF_CLASS["G2"]}

ABSENCES = frozenset({"no-accumulation", "no-amp", "no-checkpointing", "ddp-buckets"})
"""Classes of what is not there: no line is the wrong one, so any line of the function may be named."""

DISPUTED: Mapping[str, str] = {
    "nnunet-zero-grad": "the project asks for torch>=2.0.0, whose zero_grad() frees the gradients",
    "olmo-core-a4e0ccf9": "the project asks for torch>=2.0, whose zero_grad() frees the gradients",
    "pinot-test-metrics": "each metric detaches what it returns, `.detach().numpy()`; the fix moves that to the caller",
}
"""Bugs whose row is wrong as far as the code of their project tells, and why; they are not scored."""

PARTIAL_FIXES: Mapping[str, str] = {
    "dn3-predictions-on-gpu": "the fix moves lists of outputs to the host and leaves single tensors on the device",
}
"""Bugs whose own fix leaves a part of them, as their rows say: what is said about that part is right."""

Row = dict[str, Any]


def before(bug: Row) -> Site:
    """The file with the bug."""
    return Site(bug["repo"], bug["buggy_commit"], bug["path"])


def after(bug: Row) -> Site:
    """The file after the project's own fix."""
    return Site(bug["repo"], bug["fix_commit"], bug["path"])


def site_of(row: Row) -> Site:
    """The file of a look-alike, a labelled file or a census row."""
    return Site(row["repo"], row["commit"], row["path"])


@dataclass(frozen=True)
class BugScore:
    """One bug: the findings near its rows, and those that stay near the fixed rows."""

    bug: Row
    found: tuple[Reported, ...]
    other: tuple[Reported, ...]
    """Findings near the bug from rules of other classes: right by accident at best."""
    still: tuple[Reported, ...]

    @property
    def is_silent(self) -> bool | None:
        """Whether nothing is said near the fix; None if the fix leaves a part of the bug."""
        return None if self.bug["id"] in PARTIAL_FIXES else not self.still

    @property
    def cross_file(self) -> bool:
        """Whether one file is not enough to decide it."""
        return bool(self.bug.get("needs", "single-file") != "single-file")


def score_bugs(bugs: Iterable[Row], results: Results) -> list[BugScore]:
    """Scores the bugs of which both files have been checked."""
    scores = []
    for bug in bugs:
        if before(bug) not in results or after(bug) not in results or bug["id"] in DISPUTED:
            continue
        codes = RULES_OF_CLASS[bug["class"]]
        found = _about(bug, results[before(bug)], bug["buggy_lines"], codes)
        every = _about(bug, results[before(bug)], bug["buggy_lines"])
        scores.append(
            BugScore(
                bug=bug,
                found=tuple(found),
                other=tuple(finding for finding in every if finding not in found),
                still=tuple(_about(bug, results[after(bug)], bug["fixed_lines"], codes)),
            )
        )
    return scores


def _about(bug: Row, checked: Checked, rows: Iterable[int], codes: frozenset[str] | None = None) -> list[Reported]:
    """The findings that speak about ``rows``: nearby, or for an absence anywhere in the functions that hold them."""
    near = checked.near(rows, codes)
    if bug["class"] not in ABSENCES:
        return near
    return list(dict.fromkeys((*near, *(found for row in rows for found in checked.in_function_of(row, codes)))))


@dataclass
class ClassScore:
    """Precision and recall of one class of labels."""

    true: int = 0
    false: int = 0
    labels: int = 0
    hit: int = 0

    def __add__(self, other: ClassScore) -> ClassScore:
        return ClassScore(
            self.true + other.true, self.false + other.false, self.labels + other.labels, self.hit + other.hit
        )


@dataclass
class LabelScore:
    """The labelled files: a score a class, and every disagreement."""

    classes: dict[str, ClassScore]
    missed: list[tuple[Site, Row]]
    false_alarms: list[tuple[Site, str, Reported]]
    unscored: Counter[str]
    """Findings, by code, of rules that no class of labels covers."""


def class_of(code: str) -> str | None:
    """The class of labels that a rule answers for."""
    return next((name for name in LABEL_CLASSES if code in RULES_OF_CLASS[name]), None)


LABEL_CLASSES = tuple(name for name in RULES_OF_CLASS if name[0].isupper())


def score_labels(files: Iterable[Row], results: Results) -> LabelScore:
    """Scores on certain and likely labels; a finding near a debatable one counts neither way."""
    score = LabelScore({name: ClassScore() for name in LABEL_CLASSES}, [], [], Counter())
    for file in files:
        if site_of(file) in results:
            _score_file(file, results[site_of(file)], score)
    return score


def _score_file(file: Row, checked: Checked, score: LabelScore) -> None:
    for label in file["labels"]:
        if label["certainty"] == "debatable":
            continue
        hit = bool(checked.near([label["line"]], RULES_OF_CLASS[label["class"]]))
        score.classes[label["class"]].labels += 1
        score.classes[label["class"]].hit += hit
        if not hit:
            score.missed.append((site_of(file), label))
    for finding in checked.findings:
        name = class_of(finding.code)
        if name is None:
            score.unscored[finding.code] += 1
            continue
        matching = [
            label
            for label in file["labels"]
            if finding.code in RULES_OF_CLASS[label["class"]] and abs(finding.row - label["line"]) <= NEAR
        ]
        if any(label["certainty"] != "debatable" for label in matching):
            score.classes[name].true += 1
        elif not matching:
            score.classes[name].false += 1
            score.false_alarms.append((site_of(file), name, finding))


@dataclass(frozen=True)
class Verdict:
    """One place with an expected answer: what was said there, and whether that is right."""

    site: Site
    row: int
    expected: str
    why: str
    said: tuple[Reported, ...]
    right: bool


def score_lookalikes(rows: Iterable[Row], results: Results) -> list[Verdict]:
    """A look-alike is right when the rules of its class are silent on its row."""
    return [
        Verdict(site_of(row), row["line"], row["rule"], row["why"], tuple(said), not said)
        for row in rows
        if site_of(row) in results
        for said in [_said_of_lookalike(row["line"], row["rule"].split(" / "), results[site_of(row)])]
    ]


def _said_of_lookalike(row: int, classes: Iterable[str], checked: Checked) -> list[Reported]:
    said: dict[Reported, None] = {}
    for name in classes:
        said |= dict.fromkeys(checked.on(row, RULES_OF_CLASS[name]))
        if name in ABSENCES:
            said |= dict.fromkeys(checked.in_function_of(row, RULES_OF_CLASS[name]))
    return list(said)


def score_label_lookalikes(files: Iterable[Row], results: Results) -> list[Verdict]:
    """The look-alikes of the labelled files; one that looks like several classes must be free of all of them."""
    verdicts = []
    for file in files:
        checked = results.get(site_of(file))
        for row in file["lookalikes"] if checked else ():
            assert checked is not None
            codes = frozenset().union(*(RULES_OF_CLASS[name] for name in row["naive_class"].split("/")))
            said = tuple(checked.on(row["line"], codes))
            verdicts.append(Verdict(site_of(file), row["line"], row["naive_class"], row["why_not"], said, not said))
    return verdicts


def score_census(rows: Iterable[Row], codes: frozenset[str], results: Results) -> list[Verdict]:
    """Compares what memlint says at each place with the reader's verdict."""
    return [
        Verdict(site_of(row), row["line"], row["verdict"], row["why"], tuple(said), is_right(row["verdict"], said))
        for row in rows
        if site_of(row) in results
        for said in [results[site_of(row)].on(row["line"], codes)]
    ]


def is_right(verdict: str, said: Sequence[Reported]) -> bool:
    """Whether ``said`` agrees with a census verdict.

    A hazard must be reported. What is bounded may earn a note, since it holds some memory, but no claim of growth or
    waste. Everything else, such as a graph that is needed or could be avoided by other means, must be left alone.
    """
    if verdict in {"hazard", "needless"}:
        return bool(said)
    if verdict == "bounded":
        return all(finding.severity == "note" for finding in said)
    return not said
