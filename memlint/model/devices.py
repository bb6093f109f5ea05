"""On what hardware a program runs: whether it uses an accelerator, whether several processes share one."""

from __future__ import annotations

from collections.abc import Iterator

from memlint.model.aliases import aliases, base_names, qualified_names, sources
from memlint.model.calls import call_sites, callees
from memlint.model.definitions import definitions
from memlint.model.gradmode import is_hf_trainer, is_lightning_class
from memlint.model.knowledge import frameworks, torch
from memlint.model.memo import query
from memlint.model.scopes import Function, Module
from memlint.model.values import Attribute, Branch, Call, Constant, External, Item, Parameter, Region, Value

_MAX_VALUES = 200
_MAX_CALLERS = 2
"""Calls that are followed from a function to the files that run it."""


def files_involved(function: Function) -> Iterator[Module]:
    """The file of ``function`` and then those that call it, directly or through others; each when it is asked for."""
    seen = {function.module}
    yield function.module
    front = [function]
    for _ in range(_MAX_CALLERS):
        front = list(dict.fromkeys(call.function for each in front for call in call_sites(each)))
        for caller in front:
            if caller.module not in seen:
                seen.add(caller.module)
                yield caller.module


def may_use_accelerator(function: Function) -> bool:
    """Whether the files that run ``function`` put tensors on an accelerator, or leave that to a framework."""
    return any(uses_accelerator(module) for module in files_involved(function))


def may_project_use_accelerator(module: Module) -> bool:
    """Whether a file of the project uses an accelerator; yes as well if too many speak of CUDA to be looked at."""
    others = module.project.mentioning("cuda")
    return others is None or any(uses_accelerator(other) for other in others if not other.is_test)


def is_left_to_callers(model: Value) -> bool:
    """Whether ``model`` comes from callers out of sight, or leaves for them, so that they decide where it runs.

    So it is with a parameter, and with a model that a function returns.
    """
    return any(
        isinstance(source, Parameter)
        or any(source in definitions(leaving.value) for leaving in source.function.returns)
        for source in definitions(model)
        if not call_sites(source.function)
    )


def is_distributed(function: Function) -> bool:
    """Whether the files that run ``function`` start or join a group of processes that train together."""
    return any(joins_processes(module) for module in files_involved(function))


@query(on_cycle=False)
def makes_or_asks_for(module: Module, classes: frozenset[str]) -> bool:
    """Whether the file makes an object of one of ``classes``, or asks whether something is one: by ``isinstance``."""
    names = {"isinstance", *(name.rpartition(".")[2] for name in classes)}
    for call in (call for name in names for call in module.calls_by_name.get(name, ())):
        if any(qualified_names(value) & classes for value in (call.callee, *call.positional())):
            return True
    return False


@query(on_cycle=False)
def uses_accelerator(module: Module) -> bool:
    """Whether the file names a device other than the CPU, moves tensors to one that its user or a framework chooses."""
    return (
        joins_processes(module)
        or any(_puts_on_accelerator(call) for call in _calls(module))
        or any(_names_accelerator(value) for function in module.functions for value in function.defaults.values())
        or any(_is_framework_class(base_names(owner)) for f in module.functions for owner in f.classes)
    )


def _calls(module: Module) -> Iterator[Call]:
    for function in module.functions:
        yield from function.calls


def moves_to_accelerator(call: Call) -> bool:
    """Whether ``call`` is ``.cuda()``, or ``.to()`` with a device that may be another one than the CPU."""
    if call.method == "to":
        return any(_may_be_accelerator(argument.value) for argument in call.arguments if argument.keyword != "dtype")
    return call.method == "cuda"


def certainly_moves_to_accelerator(call: Call) -> bool:
    """Whether ``call`` is ``.cuda()``, or ``.to()`` with a device that is named, and is no CPU."""
    if call.method == "to":
        return any(_names_accelerator_device(argument.value) for argument in call.arguments)
    return call.method == "cuda"


def _names_accelerator_device(device: Value) -> bool:
    found = sources(device)
    made = [s.arguments[0].value for s in found if isinstance(s, Call) and s.arguments and s.name == "device"]
    return len(found) == 1 and (_names_accelerator(device) or any(map(_names_accelerator_device, made)))


