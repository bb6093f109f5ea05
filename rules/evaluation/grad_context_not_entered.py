from __future__ import annotations

from collections.abc import Iterator

from memlint.findings import Applicability, Claim, ClaimShape, Confidence, Finding, Fix, Severity, Watch
from memlint.model.aliases import qualified_names, sources
from memlint.model.contexts import contexts_in_vain
from memlint.model.kinds import Role, role
from memlint.model.knowledge import torch
from memlint.model.program import Program
from memlint.model.source_text import code
from memlint.model.values import Attribute, Call, Constant, External, Value
from memlint.rule import Rule

_ACTIVATIONS = "the activations of every forward pass that follows, until its output is dropped"
_CALLED_FOR_EFFECT = {
    "eval": (
        "nothing more, but layers such as dropout and batch normalisation stay in training mode",
        Severity.WARNING,
    ),
    "zero_grad": ("gradients: those of all earlier steps are added to those of the next one", Severity.ERROR),
    "backward": ("the activations of the forward pass, which no backward frees", Severity.ERROR),
    "empty_cache": ("the blocks that the allocator caches", Severity.WARNING),
    "collect": ("objects in reference cycles, with the tensors that they hold", Severity.WARNING),
    "no_grad": (_ACTIVATIONS, Severity.WARNING),
    "inference_mode": (_ACTIVATIONS, Severity.WARNING),
}
"""Names that do their work when they are called: what stays alive if they are not, and how bad that is."""
_FUNCTIONS = frozenset(
    {"torch.cuda.empty_cache", "torch.accelerator.empty_cache", "torch.mps.empty_cache", "gc.collect"}
)
_METHODS = {
    "eval": (Role.MODULE, Role.ENGINE),
    "zero_grad": (Role.OPTIMIZER, Role.MODULE, Role.ENGINE),
    "backward": (Role.TENSOR, Role.OUTPUT),
}


