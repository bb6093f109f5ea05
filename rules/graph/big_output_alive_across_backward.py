"""MEM110."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from memlint.findings import Applicability, Claim, ClaimShape, Finding, Fix, Related, Severity, Watch
from memlint.model.program import Program
from memlint.model.source_text import code
from memlint.model.stale_outputs import StaleOutput, stale_outputs
from memlint.model.statements import Statement, held_in, statements_over
from memlint.model.values import Branch, Handler, Store, Try
from memlint.rule import Rule


class BigOutputAliveAcrossBackward(Rule):
    """A variable keeps the scores of a whole vocabulary alive while the backward runs, which does not need them.

    ## What it does
    Finds local variables that hold the output of a language model (one score for each token and each word) when
    `backward()` runs, and are not read afterwards: `outputs` after `loss = outputs.loss`, `logits` after
    `cross_entropy(logits, y)`, and what was made of them by `.float()`, slicing and `.contiguous()`.

    A model counts as one that scores a vocabulary by its class (`...ForCausalLM`, `...ForConditionalGeneration`), by a
    linear layer as wide as the model's embedding and 8,192 words or more, or because it is trained as language models
    are (`logits[..., :-1, :]`, `labels=input_ids`). If the number of words is not in sight, the finding is possible.

    Nothing is said where autograd saves the tensor itself (`mse_loss`, `log_softmax` at the end of the model): dropping
    the name would free nothing. Smaller outputs are left alone: at 21 classes the output of a segmentation network was
    1.6 % to 3.1 % of the peak, at 2 classes 0.3 % (measured).

    ## Why is this bad?
    The peak of a training step is where the backward starts, and this tensor is there for nothing: `cross_entropy`
    saves the logarithm of the probabilities, and no layer saves its output. Then it stays until the next forward pass
    has made another one. A small Llama with 32,000 words had a peak of 276.7 MiB, and 214.2 MiB with `del outputs`;
    the difference is one tensor of tokens x words (measured, float32). With 128,000 words, 4,096 tokens and bfloat16
    that is 1 GiB for each sequence. Copies (`.float()`, `.contiguous()`) count once more. To delete it after the
    backward does not lower the peak.

    ## Example
    ```python
    for batch in loader:
        outputs = model(**batch)
        loss = outputs.loss
        loss.backward()
        optimizer.step()
    ```

    ## Use instead
    ```python
    for batch in loader:
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
    ```

    ## Fix safety
    Safe: `del` is inserted in front of the backward, for names that nothing reads any more. It is not offered where a
    name is bound under a condition, nor for `outputs.loss.backward()`, which needs the name itself.

    ## When to ignore
    When the vocabulary is small, or a debugger should see the last output.

    ## References
    - [torchtune#1235](https://github.com/meta-pytorch/torchtune/pull/1235),
      [fms-fsdp#152](https://github.com/foundation-model-stack/fms-fsdp/pull/152),
      [open-instruct#777](https://github.com/allenai/open-instruct/pull/777),
      [pytorch-lightning#9336](https://github.com/Lightning-AI/pytorch-lightning/pull/9336)
    """

    code = "MEM110"
    name = "big-output-alive-across-backward"
    severity = Severity.WARNING
    gate = frozenset({"backward", "manual_backward"})
    fixers = ("insert_statement",)
    positive = (
        """
import torch
from transformers import AutoModelForCausalLM
def train(loader):
    model = AutoModelForCausalLM.from_pretrained("gpt2")
    optimizer = torch.optim.AdamW(model.parameters())
    for batch in loader:
        outputs = model(**batch)  # MEM110: 9
        loss = outputs.loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
""",
        """
import torch
def epoch(model: torch.nn.Module, optimizer, loader):
    total = 0.0
    for batch in loader:
        outputs = model(**batch)  # MEM110: 9
        loss = outputs.loss
        total += loss.detach().float()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return torch.exp(total / len(loader))
""",
        """
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from transformers import LlamaForCausalLM
def train(loader, optimizer, config):
    accelerator = Accelerator()
    model = LlamaForCausalLM(config)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    for batch in loader:
        with accelerator.accumulate(model):
            logits = model(batch["input_ids"]).logits.float()  # MEM110: 13
            shifted = logits[..., :-1, :].contiguous()
            labels = batch["labels"][..., 1:].contiguous()
            loss = F.cross_entropy(shifted.view(-1, shifted.size(-1)), labels.view(-1))
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
""",
        """
from dataclasses import dataclass
import torch
from torch import nn
from torch.nn import functional as F
@dataclass
class Config:
    width: int = 768
    vocab_size: int = 50304
class GPT(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.wte = nn.Embedding(config.vocab_size, config.width)
        self.block = nn.TransformerEncoderLayer(config.width, 8)
        self.lm_head = nn.Linear(config.width, config.vocab_size, bias=False)
    def forward(self, idx, targets=None):
        x = self.block(self.wte(idx))
        logits = self.lm_head(x)
        loss = None
        if targets is not None:
            loss = F.cross_entropy(logits.view(-1, logits.size(-1)), targets.view(-1), ignore_index=-1)
        return logits, loss
def train(config, batches, steps, accumulation):
    model = torch.compile(GPT(config).cuda())
    optimizer = torch.optim.AdamW(model.parameters())
    scaler = torch.amp.GradScaler()
    for step in range(steps):
        for micro in range(accumulation):
            x, y = next(batches)
            with torch.autocast("cuda", dtype=torch.float16):
                logits, loss = model(x, y)  # MEM110: 17
                loss = loss / accumulation
            scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
""",
        """
import torch
from torch import nn
class Translator(nn.Module):
    def __init__(self, words, width):
        super().__init__()
        self.embedding = nn.Embedding(words, width)
        self.rnn = nn.GRU(width, width, batch_first=True)
        self.out = nn.Linear(width, words)
    def forward(self, tokens):
        states, _ = self.rnn(self.embedding(tokens))
        return self.out(states)
class Trainer:
    def __init__(self):
        self.model = Translator(32_000, 256)
        self.criterion = nn.CrossEntropyLoss(ignore_index=0)
        self.optimizer = torch.optim.Adam(self.model.parameters())
    def fit(self, loader):
        for tokens, target in loader:
            self.step(tokens, target)
    def step(self, tokens, target):
        scores = self.model(tokens)  # MEM110: 9
        loss = self.criterion(scores.reshape(-1, scores.shape[-1]), target.reshape(-1))
        correct = (scores.argmax(-1) == target).sum().item()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item(), correct
""",
        """
import torch.nn as nn
def train(model, loader, optimizer):
    loss_fct = nn.CrossEntropyLoss()
    for step, batch in enumerate(loader):
        outputs = model(input_ids=batch["input_ids"])  # MEM110: 9
        shift_logits = outputs.logits[..., :-1, :].contiguous()
        shift_labels = batch["labels"][..., 1:].contiguous()
        loss = loss_fct(shift_logits.view(-1, shift_logits.size(-1)), shift_labels.view(-1))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
""",
        """
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM
def distill(teacher, student: AutoModelForCausalLM, loader, optimizer):
    for batch in loader:
        with torch.no_grad():
            target = F.softmax(teacher(**batch).logits, -1)
        logits = student(**batch).logits  # MEM110: 9
        loss = F.kl_div(F.log_softmax(logits, -1), target, reduction="batchmean")
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
""",
        """
from transformers import Seq2SeqTrainer, T5ForConditionalGeneration
class Mine(Seq2SeqTrainer):
    def training_step(self, model: T5ForConditionalGeneration, inputs, num_items_in_batch=None):
        outputs = model(**inputs)  # MEM110: 9
        loss = outputs["loss"]
        self.accelerator.backward(loss)
        return loss.detach()
""",
    )
    negative = (
        """
import torch
def epoch(model: torch.nn.Module, optimizer, loader):
    total = 0.0
    for batch in loader:
        outputs = model(**batch)
        loss = outputs.loss * torch.exp(-model.scale)
        total += loss.detach().float()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return total / len(loader)
""",
        """
import torch
from transformers import AutoModelForCausalLM
def train(loader):
    model = AutoModelForCausalLM.from_pretrained("gpt2")
    optimizer = torch.optim.AdamW(model.parameters())
    for batch in loader:
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    for batch in loader:
        outputs = model(**batch)
        loss = outputs.loss
        del outputs
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    for batch in loader:
        outputs = model(**batch)
        outputs.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        print(outputs.logits.argmax(-1))
""",
        """
import torch
from torch import nn
from torch.nn import functional as F
class Model(nn.Module):
    def __init__(self, words, width):
        super().__init__()
        self.embedding = nn.Embedding(words, width)
        self.rnn = nn.LSTM(width, width)
        self.decoder = nn.Linear(width, words)
    def forward(self, tokens, hidden):
        states, hidden = self.rnn(self.embedding(tokens), hidden)
        return F.log_softmax(self.decoder(states), dim=-1), hidden
class Regression(nn.Module):
    def __init__(self, words, width):
        super().__init__()
        self.embedding = nn.Embedding(words, width)
        self.decoder = nn.Linear(width, words)
    def forward(self, tokens):
        return self.decoder(self.embedding(tokens))
class NextWord(nn.Module):
    def __init__(self, words, width):
        super().__init__()
        self.embedding = nn.Embedding(words, width)
        self.rnn = nn.LSTM(width, width, batch_first=True)
        self.decoder = nn.Linear(width, words)
    def forward(self, tokens):
        states, _ = self.rnn(self.embedding(tokens))
        return self.decoder(states[:, -1])
def train(loader, optimizer, hidden, words):
    model, other, last = Model(words, 8), Regression(words, 8), NextWord(words, 8)
    for x, y in loader:
        output, hidden = model(x, hidden)
        loss = F.nll_loss(output.view(-1, words), y.view(-1))
        loss.backward()
        optimizer.step()
        hidden = tuple(h.detach() for h in hidden)
        optimizer.zero_grad()
    for x, y in loader:
        scores = other(x)
        loss = F.mse_loss(scores, y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    for x, y in loader:
        scores = last(x)
        loss = F.cross_entropy(scores, y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
""",
        """
import torch
from torch import nn
from torchvision.models import resnet50
from transformers import AutoModelForSequenceClassification
def train(loader, texts, criterion):
    model = resnet50()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for x, y in loader:
        logits = model(x)
        loss = nn.CrossEntropyLoss()(logits, y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    classifier = AutoModelForSequenceClassification.from_pretrained("bert-base-uncased")
    for batch in texts:
        outputs = classifier(**batch)
        loss = outputs.loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
""",
        """
import lightning as L
from transformers import AutoModelForCausalLM, Trainer
class Module(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.model = AutoModelForCausalLM.from_pretrained("gpt2")
    def training_step(self, batch, batch_idx):
        outputs = self.model(**batch)
        loss = outputs.loss
        return loss
class Mine(Trainer):
    def compute_loss(self, model, inputs, return_outputs=False):
        outputs = model(**inputs)
        loss = outputs.loss
        return (loss, outputs) if return_outputs else loss
def loss_of(model: AutoModelForCausalLM, batch):
    outputs = model(**batch)
    return outputs.loss
def train(model: AutoModelForCausalLM, loader, optimizer):
    for batch in loader:
        loss = loss_of(model, batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
""",
        """
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM
def train(loader, optimizer, seen):
    model = AutoModelForCausalLM.from_pretrained("gpt2")
    last = None
    for batch in loader:
        outputs = model(**batch)
        if last is not None:
            print((outputs.logits - last.logits).abs().max())
        last = outputs
        outputs.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    for batch in loader:
        outputs = model(**batch)
        seen.append(outputs.logits)
        outputs.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    for batch in loader:
        logits = model(batch["input_ids"]).logits
        chosen = torch.gather(logits, -1, batch["labels"])
        loss = (torch.logsumexp(logits, -1) - chosen.squeeze(-1)).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    for batch in loader:
        hidden = model(**batch, output_hidden_states=True).hidden_states
        loss = hidden[-1].mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    for batch in loader:
        logits = model(batch["input_ids"]).logits
        loss = F.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten())
        logits = logits.argmax(-1)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
""",
        """
import torch
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained("gpt2")
outputs = model(**torch.load("batch.pt"))
loss = outputs.loss
loss.backward()
def train(loader, optimizer, criterion):
    model = AutoModelForCausalLM.from_pretrained("gpt2")
    for batch in loader:
        logits = model(batch["input_ids"]).logits
        loss = criterion(logits, batch["labels"])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
""",
    )

    def check(self, program: Program) -> Iterator[Finding]:
        for function in program.functions:
            for stale in stale_outputs(function):
                yield self._finding(stale)

    def _finding(self, stale: StaleOutput) -> Finding:
        names = [store.key or "" for store in stale.names]
        written = _listed(names)
        keep = "keeps" if len(names) == 1 else "keep"
        return self.finding(
            stale.names[0].target,
            f"{written} {keep} the output of `{code(stale.forward.node.func)}` alive during the backward",
            holds="a score for each token and each word of the vocabulary, at the peak of the step and until the next "
            "forward pass has made another",
            confidence=stale.confidence,
            fixes=tuple(_fixes(stale, names)),
            related=(Related(stale.backward.node, "the backward that does not need it"),),
            claim=Claim(
                ClaimShape.SPIKE,
                "device",
                "N * V * E",
                holder=stale.names[0].target,
                held=stale.forward.node,
                watch=Watch.OUTPUT_AFTER_BACKWARD,
            ),
        )


def _listed(names: Sequence[str]) -> str:
    *first, last = [f"`{name}`" for name in names]
    return f"{', '.join(first)} and {last}" if first else last


def _fixes(stale: StaleOutput, names: list[str]) -> Iterator[Fix]:
    if any(_is_conditional(store, stale) for store in stale.names):
        return
    first, backward = stale.names[0].node, stale.backward.node
    statements = statements_over(stale.backward.function.node, [first, backward])
    if not statements:
        return
    if _reads(statements_over(stale.backward.function.node, [backward]), stale):
        # It takes the loss out of the output: ``outputs.loss.backward()``.
        return
    read_inside = _reads(statements[-1:], stale)
    yield Fix(
        "insert_statement",
        f"Delete {_listed(names)} before the backward",
        Applicability.SAFE,
        {"statement": backward if read_inside else statements[-1]},
        {"code": f"del {', '.join(names)}", "where": "before"},
    )


def _reads(statements: Sequence[Statement], stale: StaleOutput) -> bool:
    inside = held_in(statements)
    return any(use.node in inside for use in stale.last_uses)


def _is_conditional(store: Store, stale: StaleOutput) -> bool:
    """Whether a name may be unbound where the backward runs."""
    for region in store.region.ancestors():
        if stale.backward.region.within(region):
            return False
        if isinstance(region, (Branch, Try, Handler)):
            return True
    return False
