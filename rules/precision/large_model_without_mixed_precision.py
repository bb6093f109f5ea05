"""MEM411."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import libcst as cst

from memlint.findings import Confidence, Finding, Fix, Severity, Watch
from memlint.model.full_precision import (
    full_precision_in_micro_steps,
    full_precision_on_several_devices,
    full_precision_out_of_memory,
)
from memlint.model.knowledge.frameworks import TRAINING_WORDS
from memlint.model.mixed_precision import autocast_fixes
from memlint.model.program import Program
from memlint.model.scopes import Module
from memlint.model.sizes.capacity import (
    capacity_claim,
    capacity_severity,
    confidence_of,
    size_of_models,
    training_of,
    training_site,
    uses,
)
from memlint.model.sizes.reading import Reading
from memlint.model.techniques import Technique
from memlint.model.values import Call
from memlint.rule import Rule

_LARGE = 100_000_000
"""Parameters from which on the rule speaks."""


class LargeModelWithoutMixedPrecision(Rule):
    """A large model is trained in float32 throughout.

    ## What it does
    Finds training of models with at least 100 million parameters, known from their constructors or as well-known
    architectures, in programs that say nothing of half precision: no autocast, no half-precision dtype, no
    GradScaler, no such argument of a framework. Where the size is not known, it finds loops in such programs that show
    that memory is short: they train on several GPUs with DistributedDataParallel (what fills several GPUs fills one),
    accumulate gradients over micro-steps since the whole batch does not fit, or catch running out of memory to go on
    with the next batch.

    ## Why is this bad?
    What autograd saves is twice as large as it has to be. Autocast to bfloat16 took it from 64.0 to 34.9 MiB
    (measured); parameters, gradients and the state of the optimizer stay as they are. Matrix products run on tensor
    cores, too.

    ## Example
    ```python
    args = TrainingArguments("out")
    ```

    ## Use instead
    ```python
    args = TrainingArguments("out", bf16=True)
    ```
    In a loop of your own, run the forward and the loss, and nothing else, under
    `torch.autocast("cuda", dtype=torch.bfloat16)`.

    ## Fix safety
    Unsafe: the numbers change, and outputs of the model are bfloat16 for what reads them later. Trainer, Lightning and
    Accelerate get their argument. In a loop of your own the statements from the forward to the loss are run under
    `torch.autocast`, where `loss.backward()` is the only backward of the file and follows them in the same block; not
    where the forward or the loss stands in the statement of the backward, gradients are cleared in between, NumPy
    (which has no bfloat16) reads in the loop what is computed, or the loss is `BCELoss`, which raises under autocast.
    Older GPUs (before Ampere) compute bfloat16 slowly and want float16 with a GradScaler.

    ## When to ignore
    When the model is known to need float32, or the GPU has no fast half precision.

    ## References
    - [Automatic mixed precision](https://docs.pytorch.org/docs/stable/amp.html)
    """

    code = "MEM411"
    name = "large-model-without-mixed-precision"
    severity = Severity.NOTE
    gate = TRAINING_WORDS
    fixers = ("add_argument", "wrap_in_with")
    positive = (
        """
import lightning as L
import torch
from transformers import AutoModelForMaskedLM
class Lit(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.model = AutoModelForMaskedLM.from_pretrained("roberta-large")
    def training_step(self, batch, index):
        return self.model(**batch).loss
    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-5)
trainer = L.Trainer(accelerator="gpu", devices=1)  # MEM411: 11
trainer.fit(Lit(), make_loader())
""",
        """
from torch.nn.parallel import DistributedDataParallel as DDP
from torch.utils.data import DataLoader
class Trainer:
    '''Neither autocast nor fp16 is there yet: "amp" and "half" are for later.'''
    def __init__(self, model, optimizer, rank):
        self.model, self.optimizer = DDP(model.cuda(rank), device_ids=[rank]), optimizer
    def step(self, batch):
        self.optimizer.zero_grad()
        self.model(batch).mean().backward()  # MEM411: 9
        self.optimizer.step()
    def epoch(self, loader: DataLoader):
        for batch in loader:
            self.step(batch)
""",
        """
from transformers import AutoModelForMaskedLM, Trainer, TrainingArguments
model = AutoModelForMaskedLM.from_pretrained("google-bert/bert-base-uncased")
args = TrainingArguments("out", per_device_train_batch_size=8)  # MEM411
Trainer(model=model, args=args, train_dataset=data).train()
""",
        """
import torch
from torch import nn
class Wide(nn.Module):
    def __init__(self, width, layers):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))
