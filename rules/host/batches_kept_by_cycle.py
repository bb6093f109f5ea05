"""MEM908."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from memlint.findings import Applicability, Claim, ClaimShape, Confidence, Finding, Fix, Severity, Watch
from memlint.model.aliases import qualified_names
from memlint.model.containers import names_of
from memlint.model.kinds import Role, role
from memlint.model.program import Program
from memlint.model.source_text import code
from memlint.model.values import Call
from memlint.rule import Rule


class BatchesKeptByCycle(Rule):
    """A data loader is repeated by `itertools.cycle`, which keeps every batch of the first epoch.

    ## What it does
    Finds `itertools.cycle(loader)` where `loader` is a data loader, as in `zip(cycle(labelled), unlabelled)`.

    ## Why is this bad?
    `cycle` saves what it has yielded in order to yield it again: after one epoch every batch of the data set is in host
    memory, as large as it goes to the GPU and not as it is stored, for each process of distributed training. What
    workers have made is in shared memory, of which containers have little. With 100 batches of 1 MiB, 100 MiB were
    alive after one epoch, and 1 MiB with a loop over the loader (measured). Besides, later epochs repeat the first one:
    nothing is shuffled or augmented anew.

    ## Example
    ```python
    batches = itertools.cycle(loader)
    for step in range(steps):
        x, y = next(batches)
    ```

    ## Use instead
    ```python
    batches = (batch for epoch in itertools.count() for batch in loader)
    for step in range(steps):
        x, y = next(batches)
    ```

    ## Fix safety
    Unsafe: every epoch reads and shuffles the data anew, so that the batches come in another order.

    ## When to ignore
    When the loader yields a few small batches and repeating them is the point, as in a test of overfitting.

    ## References
    - [itertools.cycle](https://docs.python.org/3/library/itertools.html#itertools.cycle)
    - [pytorch#23900](https://github.com/pytorch/pytorch/issues/23900),
      [UNO#64](https://github.com/bytedance/UNO/issues/64)
    """

    code = "MEM908"
    name = "batches-kept-by-cycle"
    severity = Severity.WARNING
    gate = frozenset({"cycle"})
    fixers = ("replace_expression",)
    positive = (
        """
import itertools
from torch.utils.data import DataLoader
def train(dataset, steps):
    loader = DataLoader(dataset, shuffle=True)
    batches = itertools.cycle(loader)  # MEM908: 15
    for step in range(steps):
        x, y = next(batches)
""",
        """
from itertools import cycle as forever
from torch.utils.data import DataLoader
class Trainer:
    def __init__(self, dataset):
        self.loader = DataLoader(dataset)
    def batches(self):
        return forever(self.loader)  # MEM908
""",
        """
from itertools import cycle
from torch.utils.data import DataLoader
def train(labelled: DataLoader, unlabelled: DataLoader):
    for (x, y), z in zip(cycle(labelled), unlabelled):  # MEM908: 26
        print(x, y, z)
""",
    )
    negative = (
        """
import itertools
rates = itertools.cycle([0.1, 0.01])
""",
        """
import itertools
from torch.utils.data import DataLoader
def cycle(loader):
    while True:
        yield from loader
batches = cycle(DataLoader([1, 2, 3]))
both = itertools.cycle([DataLoader([1, 2, 3]), DataLoader([4, 5, 6])])
""",
    )

    def check(self, program: Program) -> Iterator[Finding]:
        for call in program.calls():
            if call.arguments and "itertools.cycle" in qualified_names(call.callee):
                confidence = role(call.arguments[0].value, Role.LOADER)
                if confidence is not None and not program.module.is_test:
                    yield self._finding(call, confidence)

    def _finding(self, call: Call, confidence: Confidence) -> Finding:
        loader = code(call.arguments[0].node.value)
        repeat = f"(batch for epoch in itertools.count() for batch in {loader})"
        holder = _next_of(call)
        return self.finding(
            call.node,
            f"`cycle` keeps every batch of `{loader}`, and repeats those of the first epoch",
            holds="every batch of the first epoch, in host memory",
            confidence=confidence,
            fixes=(
                Fix(
                    "replace_expression",
                    f"Iterate over `{loader}` again in each epoch",
                    Applicability.UNSAFE,
                    {"expression": call.node},
                    {"code": repeat, "import": "itertools"},
                ),
            ),
            claim=Claim(
                ClaimShape.GROWS,
                "host",
                "one batch",
                holder=holder,
                held=call.node,
                watch=Watch.CYCLED,
                unobservable="" if holder is not None else "an iterator without a name cannot be looked at",
            ),
        )


def _next_of(cycled: Call) -> cst.CSTNode | None:
    """The name of the iterator where its next batch is taken: ``batches`` in ``next(batches)``."""
    for name in names_of(cycled):
        for use in name.uses:
            if isinstance(use, Call) and "builtins.next" in qualified_names(use.callee) and use.arguments:
                return use.arguments[0].node.value
    return None
