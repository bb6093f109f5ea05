"""MEM809."""

from __future__ import annotations

from collections.abc import Iterator

from memlint.findings import Claim, ClaimShape, Confidence, Finding, Severity, Watch
from memlint.model.aliases import qualified_names
from memlint.model.calls import proven_call_sites
from memlint.model.configurations import Configuration, Framework, configurations
from memlint.model.program import Program
from memlint.model.scopes import Module
from memlint.model.settings import option
from memlint.model.sharding import FULLY_SHARD, WRAPPERS, mentions_sharding_elsewhere, sharding_calls
from memlint.model.values import Call
from memlint.rule import Rule


class FsdpSingleUnit(Rule):
    """A whole model is one unit of FSDP, so that all of its parameters are gathered at once.

    ## What it does
    Finds `FullyShardedDataParallel(model)` without an `auto_wrap_policy` in a file that wraps nothing inside; a single
    `fully_shard(model)` that no call for the layers goes with; Lightning's `FSDPStrategy()` without a policy; and
    `TrainingArguments(fsdp="full_shard")` that neither asks for `auto_wrap` nor names the layers.

    ## Why is this bad?
    FSDP gathers the parameters of a unit before its forward and backward, and frees them afterwards. With one unit for
    the whole model every device holds all `P` bytes of parameters while it computes; only gradients and optimizer
    states are sharded. With a unit for each block, the largest block is gathered (and the next one ahead of time).

    ## Example
    ```python
    model = FullyShardedDataParallel(model)
    ```

    ## Use instead
    ```python
    for block in model.layers:
        fully_shard(block)
    fully_shard(model)
    ```

    ## Fix safety
    There is no automatic fix, because the class of the repeated blocks is not known here.
    `functools.partial(transformer_auto_wrap_policy, transformer_layer_cls={Block})` is the policy for FSDP1.

    ## When to ignore
    When the model is small against the device, so that only optimizer states have to be sharded.

    ## References
    - [fully_shard](https://docs.pytorch.org/docs/stable/distributed.fsdp.fully_shard.html): "generally should not
      call it only on the topmost root module"
    - [tutorials#1861](https://github.com/pytorch/tutorials/pull/1861),
      [pytorch#73809](https://github.com/pytorch/pytorch/issues/73809)
    """

    code = "MEM809"
    name = "fsdp-single-unit"
    severity = Severity.WARNING
    gate = frozenset({"FullyShardedDataParallel", "fully_shard", "FSDPStrategy", "fsdp"})
    positive = (
        """
import torch
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP
def main(model, rank):
    model = FSDP(model, device_id=rank)  # MEM809: 13
    return model
""",
        """
from torch.distributed.fsdp import FullyShardedDataParallel, MixedPrecision
def wrap(model, dtype):
    policy = None
    return FullyShardedDataParallel(  # MEM809
        model,
        mixed_precision=MixedPrecision(param_dtype=dtype),
        auto_wrap_policy=policy,
    )
""",
        """
from torch.distributed.fsdp import fully_shard
def shard(model, mesh):
    fully_shard(model, mesh=mesh)  # MEM809: 5
    return model
""",
        """
from lightning.pytorch.strategies import FSDPStrategy
import lightning as L
def make():
    return L.Trainer(strategy=FSDPStrategy(sharding_strategy="FULL_SHARD"))  # MEM809: 31
""",
        """
from transformers import TrainingArguments
arguments = TrainingArguments("out", bf16=True, fsdp="full_shard")  # MEM809: 13
""",
        """
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP
def wrap(model, **options):
    return FSDP(model, **options)  # MEM809?
""",
    )
    negative = (
        """
from functools import partial
from mmengine._strategy import FSDPStrategy

def strategy(policy):
    return FSDPStrategy(model_wrapper=dict(auto_wrap_policy=partial(policy)))
""",
        """
import functools
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP
from torch.distributed.fsdp.wrap import size_based_auto_wrap_policy
def wrap(model):
    policy = functools.partial(size_based_auto_wrap_policy, min_num_params=100_000)
    return FSDP(model, auto_wrap_policy=policy)
""",
        """
from torch.distributed.fsdp import fully_shard
def shard(model, mesh):
    for block in model.layers:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
""",
        """
from torch.distributed.fsdp import fully_shard
def shard_blocks(model):
    for block in model.blocks:
        shard(block)
def shard(module):
    fully_shard(module, reshard_after_forward=True)
""",
        """
from torch.distributed.fsdp import fully_shard
def shard(model):
    model.apply(lambda module: fully_shard(module) if is_block(module) else None)
""",
        """
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP
from torch.distributed.fsdp.wrap import enable_wrap, wrap
def build(make):
    with enable_wrap(wrapper_cls=FSDP):
        body = wrap(make())
    return FSDP(body)
""",
        """
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP
class Model:
    def __init__(self, layers):
        self.layers = [FSDP(layer) for layer in layers]
""",
        """
from transformers import TrainingArguments
a = TrainingArguments("out", fsdp="full_shard auto_wrap", fsdp_transformer_layer_cls_to_wrap="Block")
b = TrainingArguments("out", fsdp="full_shard", fsdp_config={"transformer_layer_cls_to_wrap": ["Block"]})
c = TrainingArguments("out", fsdp="")
d = TrainingArguments("out")
""",
        """
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP
from torch.distributed.fsdp import ShardingStrategy
def wrap(model):
    # Nothing is gathered where nothing is sharded.
    return FSDP(model, sharding_strategy=ShardingStrategy.NO_SHARD)
""",
    )

    def check(self, program: Program) -> Iterator[Finding]:
        if program.module.is_test:
            return
        for call in sharding_calls(program.module):
            confidence = _confidence(call, program.module)
            if confidence is not None:
                yield self._finding(call, confidence)
        for made in configurations(program, Framework.FSDP, Framework.TRAINING_ARGUMENTS):
            if isinstance(made.made, Call) and _is_unwrapped(made):
                yield self._finding(made.made, Confidence.LIKELY)

    def _finding(self, call: Call, confidence: Confidence) -> Finding:
        return self.finding(
            call.node,
            "The whole model is one unit of FSDP: all of its parameters are gathered on every device at once",
            holds="all parameters, unsharded, during forward and backward",
            confidence=confidence,
            claim=Claim(
                ClaimShape.SPIKE,
                "device",
                "P",
                held=call.node,
                watch=Watch.UNSHARDED,
                unobservable="" if qualified_names(call.callee) & FULLY_SHARD else _UNOBSERVABLE,
            ),
        )


