"""MEM206."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from memlint.findings import Applicability, Claim, ClaimShape, Confidence, Finding, Fix, Severity
from memlint.model.aliases import qualified_names, sources
from memlint.model.knowledge import frameworks
from memlint.model.program import Program
from memlint.model.requests import runs_unasked, trains
from memlint.model.source_text import code
from memlint.model.values import Argument, Call, Constant, Value, With
from memlint.rule import Rule


class AnomalyModeLeftOn(Rule):
    """Autograd's anomaly detection is on for the whole training, whether somebody looks for a NaN or not.

    ## What it does
    Finds `torch.autograd.set_detect_anomaly(True)`, `with torch.autograd.detect_anomaly():` and
    `lightning.Trainer(detect_anomaly=True)` that no option of the program decides on: at the top level of a module, in
    what is called from there, or around a training step. Tests are left out.

    ## Why is this bad?
    For each operation of the forward pass, anomaly mode formats a Python traceback and keeps it with the autograd node,
    and it looks for NaN in every gradient. A graph of 100 layers takes 610 kB of host memory in place of 270 kB, and
    the forward pass is about 10 times as slow (measured). It is meant for debugging.

    ## Example
    ```python
    torch.autograd.set_detect_anomaly(True)
    ```

    ## Use instead
    ```python
    if args.debug:
        torch.autograd.set_detect_anomaly(True)
    ```

    ## Fix safety
    Unsafe: the fix takes the call out (or, of a `with`, its effect), and a NaN in a backward raises no longer.

    ## When to ignore
    While a NaN is being looked for. What the mode costs lies in torch itself, so that `memlint verify` has nothing to
    watch.

    ## References
    - [Performance tuning guide: disable debugging APIs](https://docs.pytorch.org/tutorials/recipes/recipes/tuning_guide.html)
    - [nerf-pytorch#42](https://github.com/yenchenlin/nerf-pytorch/issues/42) (half the speed),
      [OLMo@9d3a557](https://github.com/allenai/OLMo/commit/9d3a557484544d0ab6862d1fcc9db70aaca82644)
    """

    code = "MEM206"
    name = "anomaly-mode-left-on"
    severity = Severity.WARNING
    gate = frozenset({"set_detect_anomaly", "detect_anomaly"})
    fixers = ("remove_statement", "remove_argument", "replace_expression")
    positive = (
        """
import torch
class Engine:
    def run(self, batches, epochs):
        with torch.autograd.detect_anomaly():  # MEM206: 14
            for epoch in range(epochs):
                for batch in batches:
                    self.process(self, batch)
""",
        """
import torch
torch.autograd.set_detect_anomaly(True)  # MEM206: 1
def relu(x):
    return torch.relu(x)
""",
        """
import torch
def train(model, loader, optimizer):
    for x in loader:
        with torch.autograd.detect_anomaly():  # MEM206: 14
            optimizer.zero_grad()
            model(x).sum().backward()
            optimizer.step()
""",
        """
from torch import autograd
def seed_everything(seed):
    autograd.set_detect_anomaly(mode=True, check_nan=False)  # MEM206
def main(config):
    seed_everything(config.seed)
if __name__ == "__main__":
    main(None)
""",
        """
from torch.autograd import set_detect_anomaly as detect
import torch
CHECK = True
def main(trainer):
    if torch.cuda.is_available():
        torch.cuda.set_device(0)
        detect(CHECK)  # MEM206
    if CHECK:
        detect(True)  # MEM206
    trainer.fit()
main(None)
""",
        """
import lightning as L
def main(module, data):
    trainer = L.Trainer(max_epochs=3, detect_anomaly=True)  # MEM206: 39
    trainer.fit(module, data)
main(None, None)
""",
        """
import torch
class Runner:
    def __init__(self, model, optimizer):
        self.model, self.optimizer = model, optimizer
        torch.autograd.set_detect_anomaly(True)  # MEM206
    def step(self, x):
        self.model(x).sum().backward()
        self.optimizer.step()
""",
        """
import torch
def main(args):
    if not args.path:
        print("no path")
        return
    torch.autograd.set_detect_anomaly(True)  # MEM206
    model, optimizer = args.model, args.optimizer
    for x in args.loader:
        model(x).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
""",
        """
import torch
def main(config, trainer):
    if not config.dry_run:
        print("training")
        torch.autograd.set_detect_anomaly(True)  # MEM206
        trainer.fit()
main(None, None)
""",
        """
import torch
def watch():
    torch.autograd.set_detect_anomaly(True)  # MEM206?
""",
    )
    negative = (
        """
import torch
class Engine:
    def find_nan(self, batch):
        with torch.autograd.detect_anomaly():
            self.process(self, batch)
""",
        """
import torch
def main(args, config, debug=True):
    if args.debug:
        torch.autograd.set_detect_anomaly(True)
    torch.autograd.set_detect_anomaly(config.detect_anomaly)
    torch.autograd.set_detect_anomaly(debug)
    torch.autograd.set_detect_anomaly(False)
    with torch.autograd.set_detect_anomaly(args.debug):
        args.model(args.x).sum().backward()
main(None, None)
""",
        """
import torch
def enable():
    torch.autograd.set_detect_anomaly(True)
def main(args):
    if args.debug:
        enable()
main(None)
""",
        """
import torch
DEBUG = False
if DEBUG:
    torch.autograd.set_detect_anomaly(True)
""",
        """
import torch
def train(model, loader):
    for x in loader:
        try:
            model(x).sum().backward()
        except RuntimeError:
            with torch.autograd.detect_anomaly():
                model(x).sum().backward()
""",
        """
import lightning as L
def main(args, module):
    L.Trainer(detect_anomaly=args.debug).fit(module)
    L.Trainer(detect_anomaly=False).fit(module)
main(None, None)
""",
        """
import torch
def step(model, x, careful):
    if careful:
        with torch.autograd.detect_anomaly():
            model(x).sum().backward()
    else:
        model(x).sum().backward()
""",
        """
import torch
def debug(args):
    if not args.debug:
        return
    torch.autograd.set_detect_anomaly(True)
debug(None)
""",
    )

    def check(self, program: Program) -> Iterator[Finding]:
        if program.module.is_test:
            return
        for call in program.calls():
            argument = _lightning_argument(call)
            if argument is not None:
                yield from self._found(call, argument)
            elif _is_switched_on(call):
                yield from self._found(call, None)

    def _found(self, call: Call, argument: Argument | None) -> Iterator[Finding]:
        confidence = _confidence(call)
        if confidence is None:
            return
        node = call.node if argument is None else argument.node
        yield self.finding(
            node,
            f"`{code(node)}` holds in every run: operations keep tracebacks, and gradients are searched for NaN",
            holds="a formatted traceback for each recorded operation, in host memory, as long as the graph",
            confidence=confidence,
            fixes=(_fix(call, argument),),
            claim=Claim(
                ClaimShape.PRESENT, "host", "a traceback per operation", unobservable="torch keeps them itself"
            ),
        )


_SWITCHES = frozenset({"torch.autograd.set_detect_anomaly", "torch.autograd.anomaly_mode.set_detect_anomaly"})
_CONTEXTS = frozenset({"torch.autograd.detect_anomaly", "torch.autograd.anomaly_mode.detect_anomaly"})


def _is_switched_on(call: Call) -> bool:
    names = qualified_names(call.callee) if call.name else frozenset()
    if names & _CONTEXTS:
        return _is_entered(call)
    mode = call.argument("mode", 0) if names & _SWITCHES else None
    return mode is not None and _is_true(mode)


def _is_true(value: Value) -> bool:
    return all(isinstance(source, Constant) and bool(source.constant) for source in sources(value))


def _is_entered(call: Call) -> bool:
    """Whether a ``with`` enters the context that ``call`` makes."""
    entered = {
        context
        for other in call.function.calls
        for region in other.region.ancestors()
        if isinstance(region, With)
        for context in region.contexts
    }
    handed_on = any(isinstance(use, Call) and use.method == "enter_context" for use in call.uses)
    return handed_on or any(call in sources(context) for context in entered)


def _lightning_argument(call: Call) -> Argument | None:
    """The ``detect_anomaly=True`` of Lightning's Trainer."""
    for argument in call.arguments:
        if argument.keyword == "detect_anomaly" and any(
            name.startswith(frameworks.LIGHTNING_ROOTS) and name.endswith(".Trainer")
            for name in qualified_names(call.callee)
        ):
            return argument if _is_true(argument.value) else None
    return None


def _confidence(call: Call) -> Confidence | None:
    """How sure it is that training runs with anomaly mode on, unasked."""
    confidence = runs_unasked(call.region)
    if confidence is not Confidence.POSSIBLE:
        return confidence
    function = call.function
    whole = function.name == "__init__" or trains(function.body) or _spans_loop(call)
    return Confidence.LIKELY if whole else Confidence.POSSIBLE


def _spans_loop(call: Call) -> bool:
    """Whether the ``with`` that enters anomaly mode holds a loop: not one step is looked at, but all of them."""
    contexts = (
        context
        for loop in call.function.loops
        for region in loop.ancestors()
        if isinstance(region, With)
        for context in region.contexts
    )
    return any(call in sources(context) for context in contexts)


def _fix(call: Call, argument: Argument | None) -> Fix:
    if argument is not None:
        return _unsafe("remove_argument", "Leave anomaly mode off", argument=argument.node)
    if call in call.function.statements:
        return _unsafe("remove_statement", "Leave anomaly mode off", statement=call.node)
    mode = next((each.node.value for each in call.arguments if each.keyword in {None, "mode"}), None)
    if mode is not None and qualified_names(call.callee) & _SWITCHES:
        return _unsafe("replace_expression", "Switch anomaly mode off", {"code": "False"}, expression=mode)
    nothing = {"code": "contextlib.nullcontext()", "import": "contextlib"}
    return _unsafe("replace_expression", "Enter a context that does nothing", nothing, expression=call.node)


def _unsafe(fixer: str, message: str, options: dict[str, str] | None = None, **targets: cst.CSTNode) -> Fix:
    return Fix(fixer, message, Applicability.UNSAFE, targets, options or {})
