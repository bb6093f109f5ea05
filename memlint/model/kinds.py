"""What kind of object a value is: a module, an optimizer, a loader, a tensor, a container...

Decided from where the value comes from (constructors, annotations, imports, the classes of the project) and, where
that is out of sight, from what is done with it. Names of variables are no evidence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import Enum
from functools import cache
from typing import Any, NamedTuple

from memlint.findings import Confidence
from memlint.model.aliases import instance_class, sources
from memlint.model.memo import query
from memlint.model.scopes import Class
from memlint.model.values import (
    ClassValue,
    Comprehension,
    Constant,
    Display,
    Formatted,
    FunctionValue,
    Value,
)


class Role(str, Enum):
    """What an object is for."""

    TENSOR = "tensor"
    OUTPUT = "output"
    """What calling a module returns: a tensor or a structure of tensors."""
    BATCH = "batch"
    """What a loader yields."""
    MODULE = "module"
    LOSS_FUNCTION = "loss function"
    """A module without parameters: a loss, an activation."""
    OPTIMIZER = "optimizer"
    SCHEDULER = "scheduler"
    LOADER = "loader"
    DATASET = "dataset"
    SCALER = "gradient scaler"
    ACCELERATOR = "accelerator"
    ENGINE = "engine"
    """A DeepSpeed engine: model and optimizer in one."""
    PREPARED = "prepared"
    """The tuple that a framework returns for what it was given (``accelerator.prepare(...)``)."""
    PARAMETERS = "parameters"
    CONTAINER = "container"
    NUMBER = "number"
    TEXT = "text"
    NONE = "none"
    FUNCTION = "function"
    CLASS = "class"
    OBJECT = "object"
    """An instance of a class that is none of the above."""

    __hash__ = str.__hash__  # Enum would hash their names in Python, a million times.


class Kind(NamedTuple):
    """A role, how sure it is, and the class by qualified name and, if the project defines it, by definition."""

    role: Role
    confidence: Confidence = Confidence.CERTAIN
    name: str = ""
    cls: Class | None = None


def kinds(value: Value) -> tuple[Kind, ...]:
    """The kinds that ``value`` may have, one for each source that says something; empty if nothing is known."""
    written = written_kind(value)
    return _kinds(value) if written is None or written is _NONE else (written,)


@query(on_cycle=())
def _kinds(value: Value) -> tuple[Kind, ...]:
    is_no_module, evidence, source_kinds = _knowledge()
    found = dict.fromkeys(kind for source in sources(value) for kind in source_kinds(source))
    known = [kind for kind in found if kind.role is not Role.NONE]
    if not known:
        found.update(dict.fromkeys(evidence(value)))
    elif all(kind.role is Role.OBJECT and kind.cls is None for kind in known):
        # A class that is not in sight: what is done with its instance says more than that it is an object.
        known_otherwise = all(is_no_module(kind.name) for kind in known)
        shown = [] if known_otherwise else [kind for kind in evidence(value) if kind.role in _SHOWN_BY_USE]
        return tuple(dict.fromkeys(kind for kind in found if kind.role is Role.NONE or not shown)) + tuple(shown)
    return tuple(found)


@cache
def _knowledge() -> tuple[Callable[[str], bool], Callable[[Value], Iterator[Kind]], Callable[[Value], Iterator[Kind]]]:
    # What is known of a value rests on the kinds of others: these modules need this one.
    from memlint.model.constructors import is_no_module
    from memlint.model.evidence import evidence
    from memlint.model.kind_sources import source_kinds

    return is_no_module, evidence, source_kinds


def written_kind(value: Value) -> Kind | None:
    """The kind of what shows it by its form: literals, functions, classes."""
    tell = _WRITTEN.get(type(value))
    return None if tell is None else tell(value)


_TEXT, _NUMBER, _NONE = Kind(Role.TEXT), Kind(Role.NUMBER), Kind(Role.NONE)


def _constant_kind(value: Constant) -> Kind:
    constant = value.constant
    if constant is None:
        return _NONE
    return _TEXT if isinstance(constant, (str, bytes)) else _NUMBER


def _made_kind(value: Display | Comprehension) -> Kind:
    return Kind(Role.CONTAINER, name=value.kind)


def _function_kind(value: FunctionValue) -> Kind:
    return Kind(Role.FUNCTION, name=value.target.qualified_name)


def _class_kind(value: ClassValue) -> Kind:
    return Kind(Role.CLASS, name=value.target.qualified_name, cls=value.target)


_WRITTEN: dict[type[Value], Callable[[Any], Kind]] = {
    Constant: _constant_kind,
    Formatted: lambda _: _TEXT,
    Display: _made_kind,
    Comprehension: _made_kind,
    FunctionValue: _function_kind,
    ClassValue: _class_kind,
}


_SHOWN_BY_USE = frozenset({Role.MODULE, Role.OPTIMIZER, Role.SCALER})
"""Roles whose objects are told from others by what is done with them."""


def role(value: Value, *wanted: Role) -> Confidence | None:
    """How sure it is that ``value`` may be one of ``wanted``; None if nothing says so."""
    best: Confidence | None = None
    for kind in kinds(value):
        if kind.role in wanted and (best is None or kind.confidence.rank > best.rank):
            best = kind.confidence
    return best


def is_known_other(value: Value, *wanted: Role) -> bool:
    """Whether ``value`` is known, and known to be none of ``wanted``."""
    known = [kind for kind in kinds(value) if kind.role is not Role.NONE]
    return bool(known) and not any(kind.role in wanted for kind in known)


def is_always(value: Value, *wanted: Role) -> bool:
    """Whether ``value`` is known, and known to be one of ``wanted``; None aside."""
    known = [kind for kind in kinds(value) if kind.role is not Role.NONE]
    return bool(known) and all(kind.role in wanted for kind in known)


def class_of(value: Value) -> Class | None:
    """The class of the project that ``value`` is an instance of; the first one if it may be of several."""
    return next(classes_of(value), None)


def classes_of(value: Value) -> Iterator[Class]:
    """The classes of the project that ``value`` may be an instance of."""
    owner = instance_class(value)
    if owner is not None:
        yield owner
    else:
        known = (kind.cls for kind in kinds(value) if kind.cls is not None and kind.role is not Role.CLASS)
        yield from dict.fromkeys(known)
