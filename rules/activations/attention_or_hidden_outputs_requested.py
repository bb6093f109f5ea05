"""MEM505."""

from __future__ import annotations

from collections.abc import Iterator

from memlint.findings import Applicability, Claim, ClaimShape, Finding, Fix, Severity, Watch
from memlint.model.language_models import Request, unread_requests
from memlint.model.program import Program
from memlint.model.source_text import code
from memlint.rule import Rule


class AttentionOrHiddenOutputsRequested(Rule):
    """A model is asked for the hidden states or attention weights of all layers, and nothing reads them.

    ## What it does
    Finds calls of models with `output_hidden_states=True` or `output_attentions=True` of whose output only other parts
    are read.

    ## Why is this bad?
    The output holds what was asked for as long as it lives: hidden states are (L + 1) x N x h numbers, 10 MiB more in
    an evaluation (measured with torch 2.13 on a CPU, and just what the formula says). In training autograd saves most
    hidden states anyway, and the finding is a note. Attention weights are L x B x H x T x T numbers, and make
    transformers fall back to an implementation that saves them for the backward; since version 5 the default one
    returns none, and warns.

    ## Example
    ```python
    loss = model(**batch, output_hidden_states=True).loss
    ```

    ## Use instead
    ```python
    loss = model(**batch).loss
    ```

    ## Fix safety
    Safe: the other parts of the output stay the same, and only those are read.

    ## When to ignore
    When a hook reads what is returned.

    ## References
    - [Model outputs](https://huggingface.co/docs/transformers/main_classes/output)
    """

    code = "MEM505"
    name = "attention-or-hidden-outputs-requested"
    severity = Severity.WARNING
    gate = frozenset({"output_attentions", "output_hidden_states"})
    fixers = ("remove_argument",)
    positive = (
        """
from transformers import Trainer
class Distilling(Trainer):
    def compute_loss(self, model, inputs, return_outputs=False):
        decoder = model.get_decoder()
        outputs = decoder(input_ids=inputs["input_ids"], output_hidden_states=True)  # MEM505: 58
        return outputs.last_hidden_state[:, :-1].mean()
""",
        """
import torch
from transformers import AutoModel
model = AutoModel.from_pretrained("bert-base-cased")
@torch.no_grad()
def embed(batches):
    for batch in batches:
        output = model(**batch, output_hidden_states=True)  # MEM505: 33
        yield output.last_hidden_state[:, 0]
""",
        """
import torch
from transformers import AutoModelForCausalLM
def main(loader):
    model = AutoModelForCausalLM.from_pretrained("gpt2")
    optimizer = torch.optim.AdamW(model.parameters())
    for batch in loader:
        loss = model(  # a row for each argument
            **batch,
            output_attentions=True,  # MEM505
            output_hidden_states=True,  # MEM505
        ).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
""",
        """
from torch import nn
class Head(nn.Module):
    def __init__(self, encoder: nn.Module):
        super().__init__()
        self.encoder = encoder
    def forward(self, x):
        return self.encoder(x, output_attentions=True)[0]  # MEM505?
""",
    )
    negative = (
        """
from transformers import Trainer
class Distilling(Trainer):
    def compute_loss(self, model, inputs, return_outputs=False):
        outputs = model.get_decoder()(input_ids=inputs["input_ids"], output_hidden_states=True)
        return outputs.last_hidden_state.mean() + outputs.hidden_states[3].mean()
""",
        """
import torch
from transformers import AutoModel
model = AutoModel.from_pretrained("bert-base-cased")
def study(batch, flag, distil):
    output = model(**batch, output_hidden_states=True)
    middle = output.hidden_states[6]
    maps = model(**batch, output_attentions=True)[-1]
    whole = model(**batch, output_attentions=True)
    plain = model(**batch, output_hidden_states=False).last_hidden_state
    chosen = model(**batch, output_hidden_states=flag).last_hidden_state
    return distil(middle, maps), whole, plain, chosen
""",
        """
def draw(plot):
    return plot(output_attentions=True).logits
""",
    )

    def check(self, program: Program) -> Iterator[Finding]:
        for call in program.calls():
            for request in unread_requests(call):
                yield self._finding(request)

    def _finding(self, request: Request) -> Finding:
        states = request.what == "hidden_states"
        return self.finding(
            request.argument.node,
            f"`{code(request.forward.node.func)}` is asked for `{request.what}`, and nothing reads them",
            holds=f"the {request.what.replace('_', ' ')} of all layers, as long as the output lives",
            severity=Severity.NOTE if states and request.recorded else Severity.WARNING,
            confidence=request.confidence,
            fixes=(
                Fix(
                    "remove_argument",
                    f"Drop `{request.argument.keyword}`",
                    Applicability.SAFE,
                    {"argument": request.argument.node},
                ),
            ),
            claim=Claim(
                ClaimShape.SPIKE,
                "device",
                "(L + 1) * N * h * E" if states else "L * B * H * T * T * E",
                held=request.forward.node,
                watch=Watch.LAYER_OUTPUTS,
            ),
        )
