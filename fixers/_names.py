"""Names that fixers give to what they add."""

from __future__ import annotations

import re
from itertools import count

from memlint.source import Source


def free_name(source: Source, name: str) -> str:
    """``name``, with a number behind it if the file has that word already."""
    names = (name if number == 1 else f"{name}_{number}" for number in count(1))
    return next(each for each in names if not re.search(rf"\b{each}\b", source.text))
