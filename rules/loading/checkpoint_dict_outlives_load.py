"""MEM802."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from memlint.findings import Applicability, Claim, ClaimShape, Confidence, Finding, Fix, Severity
from memlint.model.aliases import instance_class, qualified_names
from memlint.model.destinations import destinations
from memlint.model.devices import may_use_accelerator
from memlint.model.effects import Effect, effects
from memlint.model.footprint import is_host_device
from memlint.model.forwards import called_module
from memlint.model.kinds import Role, role
from memlint.model.knowledge.torch import GENERATED_WITHOUT_GRAD
from memlint.model.loops import iterates_over_data
from memlint.model.program import Program
from memlint.model.source_text import code
from memlint.model.statements import held_in, statements_over
from memlint.model.states_left_behind import LeftBehind, states_left_behind
from memlint.model.values import Call, Exit, Item, Store, Value
from memlint.rule import Rule


class CheckpointDictOutlivesLoad(Rule):
    """A loaded checkpoint keeps its name while the model trains, and the weights stay in memory twice.

    ## What it does
    Finds the result of `torch.load` (or of safetensors' `load_file`) that goes into `load_state_dict` and is still
    bound to a local name when the same function goes on to train, or to an attribute that nothing else reads, of an
    object that trains. Where the file is loaded to a device by name, going on to run the model on a data set counts as
    well. So is the result of `state_dict()` of a module that is moved to the device afterwards: it holds
    the memory that the parameters had before.

    ## Why is this bad?
    `load_state_dict` copies the weights into the model's own parameters. What was loaded stays as long as the name
    does, which is until the function returns: the size of the parameters `P`, on the device that the file was loaded
    to. Optimizer states do not count: the optimizer takes over the tensors of the file where the device is the same
    (measured with torch 2.13).

    ## Example
    ```python
    checkpoint = torch.load(path)
    model.load_state_dict(checkpoint["model"])
    optimizer.load_state_dict(checkpoint["optimizer"])
    train(model, optimizer)
    ```

    ## Use instead
    ```python
    checkpoint = torch.load(path)
    model.load_state_dict(checkpoint["model"])
    optimizer.load_state_dict(checkpoint["optimizer"])
    del checkpoint
    train(model, optimizer)
    ```

    ## Fix safety
    `del` after the last use is safe. Where the name is read again after training has begun, there is no fix.

    ## When to ignore
    When the file is small, or was loaded to host memory of which there is plenty; such a finding is a note.

    ## References
    - [torch.load](https://docs.pytorch.org/docs/stable/generated/torch.load.html)
    - [Module.load_state_dict](https://docs.pytorch.org/docs/stable/generated/torch.nn.Module.html#torch.nn.Module.load_state_dict)
    """

    code = "MEM802"
    name = "checkpoint-dict-outlives-load"
    severity = Severity.WARNING
    gate = frozenset({"state_dict", "load", "load_file"})
    fixers = ("insert_statement",)
    positive = (
        """
import torch
from accelerate import Accelerator
from diffusers import UNet2DConditionModel
class Adapter(torch.nn.Module):
    def __init__(self, unet, width):
        super().__init__()
        self.unet = unet
        self.projection = torch.nn.Linear(width, width)
    def forward(self, x):
        return self.projection(self.unet(x).sample)
def main(loader):
    accelerator = Accelerator()
    unet = UNet2DConditionModel.from_pretrained("stabilityai/stable-diffusion-2", subfolder="unet")
    unet.requires_grad_(False)
    state = unet.state_dict()  # MEM802: 13
    width = state["conv_in.weight"].shape[0]
    adapter = Adapter(unet, width)
    optimizer = torch.optim.AdamW(adapter.projection.parameters())
    adapter, optimizer, loader = accelerator.prepare(adapter, optimizer, loader)
    for x in loader:
        accelerator.backward(adapter(x).mean())
        optimizer.step()
        optimizer.zero_grad()
""",
        """
import torch
def main(model: torch.nn.Module, optimizer, path, loader):
    model.cuda()
    checkpoint = torch.load(path)  # MEM802: 18
    model.load_state_dict(checkpoint["model"])
    optimizer.load_state_dict(checkpoint["optimizer"])
    epoch = checkpoint["epoch"]
    for x in loader:
        optimizer.zero_grad()
        model(x).mean().backward()
        optimizer.step()
    return epoch
""",
        """
import torch
def fit(model, optimizer, loader):
    for x in loader:
        optimizer.zero_grad()
        model(x).mean().backward()
        optimizer.step()
def main(args, build, loader):
    model = build().cuda()
    optimizer = torch.optim.Adam(model.parameters())
    if args.resume:
        state = torch.load(args.resume, map_location="cpu")  # MEM802: 17
        model.load_state_dict(state)
    fit(model, optimizer, loader)
""",
        """
from safetensors.torch import load_file
def main(model, optimizer, loader, path):
    weights = load_file(path)  # MEM802
    model.load_state_dict({name.removeprefix("module."): value for name, value in weights.items()})
    for x in loader:
        optimizer.zero_grad()
        model(x).mean().backward()
        optimizer.step()
    print(len(weights))
""",
        """
import torch
from torch import nn
class Runner:
    def __init__(self, model: nn.Module, path):
        self.model, self.checkpoint = model.cuda(), None
        if path:
            self.checkpoint = torch.load(path, map_location="cuda")  # MEM802: 31
            self.model.load_state_dict(self.checkpoint["model"])
        self.optimizer = torch.optim.AdamW(self.model.parameters())
    def fit(self, loader: torch.utils.data.DataLoader):
        for x in loader:
            self.model(x).mean().backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
""",
        """
import torch
def test(model: torch.nn.Module, path, loader: torch.utils.data.DataLoader, gpu):
    device = torch.device("cuda", gpu)
    weights = torch.load(path, map_location=device)  # MEM802: 15
    model.load_state_dict(weights["model"])
    model.to(device)
    with torch.no_grad():
        for x in loader:
            print(model(x.to(device)).argmax())
""",
    )
    negative = (
        """
import torch
def test(model: torch.nn.Module, path, other, loader: torch.utils.data.DataLoader):
    device = torch.device("cuda")
    model.to(device)
    weights = torch.load(path, map_location="cpu")
    model.load_state_dict(weights)
    others = torch.load(other, map_location=device)
    model.load_state_dict(others)
    del others
    with torch.no_grad():
        for x in loader:
            print(model(x.to(device)).argmax())
def describe(model: torch.nn.Module, path):
    weights = torch.load(path, map_location="cuda")
    model.load_state_dict(weights)
    for layer in model.children():
        print(layer)
""",
        """
import torch
from torch import nn
class Runner:
    def __init__(self, model: nn.Module, path):
        self.model = model.cuda()
        self.optimizer = torch.optim.AdamW(self.model.parameters())
        self.checkpoint = torch.load(path, map_location="cuda")
        self.other = torch.load(path, map_location="cuda")
        self.model.load_state_dict(self.checkpoint["model"])
        self.model.load_state_dict(self.other["model"])
        self.other = None
    def fit(self, loader: torch.utils.data.DataLoader):
        self.optimizer.load_state_dict(self.checkpoint.pop("optimizer"))
        for x in loader:
            self.model(x).mean().backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
""",
        """
import torch
from torch import nn
def main(loader):
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 1))
    state = model.state_dict()
    first = state["0.weight"].mean().item()
    del state
    model.cuda()
    kept = model.state_dict()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for x in loader:
        model(x.cuda()).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return first, kept
""",
        """
import torch
def main(model: torch.nn.Module, optimizer, path, loader):
    model.cuda()
    checkpoint = torch.load(path, map_location="cpu")
    model.load_state_dict(checkpoint["model"])
    optimizer.load_state_dict(checkpoint["optimizer"])
    del checkpoint
    for x in loader:
        optimizer.zero_grad()
        model(x).mean().backward()
        optimizer.step()
""",
        """
import torch
def resume(model, optimizer, path):
    checkpoint = torch.load(path, map_location="cpu")
    model.load_state_dict(checkpoint["model"])
    optimizer.load_state_dict(checkpoint["optimizer"])
    return checkpoint["epoch"]
def main(model: torch.nn.Module, optimizer, path, loader):
    resume(model, optimizer, path)
    model.load_state_dict(torch.load(path, map_location="cpu")["model"])
    for x in loader:
        optimizer.zero_grad()
        model(x).mean().backward()
        optimizer.step()
""",
        """
import torch
def main(model: torch.nn.Module, optimizer, path, loader):
    checkpoint = torch.load(path, map_location="cpu")
    model.load_state_dict(checkpoint, assign=True)
    checkpoint = torch.load(path, map_location="cpu")
    model.load_state_dict(checkpoint)
    checkpoint = None
    for x in loader:
        optimizer.zero_grad()
        model(x).mean().backward()
        optimizer.step()
    model.eval()
    best = torch.load("best.pt", map_location="cpu")
    model.load_state_dict(best)
    return model
""",
        """
import torch
def main(model, optimizer, path, loader):
    table = torch.load(path)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 10)
    scheduler.load_state_dict(torch.load("scheduler.pt"))
    for index, x in enumerate(loader):
        optimizer.zero_grad()
        (model(x) * table[index]).mean().backward()
        optimizer.step()
