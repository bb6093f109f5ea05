"""What the simulated allocator counts: the figures of ``torch.cuda.memory_stats()``, under the same names."""

from __future__ import annotations

from dataclasses import dataclass, field, fields


@dataclass(slots=True)
class Stat:
    """One figure of ``torch.cuda.memory_stats()``."""

    current: int = 0
    peak: int = 0
    allocated: int = 0
    """The sum of all increases."""
    freed: int = 0
    """The sum of all decreases."""

    def add(self, amount: int) -> None:
        """Change the figure by ``amount``, which may be negative."""
        self.current += amount
        if amount < 0:
            self.freed -= amount
            return
        self.allocated += amount
        self.peak = max(self.peak, self.current)


@dataclass(slots=True)
class PoolStats:
    """The figures that ``torch.cuda.memory_stats()`` gives for a pool, under the same names."""

    allocation: Stat = field(default_factory=Stat)
    segment: Stat = field(default_factory=Stat)
    active: Stat = field(default_factory=Stat)
    inactive_split: Stat = field(default_factory=Stat)
    allocated_bytes: Stat = field(default_factory=Stat)
    reserved_bytes: Stat = field(default_factory=Stat)
    active_bytes: Stat = field(default_factory=Stat)
    inactive_split_bytes: Stat = field(default_factory=Stat)
    requested_bytes: Stat = field(default_factory=Stat)


@dataclass(slots=True)
class AllocatorStats:
    """All figures; ``all`` is the sum of the two pools, its peaks being those of the sum."""

    all: PoolStats = field(default_factory=PoolStats)
    small_pool: PoolStats = field(default_factory=PoolStats)
    large_pool: PoolStats = field(default_factory=PoolStats)
    num_alloc_retries: int = 0
    num_ooms: int = 0
    num_device_alloc: int = 0
    num_device_free: int = 0

    def reset_peaks(self) -> None:
        """As ``torch.cuda.reset_peak_memory_stats()``."""
        for pool in (self.all, self.small_pool, self.large_pool):
            for stat in fields(pool):
                figure: Stat = getattr(pool, stat.name)
                figure.peak = figure.current

    def pools(self, *, small: bool) -> tuple[PoolStats, PoolStats]:
        """The figures that a change in one of the pools touches."""
        return self.all, self.small_pool if small else self.large_pool
