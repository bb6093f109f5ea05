"""Which classes of the project are derived from a class, and what they make of a method that it leaves to them."""

from __future__ import annotations

from collections.abc import Iterator

from memlint.model.aliases import find_method, mro
from memlint.model.memo import query
from memlint.model.scopes import Class, Function


@query(on_cycle=())
def subclasses(owner: Class) -> tuple[Class, ...]:
    """The classes at the top level of their files that are derived from ``owner``, directly or not.

    Those of its own file come first; the files of others are read where few of them derive from a class of its name.
    """
    modules = (owner.module, *owner.project.deriving(owner))
    return tuple(
        cls for module in modules for cls in module.body.lower().classes if cls is not owner and owner in mro(cls)
    )


def overriding(owner: Class, name: str) -> Iterator[Function]:
    """The methods ``name`` that subclasses of ``owner`` have instead of its own; none for ``__init__``."""
    if name == "__init__":
        return
    inherited = find_method(owner, name)
    found = (find_method(cls, name) for cls in subclasses(owner))
    yield from dict.fromkeys(method for method in found if method is not None and method is not inherited)
