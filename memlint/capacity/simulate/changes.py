"""What-ifs: the same script run again with one thing done differently. Imports no torch.

A change is a word, with a number or a name behind ``=`` where it takes one; ``child/changes.py`` carries it out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from memlint.capacity.simulate.run import Prediction, simulate
from memlint.capacity.simulate.settings import Settings


@dataclass(frozen=True)
class Change:
    """One thing that could be done differently."""

    word: str
    """As in :attr:`memlint.capacity.simulate.settings.Settings.changes`."""
    what: str
    price: str
    """What it costs besides memory."""


CHANGES = (
    Change("fused", "the fused implementation of the optimizer", "none; not every optimizer has one"),
    Change("amp=bf16", "forward passes under torch.autocast in bfloat16", "lower precision of most operators"),
    Change("checkpoint", "checkpointing of every repeated block", "about a third more computation"),
    Change("accumulate=2", "half the batch at a time, gradients accumulated over two", "smaller kernels"),
    Change("accumulate=4", "a quarter of the batch at a time, gradients accumulated over four", "smaller kernels"),
    Change("8bit", "8-bit states of Adam and AdamW", "another library; rounding of the states"),
    Change("offload", "the optimizer's state and step on the host", "gradients and parameters cross the bus each step"),
    Change("bf16", "parameters in bfloat16", "small updates are lost in rounding, unless adapters are trained"),
    Change("lora=8", "low-rank adapters of rank 8 in every Linear, all else frozen", "trains the adapters only"),
    Change("fsdp=8", "FSDP over 8 GPUs", "eight GPUs; every parameter is sent three times a step"),
)
"""The cheapest first."""


@dataclass(frozen=True)
class Remedy:
    """A re-run with changes."""

    changes: tuple[Change, ...]
    prediction: Prediction

    @property
    def is_applicable(self) -> bool:
        """Whether the script ran with the changes and every one of them found something to change."""
        return self.prediction.is_known and not self.prediction.outcome.not_applied


def what_if(
    script: str, args: Sequence[str], settings: Settings, changes: Sequence[Change], *, is_module: bool = False
) -> Remedy:
    """Run the script again with ``changes``."""
    changed = replace(settings, changes=(*settings.changes, *(change.word for change in changes)))
    return Remedy(tuple(changes), simulate(script, args, changed, is_module=is_module))


def remedies(
    script: str, args: Sequence[str], settings: Settings, *, is_module: bool = False, most: int = 2
) -> Iterator[Remedy]:
    """Every single change that applies, and then the first combination of up to ``most`` of them that fits."""
    useful: list[Remedy] = []
    for change in CHANGES:
        remedy = what_if(script, args, settings, [change], is_module=is_module)
        if remedy.is_applicable:
            useful.append(remedy)
            yield remedy
    if any(remedy.prediction.fits for remedy in useful):
        return
    changes = [remedy.changes[0] for remedy in useful]
    for count in range(2, most + 1):
        for several in combinations(changes, count):
            if len({change.word.partition("=")[0] for change in several}) < count:
                continue
            remedy = what_if(script, args, settings, several, is_module=is_module)
            if remedy.is_applicable and remedy.prediction.fits:
                yield remedy
                return
