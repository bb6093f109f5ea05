"""MEM702."""

from __future__ import annotations

from collections.abc import Iterator

from memlint.findings import Finding, Severity, Watch
from memlint.model.knowledge.frameworks import TRAINING_WORDS
from memlint.model.program import Program
from memlint.model.sizes.capacity import (
    capacity_claim,
    capacity_severity,
    card_of,
    confidence_of,
    is_sharded_unread,
    size_of_models,
    training_of,
    training_site,
)
from memlint.model.sizes.peak import estimate, is_share_known, shown_bytes
from memlint.model.sizes.reading import Reading
from memlint.rule import Rule

_MUCH = 0.25
"""Share of the device from which on the state of the optimizer is much."""


class HeavyOptimizerState(Rule):
    """The state of the optimizer takes a large part of the GPU.

    ## What it does
    Off unless selected. Finds training with an optimizer of the Adam family whose state is estimated to take a quarter
    of the GPU of the configuration (without one: 16 GB), or more. Programs that shard or offload the state, quantise
    it, or train adapters are left alone.

    ## Why is this bad?
    Adam keeps two numbers for each parameter that is trained: 8 bytes in float32, twice the parameters. Other
    optimizers keep less: SGD with momentum and Muon one number, `torch.optim.Adafactor` rows and columns only (0.002
    of the parameters, measured with torch 2.13), `bitsandbytes.optim.AdamW8bit` two bytes.

    ## Example
    ```python
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    ```

    ## Use instead
    ```python
    optimizer = bitsandbytes.optim.AdamW8bit(model.parameters(), lr=1e-4)
    ```
    Parameters that need not be trained can be frozen, or adapted with LoRA; the state can be sharded (FSDP, ZeRO). With
    an optimizer for each parameter that steps in the backward, gradients need not be alive all at once.

    ## Fix safety
    Unsafe: an optimizer with less state takes other steps. Only the `optim` of a Trainer that does not name one is set.

    ## When to ignore
    When the step fits as it is.

    ## References
    - [8-bit optimizers](https://huggingface.co/docs/bitsandbytes/main/reference/optim/optim_overview)
    - [GaLore](https://github.com/jiaweizzhao/GaLore),
      [tutorials#2568](https://github.com/pytorch/tutorials/pull/2568) (optimizer step in the backward)
    """

    code = "MEM702"
    name = "heavy-optimizer-state"
    severity = Severity.NOTE
    gate = TRAINING_WORDS
    fixers = ("add_argument",)
    default = False
    positive = (
        """
from transformers import AutoModelForCausalLM, LlamaConfig, Trainer, TrainingArguments
model = AutoModelForCausalLM.from_config(LlamaConfig())
args = TrainingArguments("out", bf16=True, gradient_checkpointing=True)  # MEM702
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
    model = Model().cuda()  # MEM702
    optimizer = torch.optim.AdamW(model.parameters())
    for x, y in loader:
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
args = TrainingArguments("out", optim="adamw_bnb_8bit")
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
    model = Model().cuda()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for x, y in loader:
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
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
    optimizer = torch.optim.Adam(model.parameters())
    for x, y in loader:
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
""",
    )

    def check(self, program: Program) -> Iterator[Finding]:
        reading = training_of(program)
        if reading is None or is_sharded_unread(reading) or size_of_models(reading) is None:
            return
        state, card = _state(reading), card_of(program)
        if state is None or state < _MUCH * card.usable:
            return
        node, fixes = training_site(program, reading, _ARGUMENTS)
        if node is not None:
            yield self.finding(
                node,
                f"The state of the optimizer takes {shown_bytes(state)}, {card.name} has {shown_bytes(card.usable)}",
                holds="two numbers for each parameter that is trained, from the first step on",
                confidence=confidence_of(reading.facts.get("optimizer"), models=reading.trained),
                severity=capacity_severity(program),
                fixes=() if "optimizer" in reading.facts and _names_optimizer(reading) else fixes,
                claim=capacity_claim("8 * parameters", Watch.OPTIMIZER_STATE),
            )


_ARGUMENTS = {
    "TrainingArguments": 'optim="adamw_bnb_8bit"',
    "Seq2SeqTrainingArguments": 'optim="adamw_bnb_8bit"',
}


def _state(reading: Reading) -> float | None:
    """Bytes of the state of an optimizer that keeps two numbers for each parameter; None for others."""
    peak = estimate(reading) if is_share_known(reading) else None
    if peak is None or reading.value("optimizer state") != 8 or "adapter" in reading.facts:
        return None
    return peak.optimizer.likely


def _names_optimizer(reading: Reading) -> bool:
    """Whether the program makes the optimizer itself."""
    return str(reading.value("optimizer"))[:1].isupper()
