"""Which versions of torch and of the frameworks a project may run with, as its own metadata says.

Read are ``pyproject.toml``, ``poetry.lock``, ``uv.lock``, ``Pipfile`` and its lock, ``requirements*.txt`` and
``constraints*.txt`` (also in a folder ``requirements``), ``setup.cfg``, literals in ``setup.py`` and
``environment.yml``, in the folder of the file that is checked and in those above it, up to the root of the project.
The nearest folder that constrains a package decides; there a lock decides before what is asked for.

Versions are compared by their first four numbers: ``2.1.0rc1`` and ``2.1.0+cu118`` count as ``2.1.0``. Where a
package is constrained more than once (extras, markers, several files), any of the versions is possible. What is not
constrained, or in a way that is not understood, is unknown, and then no question about it is answered with yes.
"""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from memlint.model.documents import MAX_BYTES, parse_document
from memlint.model.memo import query
from memlint.model.scopes import Module

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_Version = tuple[int, int, int, int]
_OLDEST: _Version = (0, 0, 0, 0)
_MAX_LOCK_BYTES = 1 << 23
"""Larger lock files are not read."""
_MAX_FOLDERS = 16
"""How many folders upwards metadata is looked for."""


class Range(NamedTuple):
    """The versions from ``first`` on, up to but without ``end`` (None: all later ones)."""

    first: _Version = _OLDEST
    end: _Version | None = None

    @property
    def is_bounded(self) -> bool:
        """Whether it leaves out any version."""
        return self != Range()

    def intersection(self, other: Range) -> Range:
        """The versions in both."""
        ends = [end for end in (self.end, other.end) if end is not None]
        return Range(max(self.first, other.first), min(ends, default=None))


def is_at_least(module: Module, package: str, version: str) -> bool:
    """Whether every version of ``package`` that the project of ``module`` admits is ``version`` or later.

    False if it may be older, or if the project does not say.
    """
    ranges = pinned(module, package)
    return bool(ranges) and all(each.first >= _version(version) for each in ranges)


def is_older(module: Module, package: str, version: str) -> bool:
    """Whether every version of ``package`` that the project of ``module`` admits is older than ``version``.

    False if it may be that or a later one, or if the project does not say.
    """
    ranges = pinned(module, package)
    return bool(ranges) and all(each.end is not None and each.end <= _version(version) for each in ranges)


def supports_older(module: Module, package: str, version: str) -> bool:
    """Whether the project of ``module`` says that it runs with versions of ``package`` from before ``version``.

    It does where an older version is the first of those that it admits, or the only one: ``torch>=1.7`` and
    ``torch<2`` for 2.0, but not ``torch<3``, that says nothing of old ones. False if the project does not say.
    """
    ranges = pinned(module, package)
    return any(_OLDEST < each.first < _version(version) for each in ranges) or is_older(module, package, version)


@query(on_cycle=())
def pinned(module: Module, package: str) -> tuple[Range, ...]:
    """The versions of ``package`` that the project of ``module`` admits; empty if it does not constrain them."""
    for folder in _folders(module):
        found = _constraints(module, folder).get(_normalized(package), ())
        if found:
            return found
    return ()


def _folders(module: Module) -> Iterator[Path]:
    root = module.project.root
    folder = module.folder
    above = folder.parents if folder.is_relative_to(root) and folder != root else ()
    for each in (folder, *above)[:_MAX_FOLDERS]:
        yield each
        if each == root:
            return


def _constraints(module: Module, folder: Path) -> Mapping[str, tuple[Range, ...]]:
    """What the files of one folder say, by package; read once for each folder."""
    project = module.project
    return project.memo.once(project.pins, folder, lambda: _read_folder(module, folder)) or {}


def _read_folder(module: Module, folder: Path) -> dict[str, tuple[Range, ...]]:
    asked: dict[str, list[Range]] = {}
    locked: dict[str, list[Range]] = {}
    for path in _metadata_files(module, folder):
        data = module.project.read(path)
        is_lock = path.name in _LOCKS
        if not data or len(data) > (_MAX_LOCK_BYTES if is_lock else MAX_BYTES):
            continue
        for package, versions in _read(path, data):
            if versions.is_bounded:
                (locked if is_lock else asked).setdefault(_normalized(package), []).append(versions)
    return {package: tuple(dict.fromkeys(ranges)) for package, ranges in {**asked, **locked}.items()}


