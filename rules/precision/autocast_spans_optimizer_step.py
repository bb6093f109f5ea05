"""MEM401."""

from __future__ import annotations

from collections.abc import Iterator

from memlint.findings import Applicability, Claim, ClaimShape, Finding, Fix, Related, Severity, Watch
from memlint.model.aliases import qualified_names
from memlint.model.autocast import autocast_regions, step_on_cached_weights
from memlint.model.knowledge import torch
from memlint.model.program import Program
from memlint.model.settings import option
from memlint.model.values import Call
from memlint.rule import Rule


class AutocastSpansOptimizerStep(Rule):
    """Autocast stays entered while the optimizer changes the weights: later forward passes run on the old ones.

    ## What it does
    Finds a context of autocast (`torch.autocast`, `torch.cuda.amp.autocast`, `accelerator.autocast()`, also as a
    decorator) inside of which an optimizer steps and the same model runs forward again: a whole training loop under
    autocast, or two forward passes with a step between them.

    ## Why is this bad?
    The first time that a float32 weight is used, autocast casts it and keeps the copy until the outermost context is
    left. The copy is not renewed when the weight changes, so that every later forward pass computes with the weights of
    the first step, and the gradients belong to those: the same batch gave the loss 1.5307 four times in a row, and 1.53
    to 1.28 with a context for each step (measured). The copies take half the size of the parameters all that time,
    instead of during the forward pass.

    ## Example
    ```python
    with torch.autocast("cuda", dtype=torch.bfloat16):
        for x, y in loader:
            loss = criterion(model(x), y)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    ```

    ## Use instead
    ```python
    for x, y in loader:
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = criterion(model(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    ```

    ## Fix safety
    Unsafe: what is trained changes, as it must. The fix adds `cache_enabled=False`, which casts each weight whenever it
    is used; entering the context in each step is better, and is left to you.

    ## When to ignore
    When the weights themselves are of 16 bits, so that there is nothing to cast.

    ## References
    - [Automatic mixed precision](https://docs.pytorch.org/docs/stable/amp.html)
    - [pytorch#63552](https://github.com/pytorch/pytorch/pull/63552),
      [pytorch#65766](https://github.com/pytorch/pytorch/issues/65766): the cache
    - [Flow-Factory#186](https://github.com/X-GenGroup/Flow-Factory/pull/186): a loss that stayed flat
    """

    code = "MEM401"
    name = "autocast-spans-optimizer-step"
    severity = Severity.ERROR
    gate = frozenset({"autocast"})
    fixers = ("add_argument",)
    corrects = "forward passes use the weights of the last step, and no longer casts of earlier ones"
    positive = (
        """
import torch
def train(model, loader, criterion):
    optimizer = torch.optim.AdamW(model.parameters())
    with torch.autocast("cuda", dtype=torch.bfloat16):  # MEM401: 10
        for x, y in loader:
            loss = criterion(model(x), y)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
""",
        """
import torch
from torch.cuda.amp import GradScaler, autocast
def train(model, loader, criterion, use_amp):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = GradScaler(enabled=use_amp)
    with autocast(enabled=use_amp):  # MEM401
        for epoch in range(10):
            for x, y in loader:
                optimizer.zero_grad()
                loss = criterion(model(x), y)
                scaler.scale(loss).backward()
                scaler.step(optimizer)
                scaler.update()
""",
        """
import torch
def step(model, optimizer, x, y):
    loss = torch.nn.functional.mse_loss(model(x), y)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
@torch.autocast("cuda")  # MEM401
def fit(model, loader):
    optimizer = torch.optim.AdamW(model.parameters())
    for x, y in loader:
        step(model, optimizer, x, y)
""",
        """
import torch
def step(generator, critic, fake_optimizer, critic_optimizer, real, noise):
    with torch.autocast("cuda"):  # MEM401
        fake = generator(noise)
        critic_loss = critic(fake.detach()).mean() - critic(real).mean()
        critic_loss.backward()
        critic_optimizer.step()
        critic_optimizer.zero_grad()
        loss = -critic(fake).mean()
        loss.backward()
        fake_optimizer.step()
        fake_optimizer.zero_grad()
def main(loader):
    generator, critic = torch.nn.Linear(8, 8), torch.nn.Linear(8, 1)
    fake_optimizer = torch.optim.Adam(generator.parameters())
    critic_optimizer = torch.optim.Adam(critic.parameters())
    for real, noise in loader:
        step(generator, critic, fake_optimizer, critic_optimizer, real, noise)
""",
        """
from contextlib import nullcontext
import torch
def train(model, loader, criterion, amp):
    optimizer = torch.optim.AdamW(model.parameters())
    context = torch.amp.autocast("cuda") if amp else nullcontext()  # MEM401: 15
    with context:
        for x, y in loader:
            criterion(model(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()
""",
        """
import torch
from accelerate import Accelerator
def train(model, loader, criterion):
    accelerator = Accelerator(mixed_precision="bf16")
    optimizer = torch.optim.AdamW(model.parameters())
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    with accelerator.autocast():  # MEM401
        for x, y in loader:
            accelerator.backward(criterion(model(x), y))
            optimizer.step()
            optimizer.zero_grad()
""",
    )
    negative = (
        """
import torch
def train(model, loader, criterion):
    optimizer = torch.optim.AdamW(model.parameters())
    for x, y in loader:
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = criterion(model(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
""",
        """
import torch
def train(model, loader, criterion):
    optimizer = torch.optim.AdamW(model.parameters())
    for x, y in loader:
        with torch.autocast("cuda"):
            loss = criterion(model(x), y)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
""",
        """
import torch
def train(model, loader, criterion):
    optimizer = torch.optim.AdamW(model.parameters())
    with torch.autocast("cuda", cache_enabled=False):
        for x, y in loader:
            criterion(model(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()
    with torch.autocast("cuda", enabled=False):
        for x, y in loader:
            criterion(model(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()
""",
        """
import torch
def train(model, loader, criterion):
    optimizer = torch.optim.AdamW(model.parameters())
    with torch.autocast("cuda"):
        for x, y in loader:
            criterion(model(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()
            torch.clear_autocast_cache()
""",
        """
import torch
@torch.no_grad()
def evaluate(model, loader, criterion):
    with torch.autocast("cuda", dtype=torch.bfloat16):
        return sum(criterion(model(x), y).item() for x, y in loader)
""",
        """
import torch
def step(generator, critic, fake_optimizer, critic_optimizer, real, noise):
    with torch.autocast("cuda"):
        fake = generator(noise)
        loss = -critic(fake).mean()
        loss.backward()
        fake_optimizer.step()
        fake_optimizer.zero_grad()
        critic_loss = critic(fake.detach()).mean() - critic(real).mean()
        critic_loss.backward()
        critic_optimizer.step()
        critic_optimizer.zero_grad()
def main(loader):
    generator, critic = torch.nn.Linear(8, 8), torch.nn.Linear(8, 1)
    fake_optimizer = torch.optim.Adam(generator.parameters())
    critic_optimizer = torch.optim.Adam(critic.parameters())
    for real, noise in loader:
        step(generator, critic, fake_optimizer, critic_optimizer, real, noise)
""",
        """
import torch
def train(model, loader, criterion, autocast):
    optimizer = torch.optim.AdamW(model.parameters())
    with autocast():
        for x, y in loader:
            criterion(model(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()
""",
    )

    def check(self, program: Program) -> Iterator[Finding]:
        reported: set[int] = set()
        for function in program.functions:
            for region, call in autocast_regions(function):
                if id(call) in reported or option(call, "cache_enabled", 3).is_on(default=True) is False:
                    continue
                found = step_on_cached_weights(region)
                if found is None or call.function.module is not program.module:
                    continue
                step, confidence = found
                reported.add(id(call))
                yield self.finding(
                    call.node,
                    "the optimizer steps inside this autocast, which keeps its copies of the weights: later forward "
                    "passes run on weights from before the step",
                    holds="half-precision copies of the weights as they were in the first step",
                    confidence=confidence,
                    fixes=tuple(_fixes(call)),
                    claim=Claim(ClaimShape.PLATEAU, "device", "P / 2", holder=region.node, watch=Watch.CACHED_CASTS),
                    related=(Related(step.node, "the weights change here"),),
                )


def _fixes(call: Call) -> Iterator[Fix]:
    if qualified_names(call.callee) & torch.AUTOCAST:
        yield Fix(
            "add_argument",
            "Cast the weights at each use with `cache_enabled=False`",
            Applicability.UNSAFE,
            {"call": call.node},
            {"code": "cache_enabled=False"},
        )
