"""MEM501."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from memlint.findings import Applicability, Claim, ClaimShape, Finding, Fix, Severity, Watch
from memlint.model.checkpointing import checkpoints, is_sequential, is_single_segment
from memlint.model.program import Program
from memlint.model.source_text import code, text
from memlint.model.values import Call
from memlint.rule import Rule


class SingleSegmentCheckpoint(Rule):
    """The whole model is checkpointed as one segment, which saves nothing at the peak.

    ## What it does
    Finds `checkpoint(model, x)` around all that is trained, a `forward` that checkpoints all of its module, and
    `checkpoint_sequential(layers, 1, x)`. Checkpoints of blocks, of one of several large parts, and in loops over parts
    of a batch are left alone.

    ## Why is this bad?
    A segment saves its inputs only, but the backward first computes all of it again, with everything saved: A bytes
    are alive at the peak, with or without the checkpoint, and the forward has run twice. With k segments it is about
    A / k, and the k inputs. A network of 16 blocks peaked at 61.0 MiB without checkpoints, 59.3 MiB with one, 29.3 MiB
    with one for each block, 26.0 MiB with `checkpoint_sequential` in 8 segments (measured with torch 2.13 on a CPU).
    `checkpoint_sequential` never checkpoints its last segment: with one segment it checkpoints nothing.

    ## Example
    ```python
    def forward(self, x):
        return checkpoint(self._forward, x, use_reentrant=False)
    ```

    ## Use instead
    ```python
    def forward(self, x):
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False)
        return self.head(x)
    ```

    ## Fix safety
    Unsafe: more segments are computed again, so that a step takes longer. Only `checkpoint_sequential` is changed, to
    about the square root of the number of layers, which is where the peak is lowest.

    ## When to ignore
    When the loss outside of the checkpoint takes more memory than the model, as with a large vocabulary: the peak is
    then there.

    ## References
    - [torch.utils.checkpoint](https://docs.pytorch.org/docs/stable/checkpoint.html)
    - [Training deep nets with sublinear memory cost](https://arxiv.org/abs/1604.06174)
    """

    code = "MEM501"
    name = "single-segment-checkpoint"
    severity = Severity.WARNING
    gate = frozenset({"checkpoint", "checkpoint_sequential"})
    fixers = ("replace_expression",)
    positive = (
        """
from torch import nn
from torch.utils.checkpoint import checkpoint_sequential
class Net(nn.Module):
    def __init__(self, blocks):
        super().__init__()
        self.layers = nn.Sequential(*blocks)
    def forward(self, x):
        return checkpoint_sequential(self.layers, 1, x, use_reentrant=False)  # MEM501: 16
""",
        """
import torch
import torch.utils.checkpoint as ckpt
def train(loader, blocks):
    model = torch.nn.Sequential(*blocks)
    optimizer = torch.optim.AdamW(model.parameters())
    for x, y in loader:
        out = ckpt.checkpoint(model, x, use_reentrant=False)  # MEM501
        torch.nn.functional.mse_loss(out, y).backward()
        optimizer.step()
        optimizer.zero_grad()
""",
        """
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
class Net(nn.Module):
    def __init__(self, width, depth):
        super().__init__()
        self.blocks = nn.ModuleList(nn.TransformerEncoderLayer(width, 8) for _ in range(depth))
    def _forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x
    def forward(self, x):
        if self.training:
            return checkpoint(self._forward, x, use_reentrant=False)  # MEM501
        return self._forward(x)
def main(loader):
    model = Net(512, 24).cuda()
    optimizer = torch.optim.AdamW(model.parameters())
    for x in loader:
        model(x).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
""",
        """
import lightning
from torch.utils.checkpoint import checkpoint
from torchvision.models import resnet50
class Classifier(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = resnet50()
    def training_step(self, batch, index):
        x, y = batch
        return checkpoint(self.net, x, use_reentrant=False).mean()  # MEM501
""",
        """
from torch import nn
from torch.utils.checkpoint import checkpoint
class Net(nn.Module):
    def __init__(self, encoder, width, classes):
        super().__init__()
        self.encoder = nn.TransformerEncoder(encoder, 12)
        self.head = nn.Linear(width, classes)
    def forward(self, x):
        return self.head(checkpoint(self.encoder, x, use_reentrant=False))  # MEM501?
""",
    )
    negative = (
        """
from torch import nn
from torch.utils.checkpoint import checkpoint, checkpoint_sequential
class Net(nn.Module):
    def __init__(self, blocks, encoder, decoder):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.layers = nn.Sequential(*blocks)
        self.encoder = nn.TransformerEncoder(encoder, 12)
        self.decoder = nn.TransformerDecoder(decoder, 12)
    def forward(self, x):
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False)
        return x
    def translate(self, x, y):
        return self.decoder(y, checkpoint(self.encoder, x, use_reentrant=False))
    def by_parts(self, x):
        return checkpoint_sequential(self.layers, int(len(self.layers) ** 0.5), x, use_reentrant=False)
""",
        """
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
    def _forward(self, x):
        return x + self.mlp(x)
    def forward(self, x):
        return checkpoint(self._forward, x, use_reentrant=False)
class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.blocks = nn.ModuleList([Block(width) for _ in range(12)])
    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x
def main(loader):
    model = Net(64)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for x in loader:
        model(x).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
""",
        """
import torch
from torch.utils.checkpoint import checkpoint
def chunked_loss(head, hidden, labels, size):
    def one(h, y):
        return torch.nn.functional.cross_entropy(head(h), y, reduction="sum")
    total = hidden.new_zeros(())
    for start in range(0, len(hidden), size):
        part = slice(start, start + size)
        total = total + checkpoint(one, hidden[part], labels[part], use_reentrant=False)
    (total / len(hidden)).backward()
""",
        """
import torch
from torch.utils.checkpoint import checkpoint
@torch.no_grad()
def evaluate(model: torch.nn.Module, loader):
    return [checkpoint(model, x, use_reentrant=False) for x in loader]
""",
    )

    def check(self, program: Program) -> Iterator[Finding]:
        for call in checkpoints(program):
            confidence = is_single_segment(call)
            if confidence is not None:
                yield self.finding(
                    call.node,
                    _message(call),
                    holds="what autograd saves in all of the model, while the backward computes it again",
                    confidence=confidence,
                    fixes=tuple(_fixes(call)),
                    claim=Claim(
                        ClaimShape.SPIKE,
                        "device",
                        "A of the segment",
                        held=call.node,
                        watch=Watch.RECOMPUTED_SEGMENT,
                    ),
                )


def _message(call: Call) -> str:
    if is_sequential(call):
        return "`checkpoint_sequential` with one segment checkpoints nothing"
    run = call.argument("function", 0)
    written = next((code(a.node.value) for a in call.arguments if a.value is run), "the model")
    return f"`{written}` is checkpointed as one segment: the backward has all of it recomputed, and saved, at once"


def _fixes(call: Call) -> Iterator[Fix]:
    layers, segments = call.argument("functions", 0), call.argument("segments", 1)
    written = next((a.node.value for a in call.arguments if a.value is layers), None)
    changed = next((a.node.value for a in call.arguments if a.value is segments), None)
    if is_sequential(call) and changed is not None and isinstance(written, (cst.Name, cst.Attribute)):
        yield Fix(
            "replace_expression",
            "Use about as many segments as each has layers",
            Applicability.UNSAFE,
            {"expression": changed},
            {"code": f"max(2, round(len({text(written)}) ** 0.5))"},
        )
