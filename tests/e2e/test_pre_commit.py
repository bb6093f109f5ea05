"""pre-commit runs the hooks of this repository, from a local clone, on a project that is not ours."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.programs import CLEAN, HAZARDS, commit, output, run

pytest.importorskip("pre_commit", reason="pre-commit is not installed")
pytestmark = pytest.mark.slow

CONFIGURATION = """\
repos:
  - repo: {repository}
    rev: {revision}
    hooks:
      - id: {hook}
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A git repository of a user, with one file that must fail and one that must pass."""
    project = tmp_path / "project"
    project.mkdir()
    (project / "hazards.py").write_text(HAZARDS)
    (project / "clean.py").write_text(CLEAN)
    commit(project)
    return project


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where pre-commit keeps its environments during these tests."""
    return tmp_path_factory.mktemp("home")


def pre_commit(*arguments: str | Path, cwd: Path, home: Path) -> subprocess.CompletedProcess[str]:
    """The finished process of ``pre-commit``."""
    command = (sys.executable, "-m", "pre_commit", *arguments)
    return run(*command, cwd=cwd, PRE_COMMIT_HOME=str(home), PRE_COMMIT_COLOR="never")


def configure(project: Path, repository: Path, hook: str) -> None:
    revision = output("git", "rev-parse", "HEAD", cwd=repository).strip()
    configuration = CONFIGURATION.format(repository=repository, revision=revision, hook=hook)
    (project / ".pre-commit-config.yaml").write_text(configuration)
    commit(project)


def test_try_repo(repository: Path, project: Path, home: Path) -> None:
    hook = ("try-repo", repository, "memlint", "--files")
    fails = pre_commit(*hook, "hazards.py", cwd=project, home=home)
    assert fails.returncode == 1, fails.stderr
    assert "hazards.py:7:27" in fails.stdout
    assert "MEM801" in fails.stdout
    assert "hazards.py:15:" in fails.stdout
    assert "MEM101" in fails.stdout

    passes = pre_commit(*hook, "clean.py", cwd=project, home=home)
    assert passes.returncode == 0, passes.stdout + passes.stderr
    assert (project / "hazards.py").read_text() == HAZARDS


def test_fix(repository: Path, project: Path, home: Path) -> None:
    configure(project, repository, "memlint-fix")
    changes = pre_commit("run", "--all-files", cwd=project, home=home)
    assert changes.returncode == 1, changes.stderr
    assert "files were modified by this hook" in changes.stdout
    assert "total += loss.detach()" in (project / "hazards.py").read_text()
    assert (project / "clean.py").read_text() == CLEAN


def test_excluded_files_are_left_alone(repository: Path, project: Path, home: Path) -> None:
    (project / "pyproject.toml").write_text('[tool.memlint]\nexclude = ["hazards.py"]\n')
    configure(project, repository, "memlint")
    assert pre_commit("run", "--all-files", cwd=project, home=home).returncode == 0


def test_environment_is_small(repository: Path, project: Path, home: Path) -> None:
    configure(project, repository, "memlint")
    pre_commit("install-hooks", cwd=project, home=home)
    assert list(home.rglob("site-packages/libcst"))
    assert not list(home.rglob("site-packages/torch"))
