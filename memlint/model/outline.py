"""What the text of a file shows of its code without being parsed: which names it uses, imports and calls."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass

_TEXT = re.compile(
    rb"""
      "{3}[^"\\]*(?:(?:\\.|"(?!""))[^"\\]*)*"{3}
    | '{3}[^'\\]*(?:(?:\\.|'(?!''))[^'\\]*)*'{3}
    | \#[^\r\n]*
    | ("[^"\\\r\n]*(?:\\.[^"\\\r\n]*)*"|'[^'\\\r\n]*(?:\\.[^'\\\r\n]*)*')
    """,
    re.DOTALL | re.VERBOSE,
)
"""Docstrings and comments, and in the group what else is quoted, in which an apostrophe or a # means nothing."""
_NAME = rb"(?<![\w\x80-\xff])(?:[^\W\d]|[\x80-\xff])[\w\x80-\xff]*"
"""An identifier; the bytes of other alphabets are letters."""
_IMPORT = re.compile(
    rb"^[ \t]*(?:from[ \t]+[\w.]+[ \t]+import[ \t]*(?:\([^)]*\)|[^\r\n]*)|import[ \t][^\r\n]*)", re.MULTILINE
)
_BASES = re.compile(rb"\bclass[ \t]+" + _NAME + rb"[ \t]*\(([^:]*)\)[ \t]*:|(" + _NAME + rb")\.__init__\b")
_HEAD = re.compile(rb"\b(?:def|class)[ \t]+" + _NAME)
_CALLED = re.compile(rb"(\.?)(" + _NAME + rb")[ \t]*\(")
_IMPORTED_AS = re.compile(rb"(" + _NAME + rb")[ \t]+as[ \t]")
_ASSIGNED_AS = re.compile(rb"^[ \t]*\w+[ \t]*=[ \t]*(?:\w+\.)*(" + _NAME + rb")[ \t]*\r?$", re.MULTILINE)
_WORD = re.compile(_NAME)


@dataclass(frozen=True)
class Outline:
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
    bare = _TEXT.sub(b" " if is_package else rb"\1 ", data)
    imports = b"\n".join(_IMPORT.findall(bare))
    code = _HEAD.sub(b" ", _IMPORT.sub(b" ", bare))
    calls = set(_CALLED.findall(code))
    renamed = (*_IMPORTED_AS.findall(imports), *_ASSIGNED_AS.findall(code))
    return Outline(
        _names(_WORD.findall(code)),
        _names([*(name for before, name in calls if not before), *renamed]),
        _names([*(name for before, name in calls if before), *renamed]),
        _names(_WORD.findall(b" ".join(base or named for base, named in _BASES.findall(bare)))),
        _names(_WORD.findall(imports)),
        b"*" in imports,
    )


def _names(found: list[bytes]) -> frozenset[str]:
    # The same names stand in many files; each is kept once.
    return frozenset(sys.intern(word.decode("utf-8", "replace")) for word in set(found))
