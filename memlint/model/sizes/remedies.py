"""What makes a step smaller, in the order in which to try it."""

from __future__ import annotations

from collections.abc import Iterator

from memlint.model.sizes.peak import smaller_batch
from memlint.model.sizes.reading import Reading

_SMALL_STATE = 4
"""Bytes of state for each parameter below which no other optimizer helps much."""


def remedies(reading: Reading, usable: int) -> Iterator[str]:
    """The changes that this program has not made, what costs least first, for a device of ``usable`` bytes."""
    facts, batch = reading.facts, reading.value("batch")
    if isinstance(batch, int) and batch > 1:
        smaller = smaller_batch(reading, usable) or 1
        yield f"micro-batches of {smaller} accumulated over {-(-batch // smaller)}"
    if "precision" not in facts and "parameters dtype" not in facts:
        yield "autocast to bfloat16"
    yield "what MEM110, MEM403 and MEM504 find"
    if "checkpointing" not in facts:
        yield "activation checkpointing"
    if (reading.value("optimizer state") or 0) > _SMALL_STATE:
        yield "an optimizer with 8-bit states or Adafactor"
    if "adapter" not in facts:
        yield "adapters"
    if "sharding" not in facts:
        yield "sharding or offloading"
    yield "a larger GPU"
