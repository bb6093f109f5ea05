"""What a module is made of, as far as it tells how much memory the gradients of its parameters take."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from memlint.model.aliases import mro, qualified_names, sources
from memlint.model.kinds import Role, class_of, kinds
from memlint.model.memo import query
from memlint.model.scopes import Class
from memlint.model.values import Call, Constant, Value

_LANGUAGE_MODELS = ("transformers.", "pytorch_transformers.", "pytorch_pretrained_bert.")
"""Libraries whose models have a hundred million parameters and more."""
_WEIGHTED = frozenset({"torch.nn.Linear", "torch.nn.Embedding", "torch.nn.Bilinear"})
"""Layers with as many weights as the product of their first arguments."""
_MANY = 1 << 24
"""Weights whose gradients take 64 MiB: as much as a small network saves of a batch of images."""


@query(on_cycle=False)
def has_large_gradients(module: Value) -> bool:
    """Whether ``module`` is seen to have so many parameters that their gradients count beside its activations.

    A model of transformers, or one that holds a layer with constant sizes, of :data:`_MANY` weights or more.
    """
    if any(kind.role is Role.MODULE and kind.name.startswith(_LANGUAGE_MODELS) for kind in kinds(module)):
        return True
    owner = class_of(module)
    if owner is not None and _has_large_layer(owner):
        return True
    return any(_makes_large_layer(source) for source in sources(module) if isinstance(source, Call))


@query(on_cycle=False)
def _has_large_layer(owner: Class) -> bool:
    """Whether the methods of ``owner`` make a large layer, or modules of the project that have one."""
    methods = (method for cls in mro(owner) for method in cls.methods.values())
    return any(_makes_large_layer(call) for method in methods for call in method.lower().calls)


@query(on_cycle=False)
def _makes_large_layer(call: Call) -> bool:
    names = qualified_names(call.callee)
    if names & _WEIGHTED:
        sizes = [size for given in call.positional()[:2] for size in _sizes(given)]
        return len(sizes) > 1 and prod(sizes) >= _MANY
    if "torch.nn.Sequential" in names:
        parts = (each for given in call.positional() for each in sources(given))
        return any(isinstance(part, Call) and _makes_large_layer(part) for part in parts)
    made = class_of(call)
    return made is not None and _has_large_layer(made)


def _sizes(value: Value) -> Iterator[int]:
    for source in sources(value):
        if isinstance(source, Constant) and isinstance(source.constant, int):
            yield source.constant
