"""The benchmarks on real code, on a mirror that is made here: their figures are those that a reader would count."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench"

BUGGY = """\
import torch
from torch import nn


def train(loader):
    model = nn.Linear(8, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    criterion = nn.MSELoss()
    total = 0.0
    for x, y in loader:
        loss = criterion(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss
    return total
"""
BUG_ROW = 15
FIXED = BUGGY.replace("total += loss", "total += loss.item()")


class Mirror:
    """A mirror of one repository with two commits."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.repo = folder / "someone+project" / "repo"
        self.repo.mkdir(parents=True)
        self._git("init", "--quiet")
        self.before = self.commit(BUGGY)
        self.after = self.commit(FIXED)

    def commit(self, text: str) -> str:
        (self.repo / "train.py").write_text(text)
        self._git("add", "train.py")
        self._git("-c", "user.name=n", "-c", "user.email=e", "commit", "--quiet", "--message", "c")
        return self._git("rev-parse", "HEAD")

    def _git(self, *arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=self.repo, check=True, capture_output=True, text=True)
        return done.stdout.strip()


@pytest.fixture
def mirror(tmp_path: Path) -> Mirror:
    return Mirror(tmp_path / "mirrors")


def write_corpus(folder: Path, **rows: list[dict[str, Any]]) -> Path:
    folder.mkdir()
    for name in ("bugs_a", "bugs_a_lookalikes", "bugs_b", "bugs_b_lookalikes", "labels", "g1_census", "g2_census"):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows.get(name, [])))
    return folder


def bug(mirror: Mirror, **changes: object) -> dict[str, Any]:
    row: dict[str, Any] = {
        "id": "sum-of-losses",
        "autofixable": True,
        "repo": "someone/project",
        "path": "train.py",
        "class": "graph-accumulation",
        "buggy_commit": mirror.before,
        "fix_commit": mirror.after,
        "buggy_lines": [BUG_ROW],
        "fixed_lines": [BUG_ROW],
    }
    return row | changes


def place(commit: str, **more: object) -> dict[str, Any]:
    return {"repo": "someone/project", "commit": commit, "path": "train.py", "line": BUG_ROW, "why": "so"} | more


def score(mirror: Mirror, corpus: Path, *options: str) -> list[str]:
    """The lines that the benchmark prints, their columns one space apart."""
    done = run(mirror, corpus, *options)
    assert done.returncode == 0, done.stderr
    return list(map(squeezed, done.stdout.splitlines()))


def run(mirror: Mirror, corpus: Path, *options: str, program: str = "real_code.py") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCH / program), "--mirrors", str(mirror.folder), "--corpus", str(corpus)]
    return subprocess.run([*command, *options], capture_output=True, text=True, check=False)


def squeezed(line: str) -> str:
    return " ".join(line.split())


def test_counts_found_absent_and_silent_bugs(mirror: Mirror, tmp_path: Path) -> None:
    elsewhere = bug(mirror, repo="nobody/nothing", id="absent", needs="cross-file")
    lines = score(mirror, write_corpus(tmp_path / "corpus", bugs_a=[bug(mirror), elsewhere]))
    assert "graph-accumulation 2 1 1 100% 100%" in lines
    assert "one file is enough 1 0 1 100% 100%" in lines
    assert "needs other files 1 1 0 - -" in lines


def test_a_bug_elsewhere_is_missed_and_a_fix_that_is_none_is_noticed(mirror: Mirror, tmp_path: Path) -> None:
    wrong = bug(mirror, buggy_lines=[2], fix_commit=mirror.before)
    lines = score(mirror, write_corpus(tmp_path / "corpus", bugs_a=[wrong]))
    assert "all 1 0 0 0% 0%" in lines
    assert f"someone/project@{mirror.before[:8]} train.py:2 [graph-accumulation, sum-of-losses]" in lines


@pytest.mark.parametrize(
    ("certainty", "expected"),
    [("certain", "G1 1 0 100% 1 1 100%"), ("debatable", None), (None, "G1 0 1 0% 0 0 -")],
)
def test_precision_and_recall_leave_debatable_labels_out(
    mirror: Mirror, tmp_path: Path, certainty: str | None, expected: str | None
) -> None:
    labels = [{"class": "G1", "line": BUG_ROW, "certainty": certainty, "why": "so"}] if certainty else []
    file = place(mirror.before, labels=labels, lookalikes=[])
    lines = score(mirror, write_corpus(tmp_path / "corpus", labels=[file]))
    if expected:
        assert expected in lines
    else:
        assert not any(line.startswith("G1") for line in lines)


def test_census_verdicts(mirror: Mirror, tmp_path: Path) -> None:
    verdicts = ("hazard", "bounded", "lookalike")
    rows = [place(commit, verdict=verdict) for verdict in verdicts for commit in (mirror.before, mirror.after)]
    lines = score(mirror, write_corpus(tmp_path / "corpus", g1_census=rows))
    assert [line for line in lines if line.startswith(verdicts)] == [
        "bounded 2 1 50%",
        "hazard 2 1 50%",
        "lookalike 2 1 50%",
    ]
    wrong = [line for line in lines if line.startswith("someone/project@")]
    assert wrong == [
        f"someone/project@{commit[:8]} train.py:{BUG_ROW} [{verdict}]"
        for verdict, commit in zip(verdicts, (mirror.after, mirror.before, mirror.before), strict=True)
    ]


