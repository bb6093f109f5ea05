"""MEM808."""

from __future__ import annotations

from collections.abc import Iterator

from memlint.findings import Claim, ClaimShape, Confidence, Finding, Severity
from memlint.model.aliases import base_names, mro, qualified_names
from memlint.model.calls import proven_call_sites
from memlint.model.effects import Effect, region_effects
from memlint.model.gradmode import is_lightning_class
from memlint.model.kinds import Role, role
from memlint.model.program import Program
from memlint.model.scopes import Function, Module
from memlint.model.values import Call
from memlint.rule import Rule


class DataParallel(Rule):
    """`nn.DataParallel` gathers outputs, gradients and optimizer states on one GPU, which runs out of memory first.

    ## What it does
    Finds `torch.nn.DataParallel(...)` and `torch.nn.parallel.data_parallel(...)` in code that trains.

    ## Why is this bad?
    In each forward pass the model is copied to every GPU, and the outputs are gathered on the first. That one also
    holds the gradients, the optimizer states and usually the loss, so that the batch size is bounded by its memory
    while the others are half empty. One process per GPU with `DistributedDataParallel` spreads all of this evenly (and
    is faster, since the threads of one process share an interpreter).

    ## Example
    ```python
    model = nn.DataParallel(model).cuda()
    ```

    ## Use instead
    ```python
    dist.init_process_group("nccl")  # started by torchrun
    torch.cuda.set_device(local_rank)
    model = DistributedDataParallel(model.cuda(), device_ids=[local_rank])
    ```

    ## Fix safety
    There is no automatic fix: another way to start the program and a sampler that splits the data belong to it. Where
    it has to stay, let `forward` return the loss instead of the outputs: then only scalars are gathered.

    ## When to ignore
    When the program runs on one GPU in practice, where the wrapper does nothing, or is used for inference only.

    ## References
    - [DataParallel](https://docs.pytorch.org/docs/stable/generated/torch.nn.DataParallel.html) (its first note)
    - [Imbalanced GPU memory usage](https://discuss.pytorch.org/t/imbalanced-gpu-memory-usage-training-lstm/15049/2)
    """

    code = "MEM808"
    name = "data-parallel"
    severity = Severity.WARNING
    gate = frozenset({"DataParallel", "data_parallel"})
    positive = (
        """
import torch
from torch import nn
def train(model, loader, optimizer, criterion):
    if torch.cuda.device_count() > 1:
        model = nn.DataParallel(model)  # MEM808: 17
    for x, y in loader:
        optimizer.zero_grad()
        criterion(model(x), y).backward()
        optimizer.step()
""",
        """
import torch
class Trainer:
    def __init__(self, net, lr):
        self.net = torch.nn.DataParallel(net, device_ids=[0, 1]).cuda()  # MEM808
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=lr)
    def step(self, x, y):
        self.optimizer.zero_grad()
        torch.nn.functional.mse_loss(self.net(x), y).backward()
        self.optimizer.step()
""",
        """
from torch.nn import DataParallel as Parallel
from torch.optim import SGD
def make(model):
    model = Parallel(model)  # MEM808: 13
    return model, SGD(model.parameters(), lr=0.1)
""",
        """
from torch.nn.parallel import data_parallel
def train(model, loader, optimizer, devices):
    for x in loader:
        optimizer.zero_grad()
        data_parallel(model, x, devices).mean().backward()  # MEM808: 9
        optimizer.step()
""",
        """
from torch import nn
def build(net):
    return nn.DataParallel(net)  # MEM808?
""",
    )
    negative = (
        """
from torch.nn.parallel import DistributedDataParallel
import torch
def train(model, rank, loader, optimizer):
    model = DistributedDataParallel(model, device_ids=[rank])
    for x in loader:
        model(x).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
""",
        """
from torch_geometric.nn import DataParallel
def train(model, loader, optimizer):
    model = DataParallel(model)
    for graphs in loader:
        model(graphs).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
""",
        """
import torch
from torch import nn
def unwrap(model):
    return model.module if isinstance(model, nn.DataParallel) else model
def embed(net, loader, optimizer):
    net = nn.DataParallel(net.eval())
    return [net(x) for x in loader]
def train(net, loader, optimizer):
    for x in loader:
        optimizer.zero_grad()
        net(x).sum().backward()
        optimizer.step()
@torch.no_grad()
def evaluate(model, loader):
    model = nn.DataParallel(model).eval()
    return [model(x).argmax(1).cpu() for x in loader]
""",
    )

    def check(self, program: Program) -> Iterator[Finding]:
        for call in program.calls():
            if call.arguments and qualified_names(call.callee) & _NAMES and not program.module.is_test:
                yield self.finding(
                    call.node,
                    "`DataParallel` gathers the outputs, gradients and optimizer states of all GPUs on the first one",
                    holds="the outputs of all GPUs, the gradients and the optimizer states on one GPU",
                    confidence=_confidence(call),
                    claim=Claim(
                        ClaimShape.SPIKE,
                        "device",
                        "outputs + G + S on the first GPU",
                        held=call.node,
                        unobservable="with fewer than two GPUs nothing is replicated and gathered",
                    ),
                )


_NAMES = frozenset(
    {
        "torch.nn.DataParallel",
        "torch.nn.parallel.DataParallel",
        "torch.nn.parallel.data_parallel.DataParallel",
        "torch.nn.parallel.data_parallel",
        "torch.nn.parallel.data_parallel.data_parallel",
    }
)


def _confidence(call: Call) -> Confidence:
    """Likely in code that trains; the model may be wrapped for inference elsewhere.

    A base class that calls the method of its subclass leaves to its users which of them they take.
    """
    function = call.function
    above = tuple(mro(function.owner)) if function.owner is not None else ()
    sites = (site for site in proven_call_sites(function) if site.function.owner not in above[1:])
    callers = (site.function.module for site in sites)
    trains = any(_trains(module) for module in dict.fromkeys((function.module, *callers)))
    evaluates = any(other.method == "eval" for other in function.calls) and not _steps(function)
    return Confidence.LIKELY if trains and not evaluates else Confidence.POSSIBLE


def _steps(function: Function) -> bool:
    return bool(region_effects(function.body) & (Effect.BACKWARD | Effect.STEP))


def _trains(module: Module) -> bool:
    if any(map(_steps, module.functions)):
        return True
    makes = (call for function in module.functions for call in function.calls if call.name[:1].isupper())
    if any(role(call, Role.OPTIMIZER) for call in makes):
        return True
    return any(is_lightning_class(base_names(owner)) for function in module.functions for owner in function.classes)
