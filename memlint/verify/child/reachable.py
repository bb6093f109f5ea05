"""What a value keeps alive: the storages and autograd nodes that can be reached from it."""

from __future__ import annotations

import types
import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sized
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils._python_dispatch import _disable_current_modes

MAX_OBJECTS = 200_000
"""Objects that are looked at for one value; what lies behind them is left out."""
_LEAF_TYPES = (
    str,
    bytes,
    bytearray,
    int,
    float,
    complex,
    bool,
    type(None),
    type,
    types.ModuleType,
    types.FunctionType,
    types.BuiltinFunctionType,
    types.FrameType,
    types.CodeType,
    weakref.ref,
    torch.device,
    torch.dtype,
    torch.Size,
    torch.utils.data.DataLoader,
    torch.utils.data.Dataset,
)
"""What keeps no results, or is not the holder's business."""


@dataclass
class Reach:
    """What was found."""

    storages: dict[int, torch.UntypedStorage] = field(default_factory=dict)
    """By their identity in C++."""
    held: set[int] = field(default_factory=set)
    """Those of tensors that are held themselves, and not only by graphs."""
    views: dict[int, int] = field(default_factory=dict)
    """For each of those, the bytes of the largest tensor that is held in it."""
    types: dict[int, torch.dtype] = field(default_factory=dict)
    """For each storage, the type of a tensor in it."""
    nodes: list[Any] = field(default_factory=list)
    leaves: list[torch.Tensor] = field(default_factory=list)
    """The tensors that a backward over the graphs would accumulate gradients into."""
    saving: list[Any] = field(default_factory=list)
    """The nodes that hold something for a backward."""
    tensors: int = 0
    whole: bool = True
    """False if there was too much to look at all of it."""

    def bytes_of(self, keys: Iterable[int]) -> int:
        """Bytes of these storages."""
        return sum(self.storages[key].nbytes() for key in keys)

    @property
    def device_bytes(self) -> int:
        """Bytes of all storages."""
        return self.bytes_of(self.storages)

    @property
    def saved_bytes(self) -> int:
        """Bytes of the storages that only graphs hold."""
        return self.bytes_of(self.storages.keys() - self.held)


def reach(value: object, leave_out: AbstractSet[int] = frozenset()) -> Reach:
    """Everything that ``value`` keeps alive, without the storages in ``leave_out`` (C++ identities) and parameters."""
    with _disable_current_modes(), torch.no_grad():
        search = _Search(leave_out)
        search.look_at(value)
        search.follow_graphs()
        return search.found


def storage_keys(tensors: Iterable[torch.Tensor]) -> set[int]:
    """The C++ identities of the tensors' storages."""
    return {storage._cdata for tensor in tensors if (storage := _storage(tensor)) is not None}


def length(value: object) -> tuple[int | None, int | None]:
    """How many items a container has, and how many it may have."""
    is_container = isinstance(value, (list, tuple, dict, set, frozenset, deque))
    items = len(value) if is_container and isinstance(value, Sized) else None
    return items, value.maxlen if isinstance(value, deque) else None


