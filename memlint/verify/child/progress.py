"""Where the script is: steps, phases, optimizers, loaders; and when it has run far enough.

Public hooks of PyTorch tell most of it (``register_optimizer_step_pre_hook``, ``register_module_forward_hook`` and
their siblings). Two things have none and are wrapped: ``torch.autograd.backward``, through which every backward pass
goes, and the iterators of ``torch.utils.data.DataLoader`` (and its length).
"""

from __future__ import annotations

import dis
import functools
import os
import sys
import time
import types
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch.nn.modules import module as module_hooks
from torch.optim import optimizer as optimizer_hooks
from torch.utils.data import dataloader

from memlint.trace.events import Category, Phase
from memlint.trace.frames import Frame
from memlint.verify.observations import OptimizerSeen
from memlint.verify.plan import Budget

MAX_LOSSES = 10_000


class EnoughSeen(BaseException):
    """Ends the script where it is. No Exception, so that handlers of the script's own errors let it pass."""


class Recorder(Protocol):
    """What records memory, and wants to know where the script is."""

    @property
    def phase(self) -> Phase | None:
        """The part of the step that the script is in."""

    def place(self, step: int | None, phase: Phase | None) -> None:
        """Say where the script is from now on."""

    def classify(self, tensors: Any, category: Category) -> None:
        """Say what these tensors are for."""


class Listener(Protocol):
    """Who looks at the watched lines."""

    def forward_done(self, module: torch.nn.Module, output: object) -> None:
        """A forward pass of a whole model is over."""

    def step_done(self, optimizer: TrackedOptimizer) -> None:
        """An optimizer has used the gradients that there were."""

    def gradients_begin(self, optimizer: TrackedOptimizer) -> None:
        """A backward is about to add to the first gradient of an optimizer that has taken a step."""

    def backward_done(self) -> None:
        """A backward pass is over."""

    @property
    def is_satisfied(self) -> bool:
        """Whether every line has run often enough."""


@dataclass
class TrackedOptimizer:
    """An optimizer that has taken a step."""

    seen: OptimizerSeen
    reference: weakref.ref[torch.optim.Optimizer]
    versions: dict[int, tuple[int, int, int]] = field(default_factory=dict)
    """By parameter: identity, version and bytes of the gradient as the last step has left it."""
    forward_since_step: bool = False
    backward_since_step: bool = False

    def parameters(self) -> Iterator[torch.nn.Parameter]:
        """What it trains; nothing once it is gone."""
        optimizer = self.reference()
        return iter(()) if optimizer is None else parameters_of(optimizer)


def parameters_of(optimizer: Any) -> Iterator[torch.nn.Parameter]:
    """The parameters of an optimizer, or of what wraps one."""
    for group in getattr(optimizer, "param_groups", ()):
        yield from group["params"]


def gradient_bytes(parameters: Iterator[torch.nn.Parameter]) -> int:
    """Bytes of the gradients that are there."""
    return sum(each.grad.untyped_storage().nbytes() for each in parameters if each.grad is not None)


