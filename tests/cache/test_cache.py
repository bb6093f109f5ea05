"""What is checked again after a change, counted; and caches that are locked, broken, or not there."""

from __future__ import annotations

import os
import resource
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from memlint.cache import cache as caches
from memlint.cache import world
from memlint.check import engine, worker
from memlint.cli import run
from memlint.model import project as models
from tests.cache import projects

Checked = Callable[[], set[str]]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "project"
    projects.make(folder)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MEMLINT_DEBUG", "1")
    monkeypatch.setattr(world, "_SETTLED", 0)
    return folder


@pytest.fixture
def checked(root: Path, monkeypatch: pytest.MonkeyPatch) -> Checked:
    """Runs with the cache and says which files were checked; they must be found as without it."""
    seen: set[str] = set()
    check_data = engine.check_data

    def counted(path: Path, *arguments: object, **named: object) -> object:
        seen.add(path.relative_to(root).as_posix())
        return check_data(path, *arguments, **named)  # type: ignore[arg-type]

    def checked() -> set[str]:
        expected = projects.cold(root)
        seen.clear()
        with monkeypatch.context() as patch:
            patch.setattr(worker, "check_data", counted)
            assert projects.warm(root) == expected
        return set(seen)

    return checked


def test_nothing_is_checked_twice(checked: Checked) -> None:
    assert len(checked()) == 9
    assert checked() == set()
    assert checked() == set()


@pytest.mark.parametrize(
    ("name", "text", "again"),
    [
        ("lib/base.py", "def scaled(x):\n    return x * 3\n", {"lib/base.py", "lib/losses.py", "train.py"}),
        ("tools/report.py", "import torch\n", {"tools/report.py"}),
        ("evaluate.py", projects.FILES["evaluate.py"] + "\n", {"evaluate.py", "main.py"}),
        ("caller.py", projects.TEXTS["caller.py"][0], {"caller.py", "evaluate.py"}),
        ("new.py", "import torch\n\ndef alone():\n    return torch.ones(1)\n", {"new.py"}),
        ("lib/losses.py", projects.FILES["lib/losses.py"] + "# loss_of\n", {"lib/losses.py", "train.py"}),
        ("README.md", "loss_of\n", set()),
    ],
)
def test_a_change_concerns_those_who_rest_on_it(
    root: Path, checked: Checked, name: str, text: str, again: set[str]
) -> None:
    checked()
    projects.write(root / name, text)
    concerned = checked()
    assert again <= concerned
    # Others may look through those: their callers, and the callers of what they call.
    assert "tools/report.py" not in concerned - again
    assert checked() == set()


def test_a_file_that_comes_to_define_what_is_called_by_name(root: Path, checked: Checked) -> None:
    fixture = Path(__file__).parents[1] / "fixtures" / "MEM201" / "events_in_sight"
    for name in ("learner.py", "callbacks.py"):
        projects.write(root / name, (fixture / name).read_text())
    projects.write(root / "clearing.py", "# before_batch\n")
    checked()
    projects.write(root / "clearing.py", "class C:\n    def before_batch(self, it):\n        it.opt.zero_grad()\n")
    assert "learner.py" in checked()


def test_a_change_that_says_nothing_new(root: Path, checked: Checked) -> None:
    checked()
    for path in root.rglob("*.py"):
        path.touch()
    assert checked() == set()


