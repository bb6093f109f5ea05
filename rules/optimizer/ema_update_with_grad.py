"""MEM703."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from memlint.findings import Applicability, Claim, ClaimShape, Confidence, Finding, Fix, Severity
from memlint.model.attachment import Attachment, attachment
from memlint.model.averaging import AverageUpdate, average_updates
from memlint.model.downstream import Reach, reaches_gradient
from memlint.model.effects import Effect, function_effects
from memlint.model.forwards import forwards
from memlint.model.freezing import is_frozen
from memlint.model.gradmode import GradMode, grad_mode
from memlint.model.program import Program
from memlint.model.scopes import Function
from memlint.model.source_text import code
from memlint.model.statements import statements_over
from memlint.rule import Rule


class EmaUpdateWithGrad(Rule):
    """An average of the parameters is updated with gradients on, so that its graph grows by each update.

    ## What it does
    Finds averages of parameters (EMA, SWA) that are computed from the live parameters, out of place, where gradients
    are recorded: `average[name] = decay * average[name] + (1 - decay) * parameter`.

    ## Why is this bad?
    Parameters require gradients, so the new average has a graph that leads to the last average, and so on back to the
    first update. Each update adds its nodes for each parameter tensor, in host memory: 2.9 kB for the two products and
    the sum (measured with torch 2.13), 9 GB for 300 tensors and 10,000 updates. The GPU sees nothing of it as long as
    the decay is a Python number; a decay that is a tensor makes each product save its operands there as well.

    ## Example
    ```python
    for name, parameter in model.named_parameters():
        average[name] = decay * average[name] + (1 - decay) * parameter
    ```

    ## Use instead
    ```python
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            average[name].lerp_(parameter, 1 - decay)
    ```

    ## Fix safety
    `torch.no_grad()` around the updates, or on a function that does nothing else, is safe: the averages have the same
    values. Where what is computed beside them may be differentiated, the fix is unsafe.

    ## When to ignore
    When the average itself is trained through, as in meta-learning; the rule is silent where it sees the backward.

    ## References
    - [PaddleNLP#6003](https://github.com/PaddlePaddle/PaddleNLP/issues/6003),
      [bittensor#557](https://github.com/RaoFoundation/bittensor/pull/557)
    - [torch.optim.swa_utils.AveragedModel](https://docs.pytorch.org/docs/stable/generated/torch.optim.swa_utils.AveragedModel.html)
    """

    code = "MEM703"
    name = "ema-update-with-grad"
    severity = Severity.WARNING
    gate = frozenset({"parameters", "named_parameters"})
    fixers = ("add_decorator", "wrap_in_with")
    positive = (
        """
import torch
class EMA:
    def __init__(self, model, decay):
        self.model = model
        self.decay = decay
        self.shadow = {}

    def register(self):
        for name, param in self.model.named_parameters():
            if param.requires_grad:
                self.shadow[name] = param.data.clone()

    def update(self):
        for name, param in self.model.named_parameters():
            if param.requires_grad:
                self.shadow[name] = (1.0 - self.decay) * param + self.decay * self.shadow[name]  # MEM703: 58
""",
        """
import torch
from torch import nn
def train(loader):
    model = nn.Linear(3, 3)
    average = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for x, y in loader:
        loss = (model(x) - y).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        for name, p in model.named_parameters():
            average[name] = average[name] * 0.9 + p * 0.1  # MEM703: 51
""",
        """
import torch
from torch import nn
class Swa:
    def __init__(self, net: nn.Module):
        self.net = net
        self.averages = [p.detach().clone() for p in net.parameters()]
        self.count = 0

    def collect(self):
        self.count += 1
        self.averages = [a + (p - a) / self.count for a, p in zip(self.averages, self.net.parameters())]  # MEM703: 31
""",
        """
import torch
class Callback:
    def __init__(self, averages):
        self.averages = averages
    def on_step(self, net, decay):
        live = dict(net.named_parameters())
        for key in self.averages:
            self.averages[key] = torch.lerp(live[key], self.averages[key], decay)  # MEM703
""",
    )
    negative = (
        """
import torch
class EMA:
    def __init__(self, model, decay):
        self.model, self.decay = model, decay
        self.shadow = {name: param.data.clone() for name, param in model.named_parameters()}

    @torch.no_grad()
    def update(self):
        for name, param in self.model.named_parameters():
            self.shadow[name] = (1.0 - self.decay) * param + self.decay * self.shadow[name]

    def update_data(self):
        for name, param in self.model.named_parameters():
            self.shadow[name] = (1.0 - self.decay) * param.data + self.decay * self.shadow[name]

    def update_detached(self):
        for name, param in self.model.named_parameters():
            self.shadow[name] = (1.0 - self.decay) * param.detach() + self.decay * self.shadow[name]

    def update_and_detach(self):
        for name, param in self.model.named_parameters():
            self.shadow[name] = ((1.0 - self.decay) * param + self.decay * self.shadow[name]).detach()

    def update_state(self):
        for name, value in self.model.state_dict().items():
            self.shadow[name] = (1.0 - self.decay) * value + self.decay * self.shadow[name]
""",
        """
import copy
from torch import nn
def train(model: nn.Module, batches, step):
    average = copy.deepcopy(model)
    for batch in batches:
        step(model, batch)
        for a, p in zip(average.parameters(), model.parameters()):
            a.data = 0.9 * a + 0.1 * p
        for a, p in zip(average.parameters(), model.parameters()):
            a.data.mul_(0.9).add_(p.data, alpha=0.1)
""",
        """
import torch
def penalty(model, loss):
    norm = 0.0
    for p in model.parameters():
        norm = norm + p.pow(2).sum()
    (loss + 0.01 * norm).backward()
""",
        """
import torch
from torch.func import functional_call
def adapt(model, loss_function, x, y, steps):
    fast = {name: p.clone() for name, p in model.named_parameters()}
    for _ in range(steps):
        loss = loss_function(functional_call(model, fast, (x,)), y)
        grads = torch.autograd.grad(loss, list(fast.values()), create_graph=True)
        fast = {name: value - 0.1 * g for (name, value), g in zip(fast.items(), grads)}
    loss_function(functional_call(model, fast, (x,)), y).backward()
""",
        """
from transformers import AutoModel
model = AutoModel.from_pretrained("bert-base-uncased")
model.requires_grad_(False)
class Mean:
    def __init__(self):
        self.mean = {}
    def add(self):
        for name, p in model.named_parameters():
            self.mean[name] = 0.5 * self.mean[name] + 0.5 * p
""",
    )

    def check(self, program: Program) -> Iterator[Finding]:
        for function in program.functions:
            seen: set[cst.CSTNode] = set()
            for update in average_updates(function):
                confidence = _confidence(update)
                if confidence is not None and update.average not in seen:
                    seen.add(update.average)
                    yield self._finding(update, confidence)

    def _finding(self, update: AverageUpdate, confidence: Confidence) -> Finding:
        average, parameter = code(update.average), code(update.parameter.node)
        # All averages together: a subscript names another one in each iteration.
        holder = update.average.value if isinstance(update.average, cst.Subscript) else update.average
        return self.finding(
            update.parameter.node,
            f"`{average}` takes in the live parameter `{parameter}` and with it the graph of every update before",
            holds="graph nodes in host memory, about 2.9 kB per parameter tensor and update",
            confidence=confidence,
            fixes=_fixes(update),
            claim=Claim(ClaimShape.GROWS, "host", "2.9 kB x tensors", holder, update.parameter.node),
        )


def _confidence(update: AverageUpdate) -> Confidence | None:
    mode = grad_mode(update.region)
    if update.in_place or mode is GradMode.DISABLED or is_frozen(update.module):
        return None
    if attachment(update.value) is Attachment.DETACHED or reaches_gradient(update.value) is Reach.YES:
        return None
    unsure = mode is GradMode.UNKNOWN or update.region.function.module.is_test
    return Confidence.POSSIBLE if unsure else Confidence.LIKELY


def _fixes(update: AverageUpdate) -> tuple[Fix, ...]:
    function = update.region.function
    no_grad = {"code": "torch.no_grad()", "import": "torch"}
    if _only_averages(function):
        message = f"Decorate `{function.name}` with `@torch.no_grad()`"
        return (Fix("add_decorator", message, Applicability.SAFE, {"function": function.node}, no_grad),)
    statements = statements_over(function.node, [update.parameter.node])
    if not statements:
        return ()
    targets = {"statement": statements}
    return (Fix("wrap_in_with", "Update it under `torch.no_grad()`", Applicability.SAFE, targets, no_grad),)


def _only_averages(function: Function) -> bool:
    """Whether ``function`` computes nothing beside the averages that a gradient could be wanted of."""
    return (
        isinstance(function.node, cst.FunctionDef)
        and not function.is_generator
        and not forwards(function)
        and not function_effects(function) & (Effect.BACKWARD | Effect.STEP)
        and all(attachment(leaving.value) is Attachment.DETACHED for leaving in function.returns)
    )
