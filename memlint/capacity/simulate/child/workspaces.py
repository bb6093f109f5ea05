"""What CUDA's libraries allocate for themselves through PyTorch's allocator while an operator runs."""

from __future__ import annotations

import os
from typing import Any

import torch

from memlint.capacity.simulate.child import convolutions
from memlint.capacity.simulate.child.recorder import DeviceRecorder
from memlint.trace.events import MemoryEvent, Phase

aten = torch.ops.aten

_KIB = 1024
_MIB = 1024 * _KIB
_GEMMS = frozenset({"aten::mm", "aten::bmm", "aten::addmm", "aten::baddbmm", "aten::addbmm", "aten::addmv", "aten::mv"})
_LT = _MIB
"""Of cuBLASLt, which multiplies and adds a bias in one kernel (``CUBLASLT_WORKSPACE_SIZE``, 1024 KiB)."""
_CUBLAS_HOPPER = 32 * _MIB
_CUBLAS = (4096 * 2 + 16 * 8) * _KIB
"""``:4096:2:16:8``, as of ``getChosenWorkspaceSize`` in ``aten/src/ATen/cuda/CublasHandlePool.cpp`` (v2.6.0); 32 MiB
from compute capability 9.0 on."""
_UNCACHED_SINCE = (2, 14)
"""From here on ``TORCH_CUBLAS_WORKSPACE_CACHE`` is off by default: cuBLAS keeps its workspace outside the allocator."""


class Workspaces:
    """Holds and releases what the kernel behind each operator would."""

    def __init__(self, recorder: DeviceRecorder, capability: tuple[int, int], version: tuple[int, int]) -> None:
        self._recorder = recorder
        self._capability = capability
        self._cublas = 0 if version >= _UNCACHED_SINCE else cublas_workspace(capability)
        self._handles: dict[tuple[int, bool], MemoryEvent] = {}

    def around(self, func: Any, args: Any, _kwargs: Any, _result: Any, index: int) -> None:
        """An operator has allocated its results; now its kernel runs."""
        name = func._schema.name if hasattr(func, "_schema") else ""
        if name in _GEMMS:
            self._multiply(name, args, index)
        elif name == "aten::convolution_backward":
            for size in convolutions.backward(args, self._capability):
                self._transient(index, "cudnn", size)

    def forget(self, index: int) -> None:
        """``torch._C._cuda_clearCublasWorkspaces``."""
        for key in [key for key in self._handles if key[0] == index]:
            self._recorder.release(self._handles.pop(key))

    def _multiply(self, name: str, args: Any, index: int) -> None:
        adds_bias = name == "aten::addmm" and args[0].dim() == 1
        lt = self._recorder.hold(index, _LT, "cublasLt") if adds_bias else None
        # A handle belongs to a thread, and the backward pass has one of its own.
        key = (index, self._recorder.phase is Phase.BACKWARD)
        if self._cublas and key not in self._handles:
            self._handles[key] = self._recorder.hold(index, self._cublas, "cublas")
        if lt is not None:
            self._recorder.release(lt)

    def _transient(self, index: int, name: str, size: int) -> None:
        if size:
            self._recorder.release(self._recorder.hold(index, size, name))


def cublas_workspace(capability: tuple[int, int]) -> int:
    """Bytes for each handle and stream, as the environment says, else as PyTorch chooses."""
    text = os.environ.get("CUBLAS_WORKSPACE_CONFIG", "")
    numbers = [int(each) for each in text.split(":") if each.isdecimal()]
    if numbers and len(numbers) % 2 == 0:
        return sum(size * count for size, count in zip(numbers[::2], numbers[1::2], strict=True)) * _KIB
    return _CUBLAS_HOPPER if capability >= (9, 0) else _CUBLAS
