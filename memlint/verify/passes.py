"""When forward and backward passes took place, as moments of a recording: numbers of its events."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field

from memlint.trace.events import Action, Category, Phase, Recording


@dataclass
class Passes:
    """All passes of a recording whose events have phases."""

    forwards: array[int] = field(default_factory=lambda: array("q"))
    """What forward passes allocated."""
    gradients: array[int] = field(default_factory=lambda: array("q"))
    """What backward passes allocated as gradients of parameters; empty where the recording has no categories."""
    backwards: list[tuple[int, int]] = field(default_factory=list)
    """First and last moment of each backward pass."""

    @classmethod
    def of(cls, recording: Recording) -> Passes:
        """In one pass over the recording."""
        found = cls()
        is_backward = False
        for moment, event in enumerate(recording.events):
            if event.phase is Phase.BACKWARD:
                start = found.backwards.pop()[0] if is_backward else moment
                found.backwards.append((start, moment))
            is_backward = event.phase is Phase.BACKWARD
            if event.action is Action.ALLOCATE:
                if event.phase is Phase.FORWARD:
                    found.forwards.append(moment)
                elif event.category is Category.GRADIENT:
                    found.gradients.append(moment)
        return found

    def next_forward(self, moment: int) -> int | None:
        """When the next forward pass allocates for the first time."""
        index = bisect_left(self.forwards, moment)
        return self.forwards[index] if index < len(self.forwards) else None

    def backward_after(self, moment: int) -> tuple[int, int] | None:
        """The first backward pass that begins after ``moment``."""
        index = bisect_right(self.backwards, moment, key=lambda span: span[0])
        return self.backwards[index] if index < len(self.backwards) else None

    def backward_at(self, moment: int) -> tuple[int, int] | None:
        """The backward pass that was running."""
        index = bisect_right(self.backwards, moment, key=lambda span: span[0]) - 1
        return self.backwards[index] if index >= 0 and moment <= self.backwards[index][1] else None
