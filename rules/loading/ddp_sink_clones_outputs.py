"""MEM806."""

from __future__ import annotations

from collections.abc import Iterator

from memlint.findings import Claim, ClaimShape, Confidence, Finding, Severity, Watch
from memlint.model.aliases import find_method, sources
from memlint.model.configurations import Framework, configurations
from memlint.model.default_settings import on_by_default
from memlint.model.definitions import definitions
from memlint.model.footprint import Footprint, footprint
from memlint.model.kinds import Role, class_of, kinds, role
from memlint.model.program import Program
from memlint.model.scopes import Class
from memlint.model.settings import option
from memlint.model.source_text import text
from memlint.model.statements import name_of
from memlint.model.values import Call, Display, Value
from memlint.rule import Rule


class DdpSinkClonesOutputs(Rule):
    """DistributedDataParallel copies every output of the model, because it is told that parameters may be unused.

    ## What it does
    Finds `DistributedDataParallel(...)` with `find_unused_parameters=True` or `static_graph=True` around a model whose
    `forward` returns more than a loss: a class of the project that returns tensors, or a model of transformers. It also
    finds where `find_unused_parameters` is on by default: parameters and attributes of that name that are `True` unless
    somebody asks for something else, and that the file hands on under that name.

    ## Why is this bad?
    With either option DDP passes the outputs through a function of its own that clones each of them: the forward pass
    of a module with an output of 16 MiB peaked at 32 MiB in place of 16 (measured). For a language model the outputs
    are the logits, several GiB. `find_unused_parameters=True` also walks the graph in each step.

    ## Example
    ```python
    model = DistributedDataParallel(model, find_unused_parameters=True)
    loss = criterion(model(x), y)
    ```

    ## Use instead
    ```python
    class WithLoss(nn.Module):
        def forward(self, x, y):
            return self.criterion(self.model(x), y)  # only a scalar leaves the wrapped module

    model = DistributedDataParallel(WithLoss(model, criterion), find_unused_parameters=True)
    ```

    ## Fix safety
    There is no automatic fix: without the option, training fails if a parameter is really left out of a step.

    ## When to ignore
    When the outputs are small, or the model needs the option (experts, conditional branches) and the loss cannot be
    computed inside.

    ## References
    - [DistributedDataParallel](https://docs.pytorch.org/docs/stable/generated/torch.nn.parallel.DistributedDataParallel.html)
    - [pytorch#74115](https://github.com/pytorch/pytorch/issues/74115)
    """

    code = "MEM806"
    name = "ddp-sink-clones-outputs"
    severity = Severity.NOTE
    default = False
    gate = frozenset({"find_unused_parameters", "static_graph"})
    positive = (
        """
from torch import nn
from torch.nn.parallel import DistributedDataParallel as DDP
class Segmenter(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Conv2d(3, 8, 1)
    def forward(self, x):
        return self.body(x)
def main(rank):
    return DDP(Segmenter().to(rank), find_unused_parameters=True)  # MEM806: 38
""",
        """
from torch.nn.parallel import DistributedDataParallel
from transformers import AutoModelForCausalLM
def main(name, rank):
    model = AutoModelForCausalLM.from_pretrained(name)
    return DistributedDataParallel(model, device_ids=[rank], static_graph=True)  # MEM806
""",
        """
from torch.nn.parallel import DistributedDataParallel
def wrap(model):
    return DistributedDataParallel(model, find_unused_parameters=True)  # MEM806?
""",
        """
class Task:
    def __init__(self):
        self.find_unused_parameters = True  # MEM806: 9
    def set_options(self, find_unused_parameters: bool = True, bucket_cap_mb: int = 25):  # MEM806: 27
        self.find_unused_parameters = find_unused_parameters
    def wrap(self, init_ddp):
        return init_ddp(self.model, find_unused_parameters=self.find_unused_parameters)
""",
    )
    negative = (
        """
class Task:
    find_unused_parameters = True
    def __init__(self, find_unused_parameters=False):
        self.find_unused_parameters = find_unused_parameters
    def wrap(self, init_ddp):
        return init_ddp(self.model, find_unused_parameters=self.find_unused_parameters)
def check(find_unused_parameters=True):
    assert find_unused_parameters
""",
        """
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel as DDP
class WithLoss(nn.Module):
    def __init__(self, body):
        super().__init__()
        self.body = nn.Linear(8, 2)
    def forward(self, x, y):
        return F.cross_entropy(self.body(x), y)
def main(body):
    return DDP(WithLoss(body), find_unused_parameters=True)
""",
        """
from torch import nn
from torch.nn.parallel import DistributedDataParallel as DDP
def main(args):
    model = nn.Linear(8, 2)
    return DDP(model, find_unused_parameters=False), DDP(model), DDP(model, find_unused_parameters=args.unused)
""",
    )

    def check(self, program: Program) -> Iterator[Finding]:
        for made in configurations(program, Framework.DDP):
            call = made.made
            if isinstance(call, Call) and call.name not in _WITHOUT_MODULE:
                for name in ("find_unused_parameters", "static_graph"):
                    confidence = _confidence(call, name)
                    if confidence is not None:
                        yield self._finding(call, name, confidence)
                        break
        for node in on_by_default(program.module, "find_unused_parameters"):
            yield self.finding(
                node,
                "`find_unused_parameters` is on unless somebody turns it off: for every model, DDP walks the graph in "
                "each step, and clones what the model returns",
                holds="a second copy of the outputs, from the forward pass to the backward",
                confidence=Confidence.LIKELY,
                claim=Claim(
                    ClaimShape.SPIKE,
                    "device",
                    "outputs",
                    held=node,
                    watch=Watch.OUTPUT_COPIES,
                    unobservable="the default is set here, and the model is wrapped elsewhere",
                ),
            )

    def _finding(self, call: Call, name: str, confidence: Confidence) -> Finding:
        argument = next((each for each in call.arguments if each.keyword == name), None)
        node = argument.node if argument is not None else call.node
        return self.finding(
            node,
            f"With `{text(node) if argument is not None else name}` DDP clones what the model returns",
            holds="a second copy of the outputs, from the forward pass to the backward",
            confidence=confidence,
            claim=Claim(ClaimShape.SPIKE, "device", "outputs", name_of(call), call.node, Watch.OUTPUT_COPIES),
        )