class GradContextNotEntered(Rule):
    """A context or method that would switch something off or free it is mentioned, but never entered or called.

    ## What it does
    Finds `torch.no_grad()`, `torch.inference_mode()`, `torch.enable_grad()`, `torch.autocast(...)` and context managers
    of the project that enter one of them, as statements of their own; methods such as `model.eval`,
    `optimizer.zero_grad` and `torch.cuda.empty_cache` without parentheses; and `Variable(x, volatile=True)`.

    ## Why is this bad?
    A context manager takes effect when `with` enters it. As a statement, `torch.no_grad()` makes an object and drops
    it: gradients stay enabled, and what follows saves its activations for a backward that never comes, as if the line
    were not there. `model.eval` without parentheses is an expression whose value is dropped. `volatile` has been
    ignored, with a warning, since PyTorch 0.4.

    ## Example
    ```python
    model.eval()
    torch.no_grad()
    for x, y in loader:
        correct += (model(x).argmax(1) == y).sum().item()
    ```

    ## Use instead
    ```python
    model.eval()
    with torch.no_grad():
        for x, y in loader:
            correct += (model(x).argmax(1) == y).sum().item()
    ```

    ## Fix safety
    Entering the context is unsafe: it covers the rest of the block, and code there may rely on gradients. Adding
    parentheses is unsafe as well, since the call now does what it says: weights that were updated with stale gradients
    are now updated with fresh ones.

    ## When to ignore
    Never: the line has no effect. `torch.set_grad_enabled(False)` does take effect as a statement and is not reported.

    ## References
    - [torch.no_grad](https://docs.pytorch.org/docs/stable/generated/torch.no_grad.html)
    - [pytorch#4932](https://github.com/pytorch/pytorch/issues/4932) (volatile)
    """

    code = "MEM602"
    name = "grad-context-not-entered"
    severity = Severity.WARNING
    gate = frozenset(
        {
            "no_grad",
            "inference_mode",
            "enable_grad",
            "autocast",
            "volatile",
            "contextmanager",
            *_CALLED_FOR_EFFECT,
        }
    )
    fixers = ("with_rest_of_block", "call_parentheses")
    positive = (
        """
import torch
def evaluate(model, loader):
    model.eval()
    torch.no_grad()  # MEM602: 5
    return sum(model(x).sum().item() for x in loader)
""",
        """
import torch
from torch import inference_mode
def predict(model, x):
    inference_mode()  # MEM602
    return model(x).argmax(-1).tolist()
""",
        """
import torch
def train(model, loader, opt):
    torch.autocast("cuda", dtype=torch.bfloat16)  # MEM602
    for x in loader:
        model(x).loss.backward()
        opt.step()
        opt.zero_grad  # MEM602: 9
        torch.cuda.empty_cache  # MEM602: 9
""",
        """
import torch
def frozen_features(model, x):
    with torch.no_grad():
        features = model.backbone(x)
        torch.enable_grad()  # MEM602
        return model.head(features)
""",
        """
import torch
class Trainer:
    def __init__(self, model):
        self.model = model
        self.optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    def test(self, loader):
        self.model.eval  # MEM602: 9
        with torch.no_grad():
            for x in loader:
                print(self.model(x).argmax())
    def step(self, loss):
        self.optimizer.zero_grad  # MEM602
        loss.backward()
        self.optimizer.step()
""",
        """
from torch.autograd import Variable
def evaluate(model, loader):
    for x, y in loader:
        x = Variable(x, volatile=True)  # MEM602
        print(model(x).data)
""",
        """
import contextlib, torch
@contextlib.contextmanager
def evaluating(model):
    was = model.training
    model.eval()
    with torch.no_grad():
        yield model
    model.train(was)
def main(model, loader):
    evaluating(model)  # MEM602
    for x in loader:
        print(model(x).argmax())
""",
        """
import torch
quiet = torch.no_grad
async def serve(model, queue):
    while True:
        x = await queue.get()
        quiet()  # MEM602
        await queue.reply(model(x).tolist())
""",
        """
import torch
def run(model, x, training):
    torch.no_grad() if not training else torch.enable_grad()  # MEM602
    return model(x)
""",
        """
import torch
def run(model, x):
    try:
        torch.no_grad  # MEM602
        return model(x).tolist()
    finally:
        model.train()
""",
        """
import torch
class Probe:
    def __init__(self, model):
        self.model = model
        torch.inference_mode()  # MEM602
    def __call__(self, x):
        return self.model(x)
""",
    )
    negative = (
        """
import torch
def evaluate(model, loader):
    torch.set_grad_enabled(False)
    for x in loader:
        print(model(x).argmax())
    torch.set_grad_enabled(True)
""",
        """
import contextlib, torch
def evaluate(model, loader, amp):
    context = torch.no_grad()
    with context:
        model(next(iter(loader)))
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(torch.autocast("cuda"))
        model(next(iter(loader)))
    guard = torch.inference_mode()
    guard.__enter__()
    torch.no_grad().__enter__()
    run(torch.no_grad(), model)
def run(context, model):
    with context:
        model(1)
""",
        """
import torch
@torch.no_grad
def evaluate(model, x):
    return model(x)
@torch.inference_mode()
def predict(model, x):
    return model(x)
evaluate = torch.no_grad()(evaluate)
""",
        """
import torch
def evaluate(model, x):
    with torch.no_grad():
        torch.no_grad()
        return model(x)
""",
        """
def report(model, config):
    config.eval
    model.describe
    print(model.eval)
    callback = model.eval
    callback()
""",
        """
import torch
from torch.autograd import Variable
def wrap(x):
    return Variable(x, volatile=False), Variable(x, requires_grad=True)
""",
        """
class Chart:
    def autocast(self): ...
    def no_grad(self): ...
def draw(chart: Chart):
    chart.autocast()
    chart.no_grad()
""",
        """
import torch
def context(training):
    return torch.enable_grad() if training else torch.no_grad()
async def wait(model, x):
    async with context(False):
        return model(x)
""",
    )

    def check(self, program: Program) -> Iterator[Finding]:
        for function in program.functions:
            for statement, context in contexts_in_vain(function):
                yield self._not_entered(context, statement)
            for statement in function.statements:
                if isinstance(statement, (Attribute, External)):
                    yield from self._not_called(statement)
        for call in program.calls("Variable"):
            yield from self._volatile(call)

    def _not_entered(self, context: Call, statement: Value) -> Finding:
        enter = Fix(
            "with_rest_of_block",
            f"Run the rest of the block under `with {code(context.node)}:`",
            Applicability.UNSAFE,
            {"statement": context.node},
            # What the rest of the block does under autocast may be a hazard of its own.
            reveals=frozenset({"MEM401"}),
        )
        return self.finding(
            statement.node,
            f"`{code(context.node)}` as a statement has no effect: a context manager must be entered by `with`",
            holds=_held_without(context.callee),
            confidence=Confidence.CERTAIN,
            fixes=(enter,) if statement is context else (),
            claim=Claim(ClaimShape.PRESENT, "device", "A", held=statement.node, watch=Watch.LATER_GRAPHS),
        )

    def _not_called(self, value: Attribute | External) -> Iterator[Finding]:
        confidence = _is_to_be_called(value)
        if confidence is None:
            return
        name = code(value.node)
        held, severity = _CALLED_FOR_EFFECT[name.rsplit(".", 1)[-1]]
        # In a loop the call that is meant has a hazard of its own.
        reveals = frozenset({"MEM803"}) if name.endswith("empty_cache") else frozenset()
        add = Fix(
            "call_parentheses", f"Call `{name}()`", Applicability.UNSAFE, {"expression": value.node}, reveals=reveals
        )
        yield self.finding(
            value.node,
            f"`{name}` is not called: a statement without parentheses has no effect",
            holds=held,
            confidence=confidence,
            severity=severity,
            # A context manager must be entered as well.
            fixes=() if qualified_names(value) & torch.GRADIENT_CONTEXTS else (add,),
            claim=Claim(
                ClaimShape.PRESENT,
                "device",
                "what the call would have freed",
                held=value.node,
                unobservable="a statement that does nothing leaves no trace in memory",
            ),
        )

    def _volatile(self, call: Call) -> Iterator[Finding]:
        volatile = call.argument("volatile", 2)
        if volatile is None or not qualified_names(call.callee) & torch.VARIABLES:
            return
        if all(isinstance(source, Constant) and not source.constant for source in sources(volatile)):
            return
        yield self.finding(
            call.node,
            "`volatile` has been ignored since PyTorch 0.4: run the model under `with torch.no_grad():`",
            holds=_ACTIVATIONS,
            confidence=Confidence.CERTAIN,
            claim=Claim(ClaimShape.PRESENT, "device", "A", held=call.node, watch=Watch.LATER_GRAPHS),
        )


def _is_to_be_called(value: Attribute | External) -> Confidence | None:
    """How sure it is that a mention of ``value`` was meant as a call."""
    if isinstance(value, External):
        names = _FUNCTIONS | torch.GRADIENT_CONTEXTS
        return Confidence.CERTAIN if value.qualified_name in names else None
    owners = _METHODS.get(value.name)
    return role(value.base, *owners) if owners else None


def _held_without(context: Value) -> str:
    names = qualified_names(context)
    if names & torch.AUTOCAST:
        return "the activations of what follows, in full precision: twice the bytes"
    if names & torch.ENABLE_GRAD:
        return "nothing: what follows records no graph and cannot be differentiated"
    return _ACTIVATIONS
