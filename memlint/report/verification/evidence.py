"""What a verdict rests on, as people read it."""

from __future__ import annotations

from pathlib import Path

from memlint.config import shown
from memlint.verify.verdicts import Judged


def evidence(each: Judged) -> str:
    """What was seen, and where the memory was allocated, if that is elsewhere."""
    where = each.ruling.where
    own = f"{each.diagnostic.path}:{each.diagnostic.location.row}"
    if where is None or where == own:
        return each.ruling.evidence
    path, _, row = where.rpartition(":")
    return f"{each.ruling.evidence}; allocated in {shown(Path(path))}:{row}"
