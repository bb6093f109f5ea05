"""What follows a watched line through the rest of the run, by hooks of its own.

A follower is made for each line whose watch needs one, so that nothing is wrapped that no finding asks for.
"""

from __future__ import annotations

import functools
import os
import types
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch

from memlint.verify.observations import Amount, LineSeen
from memlint.verify.plan import WatchedLine

Evaluate = Callable[[str, types.FrameType], tuple[bool, object]]
"""Whether an expression has a value in a frame, and the value."""


class Memory(Protocol):
    """Who records what is allocated."""

    def mark(self) -> int:
        """This moment."""

    def most_since(self, mark: int) -> int:
        """How many bytes more than at ``mark`` were allocated since, at most."""

    def freed_since(self, mark: int) -> int:
        """How many bytes were freed since ``mark``."""


class Follower:
    """One watched line. Wrappers and hooks stay for the rest of the process, and do nothing in forks of it."""

    def __init__(self, line: WatchedLine, seen: LineSeen, evaluate: Evaluate, memory: Memory) -> None:
        self.line = line
        self.seen = seen
        self.memory = memory
        self.is_running = False
        """Whether the line is running."""
        self._evaluate = evaluate
        self._process = os.getpid()

    @property
    def is_elsewhere(self) -> bool:
        """Whether this is a process that the script has forked."""
        return os.getpid() != self._process

    def install(self) -> None:
        """Add the hooks that are needed; torch is there."""

    def begin(self) -> None:
        """The line is about to run."""
        self.is_running = True

    def end(self, frame: types.FrameType) -> None:  # noqa: ARG002 - what those look at who need more
        """The line has run."""
        self.is_running = False

    def values(self, frame: types.FrameType) -> Iterator[object]:
        """The values of the expressions to look at, as far as they have one."""
        for root in self.line.roots:
            known, value = self._evaluate(root, frame)
            if known:
                self.seen.root = self.seen.root or root
                yield value

    def forward_done(self, module: torch.nn.Module, output: object) -> None:
        """A forward pass of a whole model has ended, wherever."""

    def note(self, size: int, whole: int = 0, what: str = "", share: float = 0.0) -> None:
        """Remember what was measured."""
        self.seen.amounts.append(Amount(size, whole, what, share))


def wrap(owner: Any, name: str, wrapper: Callable[..., Any]) -> None:
    """Have ``wrapper`` called in place of a function of a module or class, with the original in front."""
    original = getattr(owner, name)

    @functools.wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        return wrapper(original, *args, **kwargs)

    is_static = isinstance(vars(owner).get(name), staticmethod)
    setattr(owner, name, staticmethod(call) if is_static else call)
