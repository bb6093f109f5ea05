"""What PyTorch's core decides by device, as it decides on CUDA: attention, dropout, softmax of half precision.

The core sees the host, so that it would take the host's way. Each of these operators is implemented anew for autograd's
host key; tensors that are on no simulated device go the old way. Sources (pytorch v2.6.0):
``aten/src/ATen/native/transformers/cuda/sdp_utils.cpp`` (which attention), ``.../transformers/attention.cpp``
(``scaled_dot_product_attention``, ``pad_bias``, ``convert_boolean_attn_mask``), ``native/Dropout.cpp``
(``is_fused_kernel_acceptable``), ``native/SoftMax.cpp`` (``half_to_float``).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from memlint.capacity.simulate.child import recurrent
from memlint.capacity.simulate.child.device import CUDA, SimulatedDevice
from memlint.trace.events import Category

aten = torch.ops.aten

_FLASH_TYPES = (torch.float16, torch.bfloat16)
_FLASH_LARGEST_HEAD = 256
_BIAS_ALIGNMENT = 16
"""Elements that the last dimension of a mask is padded to a multiple of, and sliced back (``pad_bias<16>``)."""


class Kernels:
    """The replaced operators; they stay replaced as long as this object lives."""

    def __init__(self, device: SimulatedDevice, capability: tuple[int, int]) -> None:
        self._device = device
        self._capability = capability
        self._library = torch.library.Library("aten", "IMPL")
        self._replace(aten.scaled_dot_product_attention.default, self._attention)
        self._replace(aten.dropout.default, self._dropout)
        self._replace(aten.softmax.int, self._softmax)
        self._replace(aten.log_softmax.int, self._log_softmax)
        for name in recurrent.KEPT:
            packet = getattr(aten, name)
            self._replace(packet.input, partial(self._recurrent, packet.input, name))
            self._replace(packet.data, partial(self._packed, packet.data, name))

    def _replace(self, operator: Any, kernel: Callable[..., Any]) -> None:
        def run(*args: Any, **kwargs: Any) -> Any:
            if self._device.of(args[0]).type != CUDA:
                return _as_before(operator, *args, **kwargs)
            return kernel(*args, **kwargs)

        name = operator.name().removeprefix("aten::")
        self._library.impl(name, run, "AutogradCPU")
        self._device.replacements[operator] = run

    # Attention

    def _attention(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attn_mask: torch.Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        *,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Any:
        needs_grad = torch.is_grad_enabled() and any(each.requires_grad for each in (query, key, value))
        if self._is_flash(query, key, value, attn_mask):
            return _flash(query, key, value, dropout_p, is_causal, scale)
        if self._is_efficient(query, key, value, attn_mask, enable_gqa):
            bias = _bias(attn_mask, query, key)
            return aten._scaled_dot_product_efficient_attention(
                query, key, value, bias, needs_grad, dropout_p, is_causal, scale=scale
            )[0]
        return aten._scaled_dot_product_attention_math(
            query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
        )[0]

    def _is_flash(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any) -> bool:
        return (
            self._capability >= (8, 0)
            and torch.backends.cuda.flash_sdp_enabled()
            and mask is None
            and query.dim() == 4
            and query.dtype in _FLASH_TYPES
            and query.size(-1) == value.size(-1)
            and query.size(-1) <= _FLASH_LARGEST_HEAD
            and _all_dense(query, key, value)
        )

    def _is_efficient(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, gqa: bool
    ) -> bool:
        if not torch.backends.cuda.mem_efficient_sdp_enabled() or query.dim() != 4 or gqa:
            return False
        if mask is not None and mask.requires_grad and query.size(-2) % _BIAS_ALIGNMENT:
            return False
        alignment = 4 if query.dtype is torch.float32 else 8
        known = query.dtype in (torch.float32, *_FLASH_TYPES)
        aligned = query.size(-1) % alignment == 0 and value.size(-1) % alignment == 0
        return known and aligned and _all_dense(query, key, value) and key.size(1) == query.size(1)

    # Recurrent layers

    def _recurrent(
        self, operator: Any, name: str, tensor: torch.Tensor, states: Any, weights: list[torch.Tensor], *layout: Any
    ) -> Any:
        if not recurrent.is_accepted(tensor):
            return _as_before(operator, tensor, states, weights, *layout)
        _biases, count, _dropout, train, bidirectional, batch_first = layout
        layers = recurrent.Layers(recurrent.KEPT[name], count, 1 + bidirectional, train, batch_first)
        return self._layers(layers, tensor, states, weights)

    def _packed(
        self, operator: Any, name: str, tensor: torch.Tensor, sizes: torch.Tensor, states: Any, *layout: Any
    ) -> Any:
        if not recurrent.is_accepted(tensor):
            return _as_before(operator, tensor, sizes, states, *layout)
        weights, _biases, count, _dropout, train, bidirectional = layout
        layers = recurrent.Layers(recurrent.KEPT[name], count, 1 + bidirectional, train, batch_first=False)
        return self._layers(layers, tensor, states, weights)

    def _layers(self, layers: recurrent.Layers, tensor: torch.Tensor, states: Any, weights: list[torch.Tensor]) -> Any:
        given = [states] if isinstance(states, torch.Tensor) else states
        keep = partial(self._device.recorder.classify, category=Category.ACTIVATION)
        return recurrent.run(layers, tensor, given, weights, keep)

    # Dropout and softmax

    def _dropout(self, tensor: torch.Tensor, p: float, train: bool) -> torch.Tensor:
        if 0 < p < 1 and train and tensor.numel() > 0:
            result: torch.Tensor = aten.native_dropout(tensor, p, train)[0]
            return result
        return tensor if p == 0 or not train or tensor.numel() == 0 else tensor * torch.zeros_like(tensor)

    def _softmax(self, tensor: torch.Tensor, dim: int, dtype: torch.dtype | None = None) -> Any:
        return _without_cast(aten._softmax, tensor, dim, dtype)

    def _log_softmax(self, tensor: torch.Tensor, dim: int, dtype: torch.dtype | None = None) -> Any:
        return _without_cast(aten._log_softmax, tensor, dim, dtype)


def _as_before(operator: Any, *args: Any, **kwargs: Any) -> Any:
    return operator._op_dk(torch._C.DispatchKey.CompositeImplicitAutograd, *args, **kwargs)


def _without_cast(operator: Any, tensor: torch.Tensor, dim: int, dtype: torch.dtype | None) -> Any:
    """On CUDA a softmax reads half precision and writes single precision, without a copy in between."""
    if tensor.dtype is torch.float16 and dtype is torch.float32:
        return operator(tensor, dim, True)
    return operator(tensor if dtype is None else tensor.to(dtype), dim, False)


def _flash(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, dropout: float, causal: bool, scale: float | None
) -> torch.Tensor:
    width = query.size(-1)
    if width % 8:
        # The kernel takes heads of a multiple of 8; padded copies are what it works on.
        pad = 8 - width % 8
        query, key, value = (torch.nn.functional.pad(each, (0, pad)) for each in (query, key, value))
        scale = scale if scale is not None else width**-0.5
    out: torch.Tensor = aten._scaled_dot_product_flash_attention(query, key, value, dropout, causal, scale=scale)[0]
    return out[..., :width] if width % 8 else out


def _bias(mask: torch.Tensor | None, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor | None:
    if mask is None:
        return None
    if mask.dtype is torch.bool:
        zeros = torch.zeros_like(mask, dtype=query.dtype)
        mask = zeros.masked_fill_(mask.logical_not(), float("-inf"))
    width = mask.size(-1)
    if width % _BIAS_ALIGNMENT:
        padded = torch.nn.functional.pad(mask, (0, _BIAS_ALIGNMENT - width % _BIAS_ALIGNMENT))
        mask = padded[..., :width]
    return mask.expand(query.size(0), query.size(1), query.size(2), key.size(2))


def _all_dense(*tensors: torch.Tensor) -> bool:
    """Whether the last dimension of each is contiguous, as both fused kernels demand."""
    return all(each.stride(-1) == 1 or each.size(-1) == 1 for each in tensors)
