"""MEM201."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from memlint.findings import Applicability, Claim, ClaimShape, Confidence, Finding, Fix, Severity, Watch
from memlint.model.aliases import base_names, instance_class, mro, sources
from memlint.model.calls import call_sites
from memlint.model.constructors import is_optimizer_base
from memlint.model.effects import calls_in, returns_loss_to_framework
from memlint.model.kinds import Role, role
from memlint.model.optimization import (
    Cleared,
    Update,
    accumulates,
    accumulates_in,
    cleared_by_class,
    cleared_for,
    cleared_in,
    is_fresh,
    repetitions,
    stepped_in,
    updates,
)
from memlint.model.program import Program
from memlint.model.scopes import Class, Function
from memlint.model.source_text import code, written
from memlint.model.values import Attribute, Call, Element, Loop, Value, operand_occurrences
from memlint.rule import Rule


class MissingZeroGrad(Rule):
    """An optimizer steps again and again, and nothing clears the gradients in between.

    ## What it does
    Finds loops (and functions that are called once per batch) that run a backward and `optimizer.step()`, and in which
    neither that optimizer nor its model is cleared: no `zero_grad()`, no `p.grad = None`, here or in a function of the
    project that the loop calls. Each of several optimizers is looked at by itself.

    ## Why is this bad?
    `backward()` adds to `.grad`. Without clearing, every step uses the sum of the gradients of all batches so far, and
    the model trains wrongly. The gradients are also alive during each forward pass: the peak is higher by their size
    (88 to 104 MiB in a measurement with 16 MiB of gradients). It does not grow from step to step.

    ## Example
    ```python
    for x, y in loader:
        criterion(model(x), y).backward()
        optimizer.step()
    ```

    ## Use instead
    ```python
    for x, y in loader:
        criterion(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
    ```

    ## Fix safety
    Safe where the loop has one backward and one update, although it changes the numbers: the step that is computed now
    is the one that was meant. Unsafe where there are several, because the gradients may be collected on purpose. The
    call goes right behind the step, so that the gradients do not live through the next forward. For an update by hand,
    in a loop over `model.parameters()`, `model.zero_grad()` goes before the backward, as an unsafe fix.

    ## When to ignore
    When every iteration is meant to use all gradients since the beginning. DeepSpeed engines, Lightning's automatic
    optimization and the trainers of transformers clear by themselves and are not reported.

    ## References
    - [Zeroing out gradients in PyTorch](https://docs.pytorch.org/tutorials/recipes/recipes/zeroing_out_gradients.html)
    - [pytorch#47175](https://github.com/pytorch/pytorch/issues/47175),
      [wekws#73](https://github.com/wenet-e2e/wekws/pull/73),
      [torchforge#71](https://github.com/meta-pytorch/torchforge/pull/71)
    """

    code = "MEM201"
    name = "missing-zero-grad"
    severity = Severity.ERROR
    gate = frozenset({"step", "grad"})
    fixers = ("insert_statement",)
    corrects = "each step uses the gradients of its own batches, and no longer those of all batches before"
    positive = (
        """
import torch
def train(model, loader, criterion):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for x, y in loader:
        criterion(model(x), y).backward()
        optimizer.step()  # MEM201: 9
""",
        """
def train(model, loader, optimizer, criterion):
    for epoch in range(3):
        optimizer.zero_grad()
        for x, y in loader:
            loss = criterion(model(x), y)
            loss.backward()
            optimizer.step()  # MEM201
""",
        """
import torch
def train(generator, critic, loader):
    optimizer_g = torch.optim.Adam(generator.parameters())
    optimizer_c = torch.optim.Adam(critic.parameters())
    for real, noise in loader:
        fake = generator(noise)
        loss_c = critic(fake.detach()).mean() - critic(real).mean()
        loss_c.backward()
        optimizer_c.step()  # MEM201
        generator.zero_grad()
        loss_g = -critic(fake).mean()
        loss_g.backward()
        optimizer_g.step()
""",
        """
import torch
from accelerate import Accelerator
def train(model, loader, criterion):
    accelerator = Accelerator()
    optimizer = torch.optim.AdamW(model.parameters())
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    for x, y in loader:
        accelerator.backward(criterion(model(x), y))
        optimizer.step()  # MEM201
""",
        """
import torch
def train(model, loader, optimizer):
    scaler = torch.amp.GradScaler()
    for x in loader:
        with torch.autocast("cuda"):
            loss = model(x).loss
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)  # MEM201
        scaler.update()
""",
        """
import torch
class Trainer:
    def __init__(self, model):
        self.model = model
        self.optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    def step(self, batch):
        loss = self.model(batch).mean()
        loss.backward()
        if loss.isfinite():
            self.optimizer.step()  # MEM201
        return loss.item()
    def fit(self, loader):
        return [self.step(batch) for batch in loader] and self.epoch(loader)
    def epoch(self, loader):
        for batch in loader:
            self.step(batch)
""",
        """
import torch
def train(model, loader):
    optimizer = torch.optim.LBFGS(model.parameters())
    for x in loader:
        def closure():
            loss = model(x).sum()
            loss.backward()
            return loss
        optimizer.step(closure)  # MEM201
""",
        """
import torch
def fit(weight, loader):
    for x, y in loader:
        loss = ((x * weight - y) ** 2).mean()
        loss.backward()  # MEM201: 9
        with torch.no_grad():
            weight -= 0.1 * weight.grad
""",
        """
import torch
import lightning as L
class Adversarial(L.LightningModule):
    def __init__(self, net):
        super().__init__()
        self.net = net
        self.automatic_optimization = False
    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        self.manual_backward(self.net(batch).mean())
        optimizer.step()  # MEM201
""",
        """
def update(model, optimizer, batch):
    model(batch).loss.backward()
    optimizer.step()  # MEM201?
""",
    )
    negative = (
        """
import torch
from torch import nn

class Preconditioned(torch.optim.Optimizer):
    def __init__(self, model: nn.Module):
        super().__init__(model.parameters(), {})
        self.inner = torch.optim.SGD(model.parameters(), lr=0.1)

    def step(self):
        self.inner.step()

class Learner:
    def __init__(self, model: nn.Module):
        self.model, self.optimizer = model, Preconditioned(model)

    def learn(self, loader):
        for x, y in loader:
            self.optimizer.zero_grad()
            nn.functional.mse_loss(self.model(x), y).backward()
            self.optimizer.step()
""",
        """
def train(model, loader, optimizer, loss_fn, k):
    for i, batch in enumerate(loader):
        (loss_fn(model(batch)) / k).backward()
        if (i + 1) % k == 0:
            optimizer.step()
            optimizer.zero_grad()
""",
        """
import deepspeed
def train(net, loader, config):
    engine, _, _, _ = deepspeed.initialize(model=net, config=config)
    for batch in loader:
        loss = engine(batch)
        engine.backward(loss)
        engine.step()
def train_with(engine, loader):
    for batch in loader:
        loss = engine(batch)
        engine.backward(loss)
        engine.step()
""",
        """
import torch
def train(model, loader):
    optimizer = torch.optim.LBFGS(model.parameters())
    for x in loader:
        def closure():
            optimizer.zero_grad()
            loss = model(x).sum()
            loss.backward()
            return loss
        optimizer.step(closure)
def train_with(optimizer, loader, closure):
    for x in loader:
        x.loss.backward()
        optimizer.step(closure)
""",
        """
def train(model, loader, optimizer):
    for x in loader:
        model(x).sum().backward()
        optimizer.step()
        for p in model.parameters():
            p.grad = None
""",
        """
def train(model, loader, optimizer):
    for x in loader:
        for group in optimizer.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.grad.detach_()
                    p.grad.zero_()
        model(x).sum().backward()
        optimizer.step()
""",
        """
import lightning as L
class Net(L.LightningModule):
    def training_step(self, batch, batch_idx):
        first, second = self.optimizers()
        self.manual_backward(self(batch).mean())
        first.step()
        second.step()
        first.zero_grad()
        second.zero_grad()
class Automatic(L.LightningModule):
    def training_step(self, batch, batch_idx):
        return self(batch).mean()
""",
        """
import torch
def train(model, loader):
    optimizers = {p: torch.optim.SGD([p], lr=0.1) for p in model.parameters()}
    def apply(p):
        optimizers[p].step()
        optimizers[p].zero_grad()
    for p in model.parameters():
        p.register_post_accumulate_grad_hook(apply)
    for x in loader:
        model(x).sum().backward()
""",
        """
import keras
import torch
class Custom(keras.Model):
    def train_step(self, data):
        x, y = data
        self.zero_grad()
        loss = self.compute_loss(y=y, y_pred=self(x))
        loss.backward()
        self.optimizer.apply([v.value.grad for v in self.trainable_weights], self.trainable_weights)
        return {"loss": loss.detach()}
""",
        """
import torch
def reset(*modules):
    for module in modules:
        module.zero_grad()
def train(generator, critic, loader):
    optimizer_g = torch.optim.Adam(generator.parameters())
    optimizer_c = torch.optim.Adam(critic.parameters())
    for real, noise in loader:
        reset(generator, critic)
        (critic(generator(noise)).mean() - critic(real).mean()).backward()
        optimizer_g.step()
        optimizer_c.step()
""",
        """
import torch
class Trainer:
    def __init__(self, net):
        self.net = torch.nn.DataParallel(net)
        self.optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    def clear(self):
        self.net.zero_grad()
    def fit(self, loader):
        for x in loader:
            self.clear()
            self.net(x).sum().backward()
            self.optimizer.step()
""",
        """
import copy
import torch
def adapt(base, tasks):
    for task in tasks:
        model = copy.deepcopy(base)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        model(task).loss.backward()
        optimizer.step()
""",
        """
import torch
def train(model, loader, optimizer):
    for x in loader:
        grads = torch.autograd.grad(model(x).sum(), list(model.parameters()))
        for p, g in zip(model.parameters(), grads):
            p.grad = g
        optimizer.step()
""",
        """
from somewhere import clear_all
def train(model, loader, optimizer):
    for x in loader:
        clear_all(optimizer)
        model(x).sum().backward()
        optimizer.step()
""",
        """
import torch
class Schedule:
    def __init__(self, optimizer):
        self.optimizer = optimizer
    def step(self):
        self.optimizer.step()
        self.optimizer.zero_grad()
def train(model, loader):
    schedule = Schedule(torch.optim.SGD(model.parameters(), lr=0.1))
    for x in loader:
        model(x).sum().backward()
        schedule.step()
""",
    )

    def check(self, program: Program) -> Iterator[Finding]:
        for function in program.functions:
            for update in () if _is_of_optimizer(function) else updates(function):
                confidence = _confidence(update)
                if confidence is not None:
                    yield self._finding(update, confidence)

    def _finding(self, update: Update, confidence: Confidence) -> Finding:
        name = code(update.optimizer.node)
        return self.finding(
            _place(update),
            f"nothing clears the gradients between one update of `{name}` and the next",
            holds="the gradients of all steps so far: they are added to those of the next, and alive in each forward",
            confidence=confidence,
            fixes=tuple(_fixes(update)),
            claim=Claim(
                ClaimShape.PLATEAU, "device", "G", holder=update.optimizer.node, watch=Watch.GRADIENTS_ADDED_TO
            ),
        )


def _is_of_optimizer(function: Function) -> bool:
    """Whether an optimizer of the project runs another one: who steps it clears by its own ``zero_grad``."""
    return function.owner is not None and any(map(is_optimizer_base, base_names(function.owner)))


def _place(update: Update) -> cst.CSTNode:
    """The update; for one that is made by hand, parameter by parameter, the backward that adds to the gradients."""
    backwards = [call for call in update.region.function.calls if accumulates(call)]
    return update.node if update.call is not None or not backwards else backwards[-1].node


def _confidence(update: Update) -> Confidence | None:
    """How sure it is that the gradients are never cleared; None if they are, or may be."""
    loops = list(repetitions(update))
    if not loops:
        return _confidence_without_loop(update)
    verdicts = {loop.cleared for loop in loops if not is_fresh(loop)}
    if verdicts != {Cleared.NO}:
        return Confidence.POSSIBLE if Cleared.NO in verdicts else None
    here = len(loops) == 1 and not loops[0].stages and not any(cleared_in(update.region.function.body))
    known = role(update.optimizer.value, Role.OPTIMIZER) is Confidence.CERTAIN
    return Confidence.CERTAIN if here and known else Confidence.LIKELY


def _confidence_without_loop(update: Update) -> Confidence | None:
    """The same for a function that something out of sight calls, perhaps once for each batch."""
    function = update.region.function
    if function.parent is None or not accumulates_in(function.body) or call_sites(function):
        return None
    if cleared_for(update.objects, function.body) is not Cleared.NO or cleared_by_class(function):
        return None
    return Confidence.LIKELY if returns_loss_to_framework(function) or _owns(update) else Confidence.POSSIBLE


def _owns(update: Update) -> bool:
    """Whether the optimizer, or what is updated by hand, belongs to the object whose method updates it.

    Its callers have no reason to clear what the object made for itself. Optimizers of a framework's class may be
    cleared by the framework.
    """
    owner = update.region.function.owner
    if owner is None or update.region.function.name == "__init__":
        return False
    value = update.optimizer.value
    if update.call is None:
        return any(isinstance(source, Element) and _is_of_instance(source.iterable) for source in sources(value))
    made = role(value, Role.OPTIMIZER) is Confidence.CERTAIN and not role(value, Role.ENGINE)
    return made and isinstance(value, Attribute) and instance_class(value.base) is not None and not _is_framework(owner)


def _is_of_instance(parameters: Value) -> bool:
    """Whether the value is ``self.module.parameters()``."""
    return any(
        isinstance(source, Call)
        and source.method in {"parameters", "named_parameters"}
        and isinstance(source.receiver, Attribute)
        and instance_class(source.receiver.base) is not None
        for source in sources(parameters)
    )


def _is_framework(owner: Class) -> bool:
    """Whether a base of the class is out of sight, plain modules and abstract classes aside."""
    inside = {cls.qualified_name for cls in mro(owner)}
    return bool(base_names(owner) - inside - _PLAIN_BASES)


_PLAIN_BASES = frozenset({"builtins.object", "abc.ABC", "torch.nn.Module", "torch.nn.modules.module.Module"})


_NAMED = (cst.Name, cst.Attribute, cst.Subscript)


def _fixes(update: Update) -> Iterator[Fix]:
    call = update.call
    if call is None:
        yield from _fixes_by_hand(update)
        return
    if not isinstance(update.optimizer.node, _NAMED) or any(
        role(argument.value, Role.FUNCTION) for argument in call.arguments
    ):
        # A closure runs several times in one step and has to clear by itself.
        return
    clearing = f"{written(update.optimizer.node)}.zero_grad()"
    yield Fix(
        "insert_statement",
        f"Clear the gradients after each step with `{clearing}`",
        Applicability.SAFE if _is_unambiguous(update) else Applicability.UNSAFE,
        {"statement": call.node},
        {"code": clearing},
        # Under an old torch the new line is one that keeps the buffers.
        reveals=frozenset({"MEM202"}),
    )


def _fixes_by_hand(update: Update) -> Iterator[Fix]:
    """Clearing before the only backward, where a loop goes through the parameters of a module: ``m.parameters()``."""
    loops = list(update.region.loops())
    backwards = [call for call in update.region.function.calls if accumulates(call)]
    if not loops or len(backwards) != 1 or list(backwards[0].region.loops()) != loops[1:]:
        return
    for owner in _iterated_modules(loops[0]):
        clearing = f"{code(owner)}.zero_grad()"
        yield Fix(
            "insert_statement",
            f"Clear the gradients before the backward with `{clearing}`",
            Applicability.UNSAFE,
            {"statement": backwards[0].node},
            {"code": clearing, "where": "before"},
            reveals=frozenset({"MEM202"}),
        )


def _iterated_modules(loop: Loop) -> Iterator[cst.CSTNode]:
    """``m`` if the loop goes through ``m.parameters()``."""
    for iterated in sources(loop.iterable) if loop.iterable is not None else ():
        if isinstance(iterated, Call) and iterated.method == "parameters" and iterated.receiver is not None:
            owner = operand_occurrences(iterated)[0].node
            yield from (owner,) if isinstance(owner, _NAMED) else ()


def _is_unambiguous(update: Update) -> bool:
    """Whether the loop around the update has no other update and one backward."""
    loop: Loop | None = update.region.loop
    if loop is None:
        return False
    return sum(map(accumulates, calls_in(loop))) == 1 and len(list(stepped_in(loop))) == 1
