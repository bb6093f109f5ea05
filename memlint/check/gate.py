"""The gate: which rules can fire in a file, decided from its bytes alone, before anything is parsed."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from memlint.rule import Rule

_SEPARATED = bytes(
    byte if chr(byte).isascii() and (chr(byte).isalnum() or chr(byte) == "_") else ord(" ") for byte in range(256)
)
"""Turns into blanks what is no part of an identifier in ASCII."""


def rules_that_can_fire(data: bytes, rules: Sequence[Rule]) -> tuple[Rule, ...]:
    """The rules with at least one of their gate's identifiers, as a whole identifier, in ``data``.

    ``data`` is source text in an encoding that has ASCII as a part of it. A rule without identifiers passes always.
    """
    # Bytes of other alphabets count as borders: that may let a file through for nothing, but never hides one.
    present = set(data.translate(_SEPARATED).split())
    return tuple(rule for rule in rules if not rule.gate or not _encoded(rule.gate).isdisjoint(present))


@functools.lru_cache(maxsize=1024)
def _encoded(identifiers: frozenset[str]) -> frozenset[bytes]:
    return frozenset(identifier.encode() for identifier in identifiers)
