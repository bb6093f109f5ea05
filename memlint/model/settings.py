"""Which value a setting may have, and where it was set: in the code, as a default, or in a file.

``batch_size=args.batch_size`` has the default that the command line declares, unless the user of the program asks for
something else; ``config=ds_config`` has what the dictionary or the file holds. Each answer says where it stands.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import libcst as cst

from memlint.findings import Confidence
from memlint.model import command_line
from memlint.model.aliases import (
    attribute_values,
    display_element,
    find_method,
    instance_class,
    mro,
    qualified_names,
    sources,
)
from memlint.model.definitions import calls_of_class, definitions
from memlint.model.documents import Entry
from memlint.model.keywords import given
from memlint.model.kinds import class_of
from memlint.model.memo import query
from memlint.model.rows import rows
from memlint.model.scopes import Class, Module
from memlint.model.values import (
    Attribute,
    Binary,
    Call,
    Choice,
    ClassValue,
    Constant,
    Display,
    Entered,
    External,
    FunctionValue,
    Item,
    Parameter,
    Part,
    Store,
    Unary,
    Value,
)


@dataclass(frozen=True)
class Origin:
    """Where a value was set: a node of a file of the project, or a row of a document."""

    path: Path
    module: Module | None = None
    node: cst.CSTNode | None = None
    document_row: int = 0

    @property
    def row(self) -> int:
        """The row, counted from 1. For code this costs a walk over the file: ask for messages only."""
        if self.module is None or self.node is None:
            return self.document_row
        return (rows(self.module, self.node) or (1, 1))[0]

    def __str__(self) -> str:
        return f"{self.path.name}:{self.row}"


class Known(NamedTuple):
    """One value that a setting may have: of plain types, or a list or dict of them.

    Certain if the code says so; likely if it is a default that the user of the program may override, or stands in a
    file that may be another one when the program runs.
    """

    constant: Any
    confidence: Confidence
    origin: Origin
    entry: Entry | None = None
    """What the value is made of, if it was read from a document."""

    @property
    def identity(self) -> tuple[str, Origin]:
        """What tells it from another value, or from the same value that is set elsewhere."""
        return repr(self.constant), self.origin


class Values(NamedTuple):
    """The values that a setting may have. Nothing at all means that it is not set, so that its default holds.

    ``others`` are values that are computed, or come from out of sight: where there are any, it may be anything.
    """

    known: tuple[Known, ...] = ()
    others: tuple[Value, ...] = ()

    @property
    def is_set(self) -> bool:
        """Whether anything sets it."""
        return bool(self.known or self.others)

    @property
    def only(self) -> Known | None:
        """The value, if there is just one and it is known; None where it is not set or cannot be told."""
        different = {repr(each.constant): each for each in self.known}
        return next(iter(different.values())) if len(different) == 1 and not self.others else None

    def is_on(self, default: bool = False) -> bool | None:
        """Whether it is true: on, not zero, not empty. ``default`` if it is not set, None if it cannot be told."""
        found = {bool(each.constant) for each in self.known}
        if not self.is_set:
            return default
        return found.pop() if len(found) == 1 and not self.others else None

    def may_be(self, constant: object) -> bool:
        """Whether the setting may have this value."""
        return bool(self.others) or any(each.constant == constant for each in self.known)

    def weakened(self, confidence: Confidence = Confidence.LIKELY) -> Values:
        """The same values, none of them surer than ``confidence``."""
        weaker = (k._replace(confidence=Confidence.weakest(k.confidence, confidence)) for k in self.known)
        return self._replace(known=tuple(weaker))


def union(parts: Iterable[Values]) -> Values:
    """What any of ``parts`` may be."""
    found = tuple(parts)
    return Values(
        tuple({each.identity: each for part in found for each in part.known}.values()),
        tuple(dict.fromkeys(value for part in found for value in part.others)),
    )


def option(call: Call, keyword: str, position: int | None = None) -> Values:
    """What a call passes for a parameter, and what is stored under that name in the object that it makes."""
    passed = given(call, keyword, position)
    found = [values(value) for value in passed.values]
    if passed.unknown:
        found.append(Values(others=(call,)))
    return union([*found, *(values(value) for value in _stored_later(call, keyword))])


@query(on_cycle=Values())
def values(value: Value) -> Values:
    """The values that an expression may have."""
    if isinstance(value, Choice) and isinstance(value.node, cst.BooleanOperation):
        return _either(value)
    return union(_source_values(source) for source in definitions(value))


def _either(choice: Choice) -> Values:
    """``a or b``: what is false in ``a`` does not count. ``a and b`` the other way round."""
    assert isinstance(choice.node, cst.BooleanOperation)
    stops = isinstance(choice.node.operator, cst.Or)
    *first, last = (values(operand) for operand in choice.values)
    kept = (part._replace(known=tuple(k for k in part.known if bool(k.constant) is stops)) for part in first)
    return union([*kept, last])


def _source_values(source: Value) -> Values:
    match source:
        case Constant():
            return _known(source.constant, source)
        case Unary() | Binary():
            return _computed(source)
        case Display():
            return _display(source)
        case Attribute():
            return member(source.base, source.name)
        case Item(index=(Constant(constant=str() | int() as key),)):
            return member(source.base, key)
        case Call():
            return _call_values(source)
        case Parameter() | External():
            return _default(source)
    return Values(others=(source,))


def _known(constant: object, at: Value, confidence: Confidence = Confidence.CERTAIN) -> Values:
    module = at.region.function.module
    return Values((Known(constant, confidence, Origin(module.path, module, at.node)),))


# ---------------------------------------------------------------------- expressions

_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "//": operator.floordiv,
    "%": operator.mod,
    "**": operator.pow,
    "<<": operator.lshift,
}
_UNARY: dict[str, Callable[[Any], Any]] = {"-": operator.neg, "+": operator.pos, "not": operator.not_}
_CONVERSIONS: dict[str, Callable[..., Any]] = {
    "builtins.int": int,
    "builtins.float": float,
    "builtins.str": str,
    "builtins.bool": bool,
    "builtins.min": min,
    "builtins.max": max,
    "builtins.round": round,
    "builtins.list": list,
    "builtins.tuple": tuple,
    "math.ceil": math.ceil,
    "math.floor": math.floor,
    "pathlib.Path": str,
}
_LARGEST = 1 << 64


def _computed(value: Unary | Binary) -> Values:
    operands = [values(operand).only for operand in value.operands()]
    table: dict[str, Callable[..., Any]] = dict(_UNARY if isinstance(value, Unary) else _OPERATORS)
    return _applied(table.get(value.operator), operands, value)


def _applied(function: Callable[..., Any] | None, operands: list[Known | None], at: Value) -> Values:
    """``function`` of what is known; unknown if something is not, if it raises, or is absurdly large."""
    known = [operand for operand in operands if operand is not None]
    if function is None or len(known) < len(operands) or not known:
        return Values(others=(at,))
    constants = [operand.constant for operand in known]
    if not all(isinstance(each, (int, float)) and abs(each) < _LARGEST for each in constants) and len(known) > 1:
        return Values(others=(at,))
    if function is operator.pow and abs(constants[-1]) > 64:
        return Values(others=(at,))
    try:
        result = function(*constants)
    except (TypeError, ValueError, ArithmeticError):
        return Values(others=(at,))
    confidence = Confidence.weakest(*(operand.confidence for operand in known))
    # Where one number is changed on its way, the place where it was set says more.
    return Values((Known(result, confidence, known[0].origin),)) if len(known) == 1 else _known(result, at, confidence)


def _display(display: Display) -> Values:
    parts = [values(element).only for element in display.elements]
    known = [part for part in parts if part is not None]
    keys = [key.constant if isinstance(key, Constant) else None for key in display.keys]
    if display.starred or len(known) < len(parts) or (display.kind == "dict" and None in keys):
        return Values(others=(display,))
    constants = [part.constant for part in known]
    confidence = Confidence.weakest(Confidence.CERTAIN, *(part.confidence for part in known))
    made: object = dict(zip(keys, constants, strict=True)) if display.kind == "dict" else constants
    return _known(made, display, confidence)


_ENVIRONMENT = frozenset({"os.environ.get", "os.getenv", "os.environ.setdefault"})


def _call_values(call: Call) -> Values:
    names = qualified_names(call.callee)
    conversion = next((_CONVERSIONS[name] for name in names if name in _CONVERSIONS), None)
    if conversion is not None and call.arguments and not call.is_open:
        return _applied(conversion, [values(argument.value).only for argument in call.arguments], call)
    if names & _ENVIRONMENT:
        default = call.argument("default", 1)
        return values(default).weakened() if default is not None else Values(others=(call,))
    key, base, fallback = _lookup(call, names)
    if key is not None and base is not None:
        found = member(base, key)
        return found if found.is_set or fallback is None else values(fallback)
    return Values(others=(call,))


def _lookup(call: Call, names: frozenset[str]) -> tuple[str | None, Value | None, Value | None]:
    """Key, mapping and default of ``mapping.get("key", default)``, or of ``getattr(object, "key", default)``."""
    if call.method in {"get", "pop"}:
        base, key, fallback = call.receiver, call.argument("key", 0), call.argument("default", 1)
    elif "builtins.getattr" in names:
        base, key, fallback = call.argument("", 0), call.argument("", 1), call.argument("", 2)
    else:
        return None, None, None
    text = key.constant if isinstance(key, Constant) and isinstance(key.constant, str) else None
    return text, base, fallback


def _default(source: Parameter | External) -> Values:
    """The default of a flag, or of a parameter whose callers are not in sight or whom the command line calls."""
    if isinstance(source, External):
        flag = command_line.absl_default(source) if command_line.is_absl_flag(source) else None
        return _declared(flag, source)
    found = command_line.parameter_default(source) if not source.star else None
    return values(found).weakened() if found is not None else Values(others=(source,))


# ---------------------------------------------------------------------- members of objects, mappings and documents


@query(on_cycle=Values())
def member(base: Value, name: str | int) -> Values:
    """What an object that holds settings has under a name: an attribute, a key, or an entry of a document."""
    found = [_source_member(source, name) for source in definitions(base)]
    return union([*found, *(values(value) for value in _stored_in(base, name))])


def _source_member(source: Value, name: str | int) -> Values:
    parsed = command_line.parsed_class(source)
    if parsed is not None:
        return _class_member(parsed, name, source).weakened()
    found = Values(others=(source,))
    match source:
        case Display():
            element = display_element(source, name)
            found = values(element) if element is not None else _unpacked_members(source, name)
        case Call():
            found = _call_member(source, name)
        case Part(index=0):
            # The first of what parse_known_args() returns.
            found = union(_source_member(part, name) for part in sources(source.base) if isinstance(part, Call))
        case ClassValue():
            found = _class_member(source.target, name, source)
        case Parameter():
            found = _parameter_member(source, name)
        case Attribute(name="hparams"):
            found = _hyperparameter(source, name)
        case Attribute() | Item():
            found = _nested(_source_values(source), name, source)
    return found if found.is_set or not isinstance(source, Part) else Values(others=(source,))


def _nested(outer: Values, name: str | int, at: Value) -> Values:
    """A member of what is known of a mapping."""
    parts = []
    for known in outer.known:
        if known.entry is not None:
            parts.append(_document_member(known.origin.path, known.entry, name))
        elif isinstance(known.constant, dict) and name in known.constant:
            parts.append(Values((known._replace(constant=known.constant[name]),)))
    unknown = any(other is not at for other in outer.others) or (bool(outer.others) and not parts)
    return union([*parts, Values(others=(at,) if unknown else ())])


def _unpacked_members(display: Display, name: str | int) -> Values:
    """A key that a dictionary does not have itself may come from one that it unpacks."""
    unpacked = [e for k, e in zip(display.keys, display.elements, strict=True) if k is None] if display.keys else []
    computed = any(key is not None and not isinstance(key, Constant) for key in display.keys)
    return union([*(member(each, name) for each in unpacked), Values(others=(display,) if computed else ())])


_WRAPPERS = frozenset(
    """builtins.vars builtins.dict copy.copy copy.deepcopy dataclasses.asdict omegaconf.OmegaConf.create
    omegaconf.OmegaConf.structured omegaconf.OmegaConf.to_container omegaconf.DictConfig easydict.EasyDict box.Box
    addict.Dict munch.Munch ml_collections.ConfigDict transformers.HfArgumentParser
    ml_collections.config_dict.ConfigDict types.SimpleNamespace argparse.Namespace""".split()
)
"""What makes an object with the members of its argument, or of its keywords."""
_READERS = frozenset(
    """json.load json.loads yaml.load yaml.safe_load yaml.full_load omegaconf.OmegaConf.load
    ruamel.yaml.safe_load""".split()
)


def _call_member(call: Call, name: str | int) -> Values:
    names = qualified_names(call.callee)
    if names & _READERS:
        read = _read_file(call)
        return _document_member(*read, name) if read is not None else Values(others=(call,))
    if command_line.is_parsing(call):
        return _declared(command_line.declared_default(call, str(name)), call)
    owner = next((source.target for source in sources(call.callee) if isinstance(source, ClassValue)), None)
    if owner is not None:
        return _instance_member(call, owner, name)
    if names & _WRAPPERS or call.method == "copy":
        return _wrapped_member(call, name)
    return Values(others=(call,))


def _wrapped_member(call: Call, name: str | int) -> Values:
    direct = given(call, str(name))
    bases = [call.receiver] if call.method == "copy" and call.receiver is not None else call.positional()[:1]
    return union([*(values(value) for value in direct.values), *(member(base, name) for base in bases)])


def _declared(found: command_line.Declared | None, at: Value) -> Values:
    """The default that the command line declares."""
    if found is None or found.required:
        return Values(others=(at,))
    if found.default is None:
        return _known(found.constant, found.call, Confidence.LIKELY)
    default = values(found.default).weakened()
    if found.convert is None:
        return default
    converted = tuple(each._replace(constant=found.convert(each.constant)) for each in default.known)
    return default._replace(known=converted)


def _instance_member(call: Call, owner: Class, name: str | int) -> Values:
    """An attribute of an object of a class of the project."""
    passed = given(call, str(name), _field_position(owner, str(name)))
    if passed.values:
        return union(values(value) for value in passed.values)
    found = _class_member(owner, name, call)
    return union([found, Values(others=(call,))]) if passed.unknown else found


def _field_position(owner: Class, name: str) -> int | None:
    """Where a data class takes a field by position."""
    if find_method(owner, "__init__") is not None:
        return None
    fields = [field for cls in reversed(list(mro(owner))) for field in cls.annotations]
    return fields.index(name) if name in fields else None


def _class_member(owner: Class, name: str | int, at: Value) -> Values:
    """What a class says of an attribute of its instances: a field's default, or what ``__init__`` stores."""
    found = [field_default(value) for value in attribute_values(owner, str(name))]
    if found:
        return union(found)
    fields = {field for cls in mro(owner) for field in cls.annotations}
    known_bases = all(isinstance(s, ClassValue) for cls in mro(owner) for base in cls.bases for s in sources(base))
    # A class that does not have the attribute, and can get it from nowhere: it is not set.
    return Values() if known_bases and name not in fields else Values(others=(at,))


