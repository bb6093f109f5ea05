"""MEM803."""

from __future__ import annotations

from collections.abc import Iterator

from memlint.findings import Applicability, Claim, ClaimShape, Confidence, Finding, Fix, Severity, Watch
from memlint.model.aliases import qualified_names, sources
from memlint.model.averaging import average_updates
from memlint.model.calls import proven_call_sites
from memlint.model.devices import depends_on_rank
from memlint.model.forwards import called_module, in_training_step, is_repeated
from memlint.model.loops import iterates_over_data
from memlint.model.program import Program
from memlint.model.values import (
    Attribute,
    Binary,
    Branch,
    Call,
    Comparison,
    Constant,
    Handler,
    Value,
)
from memlint.rule import Rule


class EmptyCacheInHotLoop(Rule):
    """The cache of the allocator is emptied in every step, which frees nothing that is in use and costs time.

    ## What it does
    Finds `torch.cuda.empty_cache()` (and its like for other accelerators) where each step of training or each batch of
    an evaluation runs it.

    ## Why is this bad?
    This is about throughput, not about memory. `empty_cache` gives unused blocks back to the driver; it never frees a
    tensor that something still refers to, so it does not lower what a step needs. The next step has to ask the driver
    for the same blocks again (`cudaMalloc`), and giving them back waits for the GPU (`cudaFree`). Before it raises an
    out-of-memory error the allocator empties its cache by itself.

    ## Example
    ```python
    for x, y in loader:
        loss = criterion(model(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        torch.cuda.empty_cache()
    ```

    ## Use instead
    ```python
    for x, y in loader:
        loss = criterion(model(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    ```

    ## Fix safety
    Safe: the numbers stay the same. `nvidia-smi` will show more memory in use, which is the cache.

    ## When to ignore
    When another process on the same GPU needs the memory between two steps, or when shapes change so much from step to
    step that blocks cannot be reused; `PYTORCH_ALLOC_CONF=expandable_segments:True` helps with the latter.

    ## References
    - [torch.cuda.memory.empty_cache](https://docs.pytorch.org/docs/stable/generated/torch.cuda.memory.empty_cache.html)
    - [About torch.cuda.empty_cache()](https://discuss.pytorch.org/t/about-torch-cuda-empty-cache/34232/2)
    """

    code = "MEM803"
    name = "empty-cache-in-hot-loop"
    severity = Severity.NOTE
    gate = frozenset({"empty_cache"})
    fixers = ("remove_statement",)
    positive = (
        """
import torch
def train(model, loader, optimizer, criterion):
    for x, y in loader:
        loss = criterion(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        torch.cuda.empty_cache()  # MEM803: 9
""",
        """
import torch
import torch.distributed as dist
def is_first():
    return dist.get_rank() == 0
def train(model, loader, optimizer):
    for batch in loader:
        model(batch).backward()
        optimizer.step()
        optimizer.zero_grad()
        if is_first():
            torch.cuda.empty_cache()  # MEM803: 13
            print(batch)
""",
        """
import gc
import torch
from torch.cuda import empty_cache
class Trainer:
    def step(self, batch):
        loss = self.model(batch)
        if torch.cuda.is_available():
            gc.collect()
            empty_cache()  # MEM803: 13
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def fit(self, loader):
        for batch in loader:
            self.step(batch)
""",
        """
import torch
from torch.utils.data import DataLoader
@torch.no_grad()
def evaluate(model: torch.nn.Module, dataset):
    right = 0
    for x, y in DataLoader(dataset, 32):
        right += (model(x).argmax(1) == y).sum().item()
        torch.mps.empty_cache()  # MEM803
    return right
""",
        """
import lightning as L
import torch
class Lit(L.LightningModule):
    def training_step(self, batch, index):
        torch.cuda.empty_cache()  # MEM803
        return self.model(batch).mean()
""",
        """
import torch
class Ema:
    @torch.no_grad()
    def step(self, parameters):
        if isinstance(parameters, torch.nn.Module):
            parameters = parameters.parameters()
        for average, parameter in zip(self.averages, list(parameters)):
            average.sub_(0.01 * (average - parameter))
        torch.cuda.empty_cache()  # MEM803: 9
""",
        """
import torch
def train(model, loader, optimizer, settings):
    for batch in loader:
        model(batch).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        if settings.tidy:
            torch.cuda.empty_cache()  # MEM803?
""",
    )
    negative = (
        """
import torch
import torch.distributed as dist
def train(model, loader, optimizer):
    for step, batch in enumerate(loader):
        model(batch).backward()
        optimizer.step()
        optimizer.zero_grad()
        if dist.get_rank() == 0 and step % 100 == 0:
            torch.cuda.empty_cache()
""",
        """
import torch
from torch import nn

def validate(model: nn.Module, sample):
    with torch.no_grad():
        image = model(sample)
    torch.cuda.empty_cache()
    return image

def train(model: nn.Module, loader, optimizer, every):
    step = 0
    for x, y in loader:
        optimizer.zero_grad()
        nn.functional.mse_loss(model(x), y).backward()
        optimizer.step()
        step += 1
        if every and step % every == 0:
            validate(model, x)
""",
        """
import gc
import torch
def main(model, epochs, loader, validation, optimizer):
    for epoch in range(epochs):
        for x in loader:
            model(x).mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        torch.cuda.empty_cache()
        with torch.no_grad():
            for x in validation:
                model(x)
        gc.collect()
        torch.cuda.empty_cache()
""",
        """
import torch
def train(model, loader, optimizer):
    for step, x in enumerate(loader):
        try:
            model(x).mean().backward()
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            continue
        optimizer.step()
        optimizer.zero_grad()
        if step % 100 == 0:
            torch.cuda.empty_cache()
        if step == 0:
            torch.cuda.empty_cache()
""",
        """
import torch
def train(model, loader, optimizer, every):
    for step, x in enumerate(loader):
        model(x).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        if step % every:
            continue
        torch.cuda.empty_cache()
""",
        """
import torch
def load_all(paths, device):
    models = []
    for path in paths:
        models.append(torch.load(path, map_location="cpu").to(device))
        torch.cuda.empty_cache()
    return models
""",
        """
import torch
def folds(make, splits, train):
    for train_set, test_set in splits:
        model = make()
        train(model, train_set)
        del model
        torch.cuda.empty_cache()
""",
        """
import torch
class Cache:
    def empty_cache(self):
        self.items.clear()
cache = Cache()
def train(model, loader, optimizer):
    for x in loader:
        model(x).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        cache.empty_cache()
""",
    )

    def check(self, program: Program) -> Iterator[Finding]:
        for call in program.calls("empty_cache"):
            if qualified_names(call.callee) & _EMPTY_CACHE:
                step = _step(call)
                if step is not None and not _is_occasional(call):
                    yield self._finding(call, step, Confidence.POSSIBLE if _is_optional(call) else Confidence.LIKELY)

    def _finding(self, call: Call, step: str, confidence: Confidence) -> Finding:
        remove = Fix("remove_statement", "Remove it", Applicability.SAFE, {"statement": call.node})
        return self.finding(
            call.node,
            f"The allocator's cache is emptied in every {step}: it frees no tensor in use and slows each step down",
            holds="nothing: this costs throughput, not memory",
            confidence=confidence,
            fixes=() if call.uses else (remove,),
            claim=Claim(ClaimShape.PRESENT, "device", "0", held=call.node, watch=Watch.CACHE_EMPTIED),
        )


