"""cuDNN's recurrent layers: one operator for all steps, with one block of memory that the backward pass needs.

cuDNN does not say how large that block, its reserve, is. Sizes that cuDNN gave are printed in
https://github.com/pytorch/pytorch/issues/2895, for four layers of 320 features: 736,000,000 bytes for LSTM, 864,000,000
for GRU. For 25,000 steps of all sequences together both are a whole number of elements for each hidden feature and
step: 5 for each layer of LSTM (four gates and the cell), 6 of GRU, and one more for the output of each layer but the
last, whose output is the operator's result. What plain RNNs keep is not published: one element is assumed. Source of
the rest: ``_cudnn_rnn`` in ``aten/src/ATen/native/cudnn/RNN.cpp`` (pytorch v2.6.0): gradients of the weights are views
of one buffer, and batches that come first are copied.

Not modelled: the workspace, the states of dropout, and the buffer that ``flatten_parameters`` makes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

KEPT = {"lstm": 5, "gru": 6, "rnn_tanh": 1, "rnn_relu": 1}
"""Elements of the reserve for each hidden feature, layer and step, by operator."""


Keep = Callable[[Iterable[torch.Tensor]], None]


@dataclass(frozen=True)
class Layers:
    """How a recurrent module is laid out."""

    kept: int
    count: int
    directions: int
    train: bool
    batch_first: bool

    def reserve(self, steps: int, width: int) -> int:
        """Elements that the backward pass needs, for so many steps of all sequences and hidden features."""
        return (self.kept * self.count + self.count - 1) * self.directions * width * steps if self.train else 0


def is_accepted(tensor: torch.Tensor) -> bool:
    """Whether cuDNN runs it (``use_cudnn`` in ``aten/src/ATen/native/RNN.cpp``)."""
    types = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
    return bool(torch.backends.cudnn.enabled) and tensor.dtype in types


def run(
    layers: Layers, tensor: torch.Tensor, states: Sequence[torch.Tensor], weights: Sequence[torch.Tensor], keep: Keep
) -> Any:
    """The result and the last states, of tensors without data. ``keep`` is told what the backward pass needs."""
    if torch.is_autocast_enabled("cuda"):
        dtype = torch.get_autocast_dtype("cuda")
        tensor, states, weights = tensor.to(dtype), [each.to(dtype) for each in states], [w.to(dtype) for w in weights]
    if layers.batch_first:
        tensor = tensor.transpose(0, 1)
    result: Any = _Recurrent.apply(layers, keep, len(states), tensor, *states, *weights)
    output = result[0].transpose(0, 1) if layers.batch_first else result[0]
    return (output, *result[1:])


class _Recurrent(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, layers: Layers, keep: Keep, count: int, tensor: torch.Tensor, *others: torch.Tensor) -> Any:
        dense = tensor.contiguous()
        states, weights = others[:count], others[count:]
        # The hidden state may be projected, and is then narrower than the cell.
        shown, width = states[0].size(-1), states[-1].size(-1)
        steps = tensor.numel() // tensor.size(-1)
        output = dense.new_empty((*tensor.shape[:-1], layers.directions * shown))
        after = tuple(torch.empty_like(each) for each in states)
        reserve = dense.new_empty(layers.reserve(steps, width))
        if any(ctx.needs_input_grad):
            keep((output, reserve))
        ctx.count = count
        ctx.save_for_backward(tensor, output, reserve, *states, *weights)
        return (output, *after)

    @staticmethod
    def backward(ctx: Any, *_gradients: torch.Tensor) -> Any:
        tensor, output, _, *others = ctx.saved_tensors
        states, weights = others[: ctx.count], others[ctx.count :]
        wanted = ctx.needs_input_grad[3:]
        copies = tensor.contiguous(), output.contiguous()
        first = torch.empty_like(copies[0]) if wanted[0] else None
        before = [torch.empty_like(each) if need else None for each, need in zip(states, wanted[1:], strict=False)]
        found: list[torch.Tensor | None] = [None] * len(weights)
        if any(wanted[1 + ctx.count :]):
            buffer = output.new_zeros(sum(each.numel() for each in weights))
            begin = 0
            for index, each in enumerate(weights):
                found[index] = buffer[begin : begin + each.numel()].view(each.shape)
                begin += each.numel()
        return None, None, None, first, *before, *found
