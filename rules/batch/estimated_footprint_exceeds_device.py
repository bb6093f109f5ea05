"""MEM303."""

from __future__ import annotations

from collections.abc import Iterator

from memlint.findings import Finding, Severity, Watch
from memlint.model.knowledge.frameworks import TRAINING_WORDS
from memlint.model.program import Program
from memlint.model.sizes.capacity import (
    call_at,
    capacity_claim,
    capacity_severity,
    card_of,
    confidence_of_estimate,
    is_sharded_unread,
    training_of,
    uses,
)
from memlint.model.sizes.peak import NOTHING, Peak, cuda_context, estimate, shown_bytes
from memlint.model.sizes.remedies import remedies
from memlint.model.techniques import Technique
from memlint.rule import Rule

_MARGIN = 1.15
"""The estimate must exceed the device by this factor."""


class EstimatedFootprintExceedsDevice(Rule):
    """A training step is estimated to need more memory than the GPU of the configuration has.

    ## What it does
    Adds up parameters, gradients, the state of the optimizer, what autograd saves for one micro-batch, the scores that
    the loss of a language model computes with, and the CUDA context (0.5 GB), and compares the peak with the device
    that is configured (`device = "t4"` in `[tool.memlint]`, or `--device t4`). Without one it
    takes 16 GB, and the finding is a note.

    It speaks only where the architecture, the batch and the sequence length or image size are known, and only where
    the estimate exceeds the device by 15 %. FSDP and ZeRO divide what they shard by the number of GPUs, where the
    program says it; otherwise sharded models are left alone, and so are offloaded, quantised and adapted ones, and
    programs that look for a batch that fits.

    ## Why is this bad?
    The run ends with an out-of-memory error in its first steps. Training in float32 with Adam takes 16 bytes for each
    parameter before anything is saved for the backward: 5.6 GB for 350 million of them.

    ## Example
    ```python
    model = torchvision.models.convnext_large()
    loader = DataLoader(dataset, batch_size=512)
    ```

    ## Use instead
    ```python
    loader = DataLoader(dataset, batch_size=64)  # and accumulate the gradients of eight
    ```
    The message names what the program has not done yet, in this order: smaller micro-batches with accumulation, mixed
    precision, what MEM110, MEM403 and MEM504 find, activation checkpointing, an optimizer with less state, adapters,
    sharding or offloading, a larger GPU. `memlint estimate --run --what-if` prints the peak with each.

    ## Fix safety
    There is no fix: which of the changes suits is for you to say.

    ## When to ignore
    When the script runs on a larger GPU than the configuration says.

    ## References
    - [Model memory anatomy](https://huggingface.co/docs/transformers/model_memory_anatomy)
    - [Reducing activation recomputation (Korthikanti et al., 2022)](https://arxiv.org/abs/2205.05198)
    """

    code = "MEM303"
    name = "estimated-footprint-exceeds-device"
    severity = Severity.WARNING
    default = False
    gate = TRAINING_WORDS
    positive = (
        """
import torch, torchvision
from torch.utils.data import DataLoader
def train(dataset):
    model = torchvision.models.resnet50().cuda()
    optimizer = torch.optim.AdamW(model.parameters())
    crop = torchvision.transforms.RandomResizedCrop(224)
    for x, y in DataLoader(dataset, batch_size=4096):  # MEM303
        loss = torch.nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
""",
        """
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GPT2Config, Trainer, TrainingArguments
model = AutoModelForCausalLM.from_config(GPT2Config())
tokenizer = AutoTokenizer.from_pretrained("gpt2")
def encode(batch):
    return tokenizer(batch["text"], padding="max_length", max_length=1024)
data = load("texts").map(encode)
args = TrainingArguments("out", per_device_train_batch_size=64)  # MEM303
Trainer(model=model, args=args, train_dataset=data).train()
""",
    )
    negative = (
        """
import torch, torchvision
from torch.utils.data import DataLoader
def train(dataset):
    model = torchvision.models.resnet50().cuda()
    optimizer = torch.optim.AdamW(model.parameters())
    crop = torchvision.transforms.RandomResizedCrop(224)
    for x, y in DataLoader(dataset, batch_size=4096):
        for part, labels in zip(x.split(64), y.split(64)):
            loss = torch.nn.functional.cross_entropy(model(part), labels) / 64
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()
""",
        """
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments
model = AutoModelForCausalLM.from_pretrained("openai-community/gpt2-xl", device_map="auto")
tokenizer = AutoTokenizer.from_pretrained("gpt2")
def encode(batch):
    return tokenizer(batch["text"], padding="max_length", max_length=1024)
data = load("texts").map(encode)
args = TrainingArguments("out", per_device_train_batch_size=64)
Trainer(model=model, args=args, train_dataset=data).train()
""",
        """
import torch, torchvision
from torch.utils.data import DataLoader
def train(dataset):
    model = torchvision.models.resnet18().cuda()
    optimizer = torch.optim.AdamW(model.parameters())
    crop = torchvision.transforms.RandomResizedCrop(224)
    for x, y in DataLoader(dataset, batch_size=64):
        loss = torch.nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
""",
        """
import torch, torchvision
from torch.utils.data import DataLoader
def train(dataset):
    model = torchvision.models.resnet50().cuda()
    optimizer = torch.optim.AdamW(model.parameters())
    for x, y in DataLoader(dataset, batch_size=4096):
        loss = torch.nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
""",
    )

    def check(self, program: Program) -> Iterator[Finding]:
        card = card_of(program)
        reading = training_of(program)
        if reading is None or uses(reading, Technique.AUTOMATIC_BATCH, Technique.PARTS) or is_sharded_unread(reading):
            return
        peak = estimate(reading)
        batch = reading.facts.get("batch")
        if peak is None or not peak.is_complete or batch is None:
            return
        needed = peak.needed(card.usable).likely
        if needed <= _MARGIN * card.usable:
            return
        node = call_at(program, batch.place, "DataLoader", "TrainingArguments")
        place = reading.trained[0].place
        if node is None and place is not None:
            node = call_at(program, place)
        if node is not None:
            yield self.finding(
                node,
                f"a step is estimated to need {shown_bytes(needed)}, {card.name} has "
                f"{shown_bytes(card.usable)}: {', '.join(_parts(peak, card.usable))}; in this order: "
                f"{', '.join(remedies(reading, card.usable))}",
                holds="more than the device has at the peak of a step",
                confidence=confidence_of_estimate(reading),
                severity=capacity_severity(program),
                claim=capacity_claim(shown_bytes(peak.total.likely), Watch.PEAK, card.usable),
            )


def _parts(peak: Peak, usable: int) -> Iterator[str]:
    """What the device holds in the course of a step, not all of it at the same time."""
    yield f"{shown_bytes(peak.parameters.likely)} of parameters"
    yield f"{shown_bytes(peak.gradients.likely)} of gradients"
    yield f"{shown_bytes(peak.optimizer.likely)} of optimizer state"
    yield f"{shown_bytes((peak.activations or NOTHING).likely)} saved for the backward"
    if peak.scores.likely:
        yield f"{shown_bytes(peak.scores.likely)} of scores of the vocabulary"
    context = cuda_context(usable).likely
    if context:
        yield f"{shown_bytes(context)} of CUDA's own"
