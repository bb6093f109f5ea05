"""MEM813."""

from __future__ import annotations

from collections.abc import Iterator

from memlint.findings import Claim, ClaimShape, Confidence, Finding, Severity
from memlint.model.configurations import DeepSpeedConfiguration, deepspeed_configurations
from memlint.model.program import Program
from memlint.model.settings import Known
from memlint.rule import Rule

_LARGEST_BUCKET = 5e8
"""DeepSpeed's default for ``reduce_bucket_size`` and ``allgather_bucket_size``, in elements."""


class DeepspeedConfigContradiction(Rule):
    """A DeepSpeed configuration asks for savings that the chosen stage of ZeRO does not give.

    ## What it does
    Reads the dictionary, JSON or YAML that goes to DeepSpeed (by `deepspeed.initialize`, a plugin, a strategy or
    `TrainingArguments`) and finds `offload_param` with a stage below 3, `cpu_offload`, and communication buckets above
    the default of 5e8 elements.

    ## Why is this bad?
    Parameters are partitioned, and so can be offloaded, in stage 3 only: below it every GPU keeps all of them, whatever
    `offload_param` says. `cpu_offload` is the deprecated name of `offload_optimizer`. A bucket is a buffer on each GPU:
    5e8 elements of two bytes are 1 GB, and more elements more.

    ## Example
    ```python
    config = {"zero_optimization": {"stage": 2, "offload_param": {"device": "cpu"}}}
    ```

    ## Use instead
    ```python
    config = {"zero_optimization": {"stage": 3, "offload_param": {"device": "cpu"}}}
    ```

    ## Fix safety
    There is no fix: which of the two was meant is for the author to say, and the configuration is often a file.

    ## When to ignore
    When the configuration is completed elsewhere before DeepSpeed reads it.

    ## References
    - [DeepSpeed configuration: ZeRO](https://www.deepspeed.ai/docs/config-json/)
    """

    code = "MEM813"
    name = "deepspeed-config-contradiction"
    severity = Severity.WARNING
    gate = frozenset({"deepspeed", "DeepSpeedPlugin", "DeepSpeedStrategy"})
    positive = (
        """
import deepspeed
config = {"train_batch_size": 8, "zero_optimization": {"stage": 2, "offload_param": {"device": "cpu"}}}
def main(model):
    return deepspeed.initialize(model=model, config=config)  # MEM813: 12
""",
        """
from transformers import TrainingArguments
def arguments(out):
    zero = {"stage": 1, "cpu_offload": True}
    return TrainingArguments(out, deepspeed={"zero_optimization": zero})  # MEM813: 12
""",
        """
import deepspeed
def main(model):
    settings = {"zero_optimization": {"stage": 3, "reduce_bucket_size": 2_000_000_000}}
    engine, *_ = deepspeed.initialize(model=model, config=settings)  # MEM813: 18
    return engine
""",
    )
    negative = (
        """
import deepspeed
def main(model, stage):
    settings = {"zero_optimization": {"stage": 3, "offload_param": {"device": "cpu"}, "reduce_bucket_size": 5e8}}
    other = {"zero_optimization": {"stage": 2, "offload_param": {"device": "none"}, "cpu_offload": False}}
    unknown = {"zero_optimization": {"stage": stage, "offload_param": {"device": "cpu"}}}
    deepspeed.initialize(model=model, config=settings)
    deepspeed.initialize(model=model, config=other)
    return deepspeed.initialize(model=model, config=unknown)
""",
        """
from transformers import TrainingArguments
def arguments(out, path):
    return TrainingArguments(out, deepspeed=path)
""",
    )

    def check(self, program: Program) -> Iterator[Finding]:
        for configuration in deepspeed_configurations(program):
            for message, known, severity in _contradictions(configuration):
                yield self.finding(
                    configuration.given_to.made.node,
                    f"{message} ({known.origin})",
                    holds="what the setting was to save, on each GPU",
                    severity=severity,
                    confidence=Confidence.weakest(Confidence.LIKELY, known.confidence),
                    claim=Claim(
                        ClaimShape.PLATEAU,
                        "device",
                        "P",
                        held=configuration.given_to.made.node,
                        unobservable="DeepSpeed partitions over several GPUs",
                    ),
                )


def _contradictions(configuration: DeepSpeedConfiguration) -> Iterator[tuple[str, Known, Severity]]:
    stage = configuration.option("zero_optimization", "stage").only
    device = configuration.option("zero_optimization", "offload_param", "device").only
    if stage is not None and device is not None and _is_below_three(stage) and device.constant != "none":
        yield (
            f"`offload_param` does nothing in stage {stage.constant} of ZeRO: it needs stage 3",
            device,
            Severity.WARNING,
        )
    old = configuration.option("zero_optimization", "cpu_offload").only
    if old is not None and old.constant is True:
        yield "`cpu_offload` is deprecated: it is `offload_optimizer` now", old, Severity.WARNING
    for name in ("reduce_bucket_size", "allgather_bucket_size"):
        size = configuration.option("zero_optimization", name).only
        if size is not None and isinstance(size.constant, (int, float)) and size.constant > _LARGEST_BUCKET:
            elements = f"{size.constant:.0e}"
            yield f"`{name}` of {elements} elements takes that much memory on each GPU", size, Severity.NOTE


def _is_below_three(stage: Known) -> bool:
    return isinstance(stage.constant, int) and stage.constant < 3