""",
    )

    def check(self, program: Program) -> Iterator[Finding]:
        for call in program.calls("load", "load_file"):
            if not qualified_names(call.callee) & _LOADERS or call.region.loop is not None:
                continue
            store = _binding(call)
            if store is None or call.function.module.is_test or call.argument("mmap") is not None:
                continue
            begin = _training_after(store)
            trains = begin is not None
            if begin is None and store.base is None and _is_put_on_device(call):
                begin = _runs_over_data_after(store)
            if begin is not None and _is_copied(call) and not _is_released(store, begin):
                yield self._finding(call, store, begin, trains)
        for found in states_left_behind(program):
            yield self._left_behind(found)

    def _left_behind(self, found: LeftBehind) -> Finding:
        fix = _deletion(found.store, found.begin)
        return self.finding(
            found.state.node,
            f"`{found.store.key}` keeps the weights that the module had before it was moved to the device",
            holds="the old weights in host memory, until the function returns",
            severity=Severity.NOTE,
            confidence=Confidence.LIKELY,
            fixes=(fix,) if fix is not None else (),
            claim=Claim(ClaimShape.PLATEAU, "host", "P", held=found.state.node),
        )

    def _finding(self, call: Call, store: Store, begin: Call, trains: bool) -> Finding:
        on_host = _is_on_host(call)
        runs = "trains" if trains else "runs"
        where = "host memory" if on_host else "the device that they were loaded to"
        fix = _deletion(store, begin) if store.base is None else None
        until = "the function returns" if store.base is None else "the object is gone"
        return self.finding(
            call.node,
            f"`{code(store.target)}` is still bound while the model {runs}: its weights are in memory twice",
            holds=f"the weights of the file, in {where}, until {until}",
            severity=Severity.WARNING if trains and not on_host else Severity.NOTE,
            confidence=Confidence.LIKELY,
            fixes=(fix,) if fix is not None else (),
            claim=Claim(
                ClaimShape.PLATEAU if trains else ClaimShape.SPIKE, "host" if on_host else "device", "P", held=call.node
            ),
        )


_LOADERS = frozenset({"torch.load", "safetensors.torch.load_file"})


def _is_on_host(call: Call) -> bool:
    """Whether the file is known to be loaded to host memory."""
    if "torch.load" not in qualified_names(call.callee):
        device = call.argument("device", 1)
        return device is None or is_host_device(device)
    device = call.argument("map_location", 1)
    return is_host_device(device) if device is not None else not may_use_accelerator(call.function)


def _binding(call: Call) -> Store | None:
    """What binds the result: a local name, or else an attribute."""
    stores = [use for use in _bound(call) if isinstance(use, Store)]
    local = next((store for store in stores if store.base is None), None)
    return local or next((store for store in stores if store.attribute is not None), None)


def _bound(call: Call) -> Iterator[Value | Store | Exit]:
    """What uses the result, or an entry of it that is picked at once: ``torch.load(path)["model"]``."""
    for use in call.uses:
        if isinstance(use, Item) and use.base is call:
            yield from use.uses
        yield use


def _training_after(store: Store) -> Call | None:
    """The first call after ``store`` that trains: in its function, or of an attribute, in any method of the object."""
    if store.base is not None:
        owner = instance_class(store.base) if store.attribute is not None else None
        methods = owner.methods.values() if owner is not None else ()
        return next((call for method in methods for call in method.lower().calls if effects(call) & Effect.STEP), None)
    return next(
        (call for call in store.function.calls if call.order > store.order and effects(call) & Effect.STEP), None
    )


def _is_put_on_device(call: Call) -> bool:
    """Whether a device that is not the host is named to load to."""
    device = call.argument("map_location" if "torch.load" in qualified_names(call.callee) else "device", 1)
    return device is not None and not is_host_device(device) and may_use_accelerator(call.function)


def _runs_over_data_after(store: Store) -> Call | None:
    """The first call after ``store`` that runs a model on each batch of some data, in its function."""
    for call in store.function.calls:
        if call.order > store.order and any(iterates_over_data(loop) for loop in call.region.loops()):
            receiver = call.receiver if call.method in GENERATED_WITHOUT_GRAD else None
            if called_module(call) is not None or (receiver is not None and role(receiver, Role.MODULE)):
                return call
    return None


def _is_copied(loaded: Call) -> bool:
    """Whether a module copies from what was loaded, and nothing takes the tensors over or hands them on."""
    found = False
    for use in destinations(loaded):
        if isinstance(use.user, Call) and use.user.name == "load_state_dict" and use.user.callee is not use.value:
            if use.user.argument("assign") is not None:
                return False
            receiver = use.user.receiver
            small = receiver is not None and role(receiver, Role.OPTIMIZER, Role.SCHEDULER, Role.SCALER)
            found = found or not small
    return found


def _is_released(store: Store, begin: Call) -> bool:
    """Whether the name is deleted or bound to something else before training begins, or goes out of sight."""
    function = store.function
    if store.base is not None:
        return _is_used_elsewhere(store)
    if any(deletion.key == store.key and store.order < deletion.order for deletion in function.deletions):
        return True
    return any(
        other.key == store.key
        and store.order < other.order < begin.order
        and (other.region.within(store.region) or store.region.within(other.region))
        for other in function.stores
    )


def _is_used_elsewhere(store: Store) -> bool:
    """Whether another method reads, replaces or deletes the attribute, or this one does so later."""
    owner, name = instance_class(store.base) if store.base is not None else None, store.attribute or ""
    if owner is None or any(load.function is not store.function for load in owner.module.loads.get(name, ())):
        return True
    later = (other for other in owner.instance_stores.get(name, ()) if other.function is store.function)
    others = (other for other in owner.instance_stores.get(name, ()) if other.function is not store.function)
    deleted = (deletion for method in owner.methods.values() for deletion in method.lower().deletions)
    return (
        any(other.order > store.order for other in later)
        or any(other.function.name != "__init__" for other in others)
        or any(deletion.key.endswith(f".{name}") for deletion in deleted)
    )


def _deletion(store: Store, begin: Call) -> Fix | None:
    """``del`` after the last use, if each stands before training and in the block in which the name is bound."""
    scope = store.function.node
    names = [node for node in held_in([scope]) if isinstance(node, cst.Name) and node.value == store.key]
    statements = statements_over(scope, names)
    if not statements or begin.node in held_in(statements) or store.function.captures.get(store.key or ""):
        return None
    # Bound in each run, so that there is something to delete.
    first = statements[0]
    if store.target not in held_in([first]) or not isinstance(first, (cst.BaseSmallStatement, cst.With)):
        return None
    return Fix(
        "insert_statement",
        f"Release it with `del {store.key}` after its last use",
        Applicability.SAFE,
        {"statement": statements[-1]},
        {"code": f"del {store.key}"},
    )
