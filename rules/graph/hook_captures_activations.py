"""MEM106."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from memlint.findings import Claim, ClaimShape, Confidence, Finding, Fix, Related, Severity
from memlint.model.detaching import detach_fixes
from memlint.model.downstream import Reach, reaches_gradient
from memlint.model.hooks import (
    REGISTERING,
    Capture,
    HookKind,
    Kept,
    Registration,
    captures,
    growth,
    guard_of,
    is_registered_by_callers,
    is_removed,
    registrations,
    repeated_loop,
)
from memlint.model.program import Program
from memlint.model.source_text import code
from memlint.model.values import Occurrence, operand_occurrences
from memlint.rule import Rule


class HookCapturesActivations(Rule):
    """A hook collects the tensors that it gets, or is registered again and again.

    ## What it does
    Finds forward and backward hooks that put an output, an input or a gradient into a container which nothing empties:
    `acts.append(output)`, `self.grads += [grad]`, `module.seen.append(input[0].detach())`. A forward hook whose
    container is emptied by a backward hook alone is found as well, unless it asks whether gradients are recorded.

    Finds hooks that a loop, or a method that is called in each step, registers on the same module, if nothing removes
    them.

    ## Why is this bad?
    The container keeps the activation of every forward pass (1 MiB a step in a measurement with an activation of
    1 MiB), and with the graph, where no backward frees it, all other activations too (2 MiB a step there). With
    `.detach()` it still keeps the tensor: only a reduction, a copy on the host or an overwritten variable ends the
    growth.

    A hook stays on its module until `handle.remove()`. Each registration adds one more: all of them run in each forward
    pass, and each keeps what it refers to.

    ## Example
    ```python
    acts = []
    layer.register_forward_hook(lambda module, args, output: acts.append(output))
    for x in loader:
        model(x)
    ```

    ## Use instead
    ```python
    norms = []
    handle = layer.register_forward_hook(lambda module, args, output: norms.append(output.detach().norm().item()))
    for x in loader:
        model(x)
    handle.remove()
    ```

    ## Fix safety
    Safe: `.detach()` keeps value, type and device of what is collected, and drops the graph. It is not offered where
    the collection may be differentiated later. What else to keep, and when to remove a hook, is for a person to say.

    ## When to ignore
    When the number of forward passes is small, and all of their activations are needed.

    ## References
    - [torch.nn.Module.register_forward_hook](https://docs.pytorch.org/docs/stable/generated/torch.nn.Module.html)
    - [opacus#176](https://github.com/meta-pytorch/opacus/issues/176),
      [zennit#13](https://github.com/chr5tphr/zennit/pull/13)
    """

    code = "MEM106"
    name = "hook-captures-activations"
    severity = Severity.ERROR
    gate = REGISTERING
    fixers = ("call_method",)
    positive = (
        """
acts = []
def hook(module, args, output):
    acts.append(output)  # MEM106: 17
def attach(layer):
    layer.register_forward_hook(hook)
""",
        """
def watch(model, loader, grab):
    for x in loader:
        model.layer4.register_forward_hook(grab)  # MEM106: 9
        model(x)
""",
        """
from torch import nn
class Recorder:
    def __init__(self, model: nn.Module):
        self.inputs, self.grads = [], {}
        for name, module in model.named_modules():
            self.grads[name] = []
            module.register_forward_pre_hook(self.before)
            module.register_full_backward_hook(self.after(name))
    def before(self, module, args):
        self.inputs.append(args[0].detach())  # MEM106: 28
    def after(self, name):
        def hook(module, grad_input, grad_output):
            self.grads[name].append(grad_output[0])  # MEM106
        return hook
""",
        """
import torch
from functools import partial
def train(model: torch.nn.Module, loader, optimizer):
    seen = {"out": []}
    def keep(key, module, args, output):
        seen[key].append(output.cpu())  # MEM106
    model.fc.register_forward_hook(partial(keep, "out"))
    for x, y in loader:
        loss = torch.nn.functional.mse_loss(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
""",
        """
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.cache = {}
    def save(self, module, args, output):
        self.cache["out"] = output
    def forward(self, x):
        self.layer.register_forward_hook(self.save)  # MEM106
        return self.layer(x)
""",
        """
from torch import nn
def capture(module, args, output):
    if module.training:
        module.saved.append(args[0].detach())  # MEM106
def consume(module, grad_input, grad_output):
    norm(module, grad_output[0])
def norm(module, grad):
    module.norm = (module.saved.pop() * grad).norm()
def prepare(model: nn.Module):
    for module in model.modules():
        module.saved = []
        module.register_forward_hook(capture)
        module.register_full_backward_hook(consume)
def train(model: nn.Module, loader):
    prepare(model)
    for x in loader:
        model(x).sum().backward()
""",
        """
def clip(model, loader, epochs):
    for epoch in range(epochs):
        for p in model.parameters():
            p.register_hook(lambda grad: grad.clamp(-1, 1))  # MEM106
        for x in loader:
            model(x).sum().backward()
""",
    )
    negative = (
        """
import torch
def explain(model, image, classes):
    acts = []
    def hook(module, args, output):
        acts.append(output)
    handles = [model.head.register_forward_hook(hook)]
    try:
        scores = model(image)
    finally:
        for handle in handles:
            handle.remove()
    for k in classes:
        print(torch.autograd.grad(scores[k], acts, retain_graph=True))
""",
        """
from fnmatch import fnmatch
class Statistics:
    def __init__(self, model, measure):
        self.measure, self.stats = measure, []
        for name, module in model.named_modules():
            if fnmatch(name, "*.bn"):
                module.register_forward_hook(self.hook_of(measure))
    def hook_of(self, measure):
        def hook(module, args, output):
            self.stats.append(measure(module, args, output))
        return hook
""",
        """
feats = {}
def hook(module, args, output):
    feats["l4"] = output
def scale(module, args, output):
    return output * 2
def attach(layer):
    layer.register_forward_hook(hook)
    layer.register_forward_hook(scale)
""",
        """
def features(model, layer, loader, grab):
    for x in loader:
        handle = layer.register_forward_hook(grab)
        try:
            model(x)
        finally:
            handle.remove()
""",
        """
stats = []
def hook(module, args, output):
    stats.append(output.detach().float().abs().mean().item())
    stats.append(output.shape)
    stats.append(output.detach().mean())
def attach(layer):
    layer.register_forward_hook(hook)
""",
        """
from torch import nn
def attach(model: nn.Module, hook):
    handles = []
    for module in model.modules():
        handles.append(module.register_forward_hook(hook))
    for name, p in model.named_parameters():
        if p.requires_grad:
            p.register_hook(hook)
    for index in range(3):
        model.layers[index].register_forward_hook(hook)
    return handles
""",
        """
from torch import nn
class Extractor:
    def __init__(self, model: nn.Module):
        self.model = model
        self.outputs = []
        model.layer.register_forward_hook(self.save)
    def save(self, module, args, output):
        self.outputs.append(output)
    def __call__(self, x):
        self.outputs = []
        self.model(x)
        return self.outputs
""",
        """
import torch
from torch import nn
def extract(model: nn.Module, x):
    feats = []
    handle = model.layer.register_forward_hook(lambda module, args, output: feats.append(output))
    with torch.no_grad():
        model(x)
    handle.remove()
    return feats
""",
        """
import torch
from torch import nn
def style(model: nn.Module, target, steps):
    image = torch.rand(3, requires_grad=True)
    feats = []
    model.layer.register_forward_hook(lambda module, args, output: feats.append(output))
    optimizer = torch.optim.Adam([image])
    for _ in range(steps):
        model(image)
        loss = (feats.pop() - target).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
""",
        """
import torch
from torch import nn
def capture(module, args, output):
    if torch.is_grad_enabled():
        module.saved.append(args[0].detach())
def consume(module, grad_input, grad_output):
    module.norm = (module.saved.pop() * grad_output[0]).norm()
def prepare(model: nn.Module):
    for module in model.modules():
        module.saved = []
        module.register_forward_hook(capture)
        module.register_full_backward_hook(consume)
""",
        """
def train(model, loader, names):
    for x in loader:
        out = model(x)
        out.register_hook(lambda grad: grad * 2)
        out.sum().backward()
    for name in names:
        model.get_submodule(name).register_forward_hook(print)
""",
        """
from collections import deque
recent = deque(maxlen=8)
def hook(module, args, output):
    recent.append(output.detach().cpu())
def attach(layer, runner, loader):
    layer.register_forward_hook(hook)
    for x in loader:
        runner.register_hook(layer)
""",
    )

    def check(self, program: Program) -> Iterator[Finding]:
        reported: set[int] = set()
        for registration in registrations(program.module):
            yield from self._registered_again(registration)
            for capture in captures(registration):
                node = capture.insertion.node
                if capture.function.module is program.module and id(node) not in reported:
                    reported.add(id(node))
                    yield from self._captured(capture)

    def _captured(self, capture: Capture) -> Iterator[Finding]:
        insertion, kept = capture.insertion, capture.kept
        reach = reaches_gradient(insertion.container)
        if reach is Reach.YES:
            return
        attached = kept is Kept.GRAPH
        where = Occurrence(insertion.value, insertion.node)
        per = "backward" if capture.registration.kind is HookKind.BACKWARD else "forward"
        guard = guard_of(capture) if capture.emptied else None
        yield self.finding(
            insertion.node if guard is None else guard,
            lambda: (
                f"a hook keeps `{code(insertion.node)}` in `{code(insertion.holder)}`, which {_never_emptied(capture)}"
            ),
            holds=_held(capture, per),
            severity=Severity.WARNING if capture.emptied else None,
            confidence=growth(capture),
            fixes=_detached(where) if attached and reach is Reach.NO else (),
            claim=Claim(
                ClaimShape.GROWS,
                "device",
                "A" if attached else "numel * itemsize",
                holder=insertion.holder,
                held=insertion.node,
            ),
            related=() if guard is None else (Related(insertion.node, "it is kept here"),),
        )

    def _registered_again(self, registration: Registration) -> Iterator[Finding]:
        if is_removed(registration) or registration.call.function.module.is_test:
            return
        loop = repeated_loop(registration)
        if loop is None and not is_registered_by_callers(registration):
            return
        call = registration.call
        subject = operand_occurrences(call)[0].node
        often = "each time" if loop is None else "in each iteration"
        yield self.finding(
            call.node,
            f"one more hook on `{code(subject)}` {often}, and none is removed",
            holds="each hook, and the tensors that it refers to, as long as the module lives",
            confidence=Confidence.LIKELY if loop is None else Confidence.CERTAIN,
            claim=Claim(
                ClaimShape.GROWS,
                "host",
                "one hook and what it refers to",
                holder=subject,
                held=call.node,
                unobservable="hooks are functions, whose variables no run looks into; the number of hooks is no memory",
            ),
        )


def _detached(where: Occurrence) -> tuple[Fix, ...]:
    """The tensor itself is kept on."""
    return tuple(replace(fix, reveals=fix.reveals | {HookCapturesActivations.code}) for fix in detach_fixes(where))


def _never_emptied(capture: Capture) -> str:
    return "only a backward hook empties" if capture.emptied else "nothing empties"


def _held(capture: Capture, per: str) -> str:
    if capture.emptied:
        return "the activation of every forward pass without gradients on the device, since no backward follows it"
    if capture.kept is Kept.GRAPH:
        return "the tensor of every forward pass, and where no backward frees its graph, every activation"
    return f"the tensor of every {per} pass, as large as the hook gets it"
