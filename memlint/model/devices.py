"""On what hardware a program runs: whether it uses an accelerator, whether several processes share one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from memlint.model.aliases import call_sites, external_bases, qualified_names, sources
from memlint.model.gradmode import is_hf_trainer, is_lightning_module
from memlint.model.knowledge import frameworks, torch
from memlint.model.memo import query
from memlint.model.scopes import Function, Module
from memlint.model.values import Call, Constant, External, Item, Value

_MAX_CALLERS = 3
"""Calls that are followed from a function to the files that run it."""


def files_involved(function: Function) -> tuple[Module, ...]:
    """The file of ``function`` and those that call it, directly or through others."""
    found = {function.module: None}
    front = [function]
    for _ in range(_MAX_CALLERS):
        callers = {call.function: None for each in front for call in call_sites(each) or ()}
        front = [caller for caller in callers if caller.module not in found or caller not in front]
        found.update(dict.fromkeys(caller.module for caller in front))
    return tuple(found)


def may_use_accelerator(function: Function) -> bool:
    """Whether something in the files that run ``function`` puts tensors on an accelerator, or leaves it to a framework."""
    return any(uses_accelerator(module) for module in files_involved(function))


def is_distributed(function: Function) -> bool:
    """Whether the files that run ``function`` start or join a group of processes that train together."""
    return any(joins_processes(module) for module in files_involved(function))


@query(on_cycle=False)
def uses_accelerator(module: Module) -> bool:
    """Whether the file names a device other than the CPU, moves tensors to a device that its user chooses, or trains
    with a framework that does so."""
    return (
        joins_processes(module)
        or any(_moves_to_accelerator(call) for call in _calls(module))
        or any(_names_accelerator(value) for function in module.functions for value in function.defaults.values())
        or any(_is_framework_class(external_bases(owner)) for f in module.functions for owner in f.classes)
    )


def _calls(module: Module) -> Iterator[Call]:
    for function in module.functions:
        yield from function.calls


def _moves_to_accelerator(call: Call) -> bool:
    if call.method == "cuda":
        return True
    if any(name.startswith(torch.ACCELERATOR_ROOTS) or name in frameworks.TRAINERS for name in _names(call)):
        return True
    if call.method == "to":
        return any(_may_be_accelerator(argument.value) for argument in call.arguments if argument.keyword != "dtype")
    return any(_names_accelerator(argument.value) for argument in call.arguments)


def _names(call: Call) -> Iterable[str]:
    return qualified_names(call.callee)


def _names_accelerator(value: Value) -> bool:
    return any(
        isinstance(source, Constant)
        and isinstance(source.constant, str)
        and source.constant.partition(":")[0] in torch.ACCELERATORS
        for source in sources(value)
    )


def _may_be_accelerator(device: Value) -> bool:
    """Whether the argument of ``.to()`` is a device that may be another one than the CPU."""
    for source in sources(device):
        if isinstance(source, External) or (isinstance(source, Constant) and not isinstance(source.constant, int)):
            # A dtype, or the name of a device.
            if not _names_accelerator(source):
                continue
        elif isinstance(source, Call) and "torch.device" in _names(source):
            if not any(_may_be_accelerator(argument.value) for argument in source.arguments):
                continue
        return True
    return False


def _is_framework_class(bases: frozenset[str]) -> bool:
    return is_lightning_module(bases) or is_hf_trainer(bases)


@query(on_cycle=False)
def joins_processes(module: Module) -> bool:
    """Whether the file starts or joins a group of processes (DDP, FSDP, Accelerate, DeepSpeed, ``torchrun``)."""
    return any(_joins(call) for call in _calls(module))


def _joins(call: Call) -> bool:
    names = qualified_names(call.callee)
    if names & frameworks.PROCESS_GROUPS:
        return True
    return any(_is_rank_variable(argument.value) for argument in call.arguments)


def _is_rank_variable(value: Value) -> bool:
    """``os.environ["LOCAL_RANK"]``, or its name in ``os.environ.get("LOCAL_RANK")``."""
    parts = value.index if isinstance(value, Item) else (value,)
    return any(isinstance(part, Constant) and part.constant in {"LOCAL_RANK", "WORLD_SIZE"} for part in parts)
