"""``memlint clean``."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import click

from memlint.cache.cache import DIRECTORY
from memlint.cache.store import is_ours
from memlint.commands.check import CACHE_VARIABLE

_NOT_WALKED = frozenset({".git", ".hg", "node_modules", "site-packages"})


def remove_caches(directory: Path) -> None:
    """Removes the cache directories in ``directory`` and below, and that of the environment, and says which."""
    named = os.environ.get(CACHE_VARIABLE)
    if named and is_ours(Path(named)):
        _remove(Path(named))
    for parent, names, _ in os.walk(directory):
        if DIRECTORY in names and not (cache := Path(parent, DIRECTORY)).is_symlink():
            _remove(cache)
        names[:] = [name for name in names if name not in _NOT_WALKED and name != DIRECTORY]


def _remove(cache: Path) -> None:
    shutil.rmtree(cache)
    click.echo(f"Removed {cache}")
