"""MEM404."""

from __future__ import annotations

from collections.abc import Iterator

from memlint.findings import Applicability, Claim, ClaimShape, Confidence, Finding, Fix, Severity
from memlint.model.freezing import is_frozen
from memlint.model.grad_switches import is_ever_switched_off
from memlint.model.identity import objects
from memlint.model.pins import is_at_least, is_older
from memlint.model.pretrained import decides_on_type, pretrained_kind
from memlint.model.program import Program
from memlint.model.trainees import gets_adapters, trainees, trains
from memlint.model.values import Call
from memlint.rule import Rule


class PretrainedDtypeUnpinned(Rule):
    """A pretrained model is loaded without saying of which type its weights are, which depends on the version.

    ## What it does
    Finds `from_pretrained` of a model of transformers in code that trains, without `dtype`, `torch_dtype` or a
    quantisation, and without a cast later on. With transformers 4 it speaks of models whose parameters are frozen;
    with transformers 5, of models that are trained as a whole. Where the project pins neither version, the findings are
    possible ones only.

    ## Why is this bad?
    Before version 5, weights that are stored in 16 bits were loaded as float32: a frozen teacher or encoder takes twice
    the memory that it needs, `2·numel` bytes more. Since version 5 the type is that of the checkpoint: the same line
    now makes weights, and with them gradients and the moments of the optimizer, of 16 bits. That saves memory, and
    silently trains otherwise.

    ## Example
    ```python
    teacher = AutoModel.from_pretrained(name)
    teacher.requires_grad_(False)
    ```

    ## Use instead
    ```python
    teacher = AutoModel.from_pretrained(name, dtype=torch.bfloat16)  # torch_dtype before transformers 4.56
    teacher.requires_grad_(False)
    ```

    ## Fix safety
    Unsafe: the numbers of a frozen model change in their last digits. There is no fix for models that are trained.

    ## When to ignore
    When the checkpoint is stored in float32, as many older ones are.

    ## References
    - [transformers#34743](https://github.com/huggingface/transformers/issues/34743): why the type of the checkpoint
    - [sentence-transformers#3773](https://github.com/huggingface/sentence-transformers/pull/3773): float32 is pinned
    """

    code = "MEM404"
    name = "pretrained-dtype-unpinned"
    severity = Severity.NOTE
    default = False
    gate = frozenset({"from_pretrained"})
    fixers = ("add_argument",)
    positive = (
        """
import torch
from transformers import AutoModel
def train(student, loader, name):
    teacher = AutoModel.from_pretrained(name)  # MEM404?
    teacher.requires_grad_(False)
    for x in loader:
        (student(x) - teacher(x).last_hidden_state).pow(2).mean().backward()
""",
        """
import torch
from transformers import AutoModelForCausalLM
def train(loader, name):
    model = AutoModelForCausalLM.from_pretrained(name)  # MEM404?
    optimizer = torch.optim.AdamW(model.parameters())
    for batch in loader:
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
""",
    )
    negative = (
        """
import torch
from transformers import AutoModel, AutoTokenizer
def train(student, loader, name):
    tokenizer = AutoTokenizer.from_pretrained(name)
    teacher = AutoModel.from_pretrained(name, torch_dtype=torch.bfloat16)
    other = AutoModel.from_pretrained(name).half()
    teacher.requires_grad_(False)
    other.requires_grad_(False)
    for x in loader:
        (student(x) - teacher(x).last_hidden_state - other(x)[0]).pow(2).mean().backward()
""",
        """
from transformers import AutoModel
def embed(x, name):
    model = AutoModel.from_pretrained(name)
    model.requires_grad_(False)
    return model(x)
""",
        """
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments
from peft import LoraConfig, get_peft_model
model = get_peft_model(AutoModelForCausalLM.from_pretrained("gpt2"), LoraConfig())
trainer = Trainer(model=model, args=TrainingArguments("out"))
""",
        """
from diffusers import AutoencoderKL
def train(unet, loader, accelerator, weight_dtype):
    vae = AutoencoderKL.from_pretrained("sd", subfolder="vae")
    vae.requires_grad_(False)
    vae.to(accelerator.device, dtype=weight_dtype)
    for x in loader:
        accelerator.backward(unet(vae.encode(x).latent_dist.sample()).mean())
""",
    )

    def check(self, program: Program) -> Iterator[Finding]:
        for call in program.calls("from_pretrained"):
            kind = pretrained_kind(call)
            if kind is None or not kind.name.startswith("transformers.") or decides_on_type(call):
                continue
            if _is_kept_frozen(call):
                yield from self._frozen(call)
            elif _is_trained_whole(program, call):
                yield from self._trained(call)

    def _frozen(self, call: Call) -> Iterator[Finding]:
        module = call.function.module
        if is_at_least(module, "transformers", "5") or not trains(module):
            return
        old = is_older(module, "transformers", "5")
        name = "torch_dtype" if old else "dtype"
        yield self.finding(
            call.node,
            "this model is not trained, and transformers before version 5 loads its weights as float32",
            holds="the weights at twice the size that they have in 16 bits",
            confidence=Confidence.LIKELY if old else Confidence.POSSIBLE,
            fixes=(
                Fix(
                    "add_argument",
                    f"Load the weights with `{name}=torch.bfloat16`",
                    Applicability.UNSAFE,
                    {"call": call.node},
                    {"code": f"{name}=torch.bfloat16", "import": "torch"},
                ),
            ),
            claim=_claim(call),
        )

    def _trained(self, call: Call) -> Iterator[Finding]:
        module = call.function.module
        if not is_older(module, "transformers", "5"):
            yield self.finding(
                call.node,
                "since transformers 5 the weights have the type of the checkpoint, and so have the gradients and the "
                "moments of the optimizer; say which `dtype` is meant",
                holds="weights, gradients and moments of 16 bits, or twice as much, as the version decides",
                confidence=Confidence.LIKELY if is_at_least(module, "transformers", "5") else Confidence.POSSIBLE,
                claim=_claim(call),
            )


def _claim(call: Call) -> Claim:
    return Claim(
        ClaimShape.PLATEAU,
        "device",
        "2·numel",
        held=call.node,
        unobservable="a run has the weights in one type, and shows nothing of the type that was meant",
    )


def _is_kept_frozen(call: Call) -> bool:
    return is_frozen(call) or is_ever_switched_off(objects(call), call.function)


def _is_trained_whole(program: Program, call: Call) -> bool:
    return not gets_adapters(call) and any(
        not trainee.has_adapters and trainee.trains(call) for trainee in trainees(program.module)
    )
