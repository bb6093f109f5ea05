"""MEM204."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from memlint.findings import Applicability, Claim, ClaimShape, Confidence, Finding, Fix, Related, Severity
from memlint.model.aliases import base_names
from memlint.model.gradmode import is_hf_trainer, is_lightning_module
from memlint.model.optimization import Cleared, Update, gradient_reads, repetitions, updates
from memlint.model.phases import evaluation_with_gradients
from memlint.model.program import Program
from memlint.model.source_text import code, written
from memlint.model.values import Call
from memlint.model.zeroing import (
    Zeroing,
    bare_zero_grad,
    free_always,
    is_read_before_backward,
    zeroing_claim,
    zeroing_version,
)
from memlint.rule import Rule


class GradientsAliveThroughEval(Rule):
    """Gradients are cleared only at the start of the next training step, and live through the evaluation before it.

    ## What it does
    Finds `optimizer.step()` where the gradients are cleared at the top of the step, so that those of the last one are
    still there when the same code goes on to an evaluation: a forward pass without gradients, `model.eval()`,
    `model.generate()`, in the loop, after it, in a caller, or in another method of the class that trains.

    In projects whose metadata admit a torch from before 2.0 (`torch>=1.7`), it also finds `zero_grad()` without
    `set_to_none=True`: these versions fill the gradients with zeros, which live through every evaluation. So does
    Accelerate before 0.28 with the optimizers that it has prepared.

    The rule is off unless it is selected: it matters where evaluation is what runs out of memory.

    ## Why is this bad?
    The gradients take as many bytes as the trained parameters. The peak of an evaluation was 64 MiB with them and
    32 MiB without (measured, a model of 32 MiB).

    ## Example
    ```python
    for x, y in loader:
        optimizer.zero_grad()
        criterion(model(x), y).backward()
        optimizer.step()
    evaluate(model)
    ```

    ## Use instead
    ```python
    for x, y in loader:
        criterion(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
    evaluate(model)
    ```

    ## Fix safety
    Safe: the gradients have been used, nothing reads them until they are cleared anyway, and the numbers are the same.
    The `zero_grad()` at the top of the step may go then. `set_to_none=True` differs for parameters that a step does not
    use: they have no gradient then instead of zeros, so that their momentum and weight decay pause.

    ## When to ignore
    When evaluation takes less memory than training does. The gradients are allocated before the line that is reported,
    so that `memlint verify` has nothing to watch there.

    ## References
    - [heretic#426](https://github.com/p-e-w/heretic/pull/426) (gradients kept into the evaluation),
      [NeMo RL#1147](https://github.com/NVIDIA-NeMo/RL/pull/1147) (into the rollouts)
    """

    code = "MEM204"
    name = "gradients-alive-through-eval"
    severity = Severity.NOTE
    default = False
    gate = frozenset({"step", "zero_grad"})
    fixers = ("add_argument", "insert_statement")
    positive = (
        """
import torch
def evaluate(model, loader):
    model.eval()
    with torch.no_grad():
        return [model(x).argmax(1) for x in loader]
def main(model, train, validation, criterion):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for epoch in range(3):
        model.train()
        for x, y in train:
            optimizer.zero_grad()
            criterion(model(x), y).backward()
            optimizer.step()  # MEM204: 13
        evaluate(model, validation)
""",
        """
import torch
def main(model: torch.nn.Module, loader, criterion, optimizer):
    for step, (x, y) in enumerate(loader):
        optimizer.zero_grad()
        criterion(model(x), y).backward()
        optimizer.step()  # MEM204
        if step % 100 == 0:
            with torch.no_grad():
                print(model(x).mean())
""",
        """
import torch
from transformers import AutoModelForCausalLM
class Worker:
    def __init__(self, name):
        self.model = AutoModelForCausalLM.from_pretrained(name)
        self.optimizer = torch.optim.AdamW(self.model.parameters())
    def train(self, batches):
        for batch in batches:
            self.optimizer.zero_grad()
            self.model(**batch).loss.backward()
            self.optimizer.step()  # MEM204
    def rollout(self, prompts):
        return self.model.generate(prompts)
""",
        """
import torch
def step(model, optimizer, x):
    optimizer.zero_grad()
    model(x).sum().backward()
    optimizer.step()  # MEM204
def train(model, optimizer, loader):
    for x in loader:
        step(model, optimizer, x)
def main(loader):
    model = torch.nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        train(model, optimizer, loader)
        with torch.inference_mode():
            print(model(next(loader)))
""",
    )
    negative = (
        """
import torch
def main(model: torch.nn.Module, loader, criterion, optimizer):
    for x, y in loader:
        criterion(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        print(model(x))
def cleared(model: torch.nn.Module, loader, criterion, optimizer):
    for x, y in loader:
        optimizer.zero_grad()
        criterion(model(x), y).backward()
        optimizer.step()
    optimizer.zero_grad()
    with torch.no_grad():
        print(model(x))
def only_trains(model: torch.nn.Module, loader, criterion, optimizer):
    for x, y in loader:
        optimizer.zero_grad()
        criterion(model(x), y).backward()
        optimizer.step()
def reads(model: torch.nn.Module, loader, criterion, optimizer):
    for x, y in loader:
        optimizer.zero_grad()
        criterion(model(x), y).backward()
        optimizer.step()
    with torch.no_grad():
        print(model(x), [p.grad.norm() for p in model.parameters()])
""",
        """
import lightning as L
class Manual(L.LightningModule):
    def __init__(self, net):
        super().__init__()
        self.net = net
        self.automatic_optimization = False
    def training_step(self, batch, index):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(self.net(batch).mean())
        optimizer.step()
    def validation_step(self, batch, index):
        return self.net(batch)
""",
        """
import torch
class Worker:
    def __init__(self, model: torch.nn.Module):
        self.model = model
        self.optimizer = torch.optim.AdamW(self.model.parameters())
    def train(self, batches):
        for batch in batches:
            self.optimizer.zero_grad()
            self.model(batch).mean().backward()
            self.optimizer.step()
    def finish(self):
        self.optimizer.zero_grad()
    @torch.no_grad()
    def rollout(self, prompts):
        return self.model(prompts)
""",
        """
import torch
def main(model: torch.nn.Module, train, validation, criterion, optimizer):
    for step, (x, y) in enumerate(train):
        model.train()
        criterion(model(x), y).backward()
        if step % 4 == 3:
            optimizer.step()
            optimizer.zero_grad()
    model.eval()
    with torch.no_grad():
        print([model(x) for x in validation])
""",
    )

    def check(self, program: Program) -> Iterator[Finding]:
        for function in program.functions:
            for update in updates(function):
                evaluation = _evaluation(update)
                if evaluation is not None:
                    yield self._finding(update, evaluation)
        for call in program.calls("zero_grad"):
            version = zeroing_version(call)
            confidence = bare_zero_grad(call) if version is not None and not version.held else None
            if version is not None and confidence is not None and not is_read_before_backward(call):
                yield self._zeroed(call, version, confidence)

    def _zeroed(self, call: Call, version: Zeroing, confidence: Confidence) -> Finding:
        return self.finding(
            call.node,
            f"with {version.package} before {version.before}, which the project admits, the gradients are filled with "
            "zeros and stay allocated",
            holds="the buffers of all gradients, as many bytes as the trained parameters, through every evaluation",
            confidence=confidence,
            fixes=(free_always(call),),
            claim=zeroing_claim(call),
        )

    def _finding(self, update: Update, evaluation: Call) -> Finding:
        here = evaluation.function.module is update.region.function.module
        return self.finding(
            update.node,
            f"the gradients that `{code(update.node)}` has used are still alive in the evaluation that follows",
            holds="the gradients of the last step, as many bytes as the trained parameters, through the evaluation",
            confidence=Confidence.LIKELY,
            fixes=tuple(_fixes(update)),
            claim=Claim(
                ClaimShape.PLATEAU, "device", "G", holder=update.optimizer.node, unobservable="they are there before"
            ),
            related=(Related(evaluation.node, "they are still there in this evaluation"),) if here else (),
        )


def _evaluation(update: Update) -> Call | None:
    """The evaluation that runs with the gradients of ``update``, if each step clears them before its backward."""
    call = update.call
    owner = update.region.function.owner
    if call is None or (owner is not None and _clears_by_itself(base_names(owner))):
        return None
    evaluation = evaluation_with_gradients(update)
    if evaluation is None or any(order > call.order for order in gradient_reads(call.function.body)):
        return None
    return evaluation if any(each.cleared is Cleared.YES for each in repetitions(update)) else None


def _clears_by_itself(bases: frozenset[str]) -> bool:
    """Whether a framework releases the gradients before it evaluates."""
    return is_lightning_module(bases) or is_hf_trainer(bases)


def _fixes(update: Update) -> Iterator[Fix]:
    optimizer = update.optimizer.node
    if isinstance(optimizer, (cst.Name, cst.Attribute)):
        clearing = f"{written(optimizer)}.zero_grad()"
        yield Fix(
            "insert_statement",
            f"Clear the gradients after each step with `{clearing}`",
            Applicability.SAFE,
            {"statement": update.node},
            {"code": clearing},
        )
