"""The repository as it stands, built and installed once for all tests of whole programs."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from tests.e2e.programs import ROOT, Environment, commit, output


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A git repository with the files of this working tree, committed or not, but for those that git ignores."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: only git knows which files belong to the repository")
    copy = tmp_path_factory.mktemp("repository")
    # Whoever runs the tests may not be the one who cloned the repository.
    listed_files = ("ls-files", "-z", "--cached", "--others", "--exclude-standard")
    listed = output("git", "-c", "safe.directory=*", *listed_files, cwd=ROOT)
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name)
    commit(copy)
    return copy


@pytest.fixture(scope="session")
def distributions(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The wheel and the sdist; the wheel is built from the sdist, so what the sdist lacks, both lack."""
    directory = tmp_path_factory.mktemp("distributions")
    output(sys.executable, "-m", "build", "--outdir", directory, repository, cwd=directory)
    return next(directory.glob("*.whl")), next(directory.glob("*.tar.gz"))


@pytest.fixture(scope="session")
def installed(distributions: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment with the wheel and its ``flake8`` extra, and nothing else."""
    wheel, _ = distributions
    return Environment.create(tmp_path_factory.mktemp("wheel") / "venv", f"{wheel}[flake8]")