_UNOBSERVABLE = "only `fully_shard` shows on its parameters which of them are gathered; this wraps the model otherwise"


def _confidence(call: Call, module: Module) -> Confidence | None:
    """How sure it is that ``call`` makes the only unit; None where it does not."""
    names = qualified_names(call.callee)
    if not names & (WRAPPERS | FULLY_SHARD) or len(sharding_calls(module)) > 1 or _is_repeated(call):
        return None
    if names & WRAPPERS:
        policy = option(call, "auto_wrap_policy", 3)
        if policy.others and not call.is_open:
            return None
        if policy.is_on() or _shards_nothing(call):
            return None
        if policy.others:
            return Confidence.POSSIBLE
    if mentions_sharding_elsewhere(module):
        return Confidence.POSSIBLE
    return Confidence.LIKELY


def _is_repeated(call: Call) -> bool:
    """Whether the call runs for many modules: in a loop, in what a loop calls, or in what ``apply`` is given."""
    function = call.function
    if call.region.loop is not None or not call.arguments:
        return True
    if function.parent is None:
        return False
    sites = [site for site in proven_call_sites(function) if site.function is not function]
    if any(site.region.loop is not None for site in sites) or len(sites) > 1:
        return True
    # A nested function or lambda without calls in sight is handed to something that calls it.
    return not sites and function.parent.parent is not None and function.owner is None


def _shards_nothing(call: Call) -> bool:
    strategy = call.argument("sharding_strategy", 2)
    return strategy is not None and any(name.endswith("NO_SHARD") for name in qualified_names(strategy))


def _is_unwrapped(made: Configuration) -> bool:
    """Whether a framework is asked for FSDP, and neither it nor the model is told what to wrap."""
    assert isinstance(made.made, Call)
    if made.framework is Framework.FSDP:
        name = made.made.name
        policies = made.option("auto_wrap_policy")
        return name == "FSDPStrategy" and not policies.is_set and not _configures_model(made.made)
    asked = made.option("fsdp").only
    if asked is None or not asked.constant:
        return False
    text = asked.constant if isinstance(asked.constant, str) else " ".join(map(str, _listed(asked.constant)))
    named = any(made.option(name).is_set for name in ("fsdp_config", "fsdp_transformer_layer_cls_to_wrap"))
    return "shard" in text and "auto_wrap" not in text and not named


def _listed(constant: object) -> list[object]:
    return list(constant) if isinstance(constant, (list, tuple)) else []


def _configures_model(call: Call) -> bool:
    """Whether a LightningModule in sight wraps its parts itself, in ``configure_model``."""
    return bool(call.project.mentioning("configure_model")) or bool(call.project.mentioning("configure_sharded_model"))
