"""MEM812."""

from __future__ import annotations

from collections.abc import Iterator

from memlint.findings import Claim, ClaimShape, Confidence, Finding, Severity, Watch
from memlint.model.accumulations import Accumulation, accumulations
from memlint.model.devices import may_use_accelerator
from memlint.model.footprint import Footprint, footprint
from memlint.model.program import Program
from memlint.model.regrowth import concatenation, is_copied_each_time
from memlint.model.source_text import code
from memlint.rule import Rule


class CatGrownBuffer(Rule):
    """A tensor grows by `torch.cat` in each iteration, so that it is copied, and there twice, each time.

    ## What it does
    Finds `buffer = torch.cat([buffer, new])` (and `stack`, `hstack`, `vstack`) in loops over batches or samples. It is
    a warning where the outputs of a model for a whole data set stay on the device so (lists of such are MEM604), and a
    note otherwise.

    ## Why is this bad?
    Each call allocates a tensor of another, larger size and copies what was there. Old and new are alive together,
    twice the size of the result (8 MiB for a result of 4 MiB, measured with torch 2.13); n batches copy about n²/2.
    The caching allocator finds no block of the new size among those that were freed, so that what is reserved grows
    beyond what is allocated. A list and one `torch.cat` after the loop copy once.

    ## Example
    ```python
    features = torch.empty(0, dim)
    for x in loader:
        features = torch.cat([features, encoder(x)])
    ```

    ## Use instead
    ```python
    parts = []
    for x in loader:
        parts.append(encoder(x))
    features = torch.cat(parts)
    ```

    ## Fix safety
    There is no fix: it would have to change how the buffer begins, and every place that reads it inside the loop.

    ## When to ignore
    When the buffer is cut back to a few rows each time, or when it only ever holds some numbers.

    ## References
    - [torch.cat](https://docs.pytorch.org/docs/stable/generated/torch.cat.html)
    - [amptorch#12](https://github.com/ulissigroup/amptorch/issues/12),
      [lotus#16](https://github.com/lotus-data/lotus/pull/16),
      [torch-sim#559](https://github.com/TorchSim/torch-sim/pull/559)
    """

    code = "MEM812"
    name = "cat-grown-buffer"
    severity = Severity.NOTE
    gate = frozenset({"cat", "concat", "concatenate", "stack", "hstack", "vstack"})
    positive = (
        """
import torch
@torch.no_grad()
def extract(encoder: torch.nn.Module, loader: torch.utils.data.DataLoader):
    features = torch.empty(0, 8)
    for x, _ in loader:
        features = torch.cat([features, encoder(x)])  # MEM812: 20
    return features
""",
        """
import torch
from torch.utils.data import DataLoader
def collect(model, dataset):
    scores = labels = None
    with torch.inference_mode():
        for x, y in DataLoader(dataset):
            scores = model(x) if scores is None else torch.cat((scores, model(x)), dim=0)  # MEM812
            labels = torch.hstack((labels, y)) if labels is not None else y  # MEM812
    return scores, labels
""",
        """
import torch
def activities(model, loader: torch.utils.data.DataLoader, criterion):
    inputs = {name: torch.empty(0) for name in model.names}
    gradients = {}
    for x, y in loader:
        criterion(model(x), y).backward()
        for layer in model.layers:
            inputs[layer.name] = torch.cat((inputs[layer.name], layer.input.detach().cpu()))  # MEM812: 34
            if layer.name not in gradients:
                gradients[layer.name] = layer.output.grad.detach()
            else:
                gradients[layer.name] = torch.cat((gradients[layer.name], layer.output.grad.detach()))  # MEM812: 41
    return inputs, gradients
""",
    )
    negative = (
        """
import torch
from torch.utils.data import DataLoader
def gather(model, loader: DataLoader, layers):
    with torch.no_grad():
        for x in loader:
            kept = {layer: torch.empty(0) for layer in layers}
            for layer in layers:
                kept[layer] = torch.cat([kept[layer], model(x)[layer]])
            yield kept
def latest(model, loader: DataLoader):
    kept = {}
    with torch.no_grad():
        for x in loader:
            for name, value in model(x).items():
                kept[name] = torch.cat([kept[name], value])
                kept[name] = kept[name][-64:]
    return kept
""",
        """
import torch
from torch import nn
class Pipeline:
    def __init__(self, encoders):
        self.encoders = encoders
    @torch.no_grad()
    def embed(self, tokens, count):
        kept = []
        for ids, encoder in zip(tokens, self.encoders):
            kept.append(encoder(ids))
        embeddings = kept[0]
        for i in range(1, len(kept)):
            embeddings = torch.cat([embeddings, kept[i]], dim=2)
        return embeddings
def main(tokens):
    first, second = nn.Embedding(10, 4), nn.Embedding(10, 4)
    return Pipeline([first, second]).embed(tokens, 2)
""",
        """
import torch
@torch.no_grad()
def extract(encoder: torch.nn.Module, loader: torch.utils.data.DataLoader):
    parts = []
    window = torch.empty(0, 8)
    for x, _ in loader:
        parts.append(encoder(x))
        window = torch.cat([window, encoder(x)])[-64:]
        both = torch.cat([x, encoder(x)])
        both = torch.cat([both, both])
        window = window[-64:]
    return torch.cat(parts), window, both
""",
        """
import torch
from torch import nn
class Dense(nn.Module):
    def forward(self, x):
        for layer in self.layers:
            x = torch.cat([x, layer(x)], dim=1)
        return x
""",
        """
import torch
@torch.no_grad()
def generate(model: torch.nn.Module, tokens, count):
    for _ in range(count):
        tokens = torch.cat([tokens, model(tokens)[:, -1:].argmax(-1)], dim=1)
    return tokens
""",
    )

    def check(self, program: Program) -> Iterator[Finding]:
        for function in program.functions:
            for accumulation in map(concatenation, accumulations(function)):
                confidence = is_copied_each_time(accumulation)
                if confidence is not None:
                    yield self._finding(accumulation, confidence)

    def _finding(self, accumulation: Accumulation, confidence: Confidence) -> Finding:
        buffer = code(accumulation.holder)
        return self.finding(
            accumulation.value.node,
            f"`{buffer}` is copied into a larger tensor in each iteration",
            holds=f"`{buffer}` twice while it is copied, each time in blocks of another size",
            severity=Severity.WARNING if _holds_outputs(accumulation) else Severity.NOTE,
            confidence=confidence,
            claim=Claim(
                ClaimShape.SPIKE, "device", "2 x the result", held=accumulation.value.node, watch=Watch.REGROWN
            ),
        )


def _holds_outputs(accumulation: Accumulation) -> bool:
    """Whether the outputs of a model for the whole data set stay on a device."""
    on_device = may_use_accelerator(accumulation.function)
    return on_device and any(footprint(each.value) is Footprint.FULL for each in accumulation.addends)
