"""Steps once in several iterations of a training loop, on smaller batches, with their gradients added up.

``loss.backward()`` becomes ``(loss / 8).backward()``, and ``optimizer.step()`` runs ``if (index + 1) % 8 == 0:``. The
loop counts its iterations by ``enumerate``, unless it does already.

Targets:
    loop: the ``for``.
    call: the call of the loss's ``backward``, a statement of its own.
    step: the statements that only run once in several iterations, at the end of the last of them.
    clear: those that only run at the beginning of the first of them, before the backward; none by default.
    batch: the number that is the size of a batch.

Options:
    steps: how many iterations there are to a step.
    batch: the size of the smaller batches.
    index: the name by which the loop counts its iterations already, from 0 on. Without it, the loop is made to count.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import libcst

from memlint.diagnostics import Edit
from memlint.findings import CannotFix, Fix
from memlint.fixers._asked import expect, nodes, option, target
from memlint.fixers._expressions import walk
from memlint.fixers._names import free_name
from memlint.fixers._statements import on_own_rows, siblings, split, whole
from memlint.fixers._with import consecutive, under_header
from memlint.source import Source, Statement


def edits(fix: Fix, source: Source) -> list[Edit]:
    """The edits that count the iterations, divide the loss, guard the statements and change the number."""
    expect(fix, targets=["loop", "call", "step", "clear", "batch"], options=["steps", "batch", "index"])
    loop = target(fix, "loop", libcst.For)
    backward = target(fix, "call", libcst.Call)
    number = target(fix, "batch", libcst.Integer)
    steps = option(fix, "steps")
    step = _run(fix, "step", source)
    clear = _run(fix, "clear", source) if "clear" in fix.targets else ()
    _check(source, loop, backward, number, [*step, *clear])
    known = option(fix, "index", "")
    index = known or free_name(source, "index")
    found = [*_divided(source, backward, steps), source.edit(*source.span(number), option(fix, "batch"))]
    found += under_header(source, step, f"if ({index} + 1) % {steps} == 0:")
    if clear:
        found += under_header(source, clear, f"if {index} % {steps} == 0:")
    return found if known else [*found, *_counting(source, loop, index)]


def _run(fix: Fix, name: str, source: Source) -> Sequence[Statement]:
    wanted = [single for node in nodes(fix, name) for single in split(whole(source, node))]
    return consecutive(source, wanted)


def _check(
    source: Source, loop: libcst.For, backward: libcst.Call, number: libcst.Integer, guarded: Sequence[Statement]
) -> None:
    if loop.asynchronous is not None:
        raise CannotFix("the loop is asynchronous")
    statement = whole(source, backward)
    if not isinstance(statement, libcst.Expr) or statement.value is not backward:
        raise CannotFix("the backward is part of a larger statement")
    if any(siblings(source, each)[0] is not loop.body for each in [statement, *guarded]):
        raise CannotFix("the statements are not all in the block of the loop")
    if statement in guarded or len(set(guarded)) < len(guarded):
        raise CannotFix("a statement is meant twice")
    if not all(on_own_rows(source, each) for each in guarded):
        raise CannotFix("a statement shares its row")
    if number in walk(loop.body):
        raise CannotFix("the batch is made in the loop")


def _divided(source: Source, backward: libcst.Call, steps: str) -> Iterator[Edit]:
    if not isinstance(backward.func, libcst.Attribute):
        raise CannotFix("the backward is no method of the loss")
    start, end = source.outer_span(backward.func.value)
    yield source.edit(start, start, "(")
    yield source.edit(end, end, f" / {steps})")


def _counting(source: Source, loop: libcst.For, index: str) -> Iterator[Edit]:
    """The edits that let ``loop`` count its iterations by the name ``index``."""
    if isinstance(loop.iter, libcst.Tuple) and not loop.iter.lpar:
        raise CannotFix("what the loop runs over is written without parentheses")
    start, end = source.outer_span(loop.target)
    is_bare = isinstance(loop.target, libcst.Tuple) and not loop.target.lpar
    yield source.edit(start, start, f"{_space(source, start)}{index}, {'(' if is_bare else ''}")
    yield source.edit(end, end, ")" if is_bare else "")
    start, end = source.outer_span(loop.iter)
    yield source.edit(start, start, f"{_space(source, start)}enumerate(")
    yield source.edit(end, end, ")")


def _space(source: Source, start: int) -> str:
    """What keeps a name at ``start`` apart from the word before it."""
    return " " if source.text[start - 1].isalnum() else ""
