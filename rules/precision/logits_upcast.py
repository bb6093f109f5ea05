"""MEM403."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import libcst as cst

from memlint.findings import Applicability, Claim, ClaimShape, Finding, Fix, Severity
from memlint.model.program import Program
from memlint.model.score_copies import CopyKind, ScoreCopy, score_copies
from memlint.model.source_text import laid_out, text
from memlint.model.values import Call
from memlint.rule import Rule


class LogitsUpcast(Rule):
    """The scores of a language model for every word are copied, in float32 or shifted, before the loss.

    ## What it does
    Finds copies of a language model's scores that the loss does not need: `.float()` of scores of 16 bits,
    `logits[..., :-1, :].contiguous()`, `log(softmax(logits))`, and `one_hot(labels) * log_softmax(logits)`. It is
    silent on a few positions or words of them, on pieces of a loss that are checkpointed, and under autocast, where the
    operations of the loss cast by themselves.

    ## Why is this bad?
    With `N` tokens, `V` words and two bytes a score, the scores are `u = N·V·2` bytes: 0.5 GiB for 2,048 tokens and
    128,000 words, often more than all that the model saves. At its peak a loss of these scores holds 3.3 `u`, with
    `.float()` 6.3 `u`, and 7.3 `u` while the scores have a name of their own; `log(softmax)` and one-hot targets hold
    4.3 `u` after the forward already (measured). A shifted slice that is made contiguous is one `u` more.

    ## Example
    ```python
    logits = model(ids).logits.float()
    loss = F.cross_entropy(logits[..., :-1, :].contiguous().view(-1, size), ids[..., 1:].reshape(-1))
    ```

    ## Use instead
    ```python
    logits = model(ids).logits
    targets = F.pad(ids[..., 1:], (0, 1), value=-100)  # shift the labels, which are small
    loss = F.cross_entropy(logits.view(-1, size), targets.view(-1))
    ```

    ## Fix safety
    Unsafe: the numbers change in their last digits. On CUDA `cross_entropy` adds up in float32 whatever it is given,
    and returns the type that it was given. There is no fix for shifted slices and one-hot targets.

    ## When to ignore
    When the scores are float16, which have no range to spare, or are few.

    ## References
    - [transformers#33902](https://github.com/huggingface/transformers/pull/33902): without the cast, 43 % less
      at the peak
    - [trl c3f21ed](https://github.com/huggingface/trl/commit/c3f21ede9afc0e2cadba183b3be376c5405cf65b): without the
      contiguous slices, 15 % less
    """

    code = "MEM403"
    name = "logits-upcast"
    severity = Severity.WARNING
    # "to" stands in every license; a wide type that it is given has a name, or comes as the argument `dtype`.
    gate = frozenset({"float", "double", "float32", "float64", "dtype", "type", "contiguous", "log", "one_hot"})
    fixers = ("replace_expression",)
    positive = (
        """
import torch.nn.functional as F
from torch.distributed.tensor import DTensor
def log_probabilities(logits, ids):
    if isinstance(logits, DTensor):
        logits = logits.to_local()
    scores = logits[:, :-1, :].float()  # MEM403: 14
    return F.log_softmax(scores, dim=-1).gather(2, ids[:, 1:].unsqueeze(-1)).squeeze(-1)
""",
        """
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained("gpt2", torch_dtype=torch.bfloat16)
def loss_of(ids, labels):
    logits = model(input_ids=ids).logits.float()  # MEM403: 14
    return F.cross_entropy(logits.view(-1, logits.size(-1)), labels.view(-1))
""",
        """
import torch
from torch import nn
from transformers import AutoModelForCausalLM
def train(ids, labels):
    model = AutoModelForCausalLM.from_pretrained("gpt2").bfloat16()
    criterion = nn.CrossEntropyLoss()
    out = model(ids)
    loss = criterion(out.logits.to(torch.float32).flatten(0, 1), labels.flatten())  # MEM403
    loss.backward()
""",
        """
import torch.nn.functional as F
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained("gpt2")
def loss_of(ids, labels):
    logits = model(ids).logits
    shifted = logits[..., :-1, :].contiguous()  # MEM403: 15
    return F.cross_entropy(shifted.view(-1, shifted.size(-1)), labels[..., 1:].reshape(-1))
""",
        """
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained("gpt2")
def entropy(ids):
    logits = model(ids).logits
    return torch.log(F.softmax(logits, dim=-1)).mean()  # MEM403: 12
""",
        """
import torch.nn.functional as F
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained("gpt2")
def loss_of(ids, labels):
    logits = model(ids).logits
    scores = F.log_softmax(logits, dim=-1)
    return -(F.one_hot(labels, logits.size(-1)).float() * scores).sum(-1).mean()  # MEM403
""",
        """
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM
def loss_of(model: AutoModelForCausalLM, ids, labels):
    logits = model(ids).logits.float()  # MEM403?
    return F.cross_entropy(logits.view(-1, logits.size(-1)), labels.view(-1))
""",
        """
import torch.nn.functional as F
class Trainer:
    def __init__(self, model, reference):
        self.model, self.reference = model, reference
    def loss(self, batch, labels):
        outputs = self.model(**batch)
        shifted = outputs.logits[..., :-1, :].contiguous()  # MEM403: 19
        return F.log_softmax(shifted, dim=-1).gather(-1, labels[..., 1:, None]).mean()
""",
    )
    negative = (
        """
import torch.nn.functional as F
def smoothness(frames, weights):
    steps = frames[:, :-1, :].float()
    return F.softmax(steps, dim=-1) * weights
""",
        """
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained("gpt2", torch_dtype=torch.bfloat16)
def loss_of(ids, labels):
    logits = model(input_ids=ids).logits
    return F.cross_entropy(logits.view(-1, logits.size(-1)), labels.view(-1)).float()
""",
        """
import torch
import torch.nn.functional as F
from torchvision.models import resnet50
model = resnet50().half()
def loss_of(images, labels):
    return F.cross_entropy(model(images).float(), labels)
""",
        """
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained("gpt2", torch_dtype=torch.bfloat16)
def sample(ids):
    logits = model(input_ids=ids).logits
    return torch.multinomial(F.softmax(logits[:, -1].float(), dim=-1), 1)
def score(ids, labels):
    logits = model(input_ids=ids).logits
    return F.softmax(logits.gather(-1, labels).float(), dim=-1)
""",
        """
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained("gpt2")
def loss_of(ids, labels):
    with torch.autocast("cuda", dtype=torch.bfloat16):
        logits = model(input_ids=ids).logits.float()
        return F.cross_entropy(logits.view(-1, logits.size(-1)), labels.view(-1))
""",
        """
import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained("gpt2", torch_dtype=torch.bfloat16)
def piece(hidden, labels):
    return F.cross_entropy(model.lm_head(hidden).float(), labels)
def loss_of(ids, labels):
    hidden = model.model(ids).last_hidden_state
    return sum(checkpoint(piece, h, y, use_reentrant=False) for h, y in zip(hidden.chunk(8), labels.chunk(8)))
""",
        """
import torch
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained("gpt2", torch_dtype=torch.bfloat16)
def save(ids):
    return model(input_ids=ids).logits.float().cpu().numpy()
""",
        """
import torch.nn.functional as F
def refine(x, steps):
    for _ in range(steps):
        x = x[:, None].float().view(-1)
        F.softmax(x, dim=-1)
    return x
""",
        """
def frames(encoder, x):
    hidden = encoder(x).hidden
    return hidden[..., :-1, :].contiguous(), encoder(x).logits[:, 0].contiguous()
""",
        """
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained("gpt2")
def words(ids):
    return ids[..., 1:].contiguous(), model(ids).logits.contiguous()
""",
    )

    def check(self, program: Program) -> Iterator[Finding]:
        for copy in score_copies(program):
            message, size = _MESSAGES[copy.kind]
            yield self.finding(
                copy.value.node,
                message,
                holds="the scores for every token and every word once more",
                severity=Severity.NOTE if copy.kind is CopyKind.SHIFTED else Severity.WARNING,
                confidence=copy.confidence,
                fixes=tuple(_fixes(copy)),
                claim=Claim(ClaimShape.SPIKE, "device", size, held=copy.value.node),
            )


_MESSAGES: Mapping[CopyKind, tuple[str, str]] = {
    CopyKind.UPCAST: (
        "casting the scores for the whole vocabulary to float32 takes twice their size, and so do their gradients",
        "N·V·4",
    ),
    CopyKind.SHIFTED: (
        "`contiguous` copies the scores for the whole vocabulary; shift the labels instead, or keep the slice as it is",
        "N·V·E",
    ),
    CopyKind.LOGARITHM: (
        "the logarithm of a softmax over the vocabulary saves two tensors of its size; `log_softmax` saves one",
        "N·V·E",
    ),
    CopyKind.ONE_HOT: (
        "one-hot targets and their product are as large as the scores for all words; `cross_entropy` takes indices",
        "2·N·V·E",
    ),
}


def _fixes(copy: ScoreCopy) -> Iterator[Fix]:
    node = copy.value.node
    if copy.kind is CopyKind.UPCAST and isinstance(node, cst.Call) and isinstance(node.func, cst.Attribute):
        yield _replaced(node, text(node.func.value), "Leave the scores in the type that they have")
    elif copy.kind is CopyKind.LOGARITHM and isinstance(copy.value, Call):
        inner = _softmax_call(node)
        if inner is not None and isinstance(inner.func, cst.Attribute):
            inner = laid_out(inner)
            renamed = inner.with_changes(func=inner.func.with_changes(attr=cst.Name("log_softmax")))
            yield _replaced(node, text(renamed), "Use `log_softmax`")


def _softmax_call(node: cst.CSTNode) -> cst.Call | None:
    """``F.softmax(x, -1)`` where it stands in ``torch.log(...)`` or before ``.log()`` itself."""
    if not isinstance(node, cst.Call):
        return None
    receiver = node.func.value if isinstance(node.func, cst.Attribute) and not node.args else None
    inner = receiver if receiver is not None else node.args[0].value if len(node.args) == 1 else None
    return inner if isinstance(inner, cst.Call) else None


def _replaced(node: cst.CSTNode, code: str, message: str) -> Fix:
    return Fix("replace_expression", message, Applicability.UNSAFE, {"expression": node}, {"code": code})
