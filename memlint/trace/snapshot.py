"""CUDA memory snapshots: the pickles of ``torch.cuda.memory._dump_snapshot`` and of its ancestors.

Three layouts are read: a list of segments (``torch.cuda.memory_snapshot()``), the dict of PyTorch 2.0 (blocks with a
``history``, events without a time), and today's dict (docstring of ``torch.cuda.memory._snapshot``, binding
``THCPModule_memorySnapshot`` in ``torch/csrc/cuda/Module.cpp``). A trace entry carries the requested size; what the
block takes is worked out by :mod:`memlint.trace.layout`.

The history is a ring buffer: once it is full, the oldest events are gone, and everything before the first event that
is left looks like memory that was there from the start. :attr:`Recording.overrun` says when that happened.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from memlint.trace.allocator_settings import AllocatorSettings
from memlint.trace.collection import paused_collection
from memlint.trace.compact import CompactEvents, edited
from memlint.trace.errors import TraceError
from memlint.trace.events import (
    HOST,
    Action,
    Block,
    BlockState,
    Category,
    Mark,
    MemoryEvent,
    Origin,
    Recording,
    Segment,
)
from memlint.trace.frames import Frame, Stack, StackTable
from memlint.trace.labels import label, parse_metadata
from memlint.trace.layout import Events, assign_block_sizes, fill_segments, segments_before
from memlint.trace.safe_pickle import load_plain

_STATES = {
    "active_allocated": BlockState.ALLOCATED,
    "active_pending_free": BlockState.PENDING_FREE,
    "active_awaiting_free": BlockState.PENDING_FREE,  # what the docstring says; the C++ code writes the line above
    "inactive": BlockState.INACTIVE,
}
_ACTIONS = {action.value: action for action in Action}
_CATEGORIES = {category.value: category for category in Category}
_SEGMENT_ACTIONS = frozenset(
    {Action.SEGMENT_ALLOCATE, Action.SEGMENT_FREE, Action.SEGMENT_MAP, Action.SEGMENT_UNMAP, Action.SNAPSHOT}
)
LARGE = 32 << 20
"""Bytes of a file whose history is turned into events while it is read. Each event then takes 40 bytes, and not 300; a
small file is read four times as fast in one piece."""
_LARGEST_INTEGER = 1 << 63
_MAX_DEVICES = 1024
"""More devices than any process has."""


def read_snapshot(path: Path) -> Recording:
    """The recording in a memory snapshot. Raises :class:`TraceError`."""
    try:
        with paused_collection():
            reader = _SnapshotReader()
            return reader.read(load_plain(path, reader.take if path.stat().st_size > LARGE else None))
    except OSError as error:
        raise TraceError(f"{path}: {error.strerror or error}") from error
    except _Malformed as error:
        raise TraceError(f"{path}: not a memory snapshot of PyTorch ({error})") from error


def recording_of(snapshot: object) -> Recording:
    """The recording in what ``torch.cuda.memory._snapshot()`` returns, which is taken apart. Raises TraceError."""
    try:
        with paused_collection():
            return _SnapshotReader().read(snapshot)
    except _Malformed as error:
        raise TraceError(f"not a memory snapshot of PyTorch ({error})") from error


class _Malformed(TraceError):
    """The data is not what a snapshot holds; the message says where."""


class _SnapshotReader:
    """Turns plain data into a recording, taking it apart on the way so that both are never in memory together."""

    def __init__(self) -> None:
        self._table = StackTable()
        self._frames: dict[int, tuple[Any, Frame]] = {}
        self._unknown_actions: set[str] = set()
        self._devices: dict[str, str] = {}
        self._taken: dict[int, tuple[list[Any], CompactEvents]] = {}
        """By the identity of the list of entries, which is kept so that it stays unique."""

    def take(self, entries: list[Any], more: list[Any]) -> bool:
        """Turn entries of a history into events at once; nothing else is taken."""
        if not isinstance(more[0], dict) or "action" not in more[0]:
            return False
        events = self._taken.setdefault(id(entries), (entries, CompactEvents()))[1]
        for entry in more:
            event = self._event(entry, "")
            if event is not None:
                events.append(event)
        return True

    def read(self, data: object) -> Recording:
        if isinstance(data, list):
            data = {"segments": data}
        snapshot = _mapping(data, "the top level")
        self._read_device_names(snapshot.get("memlint"))
        settings = snapshot.get("allocator_settings")
        recording = Recording(
            self._origin,
            events=[],
            segments=[self._segment(entry) for entry in _list(snapshot.get("segments"), "segments")],
            marks=_marks(_list(snapshot.get("external_annotations", []), "external_annotations")),
            settings=AllocatorSettings.from_snapshot(settings) if isinstance(settings, Mapping) else None,
        )
        traces = _list(snapshot.get("device_traces", []), "device_traces")
        if len(traces) > _MAX_DEVICES:
            raise _Malformed(f"it has traces of {len(traces)} devices")
        for index, trace in enumerate(traces):
            self._add_trace(recording, self._device(index), _list(trace, f"the trace of device {index}"))
        recording.notes += [f"unknown action {action!r} in the trace" for action in sorted(self._unknown_actions)]
        label(recording)
        return recording

    def _read_device_names(self, own: object) -> None:
        """Snapshots written by :mod:`memlint.trace.snapshot_writer` say which number stands for the host."""
        names = own.get("devices") if isinstance(own, dict) else None
        if isinstance(names, dict):
            self._devices = {number: name for number, name in names.items() if isinstance(name, str)}

    @property
    def _origin(self) -> Origin:
        """A snapshot of nothing but the host is none of CUDA's."""
        return Origin.CPU_RECORDER if set(self._devices.values()) == {HOST} else Origin.CUDA_SNAPSHOT

    def _device(self, number: int) -> str:
        return self._devices.get(str(number), f"cuda:{number}")

    # One device's trace

    def _add_trace(self, recording: Recording, device: str, trace: list[Any]) -> None:
        events = self._events(trace, device)
        settings = recording.settings or AllocatorSettings()
        final = [segment for segment in recording.segments if segment.device == device]
        if not events and not final:
            # A device that the process could use and did not.
            return
        survey = _Survey(events, final)
        baseline = survey.baseline(device, settings)
        if device == HOST:
            # Its segments were made up for the viewer, and nothing is rounded.
            recording.segments = [segment for segment in recording.segments if segment.device != device]
            for event in chain(baseline, edited(events)):
                event.block_bytes = event.requested_bytes
        else:
            before = segments_before(events, final, settings)
            assign_block_sizes(events, before, baseline, settings)
            fill_segments(before, baseline)
            recording.initial_segments += before
        if recording.events:
            recording.events.extend(events)
        else:
            recording.events = events
        recording.baseline += baseline
        recording.baseline_bytes[device] = sum(event.size for event in baseline)
        reason = survey.overrun()
        if reason is not None:
            recording.overrun[device] = reason

    def _events(self, trace: list[Any], device: str) -> Events:
        taken = self._taken.pop(id(trace), None)
        if taken is not None:
            compact = taken[1]
            compact.extend(event for entry in trace if (event := self._event(entry, "")) is not None)
            compact.move(device)
            return compact
        for index, entry in enumerate(trace):
            trace[index] = self._event(entry, device)
        events: list[MemoryEvent] = [event for event in trace if event is not None]
        trace.clear()
        return events

    def _event(self, entry: object, device: str) -> MemoryEvent | None:
        fields = _mapping(entry, "a trace entry")
        name = fields.get("action")
        action = _ACTIONS.get(name) if isinstance(name, str) else None
        if action is None:
            self._unknown_actions.add(str(name)[:40])
            return None
        size = _integer(fields, "size")
        event = MemoryEvent(
            action,
            device,
            None if action is Action.OUT_OF_MEMORY else _integer(fields, "addr"),
            None if action in _SEGMENT_ACTIONS else size,
            size if action in _SEGMENT_ACTIONS else None,
            _number(fields.get("time_us")),
            _integer(fields, "stream", 0),
            self._stack(fields.get("frames", [])),
        )
        metadata = fields.get("user_metadata")
        if isinstance(metadata, str) and metadata:
            event.step, event.phase = parse_metadata(metadata)
        category = fields.get("category")
        if isinstance(category, str):
            event.category = _CATEGORIES.get(category)
        # What memlint's own recorder knows, and that of PyTorch does not.
        operator, records_graph = fields.get("operator"), fields.get("records_graph")
        event.operator = operator if isinstance(operator, str) else None
        event.records_graph = records_graph if isinstance(records_graph, bool) else None
        # An entry that appears twice would otherwise multiply what a small file turns into.
        fields.clear()
        return event

    def _stack(self, frames: object) -> Stack | None:
        entries = _list(frames, "the frames of an entry")
        if len(entries) == 1 and isinstance(entries[0], Stack):
            # Events share lists of frames.
            return entries[0]
        stack = self._table.stack(tuple([self._frame(entry) for entry in entries]))
        if stack is not None:
            entries[:] = [stack]
        return stack

    def _frame(self, entry: object) -> Frame:
        known = self._frames.get(id(entry))
        if known is None:
            fields = _mapping(entry, "a frame")
            filename, name = fields.get("filename"), fields.get("name")
            frame = self._table.frame(str(filename or "??"), _integer(fields, "line", 0), str(name or "??"))
            known = self._frames[id(entry)] = (entry, frame)
        return known[1]

    # Segments

    def _segment(self, entry: object) -> Segment:
        fields = _mapping(entry, "a segment")
        address = _integer(fields, "address")
        segment = Segment(
            self._device(_integer(fields, "device", 0)),
            address,
            _integer(fields, "total_size"),
            _integer(fields, "stream", 0),
            fields.get("segment_type") == "small",
            fields.get("is_expandable") is True,
            [],
            self._stack(fields.get("frames", [])),
        )
        for part in _list(fields.get("blocks"), "the blocks of a segment"):
            block = self._block(part, address)
            segment.blocks.append(block)
            address = block.address + block.size
        fields.clear()
        return segment

    def _block(self, entry: object, address: int) -> Block:
        fields = _mapping(entry, "a block")
        state = _STATES.get(str(fields.get("state")))
        if state is None:
            raise _Malformed(f"a block is in the state {str(fields.get('state'))[:40]!r}")
        size = _integer(fields, "size")
        requested = _integer(fields, "requested_size", size)
        frames = fields.get("frames", [])
        history = fields.get("history")
        if isinstance(history, list) and history:
            # PyTorch 2.0: the latest allocation comes first.
            latest = _mapping(history[0], "the history of a block")
            requested = _integer(latest, "real_size", requested)
            frames = latest.get("frames", [])
        block = Block(_integer(fields, "address", address), size, requested, state, self._stack(frames))
        fields.clear()
        return block


