"""What calls return: of constructors, functions of the project, builtins and modules."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from memlint.model.aliases import qualified_names, sources
from memlint.model.calls import callees
from memlint.model.constructors import constructed_kind, framework_kind
from memlint.model.instances import instance_kind
from memlint.model.kinds import Kind, Role, kinds, role
from memlint.model.knowledge import torch
from memlint.model.method_results import known_method, unknown_method
from memlint.model.scopes import Function
from memlint.model.values import Call, ClassValue, External, Parameter, Value


def result_kinds(call: Call) -> Iterator[Kind]:
    """The kinds that what ``call`` returns may have."""
    wrapped = _wrapped_argument(call)
    if call.receiver is not None:
        yield from _method_kinds(call, call.receiver)
    elif wrapped is not None:
        yield from _wrapped_kinds(call, wrapped)
    else:
        yield from _function_kinds(call)


def _method_kinds(call: Call, receiver: Value) -> Iterator[Kind]:
    functions = callees(call)
    owner_kinds = kinds(receiver)
    for kind in owner_kinds:
        yield from known_method(call, receiver, kind)
    if functions:
        yield from _returned_kinds(functions)
        return
    if not owner_kinds:
        yield from unknown_method(call)
    # ``self.net(x)`` is a call of what ``self.net`` holds.
    yield from _output_kinds(call)
    for source in sources(call.callee):
        if isinstance(source, (ClassValue, External)):
            yield from _constructor_kinds(source, call)


def _function_kinds(call: Call) -> Iterator[Kind]:
    constructed = False
    for source in sources(call.callee):
        found = tuple(_source_results(source, call))
        yield from found
        constructed = constructed or (bool(found) and not isinstance(source, Call))
    if not constructed:
        yield from _returned_kinds(callees(call))
        yield from _output_kinds(call)


def _source_results(callee: Value, call: Call) -> Iterator[Kind]:
    match callee:
        case External() | ClassValue():
            yield from _constructor_kinds(callee, call)
        case Call() if callee.callee is not call.callee:
            yield from _partial_kinds(callee, call)
        case Parameter():
            yield from (instance_kind(k.cls) for k in kinds(callee) if k.role is Role.CLASS and k.cls is not None)


def _partial_kinds(partial: Call, call: Call) -> Iterator[Kind]:
    if "functools.partial" in qualified_names(partial.callee) and partial.arguments:
        for source in sources(partial.arguments[0].value):
            if isinstance(source, (External, ClassValue)):
                yield from _constructor_kinds(source, call)


def _output_kinds(call: Call) -> Iterator[Kind]:
    """A call of a module."""
    confidence = role(call.callee, Role.MODULE, Role.LOSS_FUNCTION, Role.ENGINE)
    if confidence is not None:
        yield Kind(Role.OUTPUT, confidence)


def _wrapped_argument(call: Call) -> Value | None:
    if isinstance(call.callee, External) and call.callee.qualified_name in torch.MODULE_WRAPPERS and call.arguments:
        argument = call.argument("module", 0) or call.argument("model", 0)
        if argument is not None and any(kind.role is not Role.CLASS for kind in _wrapped_kinds(call, argument)):
            return argument
    return None


def _wrapped_kinds(call: Call, wrapped: Value) -> Iterator[Kind]:
    """The kinds of what ``call`` wraps; in ``self.net = DataParallel(self.net.cuda())`` of what it was before."""
    inner = wrapped
    while isinstance(inner, Call) and inner.method in torch.SELF_RETURNING and inner.receiver is not None:
        inner = inner.receiver
    known_as = sources(inner)
    if call in known_as:
        yield from (kind for source in known_as if source is not call for kind in kinds(source))
    else:
        yield from kinds(wrapped)


def _returned_kinds(functions: Iterable[Function]) -> Iterator[Kind]:
    for function in functions:
        if function.is_generator:
            yield Kind(Role.CONTAINER, name="generator")
            continue
        for exit in function.returns:
            yield from kinds(exit.value)


def _constructor_kinds(callee: External | ClassValue, call: Call) -> Iterator[Kind]:
    """What calling a class, or a function outside of the project, returns."""
    if isinstance(callee, ClassValue):
        yield instance_kind(callee.target)
        return
    name = callee.qualified_name
    kind = framework_kind(name)
    if kind is None and name.startswith("builtins."):
        yield from _builtin_kinds(name.rpartition(".")[2], call)
        return
    kind = kind or constructed_kind(name)
    if kind is not None:
        yield kind


def _builtin_kinds(name: str, call: Call) -> Iterator[Kind]:
    if name in {"list", "dict", "set", "tuple", "zip", "enumerate", "sorted", "reversed", "map", "filter", "frozenset"}:
        yield Kind(Role.CONTAINER, name=name)
    elif name in {"int", "float", "len", "bool", "round", "id", "hash", "ord"}:
        yield Kind(Role.NUMBER)
    elif name in {"str", "repr", "format", "chr", "bytes"}:
        yield Kind(Role.TEXT)
    elif name in {"sum", "max", "min", "abs", "next"} and call.arguments:
        yield from (kind for kind in kinds(call.arguments[0].value) if kind.role in {Role.TENSOR, Role.OUTPUT})
    elif name == "getattr" and call.argument("", 2) is not None:
        yield from kinds(call.arguments[2].value)
