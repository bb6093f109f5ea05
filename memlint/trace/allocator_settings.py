"""Constants, options and size rounding of the CUDA caching allocator.

Sources: ``c10/core/AllocatorConfig.h`` of torch 2.13 (the constants), ``c10/core/AllocatorConfig.cpp`` (the syntax of
``PYTORCH_ALLOC_CONF``) and ``c10/cuda/CUDACachingAllocator.cpp`` (``round_size``, ``get_allocation_size``,
``should_split``) at pytorch commit 001074d2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

MIB = 1 << 20

MIN_BLOCK_SIZE = 512
"""Every block is a multiple of this (``kMinBlockSize``)."""
SMALL_SIZE = 1 * MIB
"""The largest allocation of the small pool (``kSmallSize``)."""
SMALL_BUFFER = 2 * MIB
"""The size of every segment of the small pool (``kSmallBuffer``)."""
LARGE_BUFFER = 20 * MIB
"""The segment for allocations above 1 MiB and below 10 MiB (``large_segment_size_``, formerly ``kLargeBuffer``)."""
MIN_LARGE_ALLOCATION = 10 * MIB
"""From here on an allocation gets a segment of its own size (``kMinLargeAlloc``)."""
ROUND_LARGE = 2 * MIB
"""What that size is rounded up to (``kRoundLarge``)."""
ROUNDUP_INTERVALS = 16
"""``roundup_power2_divisions`` has an entry for each power of two from 1 MiB to 32 GiB."""


class InvalidSetting(ValueError):
    """An allocator option that PyTorch itself would refuse; the message is one line."""


@dataclass(frozen=True)
class AllocatorSettings:
    """The options of ``PYTORCH_ALLOC_CONF`` that change where a block goes or how large it is. Sizes are bytes."""

    expandable_segments: bool = False
    max_split_size: int | None = None
    """Blocks of this size or more are never split; None: every block may be."""
    max_non_split_rounding_size: int = LARGE_BUFFER
    """How much larger than asked for an unsplittable block may be."""
    garbage_collection_threshold: float = 0.0
    """The part of the memory that the process may use above which cached blocks are given back; 0: never. It has an
    effect only after ``torch.cuda.set_per_process_memory_fraction``."""
    roundup_power2_divisions: tuple[int, ...] = (0,) * ROUNDUP_INTERVALS
    large_segment_size: int = LARGE_BUFFER

    @classmethod
    def parse(cls, text: str) -> AllocatorSettings:
        """The settings that a value of ``PYTORCH_ALLOC_CONF`` asks for; options that move no block are passed over.

        Raises :class:`InvalidSetting`.
        """
        settings = cls()
        for key, value in _options(text):
            settings = settings._with_option(key, value)
        return settings

    def _with_option(self, key: str, value: str) -> AllocatorSettings:
        match key:
            case "expandable_segments":
                return replace(self, expandable_segments=_boolean(key, value))
            case "max_split_size_mb":
                return replace(self, max_split_size=_mebibytes(key, value))
            case "max_non_split_rounding_mb":
                return replace(self, max_non_split_rounding_size=_mebibytes(key, value))
            case "large_segment_size_mb":
                return replace(self, large_segment_size=_mebibytes(key, value))
            case "garbage_collection_threshold":
                return replace(self, garbage_collection_threshold=_fraction(key, value))
            case "roundup_power2_divisions":
                return replace(self, roundup_power2_divisions=_divisions(value))
        return self

    @classmethod
    def from_snapshot(cls, settings: Mapping[str, object]) -> AllocatorSettings:
        """The settings that a snapshot carries under ``allocator_settings``; what is missing keeps its default."""
        limit = settings.get("max_split_size")
        threshold = settings.get("garbage_collection_threshold")
        table = settings.get("roundup_power2_divisions")
        divisions = [0] * ROUNDUP_INTERVALS
        if isinstance(table, Mapping):
            for index in range(ROUNDUP_INTERVALS):
                entry = table.get(str(1 << index))
                divisions[index] = entry if isinstance(entry, int) else 0
        return cls(
            expandable_segments=settings.get("expandable_segments") is True,
            max_split_size=limit if isinstance(limit, int) and limit > 0 else None,
            garbage_collection_threshold=float(threshold) if isinstance(threshold, (int, float)) else 0.0,
            roundup_power2_divisions=tuple(divisions),
        )

    def to_snapshot(self) -> dict[str, object]:
        """The settings as a snapshot carries them."""
        return {
            "PYTORCH_CUDA_ALLOC_CONF": "",
            "max_split_size": -1 if self.max_split_size is None else self.max_split_size,
            "garbage_collection_threshold": self.garbage_collection_threshold,
            "expandable_segments": self.expandable_segments,
            "roundup_power2_divisions": {
                str(1 << index): count for index, count in enumerate(self.roundup_power2_divisions)
            },
        }

    def round_size(self, requested: int) -> int:
        """The smallest block that holds ``requested`` bytes: a multiple of 512, or of a division of a power of two."""
        if requested < MIN_BLOCK_SIZE:
            return MIN_BLOCK_SIZE
        interval = max(0, min(requested.bit_length() - 1 - 20, ROUNDUP_INTERVALS - 1))
        divisions = self.roundup_power2_divisions[interval]
        if divisions > 1 and requested > MIN_BLOCK_SIZE * divisions:
            return _round_to_division(requested, divisions)
        return round_up(requested, MIN_BLOCK_SIZE)

    def segment_size(self, rounded: int) -> int:
        """The segment that is reserved for a block of ``rounded`` bytes where no cached block fits."""
        if rounded <= SMALL_SIZE:
            return SMALL_BUFFER
        if rounded < MIN_LARGE_ALLOCATION:
            return self.large_segment_size
        return round_up(rounded, ROUND_LARGE)

    def splits(self, block: int, rounded: int, *, small: bool) -> bool:
        """Whether a free block of ``block`` bytes is split to hand out ``rounded`` of them.

        If not, the whole block counts as allocated: a 19 MiB tensor in a fresh 20 MiB segment takes 20 MiB.
        """
        if small or self.expandable_segments:
            return block - rounded >= MIN_BLOCK_SIZE
        return block - rounded > SMALL_SIZE and not self.is_oversize(rounded)

    def is_oversize(self, size: int) -> bool:
        """Whether a block of ``size`` bytes must not be split."""
        return self.max_split_size is not None and size >= self.max_split_size


def is_small(rounded: int) -> bool:
    """Whether a block of ``rounded`` bytes comes from the small pool."""
    return rounded <= SMALL_SIZE


def round_up(size: int, multiple: int) -> int:
    """The least multiple of ``multiple`` that is not below ``size``."""
    return -(-size // multiple) * multiple


def _round_to_division(size: int, divisions: int) -> int:
    power_of_two = 1 << (size.bit_length() - 1)
    return round_up(size, power_of_two >> (divisions.bit_length() - 1))


def _options(text: str) -> list[tuple[str, str]]:
    """``key:value`` pairs; a bracketed value keeps its commas."""
    options: list[tuple[str, str]] = []
    rest = "".join(text.split())
    while rest:
        key, colon, rest = rest.partition(":")
        if not colon:
            raise InvalidSetting(f"the allocator option {key!r} has no value")
        if rest.startswith("["):
            value, bracket, rest = rest.partition("]")
            if not bracket:
                raise InvalidSetting(f"the value of the allocator option {key!r} has no closing bracket")
            options.append((key, value[1:]))
            rest = rest.removeprefix(",")
        else:
            value, _, rest = rest.partition(",")
            options.append((key, value))
    return options


def _boolean(key: str, value: str) -> bool:
    if value not in ("True", "False"):
        raise InvalidSetting(f"the allocator option {key!r} takes True or False, not {value!r}")
    return value == "True"


def _mebibytes(key: str, value: str) -> int:
    # 20 MiB is the least that PyTorch accepts for each of these options.
    if not value.isdecimal() or int(value) * MIB < LARGE_BUFFER:
        raise InvalidSetting(f"the allocator option {key!r} takes a number of MiB, at least 20, not {value!r}")
    return int(value) * MIB


def _fraction(key: str, value: str) -> float:
    try:
        fraction = float(value)
    except ValueError:
        fraction = 0.0
    if not 0.0 < fraction < 1.0:
        raise InvalidSetting(f"the allocator option {key!r} takes a number between 0 and 1, not {value!r}")
    return fraction


def _divisions(value: str) -> tuple[int, ...]:
    """One number for every interval, or ``MiB:number`` pairs in which ``>`` stands for all larger intervals."""
    if ":" not in value:
        return (_power_of_two(value, zero=False),) * ROUNDUP_INTERVALS
    table = [0] * ROUNDUP_INTERVALS
    last = 0
    for position, pair in enumerate(value.split(",")):
        interval, _, number = pair.partition(":")
        count = _power_of_two(number, zero=True)
        if interval == ">":
            table[last + 1 :] = [count] * (ROUNDUP_INTERVALS - last - 1)
            continue
        last = min(_power_of_two(interval, zero=False).bit_length() - 1, ROUNDUP_INTERVALS - 1)
        if position == 0:
            table[:last] = [count] * last
        table[last] = count
    return tuple(table)


def _power_of_two(text: str, *, zero: bool) -> int:
    number = int(text) if text.isdecimal() else -1
    if number < 0 or number & (number - 1) or (number == 0 and not zero):
        raise InvalidSetting(f"roundup_power2_divisions takes powers of two, not {text!r}")
    return number
