"""MEM302."""

from __future__ import annotations

from collections.abc import Iterator

from memlint.findings import Applicability, Claim, ClaimShape, Confidence, Finding, Fix, Severity, Watch
from memlint.model.program import Program
from memlint.model.tokenization import Preparation, pads_to_the_end, preparation, wants_fixed_shapes
from memlint.model.trainees import trains
from memlint.model.values import Call
from memlint.rule import Rule


class PadToMaxLength(Rule):
    """Each sample is padded to the longest length that is allowed, and not to the longest of its batch.

    ## What it does
    Finds tokenizers that are called with `padding="max_length"` where the samples of a data set are mapped, read or
    collated, in a file that trains. It is silent where the file compiles the model, captures CUDA graphs, runs on TPUs
    or packs samples, where models need a fixed length (diffusion, speech), and for lengths of up to 64.

    ## Why is this bad?
    Every batch is as large as the largest possible one: the activations take `max_length / mean length` times what they
    need, and scores of attention that are not fused the square of it. With samples of 80 tokens on average in rows of
    512 that is 6.4 times.

    ## Example
    ```python
    def encode(batch):
        return tokenizer(batch["text"], padding="max_length", truncation=True)
    data = data.map(encode, batched=True)
    ```

    ## Use instead
    ```python
    def encode(batch):
        return tokenizer(batch["text"], truncation=True)
    data = data.map(encode, batched=True)
    trainer = Trainer(..., data_collator=DataCollatorWithPadding(tokenizer, pad_to_multiple_of=8))
    ```

    ## Fix safety
    Unsafe: the shapes of the batches vary. In a function that collates, the fix pads to the longest of the batch; where
    samples are mapped, a collator is needed as well, so that there is none.

    ## When to ignore
    When constant shapes are wanted: they fragment memory less, and the peak is known from the first step. When nearly
    all samples are of the maximal length anyway.

    ## References
    - [Padding and truncation](https://huggingface.co/docs/transformers/pad_truncation)
    - [transformers#3634](https://github.com/huggingface/transformers/issues/3634)
    - [axolotl#498](https://github.com/axolotl-ai-cloud/axolotl/pull/498): padding on purpose, for a peak that is known
    """

    code = "MEM302"
    name = "pad-to-max-length"
    severity = Severity.NOTE
    default = False
    gate = frozenset({"padding", "pad_to_max_length"})
    fixers = ("replace_expression",)
    positive = (
        """
from transformers import AutoTokenizer, Trainer
tokenizer = AutoTokenizer.from_pretrained("bert-base-uncased")
def encode(batch):
    return tokenizer(batch["text"], padding="max_length", truncation=True)  # MEM302: 12
def train(model, data):
    Trainer(model=model, train_dataset=data.map(encode, batched=True)).train()
""",
        """
from torch.utils.data import DataLoader
from transformers import AutoTokenizer
def train(model, optimizer, data, length=512):
    tokenizer = AutoTokenizer.from_pretrained("bert-base-uncased")
    def collate(rows):
        return tokenizer([r["text"] for r in rows], padding="max_length", max_length=length)  # MEM302
    for batch in DataLoader(data, collate_fn=collate):
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
""",
        """
import torch
from transformers import BertTokenizer
class Reviews(torch.utils.data.Dataset):
    def __init__(self, rows):
        self.rows = rows
        self.tokenizer = BertTokenizer.from_pretrained("bert-base-uncased")
    def __getitem__(self, index):
        return self.tokenizer.encode_plus(self.rows[index], max_length=256, pad_to_max_length=True)  # MEM302
def train(model, optimizer, rows):
    for batch in torch.utils.data.DataLoader(Reviews(rows)):
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
""",
        """
from transformers import Trainer
def train(model, data, tokenizer):
    encoded = data.map(lambda rows: tokenizer(rows["text"], padding="max_length"))  # MEM302?
    Trainer(model=model, train_dataset=encoded).train()
""",
    )
    negative = (
        """
from transformers import AutoTokenizer, DataCollatorWithPadding, Trainer
tokenizer = AutoTokenizer.from_pretrained("bert-base-uncased")
def encode(batch):
    return tokenizer(batch["text"], truncation=True, padding=True)
def train(model, data):
    Trainer(model=model, train_dataset=data.map(encode), data_collator=DataCollatorWithPadding(tokenizer)).train()
""",
        """
import torch
from transformers import AutoTokenizer, Trainer
tokenizer = AutoTokenizer.from_pretrained("bert-base-uncased")
def encode(batch):
    return tokenizer(batch["text"], padding="max_length")
def train(model, data):
    Trainer(model=torch.compile(model), train_dataset=data.map(encode)).train()
""",
        """
from diffusers import UNet2DConditionModel
from transformers import CLIPTokenizer
tokenizer = CLIPTokenizer.from_pretrained("sd", subfolder="tokenizer")
def encode(batch):
    return tokenizer(batch["caption"], padding="max_length", max_length=tokenizer.model_max_length)
def train(unet: UNet2DConditionModel, data):
    for row in data.map(encode):
        unet(row).sample.mean().backward()
""",
        """
from torch.utils.data import DataLoader
from transformers import AutoTokenizer
def train(model, optimizer, data, constant):
    tokenizer = AutoTokenizer.from_pretrained("bert-base-uncased")
    def collate(rows):
        if constant:
            return tokenizer.pad(rows, padding="max_length", max_length=128)
        return tokenizer.pad(rows, padding="longest")
    for batch in DataLoader(data, collate_fn=collate):
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
""",
        """
from transformers import AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained("bert-base-uncased")
def answer(model, question):
    return model(**tokenizer(question, padding="max_length", return_tensors="pt")).logits.argmax(-1)
""",
        """
from transformers import AutoTokenizer, Trainer
tokenizer = AutoTokenizer.from_pretrained("bert-base-uncased")
def encode(batch):
    return tokenizer(batch["label"], padding="max_length", max_length=16)
def train(model, data):
    Trainer(model=model, train_dataset=data.map(encode)).train()
""",
        """
from transformers import Trainer, WhisperProcessor
processor = WhisperProcessor.from_pretrained("openai/whisper-small")
def encode(row):
    return processor(row["audio"], padding="max_length")
def train(model, data):
    Trainer(model=model, train_dataset=data.map(encode)).train()
""",
    )

    def check(self, program: Program) -> Iterator[Finding]:
        module = program.module
        for call in program.calls():
            if not any(argument.keyword in {"padding", "pad_to_max_length"} for argument in call.arguments):
                continue
            confidence = pads_to_the_end(call)
            found = preparation(call.function) if confidence is not None else None
            if confidence is not None and found is not None and not wants_fixed_shapes(module) and trains(module):
                yield self._finding(call, found, confidence)

    def _finding(self, call: Call, found: Preparation, confidence: Confidence) -> Finding:
        return self.finding(
            call.node,
            "each sample is padded to the longest length that is allowed, and not to the longest of its batch",
            holds="activations for tokens of padding",
            confidence=confidence,
            fixes=tuple(_fixes(call, found)),
            claim=Claim(
                ClaimShape.SPIKE,
                "device",
                "A * (1 - mean length / max_length)",
                watch=Watch.PADDING,
            ),
        )


def _fixes(call: Call, found: Preparation) -> Iterator[Fix]:
    padding = next((argument.node.value for argument in call.arguments if argument.keyword == "padding"), None)
    if padding is not None and found is Preparation.BATCHES:
        yield Fix(
            "replace_expression",
            "Pad to the longest sample of the batch",
            Applicability.UNSAFE,
            {"expression": padding},
            {"code": '"longest"'},
        )
