"""What a simulated run is told, and what it says when it is over. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from memlint.devices import Device, device


@dataclass(frozen=True)
class Settings:
    """The device that the script is to see, and how far it runs."""

    device: Device = field(default_factory=lambda: device("A100-40GB"))
    count: int = 1
    """How many of them ``torch.cuda.device_count()`` says, and how many ranks a process group has."""
    steps: int = 3
    """Optimizer steps: the first makes the optimizer's state, the second starts with what the first one left."""
    seconds: float = 600.0
    changes: tuple[str, ...] = ()
    """What to do differently from the script; see :mod:`memlint.capacity.simulate.changes`."""
    sources: Mapping[str, str] = field(default_factory=dict)
    """Files to run instead of others, by absolute path."""
    allocator: str = ""
    """As ``PYTORCH_CUDA_ALLOC_CONF``, for the simulated allocator."""
    torch: str = ""
    """The version whose kernels and workspaces are meant, such as ``2.6``; empty: the installed one."""


@dataclass(frozen=True)
class SimulationPlan:
    """One run, as the parent writes it down for the child."""

    target: str
    is_module: bool
    arguments: tuple[str, ...]
    settings: Settings
    results: Path
    recording: Path


@dataclass(frozen=True)
class Share:
    """A part of what is allocated at the peak."""

    size: int
    """Bytes, rounded as the allocator rounds them."""
    blocks: int
    category: str
    """A value of :class:`memlint.trace.events.Category`, or ``workspace``."""
    path: str = ""
    """The user's file whose line asked for it; empty where none of the user's code was running."""
    line: int = 0


@dataclass
class Outcome:
    """What the child saw. Sizes are bytes."""

    ending: str = "finished"
    """``finished``, ``stopped`` after enough steps, ``raised``, ``exited``, ``timed out`` or ``died``."""
    error: str = ""
    error_place: str = ""
    torch: str = ""
    steps: int = 0
    forwards: int = 0
    peak_allocated: int = 0
    peak_reserved: int = 0
    allocated_at_end: int = 0
    segments: int = 0
    unused_at_peak: int = 0
    """Reserved and not allocated when most was reserved: cached blocks and fragmentation."""
    out_of_memory: str = ""
    """The first request that the device could not have met, with its place; empty if there was none."""
    shares: list[Share] = field(default_factory=list)
    """What was allocated at the peak, largest first."""
    notes: list[str] = field(default_factory=list)
    """What was assumed or left out, one line each."""
    not_applied: list[str] = field(default_factory=list)
    """Changes that found nothing to change."""
    losses: int = 0
    step_seconds: list[float] = field(default_factory=list)
    has_recording: bool = False
