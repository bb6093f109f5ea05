"""Small recordings in the formats of PyTorch, written by hand."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

MIB = 1 << 20
BASE = 0x7F12_3400_0000

Entry = dict[str, Any]


def frames(*places: tuple[str, int, str]) -> list[Entry]:
    """A stack, innermost frame first."""
    return [{"filename": filename, "line": line, "name": name} for filename, line, name in places]


def entry(action: str, address: int, size: int, **fields: Any) -> Entry:
    """An entry of a device's trace."""
    return {"action": action, "addr": address, "size": size, "stream": 0, **fields}


def freed(address: int, size: int, **fields: Any) -> list[Entry]:
    """The two entries of a free that no other stream delays."""
    return [entry("free_requested", address, size, **fields), entry("free_completed", address, size, **fields)]


def block(address: int, size: int, *, requested: int | None = None, state: str = "active_allocated") -> Entry:
    """A block of a segment, as of today."""
    requested = size if requested is None else requested
    return {"address": address, "size": size, "requested_size": requested, "state": state, "frames": []}


def segment(address: int, *blocks: Entry, **fields: Any) -> Entry:
    """A segment, as of today."""
    return {
        "device": 0,
        "address": address,
        "total_size": sum(part["size"] for part in blocks),
        "stream": 0,
        "segment_type": "large",
        "segment_pool_id": (0, 0),
        "is_expandable": False,
        "frames": [],
        "blocks": list(blocks),
        **fields,
    }


def snapshot(trace: list[Entry], *segments: Entry, **fields: Any) -> Entry:
    """A snapshot of one device, as of today."""
    return {"segments": list(segments), "device_traces": [trace], "external_annotations": [], **fields}


def write_pickle(path: Path, data: object, protocol: int = 4) -> Path:
    """``data``, pickled."""
    path.write_bytes(pickle.dumps(data, protocol=protocol))
    return path


def memory(time: float, size: int, **args: Any) -> Entry:
    """A ``[memory]`` event of the host; a negative size is a free."""
    fields = {"Bytes": size, "Device Type": 0, "Device Id": -1, **args}
    return {
        "ph": "i",
        "cat": "cpu_instant_event",
        "s": "t",
        "name": "[memory]",
        "pid": 1,
        "tid": 1,
        "ts": time,
        "args": fields,
    }


def span(category: str, name: str, start: float, duration: float, **args: Any) -> Entry:
    """A stretch of time on the same thread."""
    return {"ph": "X", "cat": category, "name": name, "pid": 1, "tid": 1, "ts": start, "dur": duration, "args": args}


def write_json(path: Path, *events: Entry) -> Path:
    """A profiler trace of these events."""
    path.write_text(json.dumps({"schemaVersion": 1, "deviceProperties": [], "traceEvents": events, "traceName": "t"}))
    return path
