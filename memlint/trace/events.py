"""The event stream that every reader and recorder produces.

Sizes are bytes, times microseconds on the recording's own clock. The words are those of
``torch.cuda.memory._snapshot``: a block is *requested* by the program, *allocated* until its free is requested,
*active* until that free has completed, and carved out of a *segment* that the allocator has *reserved*.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from memlint.trace.allocator_settings import AllocatorSettings
from memlint.trace.frames import Stack

if TYPE_CHECKING:
    from memlint.trace.compact import CompactEvents


class Action(Enum):
    """What happened; the values are the actions of a CUDA memory snapshot."""

    ALLOCATE = "alloc"
    FREE_REQUESTED = "free_requested"
    """The program gave the block back; other streams may still be using it."""
    FREE = "free_completed"
    """The block can be handed out again."""
    SEGMENT_ALLOCATE = "segment_alloc"
    SEGMENT_FREE = "segment_free"
    SEGMENT_MAP = "segment_map"
    SEGMENT_UNMAP = "segment_unmap"
    OUT_OF_MEMORY = "oom"
    SNAPSHOT = "snapshot"
    """Someone took a snapshot; ``block_bytes`` is what was active at that moment."""


class Phase(Enum):
    """The part of a training step in which something happened."""

    LOAD = "load"
    FORWARD = "forward"
    BACKWARD = "backward"
    OPTIMIZER = "optimizer"
    EVALUATION = "evaluation"


class Category(Enum):
    """What a block is for; the words are those of PyTorch's memory timeline."""

    PARAMETER = "parameter"
    GRADIENT = "gradient"
    OPTIMIZER_STATE = "optimizer_state"
    ACTIVATION = "activation"
    TEMPORARY = "temporary"
    INPUT = "input"
    AUTOGRAD_DETAIL = "autograd_detail"


HOST = "cpu"
"""The host's memory. Every device is named as PyTorch prints it: ``cpu``, ``cuda:0``."""


@dataclass(slots=True)
class MemoryEvent:
    """One thing that the allocator did. Plain and mutable, because a recording holds millions of them."""

    action: Action
    device: str
    address: int | None
    """Where the block or segment begins; None where the recording does not say (profiler traces before 2022)."""
    requested_bytes: int | None
    """What the program asked for; None where only the rounded size is known (CUDA in profiler traces)."""
    block_bytes: int | None
    """What the block occupies in its segment; for a segment event, the bytes of the segment."""
    time_us: float | None = None
    stream: int = 0
    stack: Stack | None = None
    step: int | None = None
    phase: Phase | None = None
    category: Category | None = None
    operator: str | None = None
    """The operator that was running, such as ``aten::addmm``."""
    records_graph: bool | None = None
    """Whether that operator, or one around it, was recorded by autograd; None where the recording does not say."""
    total_allocated: int | None = None
    total_reserved: int | None = None
    """The allocator's own totals right after the event."""

    @property
    def size(self) -> int:
        """Bytes of the block: what it occupies if that is known, else what was requested, else 0."""
        if self.block_bytes is not None:
            return self.block_bytes
        return self.requested_bytes or 0

    @property
    def is_workspace(self) -> bool:
        """Whether a library is known to have taken the memory for itself."""
        return self.operator is not None and self.operator.startswith(_LIBRARIES)


_LIBRARIES = ("cublas", "cudnn", "nccl")


class BlockState(Enum):
    """The state of a block in a segment."""

    ALLOCATED = "active_allocated"
    PENDING_FREE = "active_pending_free"
    """Given back by the program, still used by another stream."""
    INACTIVE = "inactive"


@dataclass(slots=True)
class Block:
    """A piece of a segment, in use or free."""

    address: int
    size: int
    requested_size: int
    state: BlockState
    stack: Stack | None = None
    """Where it was allocated, if history was recorded then."""


@dataclass(slots=True)
class Segment:
    """Memory that the allocator got from the driver in one piece (or, if expandable, mapped next to each other)."""

    device: str
    address: int
    total_size: int
    stream: int
    is_small: bool
    """Whether it belongs to the pool of allocations up to 1 MiB."""
    is_expandable: bool
    blocks: list[Block]
    """All of the segment, by address, without gaps."""
    stack: Stack | None = None

    @property
    def allocated_size(self) -> int:
        """Bytes of the blocks that the program holds."""
        return sum(block.size for block in self.blocks if block.state is BlockState.ALLOCATED)

    @property
    def active_size(self) -> int:
        """Bytes of the blocks that the program holds or another stream still uses."""
        return sum(block.size for block in self.blocks if block.state is not BlockState.INACTIVE)


@dataclass(slots=True)
class Mark:
    """A named stretch of time: ``ProfilerStep#3``, ``Optimizer.step#AdamW.step``, a ``record_function`` of the user."""

    name: str
    start_us: float
    end_us: float | None
    """None where the recording ends first."""
    device: str | None = None


class Origin(Enum):
    """What kind of recording the events come from."""

    CUDA_SNAPSHOT = "CUDA memory snapshot"
    PROFILER = "profiler trace"
    CPU_RECORDER = "CPU recording"
    SIMULATION = "simulated device"


@dataclass(slots=True)
class Recording:
    """A run's memory events in the order in which they happened, and what is known about their surroundings."""

    origin: Origin
    events: list[MemoryEvent] | CompactEvents
    """In columns where a file holds millions of them."""
    baseline: list[MemoryEvent] = field(default_factory=list)
    """The blocks that were live before the first event: allocations without a time."""
    baseline_bytes: dict[str, int] = field(default_factory=dict)
    """Allocated bytes before the first event, where the recording says them without naming the blocks."""
    initial_segments: list[Segment] = field(default_factory=list)
    """The segments before the first event, as far as they can be worked out."""
    segments: list[Segment] = field(default_factory=list)
    """The segments after the last event."""
    marks: list[Mark] = field(default_factory=list)
    """By start."""
    settings: AllocatorSettings | None = None
    overrun: dict[str, str] = field(default_factory=dict)
    """Devices of which events are missing, mostly the oldest since their ring buffer was full, and how that shows."""
    calls: Counter[tuple[str, str]] = field(default_factory=Counter)
    """How often one operator or annotation ran another operator: ``("torch::autograd::AccumulateGrad", "aten::add_")``.
    The caller is empty for an operator that ran by itself."""
    line_is_definition: bool = False
    """Whether frames give the line on which their function begins instead of the line that was running."""
    notes: list[str] = field(default_factory=list)
    """What a reader could not use, one line each."""

    def devices(self) -> list[str]:
        """Every device that the recording speaks of, the host last."""
        found = {event.device for event in self.kinds()} | {event.device for event in self.baseline}
        found |= {segment.device for segment in self.segments} | set(self.baseline_bytes)
        return sorted(found, key=lambda device: (device == HOST, device))

    def kinds(self) -> Iterator[MemoryEvent]:
        """Events that together have every action, device, stack, step, phase, category and operator that there is."""
        return iter(self.events) if isinstance(self.events, list) else self.events.kinds()

    def of(self, device: str) -> Iterator[MemoryEvent]:
        """The events of one device."""
        return (event for event in self.events if event.device == device)
