"""The statements in which expressions stand, as fixes need them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import libcst as cst

from memlint.model.values import Store, Value

Statement = cst.BaseStatement | cst.BaseSmallStatement


def statements_over(scope: cst.CSTNode, nodes: Collection[cst.CSTNode]) -> tuple[Statement, ...]:
    """The shortest run of statements in one block of ``scope`` (a function or module) that holds all ``nodes``.

    Empty if there is none, as in a lambda. What stands behind semicolons on one row is several statements.
    """
    run: tuple[Statement, ...] = ()
    blocks = list(_blocks(scope))
    while blocks:
        found = next(filter(None, (_run_in(block, nodes) for block in blocks)), ())
        if not found:
            break
        run = found
        blocks = list(_blocks(run[0])) if len(run) == 1 else []
    return run


def held_in(statements: Sequence[cst.CSTNode]) -> frozenset[cst.CSTNode]:
    """Every node of ``statements`` or expressions; nodes are the same only if they are identical."""
    found: list[cst.CSTNode] = []
    pending: list[cst.CSTNode] = list(statements)
    while pending:
        node = pending.pop()
        found.append(node)
        pending.extend(node.children)
    return frozenset(found)


def _run_in(block: Sequence[Statement], nodes: Collection[cst.CSTNode]) -> tuple[Statement, ...]:
    """The statements of ``block`` from the first to the last that hold one of ``nodes``; empty if it lacks some."""
    held = [held_in([statement]) for statement in block]
    places = [[index for index, inside in enumerate(held) if node in inside] for node in nodes]
    if not all(places):
        return ()
    indices = [index for found in places for index in found]
    return tuple(block[min(indices) : max(indices) + 1])


def _blocks(node: cst.CSTNode) -> Iterator[Sequence[Statement]]:
    """The blocks of a module, a function or a compound statement."""
    if isinstance(node, cst.Module):
        yield list(_split(node.body))
        return
    for child in node.children:
        if isinstance(child, cst.BaseSuite):
            yield list(_split(child.body))
        elif isinstance(child, _CLAUSES):
            yield from _blocks(child)


_CLAUSES = (cst.If, cst.Else, cst.Finally, cst.ExceptHandler, cst.ExceptStarHandler, cst.MatchCase)


def _split(body: Sequence[Statement]) -> Iterator[Statement]:
    for statement in body:
        if isinstance(statement, cst.SimpleStatementLine):
            yield from statement.body
        else:
            yield statement


def name_of(value: Value) -> cst.CSTNode | None:
    """What ``value`` is assigned to where it is computed; None if it gets no name there."""
    return next((use.target for use in value.uses if isinstance(use, Store) and use.value is value), None)
