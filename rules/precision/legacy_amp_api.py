"""MEM402."""

from __future__ import annotations

from collections.abc import Iterator

from memlint.findings import Applicability, Claim, ClaimShape, Confidence, Finding, Fix, Severity
from memlint.model.aliases import qualified_names
from memlint.model.pins import is_at_least, supports_older
from memlint.model.program import Program
from memlint.model.scopes import Module
from memlint.model.source_text import text
from memlint.model.values import Branch, Call, Handler, Try
from memlint.rule import Rule


class LegacyAmpApi(Rule):
    """Mixed precision is asked for by an interface that is no longer maintained.

    ## What it does
    Finds `torch.cuda.amp.autocast`, `torch.cpu.amp.autocast` and `torch.cuda.amp.GradScaler`, which warn since torch
    2.4, and `apex.amp`. It is silent on the former where the project says that it runs with torch from before 2.3 as
    well, which lacks a new name for the scaler, and where the file chooses between the old names and the new ones.

    ## Why is this bad?
    The names of torch cost no memory; they will go away. `apex.amp` does: with `opt_level="O2"` it keeps the float32
    master copies of the parameters beside the half-precision model, outside of what PyTorch knows about, and nobody
    has maintained it since 2020. Autocast keeps one set of parameters, and its copies live for one forward pass.

    ## Example
    ```python
    scaler = torch.cuda.amp.GradScaler()
    with torch.cuda.amp.autocast(enabled=use_amp):
        loss = criterion(model(x), y)
    ```

    ## Use instead
    ```python
    scaler = torch.amp.GradScaler("cuda")
    with torch.amp.autocast("cuda", enabled=use_amp):
        loss = criterion(model(x), y)
    ```

    ## Fix safety
    Safe for `autocast`: the same context by its new name, with the arguments by keyword, since their order has changed.
    Safe for `GradScaler` where the project asks for torch 2.3 or later, which has the new name, and unsafe otherwise.
    There is none for `apex.amp`.

    ## When to ignore
    When the file has to run with a torch from before 2.3.

    ## References
    - [Automatic mixed precision](https://docs.pytorch.org/docs/stable/amp.html)
    - [apex#818](https://github.com/NVIDIA/apex/issues/818): use torch's own
    """

    code = "MEM402"
    name = "legacy-amp-api"
    severity = Severity.NOTE
    gate = frozenset({"autocast", "GradScaler", "apex"})
    fixers = ("replace_expression",)
    positive = (
        """
import torch
def step(model, x, y, scaler, use_amp):
    with torch.cuda.amp.autocast(use_amp):  # MEM402: 10
        return torch.nn.functional.cross_entropy(model(x), y)
scaler = torch.cuda.amp.GradScaler()  # MEM402: 10
""",
        """
import torch
from torch.cuda.amp import GradScaler as Scaler, autocast
scaler = Scaler(init_scale=2.0**12, enabled=True)  # MEM402
def evaluate(model, x):
    with torch.no_grad(), autocast(enabled=True, dtype=torch.bfloat16):  # MEM402
        return model(x)
@autocast()  # MEM402
def infer(model, x):
    return model(x)
""",
        """
from torch.cpu.amp import autocast
def infer(model, x):
    with autocast():  # MEM402
        return model(x)
""",
        """
from apex import amp
def prepare(model, optimizer):
    return amp.initialize(model, optimizer, opt_level="O2")  # MEM402
""",
        """
def step(loss, optimizer):
    from apex import amp
    with amp.scale_loss(loss, optimizer) as scaled:  # MEM402
        scaled.backward()
""",
        """
import torch
def infer(model, x, **options):
    with torch.cuda.amp.autocast(**options):  # MEM402
        return model(x)
""",
    )
    negative = (
        """
import torch
def step(model, x, y):
    with torch.amp.autocast("cuda", dtype=torch.bfloat16), torch.autocast("cuda"):
        return torch.nn.functional.cross_entropy(model(x), y)
scaler = torch.amp.GradScaler("cuda")
""",
        """
from apex.normalization import FusedLayerNorm
from apex.optimizers import FusedAdam
def build(model):
    model.norm = FusedLayerNorm(8)
    return FusedAdam(model.parameters())
""",
        """
try:
    from torch.amp import GradScaler
except ImportError:
    from torch.cuda.amp import GradScaler
scaler = GradScaler()
""",
        """
import torch
def autocast(enabled):
    if hasattr(torch.amp, "GradScaler"):
        return torch.amp.autocast("cuda", enabled=enabled)
    return torch.cuda.amp.autocast(enabled)
""",
        """
import torch
def prepare(model, optimizer, use_apex):
    if use_apex:
        from apex import amp
        return amp.initialize(model, optimizer, opt_level="O1")
    scaler = torch.amp.GradScaler("cuda")
    return model, optimizer, scaler
""",
        """
from accelerate import Accelerator
accelerator = Accelerator(mixed_precision="fp16")
with accelerator.autocast():
    pass
""",
    )

    def check(self, program: Program) -> Iterator[Finding]:
        module = program.module
        for call in program.calls("autocast", "GradScaler"):
            if _old_names(call) and not supports_older(module, "torch", "2.3") and not _is_one_of_two_ways(call):
                yield self._renamed(call)
        for call in _apex_calls(program):
            if not _is_one_of_two_ways(call):
                yield self._unmaintained(call)

    def _renamed(self, call: Call) -> Finding:
        new, device = _new_name(call)
        return self.finding(
            call.node,
            f'this name of `{call.name}` is deprecated since torch 2.4; the new one is `{new}("{device}")`',
            holds="nothing: the old name does the same, as long as it is there",
            confidence=Confidence.CERTAIN,
            fixes=tuple(_fixes(call, new, device)),
            claim=_NO_BYTES,
        )

    def _unmaintained(self, call: Call) -> Finding:
        return self.finding(
            call.node,
            "`apex.amp` is no longer maintained, and with O2 keeps the parameters twice; torch has autocast",
            holds="float32 master copies of the parameters beside the model, with `opt_level` O2",
            confidence=Confidence.LIKELY,
            claim=_NO_BYTES,
        )


