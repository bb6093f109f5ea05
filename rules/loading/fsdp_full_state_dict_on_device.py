"""MEM810."""

from __future__ import annotations

from collections.abc import Iterator

from memlint.findings import Applicability, Claim, ClaimShape, Confidence, Finding, Fix, Severity, Watch
from memlint.model.aliases import qualified_names, sources
from memlint.model.definitions import definitions
from memlint.model.effects import calls_in
from memlint.model.program import Program
from memlint.model.settings import option
from memlint.model.sharding import fsdp_methods, gathered_and_kept, wrapped_by_fsdp
from memlint.model.values import Call, Region, Value, With
from memlint.rule import Rule


class FsdpFullStateDictOnDevice(Rule):
    """The full state dict of a sharded model is gathered on every GPU.

    ## What it does
    Finds what gathers a full state dict without moving it to host memory: `FSDP.state_dict_type(model,
    StateDictType.FULL_STATE_DICT)` without `FullStateDictConfig(offload_to_cpu=True, ...)`, `state_dict()` of an
    FSDP-wrapped model outside of any such context, a dict or list of `full_tensor()` of every parameter,
    `StateDictOptions(full_state_dict=True)` without `cpu_offload`, and `FSDP.summon_full_params(model)` around code
    that saves.

    ## Why is this bad?
    The weights that training keeps sharded are then all on each GPU at once, for the time of the save, on top of
    gradients and optimizer states: the dict is a copy of everything, `P` bytes beside the `P / world` of the shard,
    which stays (128 KiB for 128 KiB of weights in each of two processes with torch 2.13, by FSDP, by `fully_shard` and
    its options, and by `full_tensor()` alike). With `offload_to_cpu=True` each parameter is moved to the host as soon
    as it is gathered, and with `rank0_only=True` only one process keeps a copy; without it, a host with 8 GPUs holds 8
    copies.

    ## Example
    ```python
    with FSDP.state_dict_type(model, StateDictType.FULL_STATE_DICT):
        state = model.state_dict()
    ```

    ## Use instead
    ```python
    config = FullStateDictConfig(offload_to_cpu=True, rank0_only=True)
    with FSDP.state_dict_type(model, StateDictType.FULL_STATE_DICT, config):
        state = model.state_dict()
    ```

    ## Fix safety
    Unsafe: with `rank0_only=True` the other processes get an empty dictionary, so that code which loads it everywhere,
    or saves it from another process than the first, has to change. What `StateDictOptions` returns is on the CPU
    afterwards.

    ## When to ignore
    When the whole model fits beside everything else. For large models, sharded checkpoints
    (`torch.distributed.checkpoint`) gather nothing.

    ## References
    - [FullStateDictConfig](https://docs.pytorch.org/docs/stable/fsdp.html#torch.distributed.fsdp.FullStateDictConfig)
    - [pytorch#75908](https://github.com/pytorch/pytorch/pull/75908),
      [Lightning#18190](https://github.com/Lightning-AI/pytorch-lightning/pull/18190),
      [accelerate#1181](https://github.com/huggingface/accelerate/pull/1181)
    """

    code = "MEM810"
    name = "fsdp-full-state-dict-on-device"
    severity = Severity.WARNING
    gate = frozenset(
        {"state_dict_type", "StateDictOptions", "summon_full_params", "FullyShardedDataParallel", "full_tensor"}
    )
    fixers = ("add_argument", "call_method")
    positive = (
        """
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP
from strategies import state_dict_context
def save(model):
    model = FSDP(model)
    with state_dict_context(model):
        return model.state_dict()  # MEM810?
""",
        """
import torch
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP, StateDictType
def save(model, path):
    with FSDP.state_dict_type(model, StateDictType.FULL_STATE_DICT):  # MEM810: 10
        torch.save(model.state_dict(), path)
""",
        """
from torch.distributed.fsdp import FullyShardedDataParallel, FullStateDictConfig, StateDictType
def gather(model):
    config = FullStateDictConfig(rank0_only=True)
    FullyShardedDataParallel.set_state_dict_type(model, StateDictType.FULL_STATE_DICT, config)  # MEM810
    return model.state_dict()
""",
        """
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
def gather(model):
    return get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))  # MEM810: 48
""",
        """
import torch
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP
def save(model, path):
    with FSDP.summon_full_params(model):  # MEM810
        torch.save(model.module.state_dict(), path)
""",
        """
import torch
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP
def main(net, policy, path):
    model = FSDP(net, auto_wrap_policy=policy)
    train(model)
    torch.save(model.state_dict(), path)  # MEM810: 16
""",
        """
def gather(model):
    weights = {k: v.full_tensor() for k, v in model.state_dict().items()}  # MEM810: 19
    gradients = {}
    for name, parameter in model.named_parameters():
        gradients[name] = parameter.full_tensor().detach()  # MEM810: 27
    return weights, gradients
""",
        """
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP, StateDictType
def gather(model, config):
    with FSDP.state_dict_type(model, StateDictType.FULL_STATE_DICT, config):  # MEM810?
        return model.state_dict()
""",
    )
    negative = (
        """
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP, FullStateDictConfig, StateDictType
def gather(model):
    config = FullStateDictConfig(offload_to_cpu=True, rank0_only=True)
    with FSDP.state_dict_type(model, StateDictType.FULL_STATE_DICT, config):
        return model.state_dict()
""",
        """
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP, StateDictType
def gather(net, policy):
    model = FSDP(net, auto_wrap_policy=policy)
    FSDP.set_state_dict_type(model, StateDictType.SHARDED_STATE_DICT)
    return model.state_dict()
""",
        """
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict
def gather(model, state):
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    set_model_state_dict(model, state, options=StateDictOptions(full_state_dict=True, broadcast_from_rank0=True))
    return get_model_state_dict(model, options=options), get_model_state_dict(model)
""",
        """
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP, StateDictType
def resume(model, optimizer, state):
    with FSDP.state_dict_type(model, StateDictType.FULL_STATE_DICT):
        state = FSDP.optim_state_dict_to_load(model, optimizer, state)
    optimizer.load_state_dict(state)
def sample(model, prompt):
    with FSDP.summon_full_params(model, writeback=False, recurse=False):
        return model.generate(prompt)
def show(model):
    with FSDP.summon_full_params(model, offload_to_cpu=True, rank0_only=True, writeback=False):
        print(model.module)
""",
        """
def gather(model, norms):
    weights = {k: v.full_tensor().cpu() for k, v in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        full = parameter.full_tensor().detach()
        weights[name] = full.to("cpu")
        print(name, parameter.full_tensor().norm())
    total = [norm.full_tensor() for norm in norms]
    return weights, total
""",
        """
from torch.distributed.fsdp import fully_shard
def main(model, save):
    for block in model.blocks:
        fully_shard(block)
    fully_shard(model)
    save(model.state_dict())
""",
    )

    def check(self, program: Program) -> Iterator[Finding]:
        if program.module.is_test:
            return
        yield from self._contexts(program)
        for call in program.calls("StateDictOptions"):
            confidence = _options_gather(call)
            if confidence is not None:
                yield self._finding(call, confidence, "cpu_offload=True")
        for call in program.calls("summon_full_params"):
            if fsdp_methods(call, "summon_full_params") and _summons_for_saving(call):
                yield self._finding(call, Confidence.LIKELY)
        for call in gathered_and_kept(program.module):
            yield self._finding(call, Confidence.LIKELY, fix=_move(call))
        if not any(call.arguments for name in _CONTEXTS for call in program.calls(name)):
            yield from self._plain(program)

    def _contexts(self, program: Program) -> Iterator[Finding]:
        for name in _CONTEXTS:
            for call in program.calls(name):
                confidence = _context_gathers(call) if fsdp_methods(call, name) else None
                if confidence is not None:
                    code = _configuration(call) if call.argument("state_dict_config", 2) is None else None
                    yield self._finding(call, confidence, code)

    def _plain(self, program: Program) -> Iterator[Finding]:
        """``state_dict()`` of a wrapped model where no file says which kind is wanted: a full one is the default."""
        for call in program.calls("state_dict"):
            if call.receiver is not None and any(wrapped_by_fsdp(call.receiver)):
                yield self._finding(call, Confidence.POSSIBLE if _is_in_other_context(call) else Confidence.LIKELY)

    def _finding(self, call: Call, confidence: Confidence, code: str | None = None, fix: Fix | None = None) -> Finding:
        fix = fix or (_add(call, code) if code is not None else None)
        return self.finding(
            call.node,
            "All weights of the sharded model are gathered on every GPU",
            holds="the weights that are sharded otherwise, on each GPU until they are saved",
            confidence=confidence,
            fixes=(fix,) if fix is not None else (),
            claim=Claim(
                ClaimShape.SPIKE,
                "device",
                "P",
                held=call.node,
                watch=Watch.GATHERED,
            ),
        )