class Progress:
    """Follows the script from the moment when torch is imported."""

    def __init__(self, budget: Budget, recorder: Recorder, listener: Listener) -> None:
        self.step = 0
        """Optimizer steps taken."""
        self.epoch = 0
        """Iterations over loaders that have ended."""
        self.forwards = 0
        self.optimizers: list[TrackedOptimizer] = []
        self.losses: list[str] = []
        self.step_seconds: list[float] = []
        self._budget = budget
        self._recorder = recorder
        self._listener = listener
        self._depth = 0
        self._leader: TrackedOptimizer | None = None
        self._others_since_leader: set[int] = set()
        self._last_news = 0
        self._last_time = time.perf_counter()
        self._known_modules: weakref.WeakSet[torch.nn.Module] = weakref.WeakSet()
        self._loaders: weakref.WeakKeyDictionary[Any, _Loader] = weakref.WeakKeyDictionary()
        self._totals: dict[tuple[int, str], _Loader] = {}
        self._is_stopping = False
        self._process = os.getpid()

    def install(self) -> None:
        """Begin."""
        optimizer_hooks.register_optimizer_step_pre_hook(self._before_step)
        optimizer_hooks.register_optimizer_step_post_hook(self._after_step)
        module_hooks.register_module_forward_pre_hook(self._before_forward)
        module_hooks.register_module_forward_hook(self._after_forward, always_call=True)
        torch.autograd.backward = _wrapped(torch.autograd.backward, self._backward)
        iterators = dataloader._BaseDataLoaderIter
        iterators.__next__ = _wrapped(iterators.__next__, self._next_batch)
        dataloader.DataLoader.__len__ = _wrapped(dataloader.DataLoader.__len__, self._length)

    @property
    def is_elsewhere(self) -> bool:
        """Whether this is a process that the script has forked."""
        return os.getpid() != self._process

    def news(self) -> None:
        """Something ran for the first time: it is worth going on."""
        self._last_news = max(self.step, self.forwards if not self.step else 0)

    def optimizers_of(self, value: object) -> list[TrackedOptimizer]:
        """The optimizer that ``value`` is or wraps; all of them if it is something else."""
        wanted = {id(parameter) for parameter in parameters_of(value)}
        if not wanted:
            return self.optimizers
        return [each for each in self.optimizers if any(id(parameter) in wanted for parameter in each.parameters())]

    def trains(self, tensor: torch.Tensor) -> bool:
        """Whether an optimizer changes ``tensor``."""
        return any(tensor is parameter for each in self.optimizers for parameter in each.parameters())

    # ------------------------------------------------------------------------------------------- optimizers

    def _before_step(self, optimizer: torch.optim.Optimizer, *_: object) -> None:
        if self.is_elsewhere:
            return
        tracked = self._tracked(optimizer)
        self._set_phase(Phase.OPTIMIZER)
        tracked.seen.gradient_bytes = gradient_bytes(tracked.parameters())
        gradients = (each.grad for each in tracked.parameters() if each.grad is not None)
        self._recorder.classify(gradients, Category.GRADIENT)

    def _after_step(self, optimizer: torch.optim.Optimizer, *_: object) -> None:
        if self.is_elsewhere:
            return
        tracked = self._tracked(optimizer)
        tracked.seen.steps += 1
        tracked.forward_since_step = tracked.backward_since_step = False
        tracked.versions = {
            id(each): (id(each.grad), each.grad._version, each.grad.untyped_storage().nbytes())
            for each in tracked.parameters()
            if each.grad is not None
        }
        state = [each for values in optimizer.state.values() for each in _tensors_of(values)]
        tracked.seen.state_bytes = sum(each.untyped_storage().nbytes() for each in state)
        self._recorder.classify(state, Category.OPTIMIZER_STATE)
        self._listener.step_done(tracked)
        self._set_phase(None)
        self._count_step(tracked)
        self._stop_if_enough()

    def _tracked(self, optimizer: torch.optim.Optimizer) -> TrackedOptimizer:
        for each in self.optimizers:
            if each.reference() is optimizer:
                return each
        tracked = TrackedOptimizer(OptimizerSeen(type(optimizer).__name__), weakref.ref(optimizer))
        self.optimizers.append(tracked)
        parameters = list(tracked.parameters())
        self._recorder.classify(parameters, Category.PARAMETER)
        # It is called before the first gradient of a backward over them is added to what is there.
        differentiable = [each for each in parameters if each.requires_grad]
        if differentiable:
            torch.autograd.graph.register_multi_grad_hook(
                differentiable, lambda _: self._see_gradients(tracked), mode="any"
            )
        self.news()
        return tracked

    def _count_step(self, tracked: TrackedOptimizer) -> None:
        """With several optimizers, a step ends with that of the first one, until another takes over for good."""
        if self._leader is None or id(tracked) in self._others_since_leader:
            self._leader = tracked
        if tracked is not self._leader:
            self._others_since_leader.add(id(tracked))
            return
        self._others_since_leader.clear()
        now = time.perf_counter()
        self.step_seconds.append(now - self._last_time)
        self._last_time = now
        self.step += 1
        self._recorder.place(self.step, self._recorder.phase)

    # ---------------------------------------------------------------------------------------------- modules

    def _before_forward(self, module: torch.nn.Module, *_: object) -> None:
        if self.is_elsewhere:
            return
        self._depth += 1
        if self._depth > 1 or self._recorder.phase is Phase.BACKWARD:
            return
        if module not in self._known_modules:
            self._known_modules.add(module)
            self._recorder.classify(module.parameters(), Category.PARAMETER)
        trains = module.training and torch.is_grad_enabled()
        self._set_phase(Phase.FORWARD if trains else Phase.EVALUATION)
        if trains:
            for each in self.optimizers:
                each.forward_since_step = True

    def _after_forward(self, module: torch.nn.Module, _: object, output: object) -> None:
        if self.is_elsewhere:
            return
        self._depth = max(self._depth - 1, 0)
        if self._depth or self._recorder.phase is Phase.BACKWARD:
            return
        self.forwards += 1
        if output is not None:
            self._listener.forward_done(module, output)
        self._stop_if_enough()

    # --------------------------------------------------------------------------------------------- backward

    def _backward(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if self.is_elsewhere:
            return original(*args, **kwargs)
        self._see_loss(args[0] if args else kwargs.get("tensors"))
        phase = self._recorder.phase
        self._set_phase(Phase.BACKWARD)
        try:
            return original(*args, **kwargs)
        finally:
            self._set_phase(phase)
            self._listener.backward_done()

    def _see_loss(self, roots: object) -> None:
        tensor = roots[0] if isinstance(roots, (list, tuple)) and roots else roots
        if isinstance(tensor, torch.Tensor) and tensor.numel() == 1 and len(self.losses) < MAX_LOSSES:
            with torch.no_grad():
                self.losses.append(float(tensor.detach()).hex())

    def _see_gradients(self, tracked: TrackedOptimizer) -> None:
        """At the first backward over its parameters after a step: which gradients are as the step has left them."""
        self._listener.gradients_begin(tracked)
        if tracked.backward_since_step or not tracked.seen.steps or self.is_elsewhere:
            tracked.backward_since_step = True
            return
        tracked.backward_since_step = True
        left = 0
        for each in tracked.parameters():
            if each.grad is not None:
                identity, version, size = tracked.versions.get(id(each), (0, 0, 0))
                left += size if (id(each.grad), each.grad._version) == (identity, version) else 0
        tracked.seen.added_to.append(left)

    # ---------------------------------------------------------------------------------------------- loaders

    def _next_batch(self, original: Callable[..., Any], iterator: Any, *args: Any) -> Any:
        if self.is_elsewhere:
            return original(iterator, *args)
        loader = self._loaders.get(iterator)
        if loader is None:
            loader = self._loaders[iterator] = _Loader()
        total = self._total_of(iterator)
        if self._is_over(loader, total):
            loader.batches = 0
            self._end_epoch()
            raise StopIteration
        phase = self._recorder.phase
        self._set_phase(Phase.LOAD)
        try:
            batch = original(iterator, *args)
        except StopIteration:
            loader.batches = 0
            self._end_epoch()
            raise
        finally:
            self._set_phase(phase)
        if loader.batches == 0:
            # Frameworks that know the length do not ask for what comes after the last batch.
            self.epoch += total.current > 1
            total.current = 0
        loader.batches += 1
        total.batches += 1
        total.current += 1
        self._recorder.classify(_tensors_of(batch), Category.INPUT)
        return batch

    def _length(self, original: Callable[..., int], loader: Any) -> int:
        """What frameworks are told, so that they take the last batch for the last one and go on to the evaluation.

        The script's own code may divide by a part of the length and gets the true one.
        """
        length = original(loader)
        frame = _caller()
        while frame is not None and frame.f_code.co_name == "__len__":
            frame = frame.f_back
        if self.is_elsewhere or frame is None or _is_user_code(frame.f_code.co_filename):
            return length
        return min(length, self._budget.batches)

    def _total_of(self, iterator: Any) -> _Loader:
        """What has been counted for this data set in the loop that runs."""
        key = (id(getattr(iterator, "_dataset", None)), _user_place())
        if key not in self._totals:
            self._totals[key] = _Loader()
            self.news()
        return self._totals[key]

    def _is_over(self, loader: _Loader, total: _Loader) -> bool:
        limit = self._budget.batches if total.batches < self._budget.enough_batches + loader.batches else 1
        return loader.batches >= limit and not _called_by_next()

    def _end_epoch(self) -> None:
        self.epoch += 1

    # ----------------------------------------------------------------------------------------------- ending

    def _stop_if_enough(self) -> None:
        if self._is_enough():
            self._is_stopping = True
            raise EnoughSeen

    def _is_enough(self) -> bool:
        if self._is_stopping:
            # The script has caught what should have ended it.
            return True
        if self._budget.until is not None:
            steps, forwards = self._budget.until
            return self.step >= steps and self.forwards >= forwards
        waited = self.step - self._last_news if self.step else (self.forwards - self._last_news) // 4
        trained = self._leader is not None and self._leader.seen.steps >= self._budget.steps
        return waited > self._budget.patience or (trained and self._listener.is_satisfied)

    def _set_phase(self, phase: Phase | None) -> None:
        self._recorder.place(self.step, phase)


@dataclass
class _Loader:
    batches: int = 0
    current: int = 0
    """Of these, those of the latest iteration."""


def _wrapped(original: Callable[..., Any], wrapper: Callable[..., Any]) -> Any:
    @functools.wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        return wrapper(original, *args, **kwargs)

    return call


def _tensors_of(value: object, depth: int = 4) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif depth and isinstance(value, (list, tuple)):
        for each in value:
            yield from _tensors_of(each, depth - 1)
    elif depth and isinstance(value, dict):
        for each in value.values():
            yield from _tensors_of(each, depth - 1)


_NEXT_IN_LOOP = frozenset({"FOR_ITER"})


def _called_by_next() -> bool:
    """Whether the user's own code asks for the next batch with ``next()``.

    It may rely on getting one; a ``for`` loop, or a framework that asks, knows what the end of a loader is.
    """
    frame = _caller()
    if frame is None or not _is_user_code(frame.f_code.co_filename):
        return False
    instruction = next((each for each in _instructions(frame.f_code) if each.offset == frame.f_lasti), None)
    return instruction is not None and not instruction.opname.startswith(tuple(_NEXT_IN_LOOP))


@functools.cache
def _instructions(code: types.CodeType) -> tuple[dis.Instruction, ...]:
    return tuple(dis.get_instructions(code))


def _user_place() -> str:
    """The innermost of the user's lines that is running."""
    frame = _caller()
    while frame is not None and not _is_user_code(frame.f_code.co_filename):
        frame = frame.f_back
    return "" if frame is None else f"{frame.f_code.co_filename}:{frame.f_lineno}"


@functools.cache
def _is_user_code(filename: str) -> bool:
    return Frame(filename, 0, "").is_user_code


def _caller() -> types.FrameType | None:
    frame: types.FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename == __file__:
        frame = frame.f_back
    return frame
