"""The files that belong together: what an import resolves to, and who calls a function."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import libcst

from memlint.model.program import Program


class Project:
    """Files that are checked together. ``files`` are the absolute paths of its Python files."""

    def __init__(self, root: Path, files: Sequence[Path] = ()) -> None:
        self.root = root
        self.files = tuple(files)

    def program(self, path: Path, text: str) -> Program:
        """The program of ``text``, which stands (or will stand) at ``path``.

        Raises ``libcst.ParserSyntaxError`` for a text that does not parse.
        """
        return Program(path, libcst.parse_module(text))
