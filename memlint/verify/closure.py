"""The files of a project that a script imports, directly or through each other."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterator
from pathlib import Path

from memlint.model.project import package_root

_MAX_FILES = 2_000


def imported_files(script: Path, root: Path) -> tuple[Path, ...]:
    """``script`` and the Python files below ``root`` or beside it that it imports; the script first, then by path.

    Imports are read wherever they stand, whether or not they would run.
    """
    found = {script}
    todo = [script]
    while todo and len(found) < _MAX_FILES:
        path = todo.pop()
        for each in _imports(path, root, script):
            if each not in found:
                found.add(each)
                todo.append(each)
    return (script, *sorted(found - {script}))


def _imports(path: Path, root: Path, script: Path) -> Iterator[Path]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return
    bases = dict.fromkeys((script.parent, package_root(path), root, root / "src"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _files(bases, alias.name)
        elif isinstance(node, ast.ImportFrom) and node.level:
            folder = path.parents[node.level - 1] if node.level <= len(path.parents) else path.parent
            yield from _members((folder,), node)
        elif isinstance(node, ast.ImportFrom):
            yield from _members(tuple(bases), node)


def _members(bases: tuple[Path, ...], node: ast.ImportFrom) -> Iterator[Path]:
    """The module, and its members in case they are modules."""
    module = node.module or ""
    yield from _files(bases, module)
    for alias in node.names:
        yield from _files(bases, f"{module}.{alias.name}".lstrip("."))


def _files(bases: tuple[Path, ...] | dict[Path, None], name: str) -> Iterator[Path]:
    """The files that importing ``name`` runs: the packages around it, and itself."""
    parts = [part for part in name.split(".") if part]
    for base in bases:
        last = base.joinpath(*parts)
        if parts and not (last.with_suffix(".py").is_file() or (last / "__init__.py").is_file()):
            continue
        for count in range(len(parts) + 1):
            each = base.joinpath(*parts[:count])
            candidates = (each / "__init__.py", *([each.with_suffix(".py")] if count == len(parts) and parts else []))
            yield from (candidate for candidate in candidates if candidate.is_file())
        if parts:
            return
