"""Pretrained models: where one is loaded, in which type, and whether its weights are quantised."""

from __future__ import annotations

import re
from enum import Enum

from memlint.findings import Confidence
from memlint.model.dtypes import DTYPE_OPTIONS, dtypes, is_half
from memlint.model.identity import Objects, everywhere, holds, objects
from memlint.model.keywords import given
from memlint.model.kinds import Kind, Role, kinds
from memlint.model.memo import query
from memlint.model.pins import is_at_least, is_older
from memlint.model.settings import option
from memlint.model.training import inside
from memlint.model.values import Call, Value

_CASTS = ("half", "bfloat16", "float", "double", "to", "type")
_QUANTIZED_NAMES = re.compile(r"gptq|awq|gguf|exl2|hqq|aqlm|(^|[-_.])(bnb|[348]-?bits?|int[48]|fp8|mxfp4|w4a16)", re.I)
"""Parts of the names of checkpoints whose weights are quantised."""
_QUANTIZATION = ("quantization_config", "load_in_4bit", "load_in_8bit")


class Quantization(Enum):
    """Whether the weights of a model are quantised when it is loaded."""

    NO = "no"
    YES = "yes"
    UNKNOWN = "unknown"


@query(on_cycle=None)
def pretrained_kind(call: Call) -> Kind | None:
    """The model that ``call`` loads by ``from_pretrained``; None if it loads a tokenizer, or something out of sight."""
    if call.name != "from_pretrained":
        return None
    return next((kind for kind in kinds(call) if kind.role is Role.MODULE and "." in kind.name), None)


def loads_of(model: Value) -> tuple[Call, ...] | None:
    """The calls of ``from_pretrained`` that load ``model``; None unless all that it may be is loaded in sight."""
    whole = frozenset(inside(everywhere(objects(model))))
    made = [each.root for each in whole if isinstance(each.root, Call) and not each.path]
    loads = [call for call in made if pretrained_kind(call) is not None]
    others = [call for call in made if call not in loads and not _hands_on(call, loads)]
    return tuple(loads) if loads and not others else None


def _hands_on(call: Call, loads: list[Call]) -> bool:
    """Whether ``call`` returns a model that one of ``loads`` has loaded."""
    found = frozenset(inside(everywhere(objects(call))))
    return any(holds(found, objects(load)) for load in loads)


def quantization(load: Call) -> Quantization:
    """Whether the weights are quantised that ``load`` loads: by its options, or as the name of the checkpoint says."""
    found = [option(load, name).is_on() for name in _QUANTIZATION]
    if True in found or _is_named_quantized(load):
        return Quantization.YES
    return Quantization.UNKNOWN if None in found else Quantization.NO


def _is_named_quantized(load: Call) -> bool:
    name = option(load, "pretrained_model_name_or_path", 0)
    return any(isinstance(each.constant, str) and _QUANTIZED_NAMES.search(each.constant) for each in name.known)


# ---------------------------------------------------------------------- types


def loads_half(load: Call) -> Confidence | None:
    """How sure it is that ``load`` loads weights of 16 bits; None if it loads float32.

    Likely: what the checkpoint has, since transformers 5. Possible: that depends on the version, which is not pinned.
    """
    said = [value for name in DTYPE_OPTIONS for value in given(load, name).values]
    if said:
        return Confidence.CERTAIN if any(map(is_half, said)) else None
    module = load.function.module
    if is_older(module, "transformers", "5"):
        return None
    return Confidence.LIKELY if is_at_least(module, "transformers", "5") else Confidence.POSSIBLE


def decides_on_type(load: Call) -> bool:
    """Whether the program says of which type the weights are that ``load`` loads: where it does, or by a later cast."""
    said = [given(load, name) for name in (*DTYPE_OPTIONS, "quantization_config", "model_kwargs")]
    if any(each.values or each.unknown for each in said):
        return True
    model = objects(load)
    calls = (call for name in _CASTS for call in load.function.module.calls_by_name.get(name, ()))
    return any(_casts(call, model) for call in calls)


def _casts(call: Call, model: Objects) -> bool:
    if call.receiver is None or not holds(everywhere(objects(call.receiver)), model):
        return False
    if call.method not in {"to", "type"}:
        return True
    # ``to(device, weight_dtype)``: the second is a type, whatever it is called.
    return len(call.arguments) > 1 or any(dtypes(argument.value) for argument in call.arguments)
