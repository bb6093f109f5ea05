"""MEM203."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import libcst as cst

from memlint.findings import Applicability, Claim, ClaimShape, Confidence, Finding, Fix, Severity, Watch
from memlint.model.effects import calls_in, started_roots
from memlint.model.forwards import called_module
from memlint.model.identity import Objects, everywhere, holds, objects
from memlint.model.layers import has_large_gradients
from memlint.model.micro_steps import is_counted
from memlint.model.optimization import (
    Update,
    accumulates,
    accumulates_in,
    cleared_by,
    cleared_in,
    clears,
    gradient_reads,
    innermost_step,
    stepped_in,
    trained_by,
    updates,
)
from memlint.model.program import Program
from memlint.model.retained import graph_of
from memlint.model.source_text import code
from memlint.model.statements import statements_over
from memlint.model.values import Branch, Call, Handler, Loop, Region
from memlint.rule import Rule


class ZeroGradAfterForward(Rule):
    """Gradients of the last step are cleared only when the forward pass has built its activations.

    ## What it does
    Finds `zero_grad()` between the forward pass and `backward()`, for the optimizer or the module that takes part in
    that forward; and, worse, between `backward()` and the `step()` of the same optimizer, or after each of several
    batches whose gradients one `step()` is to use.

    ## Why is this bad?
    The old gradients, as many bytes as the trained parameters, stay allocated while the forward pass saves activations.
    Where parameters dominate, the peak is higher by up to their size (65 to 69 MiB in a measurement with 4 MiB of
    gradients); where activations dominate, it makes no difference. Most published training loops clear gradients there,
    over models of the second kind. It is therefore reported by default only for a model that is seen to be of the
    first: one of transformers, or one that holds a layer with 16 million weights or more (`memlint verify` watches the
    others as well). Between `backward()` and `step()`, it throws away what the step was to use: the model does not
    learn.

    ## Example
    ```python
    loss = criterion(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    ```

    ## Use instead
    ```python
    loss = criterion(model(x), y)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    ```

    ## Fix safety
    Safe: the forward pass does not read gradients, so the numbers are the same. The call moves behind the step if both
    stand in one block, there is one backward, and nothing reads gradients elsewhere; else above the forward pass.
    Moving it from between `backward()` and `step()` is unsafe, because the step then does something.

    ## When to ignore
    When activations take far more memory than gradients.

    ## References
    - [Optimizing memory usage by the order of calls](https://docs.pytorch.org/tutorials/recipes/recipes/tuning_guide.html)
    - [heretic#426](https://github.com/p-e-w/heretic/pull/426) (stale gradients)
    """

    code = "MEM203"
    name = "zero-grad-after-forward"
    severity = Severity.NOTE
    gate = frozenset({"zero_grad"})
    fixers = ("move_statement",)
    positive = (
        """
import torch
from transformers import AutoModelForCausalLM
def train(loader):
    model = AutoModelForCausalLM.from_pretrained("gpt2")
    optimizer = torch.optim.AdamW(model.parameters())
    for batch in loader:
        loss = model(**batch).loss
        optimizer.zero_grad()  # MEM203: 9
        loss.backward()
        optimizer.step()
""",
        """
import torch
from torch import nn
class Recommender(nn.Module):
    def __init__(self):
        super().__init__()
        self.items = nn.Embedding(1_000_000, 64)
    def forward(self, ids):
        return self.items(ids).sum()
def train(loader):
    model = Recommender()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for ids in loader:
        loss = model(ids)
        optimizer.zero_grad()  # MEM203: 9
        loss.backward()
        optimizer.step()
""",
        """
import torch
def train(model, loader, criterion, k):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for i, (x, y) in enumerate(loader):
        optimizer.zero_grad()  # MEM203
        (criterion(model(x), y) / k).backward()
        if (i + 1) % k == 0:
            optimizer.step()
""",
        """
import torch
def train(model, loader, criterion):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for x, y in loader:
        loss = criterion(model(x), y)
        optimizer.zero_grad()  # MEM203?: 9
        loss.backward()
        optimizer.step()
""",
        """
def train(model, loader, optimizer, criterion, scaler, autocast):
    for x, y in loader:
        x, y = x.cuda(), y.cuda()
        with autocast():
            out = model(x)
            loss = criterion(out, y)
        optimizer.zero_grad()  # MEM203?
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
""",
        """
import torch
class Trainer:
    def __init__(self, encoder, decoder):
        self.encoder, self.decoder = encoder, decoder
        self.optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()])
    def step(self, x, y):
        loss = ((self.decoder(self.encoder(x)) - y) ** 2).mean()
        if loss.isnan():
            return None
        self.encoder.zero_grad()  # MEM203?
        self.decoder.zero_grad()  # MEM203?
        loss.backward()
        self.optimizer.step()
        return loss.item()
