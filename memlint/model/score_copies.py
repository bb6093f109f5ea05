"""Copies of the scores of a language model, which are the largest tensors of its step, that nothing needs."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from typing import NamedTuple

from memlint.findings import Confidence
from memlint.model.aliases import qualified_names, sources
from memlint.model.autocast import autocast_at
from memlint.model.dtypes import casts_to, half_weights
from memlint.model.forwards import called_module
from memlint.model.kinds import Role, role
from memlint.model.knowledge import saving
from memlint.model.program import Program
from memlint.model.saved_tensors import producers
from memlint.model.scopes import Function
from memlint.model.values import (
    Attribute,
    Binary,
    Call,
    Choice,
    Constant,
    Exit,
    FunctionValue,
    Item,
    Parameter,
    Phi,
    Store,
    Unary,
    Value,
)
from memlint.model.vocabulary import leaves_out_first, leaves_out_last, scores_vocabulary


class CopyKind(Enum):
    """How the scores come to be there once more."""

    UPCAST = "cast to float32"
    SHIFTED = "a slice made contiguous"
    LOGARITHM = "the logarithm of a softmax"
    ONE_HOT = "log-probabilities times one-hot targets"


class ScoreCopy(NamedTuple):
    """A copy, the expression that makes it, and what it is a copy of."""

    kind: CopyKind
    value: Value
    scores: Value
    confidence: Confidence


_LOSSES = frozenset(
    "cross_entropy log_softmax softmax logsumexp nll_loss kl_div CrossEntropyLoss selective_log_softmax".split()
)
_SOFTMAX = frozenset({"torch.softmax", "torch.nn.functional.softmax", "torch.special.softmax"})
_LOG_SOFTMAX = frozenset({"torch.log_softmax", "torch.nn.functional.log_softmax", "torch.special.log_softmax"})
_MAX_STEPS = 40


def score_copies(program: Program) -> Iterator[ScoreCopy]:
    """The copies of scores that a file makes."""
    for call in program.calls("float", "double", "to", "type"):
        if call.receiver is not None and casts_to(call, half=False):
            yield from _upcast(call, call.receiver)
    for call in program.calls("contiguous"):
        if call.receiver is not None and _is_shifted(call.receiver):
            yield from _found(CopyKind.SHIFTED, call, call.receiver)
    for call in program.calls("log"):
        softmax = _softmax_of(call)
        if softmax is not None:
            yield from _found(CopyKind.LOGARITHM, call, softmax)
    for function in program.functions:
        for product in function.sums:
            yield from _one_hot(product)


def _found(kind: CopyKind, value: Value, scores: Value) -> Iterator[ScoreCopy]:
    confidence = scores_vocabulary(scores) or _predicts_next_word(scores)
    if confidence is not None:
        yield ScoreCopy(kind, value, scores, confidence)


def _predicts_next_word(scores: Value) -> Confidence | None:
    """Likely for ``logits[..., :-1, :]``: the scores of each position but the last are for the next word.

    They are those of what a call returns, or a function was given to compare with the words from the second one on.
    """
    found = sources(scores)
    shifted = all(isinstance(source, Item) and leaves_out_last(source) and _is_output(source.base) for source in found)
    return Confidence.LIKELY if found and shifted else None


def scores_of_each_word(scores: Value) -> Confidence | None:
    """How sure it is that ``scores`` has one for each position and each word, behind slices, quotients and casts.

    Likely as well for slices along the sequence of the ``logits`` that a call returns.
    """
    known = scores_vocabulary(scores)
    seen: set[int] = set()
    pending = [scores]
    while pending and known is None and len(seen) < _MAX_STEPS:
        for source in sources(pending.pop()):
            if id(source) in seen:
                continue
            seen.add(id(source))
            if isinstance(source, Item) and not _picks(source):
                sliced = len(source.index) > 1 and None in source.index
                known = Confidence.LIKELY if sliced and _is_output(source.base) else scores_vocabulary(source.base)
                pending.append(source.base)
            elif isinstance(source, Binary) and source.operator in {"/", "*"}:
                pending.append(source.left)
            elif isinstance(source, Call) and source.receiver is not None and source.name in _SAME:
                pending.append(source.receiver)
    return known


_SAME = frozenset({"float", "to", "contiguous", "clone", "detach", "div", "div_"})
"""Methods whose result has all the scores."""


def _is_output(value: Value) -> bool:
    """Whether ``value`` is the ``logits`` of what a call returns, or a tensor that is given with words to score."""
    return any(
        (isinstance(source, Parameter) and any(map(leaves_out_first, _items_of_parameters(source.function))))
        or (
            isinstance(source, Attribute)
            and source.name == "logits"
            and any(isinstance(s, Call) for s in sources(source.base))
        )
        for source in sources(value)
    )


def _items_of_parameters(function: Function) -> Iterator[Item]:
    """The slices that a function takes of what it was given."""
    for parameter in function.parameters:
        yield from (use for use in parameter.uses if isinstance(use, Item))


# ---------------------------------------------------------------------- casts


def _upcast(call: Call, scores: Value) -> Iterator[ScoreCopy]:
    """A cast for the sake of a loss. Possible where nothing says that the scores are of 16 bits.

    Of scores that callers compute the cast itself says so: who wrote it was given others than float32.

    Under autocast the operations of the loss cast in any case, so that nothing is gained without the cast.
    """
    if _is_part(scores) or not _reaches_loss(call) or _is_checkpointed(call.function):
        return
    for found in _found(CopyKind.UPCAST, call, scores):
        if autocast_at(call.region) is None:
            weakest = Confidence.weakest(found.confidence, _half(scores))
            yield found._replace(confidence=weakest)


def _half(scores: Value) -> Confidence:
    """How sure it is that ``scores`` are computed in 16 bits."""
    forwards = [made for made in producers(scores) if called_module(made) is not None]
    if not forwards and _is_given(scores):
        return Confidence.LIKELY
    return max(map(_computes_in_half, forwards), key=lambda each: each.rank, default=Confidence.POSSIBLE)


def _is_given(scores: Value) -> bool:
    """Whether callers compute ``scores``."""
    bases = (source.base if isinstance(source, Item) else source for source in sources(scores))
    return any(isinstance(source, Parameter) for base in bases for source in sources(base))


def _computes_in_half(forward: Call) -> Confidence:
    module = called_module(forward)
    if module is None:
        return Confidence.POSSIBLE
    if autocast_at(forward.region) is not None:
        return Confidence.LIKELY
    return half_weights(module) or Confidence.POSSIBLE


def _is_part(scores: Value) -> bool:
    """Whether ``scores`` are those of one position, or of the words that are the targets: few."""
    seen: set[int] = set()
    pending = [scores]
    while pending and len(seen) < _MAX_STEPS:
        for source in sources(pending.pop()):
            if id(source) in seen:
                continue
            seen.add(id(source))
            if _picks(source):
                return True
            if isinstance(source, Item):
                pending.append(source.base)
            elif isinstance(source, Call) and source.receiver is not None and source.name in saving.VIEWS:
                pending.append(source.receiver)
    return False


def _picks(source: Value) -> bool:
    if isinstance(source, Item):
        return len(source.index) > 1 and any(map(_is_position, source.index))
    return isinstance(source, Call) and source.name in {"gather", "index_select", "select", "topk", "take", "max"}


def _is_position(index: Value | None) -> bool:
    if isinstance(index, Unary):
        index = index.operand
    return isinstance(index, Constant) and isinstance(index.constant, int) and not isinstance(index.constant, bool)


def _reaches_loss(value: Value) -> bool:
    """Whether a loss or a softmax takes ``value``, or a view of it, in the same function."""
    seen: set[int] = set()
    pending = [value]
    while pending and len(seen) < _MAX_STEPS:
        current = pending.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        for use in current.uses:
            if isinstance(use, Call) and _is_loss(use):
                return True
            pending.extend(_same_scores(use))
    return False


def _is_loss(call: Call) -> bool:
    return call.name in _LOSSES or bool(role(call.callee, Role.LOSS_FUNCTION))


def _same_scores(use: Value | Store | Exit) -> Iterator[Value]:
    """What ``use`` makes of scores that still has all of them: a view, a quotient by a number."""
    match use:
        case Phi() | Choice() | Item():
            yield use
        case Binary() if isinstance(use.right, (Constant, Attribute)):
            yield use
        case Call() if use.name in saving.VIEWS:
            yield use
        case Attribute():
            # A method that is a loss is looked at as what it makes.
            called = [user for user in use.uses if isinstance(user, Call) and user.callee is use]
            yield from ([use] if any(map(_is_loss, called)) else [each for each in called if each.name in saving.VIEWS])


def _is_checkpointed(function: Function) -> bool:
    """Whether ``function`` is computed again in the backward, as pieces of a loss may be, so that it saves nothing."""
    calls = function.module.calls_by_name.get("checkpoint", ())
    given = (source for call in calls for argument in call.arguments for source in sources(argument.value))
    return any(isinstance(source, FunctionValue) and source.target is function for source in given)


# ---------------------------------------------------------------------- other copies


def _is_shifted(scores: Value) -> bool:
    """Whether ``scores`` are a slice along the sequence: ``logits[..., :-1, :]``."""
    found = sources(scores)
    return bool(found) and all(
        isinstance(source, Item) and len(source.index) > 1 and None in source.index and not _is_part(source)
        for source in found
    )


def _softmax_of(call: Call) -> Value | None:
    """What a softmax is taken of whose logarithm ``call`` is, if nothing else reads the softmax."""
    given = call.receiver if call.method == "log" and call.receiver is not None else None
    if given is None or "torch.log" in qualified_names(call.callee):
        given = call.argument("input", 0)
    found = sources(given) if given is not None else ()
    softmax = found[0] if len(found) == 1 else None
    if not isinstance(softmax, Call) or len([use for use in softmax.uses if isinstance(use, Value)]) > 1:
        return None
    if qualified_names(softmax.callee) & _SOFTMAX:
        return softmax.argument("input", 0)
    return softmax.receiver if softmax.method == "softmax" else None


def _one_hot(product: Binary) -> Iterator[ScoreCopy]:
    """``F.one_hot(y, V) * log_softmax(logits)``."""
    if product.operator != "*":
        return
    for targets, scored in ((product.left, product.right), (product.right, product.left)):
        hot = any(call.name == "one_hot" for call in producers(targets))
        for source in sources(scored) if hot else ():
            if isinstance(source, Call) and qualified_names(source.callee) & _LOG_SOFTMAX:
                given = source.argument("input", 0)
                if given is not None:
                    yield from _found(CopyKind.ONE_HOT, product, given)