def train(loader):
    model = Wide(4096, 8).cuda()  # MEM411
    optimizer = torch.optim.AdamW(model.parameters())
    for x, y in loader:
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
""",
        """
import torch
from torch.nn.parallel import DistributedDataParallel as DDP
from torch.utils.data import DataLoader
def epoch(model, optimizer, loader: DataLoader):
    for x, y in loader:
        loss = model(x, y)
        loss.backward()  # MEM411: 9
        optimizer.step()
        optimizer.zero_grad()
def run(rank, model, optimizer, loader):
    epoch(DDP(model.cuda(rank), device_ids=[rank]), optimizer, loader)
""",
        """
from torch.utils.data import DataLoader
class Trainer:
    def __init__(self, model, optimizer, accumulation_steps):
        self.model, self.optimizer, self.accumulation_steps = model, optimizer, accumulation_steps
    def epoch(self, loader: DataLoader):
        for i, batch in enumerate(loader):
            loss = self.model(batch).loss
            loss.backward()
            if (i + 1) % self.accumulation_steps == 0:
                self.update()
    def update(self):
        self.optimizer.step()  # MEM411: 9
        self.optimizer.zero_grad()
""",
        """
import torch
from torch.nn.parallel import DistributedDataParallel as DDP
class Trainer:
    def __init__(self, model, optimizer, loader, rank):
        self.model, self.optimizer, self.loader = DDP(model.cuda(rank), device_ids=[rank]), optimizer, loader
    def train(self, steps):
        batches = iter(self.loader)
        for step in range(steps):
            self.step(next(batches))
    def step(self, batch):
        loss = self.model(batch).mean()
        loss.backward()  # MEM411: 9
        self.optimizer.step()
        self.optimizer.zero_grad()
""",
        """
import torch
from torch.utils.data import DataLoader
def epoch(model, optimizer, loader: DataLoader):
    for batch in loader:
        try:
            model(batch.cuda()).mean().backward()  # MEM411: 13
        except RuntimeError as error:
            if "out of memory" not in str(error):
                raise
            torch.cuda.empty_cache()
            optimizer.zero_grad()
            continue
        optimizer.step()
        optimizer.zero_grad()
""",
    )
    negative = (
        """
from transformers import AutoModelForMaskedLM, Trainer, TrainingArguments
model = AutoModelForMaskedLM.from_pretrained("google-bert/bert-base-uncased")
args = TrainingArguments("out", deepspeed="a_file_that_is_not_here.json")
Trainer(model=model, args=args, train_dataset=data).train()
""",
        """
from transformers import AutoModelForMaskedLM, HfArgumentParser, Trainer, TrainingArguments
model = AutoModelForMaskedLM.from_pretrained("google-bert/bert-base-uncased")
(args,) = HfArgumentParser(TrainingArguments).parse_args_into_dataclasses()
Trainer(model=model, args=args, train_dataset=data).train()
""",
        """
from transformers import AutoModelForMaskedLM, Trainer, TrainingArguments
model = AutoModelForMaskedLM.from_pretrained("google-bert/bert-base-uncased")
args = TrainingArguments("out", **settings())
Trainer(model=model, args=args, train_dataset=data).train()
""",
        """
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments
model = AutoModelForCausalLM.from_pretrained("openai-community/gpt2-large", load_in_8bit=True)
model = get_peft_model(model, LoraConfig(r=8))
Trainer(model=model, args=TrainingArguments("out"), train_dataset=data).train()
""",
        """
import torch
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from transformers import AutoModelForMaskedLM
def train(loader):
    model = AutoModelForMaskedLM.from_pretrained("google-bert/bert-base-uncased")
    fully_shard(model, mp_policy=MixedPrecisionPolicy(param_dtype=torch.bfloat16))
    optimizer = torch.optim.AdamW(model.parameters())
    for batch in loader:
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
""",
        """
import torch
from torch.utils.data import DataLoader
class Recipe:
    def __init__(self, config, model, optimizer):
        self.dtype = config.dtype
        if self.dtype == torch.float16:
            raise ValueError("not supported")
        self.model, self.optimizer, self.steps = model.to(self.dtype), optimizer, config.steps
    def train(self, loader: DataLoader):
        for i, batch in enumerate(loader):
            self.model(batch).loss.backward()
            if (i + 1) % self.steps == 0:
                self.optimizer.step()
                self.optimizer.zero_grad()
""",
        """
