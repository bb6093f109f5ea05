"""Outputs with one score for every token and every word of a vocabulary: the largest tensors of language models."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import libcst as cst

from memlint.bare_trees.layout import spelling
from memlint.findings import Confidence
from memlint.model.aliases import base_names, display_element, origins, qualified_names, sources
from memlint.model.calls import bound_arguments_of_constructor, callees
from memlint.model.forwards import called_module
from memlint.model.identity import Object, everywhere, objects
from memlint.model.kinds import Role, class_of, kinds, role
from memlint.model.memo import query
from memlint.model.saved_tensors import holders, is_saved_result, producers
from memlint.model.scopes import Module
from memlint.model.training import inside
from memlint.model.upstream import component_index, local_ancestors
from memlint.model.values import (
    Attribute,
    Binary,
    Call,
    Choice,
    Constant,
    Display,
    Item,
    Parameter,
    Part,
    Phi,
    Value,
)

_HEADS = re.compile(
    r"(ForCausalLM|LMHeadModel|WithLMHead|ForMaskedLM|ForConditionalGeneration|Seq2SeqLM|DoubleHeadsModel|WithValueHead"
    r"|ForSpeechSeq2Seq|ForVision2Seq|ForImageTextToText|EncoderDecoderModel|^Fast(Language)?Model"
    r"|(Bert|Albert|BigBird)ForPreTraining)$"
)
"""Classes of transformers whose output has a score for each token and each word of the vocabulary."""

_LARGE = 8192
"""Words from which on a vocabulary counts as large: 32 KiB of float32 scores a token."""

_LANGUAGE_ARGUMENTS = frozenset({"decoder_input_ids", "decoder_attention_mask", "lm_labels", "masked_lm_labels"})
"""Arguments that only models with a vocabulary head take."""

_MAX_DEPTH = 6


def scores_vocabulary(value: Value, depth: int = _MAX_DEPTH) -> Confidence | None:
    """How sure it is that ``value`` is, or holds, a score for each token and each word of a large vocabulary.

    None as well where autograd saves it anyway, since the operation that makes it saves its result.
    """
    index = component_index(value) if isinstance(value, (Part, Item)) else None
    if isinstance(value, Attribute):
        index = value.name
    if isinstance(index, str) and not index.endswith("logits"):
        # Hidden states, keys and values, the loss.
        return None
    base = value.base if isinstance(value, (Part, Item, Attribute)) else value
    found = [_scores(call, index, depth) for call in producers(base)] if depth else []
    return max((each for each in found if each is not None), key=lambda each: each.rank, default=None)


def _scores(call: Call, index: object, depth: int) -> Confidence | None:
    module = called_module(call)
    if module is not None:
        known = _by_class(module)
        if known is not None or _is_linear(module):
            return known if known is not None else _linear_scores(call, module)
    if index == "loss" or is_saved_result(call):
        return None
    functions = callees(call)
    if functions:
        parts = [part for part in _returned(call, index) if not any(holders(made).saved for made in producers(part))]
        returned = [scores_vocabulary(part, depth - 1) for part in parts]
        return max((each for each in returned if each is not None), key=lambda each: each.rank, default=None)
    if call.name == "linear" and call.argument("weight", 1) is not None:
        return Confidence.POSSIBLE if _is_embedding_weight(call.arguments[1].value) else None
    return _by_arguments(call) if module is not None or role(call.callee, Role.MODULE) else None


def _returned(call: Call, index: object) -> Iterator[Value]:
    for function in callees(call):
        for leaving in function.returns:
            for source in sources(leaving.value):
                if isinstance(source, Display):
                    element = display_element(source, index) if index is not None else None
                    yield from [element] if element is not None else source.elements if index is None else []
                else:
                    yield source


def _by_class(module: Value) -> Confidence | None:
    """What the class of a model says: that of transformers, or one of the project that derives from it."""
    for kind in kinds(module):
        names = base_names(kind.cls) if kind.cls is not None else {kind.name}
        if any(map(_is_head, names)):
            return kind.confidence
    made = [each.root for each in inside(everywhere(objects(module))) if not each.path]
    return Confidence.LIKELY if any(isinstance(call, Call) and _is_made_of_head(call) for call in made) else None


def _is_head(name: str) -> bool:
    return bool(_HEADS.search(name.rpartition(".")[2])) and not name.startswith("torch.")


def _is_made_of_head(call: Call) -> bool:
    """Whether ``call`` makes such a model, or is given its class: ``create_model(AutoModelForCausalLM, path)``."""
    given = (name for argument in call.arguments for name in qualified_names(argument.value))
    return any(_is_head(kind.name) for kind in kinds(call)) or any(map(_is_head, given))


def _by_arguments(call: Call) -> Confidence | None:
    """What the arguments of a model out of sight say: labels that are the input are those of a language model."""
    given = {argument.keyword: argument.value for argument in call.arguments if argument.keyword}
    if given.keys() & _LANGUAGE_ARGUMENTS:
        return Confidence.LIKELY
    labels, positional = given.get("labels"), call.positional()
    words = given.get("input_ids", positional[0] if positional else None)
    same = labels is not None and words is not None and set(sources(labels)) & set(sources(words))
    return Confidence.LIKELY if same and not isinstance(labels, Constant) else None


# ------------------------------------------------------------------- heads of the project's own


def _is_linear(module: Value) -> bool:
    return any(kind.name == "torch.nn.Linear" for kind in kinds(module))


def _linear_scores(call: Call, module: Value) -> Confidence | None:
    """Whether a linear layer scores each token for each word: its width is that of an embedding, or known and large."""
    if not call.arguments or _is_one_step(call.arguments[0].value):
        return None
    for made in sources(module):
        width = made.argument("out_features", 1) if isinstance(made, Call) else None
        if width is None:
            continue
        if _is_size_of_vocabulary(width):
            return Confidence.LIKELY
        if not _embeds(made.function.module, width):
            continue
        numbers = _numbers(width)
        if not numbers:
            return Confidence.POSSIBLE
        return Confidence.LIKELY if max(numbers) >= _LARGE else None
    return None


def _numbers(width: Value) -> list[int]:
    """The numbers that a size may be: constants, defaults, what constructors are given, fields of configurations."""
    found: list[object] = []
    for source in (*sources(width), *_given_for(width, width.function.module)):
        match source:
            case Constant():
                found.append(source.constant)
            case Parameter():
                default = source.function.defaults.get(source.name)
                found.append(default.constant if isinstance(default, Constant) else None)
            case Attribute():
                found.extend(_fields(source))
    return [number for number in found if isinstance(number, int) and not isinstance(number, bool)]


def _fields(value: Attribute) -> Iterator[object]:
    """The defaults of a field of that name in the class of the object; if that is not known, in those of the file."""
    owner = class_of(value.base)
    for cls in [owner] if owner is not None else value.function.module.body.lower().classes:
        for declared in cls.attributes.get(value.name, ()):
            if isinstance(declared, Constant):
                yield declared.constant


def _is_one_step(features: Value) -> bool:
    """Whether what a head is given is the last step of a sequence, or an average over it, and not all of it."""
    for source in sources(features):
        if isinstance(source, Item) and any(isinstance(index, Constant) for index in source.index):
            return True
        if isinstance(source, Call) and source.name in {"mean", "sum", "max", "amax", "select"}:
            return True
        if isinstance(source, Call) and source.name in {"squeeze", "dropout"} and source.arguments:
            inner = source.receiver if source.receiver is not None else source.arguments[0].value
            return _is_one_step(inner)
        if isinstance(source, Part) and source.index == 1:
            return True
    return False


def _embeds(module: Module, width: Value) -> bool:
    """Whether an embedding of the same file has as many rows as a layer is wide: its model predicts words."""
    wanted = _names(width)
    return any(wanted & _names(size) for size in _embedded(module))


@query(on_cycle=())
def _embedded(module: Module) -> tuple[Value, ...]:
    """The numbers of rows of the embeddings that a file makes, and what constructors are given for them."""
    found: list[Value] = []
    for call in module.calls_by_name.get("Embedding", ()):
        size = call.argument("num_embeddings", 0)
        if size is not None and any(kind.name == "torch.nn.Embedding" for kind in kinds(call)):
            found.append(size)
            found.extend(_given_for(size, module))
    return tuple(found)


def _given_for(size: Value, module: Module) -> Iterator[Value]:
    """What a file passes for ``size``, if it is a parameter of a constructor."""
    owner = size.function.owner
    if isinstance(size, Parameter) and owner is not None and size.function.name == "__init__":
        for call in module.calls_by_name.get(owner.name, ()):
            passed = bound_arguments_of_constructor(call, size.function).get(size.name)
            if passed is not None:
                yield passed


def _names(size: Value) -> frozenset[object]:
    """What a size goes by: its objects, its value, the attribute of a configuration that holds it."""
    found: set[object] = {source.constant for source in sources(size) if isinstance(source, Constant)}
    known: frozenset[Object] = objects(size)
    found |= known
    found |= {("configured", each.path[-1]) for each in known if each.path}
    return frozenset(found)


def _is_size_of_vocabulary(width: Value) -> bool:
    """Whether a size is that of a tokenizer of transformers, or its configuration says it."""
    for source in sources(width):
        inner = source.arguments[0].value if isinstance(source, Call) and source.name == "len" else source
        if isinstance(inner, Attribute):
            inner = inner.base
        if any(name.startswith(("transformers.", "tokenizers.")) for name in origins(inner)):
            return True
    return False


def _is_embedding_weight(weight: Value) -> bool:
    """Whether a projection uses the weights of an embedding, so that it scores the words that the embedding knows."""
    return any(
        isinstance(source, Attribute)
        and source.name == "weight"
        and any(kind.name == "torch.nn.Embedding" for kind in kinds(source.base))
        for source in sources(weight)
    )


# --------------------------------------------------------------------------- the next word


def predicts_next_word(forward: Call, loss: Value, uses: Iterable[object]) -> Confidence | None:
    """How sure it is that the output of ``forward`` scores a large vocabulary, since it predicts each next word.

    Language models are trained on all scores but the last (``uses`` are those of the output). Possible: the model reads
    all words but the last and the ``loss`` compares with all but the first, as small models for translation do.
    """
    if any(isinstance(use, Item) and _leaves_out(use.node, "-1", None) for use in uses):
        return Confidence.LIKELY
    read = (source for argument in forward.arguments for source in sources(argument.value))
    if not any(isinstance(source, Item) and _leaves_out(source.node, "-1", None) for source in read):
        return None
    compared = (value for value in local_ancestors(loss) if isinstance(value, Item))
    return Confidence.POSSIBLE if any(_leaves_out(value.node, None, "1") for value in compared) else None


_AVERAGED = frozenset(
    {"detach", "item", "float", "mean", "sum", "cpu", "clone", "double", "tensor", "gather", "div", "data"}
)
_EXPONENTIALS = frozenset({"torch.exp", "math.exp", "numpy.exp"})


def gives_perplexity(losses: Iterable[Value]) -> bool:
    """Whether a function takes the exponential of what it sums up of ``losses``, which is a model's perplexity."""
    seen: set[int] = set()
    pending = list(losses)
    while pending and len(seen) < _MAX_USES:
        value = pending.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        for use in value.uses:
            match use:
                case Call() if qualified_names(use.callee) & _EXPONENTIALS:
                    return True
                case Attribute(name="exp"):
                    return True
                case Attribute(name=name) if name in _AVERAGED:
                    pending.extend(each for each in use.uses if isinstance(each, Call) and each.callee is use)
                case Call(name=name) if name in _AVERAGED:
                    pending.append(use)
                case Phi() | Binary() | Choice():
                    pending.append(use)
    return False


_MAX_USES = 60
"""Uses of a loss that are followed, one after the other."""


def leaves_out_last(item: Item) -> bool:
    """Whether ``item`` has all positions of a sequence but the last: ``x[..., :-1, :]``."""
    return _leaves_out(item.node, "-1", None)


def leaves_out_first(item: Item) -> bool:
    """Whether ``item`` has all positions of a sequence but the first: ``ids[:, 1:]``."""
    return _leaves_out(item.node, None, "1")


def _leaves_out(node: cst.CSTNode, upper: str | None, lower: str | None) -> bool:
    """Whether ``node`` is ``x[..., lower:upper, :]`` or ``x[:, lower:upper]``."""
    if not isinstance(node, cst.Subscript) or len(node.slice) < 2:
        return False
    bounds = ((part.slice.lower, part.slice.upper) for part in node.slice if isinstance(part.slice, cst.Slice))
    return (lower, upper) in [(_written(first), _written(last)) for first, last in bounds]


def _written(bound: cst.BaseExpression | None) -> str | None:
    return None if bound is None else spelling(bound)