_LOCKS = ("poetry.lock", "uv.lock", "Pipfile.lock")
_PLAIN_FILES = ("pyproject.toml", *_LOCKS, "Pipfile", "setup.cfg", "setup.py", "environment.yml", "environment.yaml")
_REQUIREMENTS = ("requirements*.txt", "constraints*.txt")


def _metadata_files(module: Module, folder: Path) -> list[Path]:
    project = module.project
    patterns = (*((folder, pattern) for pattern in _REQUIREMENTS), (folder / "requirements", "*.txt"))
    listed = [path for where, pattern in patterns for path in project.listed(where, pattern)]
    return [*(folder / name for name in _PLAIN_FILES), *listed]


# ---------------------------------------------------------------------- files


def _read(path: Path, data: bytes) -> list[tuple[str, Range]]:
    """The packages that a file constrains; none if it cannot be read."""
    try:
        text = data.decode("utf-8-sig")
        if path.suffix == ".txt":
            return list(_requirements(text.replace("\\\n", " ").splitlines()))
        if path.suffix in {".yml", ".yaml"}:
            return list(_environment(path, data))
        if path.name == "setup.py":
            return list(_requirements(_literals(text)))
        if path.name == "setup.cfg":
            return list(_requirements(text.splitlines()))
        if path.name == "Pipfile.lock":
            return list(_pipfile_lock(json.loads(text)))
        document = tomllib.loads(text)
    except (ValueError, SyntaxError, RecursionError):
        return []
    return list(_locked(document) if path.name in _LOCKS else _declared(document))


def _requirements(lines: Iterable[object]) -> Iterator[tuple[str, Range]]:
    """What lines like ``torch[opt]>=2.0,<3; python_version > "3.9"  # comment`` say."""
    for line in lines:
        found = _REQUIREMENT.match(line.strip()) if isinstance(line, str) else None
        if found:
            yield found["name"], _range(found["versions"])


_REQUIREMENT = re.compile(r"(?P<name>[A-Za-z][\w.-]*)\s*(?:\[[^\]]*\])?\s*\(?\s*(?P<versions>[=~<>!][^;#)]*)")


def _literals(text: str) -> Iterator[str]:
    """The texts in ``setup.py``: requirements are written there in whatever lists and variables."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value) < 200:
            yield node.value


def _declared(document: Mapping[str, Any]) -> Iterator[tuple[str, Range]]:
    """What ``pyproject.toml`` or a ``Pipfile`` asks for: PEP 621, groups of PEP 735, poetry's and pipenv's tables."""
    project, tool = _table(document, "project"), _table(document, "tool")
    yield from _requirements(_list(project.get("dependencies")))
    for group in (_table(project, "optional-dependencies"), _table(document, "dependency-groups")):
        for entries in group.values():
            yield from _requirements(_list(entries))
    yield from _requirements(_list(_table(tool, "uv").get("dev-dependencies")))
    poetry = _table(tool, "poetry")
    tables = [_table(poetry, "dependencies"), _table(poetry, "dev-dependencies"), _table(document, "packages")]
    tables += [
        _table(group, "dependencies") for group in _table(poetry, "group").values() if isinstance(group, Mapping)
    ]
    for table in tables:
        for package, wanted in table.items():
            for each in wanted if isinstance(wanted, list) else [wanted]:
                versions = each.get("version") if isinstance(each, Mapping) else each
                yield package, _range(versions) if isinstance(versions, str) else Range()


def _locked(document: Mapping[str, Any]) -> Iterator[tuple[str, Range]]:
    for entry in _list(document.get("package")):
        if isinstance(entry, Mapping) and isinstance(entry.get("name"), str) and isinstance(entry.get("version"), str):
            yield entry["name"], _range(f"=={entry['version']}")


def _pipfile_lock(document: object) -> Iterator[tuple[str, Range]]:
    for section in ("default", "develop"):
        for package, entry in _table(document, section).items():
            versions = entry.get("version") if isinstance(entry, Mapping) else None
            if isinstance(versions, str):
                yield package, _range(versions)


def _environment(path: Path, data: bytes) -> Iterator[tuple[str, Range]]:
    """What a conda environment asks for; ``pytorch`` is conda's name of torch, ``=2.1`` means any 2.1."""
    root = parse_document(path, data)
    document = root.constant if root is not None else None
    for entry in _list(document.get("dependencies")) if isinstance(document, Mapping) else ():
        if isinstance(entry, Mapping):
            yield from _requirements(_list(entry.get("pip")))
        elif isinstance(entry, str):
            found = _CONDA.match(entry)
            if found:
                exact = found["exact"]
                name = "torch" if found["name"] in {"pytorch", "pytorch-gpu", "pytorch-cpu"} else found["name"]
                yield name, _range(f"=={exact.rstrip('.*')}.*" if exact else found["versions"])


