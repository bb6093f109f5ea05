"""MEM805."""

from __future__ import annotations

from collections.abc import Iterator

from memlint.findings import Applicability, Claim, ClaimShape, Confidence, Finding, Fix, Severity, Watch
from memlint.model.configurations import Framework, configurations
from memlint.model.program import Program
from memlint.model.scopes import Module
from memlint.model.settings import option
from memlint.model.statements import name_of
from memlint.model.values import Attribute, Call, Store
from memlint.rule import Rule


class DdpWithoutBucketView(Rule):
    """DistributedDataParallel keeps every gradient twice: as `.grad` and in the buckets that are reduced.

    ## What it does
    Finds `DistributedDataParallel(...)`, Lightning's `DDPStrategy(...)` and Accelerate's
    `DistributedDataParallelKwargs(...)` that do not set `gradient_as_bucket_view`.

    ## Why is this bad?
    By default the gradients of the parameters and the buckets in which they are all-reduced are separate tensors, so
    that the size of the gradients `G` is allocated twice, from the first backward on. With
    `gradient_as_bucket_view=True` a gradient is a view of its bucket: on one process, the gradients of a model of 1 MiB
    lay in a storage of their own before, and in the bucket after (measured). Where the gradients are cleared after the
    step, only the buckets stay, so that the peak is lower by `G` only if it is in the backward or the step.

    ## Example
    ```python
    model = DistributedDataParallel(model, device_ids=[rank])
    ```

    ## Use instead
    ```python
    model = DistributedDataParallel(model, device_ids=[rank], gradient_as_bucket_view=True)
    ```

    ## Fix safety
    Unsafe: `p.grad.detach_()` raises for a view, and old optimizers call it in `zero_grad(set_to_none=False)`. Where a
    program calls it, the rule is silent.

    ## When to ignore
    When the peak is in the forward pass, when the model is small, or when something keeps gradients beyond the step.

    ## References
    - [DistributedDataParallel](https://docs.pytorch.org/docs/stable/generated/torch.nn.parallel.DistributedDataParallel.html)
    - [pytorch#44344](https://github.com/pytorch/pytorch/pull/44344)
    """

    code = "MEM805"
    name = "ddp-without-bucket-view"
    severity = Severity.NOTE
    default = False
    gate = frozenset({"DistributedDataParallel", "DDPStrategy", "DistributedDataParallelKwargs", "create_ddp_model"})
    fixers = ("add_argument",)
    positive = (
        """
import torch
def main(model, rank):
    return torch.nn.parallel.DistributedDataParallel(model, device_ids=[rank])  # MEM805: 12
""",
        """
from torch.nn.parallel import DistributedDataParallel as DDP
class Trainer:
    def __init__(self, model, rank):
        self.model = DDP(  # MEM805: 22
            model,
            device_ids=[rank],
        )
""",
        """
from torch import nn
def wrap(args, model):
    parallel = nn.parallel.DistributedDataParallel
    options = dict(module=model, device_ids=[args.device])
    return parallel(**options)  # MEM805
""",
        """
import lightning as L
from lightning.pytorch.strategies import DDPStrategy
trainer = L.Trainer(strategy=DDPStrategy(find_unused_parameters=False))  # MEM805: 30
""",
        """
from accelerate import Accelerator, DistributedDataParallelKwargs
ddp = DistributedDataParallelKwargs(find_unused_parameters=True)  # MEM805: 7
accelerator = Accelerator(kwargs_handlers=[ddp])
""",
        """
from detectron2.engine.defaults import create_ddp_model
def wrap(model, rank):
    return create_ddp_model(model, broadcast_buffers=False, device_ids=[rank])  # MEM805: 12
""",
        """
from torch.nn.parallel import DistributedDataParallel
def wrap(model, **options):
    return DistributedDataParallel(model, **options)  # MEM805?
""",
    )
    negative = (
        """
from torch.nn.parallel import DistributedDataParallel as DDP
def wrap(model, rank, small):
    if small:
        return DDP(model, device_ids=[rank], gradient_as_bucket_view=False)
    return DDP(model, device_ids=[rank], gradient_as_bucket_view=True)
""",
        """
from torch.nn.parallel import DistributedDataParallel as DDP
options = {"device_ids": [0]}
options["gradient_as_bucket_view"] = True
def wrap(model):
    return DDP(model, **options)
""",
        """
from torch.nn.parallel import DistributedDataParallel as DDP
def clear(model):
    for parameter in model.parameters():
        if parameter.grad is not None:
            parameter.grad.detach_()
            parameter.grad.zero_()
def wrap(model):
    return DDP(model)
""",
        """
from apex.parallel import DistributedDataParallel as DDP
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP
def wrap(model, other):
    return DDP(model), FSDP(other)
""",
        """
from torch.nn.parallel import DistributedDataParallel
def unwrap(model):
    return model.module if isinstance(model, DistributedDataParallel) else model
""",
    )

    def check(self, program: Program) -> Iterator[Finding]:
        for made in configurations(program, Framework.DDP):
            call = made.made
            if isinstance(call, Call) and not _replaces_gradients(program.module):
                confidence = _confidence(call)
                if confidence is not None:
                    yield self._finding(call, confidence)

    def _finding(self, call: Call, confidence: Confidence) -> Finding:
        return self.finding(
            call.node,
            "DistributedDataParallel holds each gradient in `.grad` and again in the bucket that is reduced",
            holds="the gradients a second time, in the buckets of the reducer",
            confidence=confidence,
            fixes=(
                Fix(
                    "add_argument",
                    "Make the gradients views of the buckets with `gradient_as_bucket_view=True`",
                    Applicability.UNSAFE,
                    {"call": call.node},
                    {"code": "gradient_as_bucket_view=True"},
                ),
            ),
            claim=Claim(ClaimShape.PLATEAU, "device", "G", name_of(call), call.node, Watch.GRADIENT_BUCKETS),
        )


def _confidence(call: Call) -> Confidence | None:
    """How sure it is that the option is not set; None where it is."""
    found = option(call, "gradient_as_bucket_view")
    if found.known:
        return None
    return Confidence.POSSIBLE if found.others else Confidence.CERTAIN


def _replaces_gradients(module: Module) -> bool:
    """Whether a file detaches gradients in place, or puts other tensors there: not possible with views of buckets."""
    detached = (call.receiver for call in module.calls_by_name.get("detach_", ()))
    if any(isinstance(receiver, Attribute) and receiver.name == "grad" for receiver in detached):
        return True
    return any(_replaces(store) for function in module.functions for store in function.stores)


def _replaces(store: Store) -> bool:
    return store.attribute == "grad" and not store.augmented and isinstance(store.value, Call)
