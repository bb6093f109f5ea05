"""What the capacity rules ask of a program: what it trains, how large that is, and where it says so."""

from __future__ import annotations

import os
from pathlib import Path

import libcst as cst
from libcst.metadata import MetadataWrapper, PositionProvider

from memlint.model.memo import query
from memlint.model.program import Program
from memlint.model.scopes import Module
from memlint.model.sizes.objects import Place
from memlint.model.sizes.reading import Reader, Reading

REFERENCE = 16 << 30
"""Bytes of the card that is assumed where none is configured: what most small GPUs have."""
_STEPS = 120_000
"""Nodes that are evaluated for the sake of rules; ``memlint estimate`` evaluates more."""


def training_of(program: Program) -> Reading | None:
    """What the program trains; None if it trains nothing in sight."""
    return _training(program.module)


@query(on_cycle=None)
def _training(module: Module) -> Reading | None:
    project = module.project

    def locate(origin: Path, name: str) -> Path | None:
        return find_module(origin, project.root, name)

    def read(path: Path) -> str | None:
        if path == module.path:
            return module.text
        return project.read(path).decode("utf-8", "replace")

    reading = Reader(locate, read, steps=_STEPS).read(module.path)
    return reading if reading.is_training else None


def find_module(origin: Path, root: Path, name: str) -> Path | None:
    """The file of the module ``name`` as imported in the file ``origin`` of the project at ``root``."""
    relative = name.replace(".", os.sep)
    folder = origin.parent
    package = folder
    while (package / "__init__.py").is_file() and package.parent != package:
        package = package.parent
    for base in dict.fromkeys((package, folder, root, root / "src")):
        for candidate in (base / f"{relative}.py", base / relative / "__init__.py"):
            if candidate.is_file():
                return candidate
    return None


def call_at(program: Program, place: Place, *names: str) -> cst.Call | None:
    """The outermost call in that row of the program, of one of ``names`` if there is one."""
    if place.path != program.path:
        return None
    rows = _rows(program.module)
    found: list[cst.Call] = []
    for call in program.calls():
        node = call.node
        if isinstance(node, cst.Call):
            start, end = rows.get(id(node), (0, 0))
            if start <= place.row <= end:
                found.append(node)
    named = [node for node in found if _last_name(node) in names]
    chosen = named or (found if not names else [])
    return chosen[0] if chosen else None


def _last_name(node: cst.Call) -> str:
    callee = node.func
    if isinstance(callee, cst.Attribute):
        return callee.attr.value
    return callee.value if isinstance(callee, cst.Name) else ""


@query(on_cycle=None)
def _rows_of(module: Module) -> dict[int, tuple[int, int]] | None:
    positions = MetadataWrapper(module.tree, unsafe_skip_copy=True).resolve(PositionProvider)
    return {
        id(node): (where.start.line, where.end.line) for node, where in positions.items() if isinstance(node, cst.Call)
    }


def _rows(module: Module) -> dict[int, tuple[int, int]]:
    return _rows_of(module) or {}