_WITHOUT_MODULE = frozenset({"DDPStrategy", "DistributedDataParallelKwargs"})


def _confidence(call: Call, name: str) -> Confidence | None:
    """How sure it is that outputs of some size are cloned; None if they are not."""
    asked = option(call, name)
    if asked.is_on() is not True:
        return None
    module = call.argument("module", 0)
    returned = _returns_tensors(module) if module is not None else None
    if returned is False:
        return None
    return Confidence.LIKELY if returned else Confidence.POSSIBLE


def _returns_tensors(module: Value) -> bool | None:
    """Whether a model returns more than a loss; None if that is not in sight."""
    owners = {owner for source in definitions(_unmoved(module)) if (owner := class_of(source)) is not None}
    if owners:
        found = {_forward_returns(owner) for owner in owners}
        return found.pop() if len(found) == 1 else None
    names = {kind.name for source in definitions(_unmoved(module)) for kind in kinds(source)}
    return True if any(name.startswith("transformers.") for name in names) else None


def _unmoved(module: Value) -> Value:
    """The module that ``.to(device)`` and its like are called on."""
    for source in sources(module):
        if (
            isinstance(source, Call)
            and source.method in {"to", "cuda", "train", "float"}
            and source.receiver is not None
        ):
            return _unmoved(source.receiver)
    return module


def _forward_returns(owner: Class) -> bool | None:
    forward = find_method(owner, "forward")
    if forward is None:
        return None
    returned = [_is_large(exit.value) for exit in forward.lower().returns]
    if any(returned):
        return True
    return False if returned and all(each is False for each in returned) else None


def _is_large(value: Value) -> bool | None:
    """Whether a returned value is a tensor of more than one element, as far as can be seen."""
    parts = [element for source in sources(value) if isinstance(source, Display) for element in source.elements]
    if parts:
        found = [_is_large(part) for part in parts]
        return True if any(found) else (False if all(each is False for each in found) else None)
    size = footprint(value)
    if size is Footprint.SCALAR:
        return False
    if size is Footprint.FULL:
        return True
    called = [source for source in sources(value) if isinstance(source, Call)]
    if any(role(source.callee, Role.LOSS_FUNCTION) and not role(source.callee, Role.MODULE) for source in called):
        return None
    return True if any(role(source.callee, Role.MODULE) for source in called) else None
