"""What methods return, by the kind of their receiver."""

from __future__ import annotations

from collections.abc import Iterator

from memlint.findings import Confidence
from memlint.model.calls import callees
from memlint.model.constructors import LOADING_METHODS, loaded_kind
from memlint.model.containers import elements
from memlint.model.instances import instance_kind
from memlint.model.kinds import Kind, Role, kinds
from memlint.model.knowledge import torch
from memlint.model.values import Call, Value

_NUMBERS_OF_TENSORS = frozenset(
    """
    item dim ndimension numel nelement element_size data_ptr stride storage_offset get_device is_contiguous
    is_floating_point is_complex
    """.split()
)
"""Methods of tensors that return a number."""

_CONTAINERS_OF_TENSORS = frozenset({"tolist", "size", "split", "chunk", "unbind", "keys", "items", "values"})
"""Methods of tensors, and of structures of tensors, that return a container."""

_PREPARING_METHODS = frozenset(
    {
        "prepare",
        "setup",
        "setup_dataloaders",
        "setup_module",
        "setup_optimizers",
        "prepare_model",
        "prepare_optimizer",
        "prepare_data_loader",
    }
)
"""Methods of Accelerate and Fabric that return all that they are given, made ready."""

_PASSING_METHODS = frozenset(
    {
        "unwrap_model",
        "gather",
        "gather_for_metrics",
        "reduce",
        "pad_across_processes",
        "all_gather",
        "all_reduce",
    }
)
"""Methods of Accelerate and Fabric that return the kind of object that their first argument is."""


def known_method(call: Call, receiver: Value, kind: Kind) -> Iterator[Kind]:
    """What ``call``, a call of a method of ``receiver``, returns if the receiver is of this ``kind``."""
    method = call.method or ""
    match kind.role:
        case Role.MODULE | Role.LOSS_FUNCTION | Role.ENGINE:
            yield from _module_method(call, kind, method)
        case Role.TENSOR | Role.OUTPUT | Role.BATCH:
            yield _tensor_method(kind, method)
        case Role.ACCELERATOR:
            yield from _accelerator_method(call, method)
        case Role.SCALER if method == "scale":
            yield Kind(Role.TENSOR)
        case Role.CLASS if method in LOADING_METHODS:
            yield instance_kind(kind.cls) if kind.cls is not None else loaded_kind(kind.name)
        case Role.TEXT:
            yield Kind(Role.TEXT)
        case Role.CONTAINER:
            yield from _container_method(receiver, method)


def _module_method(call: Call, kind: Kind, method: str) -> Iterator[Kind]:
    if method in torch.SELF_RETURNING:
        yield kind
    elif method in {"parameters", "named_parameters", "buffers"}:
        yield Kind(Role.PARAMETERS)
    elif method in {"modules", "children", "named_modules", "named_children", "state_dict"}:
        yield Kind(Role.CONTAINER, name=method)
    elif method == "generate" or (method == "forward" and not callees(call)):
        yield Kind(Role.OUTPUT, Confidence.LIKELY)


def _tensor_method(kind: Kind, method: str) -> Kind:
    if method in _NUMBERS_OF_TENSORS:
        return Kind(Role.NUMBER)
    if method in _CONTAINERS_OF_TENSORS:
        return Kind(Role.CONTAINER, name=method)
    if method == "numpy":
        return Kind(Role.OBJECT, name="numpy.ndarray")
    if method in {"get", "pop"}:
        return Kind(Role.OUTPUT if kind.role is Role.OUTPUT else Role.BATCH, Confidence.LIKELY)
    if kind.role is Role.BATCH and method in {"to", "cuda"}:
        return kind
    sure = Confidence.LIKELY if kind.role is Role.OUTPUT else Confidence.CERTAIN
    return Kind(Role.TENSOR, Confidence.weakest(kind.confidence, sure))


def _accelerator_method(call: Call, method: str) -> Iterator[Kind]:
    alone = len(call.arguments) == 1 and not call.is_open
    if method in _PREPARING_METHODS and not alone:
        yield Kind(Role.PREPARED, name=method)
    elif method in _PREPARING_METHODS or (method in _PASSING_METHODS and call.arguments):
        yield from kinds(call.arguments[0].value)


def _container_method(receiver: Value, method: str) -> Iterator[Kind]:
    if method in {"copy", "keys", "items", "values"}:
        yield Kind(Role.CONTAINER, name=method)
    elif method in {"pop", "popleft", "get", "setdefault"}:
        for element in elements(receiver):
            yield from kinds(element)


def unknown_method(call: Call) -> Iterator[Kind]:
    """Methods whose name alone says what they return, whoever owns them."""
    if call.method in {"item", "numel"}:
        yield Kind(Role.NUMBER, Confidence.LIKELY)
    elif call.method in {"detach", "unsqueeze", "squeeze", "requires_grad_", "log_softmax", "masked_fill"}:
        yield Kind(Role.TENSOR, Confidence.LIKELY)
    elif call.method == "parameters":
        yield Kind(Role.PARAMETERS, Confidence.LIKELY)