_OFFLOADED = "Move each parameter to the host as soon as it is gathered"


def _add(call: Call, code: str) -> Fix:
    imported = {"import": _IMPORT} if "FullStateDictConfig" in code else {}
    return Fix("add_argument", _OFFLOADED, Applicability.UNSAFE, {"call": call.node}, {"code": code, **imported})


def _move(call: Call) -> Fix:
    return Fix("call_method", _OFFLOADED, Applicability.UNSAFE, {"expression": call.node}, {"method": "cpu"})


_CONTEXTS = ("state_dict_type", "set_state_dict_type")
_IMPORT = "torch.distributed.fsdp"


def _configuration(call: Call) -> str | None:
    """The argument to add; None where others are unpacked, among which it may be."""
    if call.is_open:
        return None
    config = f"{_IMPORT}.FullStateDictConfig(offload_to_cpu=True, rank0_only=True)"
    return f"state_dict_config={config}"


def _context_gathers(call: Call) -> Confidence | None:
    """How sure it is that a context asks for a full state dict on the device."""
    kind = call.argument("state_dict_type", 1)
    names = qualified_names(kind) if kind is not None else frozenset()
    if not any(name.endswith("FULL_STATE_DICT") for name in names) or _only_loads(call):
        return None
    if not all(name.endswith("FULL_STATE_DICT") for name in names):
        return Confidence.POSSIBLE
    config = call.argument("state_dict_config", 2)
    if config is None:
        return Confidence.POSSIBLE if call.is_open else Confidence.LIKELY
    made = [source for source in definitions(config) if isinstance(source, Call)]
    found = [option(each, "offload_to_cpu", 0) for each in made if each.name == "FullStateDictConfig"]
    if not found:
        return Confidence.POSSIBLE
    if any(each.is_on() is not False for each in found):
        return None
    return Confidence.LIKELY


