"""Where a value comes from: through names, attributes, imports and literal containers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from memlint.model.knowledge import torch
from memlint.model.memo import query
from memlint.model.scopes import Class, Function, Module
from memlint.model.values import (
    Attribute,
    Awaited,
    Call,
    Choice,
    ClassValue,
    Constant,
    Display,
    Element,
    Entered,
    External,
    Free,
    FunctionValue,
    Item,
    ModuleValue,
    Parameter,
    Part,
    Phi,
    Value,
)

_MAX_SOURCES = 64


def module_of(value: Value) -> Module:
    """The file in which ``value`` is computed."""
    return value.region.function.module


def sources(value: Value) -> tuple[Value, ...]:
    """The values that ``value`` may be another name of, aliases followed until none is left.

    Names joined at branches and loops, attributes of ``self``, imported and module-level names, and components of
    tuples are followed; calls, parameters and operations end the search.
    """
    kind = type(value)
    if kind not in _FOLLOWED or (kind is Call and _named_attributes(value) is None):  # type: ignore[arg-type]
        return (value,)  # most values, which are not worth remembering
    return _sources(value)


@query(on_cycle=())
def _sources(value: Value) -> tuple[Value, ...]:
    found: dict[int, Value] = {}
    seen: set[int] = set()
    pending = [value]
    while pending and len(found) < _MAX_SOURCES:
        current = pending.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        nearer = aliases(current)
        if nearer is None:
            found[id(current)] = current
        else:
            pending.extend(nearer)
    return tuple(found.values())


def aliases(value: Value) -> tuple[Value, ...] | None:
    """The values that ``value`` is directly another name of; None if it is no mere name."""
    follow = _FOLLOWED.get(type(value))
    return None if follow is None else follow(value)


def _free_aliases(value: Free) -> tuple[Value, ...] | None:
    return tuple(value.scope.lower().bindings.get(value.name, ())) or None


def _external_aliases(value: External) -> tuple[Value, ...] | None:
    module = module_of(value)
    found = module.project.resolve(module, value.qualified_name)
    return (found,) if found is not None and found is not value and not isinstance(found, ModuleValue) else None


def _named_attributes(call: Call) -> tuple[Value, ...] | None:
    """What ``getattr(self, name)`` may be, if all names are in sight: constants, those that callers pass included."""
    if type(call.callee) is not External or call.callee.qualified_name != "builtins.getattr":
        return None
    given = call.positional()
    owner = instance_class(given[0]) if len(given) > 1 else None
    if owner is None:
        return None
    found: list[Value] = []
    for name in constant_texts(given[1]):
        values = attribute_values(owner, name) if name is not None else ()
        if not values:
            return None
        found.extend(values)
    return (*found, *given[2:3]) or None


@query(on_cycle=())
def constant_texts(value: Value) -> tuple[str | None, ...]:
    """The constant texts that ``value`` may be, those that callers pass included; None for one out of sight."""
    found: list[str | None] = []
    for source in sources(value):
        if isinstance(source, Constant) and isinstance(source.constant, str):
            found.append(source.constant)
        else:
            given = _given_for(source) if isinstance(source, Parameter) else ()
            found.extend(text for value in given for text in constant_texts(value))
            found.extend(() if given else (None,))
    return tuple(dict.fromkeys(found))


def _given_for(parameter: Parameter) -> tuple[Value, ...]:
    """What callers pass for ``parameter``, or its default where none is in sight."""
    # Who calls a function is known by the aliases of what is called.
    from memlint.model.calls import passed_arguments

    default = parameter.function.defaults.get(parameter.name)
    return passed_arguments(parameter) or ((default,) if default is not None else ())


def _attribute_aliases(value: Attribute) -> tuple[Value, ...] | None:
    owner = instance_class(value.base)
    if owner is not None:
        return attribute_values(owner, value.name) or None
    if isinstance(value.base, ModuleValue):
        found = value.base.target.body.lower().bindings.get(value.name)
        return tuple(found) if found else None
    return None


def attribute_values(owner: Class, name: str) -> tuple[Value, ...]:
    """What the class (or one of its bases) stores in ``self.name``, binds to ``name`` or returns for a property."""
    for cls in mro(owner):
        if name in cls.methods and cls.methods[name].is_property:
            return tuple(exit.value for exit in cls.methods[name].lower().returns)
        stored = tuple(store.value for store in cls.instance_stores.get(name, ()))
        declared = tuple(cls.attributes.get(name, ()))
        if stored or declared:
            return (*stored, *declared)
    return ()


def _element_aliases(value: Element) -> tuple[Value, ...] | None:
    return _iterated(value, "values")


def _part_aliases(value: Part) -> tuple[Value, ...] | None:
    if value.index is None:
        return None
    if value.index == 1 and isinstance(value.base, Element):
        listed = _iterated(value.base, "items")
        if listed is not None:
            return listed
    found: list[Value] = []
    for source in sources(value.base):
        if isinstance(source, Display) and not source.starred and len(source.elements) == value.of:
            found.append(source.elements[value.index])
        else:
            return None
    return tuple(found) or None


def _item_aliases(value: Item) -> tuple[Value, ...] | None:
    if len(value.index) != 1:
        return None
    index = value.index[0]
    if not isinstance(index, Constant):
        return _registered(value.base)
    found: list[Value] = []
    for source in sources(value.base):
        element = display_element(source, index.constant)
        if element is None:
            return None
        found.append(element)
    return tuple(found) or None


def _registered(table: Value) -> tuple[Value, ...] | None:
    """The classes and functions of a literal table that something is picked from: ``MODELS[name]``."""
    found: list[Value] = []
    for source in (each for given in sources(table) for each in _tables(given)):
        if not isinstance(source, Display) or source.starred or not all(map(_is_definition, source.elements)):
            return None
        found.extend(source.elements)
    return tuple(found) or None


def _tables(given: Value) -> Iterator[Value]:
    """``given``, or what is passed for it if it is a parameter, or what the functions return that are called for it."""
    # What a call runs is known by the aliases of what is called.
    from memlint.model.calls import callees

    if isinstance(given, Parameter):
        for passed in _given_for(given):
            yield from sources(passed)
    elif isinstance(given, Call) and callees(given):
        for exit in (exit for function in callees(given) for exit in function.returns):
            yield from sources(exit.value)
    else:
        yield given


def _iterated(element: Element, part: str) -> tuple[Value, ...] | None:
    """The classes and functions that a loop over a table goes through: over a list, or ``part`` of a dict's methods."""
    for source in sources(element.iterable):
        if isinstance(source, Call):
            return _registered(source.receiver) if source.method == part and source.receiver is not None else None
    return _registered(element.iterable) if part == "values" else None


