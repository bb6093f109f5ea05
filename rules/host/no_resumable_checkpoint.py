"""MEM907."""

from __future__ import annotations

from collections.abc import Iterator

from memlint.findings import Claim, ClaimShape, Confidence, Finding, Severity
from memlint.model.calls import callees
from memlint.model.effects import Effect, region_effects
from memlint.model.kinds import Role, role
from memlint.model.program import Program
from memlint.model.project import Project
from memlint.model.values import Call, Loop
from memlint.rule import Rule


class NoResumableCheckpoint(Rule):
    """A training loop over epochs never saves anything from which it could go on.

    ## What it does
    Finds a hand-written training loop, inside another loop, in a project in which nothing is called that saves a model
    or a training state. Off by default: it is about lost work, not about memory.

    ## Why is this bad?
    A run that ends early (out of memory, the end of a time slot, a preempted instance) has to start from nothing. For
    memory it matters how the state is saved: from copies on the CPU, and not more files than are needed.

    ## Example
    ```python
    for epoch in range(100):
        for x, y in loader:
            train_step(x, y)
    ```

    ## Use instead
    ```python
    for epoch in range(start, 100):
        for x, y in loader:
            train_step(x, y)
        torch.save({"epoch": epoch, "model": model.state_dict(), "optimizer": optimizer.state_dict()}, path)
    ```

    ## Fix safety
    There is no automatic fix.

    ## When to ignore
    For short runs, and in tutorials.

    ## References
    - [Saving and loading a general checkpoint](https://docs.pytorch.org/tutorials/recipes/recipes/saving_and_loading_a_general_checkpoint.html)
    """

    code = "MEM907"
    name = "no-resumable-checkpoint"
    severity = Severity.NOTE
    default = False
    # The loop over epochs may call a function of another file that trains.
    gate = frozenset({"for", "while"})
    positive = (
        """
def train(model, loader, optimizer, criterion, epochs):
    for epoch in range(epochs):
        for x, y in loader:
            optimizer.zero_grad()
            criterion(model(x), y).backward()
            optimizer.step()  # MEM907: 13
        print(epoch)
""",
        """
import torch
class Runner:
    def __init__(self, model, loader):
        self.model, self.loader = model, loader
        self.optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    def epoch(self):
        for x in self.loader:
            self.optimizer.zero_grad()
            self.model(x).sum().backward()
            self.optimizer.step()
    def run(self, epochs):
        for _ in range(epochs):
            self.epoch()  # MEM907
""",
    )
    negative = (
        """
import torch
def train(model, loader, optimizer, criterion, epochs):
    for epoch in range(epochs):
        for x, y in loader:
            optimizer.zero_grad()
            criterion(model(x), y).backward()
            optimizer.step()
        torch.save(model.state_dict(), f"{epoch}.pt")
""",
        """
from callbacks import checkpointer
def train(model, loader, optimizer, criterion, epochs):
    for epoch in range(epochs):
        for x, y in loader:
            optimizer.zero_grad()
            criterion(model(x), y).backward()
            optimizer.step()
        checkpointer.save_checkpoint(epoch)
""",
        """
def overfit(model, x, y, optimizer, criterion):
    for _ in range(100):
        optimizer.zero_grad()
        criterion(model(x), y).backward()
        optimizer.step()
""",
    )

    def check(self, program: Program) -> Iterator[Finding]:
        if program.module.is_test:
            return
        found = next((call for function in program.functions for call in _steps(function.loops, function.calls)), None)
        if found is not None and not _saves(found.project, program):
            yield self.finding(
                found.node,
                "Nothing in the project saves the state of this training: a run that ends early starts from nothing",
                holds="nothing: this is about lost work, not about memory",
                confidence=Confidence.LIKELY,
                claim=Claim(
                    ClaimShape.PRESENT,
                    "host",
                    "nothing",
                    held=found.node,
                    unobservable="what a program does not do in a few steps, it may do later",
                ),
            )


def _steps(loops: list[Loop], calls: list[Call]) -> Iterator[Call]:
    """The calls in a loop over epochs that train: an optimizer's step, or that of a function with a loop of steps."""
    for call in calls:
        depth = sum(not loop.is_comprehension for loop in call.region.loops())
        if (depth >= 2 and _is_step(call)) or (depth == 1 and loops and _runs_loop_of_steps(call)):
            yield call


def _is_step(call: Call) -> bool:
    return call.method == "step" and call.receiver is not None and role(call.receiver, Role.OPTIMIZER) is not None


def _runs_loop_of_steps(call: Call) -> bool:
    return any(region_effects(loop) & Effect.STEP for function in callees(call) for loop in function.loops)


_SAVING = (
    "save save_checkpoint save_pretrained save_state save_model save_weights save_state_dict async_save state_dict "
    "ModelCheckpoint Checkpoint CheckpointManager save_file dump"
).split()
"""Names of which one occurs in every project that saves a model, or what it has trained."""


def _saves(project: Project, program: Program) -> bool:
    """Whether anything in sight saves something."""
    text = program.module.text
    return any(f"{name}(" in text or project.mentioning(name) != () for name in _SAVING)
