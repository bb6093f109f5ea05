"""Options that a program takes from its command line: where they are declared, and with which default.

argparse, click, typer, absl, and parsers that fill the fields of a class (HfArgumentParser, tyro, simple_parsing).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from memlint.model.aliases import display_element, qualified_names, sources
from memlint.model.definitions import definitions
from memlint.model.keywords import given
from memlint.model.memo import query
from memlint.model.scopes import Class, Module
from memlint.model.values import (
    Call,
    ClassValue,
    Constant,
    External,
    Item,
    Parameter,
    Part,
    Value,
)


class Declared(NamedTuple):
    """An option as the program declares it.

    ``default`` is the expression of its default; without one it is ``constant``. ``convert`` is applied to a default
    that is a text.
    """

    call: Call
    name: str
    default: Value | None
    constant: object = None
    required: bool = False
    convert: Callable[[Any], Any] | None = None


# ---------------------------------------------------------------------- argparse

PARSING = frozenset({"parse_args", "parse_known_args", "parse_intermixed_args", "parse_known_intermixed_args"})
"""Methods of argparse that return an object with all options."""
_GROUPS = frozenset({"add_argument_group", "add_mutually_exclusive_group", "add_parser", "add_subparsers"})
_FLAGS = {"store_true": False, "store_false": True}
_CONVERSIONS: dict[str, Callable[[Any], Any]] = {"builtins.int": int, "builtins.float": float}


def is_parsing(call: Call) -> bool:
    """Whether ``call`` returns what the user of the program has passed on the command line."""
    return call.method in PARSING


def declared_default(parsing: Call, name: str) -> Declared | None:
    """The option ``name`` of what :func:`is_parsing` returns; None if no declaration is in sight."""
    parsers = _parsers(parsing.receiver) if parsing.receiver is not None else frozenset()
    weaker: Declared | None = None
    for module in _modules(parsing, name):
        for declared in declarations(module):
            if declared.name != name or declared.call.receiver is None:
                continue
            theirs = _parsers(declared.call.receiver)
            if theirs & parsers:
                return _with_set_default(declared, module)
            weaker = weaker or declared
    # A parser that functions hand on, or that a class of the project derives from, is not always followed.
    return weaker


def _modules(call: Call, name: str) -> tuple[Module, ...]:
    own = call.region.function.module
    others = tuple(module for option in (name, name.replace("_", "-")) for module in _mentioning(own, option))
    return tuple(dict.fromkeys((own, *others)))


def _mentioning(own: Module, option: str) -> tuple[Module, ...]:
    # The index knows words: of "batch-size" it knows "batch".
    return own.project.mentioning(option.partition("-")[0]) or () if "-" not in option else ()


@query(on_cycle=())
def declarations(module: Module) -> tuple[Declared, ...]:
    """The options that a file declares by ``add_argument``."""
    calls = module.calls_by_name.get("add_argument", ())
    return tuple(declared for call in calls if (declared := _declaration(call)) is not None)


def _declaration(call: Call) -> Declared | None:
    name = _destination(call)
    if name is None:
        return None
    texts = _texts(call)
    required = bool(texts) and not texts[0].startswith("-") and call.argument("nargs") is None
    required = required or constant_of(call.argument("required")) is True
    action = constant_of(call.argument("action"))
    default = call.argument("default")
    flag = _FLAGS.get(action) if isinstance(action, str) else None
    converts = call.argument("type")
    names = qualified_names(converts) if converts is not None else frozenset()
    convert = next((_of_text(_CONVERSIONS[name]) for name in names if name in _CONVERSIONS), None)
    return Declared(call, name, default, flag, required and default is None, convert)


def _of_text(convert: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def converted(constant: Any) -> Any:
        try:
            return convert(constant) if isinstance(constant, str) else constant
        except ValueError:
            return constant

    return converted


def _texts(call: Call) -> list[str]:
    return [value for each in call.positional() if isinstance(value := constant_of(each), str)]


def _destination(call: Call) -> str | None:
    """The attribute under which argparse stores an option: ``dest``, else the first long name, else the first."""
    named = constant_of(call.argument("dest"))
    if isinstance(named, str):
        return named
    texts = _texts(call)
    chosen = next((text for text in texts if text.startswith("--")), texts[0] if texts else None)
    return chosen.lstrip("-").replace("-", "_") if chosen is not None else None


def constant_of(value: Value | None) -> object:
    """The constant that ``value`` is; None if it is none, or not the only one."""
    found = sources(value) if value is not None else ()
    return found[0].constant if len(found) == 1 and isinstance(found[0], Constant) else None


@query(on_cycle=frozenset())
def _parsers(value: Value) -> frozenset[Value]:
    """The calls that make a parser, through its groups, and its parents."""
    found: set[Value] = set()
    for source in definitions(value):
        if isinstance(source, Call) and source.method in _GROUPS and source.receiver is not None:
            found |= _parsers(source.receiver)
        elif isinstance(source, Call):
            found.add(source)
            parents = source.argument("parents")
            for parent in (element for each in (sources(parents) if parents else ()) for element in each.operands()):
                found |= _parsers(parent)
    return frozenset(found)


def _with_set_default(declared: Declared, module: Module) -> Declared:
    """``parser.set_defaults(name=...)`` decides instead of the declaration."""
    for call in module.calls_by_name.get("set_defaults", ()):
        value = call.argument(declared.name)
        if value is not None:
            return Declared(declared.call, declared.name, value)
    return declared


# ---------------------------------------------------------------------- click, typer, absl


def parameter_default(parameter: Parameter) -> Value | None:
    """The default of a parameter: of the option that a decorator or ``typer.Option`` makes of it, or its own."""
    decorated = next(_click_defaults(parameter), None)
    if decorated is not None:
        return decorated
    own = parameter.function.defaults.get(parameter.name)
    for source in sources(own) if own is not None else ():
        if isinstance(source, Call) and qualified_names(source.callee) & {"typer.Option", "typer.Argument"}:
            default = given(source, "default", 0).values
            return default[0] if default and not _is_ellipsis(default[0]) else None
    return own


def _is_ellipsis(value: Value) -> bool:
    return constant_of(value) is Ellipsis


def _click_defaults(parameter: Parameter) -> Iterator[Value]:
    for decorator in parameter.function.decorators:
        if isinstance(decorator, Call) and qualified_names(decorator.callee) & {"click.option", "click.argument"}:
            default = decorator.argument("default")
            if parameter.name in option_names(decorator) and default is not None:
                yield default


def option_names(decorator: Call) -> set[str]:
    """The names under which click passes an option, or may pass it."""
    return {text.partition("/")[0].lstrip("-").replace("-", "_").lower() for text in _texts(decorator)}


def is_absl_flag(value: External) -> bool:
    """Whether ``value`` is an attribute of ``absl.flags.FLAGS``."""
    return value.qualified_name.startswith("absl.flags.FLAGS.")


def absl_default(flag: External) -> Declared | None:
    """The flag that ``flags.DEFINE_integer("name", 8, ...)`` declares."""
    own = flag.region.function.module
    name = flag.qualified_name.rpartition(".")[2]
    for module in dict.fromkeys((own, *(own.project.mentioning(name) or ()))):
        for called, calls in module.calls_by_name.items():
            declaring = calls if called.startswith("DEFINE_") else ()
            for call in declaring:
                if name in _texts(call)[:1]:
                    return Declared(call, name, call.argument("default", 1))
    return None


# ---------------------------------------------------------------------- classes whose fields are options

_FILLING = frozenset(
    {
        "parse_args_into_dataclasses",
        "parse_args_and_config",
        "parse_json_file",
        "parse_yaml_file",
        "parse_dict",
    }
)
"""Methods of HfArgumentParser, and of the parser of TRL, that return an object of each class."""
FILLERS = frozenset({"tyro.cli", "simple_parsing.parse", "pyrallis.parse", "draccus.parse", "jsonargparse.CLI"})
"""Functions that return an object of the class that they are given."""


def parsed_class(value: Value) -> Class | None:
    """The class of the project whose fields a parser fills, ``value`` being the object."""
    found = parsed_type(value)
    return found.target if isinstance(found, ClassValue) else None


def parsed_type(value: Value) -> Value | None:
    """The class whose fields a parser fills: ``Arguments`` of ``HfArgumentParser((Options, Arguments))``."""
    if isinstance(value, Call):
        filled = given(value, "config_class", 0).values if qualified_names(value.callee) & FILLERS else ()
        return _class_of_all(filled)
    index = value.index if isinstance(value, Part) else _constant_index(value)
    base = value.base if isinstance(value, (Part, Item)) else None
    if index is None or base is None:
        return None
    for parsing in sources(base):
        if isinstance(parsing, Call) and parsing.method in _FILLING and parsing.receiver is not None:
            for parser in definitions(parsing.receiver):
                classes = given(parser, "dataclass_types", 0).values if isinstance(parser, Call) else ()
                return _class_of_all(_listed(classes, index))
    return None


def _listed(classes: tuple[Value, ...], index: int) -> tuple[Value, ...]:
    """The class at ``index`` of those that a parser is given, or the only one."""
    found: list[Value] = []
    for value in classes:
        for source in sources(value):
            element = display_element(source, index)
            if element is not None:
                found.append(element)
            elif index == 0 and isinstance(source, (ClassValue, External)):
                found.append(source)
    return tuple(found)


def _class_of_all(classes: tuple[Value, ...]) -> Value | None:
    found = [source for value in classes for source in sources(value) if isinstance(source, (ClassValue, External))]
    return found[0] if len(found) == 1 else None


def _constant_index(value: Value) -> int | None:
    index = value.index[0] if isinstance(value, Item) and len(value.index) == 1 else None
    return index.constant if isinstance(index, Constant) and isinstance(index.constant, int) else None
