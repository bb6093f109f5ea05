"""Adds an argument to a call: ``torch.load(path)`` becomes ``torch.load(path, map_location="cpu")``.

A keyword goes last, a positional argument behind the other positional ones. Where each argument has its own row, the
new one has too; a trailing comma stays one.

Targets:
    call: the call.

Options:
    code: the argument, such as ``map_location="cpu"``.
    import: what the argument needs imported, such as ``torch``.
"""

from __future__ import annotations

from collections.abc import Iterator

import libcst

from memlint.diagnostics import Edit
from memlint.findings import CannotFix, Fix
from memlint.fixers._asked import expect, option, target
from memlint.fixers._expressions import parsed
from memlint.fixers._imports import import_edits
from memlint.places import Span
from memlint.source import Source


def edits(fix: Fix, source: Source) -> list[Edit]:
    """The edits that insert the argument and the commas that it needs."""
    expect(fix, targets=["call"], options=["code", "import"])
    call = target(fix, "call", libcst.Call)
    code = option(fix, "code")
    return [*import_edits(fix, source, call), *_addition(source, call, code, _argument(code))]


def _argument(code: str) -> libcst.Arg:
    call = parsed(f"f({code})")
    if not isinstance(call, libcst.Call) or len(call.args) != 1:
        raise ValueError(f"{code!r} is not one argument")
    return call.args[0]


def _addition(source: Source, call: libcst.Call, code: str, new: libcst.Arg) -> Iterator[Edit]:
    if new.keyword:
        if any(arg.keyword and arg.keyword.value == new.keyword.value for arg in call.args):
            raise CannotFix(f"the argument {new.keyword.value} is given already")
    elif not new.star:
        if any(arg.star == "*" for arg in call.args):
            raise CannotFix("how many positional arguments there are is not known")
        if named := next((arg for arg in call.args if arg.keyword or arg.star), None):
            at = source.span(named).start
            yield source.edit(at, at, f"{code},{_row_break(source, named) or ' '}")
            return
    yield from _at_end(source, call, code) if call.args else [_only(source, call, code)]


def _only(source: Source, call: libcst.Call, code: str) -> Edit:
    """The edit that makes ``code`` the only argument; what is between the parentheses may be a comment."""
    start, end = source.span(call.whitespace_before_args).start, source.span(call).end - 1
    return source.edit(start, start if source.has_comment(start, end) else end, code)


def _at_end(source: Source, call: libcst.Call, code: str) -> Iterator[Edit]:
    last = call.args[-1]
    start, end = source.span(last)
    if isinstance(last.value, libcst.GeneratorExp) and not last.value.lpar:
        yield source.edit(start, start, "(")
        yield source.edit(end, end, ")")
    separated = source.span(last.comma).end if isinstance(last.comma, libcst.Comma) else None
    row_break = _row_break(source, last)
    row_end = source.row_end(source.place(separated or end).row)
    if row_break and row_end < source.span(call).end:
        # The new row goes below the last argument's comment, its comma before that.
        if not separated:
            yield source.edit(end, end, ",")
        yield source.edit(row_end, row_end, row_break + code + ("," if separated else ""))
    elif separated:
        yield source.edit(separated, separated, f" {code},")
    else:
        yield source.edit(end, end, f",{row_break or ' '}{code}")


def _row_break(source: Source, arg: libcst.Arg) -> str | None:
    """What starts another row like that of ``arg``; None if ``arg`` is not the first on its row."""
    span = Span(source.row_starts[source.location(arg).row - 1], source.span(arg).start)
    before = source.text[span.start : span.end]
    return None if before.strip() else source.newline(span.start) + before
