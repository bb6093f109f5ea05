"""MEM905."""

from __future__ import annotations

from collections.abc import Iterator

from memlint.findings import Applicability, Claim, ClaimShape, Confidence, Finding, Fix, Severity
from memlint.model.aliases import qualified_names
from memlint.model.program import Program
from memlint.model.settings import option
from memlint.model.values import Call
from memlint.rule import Rule


class MemoryHistoryUnbounded(Rule):
    """The history of the CUDA allocator is recorded without a bound.

    ## What it does
    Finds `torch.cuda.memory._record_memory_history()` without `max_entries` where the same file never ends the
    recording (`enabled=None`). Tests are left out.

    ## Why is this bad?
    Each allocation and each free is kept in host memory with its stack: several kB for an entry with C++ frames, and
    the default of `max_entries` is `sys.maxsize`. A training step makes thousands of entries. What a snapshot shows is
    the end of the history in any case.

    ## Example
    ```python
    torch.cuda.memory._record_memory_history()
    ```

    ## Use instead
    ```python
    torch.cuda.memory._record_memory_history(max_entries=100_000)
    ```

    ## Fix safety
    Safe: the last 100,000 entries are kept, and the program computes the same.

    ## When to ignore
    When the program ends after a few steps.

    ## References
    - [Understanding CUDA memory usage](https://docs.pytorch.org/docs/stable/torch_cuda_memory.html)
    """

    code = "MEM905"
    name = "memory-history-unbounded"
    severity = Severity.WARNING
    gate = frozenset({"_record_memory_history"})
    fixers = ("add_argument",)
    positive = (
        """
import torch
torch.cuda.memory._record_memory_history()  # MEM905: 1
def main(trainer):
    trainer.fit()
""",
        """
from torch.cuda.memory import _record_memory_history as record
def start():
    record(enabled="all", stacks="python")  # MEM905: 5
""",
        """
import torch
def start(enabled):
    torch.cuda.memory._record_memory_history(enabled)  # MEM905?
""",
    )
    negative = (
        """
import torch
torch.cuda.memory._record_memory_history(max_entries=100_000)
torch.cuda.memory._record_memory_history("all", "all", "python", 50_000)
torch.cuda.memory._record_memory_history(True, trace_alloc_max_entries=1000)
""",
        """
import torch
def profile(step):
    torch.cuda.memory._record_memory_history()
    step()
    torch.cuda.memory._dump_snapshot("snapshot.pickle")
    torch.cuda.memory._record_memory_history(enabled=None)
""",
        """
import torch
def start(**options):
    torch.cuda.memory._record_memory_history(**options)
""",
    )

    def check(self, program: Program) -> Iterator[Finding]:
        calls = [call for call in program.calls() if qualified_names(call.callee) & _NAMES]
        if program.module.is_test or any(_ends(call) for call in calls):
            return
        for call in calls:
            if not _is_bounded(call):
                yield self._finding(call)

    def _finding(self, call: Call) -> Finding:
        enabled = option(call, "enabled", 0)
        return self.finding(
            call.node,
            "The allocator's history is kept without a bound: several kB of host memory for each allocation",
            holds="an entry with a stack for each allocation and each free, in host memory",
            confidence=Confidence.POSSIBLE if enabled.others else Confidence.LIKELY,
            fixes=(
                Fix(
                    "add_argument",
                    "Keep the last 100,000 entries",
                    Applicability.SAFE,
                    {"call": call.node},
                    {"code": "max_entries=100_000"},
                ),
            ),
            claim=Claim(
                ClaimShape.GROWS,
                "host",
                "kB per allocation",
                held=call.node,
                unobservable="the history is kept by the CUDA allocator itself, outside of what is recorded",
            ),
        )


_NAMES = frozenset({"torch.cuda.memory._record_memory_history", "torch.cuda._memory_viz._record_memory_history"})
_MAX_ENTRIES_POSITION = 3


def _ends(call: Call) -> bool:
    """Whether the call ends a recording."""
    return any(known.constant in (None, False) for known in option(call, "enabled", 0).known)


def _is_bounded(call: Call) -> bool:
    given = (option(call, name, place) for name, place in (("max_entries", _MAX_ENTRIES_POSITION), (_OLD, None)))
    return any(each.is_set for each in given)


_OLD = "trace_alloc_max_entries"
"""The name of the bound in torch 2.0."""