def field_default(value: Value) -> Values:
    """``field(default=...)`` and its like stand for the default that they name."""
    for source in sources(value):
        if isinstance(source, Call) and source.name in {"field", "Field", "Option", "ib", "attrib"}:
            default = given(source, "default", 0 if source.name != "field" else None)
            factory = given(source, "default_factory")
            return union([*map(values, default.values), *map(_made_by, factory.values)])
    return values(value)


def _made_by(factory: Value) -> Values:
    """What ``default_factory`` returns, where it is a lambda."""
    makers = (source.target.lower() for source in sources(factory) if isinstance(source, FunctionValue))
    found = [values(exit.value) for maker in makers for exit in maker.returns]
    return union(found) if found else Values(others=(factory,))


def _parameter_member(parameter: Parameter, name: str | int) -> Values:
    """A member of an argument that is known by its class only: that of the objects made of it, or the default."""
    owner = class_of(parameter)
    if owner is None:
        return Values(others=(parameter,))
    made = [_instance_member(call, owner, name) for call in calls_of_class(owner)]
    found = union(made) if made else _class_member(owner, name, parameter)
    return found.weakened() if made else found.weakened(Confidence.POSSIBLE)


def _hyperparameter(hparams: Attribute, name: str | int) -> Values:
    """``self.hparams.lr`` of Lightning: the argument of ``__init__`` that ``save_hyperparameters()`` has stored."""
    owner = instance_class(hparams.base)
    init = find_method(owner, "__init__") if owner is not None else None
    if init is None or not any(call.method == "save_hyperparameters" for call in init.lower().calls):
        return Values(others=(hparams,))
    found = next((parameter for parameter in init.parameters if parameter.name == name), None)
    return values(found) if found is not None else Values(others=(hparams,))