from trl import DPOConfig, DPOTrainer
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained("gpt2-xl")
DPOTrainer(model=model, args=DPOConfig(output_dir="out"), train_dataset=data).train()
""",
        """
import argparse
from torch.nn.parallel import DistributedDataParallel as DDP
from torch.utils.data import DataLoader
parser = argparse.ArgumentParser()
parser.add_argument("--fp16", action="store_true")
def epoch(model, optimizer, loader: DataLoader):
    for batch in loader:
        model(batch).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
epoch(DDP(make_model()), make_optimizer(), make_loader())
""",
        """
from torch.utils.data import DataLoader
def epoch(model, optimizer, loader: DataLoader, log_every):
    for i, batch in enumerate(loader):
        model(batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if i % log_every == 0:
            print(i)
""",
        """
import torch
from torch.nn.parallel import DistributedDataParallel as DDP
from torch.utils.data import DataLoader
def epoch(model, optimizer, loader: DataLoader, args):
    for x, y in loader:
        with torch.autocast("cuda", enabled=args.amp):
            loss = model(x, y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
def run(rank, model, optimizer, loader, args):
    epoch(DDP(model.cuda(rank), device_ids=[rank]), optimizer, loader, args)
""",
        """
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel as DDP
from torch.utils.data import DataLoader
def run(rank, data):
    model = DDP(nn.Linear(20, 1).cuda(rank), device_ids=[rank])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for x, y in DataLoader(data):
        nn.functional.mse_loss(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
""",
        """
from torch.utils.data import DataLoader
def epoch(model, optimizer, loader: DataLoader):
    for x, y in loader:
        model(x, y).backward()
        optimizer.step()
        optimizer.zero_grad()
""",
        """
from transformers import AutoModelForMaskedLM, Trainer, TrainingArguments
model = AutoModelForMaskedLM.from_pretrained("google-bert/bert-base-uncased")
args = TrainingArguments("out", bf16=True)
Trainer(model=model, args=args, train_dataset=data).train()
""",
        """
import torch
from torch import nn
def train(loader, width):
    model = nn.Linear(width, width).cuda()
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
        if reading is not None and (_PRECISION & reading.facts.keys() or _PRECISION & set(reading.unknown)):
            return
        size = size_of_models(reading) if reading is not None else None
        if reading is None or size is None:
            yield from self._where_memory_is_short(program)
        elif size >= _LARGE and not uses(reading, *_HALF):
            yield from self._large(program, reading, size)

    def _where_memory_is_short(self, program: Program) -> Iterator[Finding]:
        for how, asked in _SHORT.items():
            call = asked(program.module)
            if call is not None:
                yield self._finding(
                    call.node,
                    f"this trains {how} in float32; autocast to bfloat16 halves what autograd saves",
                    Confidence.LIKELY,
                    Severity.NOTE,
                    *autocast_fixes(program.module),
                )
                return

    def _large(self, program: Program, reading: Reading, size: int) -> Iterator[Finding]:
        node, fixes = training_site(program, reading, _ARGUMENTS)
        if node is not None:
            yield self._finding(
                node,
                f"a model of {size / 1e6:,.0f} million parameters is trained in float32; autocast to bfloat16 "
                "halves what autograd saves",
                confidence_of(models=reading.trained),
                capacity_severity(program),
                *(fixes or autocast_fixes(program.module)),
            )

    def _finding(
        self, node: cst.CSTNode, message: str, confidence: Confidence, severity: Severity, *fixes: Fix
    ) -> Finding:
        return self.finding(
            node,
            message,
            holds="what autograd saves, at twice the size",
            confidence=confidence,
            severity=severity,
            fixes=fixes,
            claim=capacity_claim("A / 2", Watch.FULL_PRECISION),
        )


_SHORT: Mapping[str, Callable[[Module], Call | None]] = {
    "on several GPUs": full_precision_on_several_devices,
    "in micro-steps": full_precision_in_micro_steps,
    "and catches running out of memory,": full_precision_out_of_memory,
}
"""What shows that memory is short, and the question for where that is."""
_HALF = (Technique.HALF_PRECISION, Technique.LOSS_SCALING, Technique.QUANTISED)
_PRECISION = frozenset({"precision", "parameters dtype", "training arguments"})
"""What decides on the precision, among what is read of a program."""
_ARGUMENTS = {
    "TrainingArguments": "bf16=True",
    "Seq2SeqTrainingArguments": "bf16=True",
    "Accelerator": 'mixed_precision="bf16"',
    "Trainer": 'precision="bf16-mixed"',
}
