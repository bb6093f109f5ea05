"""What a watched line keeps in the memory of the host, or frees there and elsewhere."""

from __future__ import annotations

import gc
import itertools
import sys
import types
import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.utils.data import dataloader

from memlint.verify.child.following import Follower, wrap
from memlint.verify.child.reachable import reach

_MAX_ENTRIES = 20_000
"""Of a longer container so many entries, evenly spaced, stand for all."""
_ALIGNMENT = 16
"""CPython's allocator hands out blocks of multiples of it (``ALIGNMENT`` in ``obmalloc.c``)."""


class CacheEmptied(Follower):
    """What is freed while the line runs."""

    def begin(self) -> None:
        """Remember what there is."""
        super().begin()
        self._mark = self.memory.mark()

    def end(self, frame: types.FrameType) -> None:
        """Count what is gone."""
        super().end(frame)
        self.note(self.memory.freed_since(self._mark))


class SampleObjects(Follower):
    """The Python objects in an attribute of a data set, and the workers that read them.

    A worker that has read all of them has copied their pages: for 400,000 tuples of two numbers that was 51 MB of
    private memory, for 54 MB of objects (measured on Linux with Python 3.11).
    """

    _owner: weakref.ref[Any] | None = None
    _path: tuple[str, ...] = ()

    def install(self) -> None:
        """Look when an iteration over a loader begins."""
        wrap(dataloader._MultiProcessingDataLoaderIter, "__init__", self._starts)
        wrap(dataloader._SingleProcessDataLoaderIter, "__init__", self._starts)

    def end(self, frame: types.FrameType) -> None:
        """Remember whose attribute it is: it may be filled later."""
        super().end(frame)
        for root in self.line.roots:
            name, *path = root.split(".")
            known, owner = self._evaluate(name, frame)
            if known and path and isinstance(owner, torch.utils.data.Dataset):
                self.seen.root = root
                self._owner, self._path = weakref.ref(owner), tuple(path)

    def _starts(self, original: Callable[..., Any], iterator: Any, loader: Any, *args: Any) -> Any:
        owner = self._owner() if self._owner is not None else None
        if owner is not None and not self.is_elsewhere and any(each is owner for each in _datasets(loader.dataset)):
            value = owner
            for name in self._path:
                value = getattr(value, name, None)
            objects, size = python_objects(value)
            self.note(size * loader.num_workers, objects, str(loader.num_workers))
        return original(iterator, loader, *args)


class Cycled(Follower):
    """The tensors that an ``itertools.cycle`` keeps; other iterators keep none that it could yield again."""

    def end(self, frame: types.FrameType) -> None:
        """Look at what it has saved so far."""
        super().end(frame)
        for value in self.values(frame):
            saved = gc.get_referents(value) if isinstance(value, itertools.cycle) else []
            self.note(reach([each for each in saved if isinstance(each, list)]).device_bytes)


def _datasets(dataset: Any) -> Iterable[Any]:
    """A data set and those that it is a part of or consists of."""
    yield dataset
    inner = [getattr(dataset, "dataset", None), *(getattr(dataset, "datasets", None) or ())]
    for each in inner:
        if isinstance(each, torch.utils.data.Dataset):
            yield from _datasets(each)


def python_objects(value: object) -> tuple[int, int]:
    """How many Python objects can be reached from ``value`` through containers and attributes, and their bytes.

    Elements of arrays and tensors are no objects.
    """
    known: dict[int, object] = {}
    return _objects(value, known)


def _objects(value: Any, known: dict[int, object]) -> tuple[int, int]:
    if id(value) in known:
        return 0, 0
    known[id(value)] = value
    if isinstance(value, torch.Tensor) or hasattr(value, "__array_interface__"):
        held = value.tolist() if str(getattr(value, "dtype", "")) == "object" else None
        return (1, _ALIGNMENT) if held is None else _objects(held, known)
    count, size = 1, -(-sys.getsizeof(value) // _ALIGNMENT) * _ALIGNMENT
    parts = _parts(value)
    step = max(1, len(parts) // _MAX_ENTRIES)
    scale = len(parts) / max(1, len(parts[::step]))
    for each in parts[::step]:
        more, bytes_of_it = _objects(each, known)
        count, size = count + round(more * scale), size + round(bytes_of_it * scale)
    return count, size


def _parts(value: object) -> list[object]:
    if isinstance(value, dict):
        return [each for pair in value.items() for each in pair]
    if isinstance(value, (list, tuple, set, frozenset)):
        return list(value)
    attributes = getattr(value, "__dict__", None)
    return [attributes] if isinstance(attributes, dict) and not isinstance(value, type) else []
