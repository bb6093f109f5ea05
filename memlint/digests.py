"""Tells the contents of two files apart."""

from __future__ import annotations

from hashlib import blake2b


def digest(data: bytes) -> bytes:
    """16 bytes that stand for ``data``."""
    return blake2b(data, digest_size=16).digest()
