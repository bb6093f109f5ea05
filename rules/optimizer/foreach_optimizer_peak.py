"""MEM701."""

from __future__ import annotations

from collections.abc import Iterator

from memlint.findings import Applicability, Claim, ClaimShape, Confidence, Finding, Fix, Severity, Watch
from memlint.model.aliases import qualified_names
from memlint.model.devices import may_use_accelerator
from memlint.model.program import Program
from memlint.model.scopes import Module
from memlint.model.settings import option
from memlint.model.values import Call
from memlint.rule import Rule


class ForeachOptimizerPeak(Rule):
    """An optimizer runs its default implementation, which needs a copy of all parameters while it steps.

    ## What it does
    Finds `torch.optim.Adam`, `AdamW`, `NAdam`, `RAdam`, `Adamax`, `Adadelta`, `RMSprop`, `Rprop` and, with weight
    decay, `SGD` with neither `fused` nor `foreach`, in code that uses an accelerator. The rule is off unless it is
    selected, since only a run tells whether the peak is in the optimizer's step.

    ## Why is this bad?
    On CUDA these optimizers default to `foreach`, which works on lists of all tensors at once and keeps intermediate
    results for all of them: the size of the trained parameters `P`, once, during `step()`. With `foreach=False` it is
    three times the largest tensor (0.375 `P` in the model that was measured), with `fused=True` nothing. SGD needs `P`
    with weight decay, and nothing without (all measured with torch 2.13).

    ## Example
    ```python
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    ```

    ## Use instead
    ```python
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    ```

    ## Fix safety
    `foreach=False` is safe: 20 steps of AdamW gave the same parameters bit by bit. It is slower, one kernel for each
    tensor. `fused=True` is unsafe: it is the fastest, but its parameters differ by 2e-8.

    ## When to ignore
    When the peak is in the backward pass and not in the step, as is usual for large batches; for gradients that are
    sparse, which `fused` does not take.

    ## References
    - [torch.optim: foreach, for-loop and fused](https://docs.pytorch.org/docs/stable/optim.html)
    - [pytorch#97712](https://github.com/pytorch/pytorch/issues/97712) (5.5 to 6.8 GB),
      [torchtune#389](https://github.com/meta-pytorch/torchtune/pull/389),
      [verl#2556](https://github.com/verl-project/verl/issues/2556)
    """

    code = "MEM701"
    name = "foreach-optimizer-peak"
    severity = Severity.NOTE
    default = False
    gate = frozenset({"Adam", "AdamW", "NAdam", "RAdam", "Adamax", "Adadelta", "RMSprop", "Rprop", "SGD"})
    fixers = ("add_argument",)
    positive = (
        """
import torch
model = torch.nn.Linear(4, 4).cuda()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)  # MEM701: 13
""",
        """
from torch import optim
def build(net, device="cuda"):
    net.to(device)
    return optim.RMSprop(net.parameters())  # MEM701: 12
""",
        """
import lightning as L
from torch.optim import Adam
class Lit(L.LightningModule):
    def configure_optimizers(self):
        return Adam(  # MEM701
            self.parameters(),
            lr=self.hparams.lr,
        )
""",
        """
import torch
def build(parameters, args):
    match args.optimizer:
        case "sgd":
            return torch.optim.SGD(params=parameters, lr=args.lr, weight_decay=args.decay)  # MEM701: 20
    return torch.optim.SGD([p.cuda() for p in parameters], 0.1, 0.9, weight_decay=5e-4)  # MEM701
""",
        """
import torch
def build(model, **options):
    return torch.optim.Adam(model.cuda().parameters(), **options)  # MEM701?
""",
    )
    negative = (
        """
import torch
from transformers import Trainer, TrainingArguments
model = torch.nn.Linear(4, 4).cuda()
torch.optim.AdamW(model.parameters(), fused=True)
torch.optim.AdamW(model.parameters(), foreach=False)
torch.optim.Adam(model.parameters(), differentiable=True)
torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0)
torch.optim.Adagrad(model.parameters())
torch.optim.SparseAdam(model.parameters())
Trainer(model, TrainingArguments("out", optim="adamw_torch"))
""",
        """
import torch
model = torch.nn.Linear(4, 4)
optimizer = torch.optim.Adam(model.parameters())
optimizer.step()
""",
        """
import torch
table = torch.nn.Embedding(1000, 4, sparse=True).cuda()
optimizer = torch.optim.Adam(table.parameters())
""",
        """
from bitsandbytes.optim import AdamW
import torch
optimizer = AdamW(torch.nn.Linear(4, 4).cuda().parameters())
""",
    )

    def check(self, program: Program) -> Iterator[Finding]:
        for call in program.calls():
            chosen, others = _optimizer(call)
            if chosen is None or _has_sparse_gradients(program.module) or not may_use_accelerator(call.function):
                continue
            settings = [option(call, name) for name in ("fused", "foreach", "differentiable")]
            if not any(setting.known for setting in settings):
                unsure = others or any(setting.others for setting in settings)
                yield self._finding(call, chosen, Confidence.POSSIBLE if unsure else Confidence.LIKELY)

    def _finding(self, call: Call, chosen: str, confidence: Confidence) -> Finding:
        loop = _fix(call, "foreach=False", "Update one tensor after the other with `foreach=False`", Applicability.SAFE)
        fused = _fix(call, "fused=True", "Update all in one kernel with `fused=True`", Applicability.UNSAFE)
        return self.finding(
            call.node,
            f"`{chosen}` runs its `foreach` implementation on CUDA, which needs the size of all parameters in a step",
            holds="intermediate results of the size of the trained parameters, during `step()`",
            confidence=confidence,
            fixes=(loop, fused) if chosen in _FUSED else (loop,),
            claim=Claim(ClaimShape.SPIKE, "device", "P", held=call.node, watch=Watch.FOREACH_STEP),
        )


_FUSED = frozenset({"Adam", "AdamW"})
_FOREACH = _FUSED | {"NAdam", "RAdam", "Adamax", "Adadelta", "RMSprop", "Rprop"}


def _needs_all_at_once(name: str, call: Call) -> bool:
    """Whether the ``foreach`` implementation has lists of the size of the parameters; SGD's only for weight decay."""
    if name != "SGD":
        return name in _FOREACH
    decay = option(call, "weight_decay", 4)
    return bool(decay.others) or any(known.constant for known in decay.known)


def _optimizer(call: Call) -> tuple[str | None, bool]:
    """The optimizer with a ``foreach`` of its own size that ``call`` makes, and whether it may be another one."""
    names = sorted(name for name in qualified_names(call.callee) if name.startswith("torch.optim."))
    found = [kind for name in names if _needs_all_at_once(kind := name.rpartition(".")[2], call)]
    return (found[0] if found else None), len(found) < len(names)


def _fix(call: Call, argument: str, message: str, applicability: Applicability) -> Fix:
    return Fix("add_argument", message, applicability, {"call": call.node}, {"code": argument})


def _has_sparse_gradients(module: Module) -> bool:
    """Whether an embedding of the file gives sparse gradients."""
    made = (*module.calls_by_name.get("Embedding", ()), *module.calls_by_name.get("EmbeddingBag", ()))
    return any(option(call, "sparse").is_on() is not False for call in made)
