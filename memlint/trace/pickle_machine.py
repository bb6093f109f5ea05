"""Decodes plain pickles opcode by opcode, so that what is complete can be taken away before the rest is read.

The unpickler of the standard library keeps every object to the end of the file. A memory snapshot is a list of
millions of dicts; here each bundle of items that is to be added to a list is offered to the caller first, and
forgotten if the caller takes it.

For files whose opcodes :mod:`memlint.trace.safe_pickle` has read before: others are not known here.
"""

from __future__ import annotations

import mmap
import pickle
import struct
from collections.abc import Callable
from typing import Any

Taker = Callable[[list[Any], list[Any]], bool]
"""Gets a list and what is to be added to its end, and says whether it has taken that over."""

_CHUNK = 1 << 20
_LONGEST = 512
"""More bytes than any opcode with its argument takes, long strings apart."""
_DOUBLE = struct.Struct(">d").unpack_from


class PickleMachine:
    """The stack, the memo and the place in one file."""

    def __init__(self, data: mmap.mmap, taker: Taker) -> None:
        self._data = data
        self._taker = taker
        self._stack: list[Any] = []
        self._marks: list[int] = []
        """Heights of the stack."""
        self._memo: list[Any] = []
        self._dicts: dict[int, int] = {}
        """The places in the memo of the latest dicts, by identity."""
        self._start = 0
        """Where in the file the chunk begins."""
        self._chunk = b""

    def load(self) -> object:
        """The object in the file, without what was taken. Raises whatever broken data may lead to."""
        if self._data[1] > pickle.HIGHEST_PROTOCOL:
            raise pickle.UnpicklingError(f"unknown protocol {self._data[1]}")
        return self._run(self._read(2, _CHUNK))

    def _run(self, position: int) -> object:
        stack, memo, rare = self._stack, self._memo, self._rare()
        push = stack.append
        while True:
            chunk = self._chunk
            end = len(chunk) - _LONGEST
            while position < end:
                opcode = chunk[position]
                if opcode == _BINGET:
                    push(memo[chunk[position + 1]])
                    position += 2
                elif opcode == _LONG_BINGET:
                    push(memo[int.from_bytes(chunk[position + 1 : position + 5], "little")])
                    position += 5
                elif opcode == _LONG1:
                    following = position + 2 + chunk[position + 1]
                    push(int.from_bytes(chunk[position + 2 : following], "little", signed=True))
                    position = following
                elif opcode == _BININT:
                    push(int.from_bytes(chunk[position + 1 : position + 5], "little", signed=True))
                    position += 5
                elif opcode == _STOP:
                    (value,) = stack
                    return value
                else:
                    position = rare[opcode](position + 1)
                    if chunk is not self._chunk:
                        break
            else:
                position = self._read(position, _CHUNK)

    def _read(self, position: int, size: int) -> int:
        """Begin a chunk at a place in the current one; the place in the new chunk. Zeros follow the end of the file."""
        self._start += position
        if hasattr(mmap, "MADV_DONTNEED") and self._start:
            # What has been read would count as memory in use until the file is closed.
            self._data.madvise(mmap.MADV_DONTNEED, 0, self._start // mmap.PAGESIZE * mmap.PAGESIZE)
        chunk = self._data[self._start : self._start + size]
        if self._start >= len(self._data):
            raise pickle.UnpicklingError("it ends without an object")
        self._chunk = chunk if len(chunk) == size else chunk + bytes(_LONGEST)
        return 0

    def _rare(self) -> dict[int, Callable[[int], int]]:
        """What to do for the other opcodes, with the place behind the opcode; each says where the next one is."""
        return {
            0x28: self._mark,
            0x29: self._constant(()),
            0x47: self._float,
            0x4B: self._byte,
            0x4D: self._two_bytes,
            0x4E: self._constant(None),
            0x58: self._long_text,
            0x5D: self._empty_list,
            0x61: self._append,
            0x65: self._appends,
            0x71: self._put,
            0x72: self._long_put,
            0x73: self._set_item,
            0x75: self._set_items,
            0x7D: self._empty_dict,
            0x86: self._pair,
            0x88: self._constant(True),
            0x89: self._constant(False),
            0x8C: self._text,
            0x94: self._memoize,
            0x95: self._frame,
        }

    # Values

    def _constant(self, value: object) -> Callable[[int], int]:
        def push(position: int) -> int:
            self._stack.append(value)
            return position

        return push

    def _byte(self, position: int) -> int:
        self._stack.append(self._chunk[position])
        return position + 1

    def _two_bytes(self, position: int) -> int:
        self._stack.append(self._unsigned(position, 2))
        return position + 2

    def _float(self, position: int) -> int:
        self._stack.append(_DOUBLE(self._chunk, position)[0])
        return position + 8

    def _text(self, position: int) -> int:
        return self._text_of(position + 1, self._chunk[position])

    def _long_text(self, position: int) -> int:
        return self._text_of(position + 4, self._unsigned(position))

    def _text_of(self, position: int, size: int) -> int:
        if position + size > len(self._chunk):
            position = self._read(position, max(size + _LONGEST, _CHUNK))
        self._stack.append(self._chunk[position : position + size].decode("utf-8", "surrogatepass"))
        return position + size

    def _pair(self, position: int) -> int:
        second = self._stack.pop()
        self._stack[-1] = (self._stack[-1], second)
        return position

    def _frame(self, position: int) -> int:
        if self._start + position + 8 + self._unsigned(position, 8) > len(self._data):
            raise pickle.UnpicklingError("a frame exceeds the file")
        return position + 8

    def _unsigned(self, position: int, width: int = 4) -> int:
        return int.from_bytes(self._chunk[position : position + width], "little")

    # The memo

    def _memoize(self, position: int) -> int:
        self._remember(len(self._memo))
        return position

    def _put(self, position: int) -> int:
        self._remember(self._chunk[position])
        return position + 1

    def _long_put(self, position: int) -> int:
        self._remember(self._unsigned(position))
        return position + 4

    def _remember(self, place: int) -> None:
        value = self._stack[-1]
        if type(value) is dict:
            self._dicts[id(value)] = place
        if place == len(self._memo):
            self._memo.append(value)
            return
        # No writer leaves places out.
        if place > len(self._memo):
            raise pickle.UnpicklingError(f"place {place} of the memo comes before {len(self._memo)}")
        self._memo[place] = value

    # Containers

    def _mark(self, position: int) -> int:
        self._marks.append(len(self._stack))
        return position

    def _empty_dict(self, position: int) -> int:
        self._stack.append({})
        return position

    def _empty_list(self, position: int) -> int:
        self._stack.append([])
        return position

    def _append(self, position: int) -> int:
        item = self._stack.pop()
        self._extend([item])
        return position

    def _appends(self, position: int) -> int:
        self._extend(self._since_mark())
        return position

    def _set_item(self, position: int) -> int:
        value, key = self._stack.pop(), self._stack.pop()
        self._stack[-1].update({key: value})
        return position

    def _set_items(self, position: int) -> int:
        items = self._since_mark()
        self._stack[-1].update(zip(items[::2], items[1::2], strict=True))
        return position

    def _since_mark(self) -> list[Any]:
        height = self._marks.pop()
        items = self._stack[height:]
        del self._stack[height:]
        return items

    def _extend(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is not list:
            raise pickle.UnpicklingError(f"items are added to a {type(target).__name__}")
        if not self._taker(target, items):
            target += items
            return
        for item in items:
            place = self._dicts.get(id(item))
            if place is not None and self._memo[place] is item:
                self._memo[place] = None
        self._dicts.clear()


_BINGET, _LONG_BINGET, _LONG1, _BININT, _STOP = 0x68, 0x6A, 0x8A, 0x4A, 0x2E
