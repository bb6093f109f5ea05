"""MEM906."""

from __future__ import annotations

from collections.abc import Iterator

from memlint.findings import Applicability, Claim, ClaimShape, Confidence, Finding, Fix, Severity, Watch
from memlint.model.aliases import qualified_names, sources
from memlint.model.kinds import Role, role
from memlint.model.layer_outputs import is_tensor_of_layer
from memlint.model.program import Program
from memlint.model.source_text import code
from memlint.model.values import Call, Constant, Display, Element, Item, Occurrence, Part, Value, operand_occurrences
from memlint.model.views import view_of
from memlint.rule import Rule


class FullStorageSerialised(Rule):
    """A part of a tensor is saved together with the whole storage that it is a view of.

    ## What it does
    Finds `torch.save` of a slice or an element of a tensor: `torch.save(features[i], path)`, the entries of a literal
    dict or list, and the elements of a loop over a tensor.

    ## Why is this bad?
    `torch.save` writes storages, and a slice shares the storage of its tensor: each file holds all of it, and loading
    the file brings all of it back into memory. The first row of a tensor of 4 MB took 4,001,577 bytes, its clone
    5,545 (measured).

    ## Example
    ```python
    for i, name in enumerate(names):
        torch.save(features[i], f"{name}.pt")
    ```

    ## Use instead
    ```python
    for i, name in enumerate(names):
        torch.save(features[i].clone(), f"{name}.pt")
    ```

    ## Fix safety
    Safe: the same values are saved. Several views of one tensor in one file no longer share their storage when they are
    loaded.

    ## When to ignore
    When the part is nearly all of the tensor.

    ## References
    - [Serialization semantics: saving and loading preserves views](https://docs.pytorch.org/docs/stable/notes/serialization.html#saving-and-loading-tensors-preserves-views)
    """

    code = "MEM906"
    name = "full-storage-serialised"
    severity = Severity.WARNING
    gate = frozenset({"save"})
    fixers = ("call_method",)
    positive = (
        """
import torch
def write(model, x, names):
    features = torch.stack([model(each) for each in x])
    for i, name in enumerate(names):
        torch.save(features[i], f"{name}.pt")  # MEM906: 20
""",
        """
import torch
from torch import nn
def write(net: nn.Module, x):
    out = net(x)
    torch.save({"first": out[:1, 0], "all": out}, "out.pt")  # MEM906: 26
""",
        """
import torch
def split(n):
    noise = torch.randn(n, 3, 256, 256)
    for k, sample in enumerate(noise):
        torch.save(sample, f"{k}.pt")  # MEM906: 20
    for sample in noise:
        torch.save(sample.detach(), "last.pt")  # MEM906
""",
        """
import torch
from torch import nn
def write(x):
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8))
    for i, row in enumerate(net(x)):
        torch.save(row, f"{i}.pt")  # MEM906: 20
    out = nn.Linear(4, 8)(x)
    for i in range(len(x)):
        torch.save(out[i], f"{i}.pt")  # MEM906
""",
    )
    negative = (
        """
import torch
def write(model, x, names):
    features = torch.stack([model(each) for each in x])
    for i, name in enumerate(names):
        torch.save(features[i].clone(), f"{name}.pt")
    torch.save(features, "all.pt")
    torch.save(features[features > 0], "positive.pt")
""",
        """
import torch
def write(state, path, epochs):
    torch.save(state["model"], path)
    for epoch in range(epochs):
        torch.save({"epoch": epoch, "model": state["model"]}, f"{path}-{epoch}")
    for model in [state["model"]]:
        torch.save(model, path)
""",
        """
import torch
def write(samples, chunks):
    tensors = [torch.tensor(sample) for sample in samples]
    torch.save(tensors[0], "first.pt")
    for tensor in tensors:
        torch.save(tensor, "last.pt")
""",
        """
import torch
from torch import nn
def write(x):
    for i, part in enumerate(nn.LSTM(4, 8)(x)):
        torch.save(part, f"{i}.pt")
""",
    )

    def check(self, program: Program) -> Iterator[Finding]:
        for call in program.calls("save"):
            if "torch.save" in qualified_names(call.callee) and call.arguments:
                first = call.arguments[0]
                for part in _parts(Occurrence(first.value, first.node.value)):
                    confidence = _is_view(part.value)
                    if confidence is not None:
                        yield self._finding(part, confidence)

    def _finding(self, part: Occurrence, confidence: Confidence) -> Finding:
        return self.finding(
            part.node,
            f"`{code(part.node)}` is a view: the file holds the whole storage of the tensor that it is a part of",
            holds="the whole tensor in each file, and in host memory when it is loaded",
            confidence=confidence,
            fixes=(
                Fix(
                    "call_method",
                    "Save a copy of the part with `.clone()`",
                    Applicability.SAFE,
                    {"expression": part.node},
                    {"method": "clone"},
                ),
            ),
            claim=Claim(
                ClaimShape.PLATEAU,
                "host",
                "storage of the tensor",
                held=part.node,
                watch=Watch.SERIALISED,
            ),
        )


def _parts(written: Occurrence) -> Iterator[Occurrence]:
    """What is saved: the value, or the entries of a literal."""
    if isinstance(written.value, Display):
        for entry in operand_occurrences(written.value):
            yield from _parts(entry)
    else:
        yield written


_KEEPING_STORAGE = frozenset({"detach", "view", "squeeze", "unsqueeze", "contiguous"})
"""Methods after which a part that is contiguous has the same storage still."""


def _is_view(value: Value) -> Confidence | None:
    """How sure it is that a value is a small part of a tensor, and shares its storage."""
    while isinstance(value, Call) and value.method in _KEEPING_STORAGE and value.receiver is not None:
        value = value.receiver
    found = view_of(value)
    if found is not None:
        return found.confidence if found.confidence is not Confidence.POSSIBLE or _is_only(value) else Confidence.LIKELY
    for source in (value, *sources(value)):
        base = _counted(source)
        if base is not None and _is_tensor(base):
            return Confidence.LIKELY
    return None


def _is_only(value: Value) -> bool:
    """Whether the part is the first of what may have one only: ``out[0]``."""
    return isinstance(value, Item) and len(value.index) == 1


def _counted(value: Value) -> Value | None:
    """What a value is one of, at the counter of a loop: ``tensor[i]``, or the element of a loop over it."""
    if isinstance(value, Item) and len(value.index) == 1 and value.index[0] is not None:
        index = value.index[0]
        return value.base if any(_is_counter(source) for source in sources(index)) else None
    if isinstance(value, Part) and value.index == 1 and isinstance(value.base, Element):
        return _enumerated(value.base)
    return value.iterable if isinstance(value, Element) else None


def _enumerated(element: Element) -> Value | None:
    for source in sources(element.iterable):
        if isinstance(source, Call) and "builtins.enumerate" in qualified_names(source.callee) and source.positional():
            return source.positional()[0]
    return None


def _is_counter(index: Value) -> bool:
    """Whether a value is the counter of ``range`` or ``enumerate``."""
    if isinstance(index, Part) and index.index == 0 and isinstance(index.base, Element):
        return _enumerated(index.base) is not None
    return isinstance(index, Element) and any(
        isinstance(source, Call) and "builtins.range" in qualified_names(source.callee)
        for source in sources(index.iterable)
    )


def _is_tensor(base: Value) -> bool:
    found = sources(base)
    computed = all(isinstance(source, Call) and not isinstance(source, Constant) for source in found)
    return bool(found) and computed and (role(base, Role.TENSOR) is not None or is_tensor_of_layer(base))
