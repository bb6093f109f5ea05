"""What a module is made of, as far as it tells which of its activations and its parameters take more memory."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from memlint.model.aliases import mro, qualified_names, sources
from memlint.model.calls import callees
from memlint.model.kinds import Role, class_of, kinds
from memlint.model.memo import query
from memlint.model.scopes import Class
from memlint.model.values import Call, Constant, Value

_CONVOLUTIONAL = ("torch.nn.Conv", "torch.nn.LazyConv", "torch.nn.modules.conv.", "torchvision.models.")
"""Layers whose few weights are used at every place of an image or a signal, and networks that are made of them."""
_FEW = 1 << 20
"""Weights of a layer that are not worth a word: their gradients take 4 MiB."""


@query(on_cycle=False)
def outweighs_its_gradients(module: Value) -> bool:
    """Whether the activations of ``module`` take more memory than the gradients of its parameters.

    Convolutions save an activation for every place and have a small kernel; a small layer has next to no gradients.
    """
    known = [kind for kind in kinds(module) if kind.role is Role.MODULE]
    if any(kind.name.startswith(_CONVOLUTIONAL) for kind in known):
        return True
    owner = class_of(module)
    if owner is not None and _has_convolutions(owner):
        return True
    return any(_is_made_of_small_or_convolutional(source) for source in sources(module) if isinstance(source, Call))


@query(on_cycle=False)
def _has_convolutions(owner: Class) -> bool:
    """Whether the methods of ``owner`` make convolutions, or modules of the project that have some."""
    return any(_makes_convolution(call) for call in _calls_of(owner))


def _calls_of(owner: Class) -> Iterator[Call]:
    for cls in mro(owner):
        for method in cls.methods.values():
            yield from method.lower().calls


@query(on_cycle=False)
def _makes_convolution(call: Call) -> bool:
    if any(name.startswith(_CONVOLUTIONAL) for name in qualified_names(call.callee)):
        return True
    made = class_of(call)
    if made is not None:
        return _has_convolutions(made)
    return any(_makes_convolution(inner) for function in callees(call) for inner in function.calls if inner is not call)


def _is_made_of_small_or_convolutional(call: Call) -> bool:
    """``nn.Linear(3, 3)``, ``nn.Sequential(nn.Conv2d(...), ...)``, and what passes one of them on."""
    names = qualified_names(call.callee)
    if "torch.nn.Linear" in names:
        sizes = [size for given in call.positional()[:2] for size in _sizes(given)]
        return len(sizes) > 1 and prod(sizes) < _FEW
    if "torch.nn.Sequential" in names:
        parts = [each for given in call.positional() for each in sources(given) if isinstance(each, Call)]
        return any(map(_makes_convolution, parts)) or (bool(parts) and all(map(_is_small, parts)))
    return False


def _is_small(part: Call) -> bool:
    names = qualified_names(part.callee)
    if "torch.nn.Linear" in names:
        return _is_made_of_small_or_convolutional(part)
    return not part.arguments and any(name.startswith("torch.nn.") for name in names)


def _sizes(value: Value) -> Iterator[int]:
    for source in sources(value):
        if isinstance(source, Constant) and isinstance(source.constant, int):
            yield source.constant
