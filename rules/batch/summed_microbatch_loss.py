"""MEM301."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from memlint.findings import Applicability, Claim, ClaimShape, Finding, Fix, Related, Severity, Watch
from memlint.model.optimization import cleared_by
from memlint.model.program import Program
from memlint.model.source_text import code
from memlint.model.statements import held_in
from memlint.model.summed_losses import SummedLoss, summed_losses
from memlint.rule import Rule


class SummedMicrobatchLoss(Rule):
    """The losses of several micro-batches are added up for one backward, so that all their graphs are alive at once.

    ## What it does
    Finds loops in which each iteration runs the model on data of its own and adds the loss to a sum (or to a list), and
    a backward over that sum after the loop, or once in every so many iterations.

    Iterations that share more than the sum are left alone: a state that is handed on (recurrent networks, rollouts),
    features from before the loop, a model for each iteration, an inner loop of meta-learning.

    ## Why is this bad?
    Gradient accumulation is meant to need the memory of one micro-batch. Here each graph waits for the end with all its
    activations: with 4 micro-batches the peak was 38.0 MiB in place of 23.0 MiB (measured). A backward for each loss
    adds up the same gradients and frees each graph before the next one is built. The gain is `(k - 1) * A - G`: the
    gradients are alive during the later micro-batches.

    ## Example
    ```python
    total = 0
    for x, y in micro_batches:
        total = total + criterion(model(x), y) / len(micro_batches)
    total.backward()
    optimizer.step()
    ```

    ## Use instead
    ```python
    for x, y in micro_batches:
        loss = criterion(model(x), y) / len(micro_batches)
        loss.backward()
    optimizer.step()
    ```

    ## Fix safety
    Unsafe: the gradients are the same up to rounding. But DistributedDataParallel reduces gradients in each backward
    (`no_sync()` for all but the last one is missing), and hooks run more often. Accelerate, Lightning, DeepSpeed and
    the Trainer of transformers have settings for accumulation of their own.

    ## When to ignore
    When the losses of the micro-batches depend on each other in a way that memlint does not see.

    ## References
    - [Gradient accumulation](https://docs.pytorch.org/docs/stable/notes/amp_examples.html#gradient-accumulation)
    - [Performing gradient accumulation with Accelerate](https://huggingface.co/docs/accelerate/usage_guides/gradient_accumulation)
    """

    code = "MEM301"
    name = "summed-microbatch-loss"
    severity = Severity.WARNING
    gate = frozenset({"backward", "manual_backward"})
    fixers = ("backward_in_loop",)
    positive = (
        """
import torch
from torch import nn
def step(micro_batches, optimizer, criterion, k):
    model = nn.Linear(4, 2)
    total = 0
    for x, y in micro_batches:
        total = total + criterion(model(x), y) / k  # MEM301: 25
    total.backward()
    optimizer.step()
    optimizer.zero_grad()
""",
        """
import torch
def train(model: torch.nn.Module, loaders, optimizer, criterion):
    for step in range(1000):
        losses = []
        for loader in loaders:
            x, y = next(loader)
            loss = criterion(model(x), y)
            losses.append(loss)  # MEM301: 27
        optimizer.zero_grad()
        torch.stack(losses).mean().backward()
        optimizer.step()
""",
        """
def train(model, loader, optimizer, k):
    model.train()
    total = 0
    for i, batch in enumerate(loader):
        total += model(**batch).loss / k  # MEM301: 18
        if (i + 1) % k == 0:
            total.backward()
            optimizer.step()
            optimizer.zero_grad()
            total = 0
""",
        """
import torch
from torch.nn import functional as F
class Trainer:
    def __init__(self, net: torch.nn.Module):
        self.net = net
        self.optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        self.scaler = torch.amp.GradScaler()
    def loss_of(self, batch):
        x, y = batch
        return F.cross_entropy(self.net(x), y)
    def update(self, batches):
        loss = sum(self.loss_of(batch) for batch in batches) / len(batches)  # MEM301: 20
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
""",
        """
import torch
def epoch(model: torch.nn.Module, loader: torch.utils.data.DataLoader, optimizer, criterion):
    running = None
    for x, y in loader:
        loss = criterion(model(x), y)
        running = loss if running is None else running + loss  # MEM301
    optimizer.zero_grad()
    (running / len(loader)).backward()
    optimizer.step()
""",
        """
import torch
def step(model: torch.nn.Module, x, y, chunks, optimizer, criterion):
    losses = [criterion(model(a), b) for a, b in zip(x.chunk(chunks), y.chunk(chunks))]  # MEM301: 15
    optimizer.zero_grad()
    (sum(losses) / chunks).backward()
    optimizer.step()
""",
    )
    negative = (
        """
import torch
def step(model: torch.nn.Module, micro_batches, optimizer, criterion, k):
    total = 0
    for x, y in micro_batches:
        loss = criterion(model(x), y) / k
        loss.backward()
        total += loss.detach()
    optimizer.step()
    optimizer.zero_grad()
    return total
""",
        """
import torch
def several_losses(model: torch.nn.Module, criteria, loader, optimizer):
    for x, y in loader:
        out = model(x)
        loss = 0
        for criterion, weight in criteria:
            loss = loss + weight * criterion(out, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
def heads_of_one_encoder(encoder: torch.nn.Module, heads: torch.nn.ModuleDict, loader, optimizer, criterion):
    for x, targets in loader:
        features = encoder(x)
        loss = 0
        for name, y in targets.items():
            loss = loss + criterion(heads[name](features), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
def ensemble(models, loader, optimizer, criterion):
    for x, y in loader:
        loss = 0
        for model in models:
            loss = loss + criterion(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
""",
        """
import torch
from torch import nn
def through_time(loader, optimizer, criterion):
    cell, out = nn.GRUCell(4, 8), nn.Linear(8, 2)
    for xs, ys in loader:
        hidden, loss = None, 0
        for x, y in zip(xs, ys):
            hidden = cell(x, hidden)
            loss += criterion(out(hidden), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
class Spiking(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.potential = nn.Linear(4, 4), 0
    def forward(self, x):
        self.potential = 0.9 * self.potential + self.layer(x)
        return (self.potential > 1).float() + self.potential
def spikes(loader, optimizer, criterion, steps):
    net = Spiking()
    for xs, y in loader:
        loss = 0
        for x in xs:
            loss += criterion(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
""",
        """
import torch
from torch.nn import functional as F
def contrast(model: torch.nn.Module, chunks, optimizer):
    features = []
    for chunk in chunks:
        features.append(model(chunk))
    features = torch.cat(features)
    loss = F.cross_entropy(features @ features.T, torch.arange(len(features)))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
def reinforce(policy: torch.nn.Module, env, optimizer):
    state, log_probs, rewards = env.reset(), [], []
    for _ in range(100):
        dist = torch.distributions.Categorical(logits=policy(state))
        action = dist.sample()
        log_probs.append(dist.log_prob(action))
        state, reward = env.step(action)
        rewards.append(reward)
    loss = -(torch.stack(log_probs) * torch.tensor(rewards)).sum()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
""",
        """
import torch
from torch.func import functional_call
def maml(model: torch.nn.Module, tasks, optimizer, criterion):
    total = 0
    for (x, y), (u, v) in tasks:
        params = dict(model.named_parameters())
        loss = criterion(functional_call(model, params, (x,)), y)
        grads = torch.autograd.grad(loss, list(params.values()), create_graph=True)
        fast = {n: p - 0.1 * g for (n, p), g in zip(params.items(), grads)}
        total = total + criterion(functional_call(model, fast, (u,)), v)
    optimizer.zero_grad()
    total.backward()
    optimizer.step()
def evaluate(model: torch.nn.Module, loader, criterion):
    total = 0
    for x, y in loader:
        total += criterion(model(x), y).item()
    return total / len(loader)
def penalties(model: torch.nn.Module, x, y, criterion):
    loss = criterion(model(x), y)
    for parameter in model.parameters():
        loss = loss + parameter.abs().sum()
    loss.backward()
""",
        """
import torch
def views(model: torch.nn.Module, loader, optimizer, criterion):
    for (first, second), y in loader:
        loss = 0
        for view in (first, second):
            loss = loss + criterion(model(view), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
""",
    )

    def check(self, program: Program) -> Iterator[Finding]:
        for function in program.functions:
            for summed in summed_losses(function):
                yield self._finding(summed)

    def _finding(self, summed: SummedLoss) -> Finding:
        node = summed.addend.loss.node
        return self.finding(
            node,
            f"the graph of `{code(node)}` waits for one backward over the sum of all iterations",
            holds="the activations of every iteration, until the backward over their sum",
            confidence=summed.confidence,
            fixes=tuple(_fixes(summed)),
            related=(Related(summed.backward.node, "the backward over the sum"),),
            claim=Claim(
                ClaimShape.SPIKE,
                "device",
                "(k - 1) * A - G",
                holder=_total(summed),
                held=summed.forward.node,
                watch=Watch.SUMMED_GRAPHS,
            ),
        )


def _total(summed: SummedLoss) -> cst.CSTNode | None:
    """What names the sum, if one thing does."""
    addition = summed.addend.sum
    stores = [use for use in addition.uses if hasattr(use, "target")] if addition is not None else []
    target: cst.CSTNode | None = stores[0].target if len(stores) == 1 else None
    return target


def _fixes(summed: SummedLoss) -> Iterator[Fix]:
    """A backward for each loss, where one statement adds it to a name and the backward names that."""
    target = _total(summed)
    if not isinstance(target, cst.Name) or not isinstance(summed.addend.loss.node, cst.BaseExpression):
        return
    named = [n for n in held_in([summed.backward.node]) if isinstance(n, cst.Name) and n.value == target.value]
    if len(named) != 1 or _clears_between(summed) or summed.backward.region.within(summed.addend.loop):
        return
    yield Fix(
        "backward_in_loop",
        f"Run a backward over each `{code(summed.addend.loss.node)}`",
        Applicability.UNSAFE,
        {"expression": summed.addend.loss.node, "call": summed.backward.node},
        {"name": "micro_loss", "total": target.value},
    )


def _clears_between(summed: SummedLoss) -> bool:
    """Whether gradients are cleared between the loop and the backward, which would lose those of each loss."""
    last, backward = summed.addend.loop.last, summed.backward
    return any(
        last < call.order < backward.order and any(True for _ in cleared_by(call)) for call in backward.function.calls
    )