class _Survey:
    """What one device's events and final segments say about the time before the first event."""

    def __init__(self, events: Events, final: Iterable[Segment]) -> None:
        self._count = len(events)
        self._unmatched: list[MemoryEvent] = []
        """Completed frees of blocks whose allocation is not in the trace."""
        self._half_frees = 0
        """Those of them whose request is not in the trace either."""
        live: set[int] = set()
        requested: set[int] = set()
        for event in events:
            address = event.address or 0
            if event.action is Action.ALLOCATE:
                live.add(address)
            elif event.action is Action.FREE_REQUESTED:
                requested.add(address)
            elif event.action is Action.FREE:
                if address not in live:
                    self._unmatched.append(event)
                    self._half_frees += address not in requested
                live.discard(address)
                requested.discard(address)
        active = [
            (block, segment.stream)
            for segment in final
            for block in segment.blocks
            if block.state is not BlockState.INACTIVE
        ]
        self._older = [(block, stream) for block, stream in active if block.address not in live]

    def baseline(self, device: str, settings: AllocatorSettings) -> list[MemoryEvent]:
        """The blocks that were live before the first event.

        The size of one that was freed later is its requested size, rounded: what it really took is not recorded.
        """
        kept = [
            MemoryEvent(
                Action.ALLOCATE,
                device,
                block.address,
                block.requested_size,
                block.size,
                stream=stream,
                stack=block.stack,
            )
            for block, stream in self._older
        ]
        freed = [
            MemoryEvent(
                Action.ALLOCATE,
                device,
                event.address,
                event.requested_bytes,
                settings.round_size(event.requested_bytes or 0),
                stream=event.stream,
            )
            for event in self._unmatched
        ]
        return kept + freed

    def overrun(self) -> str | None:
        """How it shows that the ring buffer was full, or None.

        A recording that began late, or for the second time, lacks allocations as well; but its number of events is
        whatever it is, while a full buffer holds ``max_entries`` of them, which people choose round.
        """
        if self._half_frees > 0:
            return "the first events are missing: a block's free was completed without having been requested"
        missing = len(self._unmatched) + sum(block.stack is not None for block, _ in self._older)
        if missing and _is_round(self._count):
            return (
                f"the first events are missing: it holds {self._count:,}, and {missing:,} allocations lie before them"
            )
        return None


