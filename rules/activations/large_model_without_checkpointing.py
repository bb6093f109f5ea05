"""MEM511."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from memlint.findings import Applicability, Confidence, Finding, Fix, Severity, Watch
from memlint.model.block_loops import BlockLoop, block_loops
from memlint.model.knowledge.frameworks import TRAINING_WORDS
from memlint.model.program import Program
from memlint.model.sharded_activations import kept_activations
from memlint.model.sizes.capacity import (
    capacity_claim,
    capacity_severity,
    card_of,
    confidence_of,
    confidence_of_estimate,
    size_of_models,
    training_of,
    training_site,
    uses,
)
from memlint.model.sizes.defaults import parameters_by_default
from memlint.model.sizes.objects import External
from memlint.model.sizes.peak import estimate, shown_bytes
from memlint.model.sizes.reading import Reading, has_blocks
from memlint.model.source_text import text
from memlint.model.techniques import Technique
from memlint.model.values import Attribute, Call, Value
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
    tensors and no activation memory budget. In a file that defines a model it finds the loop that runs one block after
    the other, if the model has 300 million parameters when it is made with the defaults of its constructor. Where the
    size is not known, it finds models that are sharded by FSDP, or quantised to train adapters, since memory is short.

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
    Unsafe: a step takes longer. Arguments of Trainer are set, models of transformers are told where they are made, and
    a block that is called with positional arguments is
    run by `checkpoint`, which keeps the state of the generator of random numbers.

    ## When to ignore
    When the step fits as it is and time matters more.

    ## References
    - [torch.utils.checkpoint](https://docs.pytorch.org/docs/stable/checkpoint.html)
    - [Training deep nets with sublinear memory cost](https://arxiv.org/abs/1604.06174)
    """

    code = "MEM511"
    name = "large-model-without-checkpointing"
    severity = Severity.NOTE
    gate = TRAINING_WORDS | {"ModuleList", "FullyShardedDataParallel", "fully_shard", "get_peft_model"}
    fixers = ("add_argument", "insert_statement", "replace_expression")
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
        """
import torch
from torch import nn
class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.drop = nn.Dropout(0.1)
    def forward(self, x, c):
        return x + self.drop(self.down(torch.relu(self.up(x + c))))
class Net(nn.Module):
    def __init__(self, width=2048, depth=16):
        super().__init__()
        self.blocks = nn.ModuleList([Block(width) for _ in range(depth)])
    def forward(self, x, c):
        for block in self.blocks:
            x = block(x, c)  # MEM511: 17
        return x
""",
        """
from timm.models.vision_transformer import Attention, Mlp
from torch import nn
class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.attn = Attention(width, num_heads=heads, qkv_bias=True)
        self.mlp = Mlp(in_features=width, hidden_features=4 * width, drop=0)
    def forward(self, x):
        x = x + self.attn(x)
        return x + self.mlp(x)
class Net(nn.Module):
    def __init__(self, width=1536, depth=24, dropout=0.1):
        super().__init__()
        self.layers = nn.ModuleList(Block(width, 16) for _ in range(depth))
        self.depth = depth
    def forward(self, x):
        for i in range(self.depth):
            x = self.layers[i](x)  # MEM511
        for layer in self.layers:
            x = layer(x)
        return x
""",
        """
import torch
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP
def train(model, loader):
    model = FSDP(model, device_id=torch.cuda.current_device())  # MEM511
    optimizer = torch.optim.AdamW(model.parameters())
    for x, y in loader:
        model(x, y).backward()
        optimizer.step()
        optimizer.zero_grad()
""",
        """
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, BitsAndBytesConfig
def load(path, bits):
    config = BitsAndBytesConfig(load_in_4bit=bits == 4, load_in_8bit=bits == 8) if bits < 16 else None
    model = AutoModelForCausalLM.from_pretrained(path, quantization_config=config)  # MEM511
    return get_peft_model(model, LoraConfig(r=8))
""",
    )
    negative = (
        """
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self, width=2048, depth=16):
        super().__init__()
        self.drop = nn.Dropout(0.1)
        self.blocks = nn.ModuleList([nn.Linear(width, width) for _ in range(depth)])
        self.heads = nn.ModuleList([nn.Linear(width, 16) for _ in range(depth)])
    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return [head(x) for head in self.heads]
""",
        """
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
class Net(nn.Module):
    def __init__(self, width=8192, depth=16):
        super().__init__()
        self.drop = nn.Dropout(0.1)
        self.blocks = nn.ModuleList([nn.Linear(width, width) for _ in range(depth)])
    def forward(self, x):
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if self.training else block(x)
        return x
""",
        """
from torch import nn
class Net(nn.Module):
    def __init__(self, width, depth):
        super().__init__()
        self.drop = nn.Dropout(0.1)
        self.blocks = nn.ModuleList([nn.Linear(width, width) for _ in range(depth)])
    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x
""",
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
        """
import torch
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP
def train(loader):
    model = FSDP(nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10)).cuda())
    optimizer = torch.optim.AdamW(model.parameters())
    for x, y in loader:
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
""",
        """
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from transformers import AutoModelForCausalLM
def load(path):
    model = AutoModelForCausalLM.from_pretrained(path, load_in_8bit=True)
    return get_peft_model(prepare_model_for_kbit_training(model), LoraConfig(r=8))
def generate(path):
    return AutoModelForCausalLM.from_pretrained(path, load_in_8bit=True).generate()
""",
    )

    def check(self, program: Program) -> Iterator[Finding]:
        found: set[int] = set()
        for each in block_loops(program):
            size = parameters_by_default(each.owner) if id(each.owner) not in found else None
            if size is not None and size >= _LARGE:
                found.add(id(each.owner))  # Once for each model, whichever loops it has.
                yield self._blocks(each, size)
        if not found:
            says_so = any(word in program.module.text for word in TRAINING_WORDS)
            trained = list(self._trained(program)) if says_so else []
            yield from trained or self._where_memory_is_short(program)

    def _where_memory_is_short(self, program: Program) -> Iterator[Finding]:
        kept = kept_activations(program.module)
        reading = training_of(program) if kept is not None else None
        size = size_of_models(reading) if reading is not None else None
        if kept is not None and (size is None or size >= _LARGE):
            yield self.finding(
                kept.call.node,
                f"the weights are {kept.how}, since memory is short, and the activations of every block are kept",
                holds="what autograd saves in every block",
                confidence=Confidence.LIKELY,
                severity=Severity.NOTE,
                claim=capacity_claim("A of all blocks but one", Watch.UNCHECKPOINTED_BLOCKS),
            )

    def _blocks(self, found: BlockLoop, size: int) -> Finding:
        return self.finding(
            found.call.node,
            f"autograd saves what each block computes; by default `{found.owner.name}` has at least "
            f"{size / 1e6:,.0f} million parameters",
            holds="what autograd saves in every block",
            confidence=Confidence.LIKELY,
            fixes=tuple(_checkpointed(found)),
            claim=capacity_claim("A of all blocks but one", Watch.UNCHECKPOINTED_BLOCKS),
        )

    def _trained(self, program: Program) -> Iterator[Finding]:
        reading = training_of(program)
        if reading is None or uses(reading, Technique.CHECKPOINTING) or "checkpointing" in reading.facts:
            return
        size = size_of_models(reading)
        if size is None or "training arguments" in reading.unknown or not has_blocks(reading.trained):
            return
        saved = _saved(reading)
        card = card_of(program)
        if size < _LARGE and (saved is None or saved < _MUCH * card.usable):
            return
        node, fixes = training_site(program, reading, _ARGUMENTS)
        if node is not None:
            models = reading.trained
            is_large = size >= _LARGE  # Whatever the batch.
            much = f", autograd saves about {shown_bytes(saved)}" if saved is not None else ""
            yield self.finding(
                node,
                f"a model of {size / 1e6:,.0f} million parameters is trained without activation checkpointing{much}",
                holds="what autograd saves in every block",
                confidence=confidence_of(models=models) if is_large else confidence_of_estimate(reading),
                severity=capacity_severity(program),
                fixes=fixes or tuple(_enabled(program, reading, node)),
                claim=capacity_claim("A of all blocks but one", Watch.UNCHECKPOINTED_BLOCKS),
            )


