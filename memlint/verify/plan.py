"""What the child has to do: which program to run, how far, and which lines to watch. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

WARM_UP = 2
"""Steps that count for nothing: optimizer state appears, DDP rebuilds its buckets, the allocator fills its cache."""


@dataclass(frozen=True)
class WatchedLine:
    """One finding, as far as the child has to know it. Rows are 1-based; ranges include their ends."""

    number: int
    """The place of the finding in the parent's list."""
    path: str
    """The absolute path of its file."""
    rows: tuple[int, int]
    """The statement that the finding stands in; of a compound statement, its header."""
    loop: tuple[int, int] | None
    """The innermost loop around that statement in the same function."""
    watch: str
    """A value of :class:`memlint.findings.Watch`."""
    roots: tuple[str, ...] = ()
    """Expressions to look at once the line has run, best first: the first one that has a value counts. They are names,
    attributes and plain subscripts, so that evaluating them runs no code of the user's but properties."""
    function: int = 0
    """The row on which its function begins, decorators included; 0 at module level."""
    function_end: int = 0
    """The last row of its function, or of the file."""
    repeats: bool = False
    """Whether the loop comes back to the row of the statement without passing another one."""


@dataclass(frozen=True)
class Budget:
    """How far the script runs."""

    steps: int = 8
    """Optimizer steps that every training loop gets, if it takes so many."""
    batches: int = 6
    """Batches that each of the first two iterations over a loader yields, at most."""
    seconds: float = 300.0
    until: tuple[int, int] | None = None
    """Optimizer steps and forward passes at which the run ends instead, so that two runs see the same."""

    @property
    def enough_batches(self) -> int:
        """Once a loader has yielded so many, each further iteration over it yields one, so that others have a turn."""
        return max(2 * self.batches, self.steps)

    @property
    def patience(self) -> int:
        """Steps without anything new after which the run ends."""
        return 4 * self.steps


@dataclass(frozen=True)
class Plan:
    """One run of the script."""

    target: str
    """The script as it was given, or the dotted name of a module."""
    is_module: bool
    arguments: tuple[str, ...]
    lines: tuple[WatchedLine, ...]
    budget: Budget
    results: Path
    """The file that observations are written to."""
    recording: Path
    """The file that the memory events are written to, as a CUDA memory snapshot."""
    sources: Mapping[str, str] = field(default_factory=dict)
    """Files to run instead of others, by absolute path: the fixed copies."""
    seed: int | None = None
    """What the random generators start from; None for whatever the script does."""
    profile: Path | None = None
    """Where the profiler's trace goes, if one is wanted."""
