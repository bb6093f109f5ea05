"""Tensors that grow by ``torch.cat``, so that what is there already is copied for each batch."""

from __future__ import annotations

from dataclasses import replace

from memlint.findings import Confidence
from memlint.model.accumulations import Accumulation, concatenates
from memlint.model.gradmode import GradMode, grad_mode
from memlint.model.loops import iterates_over_data
from memlint.model.paths import path_key
from memlint.model.spans import Span
from memlint.model.values import Call, Choice


def concatenation(accumulation: Accumulation) -> Accumulation:
    """What grows the tensor in ``first if buffer is None else torch.cat((buffer, new))``; else ``accumulation``."""
    ways = accumulation.value.values if isinstance(accumulation.value, Choice) else ()
    grown = (replace(accumulation, value=way) for way in ways)
    return next(filter(concatenates, grown), accumulation)


def is_copied_each_time(accumulation: Accumulation) -> Confidence | None:
    """How sure it is that each batch of a data set copies a tensor into a larger one.

    Possible: with its graph the tensor is an activation, which a loss may need.
    """
    loop = accumulation.loop
    if loop is None or accumulation.span is not Span.ITERATION or not concatenates(accumulation):
        return None
    found = iterates_over_data(loop) if isinstance(accumulation.value, Call) else None
    if found is None or accumulation.region.function.module.is_test or _is_cut(accumulation):
        return None
    return Confidence.LIKELY if grad_mode(accumulation.region) is GradMode.DISABLED else Confidence.POSSIBLE


def _is_cut(accumulation: Accumulation) -> bool:
    """Whether the loop keeps a part of the tensor only, or begins it anew."""
    loop, key = accumulation.loop, path_key(accumulation.holder)
    return loop is not None and any(
        store.key == key and store.target is not accumulation.holder and store.region.within(loop)
        for store in accumulation.function.stores
    )