def _is_definition(value: Value) -> bool:
    """Whether ``value`` is a class or a function, or a tuple of such."""
    if isinstance(value, Display):
        return value.kind in {"tuple", "list"} and all(map(_is_definition, value.elements))
    if isinstance(value, Attribute):
        return isinstance(value.base, (External, ModuleValue)) or _is_definition(value.base)
    return isinstance(value, (External, ClassValue, FunctionValue))


_FOLLOWED: dict[type[Value], Callable[[Any], tuple[Value, ...] | None]] = {
    Phi: Phi.operands,
    Choice: Choice.operands,
    Awaited: Awaited.operands,
    Free: _free_aliases,
    External: _external_aliases,
    Attribute: _attribute_aliases,
    Element: _element_aliases,
    Part: _part_aliases,
    Item: _item_aliases,
    Call: _named_attributes,
}
"""How the kinds of values are followed that may be names of others."""


def same_object(one: Value, other: Value) -> bool:
    """Whether two values are known to name the same object."""
    if one is other:
        return True
    mine, theirs = sources(one), sources(other)
    return any(a is b for a in mine for b in theirs)


def same_place(one: Value, other: Value) -> bool:
    """Whether two values are known to name the same object, or the same item or attribute of it."""
    if same_object(one, other):
        return True
    if isinstance(one, Attribute) and isinstance(other, Attribute):
        return one.name == other.name and same_place(one.base, other.base)
    if not isinstance(one, Item) or not isinstance(other, Item) or len(one.index) != len(other.index):
        return False
    indices = zip(one.index, other.index, strict=True)
    return same_place(one.base, other.base) and all(a and b and same_object(a, b) for a, b in indices)


def display_element(source: Value, index: object) -> Value | None:
    """The element of a literal list, tuple or dict at a constant index or key."""
    if not isinstance(source, Display) or source.starred:
        return None
    if source.kind == "dict":
        for key, element in zip(source.keys, source.elements, strict=True):
            if isinstance(key, Constant) and key.constant == index:
                return element
        return None
    if isinstance(index, int) and -len(source.elements) <= index < len(source.elements):
        return source.elements[index]
    return None


def zipped(value: Value) -> Value | None:
    """The iterable that a component of pairs is an element of: ``xs`` for ``x`` in ``for i, x in enumerate(xs)``.

    The same for ``zip``, and for one of them in the other.
    """
    if not isinstance(value, Part) or value.index is None:
        return None
    pairs = value.base.iterable if isinstance(value.base, Element) else zipped(value.base)
    for source in sources(pairs) if pairs is not None else ():
        names = qualified_names(source.callee) if isinstance(source, Call) else frozenset()
        if not isinstance(source, Call) or source.is_open:
            return None
        given = source.positional()
        place = value.index if "builtins.zip" in names else value.index - 1 if "builtins.enumerate" in names else None
        return given[place] if place is not None and 0 <= place < len(given) else None
    return None


