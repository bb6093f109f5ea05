"""MEM405."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from memlint.findings import Applicability, Claim, ClaimShape, Confidence, Finding, Fix, Related, Severity
from memlint.model.aliases import qualified_names
from memlint.model.dtypes import half_weights
from memlint.model.pretrained import Quantization, loads_half, loads_of, quantization
from memlint.model.program import Program
from memlint.model.source_text import text
from memlint.model.statements import name_of
from memlint.model.values import Call, Value
from memlint.rule import Rule


class KbitPrepareOnUnquantisedModel(Rule):
    """A model that is not quantised is prepared for training on quantised weights, which casts all of it to float32.

    ## What it does
    Finds peft's `prepare_model_for_kbit_training(model)` where every place that loads the model is in sight and asks
    for no quantisation: no `quantization_config`, no `load_in_4bit` or `load_in_8bit`, no
    checkpoint whose name says so.

    ## Why is this bad?
    The function casts each parameter of 16 bits to float32, which is meant for the few that are left unquantised. On a
    model that is not quantised these are all: the weights take twice their size, 14 GB more for 7 billion parameters in
    bfloat16. It switches activation checkpointing on for quantised models only, so that this does not happen either.

    ## Example
    ```python
    model = AutoModelForCausalLM.from_pretrained(name, dtype=torch.bfloat16)
    model = prepare_model_for_kbit_training(model)
    model = get_peft_model(model, LoraConfig())
    ```

    ## Use instead
    ```python
    model = AutoModelForCausalLM.from_pretrained(name, dtype=torch.bfloat16)
    model.enable_input_require_grads()
    model.gradient_checkpointing_enable()
    model = get_peft_model(model, LoraConfig())
    ```

    ## Fix safety
    Unsafe: the weights stay in 16 bits, so that the numbers change. The fix takes the call out; switching checkpointing
    on is a choice of its own.

    ## When to ignore
    When the weights are meant to be float32: load them so, with `dtype=torch.float32`.

    ## References
    - [peft#1149](https://github.com/huggingface/peft/issues/1149),
      [peft#816](https://github.com/huggingface/peft/issues/816)
    - [trl#4335](https://github.com/huggingface/trl/pull/4335): 19.1 to 14.2 GB without it
    - [bitsandbytes#1569](https://github.com/bitsandbytes-foundation/bitsandbytes/issues/1569): 81.1 GB, and 63.1
      without it
    """

    code = "MEM405"
    name = "kbit-prepare-on-unquantised-model"
    severity = Severity.WARNING
    gate = frozenset({"prepare_model_for_kbit_training", "prepare_model_for_int8_training"})
    fixers = ("remove_statement", "replace_expression")
    positive = (
        """
import torch
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained("meta-llama/Llama-2-7b-hf", torch_dtype=torch.bfloat16)
model = prepare_model_for_kbit_training(model)  # MEM405: 9
model = get_peft_model(model, LoraConfig())
""",
        """
import peft
import torch
from transformers import AutoModelForCausalLM
def build(name):
    model = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float16, device_map="auto")
    model.config.use_cache = False
    return peft.get_peft_model(
        peft.prepare_model_for_kbit_training(model, use_gradient_checkpointing=True),  # MEM405
        peft.LoraConfig(),
    )
""",
        """
from peft import prepare_model_for_int8_training
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained("facebook/opt-6.7b", load_in_8bit=False).half()
prepare_model_for_int8_training(model)  # MEM405
""",
        """
from peft import prepare_model_for_kbit_training
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained("facebook/opt-6.7b")
model = prepare_model_for_kbit_training(model)  # MEM405?
""",
    )
    negative = (
        """
import torch
from peft import prepare_model_for_kbit_training
from transformers import AutoModelForCausalLM, BitsAndBytesConfig
config = BitsAndBytesConfig(load_in_4bit=True)
model = AutoModelForCausalLM.from_pretrained("gpt2", quantization_config=config, torch_dtype=torch.bfloat16)
model = prepare_model_for_kbit_training(model)
""",
        """
from peft import prepare_model_for_kbit_training
def prepare(model):
    return prepare_model_for_kbit_training(model)
""",
        """
import torch
from peft import prepare_model_for_kbit_training
from transformers import AutoModelForCausalLM
def build(args, config):
    model = AutoModelForCausalLM.from_pretrained(
        args.name, torch_dtype=torch.bfloat16, quantization_config=config if args.load_in_4bit else None
    )
    if args.load_in_4bit:
        model = prepare_model_for_kbit_training(model)
    return model
""",
        """
import torch
from peft import prepare_model_for_kbit_training
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained("TheBloke/Llama-2-7B-GPTQ", torch_dtype=torch.float16)
model = prepare_model_for_kbit_training(model)
""",
        """
import torch
from peft import prepare_model_for_kbit_training
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained("gpt2", torch_dtype=torch.float32)
model = prepare_model_for_kbit_training(model)
""",
        """
import torch
from peft import prepare_model_for_kbit_training
from transformers import AutoModelForCausalLM
def build(name, **options):
    model = AutoModelForCausalLM.from_pretrained(name, torch_dtype=torch.bfloat16, **options)
    return prepare_model_for_kbit_training(model)
""",
        """
from peft import prepare_model_for_kbit_training
from unsloth import FastLanguageModel
model, tokenizer = FastLanguageModel.from_pretrained("unsloth/llama-3-8b", max_seq_length=2048)
model = prepare_model_for_kbit_training(model)
""",
    )

    def check(self, program: Program) -> Iterator[Finding]:
        for call in program.calls("prepare_model_for_kbit_training", "prepare_model_for_int8_training"):
            model = call.argument("model", 0)
            if model is None or not any(name.startswith("peft.") for name in qualified_names(call.callee)):
                continue
            confidence = _is_half_and_unquantised(model)
            if confidence is not None:
                yield self._finding(call, model, confidence)

    def _finding(self, call: Call, model: Value, confidence: Confidence) -> Finding:
        here = [load for load in loads_of(model) or () if load.function.module is call.function.module]
        return self.finding(
            call.node,
            f"`{call.name}` casts every parameter of a model that is not quantised to float32, and leaves activation "
            "checkpointing off",
            holds="the weights at twice their size",
            confidence=confidence,
            fixes=(_fix(call),),
            claim=Claim(ClaimShape.PLATEAU, "device", "P", held=call.node),
            related=tuple(Related(load.node, "loaded without quantisation") for load in here),
        )


def _is_half_and_unquantised(model: Value) -> Confidence | None:
    """How sure it is that no weight is quantised, and that they are of 16 bits, so that the cast costs something."""
    loads = loads_of(model)
    if loads is None or any(quantization(load) is not Quantization.NO for load in loads):
        return None
    cast = half_weights(model)
    found = [each for each in (cast, *map(loads_half, loads)) if each is not None]
    return max(found, key=lambda each: each.rank, default=None)


def _fix(call: Call) -> Fix:
    argument = call.argument("model", 0)
    target = name_of(call)
    written = next(each.node.value for each in call.arguments if each.value is argument)
    statement = next((each for each in call.function.statements if each is call), None) is not None
    if statement or (isinstance(target, cst.Name) and isinstance(written, cst.Name) and target.value == written.value):
        return Fix("remove_statement", _MESSAGE, Applicability.UNSAFE, {"statement": call.node})
    return Fix("replace_expression", _MESSAGE, Applicability.UNSAFE, {"expression": call.node}, {"code": text(written)})


_MESSAGE = "Leave the weights as they were loaded"
