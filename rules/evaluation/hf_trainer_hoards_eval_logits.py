"""MEM605."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from memlint.findings import Applicability, Claim, ClaimShape, Confidence, Finding, Fix, Related, Severity, Watch
from memlint.model.aliases import sources
from memlint.model.hf_trainers import (
    Construction,
    Predictions,
    argument_setting,
    arguments_call,
    collects_its_own_way,
    construction,
    constructions,
    evaluates,
    predictions,
    reads_positions,
)
from memlint.model.keywords import Given, Setting
from memlint.model.program import Program
from memlint.model.source_text import code
from memlint.model.values import Call, Parameter
from memlint.rule import Rule


class HfTrainerHoardsEvalLogits(Rule):
    """The Trainer of transformers keeps the logits of the whole evaluation set on the device for `compute_metrics`.

    ## What it does
    Finds `Trainer`, `Seq2SeqTrainer`, `SFTTrainer` and classes derived from them that are constructed with
    `compute_metrics` and without `preprocess_logits_for_metrics`, and whose arguments set none of
    `eval_accumulation_steps`, `batch_eval_metrics`, `prediction_loss_only` and, for a `Seq2SeqTrainer`,
    `predict_with_generate`.

    It is an error where the model returns a score for each word of a vocabulary, a warning where it returns a few for
    each position (token classification, segmentation). Models that return a few for a whole example (sequence
    classification, multiple choice) or one for each of its positions (the start of an answer) are reported as possible
    only: their logits take less memory than one batch of activations.

    ## Why is this bad?
    Evaluation gathers what the model returns for each batch, concatenates it on the device, and moves it to the host at
    its end only. A language model returns a score for each word of the vocabulary at each position: 1,000 examples of
    512 tokens and 32,000 words are 61 GiB in float32. A small GPT-2 held 1.0 MiB more after each batch of 4 x 64 tokens
    and 1,000 words, and nothing more with `preprocess_logits_for_metrics` (measured with transformers 5.23). This is
    the most frequent way in which a script runs out of memory in its first evaluation although it has trained without
    trouble.

    ## Example
    ```python
    arguments = TrainingArguments("out", eval_strategy="epoch")
    trainer = Trainer(model, arguments, eval_dataset=validation, compute_metrics=accuracy)
    ```

    ## Use instead
    ```python
    def predicted_words(logits, labels):
        return (logits[0] if isinstance(logits, tuple) else logits).argmax(-1)

    trainer = Trainer(
        model, arguments, eval_dataset=validation,
        compute_metrics=accuracy_of_words, preprocess_logits_for_metrics=predicted_words,
    )
    ```
    so that one integer for each position is kept in place of a score for each word.

    ## Fix safety
    Unsafe: `eval_accumulation_steps=16` moves the logits to the host every 16 batches. The device has room again, but
    the host has to hold all of them, and evaluation waits for the copies. Reducing them in
    `preprocess_logits_for_metrics` is better, but `compute_metrics` has to be changed with it.

    ## When to ignore
    When the evaluation set is small: examples x positions x vocabulary x 4 bytes is what it takes.

    The Trainer holds the predictions itself, in no object of the script, so that `memlint verify` cannot see them.

    ## References
    - [Trainer](https://huggingface.co/docs/transformers/main_classes/trainer) (`preprocess_logits_for_metrics`)
    - [transformers#7232](https://github.com/huggingface/transformers/issues/7232),
      [transformers#8476](https://github.com/huggingface/transformers/issues/8476),
      [transformers#25313](https://github.com/huggingface/transformers/issues/25313)
    - [transformers#27458](https://github.com/huggingface/transformers/pull/27458) (`batch_eval_metrics`)
    """

    code = "MEM605"
    name = "hf-trainer-hoards-eval-logits"
    severity = Severity.ERROR
    gate = frozenset({"compute_metrics"})
    fixers = ("add_argument",)
    positive = (
        """
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments
def accuracy(prediction):
    return {"accuracy": (prediction.predictions.argmax(-1) == prediction.label_ids).mean()}
model = AutoModelForCausalLM.from_pretrained("gpt2")
args = TrainingArguments("out", eval_strategy="epoch")
trainer = Trainer(model=model, args=args, compute_metrics=accuracy)  # MEM605: 11
trainer.train()
""",
        """
import transformers
from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments, T5ForConditionalGeneration
def main(train, validation, metrics):
    arguments = Seq2SeqTrainingArguments(output_dir="out")
    model = T5ForConditionalGeneration.from_pretrained("t5-small")
    trainer = Seq2SeqTrainer(  # MEM605
        model=model,
        args=arguments,
        eval_dataset=validation,
        compute_metrics=metrics,
    )
    trainer.train()
    print(trainer.evaluate())
""",
        """
from trl import SFTConfig, SFTTrainer
def tune(dataset, metrics):
    config = SFTConfig(output_dir="out", eval_strategy="steps", eval_steps=50, per_device_eval_batch_size=1)
    SFTTrainer(model="some/model", args=config, eval_dataset=dataset, compute_metrics=metrics).train()  # MEM605
""",
        """
import torch
from transformers import AutoModelForTokenClassification, Trainer, TrainingArguments
class Weighted(Trainer):
    def __init__(self, weights, **kwargs):
        super().__init__(**kwargs)
        self.weights = weights
    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        outputs = model(**inputs)
        loss = torch.nn.functional.cross_entropy(outputs.logits, inputs["labels"], self.weights)
        return (loss, outputs) if return_outputs else loss
def build():
    return AutoModelForTokenClassification.from_pretrained("bert-base-cased", num_labels=9)
class Experiment:
    def __init__(self, config):
        options = {"output_dir": config.out, "learning_rate": config.rate}
        if config.evaluate:
            options["eval_strategy"] = "epoch"
        self.arguments = TrainingArguments(**options)
        self.model = build()
    def metrics(self, prediction):
        return {"f1": 0.0}
    def run(self, weights, data):
        trainer = Weighted(  # MEM605
            weights, model=self.model, args=self.arguments, train_dataset=data, compute_metrics=self.metrics
        )
        trainer.train()
""",
        """
import numpy as np
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments
def load(name):
    model = AutoModelForCausalLM.from_pretrained(name)
    return get_peft_model(model, LoraConfig(task_type="CAUSAL_LM"))
def arguments(out, **extra):
    return TrainingArguments(out, **extra)
def main(name, data, compute=None):
    common = dict(model=load(name), args=arguments("out", evaluation_strategy="steps"), eval_dataset=data)
    trainer = Trainer(compute_metrics=lambda p: {"n": len(p.predictions)}, **common)  # MEM605
    trainer.train()
    plain = Trainer(compute_metrics=compute, **common)  # MEM605?
    plain.evaluate()
""",
        """
from transformers import AutoModelForMaskedLM, Trainer, TrainingArguments
def main(metrics, do_eval):
    trainer = Trainer(  # MEM605
        model_init=lambda: AutoModelForMaskedLM.from_pretrained("bert-base-cased"),
        args=TrainingArguments("out", do_eval=True, eval_strategy="steps", prediction_loss_only=False),
        compute_metrics=metrics if do_eval else None,
        preprocess_logits_for_metrics=None,
    )
    trainer.train()
""",
        """
from transformers import Trainer, TrainingArguments
def main(model, tokenizer, data):
    def metrics(prediction):
        labels = prediction.label_ids
        labels[labels == -100] = tokenizer.pad_token_id
        return {"same": prediction.predictions.argmax(-1) == labels}
    trainer = Trainer(model, TrainingArguments("out", eval_strategy="epoch"), compute_metrics=metrics)  # MEM605
    trainer.train()
""",
        """
from dataclasses import dataclass, field
from transformers import AutoModelForCausalLM, HfArgumentParser, Trainer, TrainingArguments
@dataclass
class Options:
    name: str = "gpt2"
def main(metrics):
    options, arguments = HfArgumentParser((Options, TrainingArguments)).parse_args_into_dataclasses()
    model = AutoModelForCausalLM.from_pretrained(options.name)
    trainer = Trainer(model=model, args=arguments, compute_metrics=metrics)  # MEM605?
    trainer.train()
""",
        """
from transformers import AutoModelForSequenceClassification, Trainer, TrainingArguments
model = AutoModelForSequenceClassification.from_pretrained("bert-base-cased")
args = TrainingArguments("out", eval_strategy="epoch")
trainer = Trainer(model=model, args=args, compute_metrics=print)  # MEM605?
""",
        """
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments
class Scored(Trainer):
    def __init__(self, model, arguments, data):
        super().__init__(model, arguments, eval_dataset=data, compute_metrics=self.score)  # MEM605: 9
    def score(self, prediction):
        return {"n": len(prediction.predictions)}
    def prediction_step(self, *args, **kwargs):
        self.calls += 1
        return super().prediction_step(*args, **kwargs)
def main(data):
    model = AutoModelForCausalLM.from_pretrained("gpt2")
    Scored(model, TrainingArguments("out"), data).evaluate()
""",
        """
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments
def main(data, metrics):
    trainer = Trainer(AutoModelForCausalLM.from_pretrained("gpt2"), TrainingArguments("out"), eval_dataset=data)
    trainer.compute_metrics = metrics  # MEM605
    trainer.evaluate()
""",
        """
from transformers import Trainer, TrainingArguments
from unsloth import FastLanguageModel
def main(data, metrics):
    model, tokenizer = FastLanguageModel.from_pretrained("some/model", load_in_4bit=True)
    model = FastLanguageModel.get_peft_model(model, r=16)
    trainer = Trainer(model=model, args=TrainingArguments("out"), eval_dataset=data, compute_metrics=metrics)  # MEM605
    print(trainer.predict(data))
""",
        """
from transformers import AutoModelForSemanticSegmentation, IntervalStrategy, Trainer, TrainingArguments
def build(metrics):
    model = AutoModelForSemanticSegmentation.from_pretrained("some/model")
    arguments = TrainingArguments("out", eval_strategy=IntervalStrategy.NO)
    return Trainer(model, arguments, compute_metrics=metrics)  # MEM605
def main(metrics):
    build(metrics).evaluate()
""",
        """
from transformers import AutoModelForSeq2SeqLM, Seq2SeqTrainingArguments, Trainer
def main(data, metrics):
    arguments = Seq2SeqTrainingArguments("out", predict_with_generate=True, eval_strategy="epoch")
    model = AutoModelForSeq2SeqLM.from_pretrained("t5-small")
    Trainer(model, arguments, eval_dataset=data, compute_metrics=metrics).train()  # MEM605
""",
    )
    negative = (
        """
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments
def main(metrics, reduce, data, steps):
    model = AutoModelForCausalLM.from_pretrained("gpt2")
    args = TrainingArguments("out", eval_strategy="epoch")
    Trainer(model=model, args=args, eval_dataset=data).train()
    Trainer(model=model, args=args, compute_metrics=None).train()
    Trainer(model=model, args=args, compute_metrics=metrics, preprocess_logits_for_metrics=reduce).train()
    args = TrainingArguments("out", eval_strategy="epoch", eval_accumulation_steps=4)
    Trainer(model=model, args=args, compute_metrics=metrics).train()
    args = TrainingArguments("out", eval_strategy="epoch", eval_accumulation_steps=steps)
    Trainer(model=model, args=args, compute_metrics=metrics).train()
    args = TrainingArguments("out", eval_strategy="epoch", batch_eval_metrics=True)
    Trainer(model=model, args=args, compute_metrics=metrics).train()
    args = TrainingArguments("out", eval_strategy="epoch", prediction_loss_only=True)
    Trainer(model=model, args=args, compute_metrics=metrics).train()
""",
        """
from transformers import AutoModelForSeq2SeqLM, Seq2SeqTrainer, Seq2SeqTrainingArguments
def main(metrics, data):
    model = AutoModelForSeq2SeqLM.from_pretrained("t5-small")
    args = Seq2SeqTrainingArguments("out", eval_strategy="epoch", predict_with_generate=True)
    Seq2SeqTrainer(model=model, args=args, eval_dataset=data, compute_metrics=metrics).train()
""",
        """
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments
class Own(Trainer):
    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        loss, logits, labels = super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        return loss, logits.argmax(-1), labels
class Reduced(Trainer):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, preprocess_logits_for_metrics=lambda logits, labels: logits.argmax(-1), **kwargs)
def main(metrics, data):
    args = TrainingArguments("out", eval_strategy="epoch")
    model = AutoModelForCausalLM.from_pretrained("gpt2")
    Own(model=model, args=args, eval_dataset=data, compute_metrics=metrics).train()
    Reduced(model=model, args=args, eval_dataset=data, compute_metrics=metrics).train()
""",
        """
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments
def main(metrics, data):
    args = TrainingArguments("out", eval_strategy="epoch")
    args.eval_accumulation_steps = 8
    model = AutoModelForCausalLM.from_pretrained("gpt2")
    Trainer(model=model, args=args, eval_dataset=data, compute_metrics=metrics).train()
    args = TrainingArguments("out").set_evaluate(strategy="steps", accumulation_steps=2)
    Trainer(model=model, args=args, eval_dataset=data, compute_metrics=metrics).train()
""",
        """
from dataclasses import dataclass, field
from transformers import AutoModelForCausalLM, HfArgumentParser, Trainer, TrainingArguments
@dataclass
class Arguments(TrainingArguments):
    eval_strategy: str = "epoch"
    eval_accumulation_steps: int = field(default=4)
def main(metrics):
    model = AutoModelForCausalLM.from_pretrained("gpt2")
    (arguments,) = HfArgumentParser((Arguments,)).parse_args_into_dataclasses()
    Trainer(model=model, args=arguments, compute_metrics=metrics).train()
    Trainer(model=model, args=Arguments("out"), compute_metrics=metrics).train()
""",
        """
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments
def main(metrics, data):
    options = {"output_dir": "out", "eval_strategy": "epoch"}
    options.update(eval_accumulation_steps=4)
    model = AutoModelForCausalLM.from_pretrained("gpt2")
    Trainer(model=model, args=TrainingArguments(**options), compute_metrics=metrics).train()
""",
        """
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments
def main(metrics, data):
    model = AutoModelForCausalLM.from_pretrained("gpt2")
    trainer = Trainer(model=model, args=TrainingArguments("out"), train_dataset=data, compute_metrics=metrics)
    trainer.train()
    trainer.save_model("out")
    print(metrics.predict(data))
""",
        """
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments
def main(metrics, data, reduce):
    model = AutoModelForCausalLM.from_pretrained("gpt2")
    trainer = Trainer(model=model, args=TrainingArguments("out"), eval_dataset=data, compute_metrics=metrics)
    trainer.preprocess_logits_for_metrics = reduce
    trainer.evaluate()
""",
        """
from trl import DPOConfig, DPOTrainer
def tune(model, dataset, metrics):
    config = DPOConfig("out", eval_strategy="steps")
    DPOTrainer(model=model, args=config, eval_dataset=dataset, compute_metrics=metrics).train()
""",
        """
from somewhere import Trainer
def main(model, metrics):
    Trainer(model=model, compute_metrics=metrics).train()
""",
    )

    def check(self, program: Program) -> Iterator[Finding]:
        for made in constructions(program, _METRICS):
            yield from self._hoarding(made, made.call.node, made.option(_METRICS))
        for store in program.stores():
            if store.attribute == _METRICS and store.base is not None:
                for source in sources(store.base):
                    for made in construction(source) if isinstance(source, Call) else ():
                        yield from self._hoarding(made, store.node, Given((store.value,)))

    def _hoarding(self, made: Construction, node: cst.CSTNode, metrics: Given) -> Iterator[Finding]:
        collected = predictions(made)
        confidence = _confidence(made, metrics, collected)
        if confidence is None:
            return
        call = next(filter(None, map(arguments_call, made.arguments.values)), None)
        local = call if call is not None and call.function.module is made.call.function.module else None
        yield self.finding(
            node,
            f"the evaluation of `{code(made.call.node.func)}` keeps its predictions on the device until it ends, for "
            "`compute_metrics`",
            holds=f"{collected.value} for each example of the evaluation set, on the device",
            severity=_SEVERITIES[collected],
            confidence=confidence,
            fixes=(_move_to_host(local),) if local is not None else (),
            claim=Claim(ClaimShape.GROWS, "device", "the logits of one batch", watch=Watch.EVALUATION_LOOP),
            related=(Related(local.node, f"these arguments set no `{_HOST}`"),) if local is not None else (),
        )


_METRICS = "compute_metrics"
_HOST = "eval_accumulation_steps"
_LIMITS = (_HOST, "batch_eval_metrics", "prediction_loss_only")
_SEVERITIES = {
    Predictions.VOCABULARY: Severity.ERROR,
    Predictions.POSITIONS: Severity.WARNING,
    Predictions.FEW: Severity.NOTE,
    Predictions.UNKNOWN: Severity.WARNING,
}


def _confidence(made: Construction, metrics: Given, collected: Predictions) -> Confidence | None:
    """How sure it is that the Trainer collects what takes memory; None if it does not."""
    if _comes_with_construction(made, metrics) or collects_its_own_way(made):
        return None
    needed = (metrics.setting, evaluates(made))
    # The settings that limit what is kept.
    limits = [made.option("preprocess_logits_for_metrics").setting, *_limits(made)]
    if Setting.OFF in needed or Setting.ON in limits:
        return None
    if Setting.UNKNOWN in (*needed, *limits) or not made.classes:
        return Confidence.POSSIBLE
    if collected is Predictions.UNKNOWN:
        return Confidence.LIKELY if any(map(reads_positions, metrics.values)) else Confidence.POSSIBLE
    return Confidence.POSSIBLE if collected is Predictions.FEW else Confidence.LIKELY


def _comes_with_construction(made: Construction, metrics: Given) -> bool:
    """Whether a derived class hands on what it is given, so that the finding belongs where it is constructed."""
    if not metrics.values:
        return True
    here = made.call.function
    handed_on = (isinstance(value, Parameter) or value.function is not here for value in metrics.values)
    return made.call.method == "__init__" and all(handed_on)


def _limits(made: Construction) -> Iterator[Setting]:
    for name in _LIMITS:
        yield argument_setting(made, name)
    if not made.classes or any(name.endswith("Seq2SeqTrainer") for name in made.classes):
        yield argument_setting(made, "predict_with_generate")


def _move_to_host(arguments: Call) -> Fix:
    return Fix(
        "add_argument",
        f"Move the predictions to the host every 16 batches with `{_HOST}=16`",
        Applicability.UNSAFE,
        {"call": arguments.node},
        {"code": f"{_HOST}=16"},
    )
