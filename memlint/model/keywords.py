"""What a call passes by keyword, through unpacked dictionaries as well, and what settings that amounts to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import Enum
from typing import NamedTuple

from memlint.model.aliases import qualified_names, sources
from memlint.model.calls import passed_arguments, proven_call_sites
from memlint.model.containers import names_of
from memlint.model.memo import query
from memlint.model.values import Attribute, Binary, Call, Choice, Constant, Display, Parameter, Phi, Store, Value


class Setting(Enum):
    """Whether an option is switched on: it has a value other than None, False, 0 and empty."""

    ON = "on"
    OFF = "off"
    UNKNOWN = "unknown"


class Given(NamedTuple):
    """What may be passed for a keyword; ``unknown`` if something out of sight may pass it, too."""

    values: tuple[Value, ...] = ()
    unknown: bool = False

    @property
    def setting(self) -> Setting:
        """What the values say together. One that the program computes, or gets from its user, is a choice: on."""
        found = {setting(value) for value in self.values}
        if Setting.ON in found:
            return Setting.ON
        return Setting.UNKNOWN if self.unknown or Setting.UNKNOWN in found else Setting.OFF


def given(call: Call, keyword: str, position: int | None = None) -> Given:
    """What ``call`` passes as ``keyword`` (or at ``position``), dictionaries that it unpacks included."""
    direct = call.argument(keyword) or call.argument(keyword, position)
    if direct is not None:
        return Given((direct,))
    if any(argument.star == "*" for argument in call.arguments) and position is not None:
        return Given(unknown=True)
    return _together(entries(argument.value, keyword) for argument in call.arguments if argument.star == "**")


def _together(found: Iterable[Given]) -> Given:
    parts = list(found)
    return Given(tuple(value for part in parts for value in part.values), any(part.unknown for part in parts))


@query(on_cycle=Given())
def entries(mapping: Value, key: str) -> Given:
    """What a dictionary may hold under ``key``."""
    made = [_made_entries(source, key) for source in sources(mapping)]
    return _together([*made, Given(tuple(_stored_entries(mapping, key)))])


def _made_entries(source: Value, key: str) -> Given:
    match source:
        case Constant():
            return Given()
        case Display(kind="dict"):
            return _together(_display_entries(source, key))
        case Call() if "builtins.dict" in qualified_names(source.callee):
            bases = (entries(value, key) for value in source.positional())
            return _together([given(source, key), *bases])
        case Call(method="copy") if source.receiver is not None:
            return entries(source.receiver, key)
        case Binary(operator="|"):
            return _together([entries(source.left, key), entries(source.right, key)])
        case Parameter(star="**"):
            return _passed_on(source, key)
        case Parameter():
            passed = passed_arguments(source)
            return Given(unknown=True) if passed is None else _together(entries(value, key) for value in passed)
    return Given(unknown=True)


def _display_entries(display: Display, key: str) -> Iterator[Given]:
    for name, value in zip(display.keys, display.elements, strict=True):
        if name is None:
            yield entries(value, key)
        elif isinstance(name, Constant):
            yield Given((value,) if name.constant == key else ())
        else:
            yield Given(unknown=True)


def _passed_on(rest: Parameter, key: str) -> Given:
    """What the callers of a function pass for its ``**rest``."""
    sites = proven_call_sites(rest.function)
    return _together(given(site, key) for site in sites) if sites else Given(unknown=True)


def _stored_entries(mapping: Value, key: str) -> Iterator[Value]:
    """What is put under ``key`` later on: ``options[key] = value``, ``options.update(key=value)``."""
    for name in names_of(mapping):
        for use in name.uses:
            match use:
                case Store(index=Constant(constant=constant)) if use.base is name and constant == key:
                    yield use.value
                case Attribute(name="update" | "setdefault"):
                    yield from (value for user in use.uses if isinstance(user, Call) for value in _put_by(user, key))


def _put_by(call: Call, key: str) -> Iterator[Value]:
    positional = call.positional()
    if call.method == "update":
        yield from given(call, key).values
        yield from (value for mapping in positional for value in entries(mapping, key).values)
    elif len(positional) > 1 and isinstance(positional[0], Constant) and positional[0].constant == key:
        yield positional[1]


@query(on_cycle=Setting.UNKNOWN)
def setting(value: Value) -> Setting:
    """Whether an option that is passed as ``value`` is switched on."""
    if isinstance(value, (Choice, Phi)):
        return _any_of(value.operands())
    found = sources(value)
    return _source_setting(found[0]) if len(found) == 1 else _any_of(found)


def _any_of(values: Iterable[Value]) -> Setting:
    found = {setting(value) for value in values}
    return next((each for each in (Setting.ON, Setting.UNKNOWN) if each in found), Setting.OFF)


def _source_setting(source: Value) -> Setting:
    if isinstance(source, Constant):
        return Setting.ON if source.constant else Setting.OFF
    if isinstance(source, Parameter) and not source.star:
        passed = passed_arguments(source)
        if passed is not None:
            return _any_of(passed)
        default = source.function.defaults.get(source.name)
        return Setting.UNKNOWN if default is not None and setting(default) is Setting.OFF else Setting.ON
    return Setting.ON
