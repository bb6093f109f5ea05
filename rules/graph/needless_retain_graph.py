"""MEM104."""

from __future__ import annotations

from collections.abc import Iterator

from memlint.findings import Applicability, Claim, ClaimShape, Confidence, Finding, Fix, Severity
from memlint.model.effects import Backward, backward_of
from memlint.model.program import Program
from memlint.model.retained import Need, need_of
from memlint.model.source_text import code
from memlint.rule import Rule


class NeedlessRetainGraph(Rule):
    """A backward keeps its graph although nothing goes over it again.

    ## What it does
    Finds `backward(retain_graph=True)`, `autograd.grad(..., retain_graph=True)` and their kin in Lightning, Accelerate
    and DeepSpeed where no later backward shares a part of that graph: not in the same iteration, not in the next one,
    and not in a function of the project that gets a value of it.

    ## Why is this bad?
    A backward frees the activations that it has used. With `retain_graph=True` it does not, and they stay until the
    last reference to the loss is gone, which is when the next iteration overwrites it: the graph overlaps the next
    forward (peak 9.0 to 11.0 MiB in a measurement with 2.5 MiB of activations). If anything keeps the loss or the
    output, every iteration's activations stay (2.5 MiB for each step there). Often the argument was added to silence
    "Trying to backward through the graph a second time", which it does by keeping all earlier graphs alive.

    ## Example
    ```python
    loss = criterion(model(x), y)
    loss.backward(retain_graph=True)
    optimizer.step()
    ```

    ## Use instead
    ```python
    loss = criterion(model(x), y)
    loss.backward()
    optimizer.step()
    ```

    ## Fix safety
    Unsafe: if a later backward that memlint does not see goes over the graph, it now raises an error. It never changes
    the numbers silently.

    ## When to ignore
    When code that is not part of the project runs another backward over what it gets from here.

    ## References
    - [torch.Tensor.backward](https://docs.pytorch.org/docs/stable/generated/torch.Tensor.backward.html)
    - [MTAdam#2](https://github.com/ItzikMalkiel/MTAdam/issues/2),
      [DeblurGANv2#19](https://github.com/VITA-Group/DeblurGANv2/issues/19)
    """

    code = "MEM104"
    name = "needless-retain-graph"
    severity = Severity.ERROR
    gate = frozenset({"retain_graph"})
    fixers = ("remove_argument",)
    positive = (
        """
def train(model, loader, opt, crit):
    for x, y in loader:
        loss = crit(model(x), y)
        loss.backward(retain_graph=True)  # MEM104: 9
        opt.step()
        opt.zero_grad()
""",
        """
from accelerate import Accelerator

def main(model, loader, optimizer):
    accelerator = Accelerator()
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    for batch in loader:
        loss = model(**batch).loss
        accelerator.backward(loss, retain_graph=True)  # MEM104
        optimizer.step()
        optimizer.zero_grad()
""",
    )
    negative = (
        """
from torch import nn

def gan(loader, generator: nn.Module, critic: nn.Module, opt_d, opt_g):
    for z, real in loader:
        fake = generator(z)
        d_loss = critic(fake).mean() - critic(real).mean()
        d_loss.backward(retain_graph=True)
        opt_d.step()
        g_loss = -critic(fake).mean()
        g_loss.backward()
        opt_g.step()
""",
        """
import torch

def penalised(model, loader, opt, crit):
    for x, y in loader:
        loss = crit(model(x), y)
        grads = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)
        penalty = sum(g.pow(2).sum() for g in grads)
        (loss + penalty).backward()
        opt.step()
        opt.zero_grad()
""",
        """
def tasks(shared, heads, x, opt):
    features = shared(x)
    losses = [head(features).mean() for head in heads]
    for i, loss in enumerate(losses):
        loss.backward(retain_graph=i < len(losses) - 1)
    opt.step()
""",
        """
def configured(model, loader, opt, crit, need_hessian):
    for x, y in loader:
        loss = crit(model(x), y)
        loss.backward(retain_graph=need_hessian)
        opt.step()
        opt.zero_grad()
""",
        """
def plain(model, loader, opt, crit):
    for x, y in loader:
        crit(model(x), y).backward()
        opt.step()
        opt.zero_grad()
""",
    )

    def check(self, program: Program) -> Iterator[Finding]:
        for call in program.calls():
            backward = backward_of(call)
            if backward is None or not backward.retains or backward.creates_graph is not False:
                continue
            confidence = _CONFIDENCE.get(need_of(backward))
            if confidence is not None:
                yield self._finding(backward, confidence)

    def _finding(self, backward: Backward, confidence: Confidence) -> Finding:
        call = backward.call
        return self.finding(
            call.node,
            f"`{code(call.node)}` keeps a graph that no other backward uses",
            holds="the activations of the forward pass, until nothing refers to the loss any more",
            confidence=confidence,
            fixes=tuple(
                Fix(
                    "remove_argument",
                    "Let the backward free the graph",
                    Applicability.UNSAFE,
                    {"argument": argument.node},
                )
                for argument in call.arguments
                if argument.keyword == "retain_graph"
            ),
            claim=Claim(ClaimShape.SPIKE, "device", "A", held=call.node),
        )


_CONFIDENCE = {Need.NO: Confidence.CERTAIN, Need.UNLIKELY: Confidence.LIKELY, Need.UNKNOWN: Confidence.POSSIBLE}
"""How sure a finding is, by how likely the graph is needed."""
