"""MEM608."""

from __future__ import annotations

from collections.abc import Iterator

from memlint.findings import Applicability, Claim, ClaimShape, Confidence, Finding, Fix, Severity, Watch
from memlint.model.knowledge.torch import GRAPH_WORDS
from memlint.model.language_models import builds_unused_cache
from memlint.model.program import Program
from memlint.model.source_text import code
from memlint.model.values import Call
from memlint.rule import Rule


class KvCacheBuiltForScoring(Rule):
    """A language model that only scores a text returns a cache of keys and values that nobody reads.

    ## What it does
    Finds calls of causal language models of transformers where gradients are disabled, that do not pass
    `use_cache=False`, and of whose output only `logits`, `loss` or `hidden_states` are read.

    ## Why is this bad?
    `use_cache` is on by default. The output then holds the keys and values of every layer and position, 2 x layers x
    tokens x heads x head size, as long as the output lives: 18 MiB in place of 2 MiB in a small model (measured). In
    training it costs nothing more, since autograd saves the same tensors; and the Trainer switches it off.

    ## Example
    ```python
    with torch.no_grad():
        logits = model(**batch).logits
    ```

    ## Use instead
    ```python
    with torch.no_grad():
        logits = model(**batch, use_cache=False).logits
    ```

    ## Fix safety
    Safe: the cache is a by-product, and scores do not depend on it.

    ## When to ignore
    When the model is configured to return no cache, `model.config.use_cache = False`, out of memlint's sight.

    ## References
    - [Caching](https://huggingface.co/docs/transformers/kv_cache) (what the cache is for)
    """

    code = "MEM608"
    name = "kv-cache-built-for-scoring"
    severity = Severity.WARNING
    gate = GRAPH_WORDS | {"logits", "loss", "hidden_states"}
    fixers = ("add_argument",)
    positive = (
        """
import torch
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained("gpt2").eval()
def perplexity(loader):
    losses = []
    with torch.no_grad():
        for batch in loader:
            output = model(**batch, labels=batch["input_ids"])  # MEM608: 22
            losses.append(output.loss.item())
    return losses
""",
        """
import torch
from transformers import AutoTokenizer, LlamaForCausalLM
class Scorer:
    def __init__(self, name):
        self.tokenizer = AutoTokenizer.from_pretrained(name)
        self.model = LlamaForCausalLM.from_pretrained(name, torch_dtype=torch.bfloat16).to("cuda")
    @torch.inference_mode()
    def score(self, text):
        inputs = self.tokenizer(text, return_tensors="pt")
        logits = self.model(inputs.input_ids, attention_mask=inputs.attention_mask).logits  # MEM608: 18
        return logits.log_softmax(-1)
""",
        """
import torch
from transformers import AutoModelForCausalLM
def log_probs(model, tokens):
    logits = model(tokens)["logits"]  # MEM608
    return logits[:, :-1].log_softmax(-1)
def main(batches):
    reference = AutoModelForCausalLM.from_pretrained("gpt2")
    with torch.no_grad():
        return [log_probs(reference, batch) for batch in batches]
""",
        """
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
def embed(path, batches):
    base = AutoModelForCausalLM.from_pretrained("gpt2")
    model = PeftModel.from_pretrained(base, path)
    torch.set_grad_enabled(False)
    for batch in batches:
        hidden = base(**batch, output_hidden_states=True).hidden_states  # MEM608
        yield hidden[-1].mean(1)
""",
        """
import torch
from transformers import GPT2LMHeadModel
def loss(text_ids):
    model = GPT2LMHeadModel.from_pretrained("gpt2")
    with torch.no_grad():
        return model(text_ids, labels=text_ids)[0].item()  # MEM608: 16
""",
        """
import torch
from transformers import AutoModelForCausalLM, Trainer
def main(arguments, data):
    model = AutoModelForCausalLM.from_pretrained("gpt2")
    trainer = Trainer(model, arguments)
    with torch.no_grad():
        print(model(**data).logits.shape)  # MEM608?
""",
    )
    negative = (
        """
import torch
from transformers import AutoModelForCausalLM
def main(batches, tokens, cache, **options):
    model = AutoModelForCausalLM.from_pretrained("gpt2")
    for batch in batches:
        model(**batch).loss.backward()
    with torch.no_grad():
        print(model(**batch, use_cache=False).logits)
        print(model(**batch, **options).logits)
        output = model(tokens)
        print(output.logits, output.past_key_values)
        print(model(tokens, past_key_values=cache).logits)
        whole = model(tokens)
        print(model.generate(tokens))
    return whole
""",
        """
import torch
from transformers import AutoModelForCausalLM
def main(batches):
    model = AutoModelForCausalLM.from_pretrained("gpt2")
    model.config.use_cache = False
    with torch.no_grad():
        for batch in batches:
            print(model(**batch).logits.shape)
""",
        """
import torch
from transformers import AutoModelForCausalLM, BertForMaskedLM, MambaForCausalLM
def main(batch):
    model = AutoModelForCausalLM.from_pretrained("gpt2", use_cache=False)
    encoder = BertForMaskedLM.from_pretrained("bert-base-cased")
    recurrent = MambaForCausalLM.from_pretrained("mamba")
    with torch.no_grad():
        print(model(**batch).logits, encoder(**batch).logits, recurrent(**batch).logits)
""",
        """
import torch
from transformers import AutoModelForCausalLM, Trainer
class Distilled(Trainer):
    def compute_loss(self, model, inputs, return_outputs=False):
        with torch.no_grad():
            teacher = self.teacher(**inputs).logits
            mine = AutoModelForCausalLM.from_pretrained("gpt2")(**inputs).logits
        return (teacher - mine).mean()
""",
        """
import torch
from transformers import AutoModelForCausalLM
def decode(name, tokens):
    model = AutoModelForCausalLM.from_pretrained(name)
    with torch.no_grad():
        out = model(tokens)
        for _ in range(10):
            out = model(out.logits[:, -1:].argmax(-1), past_key_values=out.past_key_values)
    return tokens
""",
    )

    def check(self, program: Program) -> Iterator[Finding]:
        for call in program.calls():
            confidence = builds_unused_cache(call)
            if confidence is not None:
                yield self._finding(call, confidence)

    def _finding(self, call: Call, confidence: Confidence) -> Finding:
        return self.finding(
            call.node,
            f"`{code(call.node.func)}` returns a cache of keys and values, and only its scores are read",
            holds="the keys and values of every layer for all tokens, as long as the output",
            confidence=confidence,
            fixes=(
                Fix(
                    "add_argument",
                    "Compute no cache: `use_cache=False`",
                    Applicability.SAFE,
                    {"call": call.node},
                    {"code": "use_cache=False"},
                ),
            ),
            claim=Claim(ClaimShape.SPIKE, "device", "keys and values", held=call.node, watch=Watch.KEY_VALUE_CACHE),
        )
