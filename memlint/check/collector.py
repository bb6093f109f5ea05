"""Keeps Python's garbage collector out of the way."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_out() -> Iterator[None]:
    """Keeps the garbage collector from going through what is in use anyway, and at the end to no avail.

    What becomes garbage are whole modules at once, and the project collects them when it drops them.
    """
    was_on = gc.isenabled()
    gc.disable()
    gc.unfreeze()
    try:
        yield
    finally:
        if was_on:
            gc.freeze()
            gc.enable()
