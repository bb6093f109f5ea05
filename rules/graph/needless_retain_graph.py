"""MEM104."""

from __future__ import annotations

from collections.abc import Iterator

from memlint.findings import Applicability, Claim, ClaimShape, Confidence, Finding, Fix, Severity, Watch
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
import torch
class Plugin:
    def before_backward(self, strategy):
        weights = list(strategy.model.parameters())
        self.grads = torch.autograd.grad(strategy.loss, weights, retain_graph=True)  # MEM104?
""",
        """
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.spread = 0.0
    def forward(self, x):
        h = self.layer(x)
        self.spread = 0.9 * self.spread + 0.1 * h.std()
        return h.mean()
def train(net: Net, loader, optimizer):
    for x in loader:
        optimizer.zero_grad()
        net(x).backward(retain_graph=True)  # MEM104
        optimizer.step()
""",
        """
class Trainer:
    def __init__(self, model, optimizer, scaler, criterion):
        self.model, self.optimizer, self.scaler, self.criterion = model, optimizer, scaler, criterion
    def train(self, loader):
        for x, y in loader:
            self.optimizer.zero_grad()
            loss = self.criterion(self.model(x), y)
            if self.scaler is not None:
                self.scaler.scale(loss).backward(retain_graph=True)  # MEM104
                self.scaler.step(self.optimizer)
                self.scaler.update()
            else:
                loss.backward(retain_graph=True)  # MEM104
                self.optimizer.step()
""",
        """
def train(model, loader, criterion, optimizer):
    for x, y in loader:
        loss = criterion(model(x), y)
        loss.backward(retain_graph=True)  # MEM104: 9
        optimizer.step()
        optimizer.zero_grad()
""",
        """
import torch
def train(model, loader, criterion, optimizer):
    scaler = torch.amp.GradScaler()
    for x, y in loader:
        out = model(x)
        first, second = criterion(out, y), out.pow(2).mean()
        scaler.scale(first).backward(retain_graph=True)
        scaler.scale(second).backward(retain_graph=True)  # MEM104
        scaler.step(optimizer)
        scaler.update()
""",
        """
import torch
from torch import nn
def train(loader, optimizer):
    model = nn.Linear(3, 3)
    scaler = torch.amp.GradScaler("cuda")
    for x, y in loader:
        with torch.autocast("cuda"):
            loss = nn.functional.mse_loss(model(x), y)
        scaler.scale(loss).backward(retain_graph=True)  # MEM104
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
""",
        """
def train(generator, critic, loader, optimizer_c, optimizer_g):
    for real, noise in loader:
        loss_c = critic(generator(noise).detach()).mean() - critic(real).mean()
        loss_c.backward(retain_graph=True)  # MEM104
        optimizer_c.step()
        loss_g = -critic(generator(noise)).mean()
        loss_g.backward(retain_graph=False)
        optimizer_g.step()
""",
        """
def train(model, loader, optimizer):
    state = model.initial_state()
    for x in loader:
        state = state.detach()
        out, state = model(x, state)
        out.sum().backward(retain_graph=True)  # MEM104
        optimizer.step()
""",
        """
import lightning as L
class Net(L.LightningModule):
    def __init__(self, net):
        super().__init__()
        self.net = net
        self.automatic_optimization = False
    def training_step(self, batch, batch_idx):
        loss = self.net(batch).mean()
        self.manual_backward(loss, retain_graph=True)  # MEM104
        self.optimizers().step()
""",
        """
from accelerate import Accelerator
accelerator = Accelerator()
def update(loss, optimizer):
    accelerator.backward(loss, retain_graph=True)  # MEM104
    optimizer.step()
    optimizer.zero_grad()
def train(model, loader, optimizer):
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    for batch in loader:
        update(model(**batch).loss, optimizer)
""",
        """
class Model:
    def __init__(self, generator, critic):
        self.generator = generator
        self.critic = critic
    def forward(self, noise):
        self.fake = self.generator(noise)
    def backward_critic(self):
        loss = self.critic(self.fake.detach()).mean()
        loss.backward(retain_graph=True)  # MEM104
    def backward_generator(self):
        (-self.critic(self.fake).mean()).backward()
""",
        """
import torch
def train(model, loader, criterion, optimizer):
    keep = True
    for x, y in loader:
        loss = criterion(model(x), y)
        torch.autograd.backward(loss, retain_graph=keep)  # MEM104
        optimizer.step()
""",
    )
    negative = (
        """
