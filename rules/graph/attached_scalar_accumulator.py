from __future__ import annotations

from collections.abc import Iterator

from memlint.findings import Claim, Confidence, Finding, Severity
from memlint.model.autograd import Drain, Reach, certainty, drain, reaches_gradient
from memlint.model.holding import holding
from memlint.model.program import Program
from memlint.model.retention import (
    Accumulation,
    accumulations,
    attached_leaves,
    detach_fix,
    detach_point,
    kept_arguments,
    made_within,
)
from memlint.model.source_text import code
from memlint.model.values import Call, Occurrence, Parameter, Value
from memlint.rule import Rule


class AttachedScalarAccumulator(Rule):
    """A running sum that takes in tensors with their autograd graph.

    ## What it does
    Finds names, attributes and items that are added to (multiplied, averaged) iteration after iteration with a value
    that still carries its graph: `total += loss`, `avg = 0.9 * avg + 0.1 * loss`, `meters["loss"] += loss`, and calls of
    a meter's `update(loss)` when the meter sums up what it is given.

    ## Why is this bad?
    Every addition links one more graph to the sum. If `loss.backward()` has run, the activations are freed and what
    grows is host memory: about 1.5 kB for each operation of the graph and iteration. If no backward runs over the value
    (validation, a metric that is not part of the loss, `retain_graph=True`), every activation of every iteration stays on
    the device. The message says which of the two it is.

    ## Example
    ```python
    for x, y in loader:
        loss = criterion(model(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        total += loss
    ```

    ## Use instead
    ```python
        total += loss.detach()
    ```

    ## Fix safety
    Safe: `.detach()` keeps value, type and device, and does not wait for the device. `float(loss)` and `.item()` would wait.

    ## When to ignore
    When the sum is differentiated later (gradient accumulation by one backward); memlint sees that when the backward is
    within the project.

    ## References
    - [PyTorch FAQ: my model reports "cuda runtime error(2): out of memory"](https://docs.pytorch.org/docs/stable/notes/faq.html)
    """

    code = "MEM101"
    name = "attached-scalar-accumulator"
    severity = Severity.ERROR
    gate = frozenset({"torch", "lightning", "backward", "accelerate", "transformers", "loss", "criterion", "model"})
    fixers = ("call_method",)
    positive = (
        """
import torch
def train(model, loader, opt, crit):
    total = 0.0
    for x, y in loader:
        opt.zero_grad(); loss = crit(model(x), y); loss.backward(); opt.step()
        total += loss  # MEM101: 18
    print(total / len(loader))
""",
    )
    negative = ()

    def check(self, program: Program) -> Iterator[Finding]:
        for function in program.functions:
            for accumulation in accumulations(function):
                yield from self._accumulated(accumulation)
            for call in function.calls:
                yield from self._kept_by_callee(call)

    def _accumulated(self, accumulation: Accumulation) -> Iterator[Finding]:
        for addend in accumulation.addends:
            leaves = attached_leaves(addend)
            if not leaves or all(isinstance(leaf.value, Parameter) for leaf in leaves):
                continue
            if accumulation.loop is not None and not made_within(addend.value, accumulation.loop):
                continue
            confidence = self._confidence(accumulation.value, addend.value)
            if confidence is not None:
                yield self._finding(code(accumulation.holder), addend, leaves, confidence)

    def _confidence(self, kept: Value, addend: Value) -> Confidence | None:
        reach = reaches_gradient(kept)
        if reach is Reach.YES:
            return None
        if reach is Reach.UNKNOWN and drain(addend) is not Drain.DRAINED:
            return Confidence.POSSIBLE
        return certainty(addend)

    def _finding(
        self, holder: str, addend: Occurrence, leaves: tuple[Occurrence, ...], confidence: Confidence
    ) -> Finding:
        held = holding(addend.value, scalar=True)
        source = leaves[0] if len(leaves) == 1 else addend
        target = detach_point(source).node
        return self.finding(
            addend.node,
            f"`{holder}` takes in `{code(source.node)}` with its autograd graph",
            holds=held.phrase,
            severity=held.severity,
            confidence=confidence,
            fixes=(detach_fix(target),),
            claim=Claim(held.shape, held.memory, held.size, holder=None, held=addend.node),
        )

    def _kept_by_callee(self, call: Call) -> Iterator[Finding]:
        for argument in call.arguments:
            where = Occurrence(argument.value, argument.node.value)
            leaves = attached_leaves(where) if not argument.star else ()
            if not leaves or isinstance(argument.value, Parameter):
                continue
            for keeping in kept_arguments(call, argument):
                if keeping.summed:
                    yield self._finding(code(keeping.holder), where, leaves, certainty(argument.value))
                    break
