"""What a check does, counted in calls, questions, parses and imports: a regression fails here on any machine."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import libcst
import pytest

from memlint.check.engine import check_data
from memlint.config import Settings
from memlint.model import project as projects
from memlint.model.memo import Memo
from memlint.model.project import Project
from memlint.registry import all_rules
from tests.cache.projects import cold, opened, session
from tests.check.test_work import made

LOWERING = "/lowering/"


def calls_made(work: Callable[[], object]) -> Counter[str]:
    """How many functions of memlint's files ``work`` calls, by the name of the file."""
    counts: Counter[str] = Counter()

    def count(frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            counts[frame.f_code.co_filename] += 1

    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(None)
    return Counter({name: number for name, number in counts.items() if "memlint" in name or "/rules/" in name})


def test_calls_for_a_line(tmp_path: Path) -> None:
    """Reading a file as a program takes at most so many steps for each of its lines, and so do all rules together."""
    files = made(tmp_path, 8)
    lines = sum(path.read_text().count("\n") for path in files)

    def check() -> None:
        project = Project(tmp_path, files)
        for path in files:
            check_data(path, path.read_bytes(), all_rules(), project, Settings(tmp_path))

    check()
    counts = calls_made(check)
    lowering = sum(number for name, number in counts.items() if LOWERING in name)
    assert 10 < lowering / lines < 120
    assert 200 < counts.total() / lines < 1500


def test_what_is_parsed_and_asked_after_a_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change costs what depends on it, however large the project is."""
    costs = []
    original = Memo._ask
    for pairs in (4, 16):
        root = tmp_path / str(pairs)
        made(root, pairs)
        session(root, opened(root)).run(1)
        (root / "parts" / "model2.py").write_text((root / "parts" / "model2.py").read_text() + "# changed\n")
        parsed: list[str] = []
        asked: list[object] = []

        def parse(text: str, parsed: list[str] = parsed) -> libcst.Module:
            parsed.append(text)
            return libcst.parse_module(text)

        def ask(self: Memo, key: Any, answer: Callable[[Any], object], asked: list[object] = asked) -> object:
            asked.append(key)
            return original(self, key, answer)

        with monkeypatch.context() as patch:
            patch.setattr(projects, "read", parse)
            patch.setattr(Memo, "_ask", ask)
            outcome = session(root, opened(root)).run(1)
        assert sum(len(result.diagnostics) for result in outcome.results) == len(cold(root))
        costs.append((len(parsed), len(asked)))
    assert costs[0] == costs[1]
    assert costs[0][0] == 2
    assert costs[0][1] < 3000


PRINT_MODULES = """\
import sys
from memlint.cli import run
run(["check", "--output-format", "full"])
print("\\n".join(sys.modules), file=sys.stderr)
"""


def test_what_is_imported_when_nothing_has_changed(tmp_path: Path) -> None:
    made(tmp_path, 2)

    def ran() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", PRINT_MODULES]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)

    first, second = ran(), ran()
    assert first.stdout == second.stdout
    assert "MEM101" in first.stdout
    assert "libcst" in first.stderr.splitlines()
    assert "libcst.matchers" not in first.stderr.splitlines()  # Its import takes as long as all of libcst twice.
    modules = second.stderr.splitlines()
    heavy = {"libcst", "rich", "torch", "asyncio", "multiprocessing", "concurrent", "yaml", "tempfile"}
    assert not heavy & {module.partition(".")[0] for module in modules}
    assert not [module for module in modules if module.startswith(("memlint.model", "memlint.rules", "memlint.fixers"))]
    assert len([module for module in modules if module.startswith("memlint.")]) < 30


def test_what_help_imports() -> None:
    program = "import sys, memlint.cli\nprint('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    modules = done.stdout.splitlines()
    assert {"libcst", "rich", "torch", "pathspec", "sqlite3"}.isdisjoint(modules)
    assert {module for module in modules if module.startswith("memlint.")} <= {"memlint.cli", "memlint.messages"}
