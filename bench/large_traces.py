"""What ``memlint verify --trace`` takes for traces of hundreds of megabytes.

    python bench/large_traces.py
    python bench/large_traces.py --megabytes 100 --recorded DIR

Records a short run of examples/hazards.py on the CPU, repeats its events until the profiler trace and the snapshot have
the size that is asked for, and has each decided by the command. Prints sizes, events, processor time and peak memory.
"""

from __future__ import annotations

import argparse
import gzip
import json
import pickle
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from usage import MEMLINT, usage

SCRIPT = Path(__file__).parent.parent / "examples" / "hazards.py"
_GAP = 1000
"""Microseconds between one repetition and the next."""


def record(folder: Path) -> None:
    """Writes the profiler trace and the snapshot of a short run into ``folder``."""
    usage([sys.executable, *MEMLINT, "verify", "--isolated", SCRIPT, "--trace-dir", folder], SCRIPT.parent)


def repeated(events: Sequence[Mapping[str, Any]], key: str) -> Iterator[dict[str, Any]]:
    """``events`` again and again, each time later: ``key`` holds their times in microseconds."""
    times = [event[key] for event in events if key in event]
    span = max(times) - min(times) + _GAP
    offset = 0
    while True:
        for event in events:
            yield {**event, key: event[key] + offset} if key in event else dict(event)
        offset += span


def enlarge_profile(source: Path, target: Path, size: int) -> int:
    """Repeats the events of a profiler trace up to ``size`` bytes, and returns how many there are."""
    data = json.loads(gzip.decompress(source.read_bytes()))
    events = [event for event in data.pop("traceEvents") if "ts" in event]
    count = written = 0
    with target.open("w") as file:
        file.write(json.dumps(data)[:-1] + ', "traceEvents": [\n')
        for event in repeated(events, "ts"):
            written += file.write((",\n" if count else "") + json.dumps(event))
            count += 1
            if written >= size:
                break
        file.write("\n]}")
    return count


def enlarge_snapshot(source: Path, target: Path, size: int) -> int:
    """Repeats the history of a snapshot up to about ``size`` bytes, and returns how many events there are."""
    content = source.read_bytes()
    snapshot = pickle.loads(content)  # Made by `record`.
    (history,) = (trace for trace in snapshot["device_traces"] if trace)
    events = repeated(tuple(history), "time_us")
    # Texts and frames are written once: what events take shows in how much more a history takes that repeats them.
    count, sizes = len(history), []
    for _ in range(2):
        sizes.append(len(pickle.dumps(snapshot)))
        history.extend(islice(events, count))
    each = (sizes[1] - sizes[0]) / count
    history.extend(islice(events, max(0, round((size - sizes[1]) / each) - count)))
    with target.open("wb") as file:
        pickle.dump(snapshot, file)
    return len(history)


def main() -> None:
    """Prints a line for each kind of trace."""
    parser = argparse.ArgumentParser(description="Measures memlint verify --trace on large traces.")
    parser.add_argument("--megabytes", type=int, default=500, help="size of each trace")
    parser.add_argument("--recorded", type=Path, help="a --trace-dir of examples/hazards.py, instead of a new run")
    options = parser.parse_args()
    size = options.megabytes * 10**6
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        small = options.recorded or folder / "small"
        if options.recorded is None:
            record(small)
        print("trace                 MB     events  processor time    peak memory")
        for kind, pattern, enlarge in (
            ("profiler trace", "*.json.gz", enlarge_profile),
            ("snapshot", "*.pickle", enlarge_snapshot),
        ):
            large = folder / f"large{Path(pattern.removesuffix('.gz')).suffix}"
            # In a process of its own: one that it starts afterwards would inherit how much memory it has had.
            with ProcessPoolExecutor(1, get_context("spawn")) as process:
                events = process.submit(enlarge, next(small.glob(pattern)), large, size).result()
            used = usage([sys.executable, *MEMLINT, "verify", "--isolated", SCRIPT, "--trace", large], SCRIPT.parent)
            megabytes = large.stat().st_size / 10**6
            print(f"{kind:16}{megabytes:8.0f}{events:11,}{used.cpu:14.1f} s{used.peak:11.0f} MiB", flush=True)
            large.unlink()


if __name__ == "__main__":
    main()
