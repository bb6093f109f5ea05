"""Pickles from strangers: plain data only, and no more of it than the file is long.

A memory snapshot is made of dicts, lists, strings, numbers and pairs of integers. Whatever else a pickle can do is
refused before it is loaded, by reading its opcodes: no names are looked up, nothing is called, nothing is built.
What is left cannot execute anything, but it could still exhaust the memory or the C stack, so that three more
things are refused:

* empty containers in numbers that no snapshot has: a byte of pickle makes a dict of 64 bytes;
* memo indices beyond the end of the file: the unpickler makes room for all indices up to the one it is given;
* tuples of anything but integers: a tuple nested a hundred thousand deep overflows the C stack when it is hashed.

The opcodes are those that PyTorch's own snapshot viewer reads (``unpickle`` in ``torch/utils/viz/MemoryViz.js``),
less what would allow the three things above. Both of PyTorch's writers (``pickle.dump`` and the C++ ``Pickler``) use
no other.
"""

from __future__ import annotations

import mmap
import pickle
import pickletools
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from memlint.trace.errors import TraceError
from memlint.trace.pickle_machine import PickleMachine, Taker

MAX_BYTES = 4 << 30
"""The largest file that is loaded. What is loaded in one piece takes about eight times its size on disk."""

_BYTES_PER_CONTAINER = 8
"""A snapshot spends more than this on each dict and list: its smallest, an event without a stack, takes 25."""
_SPARE_CONTAINERS = 4096
"""So many containers are never too many."""

_INTEGER = (
    rb"(?:K.|M..|J.{4}|\x8a(?:\x00|\x01.|\x02.{2}|\x03.{3}|\x04.{4}|\x05.{5}|\x06.{6}|\x07.{7}|\x08.{8}|\x09.{9}))"
)
_PLAIN = re.compile(
    rb"(?:"
    rb"[(}\]ueas\x94)\x88\x89N]"  # marks, containers and what fills them, memo, True, False, None
    rb"|h.|j.{4}|q."  # a look into the memo, and a note into one of its first 256 places
    rb"|" + _INTEGER + rb"(?:" + _INTEGER + rb"\x86)?"  # an integer, or a pair of them
    rb"|G.{8}|\x95.{8}"  # a float, a frame
    # The bound keeps the matcher's own memory small: it remembers every repetition.
    rb"){1,1000}",
    re.DOTALL,
)
_NAMES = {opcode.code: opcode.name for opcode in pickletools.opcodes}
_LOOKUPS = frozenset({"GLOBAL", "STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "REDUCE", "BUILD"}) | frozenset(
    {"EXT1", "EXT2", "EXT4", "PERSID", "BINPERSID"}
)
"""The opcodes that name, call or build Python objects."""


class _PlainUnpickler(pickle.Unpickler):
    """The second lock on the door: the opcodes have been read already."""

    def find_class(self, module_name: str, global_name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"it refers to {module_name}.{global_name}")

    def persistent_load(self, pid: Any) -> NoReturn:
        raise pickle.UnpicklingError(f"it refers to an object outside the file ({pid!r:.40})")


def load_plain(path: Path, taker: Taker | None = None) -> object:
    """The data in the pickle at ``path``: dicts, lists, strings, numbers, booleans, None and pairs of integers.

    ``taker`` may take over what is to be added to a list, which then stays without; it is held nowhere else, so that
    reading takes less memory than the data. Nothing in the file is executed. Raises :class:`TraceError` for a file
    that cannot be read, is cut short, holds anything else or would take more memory than its size accounts for.
    """
    with _mapped(path) as data:
        _check(path, data)
        try:
            return _PlainUnpickler(data).load() if taker is None else PickleMachine(data, taker).load()
        # Broken data surfaces as nearly any exception: a list popped too often, a key that cannot be hashed.
        except TraceError:
            raise
        except Exception as error:
            raise TraceError(f"{path}: not a readable pickle ({_one_line(error)})") from error


@contextmanager
def _mapped(path: Path) -> Iterator[mmap.mmap]:
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            if size == 0:
                raise TraceError(f"{path}: the file is empty")
            if size > MAX_BYTES:
                raise TraceError(
                    f"{path}: {size / (1 << 30):.1f} GiB is too large for a snapshot; record with a smaller max_entries"
                )
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                yield data
    except OSError as error:
        raise TraceError(f"{path}: {error.strerror or error}") from error


def _check(path: Path, data: mmap.mmap) -> None:
    """Read all opcodes up to STOP and refuse what a snapshot does not need."""
    size = len(data)
    position = _after_protocol(path, data)
    containers = 0
    while True:
        plain = _PLAIN.match(data, position)
        if plain is not None:
            run = plain[0]
            # Counts argument bytes of the same value too; they are far too few to matter.
            containers += run.count(b"}") + run.count(b"]")
            position = plain.end()
            if containers > _SPARE_CONTAINERS + size // _BYTES_PER_CONTAINER:
                raise TraceError(f"{path}: refused, it holds more empty containers than any memory snapshot")
            continue
        opcode = data[position : position + 1]
        if opcode == b".":
            return
        position = _after_special(path, data, position, opcode)


def _after_protocol(path: Path, data: mmap.mmap) -> int:
    if data[:1] != b"\x80":
        raise TraceError(f"{path}: neither a memory snapshot (pickle protocol 2 or later) nor a profiler trace (JSON)")
    return 2


def _after_special(path: Path, data: mmap.mmap, position: int, opcode: bytes) -> int:
    """The end of a string or of a memo note, the only opcodes whose arguments have to be looked at."""
    end = position
    if opcode == b"\x8c":
        end = position + 2 + _number(data, position + 1, 1)
    elif opcode == b"X":
        end = position + 5 + _number(data, position + 1, 4)
    elif opcode == b"r":
        end = position + 5
        if _number(data, position + 1, 4) > len(data):
            raise TraceError(f"{path}: refused, byte {position} asks for more memory than the file accounts for")
    if end > len(data) or position >= len(data):
        raise TraceError(f"{path}: the file is cut short, it ends after {len(data)} bytes")
    if end == position:
        _refuse(path, data, position, opcode)
    return end


def _number(data: mmap.mmap, start: int, width: int) -> int:
    return int.from_bytes(data[start : start + width], "little")


def _refuse(path: Path, data: mmap.mmap, position: int, opcode: bytes) -> NoReturn:
    name = _NAMES.get(opcode.decode("latin-1"))
    if name is None:
        raise TraceError(f"{path}: not a pickle (unknown opcode {opcode[0]:#04x} at byte {position})")
    if name in _LOOKUPS:
        raise TraceError(
            f"{path}: refused, it wants to load or call Python objects ({name} at byte {position});"
            " a memory snapshot holds plain data only"
        )
    if len(data) - position < 16:
        raise TraceError(f"{path}: the file is cut short, it ends after {len(data)} bytes")
    raise TraceError(f"{path}: refused, no memory snapshot uses the pickle opcode {name} (byte {position})")


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
