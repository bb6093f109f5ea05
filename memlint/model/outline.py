"""What the text of a file shows of its code without being parsed: which names it uses, imports and calls."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from typing import NamedTuple

# A pattern is found much faster if it, or each of its alternatives, begins with a character instead of ^, \b or a
# repetition: hence the line feeds, and the words that look back at where they begin.
_LONG_STRING = rb"""
    \"\"\"[^"\\]*(?:(?:\\.|"(?!""))[^"\\]*)*\"\"\"
    | \'\'\'[^'\\]*(?:(?:\\.|'(?!''))[^'\\]*)*\'\'\'
"""
_COMMENT = rb"\#[^\r\n]*"
_STRING = rb"""
    "[^"\\\r\n]*(?:\\.[^"\\\r\n]*)*"
    | '[^'\\\r\n]*(?:\\.[^'\\\r\n]*)*'
"""
_TEXT = re.compile(_LONG_STRING + rb"|" + _COMMENT + rb"|" + _STRING, re.DOTALL | re.VERBOSE)
"""Docstrings, comments, and what else is quoted."""
_CODE = re.compile(
    _LONG_STRING + rb"|" + _COMMENT + rb"""| ((?: [^"'\#]+ | (?!\"\"\"|\'\'\')(?:""" + _STRING + rb"))+)",
    re.DOTALL | re.VERBOSE,
)
"""In the group, code with its strings, in which apostrophes and # mean nothing; outside, docstrings and comments."""
_NAME = rb"(?<![\w\x80-\xff])(?:[^\W\d]|[\x80-\xff])[\w\x80-\xff]*"
"""An identifier; the bytes of other alphabets are letters."""
_DEF, _CLASS = rb"def(?<=\bdef)", rb"class(?<=\bclass)"
_IMPORT = re.compile(rb"\n[ \t]*(from[ \t]+[\w.]+[ \t]+import[ \t]*(?:\([^)]*\)|[^\r\n]*)|import[ \t][^\r\n]*)")
_BASES = re.compile(_CLASS + rb"[ \t]+" + _NAME + rb"[ \t]*\(([^:]*)\)[ \t]*:")
_HEAD = re.compile(rb"(?:" + _DEF + rb"|" + _CLASS + rb")[ \t]+" + _NAME)
# Read from its end, a text shows calls by their brackets: much faster to find than names that a bracket follows.
_CALLED_BACKWARDS = re.compile(rb"\([ \t]*([\w\x80-\xff]+)(\.?)")
_INIT_BACKWARDS = re.compile(rb"__tini__\.([\w\x80-\xff]+)")
_IMPORTED_AS = re.compile(rb"(" + _NAME + rb")[ \t]+as[ \t]")
_ASSIGNED_AS = re.compile(rb"\n[ \t]*\w+[ \t]*=[ \t]*(?:\w+\.)*(" + _NAME + rb")[ \t]*\r?$", re.MULTILINE)
_SEPARATED = bytes(
    byte if chr(byte).isalnum() or byte == ord("_") or byte >= 0x80 else ord(" ")  # bytes of other alphabets: letters
    for byte in range(256)
)
_DIGITS = tuple(b"0123456789")


class Outline(NamedTuple):
    """The names in the code of a file, without docstrings, comments, and the names that it defines itself."""

    used: frozenset[str]
    """Names outside of imports; those in strings count, since annotations may be quoted."""
    called: frozenset[str]
    """``f`` of ``f(...)``, and what an import or an assignment gives another name."""
    called_on: frozenset[str]
    """``m`` of ``x.m(...)``, and what is given another name."""
    initialized: frozenset[str]
    """What classes are derived from, and ``C`` of ``C.__init__``."""
    imported: frozenset[str]
    """What stands in import statements: parts of the names of modules, and what is imported from them."""
    imports_all: bool
    """Whether there is a ``from m import *``."""


def outline(data: bytes, *, is_package: bool) -> Outline:
    """The outline of a file that holds ``data``; strings of an ``__init__.py`` are tables of names, no annotations."""
    bare = b"\n" + b" ".join(_TEXT.split(data) if is_package else filter(None, _CODE.findall(data)))
    parts = _IMPORT.split(bare)
    imports = b"\n".join(parts[1::2])
    code = _HEAD.sub(b" ", b"\n".join(parts[::2]))
    calls = {(name[::-1], bool(dot)) for name, dot in set(_CALLED_BACKWARDS.findall(code[::-1]))}
    renamed = (*_IMPORTED_AS.findall(imports), *_ASSIGNED_AS.findall(code))
    return Outline(
        _names(words(code)),
        _names([*(name for name, dotted in calls if not dotted), *renamed]),
        _names([*(name for name, dotted in calls if dotted), *renamed]),
        _names([*words(b" ".join(_BASES.findall(bare))), *_initialized(bare)]),
        _names(words(imports)),
        b"*" in imports,
    )


def defines(data: bytes, name: str) -> bool:
    """Whether a file that holds ``data`` has a function of that name."""
    return re.search(_DEF + rb"\s+" + name.encode() + rb"\b", data) is not None


def words(data: bytes) -> set[bytes]:
    """The identifiers, keywords and numbers in source text, those in strings and comments included."""
    return set(data.translate(_SEPARATED).split())


def _initialized(code: bytes) -> Iterator[bytes]:
    """``C`` of each ``C.__init__``."""
    backwards = code[::-1]
    for match in _INIT_BACKWARDS.finditer(backwards):
        if not words(backwards[match.start() - 1 : match.start()] if match.start() else b""):
            yield match[1][::-1]


def _names(found: Iterable[bytes]) -> frozenset[str]:
    """The identifiers among ``found``: what starts with a digit is none."""
    # The same names stand in many files; each is kept once.
    return frozenset(sys.intern(word.decode("utf-8", "replace")) for word in set(found) if word[0] not in _DIGITS)
