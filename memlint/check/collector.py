"""Keeps Python's garbage collector out of the way."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

from memlint.check.interrupts import interrupts_deferred


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


def let_go() -> None:
    """Frees what a check has left behind, in a process that goes on."""
    gc.unfreeze()
    # An exception in what is called when objects go is swallowed.
    with interrupts_deferred():
        gc.collect()
