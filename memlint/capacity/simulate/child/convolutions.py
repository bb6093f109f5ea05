"""Workspaces of cuDNN's convolutions."""

from __future__ import annotations

from typing import Any


def forward(args: Any, result: Any, capability: tuple[int, int]) -> int:
    return 0


def backward(args: Any, capability: tuple[int, int]) -> tuple[int, ...]:
    return ()