def _is_round(count: int) -> bool:
    return count >= 1000 and (count % 1000 == 0 or count & (count - 1) == 0)


def _marks(annotations: list[Any]) -> list[Mark]:
    """Pairs of START and END annotations."""
    marks: list[Mark] = []
    unfinished: dict[tuple[str, object], list[Mark]] = {}
    for annotation in annotations:
        fields = _mapping(annotation, "an annotation")
        name, time = fields.get("name"), _number(fields.get("time_us"))
        if not isinstance(name, str) or time is None:
            continue
        device = fields.get("device")
        key = (name, device)
        if fields.get("stage") == "START":
            mark = Mark(name, time, None, f"cuda:{device}" if isinstance(device, int) else None)
            marks.append(mark)
            unfinished.setdefault(key, []).append(mark)
        elif unfinished.get(key):
            unfinished[key].pop().end_us = time
    marks.sort(key=lambda mark: mark.start_us)
    return marks


def _mapping(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict) or not value:
        raise _Malformed(f"{what} is {_kind(value)}, not a dict with entries")
    return value


def _list(value: object, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise _Malformed(f"{what}: {_kind(value)} instead of a list")
    return value


def _integer(fields: Mapping[str, Any], key: str, default: int | None = None) -> int:
    value = fields.get(key, default)
    if type(value) is not int:
        raise _Malformed(f"{key!r} is {_kind(value)}, not an integer")
    if abs(value) >= _LARGEST_INTEGER:
        raise _Malformed(f"{key!r} is larger than any address")
    return value


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) else None


def _kind(value: object) -> str:
    return "missing" if value is None else f"a {type(value).__name__}"
