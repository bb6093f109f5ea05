"""What the script writes: tensors are kept as they are, and files that were there before are not overwritten."""

from __future__ import annotations

import builtins
import io
import os
from pathlib import Path
from typing import Any

import torch


class Files:
    """Stands before ``torch.save``, ``torch.load`` and ``open``. ``notes`` grows.

    Nothing without data can be saved, so that a checkpoint or a log of an earlier training would be lost.
    """

    def __init__(self, folder: Path, notes: list[str]) -> None:
        """``folder`` takes what the script writes over files that are there."""
        self._folder = folder
        self._notes = notes
        self._saved: dict[str, Any] = {}
        self._aside: dict[Path, Path] = {}
        """By the absolute paths that the script means."""
        self._open, self._load = builtins.open, torch.load

    def install(self) -> None:
        """From here on."""
        torch.save = self._save
        torch.load = self._read
        builtins.open = io.open = self._opened

    def leave(self) -> None:
        """Files are opened as ever."""
        builtins.open = io.open = self._open

    def _save(self, value: Any, file: Any, *_: Any, **__: Any) -> None:
        self._saved[self._key(file)] = value

    def _read(self, file: Any, *args: Any, **kwargs: Any) -> Any:
        key = self._key(file)
        return self._saved[key] if key in self._saved else self._load(file, *args, **kwargs)

    def _key(self, file: Any) -> str:
        """The same for a file by its path and by an open file."""
        name = file if isinstance(file, (str, os.PathLike)) else getattr(file, "name", None)
        if not isinstance(name, (str, os.PathLike)):
            return str(file)
        path = _absolute(name)
        return str(next((meant for meant, aside in self._aside.items() if aside == path), path))

    def _opened(self, file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if isinstance(file, (str, os.PathLike)):
            path = _absolute(file)
            if "w" in mode and path not in self._aside and _holds_something(path):
                self._aside[path] = self._folder / f"{len(self._aside)}-{path.name}"
                self._notes.append(f"{path} was there before and is not overwritten")
            file = self._aside.get(path, file)
        return self._open(file, mode, *args, **kwargs)


def _absolute(name: str | os.PathLike[str]) -> Path:
    return Path(os.fsdecode(name)).absolute()


def _holds_something(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0