def _puts_on_accelerator(call: Call) -> bool:
    if moves_to_accelerator(call):
        return True
    if any(
        name.startswith(torch.ACCELERATOR_ROOTS) or name in frameworks.TRAINERS for name in qualified_names(call.callee)
    ):
        return True
    if call.method == "to":
        return False
    return any(_names_accelerator(argument.value) for argument in call.arguments)


def _names_accelerator(value: Value) -> bool:
    return any(
        isinstance(source, Constant)
        and isinstance(source.constant, str)
        and source.constant.partition(":")[0] in torch.ACCELERATORS
        for source in sources(value)
    )


def _may_be_accelerator(device: Value) -> bool:
    """Whether the argument of ``.to()`` is a device that may be another one than the CPU."""
    return any(_is_chosen_device(source) for source in sources(device))


def _is_chosen_device(source: Value) -> bool:
    if isinstance(source, Call) and "torch.device" in qualified_names(source.callee):
        return any(_may_be_accelerator(argument.value) for argument in source.arguments)
    if isinstance(source, External) or (isinstance(source, Constant) and not isinstance(source.constant, int)):
        # A dtype, or the name of a device.
        return _names_accelerator(source)
    return True


def device_type(module: Module) -> str:
    """The type of the device on which the file trains: the only one that it names, else ``cuda``."""
    if "cuda" in module.text:
        return "cuda"
    calls = (call for name in ("device", "to") for call in module.calls_by_name.get(name, ()))
    given = (source for call in calls for argument in call.arguments for source in sources(argument.value))
    names = (source.constant for source in given if isinstance(source, Constant) and isinstance(source.constant, str))
    known = {name.partition(":")[0] for name in names} & (_AUTOCAST_DEVICES | {"cpu"})
    # What is moved to the CPU may come from a device that is chosen elsewhere.
    if known != {"cpu"}:
        known.discard("cpu")
    elif uses_accelerator(module):
        known.clear()
    return known.pop() if len(known) == 1 else "cuda"


_AUTOCAST_DEVICES = frozenset({"mps", "xpu", "npu", "hpu", "xla"})
"""Types of devices other than those of CUDA that ``torch.autocast`` knows."""


def is_for_tpus(module: Module) -> bool:
    """Whether the file is written for TPUs, which PyTorch runs by ``torch_xla``, and for no GPU."""
    return "torch_xla" in module.text and "cuda" not in module.text


def _is_framework_class(bases: frozenset[str]) -> bool:
    return is_lightning_class(bases) or is_hf_trainer(bases)


@query(on_cycle=False)
def joins_processes(module: Module) -> bool:
    """Whether the file starts or joins a group of processes (DDP, FSDP, Accelerate, DeepSpeed, ``torchrun``)."""
    return any(_joins(call) for call in _calls(module))


@query(on_cycle=False)
def depends_on_rank(value: Value) -> bool:
    """Whether ``value`` is computed from the number of the process, so that each process has another one."""
    seen: set[int] = set()
    pending = [value]
    while pending and len(seen) < _MAX_VALUES:
        current = pending.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        if _is_rank(current):
            return True
        pending.extend(current.operands())
        pending.extend(aliases(current) or ())
        if isinstance(current, Call):
            pending.extend(leaving.value for function in callees(current) for leaving in function.returns)
    return False


def _is_rank(value: Value) -> bool:
    if isinstance(value, Attribute):
        return value.name in frameworks.RANK_ATTRIBUTES
    if isinstance(value, Call):
        return value.name in frameworks.RANK_FUNCTIONS or any(_is_rank_variable(a.value) for a in value.arguments)
    return _is_rank_variable(value) if isinstance(value, Item) else False


def runs_on_one_process(region: Region) -> bool:
    """Whether ``region`` runs under a test of the number of the process, as in ``if rank == 0:``."""
    return any(
        isinstance(ancestor, Branch) and ancestor.test is not None and depends_on_rank(ancestor.test)
        for ancestor in region.ancestors()
    )


def _joins(call: Call) -> bool:
    names = qualified_names(call.callee)
    if names & frameworks.PROCESS_GROUPS:
        return True
    return any(_is_rank_variable(argument.value) for argument in call.arguments)


def _is_rank_variable(value: Value) -> bool:
    """``os.environ["LOCAL_RANK"]``, or its name in ``os.environ.get("LOCAL_RANK")``."""
    parts = value.index if isinstance(value, Item) else (value,)
    return any(isinstance(part, Constant) and part.constant in {"LOCAL_RANK", "RANK", "WORLD_SIZE"} for part in parts)
