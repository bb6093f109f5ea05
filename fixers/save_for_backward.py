"""Moves a tensor from an attribute of the context to the saved tensors of a custom autograd function.

``ctx.x = x`` in ``forward`` becomes ``ctx.save_for_backward(x)``, and ``ctx.x`` in ``backward`` a name that is unpacked
from ``ctx.saved_tensors``. What is saved there already stays in front.

Targets:
    statement: the assignment ``ctx.x = x``.
    backward: the function that reads ``ctx.x``.
    reads: the expressions ``ctx.x`` in it, one or several.
    call: the call of ``save_for_backward`` that is there already; none by default.
    unpacking: the assignment ``y, z = ctx.saved_tensors`` that is there already; needed with ``call``.

Options:
    name: the name that the backward gives to the tensor.
"""

from __future__ import annotations

from collections.abc import Iterator

import libcst

from memlint.diagnostics import Edit
from memlint.findings import CannotFix, Fix
from memlint.fixers._asked import expect, nodes, option, target
from memlint.fixers._statements import insertion, is_docstring, removal, siblings, whole
from memlint.source import Source, Statement


def edits(fix: Fix, source: Source) -> list[Edit]:
    """The edits in the forward and in the backward."""
    expect(fix, targets=["statement", "backward", "reads", "call", "unpacking"], options=["name"])
    name = option(fix, "name")
    assignment = target(fix, "statement", libcst.Assign)
    reads = [source.span(read) for read in nodes(fix, "reads")]
    if any(read.start in range(*source.span(assignment)) for read in reads):
        raise CannotFix("the assignment reads the attribute itself")
    edited = (source.edit(*read, name) for read in reads)
    return [*_saved(fix, source, assignment), *_unpacked(fix, source, name), *edited]


def _saved(fix: Fix, source: Source, assignment: libcst.Assign) -> Iterator[Edit]:
    value = _value(source, assignment)
    if "call" not in fix.targets:
        context = source.code(_attribute(assignment.targets[0].target).value)
        yield source.edit(*source.span(assignment), f"{context}.save_for_backward({value})")
        return
    call = target(fix, "call", libcst.Call)
    if not call.args:
        raise CannotFix("nothing is saved in the call that is there already")
    end = source.span(call.args[-1]).end
    yield source.edit(end, end, f", {value}")
    yield from removal(source, [whole(source, assignment)])


def _value(source: Source, assignment: libcst.Assign) -> str:
    """The text of what is assigned, as an argument."""
    value = assignment.value
    if len(assignment.targets) != 1:
        raise CannotFix("the tensor gets several names at once")
    if source.has_comment(*source.span(assignment)):
        raise CannotFix("a comment inside the assignment would be lost")
    if isinstance(value, (libcst.Tuple, libcst.Yield)):
        raise CannotFix("what is assigned is not one tensor")
    return source.code(value)


def _attribute(node: libcst.CSTNode) -> libcst.Attribute:
    if not isinstance(node, libcst.Attribute):
        raise CannotFix("what is assigned to is no attribute of the context")
    return node


def _unpacked(fix: Fix, source: Source, name: str) -> Iterator[Edit]:
    if "unpacking" in fix.targets:
        names = target(fix, "unpacking", libcst.Assign).targets[0].target
        if not isinstance(names, (libcst.Tuple, libcst.List)) or not names.elements:
            raise CannotFix("the saved tensors are not unpacked")
        end = source.span(names.elements[-1]).end
        yield source.edit(end, end, f", {name}")
        return
    backward = target(fix, "backward", libcst.FunctionDef)
    parameters = (*backward.params.posonly_params, *backward.params.params)
    if not parameters:
        raise CannotFix("the backward takes no context")
    unpacking = f"({name},) = {parameters[0].name.value}.saved_tensors"
    yield insertion(source, _first(source, backward), unpacking, after=False)


def _first(source: Source, function: libcst.FunctionDef) -> Statement:
    """The first statement behind the docstring."""
    line = function.body.body[0]
    assert isinstance(line, Statement)
    _, statements = siblings(source, line)
    first: Statement = statements[1 if len(statements) > 1 and is_docstring(statements[0]) else 0]
    return first
