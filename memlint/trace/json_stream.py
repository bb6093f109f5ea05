"""The events of a profiler trace, one at a time: a trace of 500 MB is read with a buffer of a few."""

from __future__ import annotations

import codecs
import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from memlint.trace.errors import TraceError

_CHUNK = 1 << 20
_LARGEST_VALUE = 64 << 20
"""Characters of one event, or of one entry of the top level; a real one has a few hundred."""
_NEAR_END = 16
"""An error so close to the end of the buffer may be a number, a literal or an escape that is only cut off."""
_SPACE = " \t\n\r"


class EventStream:
    """Iterates over ``traceEvents``; when that is done, ``metadata`` holds the other entries of the top level."""

    def __init__(self, path: Path) -> None:
        self.metadata: dict[str, Any] = {}
        self._path = path
        # Profilers write Windows paths and kernel names with control characters in them.
        self._decoder = json.JSONDecoder(strict=False)
        self._text = ""
        self._position = 0
        self._ended = False
        self._count = 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """The events in the file's order; entries that are not objects are left out. Raises :class:`TraceError`."""
        try:
            with _opened(self._path) as self._file:
                self._utf8 = codecs.getincrementaldecoder("utf-8-sig")(errors="replace")
                yield from self._document()
        except (OSError, EOFError, zlib.error) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise TraceError(f"{self._path}: {reason}") from error

    def _document(self) -> Iterator[dict[str, Any]]:
        match self._peek():
            case "[":
                # The plain array of Chrome's format, whose closing bracket may be missing.
                yield from self._events(may_end=True)
            case "{":
                yield from self._members()
            case "":
                raise TraceError(f"{self._path}: the file is empty")
            case _:
                raise TraceError(f"{self._path}: not a profiler trace (it is not JSON)")

    def _members(self) -> Iterator[dict[str, Any]]:
        found = False
        self._position += 1
        while self._peek() != "}":
            key = self._value()
            self._expect(":")
            if key == "traceEvents" and self._peek() == "[":
                found = True
                yield from self._events(may_end=False)
            else:
                self.metadata[str(key)] = self._value()
            if self._peek() != "}":
                self._expect(",")
        if not found:
            raise TraceError(f"{self._path}: not a profiler trace (it has no traceEvents)")

    def _events(self, *, may_end: bool) -> Iterator[dict[str, Any]]:
        self._position += 1
        while True:
            following = self._peek()
            if following == "]":
                self._position += 1
                return
            if following == "" and may_end:
                return
            event = self._value()
            self._count += 1
            if isinstance(event, dict):
                yield event
            if self._peek() == ",":
                self._position += 1
            elif self._peek() not in ("]", ""):
                raise self._malformed()

    # Characters and values

    def _peek(self) -> str:
        """The next character that is not white space; empty at the end of the file."""
        while True:
            while self._position < len(self._text) and self._text[self._position] in _SPACE:
                self._position += 1
            if self._position < len(self._text):
                return self._text[self._position]
            if not self._refill():
                return ""

    def _expect(self, character: str) -> None:
        if self._peek() != character:
            raise self._malformed()
        self._position += 1

    def _value(self) -> Any:
        if self._peek() == "":
            raise self._cut_short()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._position)
            except json.JSONDecodeError as error:
                cut = error.pos >= len(self._text) - _NEAR_END or error.msg.startswith("Unterminated string")
                if not cut:
                    raise self._malformed() from error
            except (RecursionError, ValueError) as error:
                raise self._malformed() from error
            else:
                # A number that touches the end of the buffer may go on behind it.
                if end < len(self._text) or self._ended:
                    self._position = end
                    return value
            if len(self._text) - self._position > _LARGEST_VALUE:
                raise self._malformed()
            if not self._refill():
                raise self._cut_short()

    def _refill(self) -> bool:
        """Read on, dropping what has been used; False at the end of the file."""
        if self._ended:
            return False
        data = self._file.read(_CHUNK)
        self._ended = not data
        self._text = self._text[self._position :] + self._utf8.decode(data, final=self._ended)
        self._position = 0
        return True

    def _cut_short(self) -> TraceError:
        return TraceError(f"{self._path}: the file is cut short, it ends after {self._count:,} events")

    def _malformed(self) -> TraceError:
        excerpt = " ".join(self._text[self._position : self._position + 40].split())
        if self._ended and not excerpt:
            return self._cut_short()
        return TraceError(f"{self._path}: malformed JSON after {self._count:,} events, near {excerpt!r}")


def _opened(path: Path) -> BinaryIO:
    with path.open("rb") as file:
        compressed = file.read(2) == b"\x1f\x8b"
    return cast(BinaryIO, gzip.open(path, "rb")) if compressed else path.open("rb")
