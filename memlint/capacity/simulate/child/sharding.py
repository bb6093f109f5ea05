"""Fully sharded data parallel training, as one rank of many sees it.

Follows ``fully_shard`` (``torch/distributed/fsdp/_fully_shard/_fsdp_param_group.py``, v2.6.0): a rank keeps a part of
each parameter, of its gradient and of the optimizer's state. Before a block runs, forward or backward, its parameters
are gathered into one buffer and copied out; the buffer of a block lives until the next block is gathered, since the two
overlap. After the block they are given back; after its backward the gradients are copied into one buffer, reduced, and
each rank keeps its part. What surrounds the blocks stays gathered from its forward to the end of its backward.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from memlint.capacity.simulate.child.recorder import HOST, DeviceRecorder
from memlint.trace.events import Category, MemoryEvent

GATHER, REDUCE = "nccl:all_gather", "nccl:reduce_scatter"


class Sharding:
    """Shards one model over ``ranks`` ranks from now on."""

    def __init__(self, recorder: DeviceRecorder, ranks: int) -> None:
        self.recorder = recorder
        self.ranks = ranks
        self.groups: list[Group] = []
        self._buffer: MemoryEvent | None = None
        self._seen: set[int] = set()

    def shard(self, model: torch.nn.Module, blocks: Iterable[torch.nn.Module]) -> dict[int, torch.nn.Parameter]:
        """Put a model's parameters away, but for this rank's parts; returns those by the ``id`` of the parameter."""
        for block in [*blocks, model]:
            parameters = [each for each in block.parameters() if id(each) not in self._seen]
            self._seen.update(id(each) for each in parameters)
            if parameters:
                self.groups.append(Group(self, block, parameters, is_root=block is model))
        return {key: part for group in self.groups for key, part in group.parts.items()}

    def gather(self, group: Group) -> None:
        """Start a block's gathering; the buffer of the block before is no longer needed."""
        self.release_buffer()
        self._buffer = self.recorder.hold(group.index, group.size, GATHER)

    def release_buffer(self) -> None:
        """No gathering is under way any more."""
        if self._buffer is not None:
            self.recorder.release(self._buffer)
            self._buffer = None

    def leave_frozen(self, current: Group) -> None:
        """Give back blocks without trained parameters: no gradient says when their backward is over."""
        for group in self.groups:
            if group is not current and group.is_gathered and not group.trained and not group.is_root:
                group.put_away()

    def end_backward(self) -> None:
        """At the optimizer's step nothing is gathered."""
        for group in self.groups:
            group.put_away()
        self.release_buffer()


class Group:
    """The parameters of one block that are in no other one."""

    def __init__(
        self, owner: Sharding, block: torch.nn.Module, parameters: list[torch.Tensor], *, is_root: bool
    ) -> None:
        self._owner = owner
        self._parameters = parameters
        self.is_root = is_root
        self.trained = [each for each in parameters if each.requires_grad]
        place = owner.recorder.place_of(parameters[0])
        self.index = 0 if place is None or place == HOST else place
        self.size = sum(each.numel() * each.element_size() for each in parameters)
        self.parts = {id(each): self._part_of(each) for each in parameters}
        self.is_gathered = True
        self._in_backward = False
        self._left = 0
        self.put_away()
        block.register_forward_pre_hook(self._before_forward, with_kwargs=True)
        block.register_forward_hook(self._after_forward, always_call=True)
        for each in self.trained:
            each.register_post_accumulate_grad_hook(self._gradient_done)

    def _part_of(self, parameter: torch.Tensor) -> torch.nn.Parameter:
        elements = -(-parameter.numel() // self._owner.ranks)
        data = torch.empty(elements, dtype=parameter.dtype, device=torch.device("cuda", self.index))
        part = torch.nn.Parameter(data, requires_grad=parameter.requires_grad)
        self._owner.recorder.classify([part], Category.PARAMETER)
        return part

    def gather(self) -> None:
        """Make the parameters whole."""
        if self.is_gathered:
            return
        self.is_gathered = True
        self._owner.gather(self)
        for each in self._parameters:
            self._owner.recorder.restore(each, self.index, GATHER, Category.PARAMETER)

    def put_away(self) -> None:
        """Keep no more than this rank's part."""
        if self.is_gathered:
            self.is_gathered = self._in_backward = False
            for each in self._parameters:
                self._owner.recorder.evict(each)

    def _before_forward(self, *_: Any) -> None:
        self.gather()

    def _after_forward(self, _: torch.nn.Module, _inputs: Any, output: Any) -> None:
        if self._in_backward:
            return  # A block that is computed again during the backward pass.
        if torch.is_grad_enabled():
            for each in _differentiable(output):
                each.register_hook(self._before_backward)
        if not self.is_root:
            self.put_away()
        else:
            self._owner.release_buffer()

    def _before_backward(self, _: torch.Tensor) -> None:
        if not self._in_backward:
            self._owner.leave_frozen(self)
            self.gather()
            self._in_backward = True
            self._left = len(self.trained)

    def _gradient_done(self, _: torch.Tensor) -> None:
        self._left -= 1
        if self._left == 0:
            self._reduce()

    def _reduce(self) -> None:
        """Copy the gradients into one buffer, and keep this rank's part of their sum."""
        recorder = self._owner.recorder
        whole = sum(each.numel() * each.element_size() for each in self.trained)
        self._owner.release_buffer()
        buffer = recorder.hold(self.index, whole, REDUCE)
        for each in self.trained:
            each.grad = None
        with torch.no_grad():
            for each in self.trained:
                part = self.parts[id(each)]
                gradient = torch.empty_like(part)
                recorder.classify([gradient], Category.GRADIENT)
                part.grad = gradient if part.grad is None else part.grad.add_(gradient)
        recorder.release(buffer)
        self.put_away()


def _differentiable(output: Any) -> Iterator[torch.Tensor]:
    values = list(output.values()) if isinstance(output, Mapping) else output
    for each in tree_leaves(values):
        if isinstance(each, torch.Tensor) and each.requires_grad:
            yield each


def hand_over(
    optimizers: Iterable[weakref.ref[torch.optim.Optimizer]], parts: dict[int, torch.nn.Parameter]
) -> list[torch.optim.Optimizer]:
    """Let optimizers step on this rank's parts; states that they have made already shrink with them."""
    found = [each for reference in optimizers if (each := reference()) is not None]
    for optimizer in found:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                part = parts.get(id(parameter))
                state = optimizer.state.pop(parameter, None) if part is not None else None
                if part is not None and state is not None:
                    optimizer.state[part] = {name: _sharded(value, parameter, part) for name, value in state.items()}
            group["params"] = [parts.get(id(each), each) for each in group["params"]]
    return found


def _sharded(value: Any, parameter: torch.Tensor, part: torch.Tensor) -> Any:
    is_alike = isinstance(value, torch.Tensor) and value.shape == parameter.shape
    return torch.empty_like(part, dtype=value.dtype) if is_alike else value
