"""Calls of tokenizers, and whether they pad each sample to the longest that is allowed."""

from __future__ import annotations

import re
from enum import Enum

from memlint.findings import Confidence
from memlint.model.aliases import sources
from memlint.model.keywords import given
from memlint.model.kinds import Role, kinds, role
from memlint.model.memo import query
from memlint.model.scopes import Function, Module
from memlint.model.settings import option
from memlint.model.values import Branch, Call, FunctionValue, Value

_TOKENIZER = re.compile(r"Tokenizer(Fast|Base)?$")
_ENCODING = ("encode_plus", "batch_encode_plus", "encode", "pad")
_FIXED_SHAPES = re.compile(
    r"\b(torch\.compile|torch_compile\w*|torch_xla|xla|CUDAGraph|cuda\.graph|pad_to_multiple_of|diffusers|flash_attn\w*|"
    r"whisper\w*|tpus?)\b",
    re.IGNORECASE,
)
"""What needs or wants batches of one shape, or packs them, so that padding is meant or gone again."""
_SHORT = 64
"""Tokens up to which a sample that is padded to the end costs little."""


class Preparation(Enum):
    """Which part of the preparation of data a function is."""

    SAMPLES = "maps the samples of a data set"
    BATCHES = "collates a batch"


def pads_to_the_end(call: Call) -> Confidence | None:
    """How sure it is that ``call`` runs a tokenizer that pads each sample to the maximal length."""
    padding = option(call, "padding").only
    old = option(call, "pad_to_max_length").is_on()
    if not old and (padding is None or padding.constant != "max_length"):
        return None
    longest = option(call, "max_length").only
    if longest is not None and isinstance(longest.constant, int) and longest.constant <= _SHORT:
        return None
    return None if _is_chosen(call) else _tokenizer(call)


def _is_chosen(call: Call) -> bool:
    """Whether ``call`` runs under a condition, as for one kind of device, and another call does in its place."""
    branches = [region for region in call.region.ancestors() if isinstance(region, Branch)]
    return any(len(branch.siblings) > 1 or branch.test is not None for branch in branches)


def _tokenizer(call: Call) -> Confidence | None:
    """How sure it is that ``call`` runs a tokenizer; possible where it is not known what is called."""
    tokenizer = call.receiver if call.method in _ENCODING else call.callee
    if tokenizer is None or isinstance(next(iter(sources(tokenizer)), None), FunctionValue):
        return None
    found = [kind for kind in kinds(tokenizer) if kind.role is not Role.NONE]
    named = [kind for kind in found if _TOKENIZER.search(kind.name)]
    if named:
        return Confidence.weakest(Confidence.LIKELY, named[0].confidence)
    return None if found else Confidence.POSSIBLE


@query(on_cycle=None)
def preparation(function: Function) -> Preparation | None:
    """What ``function`` does to the data of a training, by who gets it; None if that is not in sight."""
    module = function.module
    for name in ("map", "with_transform", "set_transform"):
        for call in module.calls_by_name.get(name, ()):
            if any(_is_given(argument.value, function) for argument in call.arguments):
                return Preparation.SAMPLES
    for call in (call for each in module.functions for call in each.calls):
        for keyword in ("collate_fn", "data_collator"):
            if any(_is_given(value, function) for value in given(call, keyword).values):
                return Preparation.BATCHES
    owner = function.owner
    if owner is not None and function.name in {"__getitem__", "__iter__", "__init__"}:
        instance = function.instance
        if instance is not None and role(instance, Role.DATASET):
            return Preparation.SAMPLES
    return None


def _is_given(value: Value, function: Function) -> bool:
    return any(isinstance(source, FunctionValue) and source.target is function for source in sources(value))


def wants_fixed_shapes(module: Module) -> bool:
    """Whether a file says something that wants all batches to be of one shape."""
    return bool(_FIXED_SHAPES.search(module.text))