import torch
from torch import nn
class Loss(nn.Module):
    def __init__(self, discriminator, weight):
        super().__init__()
        self.discriminator = discriminator
        self.weight = weight
    def adaptive(self, nll, g, last):
        a = torch.autograd.grad(nll, last, retain_graph=True)[0]
        b = torch.autograd.grad(g, last, retain_graph=True)[0]
        return (a.norm() / (b.norm() + 1e-4)).clamp(0, 1e4).detach()
    def forward(self, inputs, reconstructions, last, split):
        nll = (inputs - reconstructions).abs().mean()
        g = -self.discriminator(reconstructions).mean()
        w = self.adaptive(nll, g, last)
        loss = nll + w * g
        log = {f"{split}/loss": loss.detach(), "nll": nll.detach()}
        return loss, log
""",
        """
def train(model, loader, criterion, optimizer):
    for x, y in loader:
        out = model(x)
        criterion(out, y).backward(retain_graph=True)
        out.pow(2).mean().backward()
        optimizer.step()
""",
        """
def train(generator, critic, loader, optimizer_c, optimizer_g):
    for real, noise in loader:
        fake = generator(noise)
        loss_c = critic(fake).mean() - critic(real).mean()
        loss_c.backward(retain_graph=True)
        optimizer_c.step()
        loss_g = -critic(fake).mean()
        loss_g.backward()
        optimizer_g.step()
""",
        """
import torch
def penalised(loss, parameters, penalty):
    grads = torch.autograd.grad(loss, parameters, retain_graph=True)
    total = loss + penalty(grads)
    total.backward()
""",
        """
import torch
def penalised(model, loader, optimizer, criterion):
    for x, y in loader:
        loss = criterion(model(x), y)
        grads = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)
        penalty = sum(g.pow(2).sum() for g in grads)
        (loss + penalty).backward()
        optimizer.step()
        optimizer.zero_grad()
""",
        """
def tasks(shared, heads, x, optimizer):
    features = shared(x)
    losses = [head(features).mean() for head in heads]
    for i, loss in enumerate(losses):
        loss.backward(retain_graph=i < len(losses) - 1)
    optimizer.step()
""",
        """
def all_of(losses):
    for loss in losses:
        loss.backward(retain_graph=True)
""",
        """
def hessian(loss, need_hessian, keep=True):
    loss.backward(retain_graph=need_hessian)
    loss.backward(create_graph=True, retain_graph=True)
    loss.backward(retain_graph=keep)
""",
        """
import torch
def jacobian(model, x):
    x = x.clone().requires_grad_()
    out = model(x)
    return torch.stack([torch.autograd.grad(out[i], x, retain_graph=True)[0] for i in range(len(out))])
""",
        """
def train(model, loader, optimizer):
    state = model.initial_state()
    for x in loader:
        out, state = model(x, state)
        out.sum().backward(retain_graph=True)
        optimizer.step()
""",
        """
class Model:
    def forward(self, noise):
        self.fake = self.generator(noise)
    def backward_critic(self):
        loss = self.critic(self.fake).mean()
        loss.backward(retain_graph=True)
    def backward_generator(self):
        (-self.critic(self.fake).mean()).backward()
""",
        """
def update(loss, optimizer):
    loss.backward(retain_graph=True)
    optimizer.step()
def train(model, loader, heads, optimizer):
    for x in loader:
        features = model(x)
        for head in heads:
            update(head(features).sum(), optimizer)
""",
        """
def step(model, x, again):
    loss = model(x).mean()
    if again:
        loss.backward(retain_graph=True)
    else:
        loss.backward()
    return loss
""",
        """
from somewhere import second_pass
def train(model, loader, optimizer):
    for x in loader:
        out = model(x)
        out.mean().backward(retain_graph=True)
        second_pass(out, optimizer)
""",
        """
def benchmark(model, x, timeit):
    out = model(x).sum()
    return timeit(lambda: out.backward(retain_graph=True))
""",
        """
import lightning as L
import torch
class Net(L.LightningModule):
    def training_step(self, batch, batch_idx):
        loss = self(batch).mean()
        norm = torch.autograd.grad(loss, self.weight, retain_graph=True)[0].norm()
        self.log("norm", norm)
        return loss
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
            claim=Claim(ClaimShape.SPIKE, "device", "A", held=call.node, watch=Watch.RETAINED_GRAPH),
        )


_CONFIDENCE = {Need.NO: Confidence.CERTAIN, Need.UNLIKELY: Confidence.LIKELY, Need.UNKNOWN: Confidence.POSSIBLE}
"""How sure a finding is, by how likely the graph is needed."""
