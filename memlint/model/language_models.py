"""Decoders of transformers: which calls run one, and whether they build a cache of keys and values for nothing."""

from __future__ import annotations

import re

from memlint.findings import Confidence
from memlint.model.aliases import base_names
from memlint.model.components import readers
from memlint.model.forwards import called_module
from memlint.model.gradmode import GradMode, grad_mode, is_hf_trainer
from memlint.model.identity import everywhere, objects
from memlint.model.keywords import Setting, given, setting
from memlint.model.kinds import Role, kinds
from memlint.model.memo import query
from memlint.model.scopes import Function, Module
from memlint.model.values import Attribute, Call, Constant, Item, Parameter

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
    confidence = _decoder(call) if _reads_scores_only(call) and not _decides_on_cache(call) else None
    if confidence is None:
        return None
    if grad_mode(call.region) is not GradMode.DISABLED:
        return None
    if any(_switches_cache_off(module) for module in _files(call)) or _is_part_of_trainer(call.function):
        return None
    unsure = call.function.module.is_test or any(map(_trains_with_trainer, _files(call)))
    return Confidence.POSSIBLE if unsure else confidence


def _decoder(call: Call) -> Confidence | None:
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
