"""What stays alive when an attached value is kept, in the words that findings use."""

from __future__ import annotations

from dataclasses import dataclass

from memlint.findings import ClaimShape, Severity
from memlint.model.drain import Drain, drain
from memlint.model.values import Value


@dataclass(frozen=True)
class Holding:
    """What keeping a value keeps alive. ``memory`` is device or host, ``size`` in the symbols of the documentation."""

    phrase: str
    severity: Severity
    memory: str
    size: str
    shape: ClaimShape = ClaimShape.GROWS


def holding(value: Value, *, scalar: bool, per: str = "iteration") -> Holding:
    """What every ``per`` adds if ``value`` is kept with its graph.

    A graph that a backward has run over without ``retain_graph`` holds its nodes only, about 1.5 kB of host memory for
    each operation (measured on torch 2.13: 1.55 kB for each Linear layer and step); one that no backward has run over
    holds everything that autograd saved in the forward pass.
    """
    if drain(value) is Drain.DRAINED:
        if scalar:
            return Holding(
                f"the autograd nodes of every {per} in host memory (about 1.5 kB for each operation); "
                "backward() has freed the activations",
                Severity.WARNING,
                "host",
                "1.5 kB * operations",
            )
        return Holding(
            f"the tensor of every {per}, and its autograd nodes in host memory; backward() has freed the activations",
            Severity.ERROR,
            "device",
            "numel * itemsize",
        )
    return Holding(
        f"every activation that autograd saved in the forward pass of every {per}, since no backward() frees them",
        Severity.ERROR,
        "device",
        "A",
    )