def test_no_file_is_parsed_and_no_question_asked_when_nothing_has_changed(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    projects.warm(root)

    def fails(*_: object) -> None:
        raise AssertionError("a file was parsed")

    monkeypatch.setattr(models, "read", fails)
    monkeypatch.setattr(models, "Project", fails)
    assert projects.warm(root)


@pytest.mark.usefixtures("root")
def test_the_command_line_decides_what_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    def findings(*options: str) -> str:
        run(["check", "--output-format", "concise", *options])
        return capsys.readouterr().out

    alone = {
        options: findings("--no-cache", *options) for options in ((), ("--select", "MEM101"), ("--ignore", "MEM1"))
    }
    assert len(set(alone.values())) == 3
    for _ in range(2):
        for options, expected in alone.items():
            assert findings(*options) == expected


@pytest.mark.parametrize("output_format", ["full", "concise", "json", "github", "sarif"])
def test_every_format_prints_what_was_kept(root: Path, capsys: pytest.CaptureFixture[str], output_format: str) -> None:
    (root / "book.ipynb").write_text(
        '{"cells": [{"cell_type": "code", "metadata": {}, "outputs": [], "execution_count": null, "source":'
        ' ["import torch\\n", "total = 0\\n", "def f(model, xs, opt):\\n", "    total = 0\\n", "    for x in xs:\\n",'
        ' "        loss = model(x).sum()\\n", "        loss.backward()\\n", "        opt.step()\\n",'
        ' "        total += loss\\n", "    return total\\n"]}], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}'
    )
    printed = []
    for options in (["--no-cache"], [], []):
        assert run(["check", "--output-format", output_format, *options]) == 1
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1] == printed[2]
    assert "book.ipynb" in printed[0]


