"""Clearing gradients: which ``zero_grad`` may fill them with zeros, and who reads the zeros."""

from __future__ import annotations

from typing import NamedTuple

import libcst as cst

from memlint.findings import Applicability, Claim, ClaimShape, Confidence, Fix, Watch
from memlint.model.aliases import sources
from memlint.model.calls import callees
from memlint.model.definitions import definitions
from memlint.model.effects import calls_in
from memlint.model.kinds import Role, is_known_other, role
from memlint.model.optimization import accumulates, innermost_step, is_gradient_read
from memlint.model.pins import is_older, supports_older
from memlint.model.values import Attribute, Branch, Call, Part, Region, Value


class Zeroing(NamedTuple):
    """Which versions fill the gradients with zeros, and whether the project is held at them, or only admits them."""

    package: str
    before: str
    held: bool


def zeroing_version(call: Call) -> Zeroing | None:
    """With which versions of a package that the project may run with ``zero_grad()`` fills gradients with zeros.

    Torch before 2.0 does; Accelerate before 0.28 passes ``set_to_none=False`` for the optimizers that it has prepared.
    """
    module = call.function.module
    packages = [("torch", "2.0")]
    if "accelerat" in module.text and call.receiver is not None and _is_prepared(call.receiver):
        packages.append(("accelerate", "0.28"))
    held = [Zeroing(name, version, True) for name, version in packages if is_older(module, name, version)]
    admitted = (Zeroing(name, version, False) for name, version in packages if supports_older(module, name, version))
    return held[0] if held else next(admitted, None)


def _is_prepared(optimizer: Value) -> bool:
    """Whether Accelerate returns the optimizer, from ``prepare``."""
    found = [source.base if isinstance(source, Part) else source for source in definitions(optimizer)]
    made = [source for value in found for source in sources(value)]
    return any(isinstance(source, Call) and bool(role(source, Role.PREPARED)) for source in made)


def bare_zero_grad(call: Call) -> Confidence | None:
    """How sure it is that ``zero_grad()`` is torch's own, and leaves open whether gradients are freed; None if not.

    Tests are left out.
    """
    receiver = call.receiver
    if receiver is None or call.arguments or callees(call) or call.function.module.is_test:
        return None
    if is_known_other(receiver, Role.OPTIMIZER, Role.MODULE):
        return None
    return Confidence.LIKELY if role(receiver, Role.OPTIMIZER, Role.MODULE) else Confidence.POSSIBLE


def free_always(call: Call) -> Fix:
    """The fix of a bare ``zero_grad()`` that does the same with every version of torch."""
    return Fix(
        "add_argument",
        "Free the gradients with every version of torch",
        Applicability.SAFE,
        {"call": call.node},
        {"code": "set_to_none=True"},
    )


def zeroing_claim(call: Call) -> Claim:
    """What memory does if ``call`` fills the gradients with zeros: all of them stay allocated through each step."""
    function = call.node.func
    holder = function.value if isinstance(function, cst.Attribute) else None
    return Claim(ClaimShape.PLATEAU, "device", "G", holder=holder, watch=Watch.GRADIENTS_ZEROED)


def is_read_before_backward(clearing: Call) -> bool:
    """Whether code that does not ask for None first reads gradients between ``clearing`` and the next backward."""
    span = innermost_step(clearing.region) or clearing.function.body
    reads = [a for a in clearing.function.attributes if a.region.within(span) and _is_read(a)]
    backwards = [call.order for call in calls_in(span) if accumulates(call)]

    def turn(order: int) -> int:
        """Where ``order`` comes after the clearing, at the end of which the next iteration begins."""
        return order if order > clearing.order else order + span.last

    next_backward = min(map(turn, backwards), default=None)
    return any(next_backward is None or turn(read.order) < next_backward for read in reads)


def _is_read(attribute: Attribute) -> bool:
    return is_gradient_read(attribute) and not any(map(_asks_for_gradient, attribute.region.ancestors()))


def _asks_for_gradient(region: Region) -> bool:
    test = region.test if isinstance(region, Branch) else None
    parts: list[Value] = list(test.operands()) if test is not None else []
    return any(isinstance(part, Attribute) and part.name == "grad" for part in (test, *parts))
