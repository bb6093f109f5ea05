"""MEM205."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from memlint.findings import Applicability, Claim, ClaimShape, Finding, Fix, Related, Severity
from memlint.model.forwards import called_module
from memlint.model.optimized import makes_optimizer
from memlint.model.program import Program
from memlint.model.source_text import code, written
from memlint.model.untrained import Untrained, untrained_modules
from memlint.model.values import Attribute, Call, Phi, Value, operand_occurrences
from memlint.rule import Rule


class TrainableButNotOptimised(Rule):
    """Parameters require gradients and get them in every backward, but no optimizer holds them.

    ## What it does
    Finds optimizers that are given a part of what is trained: `AdamW(model.fc.parameters())` for a loss of `model(x)`,
    or a head in front of a backbone that stays out. All optimizers of the file count together. Modules are left out
    whose gradients are switched off anywhere: `requires_grad_(False)`, a helper that freezes, PEFT, `torch.no_grad()`
    or `.detach()` on the way.

    ## Why is this bad?
    The backward saves the activations of those layers, computes their gradients and adds them to `.grad`.
    `optimizer.zero_grad()` clears what the optimizer holds and nothing else, so these gradients are never freed and
    their norm grows with every step: 17.1 MiB alive in place of 9.1 MiB, and a peak of 27.1 MiB in place of 11.0 MiB
    (measured, a small network with a frozen and an unfrozen backbone). DDP reduces them between all processes as well.

    ## Example
    ```python
    model = resnet18(weights="DEFAULT")
    model.fc = nn.Linear(512, 10)
    optimizer = torch.optim.AdamW(model.fc.parameters())
    ```

    ## Use instead
    ```python
    model = resnet18(weights="DEFAULT").requires_grad_(False)
    model.fc = nn.Linear(512, 10)
    optimizer = torch.optim.AdamW(model.fc.parameters())
    ```

    ## Fix safety
    Unsafe: `requires_grad_(False)` is inserted above the optimizer. What is trained gets the same gradients, but code
    that unfreezes the layers later has to switch them on. A part that stands between trained parts may not run under
    `no_grad`; freezing it is right there as well. There is no fix for what seems to have been forgotten, such as a loss
    with weights of its own: that belongs into the optimizer.

    ## When to ignore
    When the gradients are read by other code, or the layers join an optimizer that memlint does not see.

    ## References
    - [3dvnet#11](https://github.com/alexrich021/3dvnet/issues/11),
      [seasonal-contrast#6](https://github.com/ServiceNow/seasonal-contrast/issues/6),
      [tutorials#1008](https://github.com/pytorch/tutorials/issues/1008)
    - [Finetuning: freezing parameters](https://docs.pytorch.org/docs/stable/notes/autograd.html#setting-requires-grad)
    """

    code = "MEM205"
    name = "trainable-but-not-optimised"
    severity = Severity.WARNING
    gate = frozenset({"parameters", "params"})
    fixers = ("insert_statement",)
    positive = (
        """
import torch
from torch import nn
from torchvision.models import resnet18
def finetune(loader, criterion):
    model = resnet18(weights="DEFAULT")
    model.fc = nn.Linear(512, 10)
    optimizer = torch.optim.AdamW(model.fc.parameters(), lr=1e-3)  # MEM205: 17
    for x, y in loader:
        optimizer.zero_grad()
        criterion(model(x), y).backward()
        optimizer.step()
""",
        """
import torch
from torch import nn
def probe(loader, criterion):
    backbone, head = nn.Sequential(nn.Linear(8, 8), nn.ReLU()), nn.Linear(8, 2)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1)  # MEM205: 17
    for x, y in loader:
        loss = criterion(head(backbone(x)), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
""",
        """
import torch
from torch import nn
class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(8, 4), nn.Linear(4, 8)
    def forward(self, x):
        return self.decoder(self.encoder(x))
class Trainer:
    def __init__(self):
        self.model = Model().cuda()
        self.optimizer = torch.optim.Adam([{"params": self.model.decoder.parameters()}], lr=1e-3)  # MEM205: 26
    def fit(self, loader):
        for x in loader:
            loss = (self.model(x) - x).pow(2).mean()
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
""",
        """
import torch
import lightning as L
class Probe(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.backbone, self.head = torch.nn.Linear(8, 4), torch.nn.Linear(4, 2)
    def forward(self, x):
        return self.head(self.backbone(x))
    def training_step(self, batch, batch_idx):
        x, y = batch
        return torch.nn.functional.cross_entropy(self(x), y)
    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.head.parameters())  # MEM205
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1)]
""",
        """
import torch
from torch import nn
from torchvision.models import vgg16
def upscale(loader, criterion):
    net = nn.Conv2d(3, 3, 3, padding=1)
    vgg = vgg16(weights="DEFAULT").features.eval()
    optimizer = torch.optim.Adam(net.parameters())  # MEM205
    for small, large in loader:
        made = net(small)
        loss = criterion(made, large) + criterion(vgg(made), vgg(large).detach())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
""",
        """
import torch
from torch import nn
class Angular(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(10, 8))
    def forward(self, x, y):
        return nn.functional.cross_entropy(x @ self.weight.T, y)
def recognise(loader):
    net, loss_of = nn.Linear(4, 8), Angular()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)  # MEM205
    for x, y in loader:
        loss = loss_of(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
""",
        """
import torch
from transformers import AutoModelForSequenceClassification
def classify(loader):
    model = AutoModelForSequenceClassification.from_pretrained("bert-base-uncased")
    params = [p for p in model.classifier.parameters()]
    optimizer = torch.optim.AdamW(params)  # MEM205
    for batch in loader:
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
""",
    )
    negative = (
        """
import torch
from torch import nn
def mean(x):
    return x.mean(0)
TABLE = {"mean": mean}
class Center(nn.Module):
    def __init__(self, size, mode="mean"):
        super().__init__()
        fn = TABLE.get(mode)
        if fn is None:
            raise ValueError
        self._fn = fn
        self.register_buffer("center", torch.zeros(size))
    def forward(self, x):
        return x - self.center + self._fn(x)
class Loss(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.center = Center(size)
    def forward(self, x):
        return self.center(x).mean()
def main(loader, model: nn.Module):
    criterion = Loss(3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.5e-4)
    for x in loader:
        loss = criterion(model(x))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
""",
        """
import torch
from torch import nn

class Penalty(nn.Module):
    def __init__(self):
        super().__init__()
        self.sum = nn.Parameter(torch.tensor(0.0), requires_grad=False)

    def forward(self, x):
        loss = (x.norm() - self.sum) ** 2
        self.sum.add_(x.norm().detach())
        return loss

def train(loader):
    model, penalty = nn.Linear(4, 4), Penalty()
    optimizer = torch.optim.Adam(model.parameters())
    for x in loader:
        optimizer.zero_grad()
        penalty(model(x)).backward()
        optimizer.step()
""",
        """
import torch
from torch import nn
from torchvision.models import resnet18
def finetune(loader, criterion):
    model = resnet18(weights="DEFAULT")
    for parameter in model.parameters():
        parameter.requires_grad = False
    model.fc = nn.Linear(512, 10)
    optimizer = torch.optim.AdamW(model.fc.parameters(), lr=1e-3)
    for x, y in loader:
        optimizer.zero_grad()
        criterion(model(x), y).backward()
        optimizer.step()
""",
        """
import torch
from torch import nn
def probe(loader, criterion):
    backbone, head = nn.Linear(8, 8), nn.Linear(8, 2)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
    for x, y in loader:
        with torch.no_grad():
            features = backbone(x)
        loss = criterion(head(features), y) + criterion(head(backbone(x).detach()), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
""",
        """
import torch
from torch import nn
def two(loader, criterion):
    encoder, decoder = nn.Linear(8, 8), nn.Linear(8, 2)
    encoder_optimizer = torch.optim.SGD(encoder.parameters(), lr=0.1)
    decoder_optimizer = torch.optim.SGD(decoder.parameters(), lr=0.1)
    for x, y in loader:
        loss = criterion(decoder(encoder(x)), y)
        encoder_optimizer.zero_grad()
        decoder_optimizer.zero_grad()
        loss.backward()
        encoder_optimizer.step()
        decoder_optimizer.step()
def joined(loader, criterion):
    encoder, decoder = nn.Linear(8, 8), nn.Linear(8, 2)
    params = list(encoder.parameters())
    params += list(decoder.parameters())
    optimizer = torch.optim.SGD(params, lr=0.1)
    for x, y in loader:
        optimizer.zero_grad()
        criterion(decoder(encoder(x)), y).backward()
        optimizer.step()
""",
        """
import torch
from torch import nn
def attack(model: nn.Module, x, y, criterion):
    x = x.clone().requires_grad_(True)
    optimizer = torch.optim.Adam([x], lr=0.1)
    for _ in range(10):
        optimizer.zero_grad()
        criterion(model(x), y).backward()
        optimizer.step()
def heads_only(model: nn.Module, head: nn.Module, loader, criterion):
    optimizer = torch.optim.Adam(head.parameters())
    for x, y in loader:
        optimizer.zero_grad()
        criterion(head(model(x)), y).backward(inputs=list(head.parameters()))
        optimizer.step()
""",
        """
import torch
from torch import nn
def freeze(module, flag=False):
    for parameter in module.parameters():
        parameter.requires_grad_(flag)
class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(8, 4), nn.Linear(4, 8)
        freeze(self.encoder)
    def forward(self, x):
        return self.decoder(self.encoder(x))
def fit(loader):
    model = Model()
    optimizer = torch.optim.Adam(model.decoder.parameters())
    for x in loader:
        loss = (model(x) - x).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
""",
        """
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM
def tune(loader):
    model = AutoModelForCausalLM.from_pretrained("gpt2")
    model = get_peft_model(model, LoraConfig())
    optimizer = torch.optim.AdamW(model.base_model.parameters())
    for batch in loader:
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
class Model(nn.Module):
    def __init__(self, encoder, decoder):
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
    def forward(self, x):
        return self.decoder(self.encoder(x))
def fit(loader):
    encoder, decoder = nn.Linear(8, 4), nn.Linear(4, 8)
    model = Model(encoder, decoder)
    optimizer = torch.optim.Adam(model.parameters())
    for x in loader:
        loss = (decoder(encoder(x)) - x).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
""",
        """
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(8, 8), nn.Linear(8, 2)
    def forward(self, x):
        return self.head(self.body(x))
    def groups(self):
        for module in (self.body, self.head):
            for layer in module.modules():
                for parameter in layer.parameters():
                    yield parameter
def fit(loader, criterion, bias):
    net = Net()
    optimizer = torch.optim.SGD([{"params": net.groups()}, {"params": [bias]}], lr=0.1)
    for x, y in loader:
        optimizer.zero_grad()
        criterion(net(x), y).backward()
        optimizer.step()
def selected(loader, criterion, names):
    net = Net()
    optimizer = torch.optim.SGD([p for n, p in net.named_parameters() if n in names], lr=0.1)
    for x, y in loader:
        optimizer.zero_grad()
        criterion(net(x), y).backward()
        optimizer.step()
""",
        """
import torch
from torch import nn
from somewhere import freeze_backbone
def fit(loader, criterion):
    backbone, head = nn.Linear(8, 8), nn.Linear(8, 2)
    freeze_backbone(backbone)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
    for x, y in loader:
        optimizer.zero_grad()
        criterion(head(backbone(x)), y).backward()
        optimizer.step()
""",
        """
import torch
from torch import nn
def fit(loader, criterion, epochs):
    backbone, head = nn.Linear(8, 8), nn.Linear(8, 2)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
    for epoch in range(epochs):
        if epoch == 5:
            optimizer.add_param_group({"params": backbone.parameters()})
        for x, y in loader:
            optimizer.zero_grad()
            criterion(head(backbone(x)), y).backward()
            optimizer.step()
""",
    )

    def check(self, program: Program) -> Iterator[Finding]:
        for function in program.functions:
            for call in function.calls:
                if makes_optimizer(call):
                    for found in untrained_modules(call):
                        yield self._finding(found)

    def _finding(self, found: Untrained) -> Finding:
        module = code(_module_node(found.forward))
        rest = f"the rest of `{module}`" if found.partly else f"`{module}`"
        return self.finding(
            found.optimizer.node,
            f"no optimizer holds {rest}, which gets gradients all the same",
            holds=f"the gradients of {rest}, which nothing clears, and the activations that they are computed from",
            confidence=found.confidence,
            fixes=tuple(_fixes(found)),
            related=(Related(found.forward.node, "the forward pass"),),
            claim=Claim(
                ClaimShape.PLATEAU,
                "device",
                "G + A",
                held=found.optimizer.node,
                unobservable="the gradients are allocated in another line, by a backward that others need as well",
            ),
        )


def _module_node(forward: Call) -> cst.BaseExpression:
    """The module where it is called: ``backbone`` in ``backbone(x)`` and in ``backbone.forward(x)``."""
    function = forward.node.func
    return function.value if forward.method == "forward" and isinstance(function, cst.Attribute) else function


def _fixes(found: Untrained) -> Iterator[Fix]:
    """Freezing above the optimizer, where that names the module as the forward pass does."""
    node = _module_node(found.forward)
    module = called_module(found.forward)
    named = isinstance(node, (cst.Name, cst.Attribute))
    if module is None or not found.meant_frozen or not named or not _is_known_at(module, found.optimizer):
        return
    frozen = f"{written(node)}.requires_grad_(False)"
    trained = _trained_part(found.optimizer) if found.partly else ""
    if trained is None:
        return
    thawed = f"\n{trained}.requires_grad_(True)" if trained else ""
    yield Fix(
        "insert_statement",
        f"Freeze it with `{frozen}`",
        Applicability.UNSAFE,
        {"statement": found.optimizer.node},
        {"code": frozen + thawed, "where": "before"},
    )


def _is_known_at(module: Value, optimizer: Call) -> bool:
    """Whether the expression for ``module`` means the same above the optimizer: it is bound before, or of ``self``."""
    if isinstance(module, Attribute) and module.base is module.function.instance:
        return optimizer.function.owner is module.function.owner
    while isinstance(module, Phi) and module.loop is not None:
        module = module.inputs[0]
    return module.function is optimizer.function and module.order < optimizer.order


def _trained_part(optimizer: Call) -> str | None:
    """The module whose parameters the optimizer is given, if it is written there alone."""
    given = optimizer.argument("params", 0)
    if not isinstance(given, Call) or given.method != "parameters":
        return None
    return written(operand_occurrences(given)[0].node)
