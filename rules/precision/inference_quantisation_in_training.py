"""MEM406."""

from __future__ import annotations

from collections.abc import Iterator

from memlint.findings import Claim, ClaimShape, Confidence, Finding, Related, Severity, Watch
from memlint.model.aliases import qualified_names
from memlint.model.grad_switches import is_ever_switched_off
from memlint.model.identity import objects
from memlint.model.pretrained import Quantization, pretrained_kind, quantization
from memlint.model.program import Program
from memlint.model.trainees import Trainee, gets_adapters, trainees
from memlint.model.values import Call, Value
from memlint.rule import Rule


class InferenceQuantisationInTraining(Rule):
    """A model is quantised for inference and then trained.

    ## What it does
    Finds models that an optimizer or a Trainer gets after `quantize_dynamic`, `convert` or torchao's `quantize_`, and
    models that are loaded in 8 or 4 bits and handed to a Trainer without adapters. Quantisation after the training,
    quantisation-aware training, adapters on a quantised model and a quantised teacher are left alone.

    ## Why is this bad?
    Quantised layers have no parameters that could be trained: `quantize_dynamic(nn.Sequential(nn.Linear(...)))` has 0,
    and an optimizer of them raises "empty parameter list" (measured). Where other layers are left, only those
    learn. It saves no memory of the training either: gradients, states and activations are those of the rest, and
    `quantize_dynamic` makes modules for the CPU.

    ## Example
    ```python
    model = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    optimizer = torch.optim.AdamW(model.parameters())
    ```

    ## Use instead
    ```python
    optimizer = bitsandbytes.optim.AdamW8bit(model.parameters())  # states of 8 bits
    ```
    or train adapters on a model that is loaded in 4 bits (QLoRA), or under autocast.

    ## Fix safety
    There is no fix.

    ## When to ignore
    When the layers that are trained are known to be others than those that are quantised.

    ## References
    - [Quantization](https://docs.pytorch.org/docs/stable/quantization.html)
    - [QLoRA](https://arxiv.org/abs/2305.14314)
    """

    code = "MEM406"
    name = "inference-quantisation-in-training"
    severity = Severity.WARNING
    gate = frozenset(
        {"quantize_dynamic", "convert", "quantize", "quantize_", "load_in_8bit", "load_in_4bit", "quantization_config"}
    )
    positive = (
        """
import torch
from torch import nn
def train(model, loader):
    model = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    optimizer = torch.optim.AdamW(model.parameters())  # MEM406: 17
    for x, y in loader:
        nn.functional.mse_loss(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
""",
        """
import torch
from torchao.quantization import Int8WeightOnlyConfig, quantize_
def train(model):
    quantize_(model, Int8WeightOnlyConfig())
    return torch.optim.SGD(model.parameters(), lr=0.1)  # MEM406
""",
        """
from torch.quantization import quantize_dynamic
from transformers import AutoModelForSequenceClassification, Trainer
model = AutoModelForSequenceClassification.from_pretrained("bert-base-uncased")
trainer = Trainer(model=quantize_dynamic(model), args=None)  # MEM406
""",
        """
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments
model = AutoModelForCausalLM.from_pretrained("facebook/opt-350m", load_in_8bit=True)
trainer = Trainer(model=model, args=TrainingArguments("out"), train_dataset=None)  # MEM406
""",
    )
    negative = (
        """
import torch
from torch import nn
def train(model, loader):
    optimizer = torch.optim.AdamW(model.parameters())
    for x, y in loader:
        nn.functional.mse_loss(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
    return torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
""",
        """
import torch
from torchao.quantization import quantize_
from torchao.quantization.qat import IntXQuantizationAwareTrainingConfig
def train(model):
    quantize_(model, IntXQuantizationAwareTrainingConfig())
    return torch.optim.SGD(model.parameters(), lr=0.1)
""",
        """
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments
model = AutoModelForCausalLM.from_pretrained("facebook/opt-350m", load_in_8bit=True)
model = get_peft_model(model, LoraConfig())
trainer = Trainer(model=model, args=TrainingArguments("out"), train_dataset=None)
""",
        """
from peft import LoraConfig
from transformers import AutoModelForCausalLM, BitsAndBytesConfig
from trl import SFTTrainer
config = BitsAndBytesConfig(load_in_4bit=True)
model = AutoModelForCausalLM.from_pretrained("facebook/opt-350m", quantization_config=config)
trainer = SFTTrainer(model=model, peft_config=LoraConfig())
""",
        """
import torch
from transformers import AutoModelForCausalLM
teacher = AutoModelForCausalLM.from_pretrained("facebook/opt-350m", load_in_8bit=True)
student = AutoModelForCausalLM.from_pretrained("facebook/opt-125m")
optimizer = torch.optim.AdamW(student.parameters())
student(torch.zeros(1, 8, dtype=torch.long)).logits.sum().backward()
""",
        """
import torch
from torchao.quantization import Int8WeightOnlyConfig, quantize_
def train(model):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    quantize_(model, Int8WeightOnlyConfig())
    return optimizer
""",
    )

    def check(self, program: Program) -> Iterator[Finding]:
        for trainee in trainees(program.module):
            for call, confidence in _quantised(program, trainee):
                yield self.finding(
                    trainee.call.node,
                    "the model is quantised for inference: its quantised layers have no parameters that can be trained",
                    holds="nothing more; it is the model that does not learn",
                    confidence=confidence,
                    claim=Claim(ClaimShape.PRESENT, "device", "0", watch=Watch.QUANTISED_LAYERS),
                    related=(Related(call.node, "quantised here"),),
                )
                break


