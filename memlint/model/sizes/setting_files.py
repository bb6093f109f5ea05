"""Configuration files that a program opens under a known name: JSON, YAML and TOML, each value with its line."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memlint.model.documents import MAX_BYTES, Entry, parse_document
from memlint.model.sizes.marks import marked
from memlint.model.sizes.natives import Items
from memlint.model.sizes.objects import PLAIN, Absent, External, Instance, Place

if TYPE_CHECKING:
    from memlint.model.sizes.calls import Calls

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FILE = "a configuration file"
_SUFFIXES = frozenset({".json", ".yaml", ".yml", ".toml"})
LOADERS = frozenset(
    """json.load json.loads yaml.safe_load yaml.full_load yaml.unsafe_load yaml.load tomllib.load tomllib.loads
    tomli.load toml.load omegaconf.OmegaConf.load""".split()
)
"""Functions that read a file, its text, or what stands under a path."""


def opened(calls: Calls, arguments: list[Any], keywords: dict[str, Any]) -> Any:
    """What ``open`` gives: a configuration file that can be read later, or something plain."""
    path = _found(calls, arguments[0] if arguments else keywords.get("file"))
    mode = arguments[1] if len(arguments) > 1 else keywords.get("mode", "r")
    is_read = isinstance(mode, str) and not set(mode) & set("wax+")
    return Instance(External(FILE), {"path": path}) if path is not None and is_read else PLAIN


def loaded(calls: Calls, arguments: list[Any], _keywords: dict[str, Any]) -> Any:
    """The values of a configuration file; plain and unknown where it cannot be read."""
    given = arguments[0] if arguments else None
    if isinstance(given, Instance) and isinstance(given.cls, External) and given.cls.name == FILE:
        path: Path | None = given.attributes["path"]
    else:
        path = _found(calls, given)
    text = calls.read(path) if path is not None else None
    if path is None or text is None or len(text) > MAX_BYTES:
        return PLAIN
    if path.suffix == ".toml":
        return _toml(path, text)
    root = parse_document(path, text.encode())
    return PLAIN if root is None else _values(path, root)


def exists(calls: Calls, arguments: list[Any], _keywords: dict[str, Any]) -> Any:
    """What ``os.path.exists`` and its like say of a known path."""
    name = arguments[0] if arguments else None
    if not isinstance(name, str):
        return PLAIN
    return True if _beside(calls, name) is not None else Absent(f"whether {name} exists", plain=True, path=name)


EXISTENCE = frozenset({"os.path.exists", "os.path.isfile", "os.path.isdir", "os.path.lexists"})


def _found(calls: Calls, name: Any) -> Path | None:
    """The file of settings that has this name."""
    if not isinstance(name, str) or Path(name).suffix not in _SUFFIXES:
        return None
    path = _beside(calls, name)
    return path if path is not None and path.is_file() else None


def _beside(calls: Calls, name: str) -> Path | None:
    """What has this name beside the program's file or in a folder around it, where programs are started."""
    folders = [calls.place.path.parent, *calls.place.path.parent.parents]
    return next((path for folder in folders[:4] if (path := folder / name).exists()), None)


def _values(path: Path, entry: Entry) -> Any:
    if isinstance(entry.constant, dict):
        return {key: _values(path, each) for key, each in entry.members.items()}
    if isinstance(entry.constant, list):
        return Items(_values(path, each) for each in entry.members.values())
    return marked(entry.constant, Place(path, entry.row))


def _toml(path: Path, text: str) -> Any:
    try:
        return _placed(path, text.splitlines(), tomllib.loads(text), "")
    except tomllib.TOMLDecodeError:
        return PLAIN


def _placed(path: Path, rows: list[str], value: Any, key: str) -> Any:
    """The library tells no lines: the first that sets a key of this name counts."""
    if isinstance(value, dict):
        return {name: _placed(path, rows, each, name) for name, each in value.items()}
    if isinstance(value, list):
        return Items(_placed(path, rows, each, key) for each in value)
    setting = re.compile(rf"\s*[\"']?{re.escape(key)}[\"']?\s*=")
    row = next((number for number, line in enumerate(rows, 1) if setting.match(line)), 1)
    return marked(value, Place(path, row))