def test_a_file_that_is_named_has_to_be_python(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    projects.write(root / "plain.py", "def f(:\n")
    for _ in range(2):
        run(["check", "."])
        assert "plain.py" not in capsys.readouterr().err
        assert run(["check", "plain.py"]) == 2
        assert "plain.py:1" in capsys.readouterr().err


def test_fixing_uses_what_is_known_and_keeps_nothing_of_its_own(root: Path) -> None:
    projects.warm(root)
    assert run(["check", "--fix", "--unsafe-fixes", "-q"]) in {0, 1}
    assert projects.warm(root) == projects.cold(root)


# ---------------------------------------------------------------------------------------------------- damage


def file(root: Path) -> Path:
    (found,) = (root / caches.DIRECTORY).glob("*.sqlite3")
    return found


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def garbage(path: Path) -> None:
    path.write_bytes(b"no database" * 100)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def scrambled(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE entry SET basis = x'00', result = x'789c'")
    connection.close()


def stateless(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("DELETE FROM state")
    connection.close()


def of_another_version(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TABLE entry")
        connection.execute("CREATE TABLE entry (name TEXT)")
    connection.close()


@pytest.mark.parametrize(
    "damage",
    [half, garbage, empty, directory, scrambled, stateless, of_another_version],
    ids=lambda each: each.__name__,
)
def test_a_damaged_cache_is_made_anew(
    root: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[Path], None]
) -> None:
    monkeypatch.delenv("MEMLINT_DEBUG")
    expected = projects.warm(root)
    damage(file(root))
    assert projects.warm(root) == expected
    projects.write(root / "lib" / "base.py", "def scaled(x):\n    return x.detach()\n")
    assert projects.warm(root) == projects.cold(root) != expected
    assert projects.warm(root) == projects.cold(root)


def test_another_memlint_is_not_believed(monkeypatch: pytest.MonkeyPatch, checked: Checked) -> None:
    checked()
    monkeypatch.setattr(caches, "fingerprint", lambda: "another")
    assert len(checked()) == 9
    assert checked() == set()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="nothing is read-only for the superuser")
def test_a_read_only_folder(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MEMLINT_DEBUG")
    root.chmod(0o555)
    try:
        assert projects.warm(root) == projects.cold(root)
        assert not (root / caches.DIRECTORY).exists()
    finally:
        root.chmod(0o755)


def test_a_folder_that_cannot_be_made(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MEMLINT_DEBUG")
    (root / caches.DIRECTORY).write_text("")
    assert projects.warm(root) == projects.cold(root)


def test_a_locked_cache(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MEMLINT_DEBUG")
    monkeypatch.setattr("memlint.cache.store._PATIENCE", 0.05)
    projects.warm(root)
    projects.write(root / "lib" / "base.py", "def scaled(x):\n    return x.detach()\n")
    expected = projects.cold(root)
    connection = sqlite3.connect(file(root), isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    assert projects.warm(root) == expected
    connection.execute("COMMIT")
    connection.close()
    assert projects.warm(root) == expected


def test_who_comes_second_writes_nothing_over_the_first(root: Path) -> None:
    first, second = (projects.session(root, projects.opened(root)) for _ in range(2))
    expected = projects.found(first.run(1))
    projects.write(root / "lib" / "base.py", "def scaled(x):\n    return x.detach()\n")
    assert projects.found(second.run(1)) != expected
    assert projects.warm(root) == projects.cold(root)


def test_several_processes_at_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MEMLINT_DEBUG")
    command = [sys.executable, "-m", "memlint", "check", "--output-format", "json", "-j1"]

    def printed(_: int) -> bytes:
        return subprocess.run(command, cwd=root, capture_output=True, check=False).stdout

    with ThreadPoolExecutor(3) as pool:
        outputs = set(pool.map(printed, range(3)))
    assert len(outputs) == 1
    assert projects.warm(root) == projects.cold(root)


def printed(root: Path, monkeypatch: pytest.MonkeyPatch, file_size: int | None = None) -> bytes:
    """What the command prints about ``root`` where no file can become larger than ``file_size`` bytes."""
    monkeypatch.delenv("MEMLINT_DEBUG")

    def limit() -> None:
        if file_size is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))

    command = [sys.executable, "-m", "memlint", "check", "--output-format", "json", "-j1"]
    done = subprocess.run(command, cwd=root, capture_output=True, preexec_fn=limit, check=False)
    assert (done.returncode, done.stderr) == (1, b"")
    return done.stdout


@pytest.mark.parametrize("bytes_left", [0, 100, 5000])
def test_a_full_disk(root: Path, monkeypatch: pytest.MonkeyPatch, bytes_left: int) -> None:
    cut_off = printed(root, monkeypatch, bytes_left)
    assert projects.warm(root) == projects.cold(root)
    monkeypatch.setenv("MEMLINT_DEBUG", "1")
    assert cut_off == printed(root, monkeypatch)


def test_a_user_without_a_home(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME", raising=False)
    assert printed(root, monkeypatch)
    assert list((root / caches.DIRECTORY).glob("*.sqlite3"))


def test_a_process_that_is_killed(root: Path) -> None:
    command = [sys.executable, "-m", "memlint", "check", "-q", "-j1"]
    process = subprocess.Popen(command, cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(0.4)
    process.kill()
    process.wait()
    assert projects.warm(root) == projects.cold(root)


# ---------------------------------------------------------------------------------------------------- the folder


def test_the_folder_hides_itself(root: Path) -> None:
    projects.warm(root)
    folder = root / caches.DIRECTORY
    assert (folder / ".gitignore").read_text().splitlines()[-1] == "*"
    assert (folder / "CACHEDIR.TAG").read_text().startswith("Signature: 8a477f597d28d172789f06886806bc55")


def test_where_it_is_kept(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(["check", "-q", "--cache-dir", str(tmp_path / "one")])
    assert list((tmp_path / "one").glob("*.sqlite3"))
    monkeypatch.setenv("MEMLINT_CACHE_DIR", str(tmp_path / "two"))
    run(["check", "-q"])
    assert list((tmp_path / "two").glob("*.sqlite3"))
    assert not (root / caches.DIRECTORY).exists()
    run(["check", "-q", "--no-cache", "--cache-dir", str(tmp_path / "three")])
    assert not (tmp_path / "three").exists()


def test_clean_removes_the_cache_that_the_environment_names(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MEMLINT_CACHE_DIR", "kept")
    run(["check"])
    capsys.readouterr()
    assert run(["clean"]) == 0
    assert capsys.readouterr().out == "Removed kept\n"
    projects.write(root / "kept" / "note.txt", "of the user\n")
    assert run(["clean"]) == 0
    assert (root / "kept" / "note.txt").exists()
