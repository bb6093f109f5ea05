"""MEM606."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from memlint.findings import Applicability, Claim, ClaimShape, Confidence, Finding, Fix, Severity, Watch
from memlint.model.attachment import Attachment, attachment, certainty
from memlint.model.knowledge import metrics
from memlint.model.metrics import Metric, feeds_training, is_emptied, is_fed_again_and_again, keeping_metrics
from memlint.model.program import Program
from memlint.model.source_text import code
from memlint.model.values import Argument, Call
from memlint.rule import Rule


class MetricStateGrows(Rule):
    """A metric of torchmetrics keeps every prediction on the device, and nobody empties it in time.

    ## What it does
    Finds metrics that keep their input in lists (curves such as `AUROC` without `thresholds`, rank correlations,
    retrieval, `CatMetric`) and that are fed in a training step, or in evaluation after evaluation without a `reset()`;
    and the arguments with which `CatMetric` and `SpearmanCorrCoef` get a tensor with its autograd graph.

    Metrics that Lightning logs as objects, `self.log("auc", self.auc)`, are left out: Lightning resets them. The rule
    is off unless it is selected, since the sets that a metric is computed on are often small.

    ## Why is this bad?
    An exact curve needs all scores, (classes + 1) x 4 bytes for each sample (each pixel, in segmentation), until
    `reset()`; with `thresholds=100` the state does not grow (both measured with torchmetrics 1.9). `update` runs
    without gradients, but a tensor that is only stored is not detached by that: with it, every activation of its
    forward stays.

    ## Example
    ```python
    auc = BinaryAUROC()
    for epoch in range(epochs):
        for x, y in loader:
            auc.update(model(x), y)
        print(auc.compute())
    ```

    ## Use instead
    ```python
    auc = BinaryAUROC(thresholds=200)
    for epoch in range(epochs):
        for x, y in loader:
            auc.update(model(x), y)
        print(auc.compute())
        auc.reset()
    ```

    ## Fix safety
    `.detach()` is safe: no metric differentiates what it stores. `thresholds=200` is unsafe: it computes the curve at
    200 thresholds, and so an approximation. Where to call `reset()` is for the author to say.

    ## When to ignore
    When the metric has to be exact and its predictions are few; `compute_on_cpu=True` keeps them on the host.

    ## References
    - [torchmetrics: memory usage of list states](https://lightning.ai/docs/torchmetrics/stable/pages/overview.html)
    - [torchmetrics#1461](https://github.com/Lightning-AI/torchmetrics/issues/1461) (graphs and memory),
      [torchmetrics#1323](https://github.com/Lightning-AI/torchmetrics/issues/1323)
    """

    code = "MEM606"
    name = "metric-state-grows"
    severity = Severity.NOTE
    default = False
    gate = frozenset({"torchmetrics"})
    fixers = ("add_argument", "call_method")
    positive = (
        """
import torch
from torchmetrics.classification import BinaryAUROC
def main(model, loader, epochs):
    auc = BinaryAUROC()  # MEM606: 11
    for epoch in range(epochs):
        with torch.no_grad():
            for x, y in loader:
                auc.update(model(x), y)
        print(auc.compute())
""",
        """
import torchmetrics
def train(model, loader, optimizer, criterion):
    curve = torchmetrics.PrecisionRecallCurve(task="binary", thresholds=None)  # MEM606
    for x, y in loader:
        out = model(x)
        criterion(out, y).backward()
        optimizer.step()
        optimizer.zero_grad()
        curve(out.detach(), y)
    curve.reset()
""",
        """
import torchmetrics
from torch import nn
def train(loader, optimizer):
    model = nn.Linear(3, 1)
    seen = torchmetrics.CatMetric().to("cuda")  # MEM606
    for x, y in loader:
        out = model(x)
        nn.functional.mse_loss(out, y).backward()
        optimizer.step()
        optimizer.zero_grad()
        seen.update(out)  # MEM606: 21
""",
        """
import lightning as L
from torch import nn
from torchmetrics import MetricCollection, AveragePrecision, Accuracy
class Net(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(3, 3)
        self.metrics = MetricCollection({
            "ap": AveragePrecision(task="multiclass", num_classes=3),  # MEM606
            "accuracy": Accuracy(task="multiclass", num_classes=3),
        })
    def validation_step(self, batch, index):
        x, y = batch
        self.metrics.update(self.net(x), y)
    def on_validation_epoch_end(self):
        self.log("ap", self.metrics.compute()["ap"])
""",
    )
    negative = (
        """
import torch
from torchmetrics.classification import BinaryAUROC, MulticlassAccuracy
def main(model, loader, epochs, bins):
    exact, binned, moved = BinaryAUROC(), BinaryAUROC(thresholds=bins), BinaryAUROC(compute_on_cpu=True)
    accuracy = MulticlassAccuracy(num_classes=3)
    for epoch in range(epochs):
        with torch.no_grad():
            for x, y in loader:
                for metric in (exact, binned, moved, accuracy):
                    metric.update(model(x), y)
        exact.reset()
def once(model, loader):
    auc = BinaryAUROC()
    with torch.no_grad():
        for x, y in loader:
            auc.update(model(x), y)
    return auc.compute()
def fresh(model, loader):
    for epoch in range(3):
        auc = BinaryAUROC()
        with torch.no_grad():
            for x, y in loader:
                auc.update(model(x), y)
""",
        """
import lightning as L
from torch import nn
from torchmetrics import AUROC
class Net(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.net, self.auc = nn.Linear(3, 1), AUROC(task="binary")
    def validation_step(self, batch, index):
        x, y = batch
        self.auc(self.net(x), y)
        self.log("auc", self.auc)
""",
        """
from somewhere import AUROC
from torchmetrics import MeanMetric
def main(model, loader):
    auc, mean = AUROC(), MeanMetric()
    for epoch in range(3):
        for x, y in loader:
            loss = model(x).sum()
            loss.backward()
            auc.update(model(x), y)
            mean.update(loss)
""",
    )

    def check(self, program: Program) -> Iterator[Finding]:
        for metric in keeping_metrics(program):
            if any(map(feeds_training, metric.fed)):
                yield from self._kept(metric, "every prediction of the training", emptied=_is_logged_only(metric))
            elif is_fed_again_and_again(metric):
                yield from self._kept(metric, "the predictions of all evaluations so far", emptied=is_emptied(metric))
            if metric.name in metrics.KEEPING_GRAPHS:
                yield from self._attached(metric)

    def _kept(self, metric: Metric, what: str, *, emptied: bool) -> Iterator[Finding]:
        if emptied:
            return
        binned = metric.name in metrics.BINNED and metric.made.argument("thresholds") is None
        yield self.finding(
            metric.made.node,
            f"`{metric.name}` keeps {what} in its state",
            holds=f"{what}, on the device, until `reset()`",
            confidence=Confidence.LIKELY,
            fixes=(_bins(metric),) if binned else (),
            claim=Claim(
                ClaimShape.GROWS,
                "device",
                "samples x (classes + 1) x 4",
                holder=_fed_name(metric.fed[0]),
                watch=Watch.FILLED,
            ),
        )

    def _attached(self, metric: Metric) -> Iterator[Finding]:
        for call in metric.fed:
            for argument in call.arguments:
                if attachment(argument.value) >= Attachment.LIKELY and not argument.star:
                    yield self._stored(metric, call, argument)

    def _stored(self, metric: Metric, call: Call, argument: Argument) -> Finding:
        node = argument.node.value
        return self.finding(
            node,
            f"`{metric.name}` stores `{code(node)}` with its graph",
            holds="the activations of the forward pass of every batch, until `reset()`",
            severity=Severity.WARNING,
            confidence=certainty(argument.value),
            fixes=(
                Fix(
                    "call_method",
                    "Give it the values only: `.detach()`",
                    Applicability.SAFE,
                    {"expression": node},
                    {"method": "detach"},
                ),
            ),
            claim=Claim(ClaimShape.GROWS, "device", "A", holder=_fed_name(call), held=node),
        )


def _fed_name(call: Call) -> cst.BaseExpression:
    """The metric, as it is called where it is fed: ``auc`` of ``auc(scores, y)`` and of ``auc.update(scores, y)``."""
    function = call.node.func
    is_method = isinstance(function, cst.Attribute) and function.attr.value in ("update", "forward")
    return function.value if is_method and isinstance(function, cst.Attribute) else function


def _is_logged_only(metric: Metric) -> bool:
    """Whether Lightning, which logs the metric, empties it after each epoch."""
    return is_emptied(metric) and not metric.made.function.module.calls_by_name.get("reset")


def _bins(metric: Metric) -> Fix:
    return Fix(
        "add_argument",
        "Keep counts at 200 thresholds in place of predictions",
        Applicability.UNSAFE,
        {"call": metric.made.node},
        {"code": "thresholds=200"},
    )
