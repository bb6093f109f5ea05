"""Configurations of frameworks that a program makes: which call, which options, and where each was set.

TrainingArguments of transformers and TRL, Lightning's Trainer, Accelerator, DDP and FSDP, DeepSpeed's dictionary or
file, and the settings of the CUDA allocator.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from typing import NamedTuple

import libcst as cst

from memlint.model import command_line
from memlint.model.aliases import base_names, qualified_names, sources
from memlint.model.definitions import definitions
from memlint.model.keywords import given
from memlint.model.program import Program
from memlint.model.scopes import Class
from memlint.model.settings import Values, field_default, option, setting_at, union, values
from memlint.model.values import Call, ClassValue, Constant, Display, External, Item, Part, Region, Store, Value


class Framework(Enum):
    """What a configuration is for."""

    TRAINING_ARGUMENTS = "arguments of a Trainer of transformers or TRL"
    LIGHTNING_TRAINER = "Lightning's Trainer, or Fabric"
    ACCELERATOR = "Accelerator"
    DDP = "DistributedDataParallel"
    FSDP = "FullyShardedDataParallel"
    DEEPSPEED = "DeepSpeed's initialize, or a plugin or strategy for it"


_LIGHTNING = ("pytorch_lightning", "lightning", "lightning_fabric")

_NAMES: dict[str, Framework] = {
    **dict.fromkeys(
        [
            f"{root}.{name}"
            for root in (*_LIGHTNING, "lightning.pytorch", "lightning.fabric")
            for name in ("Trainer", "Fabric", "trainer.Trainer", "trainer.trainer.Trainer")
        ],
        Framework.LIGHTNING_TRAINER,
    ),
    "accelerate.Accelerator": Framework.ACCELERATOR,
    "accelerate.accelerator.Accelerator": Framework.ACCELERATOR,
    "torch.nn.parallel.DistributedDataParallel": Framework.DDP,
    "torch.nn.parallel.distributed.DistributedDataParallel": Framework.DDP,
    "detectron2.engine.defaults.create_ddp_model": Framework.DDP,
    "detectron2.engine.create_ddp_model": Framework.DDP,
    "torch.distributed.fsdp.FullyShardedDataParallel": Framework.FSDP,
    "torch.distributed.fsdp.fully_sharded_data_parallel.FullyShardedDataParallel": Framework.FSDP,
    "deepspeed.initialize": Framework.DEEPSPEED,
}
_LAST_NAMES = {
    **{
        (root, name): found
        for root in _LIGHTNING
        for name, found in (
            ("DDPStrategy", Framework.DDP),
            ("FSDPStrategy", Framework.FSDP),
            ("DeepSpeedStrategy", Framework.DEEPSPEED),
            ("DeepSpeedPrecisionPlugin", Framework.DEEPSPEED),
        )
    },
    ("accelerate", "DistributedDataParallelKwargs"): Framework.DDP,
    ("accelerate", "FullyShardedDataParallelPlugin"): Framework.FSDP,
    ("accelerate", "DeepSpeedPlugin"): Framework.DEEPSPEED,
}
"""Classes that several modules of a package export, by package and name."""


def framework(names: frozenset[str]) -> Framework | None:
    """What something of these qualified names configures, by calling it."""
    for name in names:
        root, _, rest = name.partition(".")
        last = rest.rpartition(".")[2]
        if last.endswith("TrainingArguments") or (root == "trl" and last.endswith("Config")):
            return Framework.TRAINING_ARGUMENTS
        found = _NAMES.get(name) or _LAST_NAMES.get((root, last))
        if found is not None:
            return found
    return None


class Configuration(NamedTuple):
    """One configuration. ``made`` is the call that makes it, or the object that a parser of the command line fills."""

    framework: Framework
    made: Value
    owner: Class | None = None
    """Its class, if the project defines it."""

    def option(self, name: str, position: int | None = None) -> Values:
        """What is known of an option. Nothing: it is not set, so that the framework's own default holds.

        A class derived in the project sets options as well, by the defaults of its fields. What a parser fills may be
        overridden by the user of the program: such a default is likely, never certain.
        """
        passed = option(self.made, name, position) if isinstance(self.made, Call) and not self.is_parsed else Values()
        if passed.is_set or self.owner is None:
            return passed
        declared = union(
            field_default(value) for cls in _line(self.owner) for value in cls.attributes.get(name, ())[-1:]
        )
        return declared.weakened() if self.is_parsed else declared

    @property
    def is_parsed(self) -> bool:
        """Whether a parser fills it, so that its user may set any option."""
        return command_line.parsed_type(self.made) is not None


def _line(owner: Class) -> Iterator[Class]:
    """The class, and its first base in the project, and so on."""
    yield owner
    for base in owner.bases:
        for source in sources(base):
            if isinstance(source, ClassValue) and source.target is not owner:
                yield from _line(source.target)
                return


def configurations(program: Program, *wanted: Framework) -> Iterator[Configuration]:
    """The configurations that a file makes; of ``wanted`` frameworks only, if there are any."""
    for call in program.calls():
        found = configuration(call)
        if found is not None and (not wanted or found.framework in wanted):
            yield found
    for function in program.functions:
        for store in function.stores:
            parsed = _parsed(store.value)
            if parsed is not None and (not wanted or parsed.framework in wanted):
                yield parsed


def configuration(value: Value) -> Configuration | None:
    """``value`` as a configuration that it is, in itself; see :func:`configuration_of` for what a name stands for."""
    if not isinstance(value, Call):
        return _parsed(value)
    owner = next((source.target for source in sources(value.callee) if isinstance(source, ClassValue)), None)
    names = qualified_names(value.callee) | (base_names(owner) if owner is not None else frozenset())
    found = framework(names)
    return Configuration(found, value, owner) if found is not None else None


def configuration_of(value: Value) -> Configuration | None:
    """The configuration that ``value`` is, wherever in the project it was made; None unless it is just one."""
    found = [configuration(source) for source in definitions(value)]
    return found[0] if len(found) == 1 else None


def _parsed(value: Value) -> Configuration | None:
    if not isinstance(value, (Part, Item, Call)):
        return None
    filled = command_line.parsed_type(value)
    if isinstance(filled, ClassValue):
        found = framework(base_names(filled.target))
        return Configuration(found, value, filled.target) if found is not None else None
    found = framework(frozenset({filled.qualified_name})) if isinstance(filled, External) else None
    return Configuration(found, value) if found is not None else None


# ---------------------------------------------------------------------- DeepSpeed

_DEEPSPEED_OPTIONS = {
    Framework.TRAINING_ARGUMENTS: ("deepspeed",),
    Framework.DEEPSPEED: ("config", "config_params", "hf_ds_config"),
}


class DeepSpeedConfiguration(NamedTuple):
    """What DeepSpeed is told, as a dictionary or by the name of a JSON or YAML file."""

    given_to: Configuration
    source: Value

    def option(self, *path: str) -> Values:
        """What is said at a path of keys, such as ``zero_optimization``, ``stage``; nothing if a key is missing."""
        return setting_at(self.source, *path)


def deepspeed_configurations(program: Program) -> Iterator[DeepSpeedConfiguration]:
    """The configurations of DeepSpeed that a file hands over, to DeepSpeed itself or to a framework."""
    for made in configurations(program, *_DEEPSPEED_OPTIONS):
        if isinstance(made.made, Call):
            for name in _DEEPSPEED_OPTIONS[made.framework]:
                for value in given(made.made, name).values:
                    yield DeepSpeedConfiguration(made, value)


# ---------------------------------------------------------------------- the CUDA allocator

ALLOCATOR_VARIABLES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF")
"""The first is the name since torch 2.9; the others are older."""
_SETTERS = frozenset(
    {
        "torch.cuda.memory._set_allocator_settings",
        "torch.cuda._set_allocator_settings",
        "torch._C._cuda_cudaCachingAllocator_set_allocator_settings",
        "torch._C._accelerator_setAllocatorSettings",
    }
)


class AllocatorSetting(NamedTuple):
    """Settings of the CUDA allocator that a program makes; without a ``variable`` while it runs."""

    variable: str | None
    text: Values
    region: Region
    node: cst.CSTNode
    order: int

    @property
    def options(self) -> dict[str, str] | None:
        """The settings by name (``max_split_size_mb``); None if the text is not known or is none of that form."""
        known = self.text.only
        if known is None or not isinstance(known.constant, str):
            return None
        pairs = [part.partition(":") for part in known.constant.split(",") if part]
        return {name.strip(): value.strip() for name, _, value in pairs} if all(p[1] for p in pairs) else None


def allocator_settings(program: Program) -> Iterator[AllocatorSetting]:
    """Where a file sets what the CUDA allocator reads: in the environment, or by a call."""
    for store in program.stores():
        key = store.index.constant if isinstance(store.index, Constant) else None
        if key in ALLOCATOR_VARIABLES and _is_environment(store.base):
            yield _variable(str(key), store.value, store)
    for call in program.calls("setdefault", "putenv", "update", "_set_allocator_settings"):
        yield from _set_by(call)


def _set_by(call: Call) -> Iterator[AllocatorSetting]:
    names = qualified_names(call.callee)
    if names & _SETTERS and call.arguments:
        yield AllocatorSetting(None, values(call.arguments[0].value), call.region, call.node, call.order)
    elif names & {"os.environ.setdefault", "os.putenv"}:
        key, text = call.argument("key", 0), call.argument("value", 1)
        if isinstance(key, Constant) and key.constant in ALLOCATOR_VARIABLES and text is not None:
            yield _variable(str(key.constant), text, call)
    elif "os.environ.update" in names:
        for source in (source for value in call.positional() for source in sources(value)):
            if isinstance(source, Display) and source.kind == "dict":
                for key, text in zip(source.keys, source.elements, strict=True):
                    if isinstance(key, Constant) and key.constant in ALLOCATOR_VARIABLES:
                        yield _variable(str(key.constant), text, call)


def _variable(name: str, text: Value, at: Store | Call) -> AllocatorSetting:
    return AllocatorSetting(name, values(text), at.region, at.node, at.order)


def _is_environment(value: Value | None) -> bool:
    return value is not None and "os.environ" in qualified_names(value)
