"""Reads files and whole trees out of a folder of git mirrors, without a work tree and without the network."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

OFFLINE = {**os.environ, "GIT_NO_LAZY_FETCH": "1", "GIT_TERMINAL_PROMPT": "0"}
"""A mirror may be a partial clone: an object that it lacks is absent, not to be fetched."""


METADATA = (
    "pyproject.toml",
    "poetry.lock",
    "uv.lock",
    "Pipfile",
    "Pipfile.lock",
    "requirements*.txt",
    "constraints*.txt",
    "requirements/*.txt",
    "setup.cfg",
    "setup.py",
    "environment.yml",
    "environment.yaml",
)
"""Files in which a project says which versions it runs with."""


@dataclass(frozen=True)
class Mirrors:
    """Mirrors at ``owner+name/repo`` or ``owner+name/repo/.git`` under ``folder``."""

    folder: Path

    def git_dir(self, repo: str) -> Path | None:
        """The git directory of ``owner/name``; None when there is no mirror of it."""
        base = self.folder / repo.replace("/", "+") / "repo"
        return next((place for place in (base, base / ".git") if (place / "HEAD").is_file()), None)

    def read(self, repo: str, revision: str) -> bytes | None:
        """The bytes of ``COMMIT:path`` or of a blob id; None when the mirror lacks it."""
        git_dir = self.git_dir(repo)
        if git_dir is None:
            return None
        shown = _git(git_dir, "cat-file", "blob", revision)
        return shown.stdout if shown.returncode == 0 else None

    def python_files(self, repo: str, commit: str) -> Iterator[tuple[Path, bytes]]:
        """Every Python file of ``commit`` that the mirror has, with its path in the tree."""
        yield from self._files(repo, commit, lambda path: path.suffix == ".py")

    def metadata(self, repo: str, commit: str) -> Iterator[tuple[Path, bytes]]:
        """The files of ``commit`` that say which versions of libraries it needs, with their paths in the tree."""
        yield from self._files(repo, commit, lambda path: any(path.match(name) for name in METADATA))

    def _files(self, repo: str, commit: str, wants: Callable[[Path], bool]) -> Iterator[tuple[Path, bytes]]:
        git_dir = self.git_dir(repo)
        if git_dir is None:
            return
        listing = _git(git_dir, "ls-tree", "-r", "-z", commit).stdout
        entries = [_entry(line) for line in listing.split(b"\0") if line]
        wanted = {path: blob for mode, blob, path in entries if mode.startswith("100") and wants(path)}
        for path, data in zip(wanted, _blobs(git_dir, wanted.values()), strict=True):
            if data is not None:
                yield path, data


def _git(git_dir: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["git", "--git-dir", git_dir, *arguments], capture_output=True, check=False, env=OFFLINE)


def _entry(line: bytes) -> tuple[str, str, Path]:
    """Mode, object id and path of one line of ``git ls-tree``."""
    meta, path = line.split(b"\t", 1)
    mode, _, object_id = meta.decode().split()
    return mode, object_id, Path(os.fsdecode(path))


def _blobs(git_dir: Path, ids: Iterable[str]) -> Iterator[bytes | None]:
    """The contents of blobs in order, through one git process; None for a blob that is absent."""
    command = ["git", "--git-dir", str(git_dir), "cat-file", "--batch"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=OFFLINE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for object_id in ids:
            process.stdin.write(f"{object_id}\n".encode())
            process.stdin.flush()
            header = process.stdout.readline().split()
            if header[-1:] == [b"missing"]:
                yield None
                continue
            yield process.stdout.read(int(header[2]))
            process.stdout.read(1)


def flat_rows(notebook: bytes) -> dict[int, int]:
    """For each code cell, counted from 1 over all cells, the row of its marker when the notebook is flattened.

    The flat form of a notebook is the text of its code cells, each after one marker line; row ``r`` of a cell stands
    at the marker's row plus ``r``.
    """
    rows: dict[int, int] = {}
    row = 0
    for number, cell in enumerate(json.loads(notebook)["cells"], start=1):
        if cell["cell_type"] != "code":
            continue
        row += 1
        rows[number] = row
        source = cell["source"]
        row += ("".join(source) if isinstance(source, list) else source).count("\n") + 1
    return rows
