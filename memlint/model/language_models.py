"""Models of transformers: which calls run one, and whether it computes scores, caches or states for nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import libcst as cst

from memlint.bare_trees.layout import spelling
from memlint.findings import Confidence
from memlint.model.aliases import base_names, sources
from memlint.model.components import readers
from memlint.model.forwards import called_module
from memlint.model.gradmode import GradMode, grad_mode, is_hf_trainer
from memlint.model.identifiers import imports_any
from memlint.model.identity import everywhere, objects
from memlint.model.keywords import Setting, given, setting
from memlint.model.kinds import Role, kinds
from memlint.model.memo import query
from memlint.model.pins import is_older
from memlint.model.scopes import Function, Module
from memlint.model.values import Argument, Attribute, Call, Constant, Item, Parameter, Value

_DECODER = re.compile(r"(?<!Mamba)(?<!Rwkv)(ForCausalLM|LMHeadModel)$|^Fast(Language)?Model$")
"""Classes of models that return a cache by default; the state of Mamba and RWKV is small."""

_SCORES = frozenset({"logits", "loss", "hidden_states", "attentions"})
"""Parts of the output of a decoder that are no cache."""

_CACHES = ("past_key_values", "past_key_value", "past", "cache_params", "cache_position")


def builds_unused_cache(call: Call) -> Confidence | None:
    """How sure it is that ``call`` runs a decoder whose cache nobody asked for and nobody reads.

    Possible: in a test, and where a Trainer may have switched the cache off.
    """
    # From the cheapest question to the dearest.
    confidence = decoder(call) if _reads_scores_only(call) and not _decides_on_cache(call) else None
    if confidence is None:
        return None
    if grad_mode(call.region) is not GradMode.DISABLED:
        return None
    if any(_switches_cache_off(module) for module in _files(call)) or _is_part_of_trainer(call.function):
        return None
    unsure = call.function.module.is_test or any(map(_trains_with_trainer, _files(call)))
    return Confidence.POSSIBLE if unsure else confidence


def decoder(call: Call) -> Confidence | None:
    """How sure it is that ``call`` runs a causal language model of transformers."""
    module = called_module(call)
    found = [kind for kind in kinds(module) if kind.role is Role.MODULE] if module is not None else []
    if not found or not all(_DECODER.search(kind.name.rpartition(".")[2]) and kind.cls is None for kind in found):
        return None
    return Confidence.weakest(*(kind.confidence for kind in found))


def _decides_on_cache(call: Call) -> bool:
    """Whether ``call`` says something about the cache, or hands on keywords that may."""
    if any(given(call, name).values for name in ("use_cache", *_CACHES)):
        return True
    return any(isinstance(a.value, Parameter) and a.value.star == "**" for a in call.arguments if a.star == "**")


def _reads_scores_only(call: Call) -> bool:
    """Whether nothing but scores, losses and hidden states is taken from what ``call`` returns."""
    read = False
    for use in readers(call):
        match use:
            case Attribute(name=name) if name in _SCORES:
                read = True
            case Item(index=(Constant(constant=("logits" | "loss" | "hidden_states" | 0)),)):
                read = True
            case _:
                return False
    return read


def _files(call: Call) -> tuple[Module, ...]:
    """The file of ``call``, and those in which its model is made."""
    module = called_module(call)
    made = everywhere(objects(module)) if module is not None else ()
    roots = (each.root for each in made)
    return tuple(dict.fromkeys([call.function.module, *(r.function.module for r in roots if isinstance(r, Call))]))


@query(on_cycle=False)
def _switches_cache_off(module: Module) -> bool:
    """Whether a file configures a model to return no cache: ``config.use_cache = False``, or where it is loaded."""
    for function in module.functions:
        if any(store.attribute == "use_cache" and setting(store.value) is not Setting.ON for store in function.stores):
            return True
        for call in function.calls:
            passed = call.argument("use_cache")
            if passed is not None and setting(passed) is not Setting.ON and called_module(call) is None:
                return True
    return False


def _is_part_of_trainer(function: Function) -> bool:
    """Whether ``function`` belongs to a Trainer of transformers, which switches the cache off itself."""
    owners = (each.owner for each in (function, *function.enclosing()))
    return any(owner is not None and is_hf_trainer(base_names(owner)) for owner in owners)


@query(on_cycle=False)
def _trains_with_trainer(module: Module) -> bool:
    """Whether a file makes a Trainer, or one of a class that is called like one, and so perhaps for the same model."""
    return any(name.endswith("Trainer") for name in module.calls_by_name)


# ------------------------------------------------------------------------- scores of all positions


@dataclass(frozen=True)
class LastScores:
    """A forward of a decoder of whose scores only the last positions are used: ``logits[:, -count:]``."""

    forward: Call
    count: str
    """How many, as the program writes it."""
    confidence: Confidence


def last_scores(call: Call) -> LastScores | None:
    """``call`` as a forward that scores every position, and is asked for the last ones only."""
    # From the cheapest question to the dearest.
    logits = [use for use in readers(call) if isinstance(use, (Attribute, Item)) and _is_output(use, "logits")]
    if not logits or any(given(call, name).values for name in ("labels", "logits_to_keep", "num_logits_to_keep")):
        return None
    counts = {count for value in logits for count in _kept(value)}
    confidence = decoder(call) if len(counts) == 1 and None not in counts else None
    if confidence is None or is_older(call.function.module, "transformers", "4.45"):
        return None
    if any(not isinstance(use, (Attribute, Item)) for use in readers(call)):
        # The output goes elsewhere as a whole, with all its scores.
        confidence = Confidence.POSSIBLE
    return LastScores(call, str(counts.pop()), confidence)


def keeping_argument(module: Module) -> str:
    """What transformers calls the number of positions to score, in the version of the project."""
    return "num_logits_to_keep" if is_older(module, "transformers", "4.49") else "logits_to_keep"


def _is_output(use: object, name: str) -> bool:
    """Whether a use reads ``name`` of an output: ``output.logits``, ``output["logits"]``."""
    match use:
        case Attribute(name=attribute):
            return attribute == name
        case Item(index=(Constant(constant=key),)):
            return key == name
    return False


def _kept(logits: Value, dropped: int = 0) -> Iterator[str | None]:
    """How many of the last positions each use takes; None for one that may take others.

    ``dropped`` positions at the end were cut off before: ``logits[:, :-1]``.
    """
    for use in readers(logits):
        if isinstance(use, Attribute) and use.name in {"shape", "device", "dtype", "size"}:
            continue
        slices = use.node.slice if isinstance(use, Item) and isinstance(use.node, cst.Subscript) else ()
        positions = slices[1].slice if len(slices) > 1 and _is_whole(slices[0].slice) else None
        match positions:
            case cst.Index(value=value) if spelling(value) == "-1":
                yield str(1 + dropped)
            case cst.Slice(lower=cst.UnaryOperation(operator=cst.Minus(), expression=count), upper=None):
                written = spelling(count)
                yield written if not dropped else str(int(written) + 1) if written.isdigit() else f"{written} + 1"
            case cst.Slice(lower=None, upper=cst.UnaryOperation() as end) if spelling(end) == "-1" and not dropped:
                assert isinstance(use, Item)
                yield from _kept(use, 1)
            case _:
                yield None


def _is_whole(part: cst.BaseSlice) -> bool:
    return isinstance(part, cst.Slice) and part.lower is None and part.upper is None


# ------------------------------------------------------------------------- states that are asked for

_REQUESTS = {"output_attentions": "attentions", "output_hidden_states": "hidden_states"}
_READ = frozenset(
    {"logits", "loss", "last_hidden_state", "pooler_output", "prediction_logits", "start_logits", "end_logits"}
)
"""Parts of an output that models return without being asked."""


class Request(NamedTuple):
    """A forward that is asked to return the states or the attention weights of all layers, which nobody reads."""

    forward: Call
    argument: Argument
    what: str
    confidence: Confidence
    recorded: bool
    """Whether gradients are recorded, so that autograd saves hidden states anyway."""


def unread_requests(call: Call) -> Iterator[Request]:
    """The states that ``call`` asks a model for, and of whose output only other parts are read."""
    for argument in call.arguments:
        what = _REQUESTS.get(argument.keyword or "")
        asked = what is not None and [s.constant for s in sources(argument.value) if isinstance(s, Constant)] == [True]
        if what is None or not asked or len(sources(argument.value)) != 1:
            continue
        module = called_module(call)
        uses = list(readers(call))
        if not uses or not all(map(_is_unasked, uses)):
            continue
        # Outputs of transformers are read by name; what runs them may come from `get_decoder()` or a caller.
        named = all(isinstance(use, Attribute) for use in uses) and imports_any(call.function.module, {"transformers"})
        kind_names = [kind.name for kind in kinds(module)] if module is not None else []
        known = named or any(name.startswith("transformers.") for name in kind_names)
        if module is None and not known:
            continue
        confidence = Confidence.LIKELY if known and not call.function.module.is_test else Confidence.POSSIBLE
        yield Request(call, argument, what, confidence, grad_mode(call.region) is not GradMode.DISABLED)


def _is_unasked(use: object) -> bool:
    """Whether a use reads what a model returns in any case; the first component of a tuple is such."""
    if isinstance(use, Item):
        key = use.index[0] if len(use.index) == 1 else None
        return isinstance(key, Constant) and (key.constant == 0 or key.constant in _READ)
    return isinstance(use, Attribute) and use.name in _READ
