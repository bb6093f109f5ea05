"""MEM506."""

from __future__ import annotations

from collections.abc import Iterator

from memlint.findings import Applicability, Claim, ClaimShape, Confidence, Finding, Fix, Severity, Watch
from memlint.model.large_logits import (
    PickedLogarithm,
    VocabularyLoss,
    picked_logarithms,
    unchunked,
    vocabulary_losses,
)
from memlint.model.pins import is_older
from memlint.model.program import Program
from memlint.model.source_text import code
from memlint.model.values import Call
from memlint.rule import Rule


class LogitsMaterialisedForLoss(Rule):
    """The scores of all tokens and words are made, and saved several times, for nothing but a loss.

    ## What it does
    Off unless selected. Finds `cross_entropy` and `CrossEntropyLoss` of the scores that a linear layer makes for a
    large vocabulary, where nothing else uses them; `linear_cross_entropy` without `options`, which computes in one
    piece; and `log_softmax` of all scores of which one is picked for each token by `gather`, and nothing else is read.

    ## Why is this bad?
    Scores, their logarithms and their gradients are N x V numbers each: 3.3 such tensors are alive at the peak, or 6.3
    if half precision is cast to float32. `F.linear_cross_entropy` of torch 2.13 and later computes the loss in chunks,
    with `options=LinearCrossEntropyOptions()`: 66.5 MiB in place of 750 MiB (measured with torch 2.13 on a CPU).
    Without options it saves nothing (684 MiB). `log_softmax` before a `gather` keeps one such tensor until the
    backward, where the picked scores minus `logsumexp` keep none: 98 MiB and 0 MiB beside scores of 98 MiB (measured).
    While the loss itself is computed in one piece, both need about as much.

    ## Example
    ```python
    loss = F.cross_entropy(self.head(hidden).view(-1, self.vocabulary), labels.view(-1))
    ```

    ## Use instead
    ```python
    options = nn.LinearCrossEntropyOptions()
    loss = F.linear_cross_entropy(hidden.flatten(0, 1), self.head.weight, labels.view(-1), options=options)
    ```
    With the Trainer of transformers `use_liger_kernel=True` does the same.

    ## Fix safety
    Unsafe: losses differ by about 1e-6, and a second backward, or one of the gradients, raises. Only `options` is
    added.

    ## When to ignore
    When there are fewer tokens in a step than the hidden states are wide: chunks then save nothing.

    ## References
    - [Liger kernel](https://github.com/linkedin/Liger-Kernel)
    - [Cut your losses in large-vocabulary language models](https://arxiv.org/abs/2411.09009)
    """

    code = "MEM506"
    name = "logits-materialised-for-loss"
    severity = Severity.NOTE
    gate = frozenset(
        {"cross_entropy", "CrossEntropyLoss", "linear_cross_entropy", "LinearCrossEntropyLoss", "log_softmax"}
    )
    fixers = ("add_argument",)
    default = False
    positive = (
        """
import torch.nn.functional as F
from torch import nn
class Model(nn.Module):
    def __init__(self, width=1024, vocabulary=50257):
        super().__init__()
        self.vocabulary = vocabulary
        self.words = nn.Embedding(vocabulary, width)
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(width, 8), 12)
        self.head = nn.Linear(width, vocabulary)
    def forward(self, tokens, labels):
        logits = self.head(self.encoder(self.words(tokens)))
        shifted = logits[:, :-1].contiguous().view(-1, logits.size(-1))
        return F.cross_entropy(shifted, labels.view(-1))  # MEM506: 16
""",
        """
import torch
from torch import nn
class Loss(nn.Module):
    def __init__(self, width, words):
        super().__init__()
        self.fused = nn.LinearCrossEntropyLoss(width, words)  # MEM506: 22
    def forward(self, hidden, weight, labels):
        own = torch.nn.functional.linear_cross_entropy(hidden, weight, labels)  # MEM506
        return own + self.fused(hidden, labels)
""",
        """
import torch
import torch.nn.functional as F
def log_probabilities(model, ids, temperature):
    logits = model(input_ids=ids).logits[:, :-1]
    logits = logits / temperature
    every = F.log_softmax(logits, dim=-1)  # MEM506: 13
    return torch.gather(every, 2, ids[:, 1:].unsqueeze(-1)).squeeze(-1)
def batch_log_probabilities(logits, labels, shift=True):
    if shift:
        labels = labels[:, 1:].clone()
        logits = logits[:, :-1, :]
    return logits.log_softmax(-1).gather(dim=2, index=labels.unsqueeze(2)).squeeze(2)  # MEM506
""",
    )
    negative = (
        """
import torch
import torch.nn.functional as F
from torch import nn
class Model(nn.Module):
    def __init__(self, width=1024, vocabulary=50257):
        super().__init__()
        self.words = nn.Embedding(vocabulary, width)
        self.head = nn.Linear(width, vocabulary)
        self.classes = nn.Linear(width, 10)
    def forward(self, tokens, labels):
        hidden = self.words(tokens)
        logits = self.head(hidden)
        loss = F.cross_entropy(logits.view(-1, logits.size(-1)), labels.view(-1))
        accuracy = (logits.argmax(-1) == labels).float().mean()
        return loss + F.cross_entropy(self.classes(hidden[:, 0]), labels[:, 0]), accuracy
    @torch.no_grad()
    def score(self, tokens, labels):
        return F.cross_entropy(self.head(self.words(tokens)).flatten(0, 1), labels.view(-1))
""",
        """
import torch.nn.functional as F
from torch import nn
options = nn.LinearCrossEntropyOptions()
def loss(hidden, weight, labels, **more):
    chunked = F.linear_cross_entropy(hidden, weight, labels, options=options)
    return chunked + F.linear_cross_entropy(hidden, weight, labels, **more)
""",
        """
import torch
import torch.nn.functional as F
def entropy(model, ids):
    every = F.log_softmax(model(input_ids=ids).logits[:, :-1], dim=-1)
    picked = every.gather(2, ids[:, 1:].unsqueeze(-1)).squeeze(-1)
    return picked, -(every.exp() * every).sum(-1)
def policy(network, states, actions):
    return network(states).log_softmax(-1).gather(1, actions.unsqueeze(-1)).squeeze(-1)
def last_word(model, ids, words):
    return model(input_ids=ids).logits[:, -1].log_softmax(-1).gather(-1, words.unsqueeze(-1))
def selected(model, ids):
    logits = model(input_ids=ids).logits[:, :-1]
    return logits.gather(2, ids[:, 1:].unsqueeze(-1)).squeeze(-1) - logits.logsumexp(-1)
""",
    )

    def check(self, program: Program) -> Iterator[Finding]:
        for loss in vocabulary_losses(program):
            yield self._materialised(loss)
        for call in unchunked(program):
            yield self._unchunked(call)
        for picked in picked_logarithms(program):
            yield self._picked(picked)

    def _picked(self, picked: PickedLogarithm) -> Finding:
        return self.finding(
            picked.call.node,
            "`log_softmax` of the scores for all words is saved for the backward to pick one word for each token; the "
            "picked scores minus `logsumexp` save no tensor of that size",
            holds="the logarithms for every word, from here to the backward",
            confidence=picked.confidence,
            claim=Claim(ClaimShape.SPIKE, "device", "N * V * E", held=picked.call.node, watch=Watch.ALLOCATED),
        )

    def _materialised(self, loss: VocabularyLoss) -> Finding:
        advice = "" if is_older(loss.call.function.module, "torch", "2.13") else "; `linear_cross_entropy` needs none"
        return self.finding(
            loss.call.node,
            f"A score for each token and each word is made and saved for this loss only{advice}",
            holds="3.3 to 6.3 tensors of a score for each token and each word, at the peak",
            confidence=loss.confidence,
            claim=Claim(
                ClaimShape.SPIKE, "device", "(3.3 to 6.3) * N * V * E", held=loss.call.node, watch=Watch.ALLOCATED
            ),
        )

    def _unchunked(self, call: Call) -> Finding:
        return self.finding(
            call.node,
            f"`{code(call.node.func)}` without `options` computes all scores at once",
            holds="a score for each token and each word, as with `cross_entropy`",
            confidence=Confidence.CERTAIN,
            fixes=(
                Fix(
                    "add_argument",
                    "Compute in chunks",
                    Applicability.UNSAFE,
                    {"call": call.node},
                    {"code": "options=torch.nn.LinearCrossEntropyOptions()", "import": "torch"},
                ),
            ),
            claim=Claim(ClaimShape.SPIKE, "device", "(3.3 to 6.3) * N * V * E", held=call.node, watch=Watch.ALLOCATED),
        )
