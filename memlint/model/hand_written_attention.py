"""Scaled dot-product attention that is written out: ``softmax(q @ k.transpose(-2, -1) * scale) @ v``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

import libcst as cst

from memlint.bare_trees.layout import spelling
from memlint.findings import Confidence
from memlint.model.aliases import attribute_values, find_method, instance_class, qualified_names, sources
from memlint.model.components import readers
from memlint.model.gradmode import GradMode, grad_mode
from memlint.model.kinds import kinds
from memlint.model.program import Program
from memlint.model.scopes import Function
from memlint.model.settings import option, values
from memlint.model.upstream import local_ancestors
from memlint.model.values import (
    Attribute,
    Binary,
    Branch,
    Call,
    Choice,
    Constant,
    Display,
    Exit,
    Item,
    Parameter,
    Phi,
    Value,
)

_PRODUCTS = frozenset({"matmul", "bmm", "baddbmm", "einsum"})
_MASKING = frozenset({"masked_fill", "masked_fill_", "where", "add", "add_", "mul", "mul_", "div", "div_", "clamp"})
_CASTS = frozenset({"to", "type_as", "float", "half", "bfloat16", "type", "contiguous", "view", "reshape", "unsqueeze"})
_TRANSPOSES = frozenset({"transpose", "permute", "swapaxes", "t", "mT", "T", "transpose_"})
_LONGEST = 24
"""Operations between the two products that are followed."""


class Scores(NamedTuple):
    """What softmax is taken of: the product of queries and keys, and whether something scales or biases it."""

    product: Value
    queries: Value
    keys: Value
    scaled: bool
    biased: bool
    """Whether a tensor that the module has learned is added for each pair of positions."""


class Attention(NamedTuple):
    """One attention that is written out; ``softmax`` is the call that makes the weights of all heads."""

    softmax: Call
    scores: Scores
    weighted: tuple[Value, ...]
    """The products of the weights and the values."""
    confidence: Confidence


def attentions(program: Program) -> Iterator[Attention]:
    """The attentions of a file whose weights serve for nothing but the product with the values."""
    for call in _softmaxes(program):
        if _dim(call) in (-1, 2, 3):
            found = _attention(call)
            if found is not None:
                yield found


# ------------------------------------------------------------------------- the weights

_SOFTMAX = frozenset({"torch.softmax", "torch.nn.functional.softmax", "torch.special.softmax"})


def _softmaxes(program: Program) -> Iterator[Call]:
    """The calls of softmax: the function, the method, the module."""
    yield from (call for call in program.calls("softmax") if not _made_modules(call))
    if "Softmax" in program.module.text:
        yield from (call for call in program.calls() if _made_modules(call))


def _made_modules(call: Call) -> list[Call]:
    """The calls that make the ``nn.Softmax`` that ``call`` runs."""
    made = (source for source in sources(call.callee) if isinstance(source, Call) and source.name == "Softmax")
    return [each for each in made if any(kind.name == "torch.nn.Softmax" for kind in kinds(each))]


def _is_method(call: Call) -> bool:
    return call.receiver is not None and not qualified_names(call.callee) & _SOFTMAX and not _made_modules(call)


def _dim(call: Call) -> object:
    """The dimension over which ``call`` takes the softmax, if it is known."""
    made = _made_modules(call)
    if made:
        found = [option(each, "dim", 0).only for each in made]
    else:
        found = [option(call, "dim", 0 if _is_method(call) else 1).only]
    return found[0].constant if len(found) == 1 and found[0] is not None else None


def _attention(softmax: Call) -> Attention | None:
    scores = _scores(softmax.receiver if _is_method(softmax) else softmax.argument("input", 0))
    if scores is None:
        return None
    uses = _Uses(softmax)
    if not uses.products or uses.wanted is None:
        return None
    confidence = Confidence.weakest(uses.wanted, _confidence(softmax, scores))
    return Attention(softmax, scores, tuple(uses.products), confidence)


class _Uses:
    """What is done with the weights: products with values, and whether anybody wants them for something else."""

    def __init__(self, softmax: Call) -> None:
        self.products: list[Value] = []
        self.wanted: Confidence | None = Confidence.LIKELY
        """How sure it is that nobody does; None if somebody does."""
        self._seen: set[int] = set()
        self._follow(softmax, _LONGEST)

    def _follow(self, weights: Value, depth: int) -> None:
        if id(weights) in self._seen or depth == 0:
            return
        self._seen.add(id(weights))
        for use in readers(weights):
            if isinstance(use, Value) and _is_product_of(use, weights):
                self.products.append(use)
            elif isinstance(use, Call) and _is_passed_through(use, weights):
                self._follow(use, depth - 1)
            elif isinstance(use, Attribute) and use.name in (_CASTS | {"dropout"}):
                for call in use.uses:
                    if isinstance(call, Call) and call.callee is use:
                        self._follow(call, depth - 1)
            elif not (isinstance(use, Attribute) and use.name in {"dtype", "device", "shape"}):
                self._want(use)

    def _want(self, use: object) -> None:
        found = _is_unlikely(use)
        self.wanted = None if found is None or self.wanted is None else Confidence.weakest(found, self.wanted)


def _is_unlikely(use: object) -> Confidence | None:
    """How sure it is that a use is an option that is off: ``return (x, weights) if output_attentions else (x,)``."""
    if isinstance(use, Display) and use.kind == "tuple":
        found = [_is_unlikely(inner) for inner in use.uses]
        optional = next((u for u in use.uses if isinstance(u, Choice)), None)
        if optional is not None and optional.test is not None:
            return _is_off(optional.test, negated=optional.values[0] is not use)
        return found[0] if len(found) == 1 else None
    if isinstance(use, Exit):
        branch = next((each for each in use.region.ancestors() if isinstance(each, Branch) and not each.follows), None)
        if branch is not None and branch.test is not None:
            return _is_off(branch.test, branch.negated)
    return None


def _is_off(test: Value, negated: bool) -> Confidence | None:
    """How sure it is that a test decides against what it guards."""
    on = values(test).is_on()
    if on is None:
        return Confidence.POSSIBLE
    return Confidence.LIKELY if on is negated else None


def _is_product_of(use: Value, weights: Value) -> bool:
    """Whether ``use`` is a product with the weights: on the left of ``@``, or anywhere in an ``einsum``."""
    if isinstance(use, Binary) and use.operator == "@":
        return use.left is weights or weights in sources(use.left)
    if not isinstance(use, Call) or use.name not in _PRODUCTS:
        return False
    factors = _factors(use)
    return bool(factors) and (use.name == "einsum" or factors[0] is weights or weights in sources(factors[0]))


def _is_passed_through(call: Call, weights: Value) -> bool:
    """Whether a call is dropout, or one that changes the type or the form of the weights only."""
    given = call.positional()
    if given and (given[0] is weights or weights in sources(given[0])):
        names = qualified_names(call.callee)
        if any(name.startswith("torch.nn.functional.dropout") or name == "torch.dropout" for name in names):
            return True
        if len(call.arguments) == 1 and _is_inherited(call.callee):
            return True
        return any(
            k.name.startswith("torch.nn.") and k.name.endswith(("Dropout", "Identity")) for k in kinds(call.callee)
        )
    return False


def _is_inherited(callee: Value) -> bool:
    """Whether a module comes from a base class out of sight: what it does to weights alone is dropout."""
    owner = instance_class(callee.base) if isinstance(callee, Attribute) else None
    if owner is None or not isinstance(callee, Attribute):
        return False
    return find_method(owner, callee.name) is None and not attribute_values(owner, callee.name)


# ------------------------------------------------------------------------- the scores


def _scores(value: Value | None) -> Scores | None:
    """The product of queries and keys behind scales, masks and biases."""
    scaled = biased = False
    for _ in range(_LONGEST):
        if value is None:
            return None
        product = _product(value)
        if product is not None:
            queries, keys = product
            scaled = scaled or _is_scaled(queries) or _is_scaled(keys)
            return Scores(value, queries, keys, scaled, biased)
        match value:
            case Phi() | Choice():
                # Where a function may make something else of the scores, it adds what it computes.
                biased = biased or not all(_leads_to_product(each) for each in value.operands() if each is not value)
                value = next((each for each in value.operands() if _leads_to_product(each)), None)
            case Binary(operator="*" | "/"):
                scaled = True
                value = next((each for each in value.operands() if _leads_to_product(each)), None)
            case Binary(operator="+" | "-"):
                inner = next((each for each in value.operands() if _leads_to_product(each)), None)
                added = [each for each in value.operands() if each is not inner]
                biased = biased or any(map(_is_learned, added))
                value = inner
            case Call():
                scaled = scaled or value.name in {"mul", "mul_", "div", "div_"}
                value = next((each for each in _through(value) if _leads_to_product(each)), None)
            case _:
                return None
    return None


def _through(call: Call) -> Iterator[Value]:
    """What a call that masks, scales or casts is given."""
    if call.name in _MASKING | _CASTS:
        if call.receiver is not None and not any(n.startswith("torch.") for n in qualified_names(call.callee)):
            yield call.receiver
        else:
            yield from call.positional()


def _leads_to_product(value: Value, depth: int = _LONGEST) -> bool:
    if depth == 0:
        return False
    if _product(value) is not None:
        return True
    match value:
        case Phi():
            return any(_leads_to_product(each, depth // 2) for each in value.operands() if each is not value)
        case Choice() | Binary(operator="*" | "/" | "+" | "-"):
            return any(_leads_to_product(each, depth // 2) for each in value.operands())
        case Call():
            return any(_leads_to_product(each, depth // 2) for each in _through(value))
    return False


def _factors(call: Call) -> list[Value]:
    """The tensors that a product is of."""
    factors = call.positional()
    if call.receiver is not None and not any(n.startswith("torch.") for n in qualified_names(call.callee)):
        factors = [call.receiver, *factors]
    if call.name == "einsum":
        return factors[1:]
    return factors[1:] if call.name == "baddbmm" else factors


def _product(value: Value) -> tuple[Value, Value] | None:
    """The factors of a product of queries with keys whose last two dimensions are exchanged."""
    if isinstance(value, Binary) and value.operator == "@":
        return (value.left, value.right) if _is_transposed(value.right) else None
    if not isinstance(value, Call) or value.name not in _PRODUCTS:
        return None
    factors = _factors(value)
    if len(factors) != 2:
        return None
    if value.name == "einsum":
        equation = value.positional()[0]
        return (factors[0], factors[1]) if _multiplies_pairs(equation) else None
    return (factors[0], factors[1]) if _is_transposed(factors[1]) else None


def _is_transposed(value: Value) -> bool:
    """Whether a value is seen to be a transpose; through scales, and casts."""
    for source in sources(value):
        match source:
            case Attribute(name=name) if name in _TRANSPOSES:
                return True
            case Call() if source.name in _TRANSPOSES:
                return True
            case Call() if source.name in _CASTS and source.receiver is not None:
                return _is_transposed(source.receiver)
            case Binary(operator="*" | "/"):
                return any(_is_transposed(each) for each in source.operands())
    return False


def _multiplies_pairs(equation: Value) -> bool:
    """Whether an equation contracts the features of two tensors and keeps a dimension of each: ``bhid,bhjd->bhij``."""
    for source in sources(equation):
        text = source.constant if isinstance(source, Constant) else None
        if not isinstance(text, str) or "->" not in text:
            return False
        left, _, right = text.replace(" ", "").partition("->")
        one, _, other = left.partition(",")
        contracted = set(one) & set(other) - set(right)
        pairs = len(right) > 2 and right[-2] in one and right[-1] in other and right[-1] not in one
        return bool(contracted) and pairs and right[-2] not in other
    return False


def _is_scaled(value: Value) -> bool:
    """Whether queries or keys were multiplied by a scale before the product."""
    for source in sources(value):
        match source:
            case Binary(operator="*" | "/"):
                return True
            case Call() if source.name in _CASTS | _TRANSPOSES and source.receiver is not None:
                return _is_scaled(source.receiver)
    return False


def _is_learned(value: Value) -> bool:
    """Whether a value is read from the module: a table of biases, of a size that is fixed, as windows have."""
    if any(_is_of_instance(each) for each in local_ancestors(value)):
        return True
    return any(
        isinstance(source, Call) and source.receiver is not None and instance_class(source.receiver) is not None
        for source in sources(value)
    )


def _is_of_instance(value: Value) -> bool:
    return isinstance(value, Attribute) and instance_class(value.base) is not None


# ------------------------------------------------------------------------- how sure it is


def _confidence(softmax: Call, scores: Scores) -> Confidence:
    """Likely if it is attention over as many positions as the input has, in training.

    Possible: beside a fused form that a flag chooses, without a scale, over normalized channels, over a single query,
    with keys that the module has learned, with biases of a fixed size, in a test, where no gradients are recorded.
    """
    sure = scores.scaled and not scores.biased and not softmax.function.module.is_test
    sure = sure and all(_is_of_input(each) and not _is_normalized(each) for each in (scores.queries, scores.keys))
    sure = sure and not _is_single(scores.queries) and not _is_single(scores.keys)
    sure = sure and grad_mode(softmax.region) is not GradMode.DISABLED and not _has_fused_form(softmax.function)
    return Confidence.LIKELY if sure else Confidence.POSSIBLE


_FUSED = re.compile(r"^(scaled_dot_product_attention|flash_attn\w*|memory_efficient_attention|flex_attention)$")
_ALTERNATIVE = re.compile(r"flash|sdpa|fused|xformers|memory_efficient", re.IGNORECASE)


def _has_fused_form(function: Function) -> bool:
    """Whether the function, or one beside it, calls a fused implementation, or is named as the alternative."""
    beside = function.owner.methods.values() if function.owner is not None else function.module.body.functions
    if any(_ALTERNATIVE.search(other.name) for other in beside if other is not function):
        return True
    called = beside if function.owner is not None else (function,)
    return any(_FUSED.match(call.name) for other in called for call in other.lower().calls)


def _is_of_input(value: Value) -> bool:
    """Whether a tensor is computed from what the function is given."""
    return any(isinstance(each, Parameter) and instance_class(each) is None for each in local_ancestors(value))


def _is_normalized(value: Value) -> bool:
    return any(isinstance(each, Call) and each.name == "normalize" for each in local_ancestors(value))


def _is_single(value: Value) -> bool:
    """Whether a tensor has one position only: it gets that dimension here, or is computed from one of a sequence."""
    for each in local_ancestors(value):
        if isinstance(each, Item) and isinstance(each.node, cst.Subscript) and any(map(_is_one, each.node.slice[1:])):
            return True
    for source in sources(value):
        if isinstance(source, Call) and source.name == "unsqueeze":
            return True
        formed = source.receiver if isinstance(source, Call) and source.name in _CASTS | _TRANSPOSES else None
        if formed is not None and _is_single(formed):
            return True
    return False


_ONES = {("0", "1"), (None, "1"), ("-1", None)}


def _is_one(part: cst.SubscriptElement) -> bool:
    """Whether an index picks one position: ``x[:, -1]``, ``x[:, 0:1]``."""
    if isinstance(part.slice, cst.Index):
        return spelling(part.slice.value) == "-1"
    if not isinstance(part.slice, cst.Slice):
        return False
    bounds = [spelling(bound) if bound is not None else None for bound in (part.slice.lower, part.slice.upper)]
    return tuple(bounds) in _ONES


# ------------------------------------------------------------------------- models of transformers


def eager_models(program: Program) -> Iterator[tuple[Call, Confidence]]:
    """The models of transformers that are told to write their attention out, in files that ask for no weights."""
    if "output_attentions" in program.module.text:
        return
    for call in program.calls("from_pretrained", "from_config"):
        chosen = option(call, "attn_implementation").only
        names = qualified_names(call.callee)
        if chosen is None or chosen.constant != "eager" or chosen.confidence is not Confidence.CERTAIN:
            continue
        if any(name.startswith("transformers.") for name in names) and not _needs_eager(call):
            yield call, Confidence.POSSIBLE if program.module.is_test else Confidence.LIKELY


_CAPPED = ("gemma-2", "gemma2", "Gemma2", "gemma-3", "gemma3", "Gemma3")
"""Models that cap their scores, which their documentation advises to train with the eager implementation."""


def _needs_eager(call: Call) -> bool:
    names = [*qualified_names(call.callee)]
    chosen = option(call, "pretrained_model_name_or_path", 0).only
    names.append(str(chosen.constant) if chosen is not None else "")
    return any(part in name for part in _CAPPED for name in names)
