"""MEM705."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from memlint.findings import Applicability, Claim, ClaimShape, Confidence, Finding, Fix, Severity, Watch
from memlint.model.aliases import qualified_names, sources
from memlint.model.knowledge import torch
from memlint.model.program import Program
from memlint.model.settings import option
from memlint.model.values import Call, Value
from memlint.rule import Rule

_DEFAULT_HISTORY = 100
"""``history_size`` of ``torch.optim.LBFGS`` (torch 2.13)."""
_MODERATE = 20
"""Histories of up to this size are what other implementations of L-BFGS use (SciPy: 10)."""


class LbfgsHistory(Rule):
    """L-BFGS keeps a history of 100 updates, each of twice the size of the network.

    ## What it does
    Finds `torch.optim.LBFGS` over the parameters of a module with a `history_size` above 20, or without one: the
    default is 100. Optimizers of single tensors (an image, a handful of coefficients) are left out.

    ## Why is this bad?
    Each entry of the history holds the change of all parameters and the change of all gradients. With work space that
    is (2 x history + about 4) times the size of the parameters: 44 times for a history of 20, measured with torch 2.13,
    and over 200 times for the default, where Adam needs 2 times. (The documentation says history + 1.)

    ## Example
    ```python
    optimizer = torch.optim.LBFGS(model.parameters())
    ```

    ## Use instead
    ```python
    optimizer = torch.optim.LBFGS(model.parameters(), history_size=10)
    ```

    ## Fix safety
    Unsafe: a shorter history approximates the curvature less well, and may need more iterations.

    ## When to ignore
    When the network is tiny, as in many solvers of differential equations: 200 times 50 kB is nothing.

    ## References
    - [torch.optim.LBFGS](https://docs.pytorch.org/docs/stable/generated/torch.optim.LBFGS.html)
    - [neural-style-pt#7](https://github.com/ProGamerGov/neural-style-pt/issues/7)
    """

    code = "MEM705"
    name = "lbfgs-history"
    severity = Severity.NOTE
    gate = frozenset({"LBFGS"})
    fixers = ("add_argument",)
    positive = (
        """
import torch
def fit(model):
    return torch.optim.LBFGS(model.parameters(), lr=0.1)  # MEM705: 12
""",
        """
from torch.optim import LBFGS
class Solver:
    def __init__(self, net):
        self.optimizer = LBFGS(list(net.parameters()), history_size=100, max_iter=20)  # MEM705
""",
        """
import torch
from torch import optim
import lightning as L
class Lit(L.LightningModule):
    def configure_optimizers(self):
        return optim.LBFGS(self.net.parameters(), line_search_fn="strong_wolfe")  # MEM705
""",
        """
import torch
def fit(model, **options):
    return torch.optim.LBFGS(model.parameters(), **options)  # MEM705?
""",
    )
    negative = (
        """
import torch
def fit(model, history):
    torch.optim.LBFGS(model.parameters(), history_size=10)
    return torch.optim.LBFGS(model.parameters(), 1, 20, None, 1e-7, 1e-9, 8), torch.optim.Adam(model.parameters())
""",
        """
import torch
def transfer(image, coefficients):
    image.requires_grad_()
    return torch.optim.LBFGS([image]), torch.optim.LBFGS((coefficients,))
""",
        """
import torch
class Calibrated(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model
        self.temperature = torch.nn.Parameter(torch.ones(1))
    def calibrate(self):
        return torch.optim.LBFGS([self.temperature], lr=0.01, max_iter=50)
""",
    )

    def check(self, program: Program) -> Iterator[Finding]:
        for call in program.calls():
            if qualified_names(call.callee) & _LBFGS and _holds_module(call.argument("params", 0)):
                yield from self._found(call)

    def _found(self, call: Call) -> Iterator[Finding]:
        history = option(call, "history_size", 6)
        sizes = [known.constant for known in history.known if isinstance(known.constant, int)]
        size = max(sizes, default=None if history.is_set else _DEFAULT_HISTORY)
        if size is not None and size <= _MODERATE:
            return
        shorter = Fix(
            "add_argument",
            "Keep ten updates with `history_size=10`",
            Applicability.UNSAFE,
            {"call": call.node},
            {"code": "history_size=10"},
        )
        yield self.finding(
            call.node,
            f"L-BFGS keeps {size or 'an unknown number of'} updates of the whole network, twice its size each",
            holds=f"{2 * size + 4 if size else '2 x history + 4'} times the size of the parameters",
            confidence=Confidence.POSSIBLE if history.others else Confidence.LIKELY,
            fixes=() if history.is_set else (shorter,),
            claim=_claim(call),
        )


def _claim(call: Call) -> Claim:
    """Two copies of the parameters are added in each iteration, which is seen where the optimizer steps."""
    steps = call.function.module.calls_by_name.get("step", ())
    own = (step for step in steps if step.receiver is not None and call in sources(step.receiver))
    function = next((step.node.func for step in own), None)
    if not isinstance(function, cst.Attribute):
        reason = "the history fills where the optimizer steps, which is not in sight"
        return Claim(ClaimShape.PLATEAU, "device", "(2 x history + 4) x P", held=call.node, unobservable=reason)
    return Claim(ClaimShape.GROWS, "device", "2 x P for each iteration", holder=function.value, watch=Watch.FILLED)


_LBFGS = frozenset({"torch.optim.LBFGS", "torch.optim.lbfgs.LBFGS"})


def _holds_module(parameters: Value | None) -> bool:
    """Whether ``parameters`` are those of a module, and not tensors by name."""
    for source in sources(parameters) if parameters is not None else ():
        if isinstance(source, Call):
            if source.method in torch.PARAMETER_METHODS:
                return True
            if qualified_names(source.callee) & torch.PASSING_BUILTINS:
                return any(_holds_module(argument.value) for argument in source.arguments)
    return False
