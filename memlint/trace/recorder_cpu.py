"""Records the tensors that a program allocates on the host, with the line that asked for them. Needs torch.

A ``TorchDispatchMode`` sees every operator with its results; a weak reference to each new storage tells when it dies.
What operators allocate and free inside themselves is not seen, nor what happens in threads other than the one that
records (the backward pass of a host tensor runs in the thread that calls ``backward``). The bytes are those of
PyTorch's own ``torch.distributed._tools.mem_tracker``, which works in the same way; blocks are not rounded.

While a dispatch mode is active, ``torch.compile`` runs code eagerly.

Tensors of accelerators can be recorded in the same way: as requested, without what kernels allocate for themselves, and
without Python frames for what the backward pass allocates, which runs in a thread of its own there.
"""

from __future__ import annotations

import os
import sys
import time
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import CodeType, FrameType, TracebackType
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from memlint.trace.events import HOST, Action, Category, MemoryEvent, Origin, Phase, Recording
from memlint.trace.frames import Frame, Stack, StackTable

MAX_EVENTS = 5_000_000
"""Where recording stops of itself: a million events take about 250 MB."""

_MACHINERY = ("torch/_compile.py", "torch/_dynamo/eval_frame.py", "torch/utils/_python_dispatch.py")
"""What PyTorch may put between an operator and the recorder; elsewhere in a stack these files are of interest."""

_PACKAGE = str(Path(__file__).parent.parent) + os.sep
"""Where memlint itself lies: its frames are nobody's business."""


def is_own(filename: str) -> bool:
    """Whether a frame is memlint's, wherever it stands in the stack."""
    return filename.startswith(_PACKAGE)


def is_machinery(filename: str) -> bool:
    """Whether a frame, if it is the innermost one, is what PyTorch puts between an operator and the recorder."""
    return filename.endswith(_MACHINERY)


class CpuRecorder:
    """A context manager; what happens inside is recorded, and :meth:`recording` returns it.

    ``step`` and ``phase`` are attached to each event as they are at that time; whoever knows them says so by
    :meth:`place`.
    """

    def __init__(self, max_events: int = MAX_EVENTS, *, accelerators: bool = False) -> None:
        self.step: int | None = None
        self.phase: Phase | None = None
        self._max_events = max_events
        self._accelerators = accelerators
        self._events: list[MemoryEvent] = []
        self._live: dict[int, _Storage] = {}
        """By the address of the C++ storage, which is its identity as long as it lives."""
        self._left_out = 0
        self._stacks = StackCache()
        self._names: dict[object, str] = {}
        self._mode = _Mode(self)

    def __enter__(self) -> CpuRecorder:
        self._mode.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._mode.__exit__(kind, error, traceback)

    def place(self, step: int | None, phase: Phase | None) -> None:
        """Say where the program is from now on."""
        self.step = step
        self.phase = phase

    def classify(self, tensors: Iterable[torch.Tensor], category: Category) -> None:
        """Say what these tensors, if they are live on the host and were recorded, are for."""
        for tensor in tensors:
            storage = self._storage_of(tensor)
            known = self._live.get(storage._cdata) if storage is not None else None
            if known is not None:
                known.event.category = category

    def allocation_of(self, storage: torch.UntypedStorage) -> MemoryEvent | None:
        """The event of a storage that is live; None if it was allocated before the recording began, or elsewhere."""
        known = self._live.get(storage._cdata)
        return known.event if known is not None else None

    def mark(self) -> int:
        """This moment, for :meth:`most_since`."""
        return len(self._events)

    def most_since(self, mark: int) -> int:
        """How many bytes more than at ``mark`` were allocated since, at most."""
        most = more = 0
        for event in self._events[mark:]:
            more += event.size if event.action is Action.ALLOCATE else -event.size
            most = max(most, more)
        return most

    def freed_since(self, mark: int) -> int:
        """How many bytes were freed since ``mark``."""
        return sum(event.size for event in self._events[mark:] if event.action is Action.FREE)

    def recording(self) -> Recording:
        """Everything up to now."""
        recording = Recording(Origin.CPU_RECORDER, list(self._events), baseline_bytes={HOST: 0})
        if self._left_out:
            reason = f"{self._left_out:,} events after the first {self._max_events:,} were not recorded"
            recording.overrun = dict.fromkeys({event.device for event in self._events} or {HOST}, reason)
        return recording

    # What the mode reports

    def see_arguments(self, arguments: Iterable[object]) -> None:
        """Tensors that were not made by an operator are met here first: arrays of numpy, shared memory."""
        for tensor in _tensors(arguments):
            storage = self._storage_of(tensor)
            if storage is not None and storage._cdata not in self._live:
                self._allocate(storage, None, records_graph=None)

    def see_results(self, operator: object, arguments: Iterable[object], results: Iterable[object]) -> None:
        """New storages among the results were allocated by the operator."""
        for tensor in _tensors(results):
            storage = self._storage_of(tensor)
            if storage is None:
                continue
            known = self._live.get(storage._cdata)
            if known is not None and known.event.size == storage.nbytes():
                continue
            if known is not None:
                # ``resize_`` keeps the storage and changes its memory.
                self._died(storage._cdata, None)
            self._allocate(storage, operator, records_graph=_records_graph(arguments))

    def _allocate(self, storage: torch.UntypedStorage, operator: object, *, records_graph: bool | None) -> None:
        size = storage.nbytes()
        address = _address_of(storage) if size else None
        if address is None:
            return
        event = self._event(Action.ALLOCATE, address, size, _device_of(storage))
        event.stack = self._stacks.current()
        event.records_graph = records_graph
        event.operator = self._name(operator) if operator is not None else None
        if not self._record(event):
            return
        known = _Storage(event)
        self._live[storage._cdata] = known
        known.reference = weakref.ref(storage, partial(self._died, storage._cdata))

    def _died(self, key: int, _: object) -> None:
        known = self._live.pop(key, None)
        if known is not None:
            self._free(known)

    def _free(self, known: _Storage) -> None:
        # Without its free a recorded allocation would seem to live for ever, so that frees are always recorded.
        allocation = known.event
        event = self._event(Action.FREE, allocation.address, allocation.size, allocation.device)
        event.category = allocation.category
        self._events.append(event)

    def _storage_of(self, tensor: torch.Tensor) -> torch.UntypedStorage | None:
        return _storage(tensor) if tensor.is_cpu or (self._accelerators and not tensor.is_meta) else None

    def _event(self, action: Action, address: int | None, size: int, device: str) -> MemoryEvent:
        return MemoryEvent(action, device, address, size, size, time.time_ns() / 1000, step=self.step, phase=self.phase)

    def _record(self, event: MemoryEvent) -> bool:
        if len(self._events) >= self._max_events:
            self._left_out += 1
            return False
        self._events.append(event)
        return True

    def _name(self, operator: object) -> str:
        name = self._names.get(operator)
        if name is None:
            schema = getattr(operator, "_schema", None)
            name = self._names[operator] = schema.name if schema is not None else str(operator)
        return name


