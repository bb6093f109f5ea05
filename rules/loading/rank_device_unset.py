"""MEM807."""

from __future__ import annotations

from collections.abc import Iterator

from memlint.findings import Applicability, Claim, ClaimShape, Confidence, Finding, Fix, Severity
from memlint.model.aliases import qualified_names, sources
from memlint.model.devices import certainly_moves_to_accelerator, depends_on_rank
from memlint.model.program import Program
from memlint.model.settings import values
from memlint.model.values import Call, Constant, Formatted
from memlint.rule import Rule


class RankDeviceUnset(Rule):
    """The processes of distributed training touch GPU 0 before, or without, being told which GPU is theirs.

    ## What it does
    Finds `.cuda()` and `.to("cuda")` above `torch.cuda.set_device(rank)` in the same function; and
    `init_process_group("nccl")` in a program that moves tensors to `"cuda"` and never says which device a process uses
    (no `set_device`, no `device_ids`, no index in a device, nothing about `CUDA_VISIBLE_DEVICES`).

    ## Why is this bad?
    The current device is GPU 0 until `set_device` is called. Each process creates a CUDA context there (300 to 700 MiB,
    725 MiB in pytorch#23138) and leaves what it allocated, beside the training of the process whose GPU it is: GPU 0
    runs out of memory first. NCCL refuses to work if two processes go on with the same device.

    ## Example
    ```python
    dist.init_process_group("nccl")
    model = model.cuda()
    torch.cuda.set_device(local_rank)
    ```

    ## Use instead
    ```python
    torch.cuda.set_device(local_rank)
    dist.init_process_group("nccl")
    model = model.cuda()
    ```

    ## Fix safety
    Unsafe: the inserted call takes the rank from the environment, as `torchrun` sets it. What stands above `set_device`
    has no fix, since the rank must be known before.

    ## When to ignore
    When the launcher shows each process a single GPU.

    ## References
    - [torch.cuda.set_device](https://docs.pytorch.org/docs/stable/generated/torch.cuda.set_device.html)
    - [apex#222](https://github.com/NVIDIA/apex/issues/222),
      [pytorch#23138](https://github.com/pytorch/pytorch/issues/23138)
    """

    code = "MEM807"
    name = "rank-device-unset"
    severity = Severity.WARNING
    gate = frozenset({"init_process_group", "set_device"})
    fixers = ("insert_statement",)
    positive = (
        """
import os
import torch
import torch.distributed as dist
def main(model):
    dist.init_process_group("nccl")
    rank = int(os.environ["LOCAL_RANK"])
    model = model.cuda()  # MEM807: 13
    torch.cuda.set_device(rank)
    return model
""",
        """
import os
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
def main(model, loader):
    dist.init_process_group(backend="nccl", rank=int(os.environ["RANK"]))  # MEM807: 5
    model = DistributedDataParallel(model.to("cuda"))
    for x in loader:
        model(x.cuda()).sum().backward()
""",
    )
    negative = (
        """
import os
import torch
import torch.distributed as dist
def main(model):
    torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl")
    return model.cuda()
""",
        """
import os
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
def main(model):
    rank = int(os.environ["LOCAL_RANK"])
    dist.init_process_group("nccl")
    return DistributedDataParallel(model.cuda(rank), device_ids=[rank])
def other(model, rank):
    device = torch.device(f"cuda:{rank}")
    return model.to(device)
""",
        """
import os
import torch
import torch.distributed as dist
os.environ["CUDA_VISIBLE_DEVICES"] = os.environ["LOCAL_RANK"]
def main(model):
    dist.init_process_group("nccl")
    return model.cuda()
""",
        """
import torch
import torch.distributed as dist
def main(model, backend):
    dist.init_process_group("gloo")
    return model.to("cuda")
""",
        """
import torch
def use(model, index):
    model = model.cuda()
    torch.cuda.set_device(0)
    return model
""",
    )

    def check(self, program: Program) -> Iterator[Finding]:
        if program.module.is_test:
            return
        for call in program.calls("set_device"):
            if "torch.cuda.set_device" in qualified_names(call.callee) and _is_for_rank(call):
                early = _first_move_before(call)
                if early is not None:
                    yield self._finding(early, "before this process is told which GPU is its own")
        for call in program.calls("init_process_group"):
            if _is_nccl(call) and _uses_default_device(program) and not _tells_device(program):
                yield self._finding(call, "for no process is told which GPU is its own", unset=True)

    def _finding(self, call: Call, when: str, *, unset: bool = False) -> Finding:
        fix = Fix(
            "insert_statement",
            "Use the GPU with the number of the process on its host",
            Applicability.UNSAFE,
            {"statement": call.node},
            {"code": "torch.cuda.set_device(torch.distributed.get_node_local_rank())", "import": "torch"},
        )
        return self.finding(
            call.node,
            f"Every process uses GPU 0, {when}",
            holds="a CUDA context on GPU 0 for each process, and what it has allocated there",
            confidence=Confidence.LIKELY,
            fixes=(fix,) if unset and call in call.function.statements else (),
            claim=Claim(
                ClaimShape.PLATEAU,
                "device",
                "(processes - 1) * context",
                held=call.node,
                unobservable="contexts are memory of the CUDA driver, which no allocator counts",
            ),
        )


def _is_for_rank(call: Call) -> bool:
    return any(depends_on_rank(argument.value) for argument in call.arguments)


def _first_move_before(call: Call) -> Call | None:
    """The first thing that the function of ``call`` puts on the current device above it, on every path to it."""
    return next(
        (
            other
            for other in call.function.calls
            if other.order < call.order and _is_on_current_device(other) and call.region.within(other.region)
        ),
        None,
    )


def _is_on_current_device(call: Call) -> bool:
    """Whether a call moves something to the GPU without saying to which."""
    if not certainly_moves_to_accelerator(call):
        return False
    return not call.arguments if call.method == "cuda" else not any(map(_has_index, _texts(call)))


def _texts(call: Call) -> list[str]:
    found = (source for argument in call.arguments for source in sources(argument.value))
    return [source.constant for source in found if isinstance(source, Constant) and isinstance(source.constant, str)]


def _has_index(device: str) -> bool:
    return ":" in device


def _is_nccl(call: Call) -> bool:
    """Whether processes are joined that talk by NCCL, and whose numbers are in the environment."""
    if "torch.distributed.init_process_group" not in qualified_names(call.callee):
        return False
    backend = call.argument("backend", 0)
    found = values(backend).only if backend is not None else None
    return found is not None and "nccl" in str(found.constant) and "RANK" in call.function.module.text


def _uses_default_device(program: Program) -> bool:
    return any(_is_on_current_device(call) for function in program.functions for call in function.calls)


_TELLING = ("set_device", "device_ids", "CUDA_VISIBLE_DEVICES", "Accelerator", "set_default_device", "cuda_visible")


def _tells_device(program: Program) -> bool:
    """Whether anything in the project may say which device a process uses."""
    module = program.module
    if any(name in module.text or module.project.mentioning(name) != () for name in _TELLING):
        return True
    return any(_names_device(call) for function in program.functions for call in function.calls)


def _names_device(call: Call) -> bool:
    """Whether a call is given a device that depends on the process."""
    given = [argument.value for argument in call.arguments]
    if call.method in {"cuda", "to", "device"} and any(map(depends_on_rank, given)):
        return True
    return any(isinstance(source, Formatted) and _is_device(call) for value in given for source in sources(value))


def _is_device(call: Call) -> bool:
    return call.name in {"device", "to", "cuda"}
