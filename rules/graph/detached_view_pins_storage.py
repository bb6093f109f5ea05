"""MEM111."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from memlint.findings import Applicability, Claim, ClaimShape, Confidence, Finding, Fix, Severity
from memlint.model.aliases import instance_class, same_object
from memlint.model.attachment import keeps_graph
from memlint.model.containers import is_emptied_in, length_limit
from memlint.model.detaching import written_members
from memlint.model.program import Program
from memlint.model.scopes import Function
from memlint.model.source_text import code
from memlint.model.stashes import Stash, stashes
from memlint.model.values import (
    Attribute,
    Binary,
    Call,
    Constant,
    Element,
    Item,
    Occurrence,
    Part,
    Region,
    Store,
    Value,
)
from memlint.model.views import View, view_of
from memlint.rule import Rule


class DetachedViewPinsStorage(Rule):
    """A small part of a tensor is kept as a view, which keeps the whole tensor.

    ## What it does
    Finds slices that go into a container or an attribute and share the storage of a tensor made in the same iteration
    or call: `features.append(hidden[:, 0, :])`, `self.state = out.detach()[:, -1]`, `parts.append(x.select(1, 0))`.
    Indexing by a list, a mask or a tensor copies and is not found, nor is what is cloned or moved. A slice that may be
    all there is, such as `out[:, 0]` of a model with one output, is found only as possible.

    ## Why is this bad?
    The view needs the storage that it is a view of, and that is one block: it stays allocated as a whole. Four slices
    `out.detach()[:, 0]` of tensors with 64 x 512 x 256 elements keep 128 MiB, their clones 0.25 MiB. `.squeeze()`,
    `.view()` and `.contiguous()` after a slice along the first dimension copy nothing either, and `.cpu()` copies only
    what is on another device.

    ## Example
    ```python
    with torch.no_grad():
        for x in loader:
            hidden = model(**x).last_hidden_state
            features.append(hidden[:, 0])
    ```

    ## Use instead
    ```python
    with torch.no_grad():
        for x in loader:
            hidden = model(**x).last_hidden_state
            features.append(hidden[:, 0].clone())
    ```

    ## Fix safety
    Safe: `.clone()` keeps value, type and device, and needs no more than the part itself.

    ## When to ignore
    When the tensor is kept as a whole anyway, or the part is most of it.

    ## References
    - [Tensor Views](https://docs.pytorch.org/docs/stable/tensor_view.html)
    """

    code = "MEM111"
    name = "detached-view-pins-storage"
    severity = Severity.WARNING
    gate = frozenset({"torch", "transformers", "lightning", "pytorch_lightning", "accelerate"})
    fixers = ("call_method",)
    positive = (
        """
import torch
from torch import nn
@torch.no_grad()
def embed(model: nn.Module, loader):
    features, firsts, scores = [], [], []
    for x in loader:
        hidden = model(x)
        features.append(hidden[:, 0, :])  # MEM111: 25
        firsts.append(hidden.select(1, 0))  # MEM111
        scores.append(hidden.detach()[0, 0].squeeze())  # MEM111
    return torch.stack(features), firsts, scores
""",
        """
import torch
from transformers import AutoModel
def encode(batches):
    model = AutoModel.from_pretrained("bert-base-uncased")
    store = {"cls": []}
    with torch.no_grad():
        for batch in batches:
            outputs = model(**batch)
            store["cls"].append(outputs.last_hidden_state[:, 0])  # MEM111
            store["cls"].append(outputs.hidden_states[-1][:, -1])  # MEM111
""",
        """
import torch
from torch import nn
class Agent:
    def __init__(self):
        self.rnn = nn.GRU(4, 4, batch_first=True)
        self.state = None
    def act(self, x):
        out, _ = self.rnn(x)
        self.state = out.detach()[:, -1]  # MEM111: 22
        return out
""",
        """
import torch
from torch import nn
def probe(model: nn.Module, dataset, optimizer):
    kept = []
    for x, y in torch.utils.data.DataLoader(dataset, batch_size=8):
        out = model(x)
        loss = nn.functional.mse_loss(out, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        kept.append((out.detach().narrow(1, 0, 1), y[:, :2, :]))  # MEM111 MEM111
""",
    )
    negative = (
        """
import torch
from torch import nn
@torch.no_grad()
def embed(model: nn.Module, loader):
    features = []
    for x, mask, rows in loader:
        hidden = model(x)
        features.append(hidden[:, 0, :].clone())
        features.append(hidden[:, 0, :].cpu())
        features.append(hidden[:, [0], :])
        features.append(hidden[mask])
        features.append(hidden[:, rows, :])
        features.append(hidden[:, :, :])
        features.append(hidden[:, 0, :].mean(0))
        features.append(hidden.max(1).values[:, 0].contiguous())
        features.append(hidden[:, 0, :].contiguous())
        features.append(hidden[:, 0, 0].tolist())
        features.append(hidden.argmax(-1)[0, 0])
    return features
""",
        """
import torch
from torch import nn
@torch.no_grad()
def predict(model: nn.Module, loader):
    preds, whole, rows = [], [], []
    for x in loader:
        preds.append(model(x)[:, 0])
        out = model(x)
        whole.append(out)
        rows.append(out[:, 0, :])
        for i in range(len(out)):
            rows.append(out[i])
    return preds, whole, rows
""",
        """
import torch
class Table:
    def __init__(self, size):
        self.values = torch.zeros(size, 4, 4)
        self.first = self.values[0, 0]
    def rows(self, n):
        return [self.values[0, 0, :] for _ in range(n)]
    def collect(self, n):
        found = []
        for _ in range(n):
            found.append(self.values[0, 0, :])
        return found
""",
        """
import torch
from torch import nn
def train(model: nn.Module, loader, optimizer):
    for x, y in loader:
        parts = []
        out = model(x)
        parts.append(out[:, 0, :])
        parts.append(out[:, -1, :])
        loss = torch.cat(parts).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
""",
        """
import numpy as np
import torch
def rows(images):
    found = []
    for image in images:
        found.append(np.asarray(image)[0, :, :])
    return found
""",
        """
from collections import deque
import torch
from torch import nn
@torch.no_grad()
def watch(model: nn.Module, loader):
    pending = []
    for x in loader:
        pending.append(model(x)[:, 0, :])
        while pending:
            print(pending.pop().norm())
""",
    )

    def check(self, program: Program) -> Iterator[Finding]:
        for function in program.functions:
            kept = list(stashes(function))
            for stash in kept:
                yield from self._stashed(stash, kept)
            if function.name != "__init__":
                for store in function.stores:
                    yield from self._assigned(store, function)

    def _stashed(self, stash: Stash, others: list[Stash]) -> Iterator[Finding]:
        insertion, loop = stash.insertion, stash.loop
        if loop is not None and is_emptied_in(insertion.container, loop):
            return
        for member in written_members(stash.occurrence):
            view = view_of(member.value)
            if view is None or keeps_graph(member.value) or not _is_made_in(view.base, loop or insertion.event.region):
                continue
            if any(_keeps_whole(other, view.base) for other in others):
                continue
            if _may_be_whole(member.value, view.base, others):
                view = view._replace(confidence=Confidence.POSSIBLE)
            limit = length_limit(insertion.container)
            most = "" if limit is None else f", for the last {limit} of them"
            yield self._finding(member, insertion.holder, view, f"every iteration{most}", grows=True)

    def _assigned(self, store: Store, function: Function) -> Iterator[Finding]:
        if store.attribute is None or store.base is None or instance_class(store.base) is None:
            return
        view = view_of(store.value)
        if view is None or keeps_graph(store.value) or not isinstance(store.node, cst.Assign):
            return
        if _is_made_in(view.base, function.body) and store.target is store.node.targets[0].target:
            member = Occurrence(store.value, store.node.value)
            yield self._finding(member, store.target, view, "the last call", grows=False)

    def _finding(self, member: Occurrence, holder: cst.CSTNode, view: View, span: str, *, grows: bool) -> Finding:
        return self.finding(
            member.node,
            lambda: f"`{code(member.node)}` is a view: `{code(holder)}` keeps all of the tensor that it is a part of",
            holds=f"the whole tensor of {span}, where its memory is, instead of the part",
            confidence=view.confidence,
            fixes=(
                Fix(
                    "call_method",
                    lambda: f"Copy `{code(member.node)}`, so that the rest can be freed",
                    Applicability.SAFE,
                    {"expression": member.node},
                    {"method": "clone"},
                ),
            )
            if view.confidence is not Confidence.POSSIBLE
            else (),
            claim=Claim(
                ClaimShape.GROWS if grows else ClaimShape.PLATEAU,
                "device",
                "numel * itemsize of the whole tensor",
                holder=holder,
                held=member.node,
            ),
        )


def _is_made_in(base: Value, region: Region) -> bool:
    """Whether the tensor, or the output or batch that it is a field of, is new in each run of ``region``."""
    while isinstance(base, (Attribute, Item, Part)):
        base = base.base
    is_made = isinstance(base, (Call, Binary, Element))
    return is_made and base.function is region.function and base.region.within(region)


def _keeps_whole(stash: Stash, base: Value) -> bool:
    """Whether the whole tensor is kept as well."""
    return any(same_object(member.value, base) for member in written_members(stash.occurrence))


def _may_be_whole(part: Value, base: Value, stashes: list[Stash]) -> bool:
    """Whether the places that are kept along a dimension may be all that there are: ``xy[..., 0]``, ``xy[..., 1]``."""
    place = _place(part, base)
    if place is None:
        return False
    members = (member.value for stash in stashes for member in written_members(stash.occurrence))
    kept = {found[1] for value in members if (found := _place(value, base)) is not None and found[0] == place[0]}
    return len(kept) > 1 and kept == set(range(len(kept)))


def _place(part: Value, base: Value) -> tuple[int, int] | None:
    """The dimension along which ``part`` is one place of the tensor, and which; None if it is another part, or none."""
    if not isinstance(part, Item) or not same_object(part.base, base):
        return None
    chosen = [(at, index) for at, index in enumerate(part.index) if index is not None]
    if len(chosen) != 1 or not isinstance(chosen[0][1], Constant):
        return None
    index = chosen[0][1].constant
    return (chosen[0][0], index) if isinstance(index, int) else None
