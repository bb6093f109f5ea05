"""How large a model of a class is if nobody says otherwise: made with the defaults of its constructor."""

from __future__ import annotations

from memlint.model.memo import query
from memlint.model.scopes import Class, Module
from memlint.model.sizes.evaluate import Stopped, TooMuch
from memlint.model.sizes.objects import ClassObject, ModuleObject, Namespace
from memlint.model.sizes.reading import Reader

_STEPS = 40_000
"""Nodes that are evaluated for the classes of a file."""


@query(on_cycle=None)
def parameters_by_default(owner: Class) -> int | None:
    """Elements of the parameters of ``owner()``, at least: parts that are not known count as none.

    None if the class cannot be made without arguments, or is not at the top level of its file.
    """
    reader = _reader(owner.module)
    namespace = reader.evaluator.files.get(owner.module.path) if reader is not None else None
    cls = namespace.scope.variables.get(owner.name) if isinstance(namespace, Namespace) else None
    if reader is None or not isinstance(cls, ClassObject) or _needs_arguments(owner):
        return None
    try:
        made = reader.evaluator.call(cls, [], {})
    except (Stopped, TooMuch, RecursionError):
        return None
    return made.count() if isinstance(made, ModuleObject) else None


def _needs_arguments(owner: Class) -> bool:
    """Whether the constructor has parameters without defaults."""
    init = owner.methods.get("__init__")
    if init is None:
        return True
    own = init.lower().parameters[1:]
    return any(not parameter.star and parameter.default is None for parameter in own)


@query(on_cycle=None)
def _reader(module: Module) -> Reader | None:
    """What has read the top level of a file, whose imports count as unknown; None if it cannot be evaluated."""
    reader = Reader(
        lambda _origin, _name: None, lambda path: module.text if path == module.path else None, steps=_STEPS
    )
    try:
        reader.evaluator.file(module.path)
    except (Stopped, TooMuch, RecursionError):
        return None
    return reader
