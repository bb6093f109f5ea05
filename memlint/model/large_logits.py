"""Losses over a vocabulary: whether the scores of all tokens and words are made for nothing but the loss."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from memlint.findings import Confidence
from memlint.model.aliases import qualified_names, sources
from memlint.model.components import readers
from memlint.model.gradmode import GradMode, grad_mode
from memlint.model.keywords import given
from memlint.model.kinds import kinds
from memlint.model.program import Program
from memlint.model.score_copies import scores_of_each_word
from memlint.model.values import Attribute, Call, Constant, Item, Value
from memlint.model.vocabulary import scores_vocabulary

_CROSS_ENTROPY = frozenset({"torch.nn.functional.cross_entropy"})
_LOSS_MODULES = frozenset({"torch.nn.CrossEntropyLoss", "torch.nn.modules.loss.CrossEntropyLoss"})
_FUSED = frozenset({"torch.nn.functional.linear_cross_entropy"})
_FUSED_MODULES = frozenset(
    {"torch.nn.LinearCrossEntropyLoss", "torch.nn.modules.linear_cross_entropy.LinearCrossEntropyLoss"}
)
_LOG_SOFTMAX = frozenset({"torch.log_softmax", "torch.nn.functional.log_softmax", "torch.special.log_softmax"})
_FORMING = frozenset({"view", "reshape", "transpose", "permute", "contiguous", "float", "flatten", "to", "squeeze"})
_ASKING = frozenset({"size", "shape", "dim", "device", "dtype", "ndim", "numel"})
_OTHERS = ("use_liger_kernel", "liger_kernel", "cut_cross_entropy", "linear_cross_entropy", "vocab_parallel")
"""What a file mentions that has its own way of computing such a loss."""


class VocabularyLoss(NamedTuple):
    """A cross entropy whose scores serve for nothing else."""

    call: Call
    confidence: Confidence


def vocabulary_losses(program: Program) -> Iterator[VocabularyLoss]:
    """The cross entropies of a file over the scores of a large vocabulary that a linear layer makes for them."""
    if any(name in program.module.text for name in _OTHERS):
        return
    for call in _cross_entropies(program):
        scores = call.argument("input", 0)
        made = _made(scores) if scores is not None else None
        if made is None or grad_mode(call.region) is GradMode.DISABLED:
            continue
        confidence = scores_vocabulary(made)
        if confidence is not None and _serves_only(made, call):
            yield VocabularyLoss(call, confidence)


class PickedLogarithm(NamedTuple):
    """A logarithm of a softmax over all words, of which one is picked for each token and nothing else is read."""

    call: Call
    confidence: Confidence


def picked_logarithms(program: Program) -> Iterator[PickedLogarithm]:
    """The calls of ``log_softmax`` over a vocabulary that serve for ``gather(-1, words.unsqueeze(-1))`` alone."""
    for call in program.calls("log_softmax"):
        scores = _softened(call)
        if scores is not None and grad_mode(call.region) is not GradMode.DISABLED and _is_picked_from(call):
            confidence = scores_of_each_word(scores)
            if confidence is not None:
                yield PickedLogarithm(call, confidence)


def _softened(call: Call) -> Value | None:
    """What ``call`` takes the softmax of, over the last dimension."""
    is_function = bool(qualified_names(call.callee) & _LOG_SOFTMAX)
    if not is_function and call.method != "log_softmax":
        return None
    dimension = call.argument("dim", 1 if is_function else 0)
    last = isinstance(dimension, Constant) and dimension.constant in (-1, 2)
    given = call.argument("input", 0) if is_function else call.receiver
    return given if last else None


def _is_picked_from(scores: Call) -> bool:
    """Whether all that reads ``scores`` is a ``gather`` of one word for each token."""
    found = False
    for use in readers(scores):
        calls: list[Call] = []
        if isinstance(use, Attribute) and use.name == "gather":
            calls = [each for each in use.uses if isinstance(each, Call) and each.callee is use]
        elif isinstance(use, Call) and "torch.gather" in qualified_names(use.callee):
            calls = [use]
        elif isinstance(use, Attribute) and use.name in _ASKING:
            continue
        if not calls or not all(map(_picks_one, calls)):
            return False
        found = True
    return found


def _picks_one(gather: Call) -> bool:
    """Whether ``gather`` is given one index for each token: ``words.unsqueeze(-1)``, ``words[..., None]``."""
    index = gather.argument("index", 1 if gather.method == "gather" and not _is_of_torch(gather) else 2)
    for source in sources(index) if index is not None else ():
        if isinstance(source, Call) and source.name == "unsqueeze":
            return True
        if isinstance(source, Item) and any(isinstance(i, Constant) and i.constant is None for i in source.index):
            return True
    return False


def _is_of_torch(gather: Call) -> bool:
    return "torch.gather" in qualified_names(gather.callee)


def unchunked(program: Program) -> Iterator[Call]:
    """The calls of ``linear_cross_entropy``, and the modules for it, that do not ask for chunks."""
    for call in program.calls("linear_cross_entropy", "LinearCrossEntropyLoss"):
        said = given(call, "options")
        if qualified_names(call.callee) & (_FUSED | _FUSED_MODULES) and not said.values and not said.unknown:
            yield call


def _cross_entropies(program: Program) -> Iterator[Call]:
    for call in program.calls("cross_entropy"):
        if qualified_names(call.callee) & _CROSS_ENTROPY:
            yield call
    if "CrossEntropyLoss" in program.module.text:
        for call in program.calls():
            if any(kind.name in _LOSS_MODULES for kind in kinds(call.callee)):
                yield call


def _made(scores: Value) -> Value | None:
    """The call that computes the scores, behind views, shifts and casts."""
    for _ in range(12):
        found = sources(scores)
        if len(found) != 1:
            return None
        (source,) = found
        if isinstance(source, Call) and source.name in _FORMING and source.receiver is not None:
            scores = source.receiver
        elif isinstance(source, Item):
            scores = source.base
        else:
            return source
    return None


def _serves_only(scores: Value, loss: Call) -> bool:
    """Whether nothing but the loss uses the scores, whatever views and casts are made of them."""
    pending, seen = [scores], set()
    while pending:
        value = pending.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        for use in readers(value):
            match use:
                case Call() if use is loss:
                    continue
                case Attribute(name=name) if name in _ASKING:
                    continue
                case Attribute(name=name) if name in _FORMING:
                    pending.extend(call for call in use.uses if isinstance(call, Call) and call.callee is use)
                case Item():
                    pending.append(use)
                case _:
                    return False
    return True