""",
        """
import torch
def train(generator, critic, loader):
    optimizer_g = torch.optim.Adam(generator.parameters())
    optimizer_c = torch.optim.Adam(critic.parameters())
    for real, noise in loader:
        fake = generator(noise)
        optimizer_c.zero_grad()
        loss_c = critic(fake.detach()).mean() - critic(real).mean()
        loss_c.backward()
        optimizer_c.step()
        loss_g = -critic(fake).mean()
        optimizer_g.zero_grad()  # MEM203?
        loss_g.backward()
        optimizer_g.step()
""",
        """
import keras
class Custom(keras.Model):
    def train_step(self, data):
        x, y = data
        loss = self.compute_loss(y=y, y_pred=self(x))
        self.zero_grad()  # MEM203?
        loss.backward()
        self.optimizer.apply([v.value.grad for v in self.trainable_weights], self.trainable_weights)
        return {"loss": loss.detach()}
""",
        """
def train(model, loader, optimizer):
    for x in loader:
        model(x).loss.backward()
        optimizer.zero_grad()  # MEM203: 9
        optimizer.step()
""",
    )
    negative = (
        """
import torch
def train(model, loader, criterion, k):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer.zero_grad()
    for epoch in range(3):
        for i, (x, y) in enumerate(loader):
            (criterion(model(x), y) / k).backward()
            if i % k == k - 1:
                optimizer.step()
                optimizer.zero_grad()
""",
        """
import torch
def train(generator, critic, loader, k):
    optimizer_g = torch.optim.Adam(generator.parameters())
    optimizer_c = torch.optim.Adam(critic.parameters())
    for i, (real, noise) in enumerate(loader):
        optimizer_c.zero_grad()
        (critic(generator(noise).detach()).mean() - critic(real).mean()).backward()
        optimizer_c.step()
        optimizer_g.zero_grad()
        if i % k == 0:
            (-critic(generator(noise)).mean()).backward()
            optimizer_g.step()
""",
        """
import torch
def train(model, loader, criterion, k):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for i, (x, y) in enumerate(loader):
        if i % k == 0:
            optimizer.zero_grad()
        (criterion(model(x), y) / k).backward()
        if i % k == k - 1:
            optimizer.step()
""",
        """