# ---------------------------------------------------------------------- stores


def _stored_later(made: Call, name: str) -> Iterator[Value]:
    """What is stored in an attribute of an object after it was made: ``arguments.bf16 = True``."""
    for store in _attribute_stores(made.region.function.module).get(name, ()):
        if store.base is not None and any(source is made for source in definitions(store.base)):
            yield store.value


def _stored_in(base: Value, name: str | int) -> Iterator[Value]:
    """What is stored under a name of ``base`` in its file, elsewhere than where its value is followed anyway."""
    stores = _attribute_stores(base.region.function.module).get(str(name), ())
    mine = {id(source) for source in definitions(base)} if stores else set()
    for store in stores:
        if store.base is not None and store.base is not base and mine & {id(s) for s in definitions(store.base)}:
            yield store.value


@query(on_cycle={})
def _attribute_stores(module: Module) -> dict[str, list[Store]]:
    """Assignments to attributes and constant keys in a file, by name; those of methods to ``self`` are left out."""
    found: dict[str, list[Store]] = {}
    for function in module.functions:
        for store in function.stores:
            if store.base is None or instance_class(store.base) is not None:
                continue
            if store.attribute is not None:
                found.setdefault(store.attribute, []).append(store)
            elif isinstance(store.index, Constant):
                found.setdefault(str(store.index.constant), []).append(store)
    return found


