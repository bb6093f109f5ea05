"""``memlint clean``."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import click

from memlint.cache.cache import DIRECTORY

_NOT_WALKED = frozenset({".git", ".hg", "node_modules", "site-packages"})


def remove_caches(directory: Path) -> None:
    """Removes the cache directories in ``directory`` and below, and says which."""
    for parent, names, _ in os.walk(directory):
        if DIRECTORY in names and not (cache := Path(parent, DIRECTORY)).is_symlink():
            shutil.rmtree(cache)
            click.echo(f"Removed {cache}")
        names[:] = [name for name in names if name not in _NOT_WALKED and name != DIRECTORY]
