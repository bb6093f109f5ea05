"""MEM511."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from memlint.findings import Applicability, Claim, ClaimShape, Finding, Fix, Severity
from memlint.model.knowledge.frameworks import TRAINING_WORDS
from memlint.model.program import Program
from memlint.model.sizes.capacity import (
    CHECKPOINTING,
    UNOBSERVABLE,
    call_at,
    card_of,
    confidence_of,
    configuration_call,
    says,
    size_of_models,
    training_of,
)
from memlint.model.sizes.peak import estimate, shown_bytes
from memlint.model.sizes.reading import Reading, has_blocks
from memlint.rule import Rule

_LARGE = 300_000_000
"""Parameters from which on the rule speaks."""
_MUCH = 0.4
"""Share of the device from which on saved tensors are much."""


class LargeModelWithoutCheckpointing(Rule):
    """A large model is trained without activation checkpointing.

    ## What it does
    Finds training of transformers and convolutional networks with at least 300 million parameters, or whose saved
    tensors are estimated to take 40 % of the GPU, in programs with no activation checkpointing, no offloading of saved
    tensors and no activation memory budget.

    ## Why is this bad?
    Autograd keeps the intermediate results of every block until the backward. With checkpointing it keeps the input of
    each block, and computes the rest anew: of L blocks that save A each, L inputs and one A are left at the peak. A
    step takes about a third longer.

    ## Example
    ```python
    args = TrainingArguments("out")
    ```

    ## Use instead
    ```python
    args = TrainingArguments("out", gradient_checkpointing=True)
    ```
    In a loop of your own call `model.gradient_checkpointing_enable()` on models of transformers, or run each block as
    `checkpoint(block, x, use_reentrant=False)` of `torch.utils.checkpoint`.

    ## Fix safety
    Unsafe: a step takes longer, and dropout draws other numbers unless its state is kept. Only arguments of Trainer are
    set.

    ## When to ignore
    When the step fits as it is and time matters more.

    ## References
    - [torch.utils.checkpoint](https://docs.pytorch.org/docs/stable/checkpoint.html)
    - [Training deep nets with sublinear memory cost](https://arxiv.org/abs/1604.06174)
    """

    code = "MEM511"
    name = "large-model-without-checkpointing"
    severity = Severity.NOTE
    gate = TRAINING_WORDS
    fixers = ("add_argument",)
    positive = (
        """
from transformers import AutoModelForCausalLM, LlamaConfig, Trainer, TrainingArguments
model = AutoModelForCausalLM.from_config(LlamaConfig())
args = TrainingArguments("out", bf16=True)  # MEM511
Trainer(model=model, args=args, train_dataset=data).train()
""",
        """
import torch
from torch import nn
class Model(nn.Module):
    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(2048, 16, 8192)
        self.encoder = nn.TransformerEncoder(layer, 12)
def train(loader):
    model = Model().cuda()  # MEM511
    optimizer = torch.optim.AdamW(model.parameters())
    for x, y in loader:
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
""",
    )
    negative = (
        """
from transformers import AutoModelForCausalLM, LlamaConfig, Trainer, TrainingArguments
model = AutoModelForCausalLM.from_config(LlamaConfig())
args = TrainingArguments("out", bf16=True, gradient_checkpointing=True)
Trainer(model=model, args=args, train_dataset=data).train()
""",
        """
import torch
from torch import nn
class Model(nn.Module):
    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(512, 8, 2048)
        self.encoder = nn.TransformerEncoder(layer, 6)
def train(loader):
    model = Model().cuda()
    optimizer = torch.optim.AdamW(model.parameters())
    for x, y in loader:
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
""",
        """
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(nn.TransformerEncoderLayer(2048, 16, 8192) for _ in range(12))
    def forward(self, x):
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False)
        return x
def train(loader):
    model = Model().cuda()
    optimizer = torch.optim.AdamW(model.parameters())
    for x, y in loader:
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
""",
    )

    def check(self, program: Program) -> Iterator[Finding]:
        reading = training_of(program)
        if reading is None or says(reading, CHECKPOINTING) or "checkpointing" in reading.facts:
            return
        size = size_of_models(reading)
        if size is None or "training arguments" in reading.unknown or not has_blocks(reading.trained):
            return
        saved = _saved(reading)
        card = card_of(program)
        if size < _LARGE and (saved is None or saved < _MUCH * card.usable):
            return
        call, argument = configuration_call(program, _ARGUMENTS)
        place = reading.trained[0].place
        node = call if call is not None else call_at(program, place) if place is not None else None
        if node is not None:
            much = f", autograd saves about {shown_bytes(saved)}" if saved is not None else ""
            yield self.finding(
                node,
                f"{size / 1e6:,.0f} million parameters are trained without activation checkpointing{much}",
                holds="what autograd saves in every block",
                confidence=confidence_of(reading.facts.get("batch"), models=reading.trained),
                severity=Severity.WARNING if card.is_configured else Severity.NOTE,
                fixes=tuple(_fixes(call, argument)),
                claim=Claim(ClaimShape.SPIKE, "device", "A of all blocks but one", unobservable=UNOBSERVABLE),
            )


_ARGUMENTS = {
    "TrainingArguments": "gradient_checkpointing=True",
    "Seq2SeqTrainingArguments": "gradient_checkpointing=True",
}


def _saved(reading: Reading) -> float | None:
    """Bytes that autograd saves, if everything that this needs is known."""
    peak = estimate(reading)
    if peak is None or not peak.is_complete or peak.activations is None:
        return None
    return peak.activations.likely


def _fixes(call: cst.Call | None, argument: str) -> Iterator[Fix]:
    if call is not None:
        message = f"Add `{argument}`"
        yield Fix("add_argument", message, Applicability.UNSAFE, {"call": call}, {"code": argument})
