"""Dataclasses and named tuples as plain JSON, for what two processes of one release tell each other."""

from __future__ import annotations

import dataclasses
import functools
import json
import sys
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

_T = TypeVar("_T")


def dumped(value: object) -> str:
    """``value``, a dataclass of dataclasses, named tuples, lists, mappings, paths and plain values, as JSON."""
    return json.dumps(dataclasses.asdict(value), default=str)  # type: ignore[call-overload]


def loaded(kind: type[_T], text: str) -> _T:
    """The inverse of :func:`dumped` for a dataclass ``kind``. Raises ValueError, TypeError or KeyError."""
    result: _T = _read(kind, json.loads(text))
    return result


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind, vars(sys.modules[kind.__module__]))


def _read(kind: Any, data: Any) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if data is None or kind is Any:
        return data
    if origin in (types.UnionType, typing.Union):
        return _read(next(each for each in arguments if each is not type(None)), data)
    if origin is tuple:
        kinds = [arguments[0]] * len(data) if arguments[-1] is Ellipsis else arguments
        return tuple(_read(each, item) for each, item in zip(kinds, data, strict=True))
    if origin is list:
        return [_read(arguments[0], item) for item in data]
    if origin in (dict, Mapping):
        return {_read(arguments[0], key): _read(arguments[1], item) for key, item in data.items()}
    if dataclasses.is_dataclass(kind):
        hints = _hints(typing.cast(type, kind))
        make: Any = kind
        return make(**{name: _read(hints[name], item) for name, item in data.items()})
    if hasattr(kind, "_fields"):
        hints = _hints(typing.cast(type, kind))
        return kind(*(_read(hints[name], item) for name, item in zip(kind._fields, data, strict=True)))
    return Path(data) if kind is Path else kind(data)
