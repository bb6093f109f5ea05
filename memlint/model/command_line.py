"""Options that a program takes from its command line: where they are declared, and with which default.

argparse, click, typer, absl, and parsers that fill the fields of a class (HfArgumentParser, tyro, simple_parsing).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

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
    Store,
    Value,
)


@dataclass(frozen=True)
class Declared:
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

_PARSING = frozenset({"parse_args", "parse_known_args", "parse_intermixed_args", "parse_known_intermixed_args"})
_GROUPS = frozenset({"add_argument_group", "add_mutually_exclusive_group", "add_parser", "add_subparsers"})
_FLAGS = {"store_true": False, "store_false": True}
_CONVERSIONS: dict[str, Callable[[Any], Any]] = {"builtins.int": int, "builtins.float": float}


def is_parsing(call: Call) -> bool:
    """Whether ``call`` returns what the user of the program has passed on the command line."""
    return call.method in _PARSING


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
    required = required or _constant(call.argument("required")) is True
    action = _constant(call.argument("action"))
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
    return [value for each in call.positional() if isinstance(value := _constant(each), str)]


def _destination(call: Call) -> str | None:
    """The attribute under which argparse stores an option: ``dest``, else the first long name, else the first."""
    named = _constant(call.argument("dest"))
    if isinstance(named, str):
        return named
    texts = _texts(call)
    chosen = next((text for text in texts if text.startswith("--")), texts[0] if texts else None)
    return chosen.lstrip("-").replace("-", "_") if chosen is not None else None


def _constant(value: Value | None) -> object:
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


# ---------------------------------------------------------------------- options that nothing reads


def unread_options(module: Module) -> Iterator[Declared]:
    """Options of a file that nothing in the project reads by name, although others of the same parser are read so."""
    for declared in declarations(module):
        if not _is_read(declared, module) and not _is_read_at_large(declared):
            yield declared


def _is_read(declared: Declared, module: Module) -> bool:
    mentioning = module.project.mentioning(declared.name)
    if mentioning is None:
        return True
    return any(_reads(other, declared) for other in dict.fromkeys((module, *mentioning)))


def _reads(module: Module, declared: Declared) -> bool:
    """Whether a file mentions the name in any other way than by declaring the option."""
    if declared.name in module.loads or declared.name in _stored_names(module):
        return True
    own = module is declared.call.region.function.module
    quoted = (f'"{declared.name}"', f"'{declared.name}'")
    return any(text in module.text for text in quoted) and not (own and _is_declared_by(quoted, declared, module))


def _is_declared_by(quoted: tuple[str, ...], declared: Declared, module: Module) -> bool:
    """Whether the only place with the quoted name is the ``dest`` of the declaration itself."""
    count = sum(module.text.count(text) for text in quoted)
    return count == 1 and isinstance(_constant(declared.call.argument("dest")), str)


@query(on_cycle=frozenset())
def _stored_names(module: Module) -> frozenset[str]:
    return frozenset(s.attribute for f in module.functions for s in f.stores if s.attribute is not None)


_WHOLE = frozenset({"builtins.vars", "builtins.print", "builtins.str", "builtins.repr"})
"""What takes all options together only to show or to record them, or under names that are asked for later."""


def _is_read_at_large(declared: Declared) -> bool:
    """Whether options leave the project as a whole: ``main(**vars(args))``, ``Trainer.from_argparse_args(args)``."""
    module = declared.call.region.function.module
    parsing = [call for name in _PARSING for call in module.calls_by_name.get(name, ())]
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
    return _constant(value) is Ellipsis


def _click_defaults(parameter: Parameter) -> Iterator[Value]:
    for decorator in parameter.function.decorators:
        if isinstance(decorator, Call) and qualified_names(decorator.callee) & {"click.option", "click.argument"}:
            default = decorator.argument("default")
            if parameter.name in _option_names(decorator) and default is not None:
                yield default


def _option_names(decorator: Call) -> set[str]:
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


def unread_parameters(module: Module) -> Iterator[tuple[Call, str]]:
    """The options of click that become parameters which their function does not use, with those parameters' names."""
    for function in module.functions:
        options = [
            d for d in function.decorators if isinstance(d, Call) and qualified_names(d.callee) & {"click.option"}
        ]
        for parameter in function.parameters if options else ():
            if parameter.uses or parameter.name in function.captures or parameter.star:
                continue
            yield from ((option, parameter.name) for option in options if parameter.name in _option_names(option))


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
_FILLERS = frozenset({"tyro.cli", "simple_parsing.parse", "pyrallis.parse", "draccus.parse", "jsonargparse.CLI"})
"""Functions that return an object of the class that they are given."""


def parsed_class(value: Value) -> Class | None:
    """The class of the project whose fields a parser fills, ``value`` being the object."""
    found = parsed_type(value)
    return found.target if isinstance(found, ClassValue) else None


def parsed_type(value: Value) -> Value | None:
    """The class whose fields a parser fills: ``Arguments`` of ``HfArgumentParser((Options, Arguments))``."""
    if isinstance(value, Call):
        filled = given(value, "config_class", 0).values if qualified_names(value.callee) & _FILLERS else ()
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
