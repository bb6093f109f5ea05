"""MEM902."""

from __future__ import annotations

from collections.abc import Iterator

from memlint.findings import Claim, ClaimShape, Confidence, Finding, Severity
from memlint.model.aliases import sources
from memlint.model.datasets import (
    Workers,
    dataset_classes,
    has_workers,
    is_loader,
    reading_functions,
    workers_that_read,
)
from memlint.model.devices import certainly_moves_to_accelerator
from memlint.model.program import Program
from memlint.model.scopes import Function
from memlint.model.values import Branch, Call, FunctionValue
from memlint.rule import Rule


class CudaInWorker(Rule):
    """Tensors are moved to the GPU in the worker processes of a loader.

    ## What it does
    Finds `.cuda()` and `.to("cuda")` in what runs in the workers of a `DataLoader`: `__getitem__` and `__iter__` of a
    data set (with the methods that they call) and the function passed as `collate_fn`. Loaders without workers are
    left out.

    ## Why is this bad?
    Workers are forked, and CUDA cannot be used in a forked process: the first such call raises. Where workers are
    spawned, it works, and each of them creates a CUDA context (some hundred MiB of device memory) and keeps the
    batches that it has prepared on the device until they are used.

    ## Example
    ```python
    def __getitem__(self, index):
        return self.images[index].cuda()
    ```

    ## Use instead
    ```python
    loader = DataLoader(data, num_workers=4, pin_memory=True)
    for images in loader:
        images = images.cuda(non_blocking=True)
    ```

    ## Fix safety
    There is no automatic fix: where the batches should be moved depends on the loops that use them.

    ## When to ignore
    When the loader never gets workers, which memlint sees only where its number is in the program.

    ## References
    - [torch.utils.data: multi-process data loading](https://docs.pytorch.org/docs/stable/data.html#multi-process-data-loading)
    - [pytorch#13775](https://github.com/pytorch/pytorch/issues/13775),
      [pytorch#77159](https://github.com/pytorch/pytorch/issues/77159)
    """

    code = "MEM902"
    name = "cuda-in-worker"
    severity = Severity.WARNING
    gate = frozenset({"cuda"})
    positive = (
        """
import torch
from torch.utils.data import DataLoader, Dataset
class Images(Dataset):
    def __init__(self, images):
        self.images = images
    def __getitem__(self, index):
        return self.images[index].cuda()  # MEM902: 16
    def __len__(self):
        return len(self.images)
loader = DataLoader(Images(torch.zeros(8, 3)), batch_size=2, num_workers=2)
""",
        """
import torch
from torch.utils.data import DataLoader
def collate(samples):
    return torch.stack(samples).to("cuda")  # MEM902: 12
def make(data, workers=4):
    return DataLoader(data, collate_fn=collate, num_workers=workers)
""",
        """
import torch
from torch.utils.data import DataLoader, Dataset
class Features(Dataset):
    def __len__(self):
        return 10
    def _load(self, index):
        device = torch.device("cuda:0")
        return torch.load(f"{index}.pt").to(device)  # MEM902
    def __getitem__(self, index):
        return self._load(index)
def main(args):
    return DataLoader(Features(), num_workers=args.workers)
""",
        """
from torch.utils.data import Dataset
class Alone(Dataset):
    def __len__(self):
        return 10
    def __getitem__(self, index):
        return read(index).cuda()  # MEM902?
""",
    )
    negative = (
        """
import torch
from torch.utils.data import DataLoader, Dataset
class Images(Dataset):
    def __init__(self, images):
        self.images = images.cuda()
    def __getitem__(self, index):
        return self.images[index].cuda()
    def __len__(self):
        return len(self.images)
loader = DataLoader(Images(torch.zeros(8, 3)), batch_size=2)
""",
        """
import torch
from torch.utils.data import DataLoader, Dataset
class Images(Dataset):
    def __init__(self, device):
        self.device = device
    def __getitem__(self, index):
        return torch.zeros(3).to(self.device).to(torch.float16)
    def __len__(self):
        return 3
loader = DataLoader(Images("cpu"), num_workers=4)
for x in loader:
    x = x.cuda()
""",
        """
import torch
from torch.utils.data import DataLoader
def collate(samples):
    return torch.stack(samples).cuda()
loader = DataLoader([torch.zeros(2)] * 8, collate_fn=collate, num_workers=0)
""",
    )

    def check(self, program: Program) -> Iterator[Finding]:
        seen: set[Call] = set()
        for function, confidence in _run_in_workers(program):
            for call in function.calls:
                if call not in seen and certainly_moves_to_accelerator(call) and not _is_asked_for(call):
                    seen.add(call)
                    yield self._finding(call, confidence)

    def _finding(self, call: Call, confidence: Confidence) -> Finding:
        return self.finding(
            call.node,
            "Runs in the workers of a loader: CUDA raises in a forked process, and takes a context in a spawned one",
            holds="a CUDA context and the prepared batches on the device, for each worker",
            confidence=confidence,
            claim=Claim(
                ClaimShape.PLATEAU,
                "device",
                "workers * context",
                held=call.node,
                unobservable="it costs a CUDA context in each worker, and raises where there is no GPU",
            ),
        )


def _run_in_workers(program: Program) -> Iterator[tuple[Function, Confidence]]:
    """The functions of a file that run in workers, and how sure that is."""
    for call in program.calls():
        if is_loader(call) and has_workers(call) is Workers.SOME:
            collate = call.argument("collate_fn", 7)
            for source in sources(collate) if collate is not None else ():
                if isinstance(source, FunctionValue) and source.target.module is program.module:
                    yield from ((function, Confidence.LIKELY) for function in source.target.walk())
    for owner in dataset_classes(program):
        workers = workers_that_read(owner)
        if workers is not Workers.NONE:
            confidence = Confidence.LIKELY if workers is Workers.SOME else Confidence.POSSIBLE
            own = (function for function in reading_functions(owner) if function.module is program.module)
            yield from ((function, confidence) for function in own)


def _is_asked_for(call: Call) -> bool:
    """Whether an option decides about the device."""
    return any(isinstance(region, Branch) for region in call.region.ancestors())
