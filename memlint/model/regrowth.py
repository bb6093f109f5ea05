"""Tensors that grow by ``torch.cat``, so that what is there already is copied for each batch."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from memlint.findings import Confidence
from memlint.model.accumulations import Accumulation, concatenates
from memlint.model.attachment import Attachment, attachment
from memlint.model.footprint import Footprint, footprint
from memlint.model.gradmode import GradMode, grad_mode
from memlint.model.loops import iterates_over_data
from memlint.model.paths import path_key
from memlint.model.source_text import code
from memlint.model.spans import Span, loops_outlived
from memlint.model.values import Branch, Call, Choice, Loop, Store


def concatenation(accumulation: Accumulation) -> Accumulation:
    """What grows the tensor in ``first if buffer is None else torch.cat((buffer, new))``; else ``accumulation``."""
    ways = accumulation.value.values if isinstance(accumulation.value, Choice) else ()
    grown = (accumulation._replace(value=way) for way in ways)
    return next(filter(concatenates, grown), accumulation)


def is_copied_each_time(accumulation: Accumulation) -> Confidence | None:
    """How sure it is that each batch of a data set copies a tensor into a larger one.

    Possible: with its graph the tensor is an activation, which a loss may need.
    """
    if not isinstance(accumulation.value, Call) or not concatenates(accumulation):
        return None
    loop = next((loop for loop in _loops(accumulation) if iterates_over_data(loop)), None)
    if loop is None or accumulation.region.function.module.is_test or _is_cut(accumulation, loop):
        return None
    if grad_mode(accumulation.region) is GradMode.DISABLED:
        return Confidence.LIKELY
    # What a model returns on the device is kept there, which is worse and is said elsewhere.
    kept = all(
        attachment(each.value) is Attachment.DETACHED and footprint(each.value) is not Footprint.FULL
        for each in accumulation.addends
    )
    return Confidence.LIKELY if kept else Confidence.POSSIBLE


def _loops(accumulation: Accumulation) -> Iterator[Loop]:
    """The loops over whose iterations the tensor lives, innermost first.

    An entry of a dict lives as long as the dict, also where a loop over its keys lies in a loop over data.
    """
    if accumulation.loop is None or accumulation.span is not Span.ITERATION:
        return
    yield accumulation.loop
    for store in accumulation.function.stores:
        if store.target is accumulation.holder and store.base is not None and store.index is not None:
            yield from loops_outlived(store.base, store.region)


def _is_cut(accumulation: Accumulation, loop: Loop) -> bool:
    """Whether the loop keeps a part of the tensor only, or begins it anew, and not only where there is none yet."""
    place = _place(accumulation.holder)
    return any(
        _place(store.target) == place
        and store.target is not accumulation.holder
        and store.region.within(loop)
        and not _is_first(store, accumulation)
        for store in accumulation.function.stores
    )


def _place(target: cst.CSTNode) -> str:
    """A name for what is stored to, computed keys included as they are written."""
    return path_key(target) or code(target)


def _is_first(store: Store, accumulation: Accumulation) -> bool:
    """Whether ``store`` is the other way of the ``if`` that the accumulation is a way of: ``if key not in kept``."""
    branch = store.region
    return isinstance(branch, Branch) and any(
        accumulation.region.within(other) for other in branch.siblings if other is not branch
    )
