"""Workspaces of cuDNN's convolutions, as far as their cause is known.

Tensor cores read channels-last tensors. Where PyTorch hands over contiguous (NCHW) ones, cuDNN transposes them into its
workspace and back ("Tensor Layouts In Memory: NCHW vs NHWC" in
https://docs.nvidia.com/deeplearning/performance/dl-performance-convolutional/). For which kernels it does so is not
documented. Here they are those for the gradients of the input and of the weight, and not forward, pointwise (matrix
products) and grouped convolutions: of 13 such assumptions the one that agreed best with the measured peaks of 28 runs
of VGG, MnasNet, MobileNet, RegNet and ConvNeXt. Depthwise convolutions of contiguous tensors are PyTorch's own kernels
(``ConvParams::use_cudnn_depthwise`` in ``aten/src/ATen/native/Convolution.cpp``, v2.6.0).

Not modelled: grouped convolutions, algorithms that trade memory for speed (Winograd, FFT, split sums), and
``torch.backends.cudnn.benchmark``, which tries all of them.
"""

from __future__ import annotations

from typing import Any

import torch

_HALF = (torch.float16, torch.bfloat16)
_FIRST_CHANNELS = 4
"""Images of fewer channels are no work for tensor cores."""


def backward(args: Any, capability: tuple[int, int]) -> tuple[int, ...]:
    """Bytes for each kernel of ``aten::convolution_backward`` with these arguments; one runs after the other."""
    gradient, tensor, weight = args[:3]
    groups, wanted = args[9], args[10]
    if not _is_transposed(tensor, weight, groups, capability):
        return ()
    size = sum(each.numel() * each.element_size() for each in (gradient, tensor, weight))
    return (int(size),) * int(sum(wanted[:2]))


def _is_transposed(tensor: torch.Tensor, weight: torch.Tensor, groups: int, capability: tuple[int, int]) -> bool:
    """Whether the kernels work on channels-last copies."""
    if groups > 1 or tensor.dim() != 4 or tensor.size(1) < _FIRST_CHANNELS:
        return False
    is_pointwise = weight.shape[2:] == (1, 1)
    return not is_pointwise and not _is_channels_last(tensor) and _on_tensor_cores(tensor.dtype, capability)


def _is_channels_last(tensor: torch.Tensor) -> bool:
    return tensor.is_contiguous(memory_format=torch.channels_last) and not tensor.is_contiguous()


def _on_tensor_cores(dtype: torch.dtype, capability: tuple[int, int]) -> bool:
    if dtype in _HALF:
        return capability >= (7, 0)
    return dtype is torch.float32 and capability >= (8, 0) and bool(torch.backends.cudnn.allow_tf32)
