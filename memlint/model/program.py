"""One file of a project, as the rules see it."""

from __future__ import annotations

from pathlib import Path

import libcst


class Program:
    """A parsed file and what it means."""

    def __init__(self, path: Path, tree: libcst.Module) -> None:
        self.path = path
        self.tree = tree
