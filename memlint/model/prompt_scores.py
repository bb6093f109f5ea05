"""Language models that score a whole text in a function whose callers use what is said of its end only."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from memlint.bare_trees.layout import spelling
from memlint.findings import Confidence
from memlint.model.calls import call_sites
from memlint.model.components import readers
from memlint.model.keywords import given
from memlint.model.language_models import decoder
from memlint.model.pins import is_older
from memlint.model.upstream import local_ancestors
from memlint.model.values import Attribute, Call, Exit, Item, Store, Value

_DESCRIPTIONS = frozenset({"shape", "device", "dtype"})


def scores_dropped_by_callers(call: Call) -> Confidence | None:
    """How sure it is that ``call`` scores positions which all callers of its function cut off; None if they use them.

    ``logps(model, ids)[:, prompt_length - 1:]``, where ``logps`` shifts ``model(ids).logits`` by one and picks from
    them. That they are shifted tells scores of the next token from other logits where the model is out of sight.
    """
    # From the cheapest question to the dearest.
    read = [use for use in call.uses if isinstance(use, Attribute) and use.name == "logits"]
    if not read or any(given(call, name).values for name in ("labels", "logits_to_keep", "num_logits_to_keep")):
        return None
    if not any(_is_shifted(logits) for logits in read) and decoder(call) is None:
        return None
    if not _is_returned(read) or is_older(call.function.module, "transformers", "4.45"):
        return None
    sites = [site for site in call_sites(call.function) if site.function is not call.function]
    return Confidence.LIKELY if sites and all(map(_drops_the_beginning, sites)) else None


def _is_shifted(logits: Value) -> bool:
    """Whether the last position is cut off: ``logits[:, :-1]``."""
    for use in readers(logits):
        part = _positions(use)
        if part is not None and part.lower is None and part.upper is not None and spelling(part.upper) == "-1":
            return True
    return False


def _is_returned(read: list[Attribute]) -> bool:
    """Whether what the function returns is computed from the scores."""
    function = read[0].function
    return any(ancestor in read for leaving in function.returns for ancestor in local_ancestors(leaving.value))


def _drops_the_beginning(site: Call) -> bool:
    """Whether nothing of what ``site`` returns is used but the positions from a computed one on."""
    users = list(_users(site))
    parts = [_positions(use) for use in users]
    return bool(users) and all(
        part is not None and part.upper is None and part.lower is not None and _is_computed(part.lower)
        for part in parts
    )


def _users(site: Call) -> Iterator[Value | Store | Exit]:
    return (
        use for use in readers(site) if not (isinstance(use, Attribute) and use.name in {"shape", "device", "dtype"})
    )


def _is_computed(start: cst.BaseExpression) -> bool:
    return not isinstance(start, cst.Integer)


def _positions(use: object) -> cst.Slice | None:
    """``start:stop`` of ``x[:, start:stop]``."""
    if not isinstance(use, Item) or not isinstance(use.node, cst.Subscript) or len(use.node.slice) < 2:
        return None
    first, second = use.node.slice[0].slice, use.node.slice[1].slice
    whole = isinstance(first, cst.Slice) and first.lower is None and first.upper is None
    return second if whole and isinstance(second, cst.Slice) else None
