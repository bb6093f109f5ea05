"""The local names of a running function, without keeping what they name alive.

``frame.f_locals`` of Python 3.12 is a copy that stays with the frame: what is rebound or deleted after one look would
live until the next one. Later releases look names up where they are, and earlier ones bring the copy up to date
on each line while a trace function is there.
"""

from __future__ import annotations

import ctypes
import inspect
import sys
import types
from collections.abc import Mapping
from typing import Any

_HAS_LASTING_COPIES = sys.version_info[:2] == (3, 12)


def local_names(frame: types.FrameType) -> Mapping[str, Any]:
    """What ``eval`` looks names up in, once; names without a value raise KeyError."""
    if _HAS_LASTING_COPIES and frame.f_code.co_flags & inspect.CO_OPTIMIZED:
        return _Variables(frame)
    return frame.f_locals


class _Variables(dict[str, Any]):
    """A dict, since ``eval`` of some releases takes nothing else; it stays empty."""

    def __init__(self, frame: types.FrameType) -> None:
        super().__init__()
        self._frame = frame

    def __missing__(self, name: str) -> Any:
        try:
            return _variable(self._frame, name.encode())
        except NameError as error:
            raise KeyError(name) from error


def _variable(frame: types.FrameType, name: bytes) -> Any:
    function = ctypes.pythonapi.PyFrame_GetVarString
    function.argtypes = [ctypes.py_object, ctypes.c_char_p]
    function.restype = ctypes.py_object
    return function(frame, name)
