"""Data sets: what their objects hold for each sample, and which loaders with how many workers read them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import Enum
from typing import NamedTuple

from memlint.model.aliases import base_names, find_method, instance_class, instance_loads, mro, qualified_names, sources
from memlint.model.calls import callees
from memlint.model.constructors import is_dataset_base
from memlint.model.containers import insertions_of, names_of
from memlint.model.definitions import definitions
from memlint.model.kinds import Role, class_of, role
from memlint.model.knowledge import torch
from memlint.model.memo import query
from memlint.model.program import Program
from memlint.model.scopes import Class, Function
from memlint.model.settings import Values, option
from memlint.model.values import (
    Attribute,
    Binary,
    Call,
    Comparison,
    Comprehension,
    Constant,
    Display,
    Element,
    Item,
    Parameter,
    Store,
    Value,
)


class Workers(Enum):
    """Whether a data set is read in processes of their own."""

    SOME = "some"
    """A loader in sight has workers, or takes their number from elsewhere."""
    NONE = "none"
    """All loaders in sight that read it have none."""
    UNKNOWN = "unknown"
    """No loader in sight reads it."""


_WORKERS_POSITION = 5


def dataset_classes(program: Program) -> Iterator[Class]:
    """The classes of a file whose objects a loader reads."""
    return (owner for owner in program.classes if is_dataset(owner))


@query(on_cycle=False)
def is_dataset(owner: Class) -> bool:
    """Whether a class is a data set of PyTorch by its bases."""
    return any(map(is_dataset_base, base_names(owner)))


def is_iterable_dataset(owner: Class) -> bool:
    """Whether the class is a data set that each worker iterates over by itself."""
    return any(name.endswith("IterableDataset") for name in base_names(owner))


def is_loader(call: Call) -> bool:
    """Whether ``call`` makes a loader that may have workers."""
    return bool(qualified_names(call.callee) & torch.LOADER_CLASSES) or (
        call.name.endswith("DataLoader") and role(call, Role.LOADER) is not None
    )


def workers_of(loader: Call) -> Values:
    """How many workers a loader is given."""
    return option(loader, "num_workers", _WORKERS_POSITION)


def has_workers(loader: Call) -> Workers:
    """Whether a loader has workers. Without a number it has none."""
    found = workers_of(loader)
    if found.others:
        # Whoever makes the number an option uses it.
        return Workers.SOME
    return Workers.SOME if any(known.constant for known in found.known) else Workers.NONE


@query(on_cycle=Workers.UNKNOWN)
def workers_that_read(owner: Class) -> Workers:
    """Whether loaders in the project that get objects of a class have workers."""
    modules = dict.fromkeys((owner.module, *(owner.project.mentioning(owner.name) or ())))
    loaders = (
        call for module in modules for function in module.functions for call in function.calls if is_loader(call)
    )
    found = {has_workers(loader) for loader in loaders if _reads(loader, owner)}
    return next((each for each in (Workers.SOME, Workers.NONE) if each in found), Workers.UNKNOWN)


def _reads(loader: Call, owner: Class) -> bool:
    dataset = loader.argument("dataset", 0)
    if dataset is None:
        return False
    classes = {class_of(source) for source in definitions(dataset)}
    known = {cls for cls in classes if cls is not None}
    return any(owner in mro(cls) for cls in known)


# ---------------------------------------------------------------------- what is held for each sample


class Entries(Enum):
    """What a container of Python holds for each sample."""

    OBJECTS = "objects"
    """Records, or containers of containers: many objects."""
    PLAIN = "plain"
    """A number, a text, or a few of them."""
    FILES = "files"
    """The name of a file in a folder, of which there may be a handful."""


class SampleContainer(NamedTuple):
    """An attribute of a data set that is a list, dict or set with an entry for each sample."""

    name: str
    store: Store
    made: Value
    """What makes the container."""
    entries: Entries
    may_be_array: bool = False
    """Whether an array or a tensor takes its place in some branches."""


def sample_containers(owner: Class) -> Iterator[SampleContainer]:
    """The containers of Python objects in which the objects of a class keep their samples."""
    for name, stores in owner.instance_stores.items():
        if not _has_entry_for_each_sample(owner, name):
            continue
        for store in stores:
            if store.function.name in _READING:
                continue
            found = next(_containers(store.value, owner, name), None)
            if found is not None:
                yield SampleContainer(name, store, *found, _may_be_array(store.value, found[0]))
                break


def _may_be_array(value: Value, made: Value) -> bool:
    """Whether ``value`` may be an array of what the container has: ``torch.tensor(labels)`` in some branches."""
    arrays = (source for source in definitions(value) if _is_array(source))
    return any(made in definitions(given) for array in arrays for given in array.operands())


_READING = frozenset({"__getitem__", "__iter__", "__next__", "__len__", "__getitems__"})
"""Methods that run in the workers."""


def reading_functions(owner: Class) -> Iterator[Function]:
    """The functions that run in the workers: those above, and the methods of the class that they call."""
    seen: set[Function] = set()
    pending = [method for name in _READING if (method := find_method(owner, name)) is not None]
    while pending:
        current = pending.pop()
        for function in current.walk():
            if function in seen:
                continue
            seen.add(function)
            yield function
            called = (target for call in function.calls for target in callees(call))
            pending.extend(each for each in called if each.owner is not None and each.owner in mro(owner))


def _has_entry_for_each_sample(owner: Class, name: str) -> bool:
    """Whether the length of the data set is that of the attribute, or an index of a sample is one into it."""
    length = find_method(owner, "__len__")
    if length is not None and any(_is_length_of(exit.value, name) for exit in length.lower().returns):
        return True
    if is_iterable_dataset(owner) and _is_counted_through(owner, name):
        return True
    getter = find_method(owner, "__getitem__")
    if getter is None or len(getter.lower().parameters) < 2:
        return False
    index = getter.parameters[1]
    return any(
        isinstance(use, Item) and use.base is load and _is_index(use, index)
        for load in getter.attributes
        if load.name == name and instance_class(load.base) is not None
        for use in load.uses
    )


def _is_counted_through(owner: Class, name: str) -> bool:
    """Whether iterating compares a position with the length of the attribute, or goes over the attribute itself."""
    for function in reading_functions(owner):
        mine = {load for load in function.attributes if load.name == name and instance_class(load.base) is not None}
        if any(set(sources(loop.iterable)) & mine or loop.iterable in mine for loop in function.loops if loop.iterable):
            return True
        lengths = (call for call in function.calls if "builtins.len" in qualified_names(call.callee))
        if any(isinstance(use, Comparison) for call in lengths if set(call.positional()) & mine for use in call.uses):
            return True
    return False


def _is_length_of(value: Value, name: str) -> bool:
    return any(
        isinstance(source, Call)
        and "builtins.len" in qualified_names(source.callee)
        and any(isinstance(each, Attribute) and each.name == name for each in (a.value for a in source.arguments))
        for source in (value, *sources(value))
    )


def _is_index(item: Item, index: Parameter) -> bool:
    return any(
        source is index or (isinstance(source, Binary) and index in {*sources(source.left), *sources(source.right)})
        for part in item.index
        if part is not None
        for source in sources(part)
    )


def _containers(value: Value, owner: Class, name: str) -> Iterator[tuple[Value, Entries]]:
    """What makes a container whose size is that of some data, with what it holds."""
    for source in _summands(value):
        match source:
            case Comprehension(kind="list" | "dict" | "set") if not _goes_over_literal(source):
                entries = _entry(source.element)
                if entries is not None:
                    yield source, entries
            case Call():
                entries = _made_by_call(source)
                if entries is not None:
                    yield source, entries
            case Item() if any(map(_is_parsed, sources(source.base))):
                yield source, Entries.PLAIN
            case Display(kind="list" | "dict" | "set") if not source.elements:
                yield from _filled(source, source, owner, name)


def _summands(value: Value) -> Iterator[Value]:
    """What makes a container, or what it was when something was added to it: a sum in a loop leads back to itself."""
    pending, seen = [value], set[int]()
    while pending:
        for source in definitions(pending.pop()):
            if id(source) in seen:
                continue
            seen.add(id(source))
            yield source
            if isinstance(source, Binary) and source.operator == "+":
                pending.append(source.left)


def _goes_over_literal(made: Comprehension) -> bool:
    iterable = made.loop.iterable
    found = sources(iterable) if iterable is not None else ()
    return any(isinstance(source, Display) and not source.starred for source in found)


def _entry(element: Value) -> Entries | None:
    """What an entry is, by the expression that makes it."""
    found = sources(element)
    if role(element, Role.TENSOR) or any(map(_is_array, found)):
        return None
    if any(map(_is_record, found)):
        return Entries.OBJECTS
    return Entries.FILES if any(map(_is_listing, _elements_of(found))) else Entries.PLAIN


def _is_record(value: Value) -> bool:
    """Whether an entry is a dict, or a container of something else than plain values."""
    if isinstance(value, Display):
        inner = [source for element in value.elements for source in sources(element)]
        return value.kind == "dict" or any(isinstance(each, (Display, Comprehension)) for each in inner)
    if isinstance(value, Comprehension):
        return True
    return isinstance(value, Call) and bool(qualified_names(value.callee) & ({"builtins.dict"} | _PARSERS))


def _elements_of(found: Iterable[Value]) -> Iterator[Value]:
    """What is iterated over where ``found`` are elements, or are computed from them."""
    pending = list(found)
    seen: set[int] = set()
    while pending and len(seen) < _MAX_VALUES:
        current = pending.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        if isinstance(current, Element):
            yield from sources(current.iterable)
        pending.extend(source for operand in current.operands() for source in sources(operand))


_MAX_VALUES = 50
_LISTING_FILES = frozenset({"iterdir", "glob", "rglob", "listdir", "scandir", "walk", "iglob"})


def _is_listing(value: Value) -> bool:
    """Whether ``value`` lists the files of a folder."""
    if not isinstance(value, Call):
        return False
    if value.name in _LISTING_FILES:
        return True
    passing = qualified_names(value.callee) & (_LISTING | torch.PASSING_BUILTINS)
    return bool(passing) and any(_is_listing(source) for each in value.positional() for source in sources(each))


_ARRAYS = ("numpy.", "torch.")


def _is_array(value: Value) -> bool:
    """Whether a value is an array or a tensor, whose data has no reference counts."""
    return isinstance(value, Call) and any(name.startswith(_ARRAYS) for name in qualified_names(value.callee))


_PARSERS = frozenset(
    {
        "json.load",
        "json.loads",
        "pickle.load",
        "pickle.loads",
        "yaml.safe_load",
        "yaml.load",
        "ujson.load",
        "orjson.loads",
    }
)


def _is_parsed(value: Value) -> bool:
    """Whether a value is what a text held, ``json.load(file)``: lists, where a pickle may have arrays."""
    return isinstance(value, Call) and bool(qualified_names(value.callee) & _TEXT_PARSERS)


_TEXT_PARSERS = frozenset(name for name in _PARSERS if not name.startswith("pickle."))
_LISTING = frozenset({"builtins.list", "builtins.sorted", "builtins.dict", "builtins.tuple"})


def _made_by_call(call: Call) -> Entries | None:
    """What a call makes of a file, a table or an array: a container of Python with an entry for each row."""
    names = qualified_names(call.callee)
    if names & _PARSERS:
        return Entries.OBJECTS
    if call.method == "to_dict":
        return Entries.OBJECTS
    if call.method in {"tolist", "readlines", "splitlines", "to_list"}:
        return Entries.PLAIN
    if _is_listing(call):
        return Entries.FILES
    if "builtins.sum" in names and len(call.positional()) > 1:
        lists = (source for source in sources(call.positional()[0]) if isinstance(source, Comprehension))
        return next((_entries_of(each.element) for each in lists), None)
    if names & _LISTING and call.positional():
        return _listed(call.positional()[0])
    return None


def _listed(inner: Value) -> Entries | None:
    """What ``list(...)`` has in it."""
    for source in sources(inner):
        if isinstance(source, (Constant, Display)):
            return None
        if isinstance(source, Call) and qualified_names(source.callee) & {
            "csv.reader",
            "csv.DictReader",
            "builtins.zip",
        }:
            return Entries.OBJECTS
        if isinstance(source, Comprehension):
            return _entry(source.element)
        if isinstance(source, Call) and source.method in {"items", "iterrows", "itertuples"}:
            return Entries.OBJECTS
    return Entries.PLAIN


def _filled(empty: Value, made: Value, owner: Class, name: str) -> Iterator[tuple[Value, Entries]]:
    """A container that starts empty and gets an entry for each element of a loop, outside of the workers."""
    reading = set(reading_functions(owner))
    put_in = ((_entry(value), inside) for value, inside in _put_in(empty, owner, name))
    added = ((_entries_of(value), inside) for value, inside in _added_to(empty))
    for entries, inside in (*put_in, *added):
        if entries is not None and inside.function not in reading and _is_repeated(inside):
            yield made, entries
            return


def _is_repeated(inside: Call | Store | Binary) -> bool:
    """Whether it happens for each element of some data, and not of what is written out."""
    loop = inside.region.loop
    iterable = loop.iterable if loop is not None else None
    written_out = iterable is not None and any(isinstance(source, Display) for source in sources(iterable))
    return loop is not None and not written_out


def _entries_of(added: Value) -> Entries | None:
    """What a list that is added to another one has in it."""
    for source in definitions(added):
        match source:
            case Comprehension(kind="list" | "set") if not _goes_over_literal(source):
                return _entry(source.element)
            case Display(kind="list" | "tuple") if source.elements:
                return _entry(source.elements[0])
            case Call():
                return _made_by_call(source)
    return None


def _added_to(empty: Value) -> Iterator[tuple[Value, Binary]]:
    """What is added by ``+=`` to a container, by whatever name."""
    for alias in names_of(empty):
        for use in alias.uses:
            if isinstance(use, Binary) and use.operator == "+" and use.left is alias:
                yield use.right, use


def _put_in(empty: Value, owner: Class, name: str) -> Iterator[tuple[Value, Call | Store]]:
    """What is put into a container, by the names that it has where it is made, and as an attribute."""
    loads = instance_loads(owner, name)
    held = dict.fromkeys(
        [*names_of(empty), *loads, *(use for load in loads for use in load.uses if isinstance(use, Value))]
    )
    for alias in held:
        for use in alias.uses:
            if isinstance(use, Store) and use.base is alias and use.attribute is None:
                yield use.value, use
            elif isinstance(use, Attribute):
                for call in use.uses:
                    if isinstance(call, Call) and call.callee is use:
                        yield from ((insertion.value, call) for insertion in insertions_of(call))


# ---------------------------------------------------------------------- orders of samples


def order_lists(owner: Class) -> Iterator[Call]:
    """Where workers make a list of the indices of all samples: ``list(range(len(data)))``, ``order.tolist()``."""
    for function in reading_functions(owner):
        for call in function.calls:
            if "builtins.list" in qualified_names(call.callee):
                ordered = call.positional()[:1]
            else:
                ordered = [call.receiver] if call.method == "tolist" and call.receiver is not None else []
            if any(_goes_over_all(source) for value in ordered for source in sources(value)):
                yield call


_ORDERS = frozenset({"numpy.arange", "builtins.range", "torch.arange", "torch.randperm", "numpy.random.permutation"})


def _goes_over_all(value: Value) -> bool:
    """Whether a value holds the numbers of as many samples as a data set has."""
    if not isinstance(value, Call) or not value.positional():
        return False
    return bool(qualified_names(value.callee) & _ORDERS) and any(
        isinstance(source, Call) and "builtins.len" in qualified_names(source.callee)
        for given in value.positional()
        for source in sources(given)
    )