class _Search:
    def __init__(self, leave_out: AbstractSet[int]) -> None:
        self.found = Reach()
        self._leave_out = leave_out
        self._seen: dict[int, object] = {}
        """By identity; the objects themselves, so that no identity is used twice meanwhile."""
        self._graphs: list[Any] = []

    def look_at(self, value: object) -> None:
        todo = [value]
        while todo:
            each = todo.pop()
            if isinstance(each, _LEAF_TYPES) or id(each) in self._seen:
                continue
            if len(self._seen) >= MAX_OBJECTS:
                self.found.whole = False
                return
            self._seen[id(each)] = each
            if isinstance(each, torch.Tensor):
                self._take(each, held=True)
            else:
                todo += _parts(each)

    def _take(self, tensor: torch.Tensor, *, held: bool) -> None:
        storage = _storage(tensor)
        if tensor.grad_fn is not None:
            self._graphs.append(tensor.grad_fn)
        if held:
            self.found.tensors += 1
        if storage is None or isinstance(tensor, torch.nn.Parameter) or storage._cdata in self._leave_out:
            return
        self.found.storages[storage._cdata] = storage
        self.found.types[storage._cdata] = tensor.dtype
        if held:
            self.found.held.add(storage._cdata)
            size = tensor.numel() * tensor.element_size()
            self.found.views[storage._cdata] = max(size, self.found.views.get(storage._cdata, 0))
        if tensor.is_leaf and tensor.requires_grad and tensor.grad is not None:
            self._take(tensor.grad, held=False)

    def follow_graphs(self) -> None:
        known: set[Any] = set()
        todo = list(self._graphs)
        while todo:
            node = todo.pop()
            if node is None or node in known:
                continue
            if len(known) >= MAX_OBJECTS:
                self.found.whole = False
                break
            known.add(node)
            self.found.nodes.append(node)
            variable = getattr(node, "variable", None)
            if isinstance(variable, torch.Tensor):
                self.found.leaves.append(variable)
                self._take(variable, held=False)
            still_saved = [self._take_saved(each) for each in _saved(node)]
            if any(still_saved):
                self.found.saving.append(node)
            todo += (next_node for next_node, _ in node.next_functions)
        # Operators save views of the weights, too.
        for key in storage_keys(leaf for leaf in self.found.leaves if isinstance(leaf, torch.nn.Parameter)):
            self.found.storages.pop(key, None)
            self.found.held.discard(key)

    def _take_saved(self, packed: object) -> bool:
        """Whether something is still saved; what a freed graph had saved is gone."""
        tensors = [packed] if isinstance(packed, torch.Tensor) else list(_tensors_in(packed))
        for tensor in tensors:
            self._take(tensor, held=False)
        return bool(tensors)


_SAVED_NAMES: dict[type, tuple[str, ...]] = {}


def _saved(node: Any) -> Iterator[object]:
    """What one node saves, packed as hooks have left it (unpacking might recompute it)."""
    kind = type(node)
    names = _SAVED_NAMES.get(kind)
    if names is None:
        names = _SAVED_NAMES[kind] = tuple(name for name in dir(node) if name.startswith("_raw_saved"))
    for name in names:
        try:
            saved = getattr(node, name)
        except RuntimeError:
            # Freed by a backward.
            continue
        for each in saved if isinstance(saved, (tuple, list)) else (saved,):
            yield getattr(each, "data", None)
    if isinstance(node, torch.autograd.function.BackwardCFunction):
        # Attributes of ``ctx``.
        yield from vars(node).values()


def _tensors_in(packed: object, depth: int = 3) -> Iterator[torch.Tensor]:
    if isinstance(packed, torch.Tensor):
        yield packed
    elif depth and isinstance(packed, (tuple, list)):
        for each in packed:
            yield from _tensors_in(each, depth - 1)
    elif depth and isinstance(packed, dict):
        yield from _tensors_in(list(packed.values()), depth - 1)


def _parts(value: object) -> Iterable[object]:
    if isinstance(value, Mapping):
        # Not values(): a mapping of the user's might compute them.
        return dict.values(value) if isinstance(value, dict) else ()
    if isinstance(value, (list, tuple, set, frozenset, deque)):
        return value
    attributes = getattr(value, "__dict__", None)
    slots = (getattr(value, name, None) for name in _slots(type(value)))
    return [*(attributes.values() if isinstance(attributes, dict) else ()), *slots]


def _slots(kind: type) -> Iterator[str]:
    for each in kind.__mro__:
        slots = each.__dict__.get("__slots__", ())
        yield from (slots,) if isinstance(slots, str) else slots


def _storage(tensor: torch.Tensor) -> torch.UntypedStorage | None:
    try:
        return tensor.untyped_storage()
    except (NotImplementedError, RuntimeError):
        return None
