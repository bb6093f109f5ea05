"""Follow what a watched line has made or does through the rest of the run, by hooks of their own.

A follower is made for each line whose watch needs one, so that nothing is wrapped that no finding asks for.
"""

from __future__ import annotations

import functools
import os
import time
import types
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import torch
from torch.optim import optimizer as optimizer_hooks

from memlint.findings import Watch
from memlint.verify.child.reachable import reach
from memlint.verify.observations import Amount, HostLoad, LineSeen
from memlint.verify.plan import WatchedLine

Evaluate = Callable[[str, types.FrameType], tuple[bool, object]]
"""Whether an expression has a value in a frame, and the value."""


class Memory(Protocol):
    """Who records what is allocated."""

    def mark(self) -> int:
        """This moment."""

    def most_since(self, mark: int) -> int:
        """How many bytes more than at ``mark`` were allocated since, at most."""


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

    def note(self, size: int, whole: int = 0, what: str = "") -> None:
        """Remember what was measured."""
        self.seen.amounts.append(Amount(size, whole, what))


class DoubleParameter(Follower):
    """Two parameters of one model whose ``data`` is the same: what the optimizer keeps for the second one."""

    _parameters: tuple[weakref.ref[torch.nn.Parameter], ...] = ()

    def install(self) -> None:
        """Look after each step."""
        optimizer_hooks.register_optimizer_step_post_hook(self._after_step)

    def end(self, frame: types.FrameType) -> None:
        """Take the parameters."""
        super().end(frame)
        found = [value for value in self.values(frame) if isinstance(value, torch.nn.Parameter)]
        self._parameters = tuple(weakref.ref(each) for each in found)

    def _after_step(self, optimizer: torch.optim.Optimizer, *_: object) -> None:
        own = [parameter for each in self._parameters if (parameter := each()) is not None]
        if not own or self.is_elsewhere:
            return
        trained = {id(each): each for group in optimizer.param_groups for each in group["params"]}
        both = {id(each) for each in own if id(each) in trained}
        if both:
            self.note(_bytes_of_training(optimizer, own[0]) if len(both) > 1 else 0, own[0].nbytes)


def _bytes_of_training(optimizer: torch.optim.Optimizer, parameter: torch.nn.Parameter) -> int:
    """Bytes of the gradient of a parameter and of the optimizer's states for it."""
    states = (each for each in optimizer.state.get(parameter, {}).values() if isinstance(each, torch.Tensor))
    gradient = [] if parameter.grad is None else [parameter.grad]
    return sum(int(each.nbytes) for each in (*gradient, *states))


