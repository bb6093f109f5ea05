"""Calls of ``nn.MultiheadAttention``, and whether anybody wants the attention weights that they compute."""

from __future__ import annotations

from memlint.findings import Confidence
from memlint.model.components import used_components
from memlint.model.hooks import registrations
from memlint.model.keywords import given
from memlint.model.kinds import Kind, Role, kinds
from memlint.model.values import Call

_NAMES = frozenset({"torch.nn.MultiheadAttention", "torch.nn.modules.activation.MultiheadAttention"})
_NEED_WEIGHTS = 4
"""Position of ``need_weights`` in ``forward(query, key, value, key_padding_mask, need_weights, ...)``."""


def computes_unused_weights(call: Call) -> Confidence | None:
    """How sure it is that ``call`` runs an ``nn.MultiheadAttention`` whose weights are computed and dropped.

    Possible: where arguments are out of sight, or a hook that takes the weights may be registered.
    """
    confidence = _is_attention(call)
    if confidence is None or used_components(call) != frozenset({0}):
        return None
    options = [given(call, "need_weights", _NEED_WEIGHTS), given(call, "average_attn_weights")]
    if any(option.values for option in options):
        return None
    if any(option.unknown for option in options) or _may_be_hooked(call):
        return Confidence.POSSIBLE
    return confidence


def _is_attention(call: Call) -> Confidence | None:
    modules = call.callee if call.method != "forward" else call.receiver
    found = [kind for kind in kinds(modules) if kind.role is Role.MODULE] if modules is not None else []
    if not found or any(kind.cls is not None or kind.name not in _NAMES for kind in found):
        return None
    return Confidence.weakest(*(kind.confidence for kind in found))


def _may_be_hooked(call: Call) -> bool:
    """Whether a hook in the same file sees the output of an attention module, or of modules out of sight."""
    for registration in registrations(call.function.module):
        receiver = registration.call.receiver
        found = [kind for kind in kinds(receiver) if kind.role is Role.MODULE] if receiver is not None else []
        if not found or any(kind.name in _NAMES or _may_be_any(kind) for kind in found):
            return True
    return False


def _may_be_any(kind: Kind) -> bool:
    return kind.cls is None and kind.name.rpartition(".")[2] in {"", "Module"}
