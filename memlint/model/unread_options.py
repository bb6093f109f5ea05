"""Options that a program takes from its user, and that nothing reads: of argparse, of click, and fields of a class."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import libcst as cst

from memlint.model.aliases import base_names, mro, qualified_names, sources
from memlint.model.calls import callees
from memlint.model.command_line import (
    FILLERS,
    PARSING,
    Declared,
    constant_of,
    declarations,
    is_parsing,
    option_names,
    parsed_class,
)
from memlint.model.definitions import definitions
from memlint.model.memo import query
from memlint.model.scopes import Class, Module
from memlint.model.values import Call, ClassValue, Store, Value


class Unread(NamedTuple):
    """An option that nothing reads, and the code that declares it."""

    name: str
    node: cst.CSTNode


def unread_options(module: Module, names: re.Pattern[str]) -> Iterator[Unread]:
    """The options of a file whose names ``names`` finds, and that nothing in the project reads."""
    yield from _unread_arguments(module, names)
    yield from _unread_parameters(module, names)
    yield from _unread_fields(module, names)


# ---------------------------------------------------------------------- argparse


def _unread_arguments(module: Module, names: re.Pattern[str]) -> Iterator[Unread]:
    """Options that nothing reads by name, although others of the same parser are read so."""
    for declared in declarations(module):
        if names.search(declared.name) and not _is_read(declared, module) and not _is_read_at_large(declared):
            yield Unread(declared.name, declared.call.node)


def _is_read(declared: Declared, module: Module) -> bool:
    if _reads(module, declared.name, declared):
        return True
    mentioning = module.project.mentioning(declared.name)
    if mentioning is not None and not any(_reads(other, declared.name) for other in mentioning if other is not module):
        return False
    # Scripts that stand side by side have options of the same names; each reads its own.
    return not _keeps_to_itself(module)


def _reads(module: Module, name: str, declared: Declared | None = None) -> bool:
    """Whether a file mentions ``name`` in any other way than by declaring the option."""
    if name in module.loads or name in _stored_names(module):
        return True
    quoted = (f'"{name}"', f"'{name}'")
    return any(text in module.text for text in quoted) and not (declared and _is_declared_by(quoted, declared, module))


def _is_declared_by(quoted: Iterable[str], declared: Declared, module: Module) -> bool:
    """Whether the only place with the quoted name is the ``dest`` of the declaration itself."""
    count = sum(module.text.count(text) for text in quoted)
    return count == 1 and isinstance(constant_of(declared.call.argument("dest")), str)


@query(on_cycle=frozenset())
def _stored_names(module: Module) -> frozenset[str]:
    return frozenset(s.attribute for f in module.functions for s in f.stores if s.attribute is not None)


@query(on_cycle=False)
def _keeps_to_itself(module: Module) -> bool:
    """Whether a script parses its own options, nothing imports it, and it hands them on as a whole to itself only."""
    if not any(name in module.calls_by_name for name in PARSING) or module.project.is_imported(module):
        return False
    passing = (call for calls in module.calls_by_name.values() for call in calls if any(map(_is_parsed, _given(call))))
    return all(_stays_in(module, call) for call in passing)


def _given(call: Call) -> Iterator[Value]:
    return (argument.value for argument in call.arguments)


def _is_parsed(value: Value) -> bool:
    return any(isinstance(source, Call) and is_parsing(source) for source in definitions(value))


def _stays_in(module: Module, call: Call) -> bool:
    called = callees(call)
    if called:
        return all(function.module is module for function in called)
    return bool(qualified_names(call.callee) & _WHOLE) or call.method in _RECORDING


_WHOLE = frozenset(
    {"builtins.vars", "builtins.print", "builtins.str", "builtins.repr", "builtins.len", "builtins.hasattr"}
    | {"builtins.isinstance", "dataclasses.asdict", "dataclasses.fields", "pprint.pprint", "builtins.type"}
)
"""What takes all options together only to show or to record them, or under names that are asked for later."""
_RECORDING = frozenset({"info", "debug", "warning", "log", "print", "log_hyperparams", "init_trackers", "append"})
"""Methods that do so, whatever the object."""


def _is_read_at_large(declared: Declared) -> bool:
    """Whether options leave the project as a whole: ``main(**vars(args))``."""
    module = declared.call.region.function.module
    parsing = [call for name in PARSING for call in module.calls_by_name.get(name, ())]
    if not parsing:
        return True
    return any(_leaves_whole(use) for call in parsing for use in _uses(call))


def _uses(value: Value) -> Iterator[object]:
    """Who uses what a call returns, through the names that it is bound to."""
    for use in value.uses:
        if isinstance(use, Value) and (value in sources(use)):
            yield from _uses(use)
        else:
            yield use


def _leaves_whole(use: object) -> bool:
    """Whether all options are unpacked, or handed to something out of sight that is not known to only show them."""
    if isinstance(use, Call):
        names = qualified_names(use.callee)
        if "builtins.vars" in names:
            return any(isinstance(u, Call) and any(a.star and a.value is use for a in u.arguments) for u in use.uses)
        return any(argument.star for argument in use.arguments)
    return isinstance(use, Store) and use.base is not None and use.attribute is None


# ---------------------------------------------------------------------- click


def _unread_parameters(module: Module, names: re.Pattern[str]) -> Iterator[Unread]:
    """Options of click that become parameters which their function does not use."""
    for function in module.functions:
        options = [
            d for d in function.decorators if isinstance(d, Call) and qualified_names(d.callee) & {"click.option"}
        ]
        for parameter in function.parameters if options else ():
            if parameter.uses or parameter.name in function.captures or parameter.star:
                continue
            if names.search(parameter.name):
                yield from (Unread(parameter.name, o.node) for o in options if parameter.name in option_names(o))


# ---------------------------------------------------------------------- fields of a class


def _unread_fields(module: Module, names: re.Pattern[str]) -> Iterator[Unread]:
    """Fields of a class of which a parser makes an object for the program, and that nothing reads."""
    for owner in (owner for function in module.functions for owner in function.classes):
        for name in filter(names.search, owner.annotations):
            if _is_of_project(owner) and not _is_field_read(name, module) and _is_filled_to_be_read_here(owner):
                yield from (Unread(name, node) for node in _declaring(owner, name))


def _is_of_project(owner: Class) -> bool:
    """Whether no class from elsewhere, as ``TrainingArguments``, reads what the user asks for."""
    bases = (source for cls in mro(owner) for base in cls.bases for source in sources(base))
    return all(isinstance(base, ClassValue) or qualified_names(base) <= {"builtins.object"} for base in bases)


def _is_field_read(name: str, module: Module) -> bool:
    mentioning = module.project.mentioning(name)
    return mentioning is None or any(_reads(other, name) for other in dict.fromkeys((module, *mentioning)))


def _is_filled_to_be_read_here(owner: Class) -> bool:
    """Whether a parser fills objects of the class, and none of them leaves the project or is unpacked as a whole."""
    mentioning = owner.module.project.mentioning(owner.name)
    modules = dict.fromkeys((owner.module, *(mentioning or ())))
    calls = [call for module in modules for calls in module.calls_by_name.values() for call in calls]
    if mentioning is None or not any(_parses(call, owner) for call in calls):
        return False
    passing = (call for call in calls if any(_is_object(argument.value, owner) for argument in call.arguments))
    return all(_shows_or_stays(call) for call in passing)


def _parses(call: Call, owner: Class) -> bool:
    """Whether ``call`` makes a parser for the class, or an object of it from the command line."""
    if not (qualified_names(call.callee) & FILLERS or _makes_parser(call)):
        return False
    found = (part for argument in call.arguments for source in sources(argument.value) for part in _parts(source))
    return any(isinstance(part, ClassValue) and part.target is owner for part in found)


def _makes_parser(call: Call) -> bool:
    """Whether ``call`` makes a parser of transformers or TRL, or one of the project that is derived from them."""
    found = (base_names(source.target) for source in sources(call.callee) if isinstance(source, ClassValue))
    return not _PARSERS.isdisjoint(qualified_names(call.callee).union(*found))


_PARSERS = frozenset(
    """
    transformers.HfArgumentParser transformers.hf_argparser.HfArgumentParser
    trl.TrlParser trl.scripts.utils.TrlParser trl.commands.cli_utils.TrlParser
    """.split()
)
"""Parsers that fill the fields of the classes that they are given."""


def _parts(value: Value) -> Iterator[Value]:
    yield value
    yield from (source for operand in value.operands() for source in sources(operand))


def _is_object(value: Value, owner: Class) -> bool:
    return any(parsed_class(source) is owner for source in definitions(value))


def _shows_or_stays(call: Call) -> bool:
    if any(argument.star for argument in call.arguments):
        return False
    shown = bool(qualified_names(call.callee) & _WHOLE) or call.method in _RECORDING
    return (shown and not _is_unpacked(call)) or bool(callees(call))


def _is_unpacked(call: Call) -> bool:
    return any(isinstance(use, Call) and any(a.star and a.value is call for a in use.arguments) for use in call.uses)


def _declaring(owner: Class, name: str) -> Iterator[cst.CSTNode]:
    """The row of the class body that declares the field."""
    for line in owner.node.body.body:
        for statement in line.body if isinstance(line, cst.SimpleStatementLine) else ():
            match statement:
                case cst.AnnAssign(target=cst.Name(value=found)) if found == name:
                    yield statement
