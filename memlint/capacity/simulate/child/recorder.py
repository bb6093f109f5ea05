"""What the simulated devices hold: every storage that was put on one, and the allocator that gave it its block."""

from __future__ import annotations

import time
import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from memlint.trace.allocator import CachingAllocator, OutOfMemory
from memlint.trace.allocator_settings import AllocatorSettings
from memlint.trace.events import Action, Category, MemoryEvent, Origin, Phase, Recording
from memlint.trace.recorder_cpu import StackCache

HOST = -1
"""Where a tensor without data lies that is on no device."""


@dataclass(slots=True)
class _Held:
    index: int
    event: MemoryEvent | None
    """Its allocation; None on the host, and for storages without bytes."""
    reference: Any = None
    """Kept so that its callback is called."""


class DeviceRecorder:
    """Follows storages from the operator that made them to their end. ``capacity`` is bytes for each device."""

    def __init__(self, capacity: int | None, settings: AllocatorSettings) -> None:
        self.step: int | None = 0
        self.phase: Phase | None = None
        self.out_of_memory = ""
        self._capacity = capacity
        self._settings = settings
        self._events: list[MemoryEvent] = []
        self._held: dict[int, _Held] = {}
        """By the address of the C++ storage, which is its identity as long as it lives."""
        self._allocators: dict[int, CachingAllocator] = {}
        self._stacks = StackCache()
        self._highest: dict[int, tuple[int, int]] = {}

    def place(self, step: int | None, phase: Phase | None) -> None:
        """Say where the script is from now on."""
        self.step = step
        self.phase = phase

    # Where tensors are

    def place_of(self, tensor: torch.Tensor) -> int | None:
        """The device's index, :data:`HOST`, or None for a storage that was never seen."""
        held = self._held.get(tensor.untyped_storage()._cdata)
        return held.index if held is not None else None

    def put(self, tensor: torch.Tensor, index: int, operator: str, *, records_graph: bool) -> None:
        """A new storage lies on this device, or on the host."""
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        event = None
        if index != HOST and size:
            event = self._allocate(index, size, operator)
            event.records_graph = records_graph
        self._held[key] = _Held(index, event, weakref.ref(storage, partial(self._died, key)))

    def resized(self, tensor: torch.Tensor, operator: str) -> None:
        """An operator may have changed how much a known storage holds (``resize_``)."""
        storage = tensor.untyped_storage()
        held = self._held[storage._cdata]
        size = storage.nbytes()
        if held.index == HOST or size == (0 if held.event is None else held.event.requested_bytes):
            return
        if held.event is not None:
            self._free(held.event)
        held.event = self._allocate(held.index, size, operator) if size else None

    def hold(self, index: int, size: int, operator: str) -> MemoryEvent:
        """Memory that no tensor of the program owns, until :meth:`release`: a library's workspace."""
        return self._allocate(index, size, operator)

    def release(self, event: MemoryEvent) -> None:
        """Give back what :meth:`hold` took."""
        self._free(event)

    def evict(self, tensor: torch.Tensor) -> None:
        """Give back the memory of a storage that keeps its identity, until :meth:`restore`."""
        held = self._held.get(tensor.untyped_storage()._cdata)
        if held is not None and held.event is not None:
            self._free(held.event)
            held.event = None

    def restore(self, tensor: torch.Tensor, index: int, operator: str, category: Category) -> None:
        """Take memory again for a storage that was evicted."""
        storage = tensor.untyped_storage()
        held = self._held.get(storage._cdata)
        if held is not None and held.event is None and storage.nbytes():
            held.index, held.event = index, self._allocate(index, storage.nbytes(), operator)
            held.event.category = category

    def reset_peaks(self, index: int) -> None:
        """The script counts its peaks from here; :meth:`peaks` goes on from where it was."""
        stats = self.allocator(index).stats
        self._highest[index] = self.peaks(index)
        stats.reset_peaks()

    def peaks(self, index: int) -> tuple[int, int]:
        """The most bytes of a device that were ever allocated, and reserved."""
        allocated, reserved = self._highest.get(index, (0, 0))
        stats = self.allocator(index).stats.all
        return max(allocated, stats.allocated_bytes.peak), max(reserved, stats.reserved_bytes.peak)

    def begin_again(self) -> None:
        """Forget every peak, and what is no longer there: a script would have come here without it."""
        live = [held.event for held in self._held.values() if held.event is not None]
        self._events = sorted(live, key=lambda event: event.time_us or 0)
        self.out_of_memory = ""
        self._highest.clear()
        for allocator in self._allocators.values():
            allocator.empty_cache()
            allocator.capacity = self._capacity
            allocator.stats.reset_peaks()

    def classify(self, tensors: Iterable[torch.Tensor], category: Category) -> None:
        """Say what these tensors are for."""
        for tensor in tensors:
            held = self._held.get(tensor.untyped_storage()._cdata)
            if held is not None and held.event is not None:
                held.event.category = category

    # What the devices say

    def allocator(self, index: int) -> CachingAllocator:
        """The allocator of a device."""
        found = self._allocators.get(index)
        if found is None:
            observe = partial(self._segment_changed, index)
            found = self._allocators[index] = CachingAllocator(self._settings, capacity=self._capacity, observe=observe)
        return found

    @property
    def used_devices(self) -> list[int]:
        """The devices on which something was allocated."""
        return sorted(self._allocators)

    def recording(self) -> Recording:
        """Everything up to now."""
        recording = Recording(Origin.SIMULATION, list(self._events), settings=self._settings)
        for index, allocator in self._allocators.items():
            recording.baseline_bytes[f"cuda:{index}"] = 0
            recording.segments += allocator.segments(f"cuda:{index}")
        return recording

    # Behind it

    def _allocate(self, index: int, size: int, operator: str) -> MemoryEvent:
        allocator = self.allocator(index)
        try:
            address = allocator.malloc(size)
        except OutOfMemory as error:
            stack = self._stacks.current()
            place = f" at {stack.user}" if stack is not None and stack.user is not None else ""
            self.out_of_memory = self.out_of_memory or f"{error.requested} bytes for {operator}{place}"
            # The run goes on as on a larger device, so that the report can say how large.
            allocator.capacity = None
            address = allocator.malloc(size)
        event = self._event(Action.ALLOCATE, index, address, size, allocator.block_size(address))
        event.stack = self._stacks.current()
        event.operator = operator
        self._events.append(event)
        return event

    def _died(self, key: int, _: object) -> None:
        held = self._held.pop(key, None)
        if held is not None and held.event is not None:
            self._free(held.event)

    def _free(self, allocation: MemoryEvent) -> None:
        index = int(allocation.device.partition(":")[2])
        address = allocation.address or 0
        self._allocators[index].free(address)
        event = self._event(Action.FREE, index, address, allocation.requested_bytes or 0, allocation.size)
        event.category = allocation.category
        self._events.append(event)

    def _segment_changed(self, index: int, action: Action, address: int, size: int) -> None:
        self._events.append(self._event(action, index, address, size, size))

    def _event(self, action: Action, index: int, address: int, requested: int, block: int) -> MemoryEvent:
        now = time.time_ns() / 1000
        return MemoryEvent(action, f"cuda:{index}", address, requested, block, now, step=self.step, phase=self.phase)
