"""Runs of a function that leave out some of its branches: those of a flag that callers pass, of one phase of a loop."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import libcst as cst

from memlint.model.aliases import sources
from memlint.model.calls import bound_arguments, proven_call_sites
from memlint.model.downstream import Reach, gradient_flow_within
from memlint.model.effects import Effect, effects
from memlint.model.forwards import Mode, mode_before
from memlint.model.gradmode import GradMode, grad_mode
from memlint.model.identity import objects, seen_from
from memlint.model.kinds import Role, role
from memlint.model.memo import query
from memlint.model.scopes import Function
from memlint.model.source_text import written
from memlint.model.values import (
    Attribute,
    Branch,
    Call,
    Choice,
    Comparison,
    Constant,
    Display,
    Element,
    Free,
    Parameter,
    Part,
    Phi,
    Region,
    Unary,
    Value,
)


class PartialRun(NamedTuple):
    """A way in which a function runs without some of its branches.

    ``branch`` is the first of them; ``cause`` decides on its test: the call that passes a flag, the element of a loop.
    """

    branch: Branch
    cause: Value
    dead: frozenset[Branch]
    callers: tuple[Call, ...]
    """The calls through which the function is run, the nearest first; empty for all of them."""

    @property
    def condition(self) -> str:
        """The text of what is true in the other runs."""
        node = self.branch.node
        assert isinstance(node, cst.If)
        test = node.test
        if not self.branch.negated:
            return written(test)
        if isinstance(test, cst.UnaryOperation) and isinstance(test.operator, cst.Not):
            return written(test.expression)
        return f"not ({written(test)})"


_MAX_CALLERS = 2
"""Calls through which a flag is followed to the constant that is passed for it."""

_Facts = dict[Value, object]
"""What is known of parameters, elements and attributes in a run."""


@query(on_cycle=None)
def run_without_gradients(call: Call) -> PartialRun | None:
    """A run in which nothing differentiates what the forward pass ``call`` returns, although others differentiate it.

    ``if train: loss.backward()`` under a call with ``train=False``; None if no such run is known.
    """
    branches = _branches_of_backwards(call)
    return next((run for run in _runs(call.function, branches) if _is_wasted_in(call, run)), None)


def _is_wasted_in(call: Call, run: PartialRun) -> bool:
    if _is_in(call.region, run.dead) or all(_is_in(use.region, run.dead) for use in call.uses):
        return False
    flow = gradient_flow_within(call, run.dead, run.callers)
    # A criterion that the function is given may be out of sight: what it returns is followed all the same.
    return flow.reach is not Reach.YES and not flow.handed_over


def _is_in(region: Region, dead: frozenset[Branch]) -> bool:
    return any(ancestor in dead for ancestor in region.ancestors())


def _branches_of_backwards(call: Call) -> tuple[Branch, ...]:
    """The branches in which a backward runs, or the function is left before one, and ``call`` does not stand."""
    around = set(call.region.ancestors())
    found = (
        region
        for other in call.function.calls
        if other.order > call.order and effects(other) & Effect.BACKWARD
        for region in other.region.ancestors()
        if isinstance(region, Branch) and isinstance(region.node, cst.If) and region not in around
    )
    return tuple(dict.fromkeys(found))


def _runs(function: Function, branches: tuple[Branch, ...]) -> Iterator[PartialRun]:
    deciding = tuple(dict.fromkeys(leaf for b in branches if b.test is not None for leaf in _leaves(b.test)))
    for cause, facts, callers in _situations(function, deciding):
        dead = [branch for branch in branches if _is_dead(branch, facts)]
        if dead:
            yield PartialRun(dead[0], cause, frozenset(dead), callers)


def _is_dead(branch: Branch, facts: _Facts) -> bool:
    outcome = _outcome(branch.test, facts) if branch.test is not None else _UNKNOWN
    return outcome is not _UNKNOWN and bool(outcome) is branch.negated


# ------------------------------------------------------------------------ what decides a test


def _leaves(test: Value) -> Iterator[Value]:
    """The parameters, elements of loops and modes of modules on which a test depends."""
    test = _behind(test)
    match test:
        case Comparison() | Unary() | Choice():
            for operand in test.operands():
                yield from _leaves(operand)
        case Parameter() | Element() | Part() | Attribute(name="training"):
            yield test


def _behind(value: Value) -> Value:
    """The one value that a name stands for, or None where a test has shown that; ``value`` itself if there are more."""
    found = sources(value) if isinstance(value, (Phi, Free)) else ()
    others = [each for each in found if not (isinstance(each, Constant) and each.constant is None)] or list(found)
    return others[0] if len(others) == 1 else value


def _situations(function: Function, leaves: tuple[Value, ...]) -> Iterator[tuple[Value, _Facts, tuple[Call, ...]]]:
    """What may be known of the ``leaves`` together in one run, what makes it known, and the calls that lead there."""
    parameters = tuple(leaf for leaf in leaves if isinstance(leaf, Parameter) and leaf.function is function)
    modes = tuple(leaf for leaf in leaves if isinstance(leaf, Attribute))
    for callers, facts in _passed(function, parameters, _MAX_CALLERS) if parameters else ():
        yield callers[-1], facts, callers
    for parameter in parameters:
        for switch, facts in _switched_by(parameter):
            yield switch, facts, ()
    for leaf in leaves:
        if isinstance(leaf, (Element, Part)):
            for constant in _phases(leaf):
                yield leaf, {leaf: constant}, ()
    for site in _open_sites(function) if modes else ():
        switched: _Facts = {mode: False for mode in modes if _is_evaluated_at(mode, site, function)}
        if switched:
            yield site, switched, (site,)


def _switched_by(parameter: Parameter) -> Iterator[tuple[Call, _Facts]]:
    """The values of ``parameter`` with which its function switches a module to evaluation: it is made for both.

    ``model.train(is_training)``, ``if training: model.train() else: model.eval()``. Callers that switch gradients off
    may be those who evaluate.
    """
    function = parameter.function
    # Who calls the function is dear to find out.
    switches = [call for call in function.calls if call.method in {"train", "eval"} and _is_of_module(call)]
    if not switches or any(grad_mode(site.region) is GradMode.DISABLED for site in proven_call_sites(function)):
        return
    for call in switches:
        for value in _FLAG_VALUES:
            facts: _Facts = {parameter: value}
            if call.method == "train" and len(call.arguments) == 1:
                outcome = _outcome(call.arguments[0].value, facts)
                if outcome is not _UNKNOWN and not outcome:
                    yield call, facts
            elif call.method == "eval" and _runs_only_with(call, facts):
                yield call, facts


def _is_of_module(call: Call) -> bool:
    return call.receiver is not None and role(call.receiver, Role.MODULE) is not None


_FLAG_VALUES = (False, None, True)
"""What a flag may be, the values that stand for evaluation in most code first."""


def _runs_only_with(call: Call, facts: _Facts) -> bool:
    """Whether ``call`` stands in a branch that is taken under ``facts``, and known to be taken."""
    branches = [region for region in call.region.ancestors() if isinstance(region, Branch)]
    return bool(branches) and all(
        branch.test is not None
        and (outcome := _outcome(branch.test, facts)) is not _UNKNOWN
        and bool(outcome) is not branch.negated
        for branch in branches
    )


def _open_sites(function: Function) -> Iterator[Call]:
    """The calls of ``function`` that run it with gradients enabled."""
    for site in proven_call_sites(function):
        if site.function is not function and not site.is_open and grad_mode(site.region) is not GradMode.DISABLED:
            yield site


def _passed(
    function: Function, parameters: tuple[Parameter, ...], depth: int
) -> Iterator[tuple[tuple[Call, ...], _Facts]]:
    """The constants that calls pass for ``parameters``, themselves or from what their own callers pass."""
    for site in _open_sites(function):
        bound = bound_arguments(site, function)
        given = {p: bound.get(p.name, function.defaults.get(p.name)) for p in parameters}
        known: _Facts = {}
        handed: dict[Parameter, Parameter] = {}
        for parameter, value in given.items():
            origins = sources(value) if value is not None else ()
            if len(origins) == 1 and isinstance(origins[0], Constant):
                known[parameter] = origins[0].constant
            elif len(origins) == 1 and isinstance(origins[0], Parameter) and origins[0].function is site.function:
                handed[parameter] = origins[0]
        if known:
            yield (site,), known
        if handed and depth:
            for callers, further in _passed(site.function, tuple(handed.values()), depth - 1):
                got: _Facts = {mine: further[theirs] for mine, theirs in handed.items() if theirs in further}
                yield (site, *callers), known | got


def _phases(leaf: Element | Part) -> Iterator[object]:
    """The constants that the variable of a loop over a literal goes through."""
    if isinstance(leaf, Element):
        rows = (element for source in sources(leaf.iterable) for element in _members(source))
        yield from (row.constant for row in rows if isinstance(row, Constant))
    elif isinstance(leaf.base, Element) and leaf.index is not None:
        for source in sources(leaf.base.iterable):
            if isinstance(source, Call) and source.name == "zip" and len(source.positional()) > leaf.index:
                columns = sources(source.positional()[leaf.index])
                found = (element for column in columns for element in _members(column))
            else:
                tuples = (_members(row) for row in _members(source))
                found = (row[leaf.index] for row in tuples if len(row) == leaf.of)
            yield from (element.constant for element in found if isinstance(element, Constant))


def _members(value: Value) -> tuple[Value, ...]:
    if isinstance(value, Display) and value.kind in {"list", "tuple"} and not value.starred:
        return value.elements
    return ()


def _is_evaluated_at(mode: Attribute, site: Call, function: Function) -> bool:
    """Whether the module whose ``training`` is asked for has been switched to evaluation before ``site``."""
    if not role(mode.base, Role.MODULE):
        return False
    return mode_before(site, seen_from(objects(mode.base), site, function)) is Mode.EVALUATION


# --------------------------------------------------------------------------------- its outcome

_UNKNOWN = object()


def _outcome(test: Value, facts: _Facts) -> object:
    """What ``test`` evaluates to under ``facts``; ``_UNKNOWN`` if they do not tell."""
    test = _behind(test)
    if test in facts:
        return facts[test]
    match test:
        case Constant():
            return test.constant
        case Unary(operator="not"):
            outcome = _outcome(test.operand, facts)
            return _UNKNOWN if outcome is _UNKNOWN else not outcome
        case Comparison(operators=(operator,)):
            return _compared(test.values[0], operator, test.values[1], facts)
        case Choice():
            return _combined(test, facts)
    return _UNKNOWN


def _compared(left: Value, operator: str, right: Value, facts: _Facts) -> object:
    mine = _outcome(left, facts)
    if operator in {"in", "not in"}:
        members = [_outcome(member, facts) for member in _members(right)]
        if mine is _UNKNOWN or not members or _UNKNOWN in members:
            return _UNKNOWN
        return (mine in members) is (operator == "in")
    theirs = _outcome(right, facts)
    if mine is _UNKNOWN or theirs is _UNKNOWN or operator not in {"==", "!=", "is", "is not"}:
        return _UNKNOWN
    return (mine == theirs) is (operator in {"==", "is"})


def _combined(choice: Choice, facts: _Facts) -> object:
    """``a and b``, ``a or b``: known if one operand decides it, or if all are known."""
    operators = {type(operator) for operator in _boolean_operators(choice.node)}
    if len(operators) != 1:
        return _UNKNOWN
    decides = operators == {cst.Or}
    outcomes = [_outcome(value, facts) for value in choice.values]
    if any(outcome is not _UNKNOWN and bool(outcome) is decides for outcome in outcomes):
        return decides
    return _UNKNOWN if _UNKNOWN in outcomes else not decides


def _boolean_operators(node: cst.CSTNode) -> Iterator[cst.BaseBooleanOp]:
    while isinstance(node, cst.BooleanOperation):
        yield node.operator
        node = node.left