class _Mode(TorchDispatchMode):  # type: ignore[misc,unused-ignore]
    def __init__(self, recorder: CpuRecorder) -> None:
        super().__init__()
        self._recorder = recorder

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Dynamo compiles nothing while a mode is active. Protecting the mode from it all the same, as PyTorch does by
        # default, imports all of Dynamo and adds two calls to every operator.
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self._recorder.see_arguments(args)
        result = func(*args, **(kwargs or {}))
        self._recorder.see_results(func, args, (result,))
        return result


@dataclass(slots=True)
class _Storage:
    event: MemoryEvent
    reference: weakref.ref[torch.UntypedStorage] | None = None
    """Kept so that its callback is called."""


def _tensors(values: Iterable[object]) -> Iterator[torch.Tensor]:
    """The tensors among an operator's arguments or results, which may be lists and tuples of them."""
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value)


def _address_of(storage: torch.UntypedStorage) -> int | None:
    """Where a storage lies; None for fake tensors and DTensors, which say that they are on the host, and are not."""
    if storage.device.type == "meta":
        return None
    try:
        return int(storage.data_ptr())
    except RuntimeError:
        return None


def _device_of(storage: torch.UntypedStorage) -> str:
    device = storage.device
    return HOST if device.type == HOST else f"{device.type}:{device.index or 0}"


def _storage(tensor: torch.Tensor) -> torch.UntypedStorage | None:
    try:
        return tensor.untyped_storage()
    except (NotImplementedError, RuntimeError):
        # Sparse tensors and wrapper subclasses have none of their own; the tensors inside them are seen by themselves.
        return None


def _records_graph(arguments: Iterable[object]) -> bool:
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in _tensors(arguments))


class StackCache:
    """The stack of the running code; equal ones are told by where each frame is, without looking at lines."""

    def __init__(self) -> None:
        self._table = StackTable()
        self._stacks: dict[tuple[int, ...], tuple[tuple[CodeType, ...], Stack | None]] = {}
        """With the code objects, since the key holds nothing but their identities."""

    def current(self) -> Stack | None:
        """The stack outside the recorder."""
        frame: FrameType | None = sys._getframe(1)
        key: list[int] = []
        innermost = frame
        while frame is not None:
            key += (id(frame.f_code), frame.f_lasti)
            frame = frame.f_back
        known = self._stacks.get(tuple(key))
        if known is None:
            known = self._stacks[tuple(key)] = self._walk(innermost)
        return known[1]

    def _walk(self, frame: FrameType | None) -> tuple[tuple[CodeType, ...], Stack | None]:
        codes: list[CodeType] = []
        frames: list[Frame] = []
        while frame is not None:
            code = frame.f_code
            codes.append(code)
            if not is_own(code.co_filename) and (frames or not is_machinery(code.co_filename)):
                frames.append(self._table.frame(code.co_filename, frame.f_lineno or 0, code.co_name))
            frame = frame.f_back
        return tuple(codes), self._table.stack(tuple(frames))