_ARGUMENTS = {
    "TrainingArguments": "gradient_checkpointing=True",
    "Seq2SeqTrainingArguments": "gradient_checkpointing=True",
}


def _enabled(program: Program, reading: Reading, made: cst.Call) -> Iterator[Fix]:
    """``model.gradient_checkpointing_enable()`` below where the one model, of transformers, is made and named."""
    library = reading.trained[0].cls
    if len(reading.trained) != 1 or not isinstance(library, External) or not library.name.startswith("transformers."):
        return
    for store in program.stores():
        target = store.target
        if _is_made(store.value, made) and isinstance(target, (cst.Name, cst.Attribute)):
            statement = f"{text(target)}.gradient_checkpointing_enable()"
            yield Fix(
                "insert_statement",
                f"Checkpoint activations with `{statement}`",
                Applicability.UNSAFE,
                {"statement": made},
                {"code": statement},
            )
            return


def _is_made(value: Value, made: cst.Call) -> bool:
    """Whether ``value`` is the model itself that is made there: ``made``, or ``made.cuda()``."""
    while isinstance(value, Call) and value.name in _GIVING_THE_MODEL:
        if value.node is made:
            return True
        value = value.callee.base if isinstance(value.callee, Attribute) else value.callee
    return False


_GIVING_THE_MODEL = frozenset({"from_pretrained", "from_config", "cuda", "to", "train"})
"""Calls that give a model of transformers itself, not something around it."""


def _checkpointed(found: BlockLoop) -> Iterator[Fix]:
    """``checkpoint(block, x, c, use_reentrant=False)`` for ``block(x, c)``."""
    node = found.call.node
    if all(argument.keyword is None and not argument.star for argument in node.args):
        given = ", ".join(text(part) for part in (node.func, *(argument.value for argument in node.args)))
        yield Fix(
            "replace_expression",
            "Run the block by `checkpoint`",
            Applicability.UNSAFE,
            {"expression": node},
            {
                "code": f"torch.utils.checkpoint.checkpoint({given}, use_reentrant=False)",
                "import": "torch.utils.checkpoint",
            },
        )


def _saved(reading: Reading) -> float | None:
    """Bytes that autograd saves, if everything that this needs is known."""
    peak = estimate(reading)
    if peak is None or not peak.is_complete or peak.activations is None:
        return None
    return peak.activations.likely
