"""What stays alive when an attached value is kept, in the words that findings use."""

from __future__ import annotations

from typing import NamedTuple

from memlint.findings import ClaimShape, Severity
from memlint.model.drain import Drain, drain, is_branch, is_scalar
from memlint.model.values import Value


class Holding(NamedTuple):
    """What keeping a value keeps alive. ``memory`` is device or host, ``size`` in the symbols of the documentation."""

    phrase: str
    severity: Severity
    memory: str
    size: str
    shape: ClaimShape = ClaimShape.GROWS


def holding(value: Value, *, scalar: bool | None = None, per: str = "iteration") -> Holding:
    """What every ``per`` adds if ``value`` is kept with its graph; ``scalar``: it has one element, None if unknown.

    A graph that a backward has run over without ``retain_graph`` holds its nodes only, about 1.5 kB of host memory for
    each operation (measured on torch 2.13: 1.55 kB for each Linear layer and step); one that no backward has run over
    holds everything that autograd saved in the forward pass. A branch that no backward has run over, of a graph that
    is freed else, holds what autograd saved for the branch.
    """
    scalar = is_scalar(value) if scalar is None else scalar
    state = drain(value)
    if state is not Drain.UNKNOWN and is_branch(value):
        return Holding(
            f"what autograd saved for this branch in every {per}: no backward() runs over it, while one frees the rest "
            "of the graph",
            Severity.ERROR,
            "device",
            "A of the branch",
        )
    if state is Drain.DRAINED:
        return _nodes(per) if scalar else _tensor_and_nodes(per)
    if state is Drain.UNDRAINED:
        return Holding(
            f"every activation that autograd saved in the forward pass of every {per}, since no backward() frees them",
            Severity.ERROR,
            "device",
            "A",
        )
    return Holding(
        f"the autograd graph of every {per}: its nodes in host memory and, unless a backward() out of sight frees "
        "them, the activations",
        Severity.ERROR,
        "host" if scalar else "device",
        "1.5 kB * operations" if scalar else "numel * itemsize",
    )


def _nodes(per: str) -> Holding:
    return Holding(
        f"the autograd nodes of every {per} in host memory (about 1.5 kB for each operation); "
        "backward() has freed the activations",
        Severity.WARNING,
        "host",
        "1.5 kB * operations",
    )


def _tensor_and_nodes(per: str) -> Holding:
    return Holding(
        f"the tensor of every {per}, and its autograd nodes in host memory; backward() has freed the activations",
        Severity.ERROR,
        "device",
        "numel * itemsize",
    )
