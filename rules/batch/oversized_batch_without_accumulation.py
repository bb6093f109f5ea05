"""MEM311."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from memlint.findings import Applicability, Confidence, Finding, Fix, Severity, Watch
from memlint.model.accumulating import accumulation_fixes
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
from memlint.model.sizes.peak import estimate, shown_bytes, smaller_batch
from memlint.model.sizes.reading import Reading
from memlint.model.source_text import laid_out, written
from memlint.model.techniques import Technique
from memlint.model.values import Call
from memlint.model.whole_batches import whole_batches_out_of_memory, whole_batches_under_checkpointing
from memlint.rule import Rule


class OversizedBatchWithoutAccumulation(Rule):
    """A micro-batch is estimated not to fit the GPU, a smaller one would, and gradients are not accumulated.

    ## What it does
    Estimates the peak of a step of known architecture, batch and input size, and looks for the largest half, quarter,
    and so on of the batch that fits the GPU of the configuration (without one: 16 GB).

    Where the sizes are not known, it finds loops that step on each batch in programs that checkpoint activations, or
    catch running out of memory to go on with the next batch, and have no way to accumulate gradients.

    Programs that accumulate gradients in any form, look for a batch that fits, shard or adapt the model, or have a loss
    over all pairs of a batch (contrastive losses), are left alone.

    ## Why is this bad?
    What autograd saves grows in proportion to the micro-batch: a run that does not fit ends in its first step. The
    gradients of several smaller micro-batches add up to those of the large one (but for batch normalisation).

    ## Example
    ```python
    args = TrainingArguments(per_device_train_batch_size=256)
    ```

    ## Use instead
    ```python
    args = TrainingArguments(per_device_train_batch_size=32, gradient_accumulation_steps=8)
    ```

    ## Fix safety
    Unsafe: batch normalisation and dropout see other batches, and losses that are averaged over tokens weigh them
    otherwise. Of a Trainer's configuration both arguments are set. In a loop of your own the number in the call of the
    `DataLoader` is changed, the loss is divided, and step, clipping and `zero_grad` run once in so many batches. What
    remains at the end of an epoch, where the number of batches is no multiple of that, waits for the next epoch, or is
    cleared by it. That is done where a loop over the loader has the only backward of the file and one step and one
    `zero_grad`, before the backward or right behind the step, each a statement of its own; not where a scheduler steps
    in the loop, gradients are read or scaled there, a `continue` leaves out the step, or the loss is a sum.

    ## When to ignore
    When the script runs on a larger GPU; say which in `[tool.memlint] device`.

    ## References
    - [Gradient accumulation](https://huggingface.co/docs/accelerate/usage_guides/gradient_accumulation)
    """

    code = "MEM311"
    name = "oversized-batch-without-accumulation"
    severity = Severity.NOTE
    gate = TRAINING_WORDS
    fixers = ("replace_expression", "accumulate_gradients")
    positive = (
        """
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, Trainer, TrainingArguments
model = AutoModelForCausalLM.from_config(GPT2Config())
tokenizer = AutoTokenizer.from_pretrained("gpt2")
def encode(batch):
    return tokenizer(batch["text"], padding="max_length", max_length=1024)
data = load("texts").map(encode)
args = TrainingArguments("out", per_device_train_batch_size=64, learning_rate=1e-4)  # MEM311
Trainer(model=model, args=args, train_dataset=data).train()
""",
        """
import torch, torchvision
from torch.utils.data import DataLoader
def train(dataset):
    model = torchvision.models.resnet50().cuda()
    optimizer = torch.optim.AdamW(model.parameters())
    crop = torchvision.transforms.RandomResizedCrop(224)
    for x, y in DataLoader(dataset, batch_size=4096):  # MEM311
        loss = torch.nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
""",
        """
import timm
import torch
from torch.utils.data import DataLoader
def train(args, loader: DataLoader):
    model = timm.create_model(args.model).cuda()
    if args.grad_checkpointing:
        model.set_grad_checkpointing(enable=True)
    optimizer = torch.optim.AdamW(model.parameters())
    for x, y in loader:
        loss = torch.nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()  # MEM311: 9
        optimizer.step()
""",
        """
import torch
from torch.utils.data import DataLoader
def train(model, optimizer, loader: DataLoader):
    for batch in loader:
        try:
            model(batch.cuda()).mean().backward()  # MEM311: 13
            optimizer.step()
        except torch.cuda.OutOfMemoryError:
            torch.cuda.empty_cache()
        optimizer.zero_grad()
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
import torch, torchvision
from torch.utils.data import DataLoader
def train(dataset):
    model = torchvision.models.resnet50().cuda()
    optimizer = torch.optim.AdamW(model.parameters())
    crop = torchvision.transforms.RandomResizedCrop(224)
    waiting = 0
    for x, y in DataLoader(dataset, batch_size=4096):
        loss = torch.nn.functional.cross_entropy(model(x), y)
        loss.backward()
        waiting += 1
        if waiting == 4:
            optimizer.step()
            optimizer.zero_grad()
            waiting = 0
""",
        """
import lightning as L
import torch, torchvision
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from torch.utils.data import DataLoader
class Lit(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.model = torchvision.models.resnet50()
        self.crop = torchvision.transforms.RandomResizedCrop(224)
    def training_step(self, batch, index):
        return torch.nn.functional.cross_entropy(self.model(batch[0]), batch[1])
    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters())
trainer = L.Trainer(callbacks=[GradientAccumulationScheduler(scheduling={0: 8})])
trainer.fit(Lit(), DataLoader(images, batch_size=4096))
""",
        """
import timm
import torch
from torch.utils.data import DataLoader
def train(args, loader: DataLoader):
    model = timm.create_model(args.model).cuda()
    model.set_grad_checkpointing(enable=True)
    optimizer = torch.optim.AdamW(model.parameters())
    for i, (x, y) in enumerate(loader):
        (torch.nn.functional.cross_entropy(model(x), y) / args.accum_steps).backward()
        if (i + 1) % args.accum_steps == 0:
            optimizer.step()
            optimizer.zero_grad()
""",
        """
import torch
from torch.utils.data import DataLoader
def step(model, batch):
    try:
        model(batch).mean().backward()
    except torch.cuda.OutOfMemoryError:
        first, second = batch.chunk(2)
        step(model, first)
        step(model, second)
def train(model, optimizer, loader: DataLoader):
    for batch in loader:
        step(model, batch)
        optimizer.step()
        optimizer.zero_grad()
def evaluate(model, loader: DataLoader):
    for batch in loader:
        try:
            model(batch)
        except torch.cuda.OutOfMemoryError:
            torch.cuda.empty_cache()
""",
        """
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, Trainer, TrainingArguments
model = AutoModelForCausalLM.from_config(GPT2Config())
tokenizer = AutoTokenizer.from_pretrained("gpt2")
def encode(batch):
    return tokenizer(batch["text"], padding="max_length", max_length=1024)
data = load("texts").map(encode)
args = TrainingArguments("out", per_device_train_batch_size=64, gradient_accumulation_steps=4)
Trainer(model=model, args=args, train_dataset=data).train()
""",
        """
import torch, torchvision
from torch.utils.data import DataLoader
def train(dataset):
    model = torchvision.models.resnet18().cuda()
    optimizer = torch.optim.AdamW(model.parameters())
    crop = torchvision.transforms.RandomResizedCrop(224)
    for x, y in DataLoader(dataset, batch_size=32):
        loss = torch.nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
""",
        """
import torch, torchvision
from torch.utils.data import DataLoader
def train(dataset, accumulation):
    model = torchvision.models.resnet50().cuda()
    optimizer = torch.optim.AdamW(model.parameters())
    crop = torchvision.transforms.RandomResizedCrop(224)
    for step, (x, y) in enumerate(DataLoader(dataset, batch_size=4096)):
        loss = torch.nn.functional.cross_entropy(model(x), y) / accumulation
        loss.backward()
        if step % accumulation == 0:
            optimizer.step()
            optimizer.zero_grad()
""",
        """
import torch
from torch.utils.data import DataLoader
def train(dataset, model):
    optimizer = torch.optim.AdamW(model.parameters())
    for x, y in DataLoader(dataset, batch_size=4096):
        loss = torch.nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
""",
    )

    def check(self, program: Program) -> Iterator[Finding]:
        whole = whole_batches_under_checkpointing(program.module)
        if whole is not None:
            yield self._under_checkpointing(whole)
            return
        left_out = whole_batches_out_of_memory(program.module)
        if left_out is not None:
            yield self._leaving_out(left_out)
            return
        reading = training_of(program)
        if reading is None or _accumulates(reading) or uses(reading, *_HINDRANCES) or is_sharded_unread(reading):
            return
        card, peak, batch = card_of(program), estimate(reading), reading.facts.get("batch")
        if peak is None or not peak.is_complete or batch is None:
            return
        needed = peak.needed(card.usable).likely
        if needed <= card.usable:
            return
        smaller = smaller_batch(reading, card.usable)
        node = call_at(program, batch.place, "DataLoader", "TrainingArguments", "Seq2SeqTrainingArguments")
        if smaller is None or smaller >= batch.value or node is None:
            return
        steps = -(-batch.value // smaller)
        yield self.finding(
            node,
            f"a step with a micro-batch of {batch.value} is estimated to need {shown_bytes(needed)}, "
            f"{card.name} has {shown_bytes(card.usable)}; {smaller} would fit, gradients accumulated over {steps}",
            holds="what autograd saves for the whole batch, at the peak",
            confidence=confidence_of_estimate(reading),
            severity=capacity_severity(program),
            fixes=(
                *_fixes(node, smaller, steps),
                *accumulation_fixes(program.module, node, batch.value, smaller, steps),
            ),
            claim=capacity_claim("A", Watch.BATCH_PEAK, card.usable),
        )

    def _under_checkpointing(self, backward: Call) -> Finding:
        return self._whole(
            backward,
            "activations are checkpointed, since memory is short, and each batch is taken as a whole: gradients could "
            "be accumulated over smaller ones",
        )

    def _leaving_out(self, backward: Call) -> Finding:
        return self._whole(
            backward,
            "batches for which memory runs out are left out, and each is taken as a whole: gradients could be "
            "accumulated over smaller ones",
        )

    def _whole(self, backward: Call, message: str) -> Finding:
        return self.finding(
            backward.node,
            message,
            holds="what autograd saves for the whole batch, at the peak",
            confidence=Confidence.LIKELY,
            severity=Severity.NOTE,
            claim=capacity_claim("A", Watch.BATCH_PEAK),
        )


_HINDRANCES = (Technique.AUTOMATIC_BATCH, Technique.COUPLED_BATCH)


def _accumulates(reading: Reading) -> bool:
    if reading.value("accumulation", 1) != 1:
        return True
    return "accumulation" not in reading.facts and uses(reading, Technique.ACCUMULATION)


def _fixes(node: cst.Call, smaller: int, steps: int) -> Iterator[Fix]:
    """Both arguments of a Trainer's configuration, where the batch is written as a number."""
    arguments = []
    found = False
    for each in laid_out(node).args:
        name = each.keyword.value if each.keyword is not None else ""
        if name == "per_device_train_batch_size" and isinstance(each.value, cst.Integer):
            arguments.append(each.with_changes(value=cst.Integer(str(smaller))))
            extra = cst.Arg(
                cst.Integer(str(steps)),
                cst.Name("gradient_accumulation_steps"),
                cst.AssignEqual(cst.SimpleWhitespace(""), cst.SimpleWhitespace("")),
            )
            arguments.append(extra.with_changes(comma=each.comma))
            arguments[-2] = arguments[-2].with_changes(comma=cst.Comma(whitespace_after=cst.SimpleWhitespace(" ")))
            found = True
        elif name != "gradient_accumulation_steps":
            arguments.append(each)
    if found:
        yield Fix(
            "replace_expression",
            f"Use micro-batches of {smaller} and accumulate {steps}",
            Applicability.UNSAFE,
            {"expression": node},
            {"code": written(node.with_changes(args=arguments))},
        )
