"""MEM101."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from memlint.findings import Claim, Confidence, Finding, Severity
from memlint.model.accumulations import Accumulation, accumulations, concatenates, is_module_state, is_reset_in_loop
from memlint.model.attachment import certainty
from memlint.model.detaching import attached_leaves, detach_fixes
from memlint.model.drain import Drain, drain
from memlint.model.holding import holding
from memlint.model.keepings import kept_by
from memlint.model.kinds import Role, role
from memlint.model.knowledge.torch import GRAPH_WORDS
from memlint.model.program import Program
from memlint.model.retention import is_made_anew, retention_confidence
from memlint.model.source_text import code
from memlint.model.spans import Span
from memlint.model.values import Call, Occurrence, Parameter
from memlint.rule import Rule


class AttachedScalarAccumulator(Rule):
    """A running sum that takes in tensors with their autograd graph.

    ## What it does
    Finds names, attributes and items that are added to (multiplied, averaged) iteration after iteration with a value
    that still carries its graph: `total += loss`, `avg = 0.9 * avg + 0.1 * loss`, `meters["loss"] += loss`, and calls
    of a meter's `update(loss)` when the meter sums up what it is given.

    ## Why is this bad?
    Every addition links one more graph to the sum. If `loss.backward()` has run, the activations are freed and what
    grows is host memory: about 1.5 kB for each operation of the graph and iteration. If no backward runs over the value
    (validation, a metric that is not part of the loss, `retain_graph=True`), every activation of every iteration stays
    on the device. The message says which of the two it is.

    ## Example
    ```python
    for x, y in loader:
        loss = criterion(model(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        total += loss
    ```

    ## Use instead
    ```python
        total += loss.detach()
    ```

    ## Fix safety
    Safe: `.detach()` keeps value, type and device, and does not wait for the device. `float(loss)` and `.item()`
    would wait.

    ## When to ignore
    When the sum is differentiated later (gradient accumulation by one backward); memlint sees that when the backward is
    within the project.

    ## References
    - [PyTorch FAQ: my model reports "cuda runtime error(2): out of memory"](https://docs.pytorch.org/docs/stable/notes/faq.html)
    """

    code = "MEM101"
    name = "attached-scalar-accumulator"
    severity = Severity.ERROR
    gate = GRAPH_WORDS
    fixers = ("call_method",)
    positive = (
        """
import torch
from torch import nn
class LabelModel(nn.Module):
    def forward(self, *args):
        raise NotImplementedError
    def fit(self, batches, epochs):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        for epoch in range(epochs):
            running_loss = 0.0
            for inputs in batches:
                optimizer.zero_grad()
                loss = -torch.mean(self(*inputs))
                loss.backward()
                optimizer.step()
                running_loss += loss  # MEM101
            print(running_loss / len(batches))
""",
        """
def train(model, loader, opt, crit):
    total = 0.0
    for x, y in loader:
        opt.zero_grad(); loss = crit(model(x), y); loss.backward(); opt.step()
        total += loss  # MEM101: 18
    print(total / len(loader))
""",
        """
import torch.nn.functional as F

def train(model, loader, opt):
    avg = 0
    meters = {"loss": 0.0}
    for x, y in loader:
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        opt.step()
        avg = 0.9 * avg + 0.1 * loss  # MEM101: 27
        meters["loss"] = meters["loss"] + loss  # MEM101: 43
""",
        """
from torch import nn
from torch.utils.data import DataLoader

def train_step(model, batch, criterion, optimizer):
    x, y = batch
    output = model(x)
    main = criterion(output, y)
    loss = main + 0.1
    optimizer.zero_grad(); loss.backward(); optimizer.step()
    return loss, main

def train_epoch(model: nn.Module, loader: DataLoader, criterion, optimizer):
    total = 0
    total_main = 0
    for batch in loader:
        loss, main = train_step(model, batch, criterion, optimizer)
        total += loss  # MEM101: 18
        total_main = total_main + main  # MEM101: 35
    return total / len(loader), total_main / len(loader)
""",
        """
from torch import nn

class AverageMeter:
    def __init__(self):
        self.sum = 0
        self.count = 0

    def update(self, val, n=1):
        self.sum += val * n
        self.count += n

def train(loader, opt):
    model = nn.Linear(3, 3)
    meter = AverageMeter()
    for x, y in loader:
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        opt.step()
        meter.update(loss, x.size(0))  # MEM101: 22
""",
        """
import torch
from torch import nn

def validate(loader, crit):
    model = nn.Sequential(nn.Linear(3, 3))
    model.eval()
    total = 0
    for x, y in loader:
        out = model(x)
        total += crit(out, y)  # MEM101
    print(total)
""",
        """
import lightning as L
import torch.nn.functional as F

class Net(L.LightningModule):
    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = F.cross_entropy(self(x), y)
        self.running += loss  # MEM101
        return loss
""",
        """
from transformers import Trainer

class Mine(Trainer):
    def compute_loss(self, model, inputs, return_outputs=False):
        outputs = model(**inputs)
        loss = outputs.loss
        self.total = self.total + loss  # MEM101
        return (loss, outputs) if return_outputs else loss
""",
        """
import torch
from accelerate import Accelerator

def main(model, loader, optimizer):
    accelerator = Accelerator()
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    totals = dict(loss=0.0)
    for batch in loader:
        loss = model(**batch).loss
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        totals["loss"] = totals.get("loss", 0) + loss  # MEM101
""",
        """
from torch import nn

class Trainer:
    def __init__(self, model):
        self.model = model
        self.optimizer = None
        self.epoch_loss = 0.0

    def step(self, x, y):
        loss = nn.functional.mse_loss(self.model(x), y)
        loss.backward()
        self.optimizer.step()
        return loss

    def fit(self, loader):
        for x, y in loader:
            loss = self.step(x, y)
            self.epoch_loss += loss  # MEM101
        print(self.epoch_loss)
""",
        """
from torch import nn

def train(model: nn.Module, loader, opt, use_amp, scaler):
    running = None
    for x, y in loader:
        loss = nn.functional.mse_loss(model(x), y)
        if use_amp:
            scaler.scale(loss).backward()
            scaler.step(opt)
            scaler.update()
        else:
            loss.backward()
            opt.step()
        opt.zero_grad()
        if running is None:
            running = 0
        running = running + loss.mean()  # MEM101
        if x is None:
            continue
    return running
""",
        """
import torch
from torch import nn

def train(model: nn.Module, loader, opt):
    total = torch.zeros(())
    for x, y in loader:
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        opt.step()
        opt.zero_grad()
        total.add_(loss)  # MEM101
    return total
""",
        """
from collections import defaultdict
from torch import nn

class Meters:
    def __init__(self):
        self.sums = defaultdict(float)

    def update(self, **values):
        for name, value in values.items():
            self.sums[name] += value

def train(model: nn.Module, loader, optimizer):
    meters = Meters()
    for x, y in loader:
        out = model(x)
        parts = {"fit": nn.functional.mse_loss(out, y), "norm": out.abs().mean()}
        loss = sum(parts.values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        meters.update(loss=loss, **parts)  # MEM101: 28 MEM101: 36
""",
        """
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])

    def forward(self, x):
        outputs = dict()
        for index, layer in enumerate(self.layers):
            x = layer(x)
            outputs[index] = x
        return outputs

