"""MEM304."""

from __future__ import annotations

from collections.abc import Iterator

from memlint.findings import Claim, ClaimShape, Finding, Severity
from memlint.model.program import Program
from memlint.model.resident_data import has_small_data, resident_data
from memlint.rule import Rule


class DatasetResidentOnDevice(Rule):
    """A whole data set is moved onto the accelerator before it is used.

    ## What it does
    Finds batches of a loader that are moved onto an accelerator and kept, as in `[x.cuda() for x in loader]`, and data
    sets whose constructor moves what they hold. It is silent in files that name a data set which is known to be small,
    and for graphs, which are trained on as a whole.

    ## Why is this bad?
    All of the data takes device memory from the first step to the last: 16 MiB instead of the 0.25 MiB of one batch in
    a measurement, and many times the model for images. Moving a batch costs little, and with pinned memory and
    `non_blocking=True` no time.

    ## Example
    ```python
    batches = [(x.cuda(), y.cuda()) for x, y in loader]
    for x, y in batches:
        step(x, y)
    ```

    ## Use instead
    ```python
    for x, y in loader:
        step(x.cuda(non_blocking=True), y.cuda(non_blocking=True))
    ```

    ## Fix safety
    There is no fix: where the batches are moved instead depends on what uses them.

    ## When to ignore
    When the data are few MiB, so that moving them once is the point.

    ## References
    - [DataLoader: memory pinning](https://docs.pytorch.org/docs/stable/data.html#memory-pinning)
    """

    code = "MEM304"
    name = "dataset-resident-on-device"
    severity = Severity.NOTE
    default = False
    gate = frozenset({"cuda", "to"})
    positive = (
        """
from torch.utils.data import DataLoader
def train(model, data, optimizer):
    batches = [(x.cuda(), y.cuda()) for x, y in DataLoader(data)]  # MEM304: 17 MEM304: 27
    for x, y in batches:
        (model(x) - y).pow(2).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
""",
        """
import torch
from torch.utils.data import Dataset
class Frames(Dataset):
    def __init__(self, path, device="cuda"):
        self.frames = torch.load(path).float().to("cuda")  # MEM304: 23
        self.labels = torch.load(path + ".labels").cuda()  # MEM304
    def __getitem__(self, index):
        return self.frames[index], self.labels[index]
    def __len__(self):
        return len(self.frames)
""",
        """
import torch
from torch.utils.data import DataLoader
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
def load(data):
    kept = []
    for batch in DataLoader(data):
        kept.append(batch.to(device))  # MEM304: 21
    return kept
""",
        """
import torch
from torch.utils.data import Dataset
class Frames(Dataset):
    def __init__(self, frames, device):
        self.frames = frames.to(device)  # MEM304?
    def __getitem__(self, index):
        return self.frames[index]
""",
    )
    negative = (
        """
from torch.utils.data import DataLoader
def train(model, data, optimizer):
    for x, y in DataLoader(data):
        x, y = x.cuda(), y.cuda()
        (model(x) - y).pow(2).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
""",
        """
from torch.utils.data import DataLoader
from torchvision.datasets import MNIST
batches = [(x.cuda(), y.cuda()) for x, y in DataLoader(MNIST("data"))]
""",
        """
import torch
from torch.utils.data import DataLoader, Dataset
class Frames(Dataset):
    def __init__(self, path, encoder: torch.nn.Module):
        self.frames = torch.load(path, map_location="cpu")
        self.encoder = encoder.cuda()
    def __getitem__(self, index):
        return self.frames[index]
def load(data):
    return [x.cpu() for x in DataLoader(data)], [x.to(torch.float16) for x in DataLoader(data)]
""",
        """
import torch
class Embeddings(torch.nn.Module):
    def __init__(self, table):
        super().__init__()
        self.table = table.cuda()
""",
        """
def overlay(images, masks):
    return [image.cuda() for image in images] + [mask.cuda() for mask in masks]
""",
    )

    def check(self, program: Program) -> Iterator[Finding]:
        for function in program.functions:
            for found in resident_data(function):
                if has_small_data(program.module):
                    return
                yield self.finding(
                    found.call.node,
                    "all of the data set is moved onto the device, and stays there",
                    holds="the whole data set on the device",
                    confidence=found.confidence,
                    claim=Claim(ClaimShape.GROWS, "device", "one batch", holder=found.holder, held=found.call.node),
                )