# ---------------------------------------------------------------------- classes


def instance_class(value: Value) -> Class | None:
    """The class of the project on whose instance a method runs, if ``value`` is that instance (``self``)."""
    kind = type(value)
    if kind is Parameter:
        return value.function.owner if value.index == 0 and value.function.is_method else None  # type: ignore[attr-defined]
    if isinstance(value, Phi):
        return instance_class(value.inputs[0]) if value.loop is not None else None
    if isinstance(value, Free):
        bound = value.scope.bindings.get(value.name, ())
        return instance_class(bound[0]) if len(bound) == 1 else None
    return None


@query(on_cycle=())
def instance_loads(owner: Class, name: str) -> tuple[Attribute, ...]:
    """Where the methods of the class read ``name`` of the instance that they run on."""
    return tuple(load for load in owner.module.loads.get(name, ()) if instance_class(load.base) is owner)


def mro(owner: Class) -> Iterator[Class]:
    """The class and its bases within the project, nearest first; a file is read when its class is asked for."""
    yield owner
    seen = {owner}
    pending = [owner]
    while pending:
        for base in _bases(pending.pop(0)):
            if base not in seen:
                seen.add(base)
                pending.append(base)
                yield base


@query(on_cycle=())
def _bases(owner: Class) -> tuple[Class, ...]:
    """The bases of the project that a class names."""
    return tuple(source.target for base in owner.bases for source in sources(base) if isinstance(source, ClassValue))


@query(on_cycle=frozenset())
def base_names(owner: Class) -> frozenset[str]:
    """Qualified names of the class and of all its bases, whether the project defines them or not.

    A framework that is itself the project defines what others import from it.
    """
    return frozenset(
        name for cls in mro(owner) for name in (cls.qualified_name, *(n for b in cls.bases for n in qualified_names(b)))
    )


def find_method(owner: Class, name: str) -> Function | None:
    """The method ``name`` of the class or its nearest base in the project."""
    for cls in mro(owner):
        if name in cls.methods:
            return cls.methods[name]
    return None


def find_property(owner: Class, name: str) -> Function | None:
    """The function that computes ``owner().name``, if that is a property."""
    found = find_method(owner, name)
    return found if found is not None and found.is_property else None


def qualified_names(value: Value) -> frozenset[str]:
    """The qualified names that ``value`` may have: of an import, a builtin, or something that the project defines."""
    kind = type(value)
    return _qualified_names(value) if kind in _FOLLOWED or kind in _NAMED else frozenset()


_NAMED = frozenset({FunctionValue, ClassValue})


@query(on_cycle=frozenset())
def _qualified_names(value: Value) -> frozenset[str]:
    found: set[str] = set()
    if isinstance(value, External):
        found.add(value.qualified_name)
    for source in sources(value):
        match source:
            case External():
                found.add(source.qualified_name)
            case FunctionValue() | ClassValue():
                found.add(source.target.qualified_name)
            case Call():
                found.update(partial_names(source))
            case Attribute():
                found.update(f"{name}.{source.name}" for name in qualified_names(source.base))
    names = frozenset(found)
    return _NAMES.setdefault(names, names)


_NAMES: dict[frozenset[str], frozenset[str]] = {}
"""Each set of names once: of fifteen answers, fourteen say what another says."""


def origins(value: Value) -> frozenset[str]:
    """The qualified names of the functions and classes outside the project that ``value`` was got from.

    ``matplotlib.pyplot.subplots`` for ``ax`` in ``fig, ax = plt.subplots()``; empty if one is not known.
    """
    found: set[str] = set()
    for source in sources(value):
        base: Value | None = source
        while base is not None and not isinstance(base, External):
            base = _got_from(base)
        if base is None:
            return frozenset()
        found.add(base.qualified_name)
    return frozenset(found)


def _passed_on(call: Call) -> Value | None:
    """What a function such as ``enumerate`` hands on; None if it takes from several."""
    return call.arguments[0].value if len(call.arguments) == 1 else None


def _got_from(value: Value) -> Value | None:
    match value:
        case Call():
            return _passed_on(value) if qualified_names(value.callee) & torch.PASSING_BUILTINS else value.callee
        case Attribute() | Item() | Part():
            return value.base
        case Element():
            return value.iterable
        case Entered():
            return value.context
    return None


def partial_names(call: Call) -> frozenset[str]:
    """``functools.partial(f, ...)`` goes by the name of ``f``."""
    if isinstance(call.callee, External) and call.callee.qualified_name == "functools.partial" and call.arguments:
        return qualified_names(call.arguments[0].value)
    return frozenset()