def train(loader, optimizer):
    net, total = Net(), 0.0
    for x, y in loader:
        out = net(x)
        optimizer.zero_grad()
        nn.functional.mse_loss(out[0], y).backward()
        optimizer.step()
        total += nn.functional.l1_loss(out[1], y)  # MEM101: 18
    return total
""",
    )
    negative = (
        """
import torch
from torch import nn

class CausalConv(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(4, 4, 3)

    def forward(self, x, cache, index):
        last = x[:, :, -2:].clone()
        if cache[index] is not None:
            last = torch.cat([cache[index][:, :, -1:], last], dim=2)
            x = torch.cat([cache[index], x], dim=2)
        cache[index] = last
        return self.conv(x)

class Decoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = CausalConv()

    def clear(self):
        self.cache = [None]

    def decode(self, z):
        self.clear()
        parts = []
        for i in range(z.shape[2]):
            parts.append(self.conv(z[:, :, i : i + 1], self.cache, 0))
        self.clear()
        return torch.cat(parts, 2)

    def forward(self, z):
        return torch.cat([self.decode(piece) for piece in z.split(1)])
""",
        """
import torch
from torch import nn

def errors(predictions, targets):
    total = 0.0
    for prediction, target in zip(predictions, targets):
        total += torch.mean(torch.abs(prediction[target > 0] - target[target > 0]))
    return torch.tensor(total / len(targets))

def evaluate(model: nn.Module, loader):
    return [errors(model(x), y) for x, y in loader]
""",
        """
from collections import defaultdict
import torch
from torch import nn

class Meters:
    def __init__(self):
        self.sums = defaultdict(float)

    def update(self, **values):
        for name, value in values.items():
            if isinstance(value, torch.Tensor):
                value = value.item()
            self.sums[name] += value

def train(model: nn.Module, loader, optimizer):
    meters = Meters()
    for x, y in loader:
        parts = {"fit": nn.functional.mse_loss(model(x), y)}
        loss = sum(parts.values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        meters.update(loss=loss, **parts)
""",
        """
from torch import nn
from torch.utils.data import DataLoader

def run(model, batch, criterion, optimizer):
    loss = criterion(model(batch[0]), batch[1])
    if optimizer is not None:
        loss.backward(); optimizer.step(); optimizer.zero_grad()
    return loss

def penalised(model: nn.Module, loader: DataLoader, criterion):
    total = 0
    for batch in loader:
        total = total + run(model, batch, criterion, None)
    return total
""",
        """
from torch import nn

def train(loader, opt, k):
    model = nn.Linear(3, 3)
    running, tokens = 0, 0
    for i, (x, y) in enumerate(loader):
        loss = nn.functional.mse_loss(model(x), y)
        running += loss
        loss.backward()
        if (i + 1) % k == 0:
            opt.step()
            opt.zero_grad()
            print(running / k)
            running = 0
""",
        """
def accumulate(outs, weights, crit, y):
    loss = 0
    for out, w in zip(outs, weights):
        loss = loss + w * crit(out, y)
    loss.backward()
""",
        """
import torch

def train(model, loader, opt, crit):
    total, correct, seen = 0.0, 0, 0
    for x, y in loader:
        out = model(x)
        loss = crit(out, y)
        loss.backward()
        opt.step()
        opt.zero_grad()
        total += loss.item()
        total += loss.detach()
        total += float(loss.detach())
        total += loss.data
        correct += (out.argmax(1) == y).sum()
        correct += out.max(1)[1].eq(y).sum()
        seen += y.size(0)
""",
        """
import torch
from torch import nn

def validate(val, crit):
    model = nn.Linear(3, 3)
    total = 0
    with torch.no_grad():
        for x, y in val:
            total += crit(model(x), y)
    return total

@torch.inference_mode()
def test(val, crit):
    model = nn.Linear(3, 3)
    total = 0
    for x, y in val:
        total += crit(model(x), y)
    return total

def evaluate(model: nn.Module, val, crit):
    total = 0
    for x, y in val:
        total = total + crit(model(x), y)
    return total

def main(model: nn.Module, val, crit):
    with torch.no_grad():
        print(evaluate(model, val, crit))
""",
        """
from torch import nn

def train(loader, opt, heads, crit):
    model = nn.Linear(3, 3)
    for x, y in loader:
        loss = 0
        for head in heads:
            loss += crit(head(model(x)), y)
        opt.zero_grad()
        loss.backward()
        opt.step()
""",
        """
import lightning as L
import torch.nn.functional as F

class Net(L.LightningModule):
    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = 0
        for part in x:
            loss = loss + F.cross_entropy(self(part), y)
        self.log("loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.total += F.cross_entropy(self(x), y)
""",
        """
import torch
from torch import nn

class Meter:
    def __init__(self):
        self.sum = 0

    def update(self, val, n=1):
        if isinstance(val, torch.Tensor):
            val = val.item()
        self.sum += val * n

class Careful:
    total = 0

    def add(self, value):
        self.total += value.detach() if torch.is_tensor(value) else value

def train(loader, opt):
    model = nn.Linear(3, 3)
    meter, careful = Meter(), Careful()
    for x, y in loader:
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        opt.step()
        meter.update(loss)
        careful.add(loss)
""",
        """
from torch import nn
from torchmetrics import MeanMetric

def train(loader, opt, logger):
    model = nn.Linear(3, 3)
    metric = MeanMetric()
    text = ""
    for x, y in loader:
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        opt.step()
        metric.update(loss)
        text += f"{loss} "
        text = text + "%.3f" % loss
        logger.info("loss %s", loss)
""",
        """
import torch
from torch import nn

def gradient_accumulation(loader, opt, k):
    model = nn.Linear(3, 3)
    total = 0
    for i, (x, y) in enumerate(loader):
        total = total + nn.functional.mse_loss(model(x), y)
        if (i + 1) % k == 0:
            total.backward()
            opt.step()
            opt.zero_grad()
            total = 0
""",
        """
from torch import nn

class Penalty:
    def __init__(self, model):
        self.model = model
        self.loss = 0

    def add(self, x, y):
        self.loss += nn.functional.mse_loss(self.model(x), y)

    def finish(self, opt):
        self.loss.backward()
        opt.step()
        self.loss = 0
""",
    )

    def check(self, program: Program) -> Iterator[Finding]:
        for function in program.functions:
            for accumulation in accumulations(function):
                if not is_module_state(function, accumulation) and not concatenates(accumulation):
                    yield from self._accumulated(accumulation)
            for call in function.calls:
                yield from self._kept_by_callee(call)

    def _accumulated(self, accumulation: Accumulation) -> Iterator[Finding]:
        for addend in accumulation.addends:
            leaves = attached_leaves(addend)
            if role(accumulation.value, Role.CONTAINER):
                continue
            if not leaves or all(isinstance(leaf.value, Parameter) for leaf in leaves):
                continue
            if not is_made_anew(addend.value, accumulation.value, accumulation.loop):
                continue
            confidence = retention_confidence(accumulation.value, addend.value, accumulation.span, accumulation.loop)
            if confidence is not None and is_reset_in_loop(accumulation) and drain(addend.value) is Drain.DRAINED:
                confidence = Confidence.POSSIBLE
            if confidence is not None:
                yield self._finding(accumulation.holder, addend, leaves, confidence)

    def _finding(
        self, holder: cst.CSTNode, addend: Occurrence, leaves: tuple[Occurrence, ...], confidence: Confidence
    ) -> Finding:
        held = holding(addend.value, scalar=True)
        source = leaves[0] if len(leaves) == 1 else addend
        return self.finding(
            addend.node,
            lambda: f"`{code(holder)}` takes in `{code(source.node)}` with its autograd graph",
            holds=held.phrase,
            severity=held.severity,
            confidence=confidence,
            fixes=detach_fixes(source),
            claim=Claim(held.shape, held.memory, held.size, holder=holder, held=addend.node),
        )

    def _kept_by_callee(self, call: Call) -> Iterator[Finding]:
        for where, keeping in kept_by(call):
            leaves = attached_leaves(where)
            if keeping.summed and not keeping.is_state and leaves and not isinstance(where.value, Parameter):
                confidence = retention_confidence(keeping.kept, where.value, Span.CALL, call.region.loop)
                if confidence is not None:
                    yield self._finding(
                        keeping.holder, where, leaves, Confidence.weakest(confidence, certainty(where.value))
                    )
