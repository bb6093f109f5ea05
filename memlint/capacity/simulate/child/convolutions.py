"""Workspaces of cuDNN's convolutions: not modelled yet, zero."""

from __future__ import annotations

from typing import Any


def forward(args: Any, result: Any, capability: tuple[int, int]) -> int:  # noqa: ARG001
    """Bytes for ``aten::convolution`` with these arguments and this result."""
    return 0


def backward(args: Any, capability: tuple[int, int]) -> tuple[int, ...]:  # noqa: ARG001
    """Bytes for each kernel of ``aten::convolution_backward``, which run one after the other."""
    return ()