_EMPTY_CACHE = frozenset(
    f"torch.{device}.empty_cache" for device in ("cuda", "cuda.memory", "mps", "xpu", "npu", "accelerator", "mlu")
)


def _step(call: Call) -> str | None:
    """What each run of which runs ``call``; None if that is nothing that is run again and again."""
    if in_training_step(call):
        return None if is_repeated(call) is False else "step of training"
    loop = call.region.loop
    if loop is None:
        function = call.function
        return "update of the average" if any(u.region.loop for u in average_updates(function)) else None
    if iterates_over_data(loop) and any(
        other.region.loop is loop and called_module(other) is not None for other in call.function.calls
    ):
        return "batch"
    return None


_MAX_CALLERS = 2


def _is_occasional(call: Call, depth: int = _MAX_CALLERS) -> bool:
    """Whether it runs after an error, or in some steps only: a counter, a comparison decides, or in each caller."""
    for region in call.region.ancestors():
        if isinstance(region, Handler):
            return True
        if isinstance(region, Branch) and region.test is not None and _counts(region.test):
            return True
        if region is call.region.loop:
            return False
    sites = proven_call_sites(call.function) if depth else ()
    return bool(sites) and all(_is_occasional(site, depth - 1) for site in sites)


def _is_optional(call: Call) -> bool:
    """Whether a setting decides; that there is an accelerator is none, nor which process it is."""
    for region in call.region.ancestors():
        if isinstance(region, Branch) and region.test is not None and not _is_always_the_same(region.test):
            return True
        if region is call.region.loop:
            return False
    return False


def _counts(test: Value) -> bool:
    return not _is_always_the_same(test) and any(
        isinstance(part, Comparison) or (isinstance(part, Binary) and part.operator == "%") for part in _parts(test)
    )


def _parts(value: Value) -> Iterator[Value]:
    seen: set[int] = set()
    pending = [value]
    while pending:
        current = pending.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        if not isinstance(current, (Call, Attribute)):
            pending.extend(current.operands())


_DEVICES = ("cuda", "mps", "gpu", "xpu", "npu")


def _is_always_the_same(test: Value) -> bool:
    """Whether a process answers ``test`` in each step as in the first: it is the first process, or has a device."""
    return _asks_device(test) or (depends_on_rank(test) and not _has_remainder(test))


def _has_remainder(test: Value) -> bool:
    return any(isinstance(part, Binary) and part.operator == "%" for part in _parts(test))


def _asks_device(test: Value) -> bool:
    """Whether ``test`` asks whether there is an accelerator: ``torch.cuda.is_available()``, ``device == "cuda"``."""
    return any(
        (isinstance(source, Call) and source.name in {"is_available", "is_initialized"})
        or (isinstance(source, Constant) and isinstance(source.constant, str) and source.constant.startswith(_DEVICES))
        for part in _parts(test)
        for source in sources(part)
    )
