"""MEM507."""

from __future__ import annotations

from collections.abc import Iterator

from memlint.findings import Applicability, Claim, ClaimShape, Confidence, Finding, Fix, Severity, Watch
from memlint.model.language_models import LastScores, keeping_argument, last_scores
from memlint.model.program import Program
from memlint.model.prompt_scores import scores_dropped_by_callers
from memlint.model.source_text import code
from memlint.model.values import Call
from memlint.rule import Rule


class LogitsComputedThenSliced(Rule):
    """A language model scores every position, and only the last scores are used.

    ## What it does
    Finds calls of causal language models of transformers of whose `logits` only `[:, -1]` or `[:, -k:]` is used, and
    functions that compute something for each token from them, of which all callers use `[:, start:]` only: what is said
    of a completion, behind its prompt.
    Calls with `labels` compute a loss of all scores and are left alone, and so are projects that pin transformers
    before 4.45, which cannot leave positions out.

    ## Why is this bad?
    The head multiplies all N tokens with the vocabulary of V words: N x V numbers, of which k x V are used. For 8,192
    tokens and 128,256 words in float32 that is 3.9 GiB in place of half a megabyte. Models of transformers take
    `logits_to_keep` and cut the hidden states before the head.

    ## Example
    ```python
    scores = model(**batch).logits[:, -1]
    ```

    ## Use instead
    ```python
    scores = model(**batch, logits_to_keep=1).logits[:, -1]
    ```

    ## Fix safety
    Unsafe: models whose code comes with their weights may not take the argument. Before transformers 4.49 it is called
    `num_logits_to_keep`; the fix uses the name that the version has which the project pins. Where callers drop
    positions there is no fix: they have to say how many they want.

    ## When to ignore
    When the texts are so short, or the vocabulary is so small, that all scores take little.

    ## References
    - [transformers#31292](https://github.com/huggingface/transformers/pull/31292),
      [SkyRL#1858](https://github.com/NovaSky-AI/SkyRL/issues/1858)
    """

    code = "MEM507"
    name = "logits-computed-then-sliced"
    severity = Severity.WARNING
    gate = frozenset({"logits"})
    fixers = ("add_argument",)
    positive = (
        """
import torch
from transformers import AutoModelForCausalLM
@torch.no_grad()
def next_words(batches):
    model = AutoModelForCausalLM.from_pretrained("gpt2")
    for batch in batches:
        yield model(**batch).logits[:, -1].argmax(-1)  # MEM507: 15
""",
        """
from transformers import LlamaForCausalLM
def scores(tokens, count):
    model = LlamaForCausalLM.from_pretrained("llama")
    output = model(input_ids=tokens)  # MEM507: 14
    logits = output.logits
    return logits[:, -count:, :], output.past_key_values
""",
        """
from transformers import AutoModelForCausalLM
class Policy:
    def __init__(self, name):
        self.model = AutoModelForCausalLM.from_pretrained(name)
    def log_probs(self, tokens, completion):
        logits = self.model(tokens).logits[:, :-1]  # MEM507
        return logits[:, -completion.size(1):].log_softmax(-1)
    def reward(self, tokens):
        return self.model(tokens)["logits"][:, -1, :]  # MEM507
""",
        """
from transformers import AutoModelForCausalLM
def scores(tokens, log):
    output = AutoModelForCausalLM.from_pretrained("gpt2")(tokens)  # MEM507?
    log(output)
    return output.logits[:, -1]
""",
        """
import torch
def logps(model, ids):
    logits = model(ids).logits  # MEM507: 14
    logits = logits[:, :-1]
    rows = []
    for row, words in zip(logits, ids[:, 1:]):
        rows.append(row.log_softmax(-1).gather(1, words.unsqueeze(1)).squeeze(1))
    return torch.stack(rows)
def loss(model, reference, ids, prompt_length):
    new = logps(model, ids)
    new = new[:, prompt_length - 1 :]
    with torch.no_grad():
        old = logps(reference, ids)
    return (new - old[:, prompt_length - 1 :]).mean()
""",
    )
    negative = (
        """
import torch
def logps(model, ids):
    logits = model(ids).logits[:, :-1]
    return logits.log_softmax(-1).gather(2, ids[:, 1:].unsqueeze(2)).squeeze(2)
def kept(model, ids, count):
    logits = model(ids, logits_to_keep=count + 1).logits[:, :-1]
    return logits.log_softmax(-1).max(-1).values
def spans(model, ids):
    return model(ids).logits
def loss(model, ids, prompt_length):
    whole = logps(model, ids)
    said = whole[:, prompt_length - 1 :]
    first = kept(model, ids, 4)[:, prompt_length:]
    return said.mean() + whole.mean() + first.mean() + spans(model, ids)[:, prompt_length:].mean()
""",
        """
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
def main(batch, tokens, lengths):
    model = AutoModelForCausalLM.from_pretrained("gpt2")
    shifted = model(tokens).logits[:, :-1]
    both = model(tokens)
    print(both.logits[:, -1], both.logits.mean())
    loss = model(**batch, labels=batch["input_ids"])
    print(loss.loss, loss.logits[:, -1])
    kept = model(tokens, logits_to_keep=1).logits[:, -1]
    rows = model(tokens).logits[torch.arange(len(tokens)), lengths - 1]
    classes = AutoModelForSequenceClassification.from_pretrained("bert")(tokens).logits[:, -1]
    return shifted, kept, rows, classes, model.generate(tokens)
""",
        """
from torch import nn
class Model(nn.Module):
    def forward(self, x):
        return self.net(x)
def last(model: Model, x):
    return model(x).logits[:, -1]
""",
    )

    def check(self, program: Program) -> Iterator[Finding]:
        for call in program.calls():
            found = last_scores(call)
            if found is not None:
                yield self._finding(found)
                continue
            dropped = scores_dropped_by_callers(call)
            if dropped is not None:
                yield self._dropped(call, dropped)

    def _dropped(self, call: Call, confidence: Confidence) -> Finding:
        argument = keeping_argument(call.function.module)
        return self.finding(
            call.node,
            f"`{code(call.node.func)}` scores every position, and all callers cut off the first ones; "
            f"`{argument}` says how many to score",
            holds="a score for each token of the prompt and each word of the vocabulary",
            confidence=confidence,
            claim=_claim(call),
        )

    def _finding(self, found: LastScores) -> Finding:
        call = found.forward
        argument = f"{keeping_argument(call.function.module)}={found.count}"
        return self.finding(
            call.node,
            f"`{code(call.node.func)}` scores every position, and only the last are used",
            holds="a score for each token and each word of the vocabulary",
            confidence=found.confidence,
            fixes=(
                Fix(
                    "add_argument",
                    f"Score those only: `{argument}`",
                    Applicability.UNSAFE,
                    {"call": call.node},
                    {"code": argument},
                ),
            ),
            claim=_claim(call),
        )


def _claim(call: Call) -> Claim:
    return Claim(ClaimShape.SPIKE, "device", "(N - k) * V * E", held=call.node, watch=Watch.ALLOCATED)