_RETURNING = frozenset(
    f"torch.{package}.{name}"
    for package in ("quantization", "ao.quantization", "ao.quantization.quantize", "quantization.quantize")
    for name in ("quantize_dynamic", "convert", "quantize")
)
_IN_PLACE = frozenset({"torchao.quantization.quantize_", "torchao.quantization.quant_api.quantize_"})


def _quantised(program: Program, trainee: Trainee) -> Iterator[tuple[Call, Confidence]]:
    """The calls that quantise what is trained, before it is handed over."""
    for call in program.calls("quantize_dynamic", "convert", "quantize"):
        if qualified_names(call.callee) & _RETURNING and _is_before(call, trainee) and trainee.trains(call):
            yield call, Confidence.LIKELY
    for call in program.calls("quantize_"):
        if not qualified_names(call.callee) & _IN_PLACE or not call.arguments or _is_for_training(call):
            continue
        if _is_before(call, trainee) and trainee.trains(call.arguments[0].value):
            yield call, Confidence.LIKELY
    for call in program.calls("from_pretrained"):
        if trainee.call.name.endswith("Trainer") and _is_loaded_quantised(call) and _is_trained_whole(call, trainee):
            yield call, Confidence.LIKELY


def _is_before(call: Call, trainee: Trainee) -> bool:
    return call.function is not trainee.call.function or call.order < trainee.call.order


def _is_for_training(call: Call) -> bool:
    """Whether a configuration of torchao is one of quantisation-aware training, or of training in low precision."""
    names = {name for argument in call.arguments[1:] for name in _names(argument.value)}
    return any(word in name for name in names for word in ("QAT", "QuantizationAware", "Training", "Quantizer"))


def _names(value: Value) -> frozenset[str]:
    return qualified_names(value.callee) if isinstance(value, Call) else qualified_names(value)


def _is_loaded_quantised(call: Call) -> bool:
    return pretrained_kind(call) is not None and quantization(call) is Quantization.YES


def _is_trained_whole(call: Call, trainee: Trainee) -> bool:
    """Whether all of what ``call`` loads is trained, and not adapters, or some layers."""
    if trainee.has_adapters or not trainee.trains(call) or gets_adapters(call):
        return False
    return not is_ever_switched_off(objects(call), trainee.call.function)
