"""MEM707."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from memlint.findings import Applicability, Claim, ClaimShape, Confidence, Finding, Fix, Severity, Watch
from memlint.model.aliases import qualified_names, sources
from memlint.model.identity import Object, objects
from memlint.model.paths import path_key
from memlint.model.program import Program
from memlint.model.source_text import code
from memlint.model.values import Attribute, Call, Store, Value
from memlint.rule import Rule


class TiedWeightsBrokenOrDoubleCounted(Rule):
    """Two parameters of a model share their storage by `.data`, and yet have a gradient and optimizer states each.

    ## What it does
    Finds `a.weight.data = b.weight.data` where `a` and `b` are parts of the same model, so that both stay in use.

    ## Why is this bad?
    Weights are tied if both names are the same `Parameter`: then there is one gradient and one set of optimizer states.
    Assigning `.data` only makes the two share memory for their values. They remain two parameters (128,000 elements
    were counted for a shared table of 64,000), each gets the gradient of its own use, and Adam keeps two moments for
    each of them: vocabulary x width x (4 + 8) bytes too much. They do not even stay equal for certain:
    `load_state_dict(assign=True)` and `to_empty()` separate them.

    ## Example
    ```python
    self.head.weight.data = self.embedding.weight.data
    ```

    ## Use instead
    ```python
    self.head.weight = self.embedding.weight
    ```

    ## Fix safety
    Unsafe: the shared parameter then gets the sum of both gradients and is updated once, so that training goes another,
    and presumably the intended way.

    ## When to ignore
    When one of the two is frozen, or when the sharing is meant to last until the first step only.

    ## References
    - [torch.nn.Parameter](https://docs.pytorch.org/docs/stable/generated/torch.nn.parameter.Parameter.html)
    """

    code = "MEM707"
    name = "tied-weights-broken-or-double-counted"
    severity = Severity.WARNING
    gate = frozenset({"data"})
    fixers = ("drop_attribute",)
    corrects = "a shared parameter is updated once, with the sum of its gradients"
    positive = (
        """
from torch import nn
class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(1000, 64)
        self.head = nn.Linear(64, 1000, bias=False)
        self.head.weight.data = self.embedding.weight.data  # MEM707: 9
""",
        """
from transformers import AutoModel
def tie(path):
    model = AutoModel.from_pretrained(path)
    table = model.encoder.embed_tokens.weight
    model.decoder.embed_tokens.weight.data = table.data  # MEM707
    return model
""",
        """
from torch import nn
class Model(nn.Module):
    def tie_weights(self):
        self.lm_head.weight.data = self.transformer.wte.weight.data.detach()  # MEM707: 9
""",
    )
    negative = (
        """
from torch import nn
class Segmenter(nn.Module):
    def load(self, trained):
        for old, new in zip(list(trained.features.children())[:4], self.block):
            if isinstance(old, nn.Conv2d) and isinstance(new, nn.Conv2d):
                new.weight.data = old.weight.data
                new.bias.data = old.bias.data
""",
        """
from torch import nn
class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(1000, 64)
        self.head = nn.Linear(64, 1000, bias=False)
        self.head.weight = self.embedding.weight
        self.first = nn.Linear(64, 64)
        self.second = nn.Linear(64, 64)
        self.second.weight.data.copy_(self.first.weight.data)
        self.second.bias.data = self.first.bias.data.clone()
        self.first.bias.data = self.first.bias.data
        self.first.weight.data = self.first.weight.data.half()
""",
        """
from torch import nn
def as_convolution(linear):
    convolution = nn.Conv2d(linear.in_features, linear.out_features, 1)
    convolution.weight.data = linear.weight.data
    convolution.bias.data = linear.bias.data
    return convolution
class Lora(nn.Module):
    def __init__(self, base):
        super().__init__()
        self.base = nn.Linear(base.in_features, base.out_features)
        self.base.weight.data = base.weight.data
""",
        """
class Batch:
    def take(self, other):
        self.inner.data = self.outer.data
""",
    )

    def check(self, program: Program) -> Iterator[Finding]:
        for store in program.stores():
            taken = _shared(store) if store.attribute == "data" and not store.augmented else None
            if taken is not None and isinstance(store.base, Attribute) and _are_parts_of_one(store.base, taken.base):
                yield self._finding(store, taken)

    def _finding(self, store: Store, taken: Attribute) -> Finding:
        assigned = store.value.node
        assert store.base is not None
        tie = Fix(
            "drop_attribute",
            "Assign the parameter itself",
            Applicability.UNSAFE,
            {"attribute": (store.target, assigned)},
        )
        ties = isinstance(assigned, cst.Attribute) and assigned.attr.value == "data"
        return self.finding(
            store.target,
            f"`{code(store.base.node)}` shares memory with `{code(taken.base.node)}`, but is another parameter",
            holds="a second gradient and second optimizer states for the same values",
            confidence=Confidence.LIKELY,
            fixes=(tie,) if ties else (),
            claim=Claim(
                ClaimShape.PLATEAU,
                "device",
                "G + S of the shared parameter",
                holder=store.base.node,
                held=taken.base.node,
                watch=Watch.DOUBLE_PARAMETER,
            ),
        )


_PARAMETERS = ("weight", "bias")
"""How the parameters of ``torch.nn`` are called, with whatever in front (``in_proj_weight``)."""


def _shared(store: Store) -> Attribute | None:
    """``b.weight.data`` where ``a.weight.data`` is assigned to it, copies left out."""
    if not isinstance(store.base, Attribute) or not store.base.name.endswith(_PARAMETERS):
        return None
    for source in sources(_undetached(store.value)):
        if isinstance(source, Attribute) and source.name == "data":
            return source
    return None


def _undetached(value: Value) -> Value:
    if isinstance(value, Call) and value.method == "detach" and value.receiver is not None:
        return value.receiver
    return value


def _are_parts_of_one(one: Value, other: Value) -> bool:
    """Whether two parameters belong to different parts of the same model."""
    mine, theirs = (path_key(value.node) or "" for value in (one, other))
    if mine and mine == theirs:
        return False
    written = min(mine.count("."), theirs.count(".")) > 1 and mine.partition(".")[0] == theirs.partition(".")[0]
    return written or (
        not objects(one) & objects(other)
        and any(_are_beside(a, b) for a in objects(one) for b in objects(other) if a.root == b.root and not _pairs(a))
    )


def _pairs(found: Object) -> bool:
    """Whether the object is only known to be in what a builtin makes of others: ``zip(layers, other_layers)``."""
    return isinstance(found.root, Call) and any(n.startswith("builtins.") for n in qualified_names(found.root.callee))


def _are_beside(mine: Object, theirs: Object) -> bool:
    return len(mine.path) > 1 and len(theirs.path) > 1 and mine.path[-1] == theirs.path[-1]
