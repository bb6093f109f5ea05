"""Records: objects whose fields are what their constructor is given, as those of dataclasses and named tuples."""

from __future__ import annotations

from typing import NamedTuple

from memlint.model.aliases import base_names, display_element, find_method, mro, qualified_names, sources
from memlint.model.memo import query
from memlint.model.scopes import Class, Function
from memlint.model.values import Binary, Call, ClassValue, Display, Value

_NAMED_TUPLES = frozenset({"typing.NamedTuple", "typing_extensions.NamedTuple"})
_DATACLASSES = frozenset({"dataclasses.dataclass", "attr.s", "attr.define", "attrs.define", "attrs.frozen"})


class Field(str):
    """The name of a field, as the component of a record that counts; a key of a dict is a plain text."""

    __slots__ = ()


class Rest(NamedTuple):
    """What follows the first elements of a list or tuple, as the component that counts: ``outputs[1:]``."""

    start: int


@query(on_cycle=())
def fields(owner: Class) -> tuple[str, ...]:
    """The fields of a record in the order in which its constructor takes them; empty for every other class."""
    if not _is_record(owner) or find_method(owner, "__init__") or find_method(owner, "__new__"):
        return ()
    return tuple(dict.fromkeys(name for cls in reversed(list(mro(owner))) for name in cls.annotations))


def _is_record(owner: Class) -> bool:
    if base_names(owner) & _NAMED_TUPLES:
        return True
    decorators = (decorator for cls in mro(owner) for decorator in cls.decorators)
    made = (each.callee if isinstance(each, Call) else each for each in decorators)
    return any(qualified_names(each) & _DATACLASSES for each in made)


def part_at(source: Value, index: object) -> Value | None:
    """The part of a literal tuple, list or dict, or of a newly made record, at a constant index, key or field."""
    if isinstance(source, Call):
        return _given_for(source, index)
    if isinstance(index, Rest):
        return _joined_behind(source, index)
    return display_element(source, index)


def _joined_behind(source: Value, rest: Rest) -> Value | None:
    """``states`` for the rest behind the first element of ``[loss] + states``."""
    if not isinstance(source, Binary) or source.operator != "+":
        return None
    exact = all(len(first) == rest.start for first in map(literal_elements, sources(source.left)) if first is not None)
    known = all(literal_elements(first) is not None for first in sources(source.left))
    return source.right if known and exact else None


def literal_elements(value: Value) -> tuple[Value, ...] | None:
    """The elements of a literal list or tuple; None for everything else."""
    if isinstance(value, Display) and value.kind in {"list", "tuple"} and not value.starred:
        return value.elements
    return None


def _given_for(call: Call, index: object) -> Value | None:
    """What the constructor of a record is given for a field, which may be named or counted."""
    names = record_fields(call)
    name = names[index] if isinstance(index, int) and -len(names) <= index < len(names) else index
    return call.argument(name, names.index(name)) if isinstance(name, str) and name in names else None


@query(on_cycle=False)
def returns_records(function: Function) -> bool:
    """Whether every ``return`` of ``function`` makes a record."""
    made = [source for exit in function.returns for source in sources(exit.value)]
    return bool(made) and all(isinstance(source, Call) and record_fields(source) for source in made)


def record_fields(call: Call) -> tuple[str, ...]:
    """The fields of the record that ``call`` makes; empty if it makes none, or if its arguments are not in sight."""
    made = [source.target for source in sources(call.callee) if isinstance(source, ClassValue)]
    return fields(made[0]) if len(made) == 1 and not call.is_open else ()