def train(model, loader, optimizer, criterion):
    for x, y in loader:
        optimizer.zero_grad()
        criterion(model(x), y).backward()
        optimizer.step()
    for x, y in loader:
        criterion(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
""",
        """
import torch
def train(generator, critic, loader):
    optimizer_g = torch.optim.Adam(generator.parameters())
    optimizer_c = torch.optim.Adam(critic.parameters())
    for real, noise in loader:
        with torch.no_grad():
            fake = generator(noise)
        optimizer_c.zero_grad()
        (critic(fake) - critic(real)).mean().backward()
        optimizer_c.step()
        optimizer_g.zero_grad()
        (-critic(generator(noise))).mean().backward()
        optimizer_g.step()
""",
        """
def train(model, loader, optimizer, steps):
    for i, x in enumerate(loader):
        loss = model(x).loss
        if i % steps == 0:
            optimizer.zero_grad()
        loss.backward()
        if (i + 1) % steps == 0:
            optimizer.step()
""",
        """
def train(model, loader, optimizer, prepare):
    for batch in loader:
        x = prepare(batch).float()
        optimizer.zero_grad()
        model(x).loss.backward()
        optimizer.step()
""",
        """
import torch
def train(first, second, loader):
    one = torch.optim.SGD(first.parameters(), lr=0.1)
    two = torch.optim.SGD(second.parameters(), lr=0.1)
    for x in loader:
        features = first(x)
        two.zero_grad()
        second(features.detach()).sum().backward()
        two.step()
        one.zero_grad()
        first(x).sum().backward()
        one.step()
""",
        """
def train(model, loader, optimizer):
    for x in loader:
        loss = model(x).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
""",
        """
import torch
model = torch.nn.Linear(2, 2)
loss = model(torch.ones(2)).sum()
model.zero_grad()
loss.backward()
""",
        """
from torch import nn, optim

class Encoder(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.blocks = nn.Sequential(*(self.block(width) for _ in range(3)))

    def block(self, width):
        return nn.Sequential(nn.Conv2d(width, width, 3), nn.ReLU())

    def forward(self, x):
        return self.blocks(x)

class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = Encoder(64)
        self.head = nn.Linear(64, 10)

    def forward(self, x):
        return self.head(self.encoder(x).mean((2, 3)))

def train(loader):
    model = Classifier()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    for x, y in loader:
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
""",
        """
def train(model, loader, optimizer, closure):
    for x in loader:
        model(x).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        optimizer.step(closure)
""",
    )

    def check(self, program: Program) -> Iterator[Finding]:
        for call in program.calls("zero_grad"):
            function = call.function
            span = innermost_step(call.region) or (function.body if function.parent is not None else None)
            if call.receiver is None or span is None:
                continue
            clearing = Clearing(call, span)
            update = _robbed_update(clearing)
            if update is not None:
                yield self._robs(clearing, update)
                continue
            update = _starved_update(clearing)
            if update is not None:
                yield self._starves(clearing, update)
            else:
                yield from self._late(clearing)

    def _late(self, clearing: Clearing) -> Iterator[Finding]:
        forward = _forward_before(clearing)
        if forward is None:
            return
        place = _behind_step(clearing) or _above(clearing, forward.call)
        module = called_module(forward.call)
        pays = module is not None and has_large_gradients(module)
        yield self.finding(
            clearing.call.node,
            lambda: (
                f"`{code(clearing.call.node)}` frees the gradients of the last step when the forward has run already, "
                "which counts where parameters outweigh activations"
            ),
            holds="the gradients of the last step, as many bytes as the trained parameters, during the forward",
            confidence=forward.confidence if pays else Confidence.POSSIBLE,
            fixes=(_move(clearing, place, Applicability.SAFE),) if place is not None else (),
            claim=Claim(ClaimShape.SPIKE, "device", "G", holder=clearing.receiver, watch=Watch.GRADIENTS_IN_FORWARD),
        )

    def _robs(self, clearing: Clearing, update: Update) -> Finding:
        place = _place_behind(clearing, update)
        return self.finding(
            clearing.call.node,
            f"`{code(clearing.call.node)}` clears what `{code(update.node)}` is to use: the step has no gradients",
            holds="the gradients of a backward whose work is thrown away",
            severity=Severity.ERROR,
            confidence=Confidence.LIKELY,
            fixes=(_move(clearing, place, Applicability.UNSAFE),) if place is not None else (),
            claim=Claim(ClaimShape.PRESENT, "device", "G", holder=clearing.receiver, watch=Watch.GRADIENTS_DISCARDED),
        )

    def _starves(self, clearing: Clearing, update: Update) -> Finding:
        return self.finding(
            clearing.call.node,
            f"`{code(clearing.call.node)}` clears the gradients of every batch, while `{code(update.node)}` runs only "
            "now and then: nothing is accumulated",
            holds="the gradients of backwards whose work is thrown away",
            severity=Severity.ERROR,
            confidence=Confidence.LIKELY,
            claim=Claim(ClaimShape.PRESENT, "device", "G", holder=clearing.receiver, watch=Watch.GRADIENTS_DISCARDED),
        )


@dataclass(frozen=True)
class Clearing:
    """A call of ``zero_grad`` in the loop (or the function) that makes one training step."""

    call: Call
    span: Region

    @property
    def receiver(self) -> cst.BaseExpression:
        """What is cleared, as it is written."""
        function = self.call.node.func
        return function.value if isinstance(function, cst.Attribute) else function

    @property
    def cleared(self) -> Objects:
        """The optimizer or module that is cleared."""
        assert self.call.receiver is not None
        return objects(self.call.receiver)

    @property
    def updates(self) -> list[Update]:
        """The updates of the step that use the cleared gradients."""
        found = (update for update in updates(self.call.function) if update.region.within(self.span))
        return [update for update in found if clears(self.cleared, update.objects)]

    @property
    def backwards(self) -> list[Call]:
        """The calls of the step that add to gradients."""
        return [call for call in calls_in(self.span) if accumulates(call)]


# ---------------------------------------------------------- between forward and backward


@dataclass(frozen=True)
class Forward:
    """A forward pass that has run when the gradients of its module are cleared."""

    call: Call
    confidence: Confidence


def _forward_before(clearing: Clearing) -> Forward | None:
    """The first forward before ``clearing`` over which the next backward runs, if it is of what is cleared."""
    call = clearing.call
    backward = next((each for each in clearing.backwards if each.order > call.order), None)
    if backward is None or not backward.region.within(call.region) or _is_cleared_elsewhere(clearing):
        return None
    upstream = {value for root in started_roots(backward) for value in graph_of(root)}
    built = [each for each in calls_in(clearing.span) if each in upstream and not _is_cheap(each)]
    before = [each for each in built if each.order < call.order]
    known = [each for each in before if called_module(each) is not None]
    for each in known:
        confidence = _takes_part(each, clearing)
        if confidence is not None:
            return Forward(each, confidence)
    # Whose forward it is may be out of sight: then it has run if all of the loss is there.
    if not known and before and len(before) == len(built) and _is_alone(clearing):
        return Forward(before[0], Confidence.LIKELY)
    return None


def _is_cheap(call: Call) -> bool:
    """Whether a call only moves or scales its input: ``x.to(device)``, ``scaler.scale(loss)``."""
    return call.method is not None and not called_module(call)


def _takes_part(forward: Call, clearing: Clearing) -> Confidence | None:
    """How sure it is that the gradients that are cleared are those of the module whose forward has run."""
    module = called_module(forward)
    assert module is not None
    whole = everywhere(objects(module))
    trained = trained_by(clearing.cleared)
    if holds(everywhere(clearing.cleared), whole) or holds(trained, whole) or holds(whole, trained):
        return Confidence.CERTAIN
    return Confidence.LIKELY if not trained and _is_alone(clearing) else None


def _is_alone(clearing: Clearing) -> bool:
    """Whether the step clears one thing and updates one thing, so that the two belong together."""
    return len(list(cleared_in(clearing.span))) == 1 and len(set(stepped_in(clearing.span))) <= 1


def _is_cleared_elsewhere(clearing: Clearing) -> bool:
    """Whether the step clears the same gradients at another place, too."""
    others = [found for call in calls_in(clearing.span) if call is not clearing.call for found in cleared_by(call)]
    mine = clearing.cleared
    return any(not other or holds(other, mine) or holds(mine, other) for other in others)


# ------------------------------------------------------------- between backward and step


def _robbed_update(clearing: Clearing) -> Update | None:
    """The update that finds no gradients because ``clearing`` runs right before it, after its backward."""
    call = clearing.call
    backward = next((each for each in reversed(clearing.backwards) if each.order < call.order), None)
    mine = clearing.updates
    update = next((each for each in mine if each.call is not None and each.call.order > call.order), None)
    if backward is None or update is None or update.call is None or update.call.arguments[1:]:
        return None
    between = [each for each in clearing.backwards if call.order < each.order <= update.call.order]
    used = [each for each in mine if each.call is not None and backward.order < each.call.order < call.order]
    always = _runs_with(backward.region, call.region) and _runs_with(call.region, update.region)
    return update if always and not between and not used else None


def _runs_with(first: Region, then: Region) -> bool:
    """Whether ``first`` has always run when ``then`` runs, later in the same iteration."""
    conditions = [region for region in first.ancestors() if isinstance(region, (Branch, Loop, Handler))]
    return all(then.within(region) for region in conditions)


# ------------------------------------------------------------------- between two micro-batches


def _starved_update(clearing: Clearing) -> Update | None:
    """The update that every few iterations uses the gradients of the last one alone, as the others are cleared."""
    span, mine = clearing.span, clearing.updates
    if _branches(clearing.call.region, span) or not mine:
        return None
    always = [call for call in clearing.backwards if not _branches(call.region, span)]
    if any(loop is not span and loop.within(span) for call in always for loop in call.region.loops()):
        return None  # Cleared once, before the batches.
    counted = [
        update
        for update in mine
        if any(is_counted(branch) and not accumulates_in(branch) for branch in _branches(update.region, span))
    ]
    behind = (update for update in counted if any(backward.order < _order(update) for backward in always))
    return next(behind, None) if len(counted) == len(mine) else None


def _order(update: Update) -> int:
    return update.call.order if update.call is not None else update.region.last


def _branches(region: Region, span: Region) -> list[Branch]:
    """The branches around ``region`` within ``span``."""
    inside = (each for each in region.ancestors() if each is not span and each.within(span))
    return [each for each in inside if isinstance(each, Branch)]


# -------------------------------------------------------------------------------- fixes


@dataclass(frozen=True)
class Place:
    """Where the clearing should stand: ``where`` (after or before) is relative to ``anchor``."""

    anchor: cst.CSTNode
    where: str


def _move(clearing: Clearing, place: Place, applicability: Applicability) -> Fix:
    target = "behind the step" if place.where == "after" else "above the forward"
    return Fix(
        "move_statement",
        lambda: f"Move `{code(clearing.call.node)}` {target}",
        applicability,
        {"statement": clearing.call.node, "anchor": place.anchor},
        {"where": place.where},
    )


def _behind_step(clearing: Clearing) -> Place | None:
    """Behind the step, if nothing else adds to the gradients or reads them."""
    function = clearing.call.function
    every = [call for call in function.calls if accumulates(call)]
    mine = clearing.updates
    if len(every) != 1 or len(mine) != 1 or mine[0].call is None:
        return None
    step = mine[0].call
    reads = [order for order in gradient_reads(function.body) if not clearing.call.order < order < step.order]
    return None if reads else _place_behind(clearing, mine[0])


def _place_behind(clearing: Clearing, update: Update) -> Place | None:
    if update.region is not clearing.call.region:
        return None
    run = statements_over(clearing.call.function.node, (clearing.call.node, update.node))
    return Place(run[-1], "after") if len(run) > 1 else None


def _above(clearing: Clearing, forward: Call) -> Place | None:
    """Above the forward, if nothing reads the gradients in between."""
    call = clearing.call
    run = statements_over(call.function.node, (forward.node, call.node))
    between = [order for order in gradient_reads(call.function.body) if forward.order < order < call.order]
    alone = len(run) > 1 and isinstance(run[-1], cst.Expr) and run[-1].value is call.node
    return Place(run[0], "before") if alone and not between else None
