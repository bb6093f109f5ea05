"""MEM706."""

from __future__ import annotations

from collections.abc import Iterator

from memlint.findings import Claim, ClaimShape, Confidence, Finding, Severity
from memlint.model.aliases import qualified_names
from memlint.model.effects import Effect, effects
from memlint.model.program import Program
from memlint.model.values import Call
from memlint.rule import Rule


class MaskPruningExpectedToSave(Rule):
    """Weights are pruned by masks before training, which makes the model larger.

    ## What it does
    Finds the functions of `torch.nn.utils.prune` where training follows and nothing in the file calls `prune.remove`.

    ## Why is this bad?
    Pruning by masks sets weights to zero; it does not make tensors smaller. The original weight stays as `weight_orig`
    and gets a mask of its size, so that the pruned weights need twice the memory (4 MiB became 8 MiB, measured with
    torch 2.13), and each forward pass computes their product anew. `prune.remove` takes mask and original away; the
    tensor stays dense and as large as before, in memory and in the file.

    ## Example
    ```python
    prune.l1_unstructured(model.fc, "weight", amount=0.9)
    train(model)
    ```

    ## Use instead
    ```python
    prune.l1_unstructured(model.fc, "weight", amount=0.9)
    train(model)
    prune.remove(model.fc, "weight")
    ```
    or, if memory is what it is for, layers with fewer channels, or 2:4 sparsity
    (`torch.sparse.to_sparse_semi_structured`).

    ## Fix safety
    There is no fix: where the masks are no longer needed is for the author to say.

    ## When to ignore
    When the masks are wanted for what they do, as in studies of lottery tickets.

    ## References
    - [Pruning tutorial](https://docs.pytorch.org/tutorials/intermediate/pruning_tutorial.html)
    - [pytorch#36214](https://github.com/pytorch/pytorch/issues/36214),
      [pytorch#43552](https://github.com/pytorch/pytorch/issues/43552),
      [nni#3981](https://github.com/microsoft/nni/issues/3981)
    """

    code = "MEM706"
    name = "mask-pruning-expected-to-save"
    severity = Severity.NOTE
    gate = frozenset({"prune"})
    positive = (
        """
import torch.nn.utils.prune as prune
def main(model, loader, optimizer):
    prune.l1_unstructured(model.fc, name="weight", amount=0.9)  # MEM706: 5
    for x in loader:
        optimizer.zero_grad()
        model(x).mean().backward()
        optimizer.step()
""",
        """
import torch
from torch.nn.utils import prune
def fit(model, loader, optimizer):
    for x in loader:
        model(x).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
def main(model, loader):
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for module in model.children():
        if isinstance(module, torch.nn.Linear):
            prune.random_unstructured(module, "weight", 0.5)  # MEM706: 13
    fit(model, loader, optimizer)
""",
    )
    negative = (
        """
import torch.nn.utils.prune as prune
def main(model, loader, optimizer):
    prune.l1_unstructured(model.fc, name="weight", amount=0.9)
    for x in loader:
        optimizer.zero_grad()
        model(x).mean().backward()
        optimizer.step()
    prune.remove(model.fc, "weight")
""",
        """
import torch.nn.utils.prune as prune
def shrink(model, loader, optimizer):
    for x in loader:
        optimizer.zero_grad()
        model(x).mean().backward()
        optimizer.step()
    prune.l1_unstructured(model.fc, name="weight", amount=0.9)
    return model
""",
        """
import torch_pruning as prune
def main(model, loader, optimizer, importance):
    prune.pruner.MagnitudePruner(model, importance=importance).step()
    for x in loader:
        optimizer.zero_grad()
        model(x).mean().backward()
        optimizer.step()
""",
    )

    def check(self, program: Program) -> Iterator[Finding]:
        removed = any(_function(call) == "remove" for call in program.calls("remove"))
        for call in program.calls():
            name = _function(call) if not removed else ""
            if name and name not in {"remove", "is_pruned"} and name[0].islower() and _trains_after(call):
                yield self.finding(
                    call.node,
                    f"`{name}` adds a mask of the size of the weight, and training then holds both",
                    holds="the original weight, and a mask of its size",
                    confidence=Confidence.LIKELY,
                    claim=Claim(ClaimShape.PLATEAU, "device", "P of the pruned weights", held=call.node),
                )


def _function(call: Call) -> str:
    """Which function of ``torch.nn.utils.prune`` is called."""
    names = (name for name in qualified_names(call.callee) if name.startswith("torch.nn.utils.prune."))
    return next((name.rpartition(".")[2] for name in names), "")


def _trains_after(call: Call) -> bool:
    return any(other.order > call.order and effects(other) & Effect.STEP for other in call.function.calls)
