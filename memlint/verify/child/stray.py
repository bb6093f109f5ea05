"""Gradients that a backward leaves in parameters: whether an optimizer uses them, or they are cleared before."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch

from memlint.verify.child.progress import TrackedOptimizer
from memlint.verify.observations import GraphSeen


@dataclass
class _Left:
    """The gradient of one parameter, as a backward has left it."""

    parameter: weakref.ref[torch.Tensor]
    gradient: weakref.ref[torch.Tensor]
    version: int

    @property
    def is_there(self) -> bool:
        """Whether the parameter still has it. Clipping and scaling change it, and it is there all the same."""
        parameter, gradient = self.parameter(), self.gradient()
        return parameter is not None and gradient is not None and parameter.grad is gradient

    @property
    def is_untouched(self) -> bool:
        """Whether nothing was written to it either, as when it is filled with zeros."""
        gradient = self.gradient()
        return self.is_there and gradient is not None and gradient._version == self.version


@dataclass
class _Pending:
    graph: GraphSeen
    parameters: list[weakref.ref[torch.Tensor]]
    left: list[_Left] = field(default_factory=list)
    size: int = 0
    """Bytes of the gradients that the backward left."""


class StrayGradients:
    """The graphs whose gradients nothing has used or cleared yet."""

    def __init__(self) -> None:
        self._pending: list[_Pending] = []

    def expect(self, graph: GraphSeen, roots: Iterable[torch.Tensor], leaves: Iterable[torch.Tensor]) -> None:
        """``graph`` is that of ``roots`` and ends in ``leaves``; a backward may run over it."""
        parameters = [weakref.ref(leaf) for leaf in leaves if isinstance(leaf, torch.nn.Parameter)]
        self._pending.append(_Pending(graph, parameters))

        def runs(*_: object) -> None:
            graph.differentiated = True

        for root in roots:
            if root.grad_fn is not None:
                root.grad_fn.register_prehook(runs)

    def backward_done(self) -> None:
        """Note what the backward has left in the parameters."""
        for pending in self._pending:
            if pending.graph.differentiated:
                if any(not each.is_there for each in pending.left):
                    self._cleared(pending)
                pending.left = _gradients(pending.parameters)
                pending.size = pending.size or _bytes(pending.left)
        self._drop_decided()

    def gradients_begin(self, optimizer: TrackedOptimizer) -> None:
        """The next backward over the parameters of ``optimizer`` begins: what was cleared is cleared by now."""
        for pending in self._pending:
            if any(not each.is_untouched for each in _of(optimizer, pending.left)):
                self._cleared(pending)
        self._drop_decided()

    def step_done(self, optimizer: TrackedOptimizer) -> None:
        """An optimizer has used the gradients that its parameters had."""
        for pending in self._pending:
            left = _of(optimizer, pending.left)
            if any(each.is_there for each in left):
                pending.graph.trains = True
            elif left:
                self._cleared(pending)
        self._drop_decided()

    @staticmethod
    def _cleared(pending: _Pending) -> None:
        pending.graph.stray_bytes = pending.size

    def _drop_decided(self) -> None:
        self._pending = [each for each in self._pending if not (each.graph.trains or each.graph.stray_bytes)]


def _gradients(parameters: Iterable[weakref.ref[torch.Tensor]]) -> list[_Left]:
    alive = (parameter for reference in parameters if (parameter := reference()) is not None)
    return [
        _Left(weakref.ref(each), weakref.ref(each.grad), each.grad._version) for each in alive if each.grad is not None
    ]


def _bytes(left: Iterable[_Left]) -> int:
    gradients = (gradient for each in left if (gradient := each.gradient()) is not None)
    return sum(gradient.untyped_storage().nbytes() for gradient in gradients)


def _of(optimizer: TrackedOptimizer, left: Iterable[_Left]) -> list[_Left]:
    own = {id(parameter) for parameter in optimizer.parameters()}
    return [each for each in left if id(each.parameter()) in own]