_CONDA = re.compile(
    r"\s*(?:[\w./-]+::)?(?P<name>[A-Za-z][\w.-]*)\s*(?:=(?P<exact>[^\s=]+)(?:=.*)?|(?P<versions>[=<>~!]=.*|[<>].*))$"
)


def _table(document: object, name: str) -> Mapping[str, Any]:
    found = document.get(name) if isinstance(document, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _list(found: object) -> list[Any]:
    return found if isinstance(found, list) else []


# ---------------------------------------------------------------------- versions


def _normalized(package: str) -> str:
    return re.sub(r"[-_.]+", "-", package).lower()


def _version(text: str) -> _Version:
    """The first four numbers; raises ValueError if there is none."""
    found = re.match(r"\s*v?(\d+(?:\.\d+)*)", text)
    if found is None:
        raise ValueError(f"{text!r} is no version")
    one, two, three, four, *_ = (*map(int, found[1].split(".")), 0, 0, 0, 0)
    return one, two, three, four


def _range(specifiers: str) -> Range:
    """The versions that all of the comma-separated ``specifiers`` admit; what is not understood admits all."""
    found = Range()
    for specifier in specifiers.split(","):
        found = found.intersection(_admitted(specifier.strip()))
    return found


_SPECIFIER = re.compile(r"(?P<operator>===|==|~=|>=|<=|!=|<|>|\^|~)?\s*(?P<version>v?\d[\w.+*!-]*)$")


def _admitted(specifier: str) -> Range:
    found = _SPECIFIER.match(specifier)
    if found is None:
        return Range()
    operator, text = found["operator"] or "==", found["version"]
    first = _version(text)
    numbers = len(re.findall(r"\d+", re.match(r"[\d.]*", text.lstrip("v"))[0]))  # type: ignore[index]
    ranges = {
        ">=": Range(first),
        ">": Range(_after(first, 4)),
        "<": Range(_OLDEST, first),
        "<=": Range(_OLDEST, _after(first, 4)),
        "~=": Range(first, _after(first, max(numbers - 1, 1))),
        "~": Range(first, _after(first, min(numbers, 2))),
        "^": Range(first, _after(first, _leading(first, numbers))),
        "==": Range(first, _after(first, min(numbers, 4) if text.endswith("*") else 4)),
        "===": Range(first, _after(first, 4)),
    }
    return ranges.get(operator, Range())


def _leading(version: _Version, numbers: int) -> int:
    """How many of the numbers a caret of poetry keeps: up to the first that is not zero."""
    return next((count for count, number in enumerate(version, 1) if number), min(numbers, 4))


def _after(version: _Version, numbers: int) -> _Version:
    """The first version that differs from ``version`` in the first ``numbers`` numbers: (2, 1, 3, 0), 2 -> 2.2."""
    parts = [*version[: numbers - 1], version[numbers - 1] + 1, 0, 0, 0, 0]
    one, two, three, four, *_ = parts
    return one, two, three, four