_NO_BYTES = Claim(ClaimShape.PRESENT, "device", "0", unobservable="it is about a name, and not about memory")
_OLD = frozenset(
    {
        "torch.cuda.amp.autocast",
        "torch.cuda.amp.autocast_mode.autocast",
        "torch.cuda.amp.GradScaler",
        "torch.cuda.amp.grad_scaler.GradScaler",
        "torch.cpu.amp.autocast",
        "torch.cpu.amp.autocast_mode.autocast",
    }
)
_POSITIONS = ("enabled", "dtype", "cache_enabled")
"""Parameters of the old ``autocast``. The new one starts with the device, and has them in another order."""


def _old_names(call: Call) -> frozenset[str]:
    """The old names of what is called; none if it may be something of another name as well."""
    names = qualified_names(call.callee)
    return names if names and names <= _OLD else frozenset()


def _new_name(call: Call) -> tuple[str, str]:
    """What ``call`` should call instead, and the type of device that it has to name."""
    device = "cpu" if any(".cpu." in name for name in qualified_names(call.callee)) else "cuda"
    return f"torch.amp.{'GradScaler' if _is_scaler(call) else 'autocast'}", device


def _is_scaler(call: Call) -> bool:
    return any(name.endswith("GradScaler") for name in qualified_names(call.callee))


def _apex_calls(program: Program) -> list[Call]:
    """Where a file sets up ``apex.amp``; where it scales the loss, if the set-up is in another one."""
    found = [
        [call for call in program.calls(name) if f"apex.amp.{name}" in qualified_names(call.callee)]
        for name in ("initialize", "scale_loss")
    ]
    return found[0] or found[1][:1]


def _is_one_of_two_ways(call: Call) -> bool:
    """Whether ``call`` runs under a condition, and the file uses the interface of today as well."""
    conditional = any(isinstance(region, (Branch, Try, Handler)) for region in call.region.ancestors())
    return conditional and _uses_current_interface(call.function.module)


def _uses_current_interface(module: Module) -> bool:
    used = (call for name in ("autocast", "GradScaler") for call in module.calls_by_name.get(name, ()))
    return any(
        name.startswith(("torch.amp.", "torch.autocast")) for call in used for name in qualified_names(call.callee)
    )


def _fixes(call: Call, new: str, device: str) -> Iterator[Fix]:
    if call.is_open:
        return
    known = not _is_scaler(call) or is_at_least(call.function.module, "torch", "2.3")
    yield Fix(
        "replace_expression",
        f"Call it `{new}`",
        Applicability.SAFE if known else Applicability.UNSAFE,
        {"expression": call.node},
        {"code": f"{new}({', '.join(_arguments(call, device))})", "import": "torch"},
    )


def _arguments(call: Call, device: str) -> Iterator[str]:
    """The arguments of the new call, as they are written."""
    yield f'"{device}"'
    for place, argument in enumerate(call.arguments):
        keyword = argument.keyword
        if keyword is None and not _is_scaler(call):
            keyword = _POSITIONS[place]
        written = text(argument.node.value)
        yield f"{keyword}={written}" if keyword else written
