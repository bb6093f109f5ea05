"""What optimizers keep and allocate for what a watched line has made."""

from __future__ import annotations

import functools
import types
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch.optim import optimizer as optimizer_hooks

from memlint.verify.child.following import Follower, wrap


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
    gradient = 0 if parameter.grad is None else int(parameter.grad.nbytes)
    return gradient + _bytes_of_state(optimizer, parameter)


def _bytes_of_state(optimizer: torch.optim.Optimizer, parameter: torch.Tensor) -> int:
    states = optimizer.state.get(parameter, {}).values()
    return sum(int(each.nbytes) for each in states if isinstance(each, torch.Tensor))


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


class OptimizerState(Follower):
    """The states of all optimizers, after each of their steps."""

    def install(self) -> None:
        """Look after each step."""
        optimizer_hooks.register_optimizer_step_post_hook(self._after_step)

    def _after_step(self, optimizer: torch.optim.Optimizer, *_: object) -> None:
        if not self.is_elsewhere:
            trained = [each for group in optimizer.param_groups for each in group["params"]]
            states = sum(_bytes_of_state(optimizer, each) for each in trained)
            self.note(states, sum(each.numel() for each in trained), type(optimizer).__name__)