def _is_in_other_context(call: Call) -> bool:
    """Whether ``call`` runs in a context that somebody else makes, which may say what kind of state dict is meant."""
    contexts = [each for outer in call.region.ancestors() if isinstance(outer, With) for each in outer.contexts]
    made = [source for context in contexts for source in sources(context)]
    return any(
        not isinstance(source, Call) or not any(name.startswith("torch.") for name in qualified_names(source.callee))
        for source in made
    )


def _only_loads(call: Call) -> bool:
    """Whether the context is entered to load a state dict, for which nothing is gathered."""
    names = {each.name for region in _regions_of(call) for each in calls_in(region)}
    return bool(names & _LOADING) and not names & _GATHERING_METHODS


_LOADING = frozenset({"load_state_dict", "optim_state_dict_to_load"})
_GATHERING_METHODS = frozenset({"state_dict", "optim_state_dict", "full_optim_state_dict"})


def _options_gather(call: Call) -> Confidence | None:
    """How sure it is that ``StateDictOptions`` are for gathering a full state dict on the device."""
    if not any(name.endswith("state_dict.StateDictOptions") for name in qualified_names(call.callee)):
        return None
    if option(call, "full_state_dict", 0).is_on() is not True or option(call, "cpu_offload", 1).is_on() is not False:
        return None
    users = list(_users(call))
    if any(user.name in _GATHERING for user in users):
        return Confidence.LIKELY
    return None if users else Confidence.POSSIBLE


_GATHERING = frozenset({"get_model_state_dict", "get_state_dict", "get_optimizer_state_dict"})


def _users(value: Value) -> Iterator[Call]:
    """The calls that get ``value``, by this name or another in the same function."""
    for call in value.region.function.calls:
        if any(value in sources(argument.value) for argument in call.arguments):
            yield call


def _summons_for_saving(call: Call) -> bool:
    """Whether parameters are gathered on the device for nothing but to be saved."""
    if call.is_open or option(call, "offload_to_cpu").is_on() is not False:
        return False
    if option(call, "recurse").is_on(default=True) is not True:
        return False
    return any(each.name in _SAVING for region in _regions_of(call) for each in calls_in(region))


_SAVING = frozenset({"state_dict", "save", "save_pretrained", "save_model"})


def _regions_of(call: Call) -> Iterator[Region]:
    seen = {region for other in call.function.calls for region in other.region.ancestors() if isinstance(region, With)}
    return (region for region in seen if any(call in sources(context) for context in region.contexts))
