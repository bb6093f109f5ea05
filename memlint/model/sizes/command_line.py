"""Parsers of command-line arguments: their defaults are what the program runs with, unless something else is set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from memlint.model.sizes.marks import marked
from memlint.model.sizes.objects import PLAIN, ClassObject, External, Instance, Place

if TYPE_CHECKING:
    from memlint.model.sizes.calls import Calls

PARSERS = frozenset({"argparse.ArgumentParser", "configargparse.ArgumentParser"})
BY_PARSER = "filled by a parser"
"""The attribute of an object of a library whose fields a parser fills."""
_ARGUMENTS = "arguments of the parser"
_CLASSES = "classes of the parser"


@dataclass(frozen=True)
class Option:
    """An argument of the command line that has a name."""

    name: str
    """With its dashes."""
    place: Place
    action: str = ""

    def words(self, value: object) -> list[str]:
        """What to write in order to set it."""
        if self.action in ("store_true", "store_false"):
            return [self.name] if value is (self.action == "store_true") else []
        if self.action.endswith("BooleanOptionalAction"):
            return [self.name if value else f"--no-{self.name.removeprefix('--')}"]
        return [self.name, str(value)]


def new_parser(name: str, arguments: list[Any], keywords: dict[str, Any]) -> Instance:
    """A parser without arguments of its own; it has those of its parents."""
    classes = arguments[0] if arguments and isinstance(arguments[0], (list, tuple)) else arguments[:1]
    parents = keywords.get("parents")
    inherited: dict[str, Any] = {}
    for each in parents if isinstance(parents, (list, tuple)) else ():
        known = each.attributes.get(_ARGUMENTS) if isinstance(each, Instance) else None
        inherited.update(known if isinstance(known, dict) else {})
    return Instance(External(name), {_ARGUMENTS: inherited, _CLASSES: list(classes)})


def _add_argument(calls: Calls, parser: Instance, names: list[Any], given: dict[str, Any]) -> Any:
    known = [name for name in names if isinstance(name, str)]
    arguments = parser.attributes.get(_ARGUMENTS)
    if not known or not isinstance(arguments, dict):
        return PLAIN
    long = next((name for name in known if name.startswith("--")), known[0])
    destination = given.get("dest") or long.lstrip("-").replace("-", "_")
    action = given.get("action")
    if long.startswith("-"):
        kind = action.name if isinstance(action, External) else str(action or "")
        calls.options[destination] = Option(long, calls.place, kind)
    value = given.get("default", {"store_true": False, "store_false": True}.get(str(action)))
    if given.get("required") is True or not long.startswith("-"):
        value = given.get("default", PLAIN)
    if value is None and calls.absent_is_unknown:
        value = PLAIN
    value = calls.overrides.get(destination, _typed(value, given.get("type")))
    calls.overridden.update(calls.overrides.keys() & {destination})
    arguments[destination] = marked(value, calls.place, by_command_line=True)
    return PLAIN


def _typed(value: Any, kind: Any) -> Any:
    """A default that is written as a text, converted as the parser does."""
    name = kind.name.removeprefix("builtins.") if isinstance(kind, External) else ""
    try:
        return (
            {"int": int, "float": float}[name](value) if isinstance(value, str) and name in {"int", "float"} else value
        )
    except ValueError:
        return PLAIN


def _group(_calls: Calls, parser: Instance, _arguments: list[Any], _given: dict[str, Any]) -> Any:
    return parser


def _set_defaults(calls: Calls, parser: Instance, _arguments: list[Any], given: dict[str, Any]) -> Any:
    known = parser.attributes.get(_ARGUMENTS)
    if isinstance(known, dict):
        known.update({name: value for name, value in given.items() if name not in calls.overrides})
    return PLAIN


def _parse(_calls: Calls, parser: Instance, _arguments: list[Any], _given: dict[str, Any]) -> Any:
    known = parser.attributes.get(_ARGUMENTS)
    return Instance(External("argparse.Namespace"), dict(known) if isinstance(known, dict) else {}, open=True)


def _parse_known(calls: Calls, parser: Instance, arguments: list[Any], given: dict[str, Any]) -> Any:
    return (_parse(calls, parser, arguments, given), PLAIN)


def _into_dataclasses(calls: Calls, parser: Instance, _arguments: list[Any], _named: dict[str, Any]) -> Any:
    made = []
    for each in parser.attributes.get(_CLASSES, []):
        value = calls.call(each, [], {}) if isinstance(each, (ClassObject, External)) else PLAIN
        if isinstance(value, Instance):
            given = {k: v for k, v in calls.overrides.items() if k in value.attributes or value.open}
            value.attributes.update(given)
            calls.overridden.update(given)
            calls.options.update({name: Option(f"--{name}", calls.place) for name in given})
            if isinstance(each, External):
                value.attributes[BY_PARSER] = True
            value.attributes = {k: marked(v, calls.place, by_command_line=True) for k, v in value.attributes.items()}
        made.append(value)
    return tuple(made)


PARSER_METHODS: dict[str, Callable[[Calls, Instance, list[Any], dict[str, Any]], Any]] = {
    "add_argument": _add_argument,
    "add_argument_group": _group,
    "add_mutually_exclusive_group": _group,
    "set_defaults": _set_defaults,
    "parse_args": _parse,
    "parse_known_args": _parse_known,
    "parse_args_into_dataclasses": _into_dataclasses,
}
