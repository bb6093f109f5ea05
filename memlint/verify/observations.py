"""What the child has seen. Sizes are bytes of tensor storages as they were requested, not rounded to blocks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from memlint.verify.sizes import counted


class Ending(str, Enum):
    """How the script's run came to its end."""

    FINISHED = "finished"
    STOPPED = "stopped"
    """Enough was seen."""
    EXITED = "exited"
    """It called ``sys.exit`` with another code than 0."""
    RAISED = "raised"
    OUT_OF_MEMORY = "out of memory"
    TIMED_OUT = "timed out"
    DIED = "died"
    """It was killed, or ended itself without Python noticing."""


@dataclass
class Sample:
    """What one look at a line saw, right after the line had run."""

    execution: int
    """How often the line had run, from 1."""
    step: int
    epoch: int
    """Grows whenever the loop around the line, or an iteration over a loader, ends: values may start anew then."""
    kind: str = ""
    """The type of what was looked at."""
    items: int | None = None
    """The length of a container."""
    limit: int | None = None
    """The ``maxlen`` of a deque."""
    tensors: int = 0
    device_bytes: int = 0
    """Storages that can be reached, through tensors and through what graphs save; on a CPU these are the host's."""
    viewed_bytes: int = 0
    """Elements of the tensors that are held themselves; less than their storages where a view pins more."""
    saved_bytes: int = 0
    """Of :attr:`device_bytes`, what only graphs hold."""
    nodes: int = 0
    """Autograd nodes that can be reached."""


@dataclass
class GraphSeen:
    """A graph that a forward pass recorded while a line was watched, or what a backward left of one."""

    execution: int
    step: int
    nodes: int
    saved_bytes: int
    device_bytes: int = 0
    differentiated: bool = False
    """Whether a backward ran over it afterwards."""
    trains: bool = False
    """Whether that backward computed gradients that somebody uses."""
    stray_bytes: int = 0
    """Gradients that it left in parameters and that were cleared before an optimizer used them."""


@dataclass
class GradientsSeen:
    """The gradients of an optimizer around one execution of a line."""

    execution: int
    step: int
    before: int
    """Bytes alive before the line ran."""
    after: int
    after_forward: bool
    """Whether a forward pass of training had begun since the optimizer's last step."""
    after_backward: bool
    """Whether gradients had been computed since the optimizer's last step."""


class HostLoad(str, Enum):
    """Why something was loaded to the host and not to another device."""

    MAPPED = "mapped"
    """``map_location`` says so."""
    OWN = "own"
    """The file was written by this run."""
    FILE = "file"
    """The file says so."""


ALONE = "alone"
"""What an amount is of if no other process has a part of it."""


@dataclass
class Amount:
    """What a follower of a line has measured at one time."""

    size: int
    """Bytes of what the finding is about."""
    whole: int = 0
    """Bytes of what these are part of, or are compared with."""
    what: str = ""
    """What they are of, in a word of the watch."""
    share: float = 0.0
    """How much of what the watch counts is as the finding says: a part, or a number."""


@dataclass
class LineSeen:
    """Everything about one watched line."""

    executions: int = 0
    steps: list[int] = field(default_factory=list)
    """The steps in which it ran, each once."""
    samples: list[Sample] = field(default_factory=list)
    graphs: list[GraphSeen] = field(default_factory=list)
    gradients: list[GradientsSeen] = field(default_factory=list)
    beside_buckets: list[int] = field(default_factory=list)
    """For each optimizer step, bytes of gradients of a DistributedDataParallel that are no views of its buckets."""
    output_copies: list[int] = field(default_factory=list)
    """For each forward pass of a DistributedDataParallel, bytes of outputs that are copies of the wrapped model's."""
    after_backward: list[int] = field(default_factory=list)
    """For each backward that followed the line, bytes of what the line had named that were alive when it was over."""
    forwards: int = 0
    """Forward passes of a whole model that ran while the line was watched."""
    by_products: list[int] = field(default_factory=list)
    """For each of those, bytes of what the watch looks for in the output."""
    amounts: list[Amount] = field(default_factory=list)
    """What became of what the line made, each time that something did."""
    where: dict[str, int] = field(default_factory=dict)
    """The user's lines that allocated what was found last, with the bytes of each."""
    root: str = ""
    """The expression that could be looked at."""
    grad_enabled: bool | None = None
    """Whether gradients were recorded after the line last ran."""


@dataclass
class OptimizerSeen:
    """One optimizer of the script."""

    name: str
    steps: int = 0
    gradient_bytes: int = 0
    """Gradients of its parameters at its last step."""
    added_to: list[int] = field(default_factory=list)
    """For each step but the last, the bytes of gradients that the next backward found as the step had left them."""
    state_bytes: int = 0


@dataclass
class Observations:
    """The whole run."""

    torch: str = ""
    python: str = ""
    device: str = "cpu"
    device_name: str = ""
    ending: Ending = Ending.FINISHED
    exit_code: int = 0
    error: str = ""
    """What was raised, in one line."""
    error_place: str = ""
    """The innermost of the user's lines when it was raised, or when time was up."""
    steps: int = 0
    forwards: int = 0
    """Forward passes of whole models."""
    lines: Mapping[int, LineSeen] = field(default_factory=dict)
    optimizers: list[OptimizerSeen] = field(default_factory=list)
    holder_optimizers: Mapping[int, list[int]] = field(default_factory=dict)
    """For a watched line whose root is an optimizer: the places of what it is in :attr:`optimizers`."""
    losses: list[str] = field(default_factory=list)
    """The values that backward passes began at, exactly: ``float.hex``."""
    step_seconds: list[float] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    """The files of the modules that the script loaded from outside the interpreter's packages."""
    allocated_peak: int | None = None
    reserved_peak: int | None = None
    """What the CUDA allocator counted; None on a CPU."""
    notes: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    """Why the recording lacks events, one line for each device of which it does."""
    has_recording: bool = False
    has_torch: bool = False
    """Whether the script imported torch."""
    rank: int = 0
    world: int = 1

    @property
    def extent(self) -> str:
        """How far the script ran, in words."""
        if self.steps or not self.forwards:
            return counted(self.steps, "step")
        # It updates its parameters itself, or trains nothing.
        return f"{counted(self.forwards, 'forward pass')} without an optimizer step"
