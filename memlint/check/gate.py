"""The gate: which rules can fire in a file, decided from its bytes alone, before anything is parsed."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence

from memlint.rule import Rule


def rules_that_can_fire(data: bytes, rules: Sequence[Rule]) -> tuple[Rule, ...]:
    """The rules with at least one of their gate's identifiers, as a whole identifier, in ``data``.

    ``data`` is source text in an encoding that has ASCII as a part of it. A rule without identifiers passes always.
    """
    pattern, identifiers = _compiled(frozenset(identifier for rule in rules for identifier in rule.gate))
    present = {identifiers[found] for found in set(pattern.findall(data))}
    return tuple(rule for rule in rules if not rule.gate or not rule.gate.isdisjoint(present))


@functools.lru_cache(maxsize=256)
def _compiled(identifiers: frozenset[str]) -> tuple[re.Pattern[bytes], dict[bytes, str]]:
    by_bytes = {identifier.encode(): identifier for identifier in identifiers}
    alternatives = b"|".join(re.escape(identifier) for identifier in sorted(by_bytes)) or rb"(?!)"
    # \b takes bytes of other alphabets for borders: it may let a file through for nothing, but never hides one.
    return re.compile(rb"\b(?:" + alternatives + rb")\b"), by_bytes