# ---------------------------------------------------------------------- documents


def document(value: Value) -> Values:
    """A configuration that is given as a dictionary, or by the name of a JSON or YAML file."""
    found = []
    for known in values(value).known:
        if isinstance(known.constant, str):
            read = value.project.document(value.region.function.module, known.constant)
            found.append(_document(*read) if read is not None else Values(others=(value,)))
        else:
            found.append(Values((known,)))
    return union([*found, Values(others=values(value).others)])


def _document(path: Path, entry: Entry) -> Values:
    return Values((Known(entry.constant, Confidence.LIKELY, Origin(path, document_row=entry.row), entry),))


def _document_member(path: Path, entry: Entry, name: str | int) -> Values:
    inner = entry.members.get(name)
    return _document(path, inner) if inner is not None else Values()


def _read_file(call: Call) -> tuple[Path, Entry] | None:
    """The document that ``json.load(open("config.json"))`` and its like read."""
    argument = call.positional()[0] if call.positional() else None
    for name in _file_names(argument) if argument is not None else ():
        read = call.project.document(call.region.function.module, name)
        if read is not None:
            return read
    return None


def _file_names(value: Value) -> Iterator[str]:
    """Names of files that a value is, or was opened or read from."""
    for source in definitions(value):
        match source:
            case Entered():
                yield from _file_names(source.context)
            case Call(method="open" | "read_text" | "read_bytes" | "read") if source.receiver is not None:
                yield from _file_names(source.receiver)
            case Call() if source.name == "open" and source.positional():
                yield from _file_names(source.positional()[0])
            case _:
                yield from (each.constant for each in _source_values(source).known if isinstance(each.constant, str))


def setting_at(value: Value, *path: str) -> Values:
    """What a configuration says at a path of keys: ``zero_optimization``, ``stage``. Nothing if a key is missing."""
    found = document(value)
    documents = any(each.entry is not None for each in found.known)
    if documents or not path:
        for key in path:
            found = _nested(found, key, value)
        return found
    return _mapping_at(value, path)


def _mapping_at(value: Value, path: tuple[str, ...]) -> Values:
    """The same for a dictionary in the code, whose parts may be known although others are not."""
    first, *rest = path
    if not rest:
        return member(value, first)
    parts: list[Values] = []
    for source in definitions(value):
        inner = display_element(source, first) if isinstance(source, Display) else None
        if inner is not None:
            parts.append(_mapping_at(inner, tuple(rest)))
        elif not isinstance(source, Display):
            found = _source_member(source, first)
            for key in rest:
                found = _nested(found, key, value)
            parts.append(found)
    return union(parts)
