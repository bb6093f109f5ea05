"""Suggestions for names that nobody knows."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``; did you mean "..."?`` with the known name nearest to ``word``, or nothing if none is near."""
    folded = {name.casefold(): name for name in known}
    nearest = difflib.get_close_matches(word.casefold(), folded, n=1, cutoff=0.6)
    return f'; did you mean "{folded[nearest[0]]}"?' if nearest else ""
