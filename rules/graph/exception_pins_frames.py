"""MEM112."""

from __future__ import annotations

from collections.abc import Iterator

from memlint.findings import Applicability, Claim, ClaimShape, Finding, Fix, Severity
from memlint.model.handlers import KeptException, Retry, caught_in, kept_exceptions, retries
from memlint.model.program import Program
from memlint.model.source_text import code
from memlint.rule import Rule


class ExceptionPinsFrames(Rule):
    """A caught exception keeps the tensors of the failed run alive while it is run again, or for as long as it is kept.

    ## What it does
    Finds handlers of `torch.OutOfMemoryError`, or of a `RuntimeError` that is tested for "out of memory", which call
    again what has just failed: the same function, the same module, or the function that they stand in. Finds
    exceptions of such handlers, and of a `try` that runs a module, which are put into a container, an attribute, or a
    variable that outlives an iteration.

    ## Why is this bad?
    An exception holds its traceback, the traceback the frames of the calls that failed, and those all their local
    tensors, up to every activation of the forward pass. While the handler runs nothing of it is freed, with or without
    a name for the exception, and `torch.cuda.empty_cache()` cannot give it back: the second run has less memory than
    the first one had. A list of exceptions keeps the tensors of each failure (4 MiB for each call in a measurement with
    4 MiB of tensors), the last one those of the last failure.

    ## Example
    ```python
    try:
        step(batch)
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        step(batch[: len(batch) // 2])
    ```

    ## Use instead
    ```python
    out_of_memory = False
    try:
        step(batch)
    except torch.OutOfMemoryError:
        out_of_memory = True
    if out_of_memory:
        torch.cuda.empty_cache()
        step(batch[: len(batch) // 2])
    ```

    ## Fix safety
    Unsafe: the second run is moved behind the `try` statement, where its own exceptions no longer name the first one as
    their context. Of an exception that is collected its text is kept instead; later code that needs the exception
    itself breaks.

    ## When to ignore
    When what failed holds little, or what is run again needs little memory.

    ## References
    - [My out of memory exception handler can't allocate memory](https://docs.pytorch.org/docs/stable/notes/faq.html)
    - [pytorch#18853](https://github.com/pytorch/pytorch/issues/18853),
      [pytorch#27600](https://github.com/pytorch/pytorch/issues/27600)
    """

    code = "MEM112"
    name = "exception-pins-frames"
    severity = Severity.WARNING
    gate = frozenset({"OutOfMemoryError", "RuntimeError", "Exception", "BaseException"})
    fixers = ("hoist_from_handler", "replace_expression")
    positive = (
        """
import torch
def train(step, batches):
    errors = []
    for batch in batches:
        try:
            step(batch)
        except torch.cuda.OutOfMemoryError as e:
            torch.cuda.empty_cache()
            step(batch[: len(batch) // 2])  # MEM112: 13
            errors.append(e)  # MEM112: 27
""",
        """
import torch
from torch import nn
class Trainer:
    def __init__(self, model: nn.Module):
        self.model = model
        self.error = None
    def step(self, x):
        loss = self.model(x).mean()
        loss.backward()
        return loss.item()
    def run(self, x):
        try:
            return self.step(x)
        except RuntimeError as e:
            if "out of memory" in str(e):
                torch.cuda.empty_cache()
                return self.step(x[:1]) + self.step(x[1:])  # MEM112 MEM112
            raise
    def last(self, x):
        try:
            self.step(x)
        except torch.OutOfMemoryError as e:
            self.error = e  # MEM112
""",
        """
from torch import OutOfMemoryError, nn
def predict(model: nn.Module, x):
    try:
        return model(x)
    except (OutOfMemoryError, MemoryError):
        half = len(x) // 2
        return predict(model, x[:half]) + predict(model, x[half:])  # MEM112 MEM112
""",
        """
from torch import nn
def evaluate(model: nn.Module, loader):
    failures = {}
    for i, x in enumerate(loader):
        try:
            model(x)
        except Exception as e:
            failures[i] = (x.shape, e)  # MEM112: 37
            failures.setdefault("all", []).append(e)  # MEM112
""",
        """
import torch
def search(forward, x, size):
    last = None
    while size:
        try:
            return forward(x, size)
        except torch.OutOfMemoryError as error:
            last = error  # MEM112
            size //= 2
    raise last
""",
        """
def sample(pipe, prompt, steps):
    try:
        return pipe(prompt, steps)
    except RuntimeError as e:
        if not "out of memory" in str(e).lower():
            raise
        pipe.enable_attention_slicing()
        return pipe(prompt, steps)  # MEM112
""",
    )
    negative = (
        """
import torch
def train(step, batches, half):
    for batch in batches:
        oom = False
        try:
            step(batch)
        except torch.OutOfMemoryError:
            oom = True
        if oom:
            step(half(batch))
""",
        """
import logging
log = logging.getLogger()
def train(step, batches, optimizer):
    errors = []
    for batch in batches:
        try:
            optimizer.zero_grad()
            log.info("step")
            step(batch)
        except RuntimeError as e:
            log.info("out of memory")
            log.warning(str(e))
            errors.append(str(e))
            optimizer.zero_grad()
            if "out of memory" not in str(e):
                raise
""",
        """
from accelerate.utils import find_executable_batch_size
@find_executable_batch_size(starting_batch_size=128)
def inner(batch_size, train):
    try:
        train(batch_size)
    except ValueError as e:
        train(1)
""",
        """
import torch
import traceback
def train(step, batches):
    for batch in batches:
        try:
            step(batch)
        except torch.OutOfMemoryError as e:
            traceback.clear_frames(e.__traceback__)
            step(batch[:1])
        try:
            step(batch)
        except torch.OutOfMemoryError as e:
            e.__traceback__ = None
            step(batch[:1])
""",
        """
def load(read, path):
    try:
        return read(path)
    except RuntimeError as e:
        problems = [e]
        return read(path + ".bak")
""",
        """
import torch
def search(forward, x, size):
    while True:
        try:
            return forward(x, size)
        except torch.OutOfMemoryError:
            size //= 2
            continue
def once(forward, x):
    try:
        return forward(x)
    except torch.OutOfMemoryError as e:
        raise RuntimeError("use a smaller batch") from e
""",
        """
import torch
def nearest(a, b):
    try:
        return torch.cdist(a, b)
    except torch.OutOfMemoryError:
        a, b = a.cpu(), b.cpu()
        return torch.cdist(a, b)
""",
    )

    def check(self, program: Program) -> Iterator[Finding]:
        for function in program.functions:
            for caught in caught_in(function):
                for retry in retries(caught):
                    yield self._again(retry)
                for kept in kept_exceptions(caught):
                    yield self._kept(kept)

    def _again(self, retry: Retry) -> Finding:
        call = retry.call
        return self.finding(
            call.node,
            f"`{code(call.node.func)}` runs again while the exception keeps the frames of the failed run",
            holds="the local tensors of the failed run on the device, up to all activations, until the handler ends",
            confidence=retry.confidence,
            fixes=(
                Fix(
                    "hoist_from_handler",
                    "Run it behind the `try`, when the exception is gone",
                    Applicability.UNSAFE,
                    {"statement": call.node},
                    {"name": "out_of_memory"},
                ),
            ),
            claim=Claim(ClaimShape.SPIKE, "device", "A", held=call.node, unobservable=_UNOBSERVABLE),
        )

    def _kept(self, kept: KeptException) -> Finding:
        each = "every failed run" if kept.grows else "the failed run"
        text = code(kept.node)
        keep_text = Fix(
            "replace_expression",
            "Keep the text of the exception",
            Applicability.UNSAFE,
            {"expression": kept.node},
            {"code": f"str({text})"},
        )
        return self.finding(
            kept.node,
            f"`{code(kept.holder)}` keeps the exception, and with it the frames of {each}",
            holds=f"the local tensors of {each} on the device, up to all of its activations",
            severity=Severity.ERROR if kept.grows else None,
            confidence=kept.confidence,
            fixes=(keep_text,) if kept.grows else (),
            claim=Claim(
                ClaimShape.GROWS if kept.grows else ClaimShape.PLATEAU,
                "device",
                "A",
                holder=kept.holder,
                held=kept.node,
                unobservable=_UNOBSERVABLE,
            ),
        )


_UNOBSERVABLE = "it takes a run that fails, and a profiled run that works shows nothing of it"
"""Why no run shows the claim."""