class Serialised(Follower):
    """Tensors that are saved: ``torch.save`` writes their storages, of which they may be a small part."""

    def install(self) -> None:
        """Look at what is saved."""
        wrap(torch, "save", self._saved)

    def _saved(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if self.is_running and not self.is_elsewhere:
            found = reach(args[0] if args else kwargs.get("obj"))
            written = found.bytes_of(found.held)
            self.note(written - sum(found.views[key] for key in found.held), written)
        return original(*args, **kwargs)


class ForeachStep(Follower):
    """The optimizers that the line makes: what their steps allocate, by the implementation that CUDA defaults to.

    On a CPU the default is the loop over the parameters. The other one gives the same numbers (20 steps of AdamW were
    compared bit by bit), so that an optimizer that leaves the choice open is told to use it.
    """

    def install(self) -> None:
        """Look at what is made, and at each step."""
        self._made: weakref.WeakSet[torch.optim.Optimizer] = weakref.WeakSet()
        self._begun: dict[int, int] = {}
        wrap(torch.optim.Optimizer, "__init__", self._makes)
        optimizer_hooks.register_optimizer_step_pre_hook(self._before_step)
        optimizer_hooks.register_optimizer_step_post_hook(self._after_step)

    def _makes(self, original: Callable[..., Any], optimizer: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(optimizer, *args, **kwargs)
        if self.is_running and not self.is_elsewhere:
            self._made.add(optimizer)
        return result

    def _before_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> tuple[Any, Any] | None:
        if optimizer not in self._made or self.is_elsewhere:
            return None
        for group in optimizer.param_groups:
            if _leaves_open(group):
                group["foreach"] = True
        if optimizer.state:
            # The first step allocates the states.
            self._begun[id(optimizer)] = self.memory.mark()
        given = [self._timed(each, optimizer) if callable(each) else each for each in args]
        named = {name: self._timed(each, optimizer) if callable(each) else each for name, each in kwargs.items()}
        return tuple(given), named

    def _timed(self, closure: Callable[..., Any], optimizer: torch.optim.Optimizer) -> Callable[..., Any]:
        """The closure that runs forward and backward, after which the step itself begins."""

        @functools.wraps(closure)
        def run(*args: Any, **kwargs: Any) -> Any:
            result = closure(*args, **kwargs)
            if id(optimizer) in self._begun:
                self._begun[id(optimizer)] = self.memory.mark()
            return result

        return run

    def _after_step(self, optimizer: torch.optim.Optimizer, *_: object) -> None:
        mark = self._begun.pop(id(optimizer), None)
        if mark is None or self.is_elsewhere:
            return
        trained = [each for group in optimizer.param_groups for each in group["params"] if each.grad is not None]
        whole = sum(each.nbytes for each in trained)
        self.note(self.memory.most_since(mark), whole, _implementation(optimizer.param_groups))


def _leaves_open(group: dict[str, Any]) -> bool:
    """Whether nothing is said about the implementation, and the parameters are such as all of them take."""
    settings = ("foreach" in group, group.get("foreach"), group.get("fused"), group.get("differentiable", False))
    return settings == (True, None, None, False) and all(map(_is_plain, group["params"]))


def _is_plain(parameter: torch.Tensor) -> bool:
    is_sparse = parameter.grad is not None and parameter.grad.is_sparse
    return type(parameter) in {torch.Tensor, torch.nn.Parameter} and parameter.is_floating_point() and not is_sparse


def _implementation(groups: list[dict[str, Any]]) -> str:
    for name in ("fused", "foreach"):
        if any(group.get(name) for group in groups):
            return name
    return "loop"


class Loaded(Follower):
    """What ``torch.load`` restores while the line runs, and to which location it goes.

    Locations are those that the file names, or those that ``map_location`` makes of them. They are seen even where
    the device is missing, so that the load fails.
    """

    def install(self) -> None:
        """Look at each load, and at each storage that it restores."""
        self._began = time.time()
        self._host = HostLoad.FILE
        wrap(torch, "load", self._loads)
        wrap(torch.serialization, "default_restore_location", self._restores)

    def _loads(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if self.is_running and not self.is_elsewhere:
            path = args[0] if args else kwargs.get("f")
            mapped = (args[1] if len(args) > 1 else kwargs.get("map_location")) is not None
            made = isinstance(path, (str, os.PathLike)) and Path(path).stat().st_mtime >= self._began
            self._host = HostLoad.MAPPED if mapped else HostLoad.OWN if made else HostLoad.FILE
        return original(*args, **kwargs)

    def _restores(self, original: Callable[..., Any], storage: Any, location: Any) -> Any:
        if self.is_running and not self.is_elsewhere:
            host = torch.device(str(location)).type == "cpu"
            self.note(storage.nbytes(), what=self._host.value if host else str(location))
        return original(storage, location)


def wrap(owner: Any, name: str, wrapper: Callable[..., Any]) -> None:
    """Have ``wrapper`` called in place of an attribute of a module or class, with the original in front."""
    original = getattr(owner, name)

    @functools.wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        return wrapper(original, *args, **kwargs)

    setattr(owner, name, call)


FOLLOWERS: dict[Watch, type[Follower]] = {
    Watch.DOUBLE_PARAMETER: DoubleParameter,
    Watch.SERIALISED: Serialised,
    Watch.FOREACH_STEP: ForeachStep,
    Watch.LOADED: Loaded,
}