def test_a_lookalike_that_is_spoken_on_is_listed(mirror: Mirror, tmp_path: Path) -> None:
    row = place(mirror.before, rule="graph-accumulation")
    lines = score(mirror, write_corpus(tmp_path / "corpus", bugs_a_lookalikes=[row]))
    assert "graph-accumulation 1 0 0%" in lines
    assert f"someone/project@{mirror.before[:8]} train.py:{BUG_ROW} [graph-accumulation]" in lines


def test_an_absence_counts_anywhere_in_its_function(mirror: Mirror, tmp_path: Path) -> None:
    wrapped = "def main(model):\n    rank = 0\n\n\n\n\n\n    return torch.nn.parallel.DistributedDataParallel(model)\n"
    commit = mirror.commit("import torch\n" + wrapped + wrapped.replace("main", "other"))
    bugs = [bug(mirror, buggy_commit=commit, buggy_lines=[row]) | {"class": "ddp-buckets"} for row in (3, 1)]
    corpus = write_corpus(tmp_path / "corpus", bugs_b=bugs)
    assert "ddp-buckets 2 0 1 50% 100%" in score(mirror, corpus, "--select", "MEM805", "--parts", "bugs_b")


def test_only_narrows_the_rows(mirror: Mirror, tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus", bugs_a=[bug(mirror), bug(mirror, id="another")])
    assert "all 1 0 1 100% 100%" in score(mirror, corpus, "--only", "another", "--alone")


def test_trees_are_kept_for_the_next_run(mirror: Mirror, tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus", bugs_a=[bug(mirror)])
    trees = tmp_path / "trees"
    first = score(mirror, corpus, "--trees", str(trees))
    kept = trees / "someone+project" / mirror.before[:12] / "train.py"
    assert kept.read_text() == BUGGY
    assert score(mirror, corpus, "--trees", str(trees)) == first


def test_a_file_alone_has_the_metadata_of_its_project(mirror: Mirror, tmp_path: Path) -> None:
    (mirror.repo / "requirements.txt").write_text("torch<2\n")
    (mirror.repo / "other.py").write_text("import torch\n")
    mirror._git("add", "requirements.txt", "other.py")
    row = bug(mirror, buggy_commit=mirror.commit(BUGGY + "\n"))
    trees = tmp_path / "trees"
    score(mirror, write_corpus(tmp_path / "corpus", bugs_a=[row]), "--trees", str(trees), "--alone")
    laid_out = trees / "someone+project" / f"{row['buggy_commit'][:12]}-alone" / "train_py"
    assert sorted(path.name for path in laid_out.iterdir()) == ["pyproject.toml", "requirements.txt", "train.py"]


def test_a_file_that_memlint_cannot_check_is_not_scored_as_silence(mirror: Mirror, tmp_path: Path) -> None:
    broken = bug(mirror, id="broken", fix_commit=mirror.commit("def train(:\n"))
    corpus = write_corpus(tmp_path / "corpus", bugs_a=[broken])
    done = run(mirror, corpus)
    lines = done.stdout.splitlines()
    assert done.returncode == 1
    assert lines[0] == "2 files: 1 scored, 0 absent, 1 not checked"
    assert "train.py" in lines[1]
    assert "all 1 1 0 - -" in map(squeezed, lines)


def test_a_fix_is_compared_with_what_the_project_did(mirror: Mirror, tmp_path: Path) -> None:
    trees = tmp_path / "trees"
    corpus = write_corpus(tmp_path / "corpus", bugs_a=[bug(mirror), bug(mirror, id="by-hand", autofixable=False)])
    done = run(mirror, corpus, "--diffs", "--trees", str(trees), program="real_fixes.py")
    lines = list(map(squeezed, done.stdout.splitlines()))
    assert "sum-of-losses agrees no graph is kept no graph is kept" in lines
    assert "fixable bugs: 1; found: 1; fixed: 1" in lines
    assert any("total += loss.detach()" in line for line in lines)
    assert any("total += loss.item()" in line for line in lines)
    kept = trees / "someone+project" / mirror.before[:12] / "train.py"
    assert kept.read_text() == BUGGY, "the tree is left as it was"


def test_a_fix_that_does_something_else_differs(mirror: Mirror, tmp_path: Path) -> None:
    other = mirror.commit(BUGGY.replace("        total += loss\n", "        total += loss.cpu()\n"))
    corpus = write_corpus(tmp_path / "corpus", bugs_a=[bug(mirror, fix_commit=other)])
    done = run(mirror, corpus, program="real_fixes.py")
    assert "fixes that agree in effect: 0 of 1 (0%)" in done.stdout
