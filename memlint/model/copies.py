"""Copies of whole models that are kept beside each other."""

from __future__ import annotations

from collections.abc import Iterator

from memlint.model.aliases import instance_class, qualified_names
from memlint.model.identity import objects
from memlint.model.instances import instance_kind
from memlint.model.kinds import Role, role
from memlint.model.scopes import Function
from memlint.model.values import Call, Store


def repeated_copies(function: Function) -> Iterator[tuple[Call, Call]]:
    """The copies of a model that ``function`` keeps in an attribute, right after it has kept one of the same model.

    Each with the first. A module that copies a part of itself builds layers, which are then trained on their own.
    """
    kept = [copy for store in function.stores for copy in _kept_copy(store)]
    for position, later in enumerate(kept):
        for earlier in kept[:position]:
            if later.region is earlier.region and _is_same(earlier, later):
                yield earlier, later
                break


def _kept_copy(store: Store) -> Iterator[Call]:
    """The ``deepcopy(model)`` that is stored in an attribute of an object that is no module."""
    owner = instance_class(store.base) if store.base is not None and store.attribute is not None else None
    call = store.value
    if owner is None or not isinstance(call, Call) or "copy.deepcopy" not in qualified_names(call.callee):
        return
    given = call.argument("x", 0)
    if given is not None and instance_kind(owner).role is not Role.MODULE and role(given, Role.MODULE):
        yield call


def _is_same(one: Call, other: Call) -> bool:
    first, second = one.argument("x", 0), other.argument("x", 0)
    return first is not None and second is not None and bool(objects(first) & objects(second))
