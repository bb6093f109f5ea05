"""MEM814."""

from __future__ import annotations

from collections.abc import Iterator

from memlint.findings import Claim, ClaimShape, Confidence, Finding, Related, Severity
from memlint.model.gradient_sync import needless_reductions
from memlint.model.micro_steps import MicroSteps
from memlint.model.program import Program
from memlint.model.source_text import code
from memlint.rule import Rule


class AccumulationWithoutNoSync(Rule):
    """Gradients are accumulated over several micro-steps, and each of them averages them over all processes.

    ## What it does
    Finds a backward in each iteration beside an optimizer that steps once in a number of them (`if (i + 1) % n == 0:`),
    or after a loop over the parts of a batch (`for _ in range(n): (loss / n).backward()`), in files that train on
    several processes with DistributedDataParallel or Accelerate and say nothing of `no_sync()`,
    `accelerator.accumulate()` or another way to decide when gradients are averaged; what methods of other classes do
    does not count.

    The rule is off unless it is selected: what is wasted is time and network, not memory.

    ## Why is this bad?
    DDP sends all buckets through the network in each backward. With `n` micro-steps all but one of these reductions are
    for nothing: n - 1 times the size of the gradients. Averages of sums and sums of averages are the same.

    ## Example
    ```python
    for i, (x, y) in enumerate(loader):
        loss = criterion(model(x), y) / n
        loss.backward()
        if (i + 1) % n == 0:
            optimizer.step()
            optimizer.zero_grad()
    ```

    ## Use instead
    ```python
    for i, (x, y) in enumerate(loader):
        last = (i + 1) % n == 0
        with contextlib.nullcontext() if last else model.no_sync():
            loss = criterion(model(x), y) / n
            loss.backward()
        if last:
            optimizer.step()
            optimizer.zero_grad()
    ```

    ## Fix safety
    There is no automatic fix: forward and backward both belong into the context.

    ## When to ignore
    When there is one process only, or the network is fast beside the backward. Under FSDP `no_sync()` keeps whole
    gradients, which costs memory (files with FSDP are not reported).

    ## References
    - [DistributedDataParallel.no_sync](https://docs.pytorch.org/docs/stable/generated/torch.nn.parallel.DistributedDataParallel.html#torch.nn.parallel.DistributedDataParallel.no_sync)
    - [Accelerate: gradient synchronization](https://huggingface.co/docs/accelerate/concept_guides/gradient_synchronization)
    """

    code = "MEM814"
    name = "accumulation-without-no-sync"
    severity = Severity.NOTE
    default = False
    gate = frozenset({"backward"})
    positive = (
        """
from contextlib import contextmanager
from torch.nn.parallel import DistributedDataParallel as DDP
class Loop:
    '''Trains with DDP; `no_sync()` of the model and deepspeed are left for later.'''
    def __init__(self, model, optimizer, every):
        self.model, self.optimizer, self.every = DDP(model), optimizer, every
    @contextmanager
    def no_sync(self):
        self.model.require_backward_grad_sync = False
        yield
        self.model.require_backward_grad_sync = True
    def fit_batch(self, step, batch):
        (self.model(batch).loss / self.every).backward()  # MEM814
        if step % self.every == 0:
            self.optimizer.step()
            self.optimizer.zero_grad()
""",
        """
import os
from torch.nn.parallel import DistributedDataParallel as DDP
def train(model, optimizer, criterion, loader, n):
    model = DDP(model, device_ids=[int(os.environ["LOCAL_RANK"])])
    for i, (x, y) in enumerate(loader):
        loss = criterion(model(x), y) / n
        loss.backward()  # MEM814: 9
        if (i + 1) % n == 0 or i + 1 == len(loader):
            optimizer.step()
            optimizer.zero_grad()
""",
        """
from accelerate import Accelerator
class Trainer:
    def __init__(self, model, optimizer, every):
        self.accelerator = Accelerator()
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)
        self.every = every
    def back_propagate(self, loss):
        self.accelerator.backward(loss)
    def update(self):
        self.optimizer.step()
        self.optimizer.zero_grad()
    def epoch(self, loader):
        for step, batch in enumerate(loader):
            self.back_propagate(self.model(batch).loss / self.every)  # MEM814
            is_last = step % self.every == self.every - 1
            if is_last:
                self.update()
""",
        """
from accelerate import Accelerator
class Guarded:
    def step(self, accelerator, loss):
        with accelerator.no_sync(self.model):
            accelerator.backward(loss)
class Trainer:
    def __init__(self, model, optimizer, parts):
        self.accelerator = Accelerator()
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)
        self.parts = parts
    def train_step(self, batches):
        for _ in range(self.parts):
            loss = self.model(next(batches)) / self.parts
            self.accelerator.backward(loss)  # MEM814: 13
        self.optimizer.step()
        self.optimizer.zero_grad()
""",
    )
    negative = (
        """
from accelerate import Accelerator
class Trainer:
    def __init__(self, model, critic, optimizer, parts):
        self.accelerator = Accelerator()
        self.model, self.critic, self.optimizer = self.accelerator.prepare(model, critic, optimizer)
        self.parts = parts
    def train_in_parts(self):
        for part in range(self.parts):
            with self.accelerator.no_sync(self.model):
                self.accelerator.backward(self.model(next(self.batches)) / self.parts)
        self.optimizer.step()
        self.optimizer.zero_grad()
    def train_often(self, times):
        for _ in range(times):
            self.accelerator.backward(self.model(next(self.batches)) / times)
            self.optimizer.step()
            self.optimizer.zero_grad()
""",
        """
import deepspeed
from torch.nn.parallel import DistributedDataParallel as DDP
def train(model, optimizer, loader, every):
    model = DDP(model)
    for step, batch in enumerate(loader):
        model(batch).loss.backward()
        if step % every == 0:
            optimizer.step()
            optimizer.zero_grad()
""",
        """
def train(model, optimizer, criterion, loader, n):
    for i, (x, y) in enumerate(loader):
        (criterion(model(x), y) / n).backward()
        if (i + 1) % n == 0:
            optimizer.step()
            optimizer.zero_grad()
""",
        """
import contextlib
from torch.nn.parallel import DistributedDataParallel as DDP
def train(model, optimizer, criterion, loader, n):
    model = DDP(model)
    for i, (x, y) in enumerate(loader):
        last = (i + 1) % n == 0
        with contextlib.nullcontext() if last else model.no_sync():
            (criterion(model(x), y) / n).backward()
        if last:
            optimizer.step()
            optimizer.zero_grad()
""",
        """
from torch.nn.parallel import DistributedDataParallel as DDP
def train(model, optimizer, criterion, loader, every):
    model = DDP(model)
    for i, (x, y) in enumerate(loader):
        criterion(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
        if i % every == 0:
            print(i)
""",
        """
from torch.nn.parallel import DistributedDataParallel as DDP
def train(generator, critic, g_optimizer, c_optimizer, loader, every):
    generator, critic = DDP(generator), DDP(critic)
    for i, x in enumerate(loader):
        c_optimizer.zero_grad()
        critic(x, generator(x).detach()).backward()
        c_optimizer.step()
        if i % every == 0:
            g_optimizer.zero_grad()
            critic(x, generator(x)).backward()
            g_optimizer.step()
""",
    )

    def check(self, program: Program) -> Iterator[Finding]:
        yield from map(self._finding, needless_reductions(program.module))

    def _finding(self, found: MicroSteps) -> Finding:
        return self.finding(
            found.backward.node,
            f"`{code(found.backward.node.func)}` averages the gradients over all processes in each micro-step",
            holds="nothing: what is wasted is time and network",
            confidence=Confidence.LIKELY,
            claim=Claim(
                ClaimShape.PLATEAU,
                "device",
                "0",
                held=found.backward.node,
                unobservable="what is wasted is time and network, not memory",
            ),
            related=(Related(found.step.node, "they are used once in several steps, here"),),
        )
