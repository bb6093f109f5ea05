"""Reading what a rule asks of a fixer. A request that the fixer's docstring does not allow is an error of the rule."""

from __future__ import annotations

from collections.abc import Collection
from typing import TypeVar

import libcst

from memlint.findings import Fix

Node = TypeVar("Node", bound=libcst.CSTNode)


def expect(fix: Fix, *, targets: Collection[str], options: Collection[str] = ()) -> None:
    """Raises ValueError if ``fix`` names a target or an option that is not among these."""
    for kind, named, known in (("target", fix.targets, targets), ("option", fix.options, options)):
        for name in named:
            if name not in known:
                raise ValueError(f"the fixer {fix.fixer} knows no {kind} {name!r}, only {', '.join(known) or 'none'}")


def nodes(fix: Fix, name: str) -> tuple[libcst.CSTNode, ...]:
    """The nodes of one target, of which a rule may give one or several. Raises ValueError if there is none."""
    given = fix.targets.get(name, ())
    found = given if isinstance(given, tuple) else (given,)
    if not found:
        raise ValueError(f"the fixer {fix.fixer} needs the target {name!r}")
    return found


def node(fix: Fix, name: str) -> libcst.CSTNode:
    """The only node of one target. Raises ValueError if there is none, or more than one."""
    found = nodes(fix, name)
    if len(found) > 1:
        raise ValueError(f"the fixer {fix.fixer} takes one {name!r} at a time")
    return found[0]


def target(fix: Fix, name: str, kind: type[Node]) -> Node:
    """The only node of one target. Raises ValueError if it is none of its ``kind``."""
    found = node(fix, name)
    if not isinstance(found, kind):
        raise ValueError(
            f"the fixer {fix.fixer} needs the target {name!r} to be a {kind.__name__}, not a {type(found).__name__}"
        )
    return found


def expression(fix: Fix, name: str) -> libcst.BaseExpression:
    """The only node of one target, an expression. Raises ValueError if it is none."""
    found = node(fix, name)
    if not isinstance(found, libcst.BaseExpression):
        raise ValueError(
            f"the fixer {fix.fixer} needs the target {name!r} to be an expression, not a {type(found).__name__}"
        )
    return found


def option(fix: Fix, name: str, default: str | None = None) -> str:
    """The text of one option. Raises ValueError if it is missing and has no ``default``, or is not text."""
    value = fix.options.get(name, default)
    if not isinstance(value, str):
        raise ValueError(f"the fixer {fix.fixer} needs a text for the option {name!r}")
    return value


def choice(fix: Fix, name: str, choices: tuple[str, ...]) -> str:
    """The text of an option that is one of ``choices``; the first is the default. Raises ValueError for others."""
    value = option(fix, name, choices[0])
    if value not in choices:
        raise ValueError(f"the fixer {fix.fixer} takes {' or '.join(choices)} for the option {name!r}, not {value!r}")
    return value
