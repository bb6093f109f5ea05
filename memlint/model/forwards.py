"""Forward passes that record a graph: which calls they are, in which mode the module runs, what they are part of."""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import Enum
from typing import NamedTuple

from memlint.findings import Confidence
from memlint.model.aliases import base_names, instance_class, mro
from memlint.model.attachment import Attachment, attachment, certainty
from memlint.model.calls import call_sites, callees, runs_forward
from memlint.model.downstream import Reach, gradient_flow
from memlint.model.effects import Effect, backward_of, function_effects, returns_loss_to_framework
from memlint.model.gradmode import GradMode, context_mode, grad_mode, is_lightning_module
from memlint.model.identity import Objects, holds, objects, seen_from
from memlint.model.instances import instance_kind
from memlint.model.kinds import Role, kinds, role
from memlint.model.knowledge import frameworks
from memlint.model.memo import query
from memlint.model.numpy_reads import is_read_by_numpy
from memlint.model.runners import runs_for_each_batch
from memlint.model.scopes import Class, Function
from memlint.model.values import (
    Attribute,
    Branch,
    Call,
    Comparison,
    Constant,
    Item,
    Region,
    Store,
    Value,
    With,
)

_MAX_CALLERS = 4
"""Callers that are asked one after the other in which mode they leave a module."""


@query(on_cycle=())
def forwards(function: Function) -> tuple[Call, ...]:
    """The calls in ``function`` that start to record a graph, as the function that runs the model sees them.

    Calls of modules, and calls of the project's functions that return a graph which their arguments did not have. In a
    module's own methods the calls of its parts are parts of one forward pass and are left out.
    """
    # What a call runs is quicker to tell than how its function is called, and of a module's own methods less is asked.
    own = _belongs_to_module(function)
    calls = (call for call in function.calls if not (own and _is_part_of_forward(call)))
    return tuple(call for call in calls if _may_record(call) and _records(call))


def _may_record(call: Call) -> bool:
    if called_module(call) is None and not callees(call):
        return False
    return grad_mode(call.region) is GradMode.ENABLED


def _records(call: Call) -> bool:
    module = called_module(call)
    if module is not None:
        return attachment(call) >= Attachment.LIKELY and not _may_be_loss(call, module)
    functions = callees(call)
    if not any(map(runs_module, functions)) or attachment(call) < Attachment.LIKELY:
        return False
    if any(function_effects(function) & Effect.BACKWARD for function in functions):
        return False
    return not any(attachment(given) > Attachment.UNKNOWN for given in _given(call))


@query(on_cycle=False)
def runs_module(function: Function) -> bool:
    """Whether ``function`` runs a module where gradients are enabled."""
    return any(
        (called_module(call) is not None or any(map(runs_module, callees(call))))
        and grad_mode(call.region) is GradMode.ENABLED
        for call in function.lower().calls
    )


def _may_be_loss(call: Call, module: Value) -> bool:
    """Whether ``call`` continues a graph that is differentiated, and its module may be a loss or a metric.

    That is so if nothing but an annotation, or how it is used, says that it is a module.
    """
    if any(kind.role is Role.MODULE and kind.name not in _ANY_MODULE for kind in kinds(module)):
        return False
    attached = (each.value for each in call.arguments if attachment(each.value) > Attachment.UNKNOWN)
    return any(gradient_flow(value).reach is Reach.YES for value in attached)


_ANY_MODULE = frozenset({"", "torch.nn.Module", "torch.nn.modules.Module", "torch.nn.modules.module.Module"})


def _given(call: Call) -> Iterator[Value]:
    if call.receiver is not None:
        yield call.receiver
    for argument in call.arguments:
        yield argument.value


def called_module(call: Call) -> Value | None:
    """The module whose forward ``call`` runs: ``model`` in ``model(x)`` and ``model.forward(x)``."""
    if role(call.callee, Role.MODULE, Role.ENGINE):
        return call.callee
    if call.receiver is not None and runs_forward(call) and role(call.receiver, Role.MODULE, Role.ENGINE):
        return call.receiver
    return None


_LIGHTNING_DRIVERS = frameworks.LIGHTNING_EPOCH_HOOKS | frameworks.LIGHTNING_TRAINING_HOOKS


def _belongs_to_module(function: Function) -> bool:
    """Whether ``function`` is, or is defined in, a method of a module; those that drive a training are not meant."""
    owner = _method_owner(function)
    if owner is None or instance_kind(owner).role not in {Role.MODULE, Role.LOSS_FUNCTION}:
        return False
    return not (is_lightning_module(base_names(owner)) and function.name in _LIGHTNING_DRIVERS)


def _is_part_of_forward(call: Call) -> bool:
    """Whether ``call`` runs a part of the module whose method it stands in."""
    module = called_module(call)
    if module is None:
        return True
    if function_effects(call.function) & Effect.BACKWARD:
        return False  # A policy or a model that trains itself.
    # A method that switches a part to evaluation runs it for its own sake.
    return instance_class(module) is None and _mode_at(call, objects(module), 0) is not Mode.EVALUATION


def _method_owner(function: Function) -> Class | None:
    """The class in whose method ``function`` is, or is defined."""
    return next((each.owner for each in (function, *function.enclosing()) if each.owner is not None), None)


# ------------------------------------------------------------------- eval() and train()


class Mode(str, Enum):
    """What ``module.training`` says."""

    TRAINING = "training"
    EVALUATION = "evaluation"


class _Switch(NamedTuple):
    call: Call
    modules: Objects
    mode: Mode


def module_mode(call: Call) -> Mode | None:
    """The mode in which ``call`` runs its module, if a switch in the function or in all of its callers decides it."""
    modes = {_mode_at(call, module, _MAX_CALLERS) for module in _modules_run(call, _MAX_CALLERS)}
    return modes.pop() if len(modes) == 1 else None


def mode_before(call: Call, module: Objects) -> Mode | None:
    """The mode in which ``module`` is when ``call`` runs, if a switch in its function or all callers decides it."""
    return _mode_at(call, module, _MAX_CALLERS)


def _modules_run(call: Call, depth: int) -> Iterator[Objects]:
    """The modules that ``call`` runs, itself or in functions of the project, as they are known at ``call``."""
    module = called_module(call)
    if module is not None:
        yield objects(module)
        return
    for function in callees(call) if depth else ():
        for inner in forwards(function):
            for found in _modules_run(inner, depth - 1):
                yield seen_from(found, call, function)


def _mode_at(call: Call, module: Objects, depth: int) -> Mode | None:
    switches = [s for s in _switches(call.function) if s.call.order < call.order and holds(s.modules, module)]
    if switches:
        last = switches[-1]
        return last.mode if _runs_before(last, call.region) else None
    if depth == 0:
        return None
    sites = [site for site in call_sites(call.function) if site.function is not call.function]
    modes = {_mode_at(site, seen_from(module, site, call.function), depth - 1) for site in sites}
    return modes.pop() if len(modes) == 1 else None


def _runs_before(switch: _Switch, region: Region) -> bool:
    """Whether the switch has happened whenever ``region`` is reached, if there is a module to switch."""
    for outer in switch.call.region.ancestors():
        if region.within(outer):
            return True
        if not (isinstance(outer, Branch) and _tests_presence(outer, switch.modules)):
            return False
    return False


def _tests_presence(branch: Branch, modules: Objects) -> bool:
    """Whether the branch is that of ``if module is not None:`` or ``if module:``."""
    tested = branch.test
    if isinstance(tested, Comparison) and tested.operators == ("is not",):
        tested = tested.values[0]
    return tested is not None and not branch.negated and holds(objects(tested), modules)


@query(on_cycle=())
def _switches(function: Function) -> tuple[_Switch, ...]:
    """The switches of mode in ``function``, those in functions that it calls included, in evaluation order."""
    return tuple(switch for call in function.calls for switch in _switches_by(call))


def _switches_by(call: Call) -> Iterator[_Switch]:
    mode = _switched_mode(call)
    if mode is not None and call.receiver is not None:
        yield _Switch(call, objects(call.receiver), mode)
        return
    for function in callees(call):
        for switch in _switches(function):
            # What a function switches within a branch or loop may or may not have happened.
            if switch.call.region is function.body:
                yield _Switch(call, seen_from(switch.modules, call, function), switch.mode)


def _switched_mode(call: Call) -> Mode | None:
    if call.method == "eval" and not call.arguments:
        return Mode.EVALUATION
    if call.method != "train" or len(call.arguments) > 1:
        return None
    given = call.argument("mode", 0)
    if given is None:
        return Mode.TRAINING
    if isinstance(given, Constant) and isinstance(given.constant, bool):
        return Mode.TRAINING if given.constant else Mode.EVALUATION
    return None


# ------------------------------------------------------------------------ what it is part of


def in_training_step(call: Call) -> bool:
    """Whether ``call`` stands where each iteration runs a backward: in a step of training, not beside or after it."""
    return _steps_beside(call, 2)


def _steps_beside(call: Call, depth: int) -> bool:
    function = call.function
    if returns_loss_to_framework(function):
        return True
    loop = call.region.loop
    if any(other.region.loop is loop and _runs_step(other) for other in function.calls):
        return True
    if loop is not None or depth == 0:
        return False
    sites = [site for site in call_sites(function) if site.function is not function]
    return bool(sites) and all(_steps_beside(site, depth - 1) for site in sites)


def _runs_step(call: Call) -> bool:
    """Whether ``call`` runs one backward: itself, or in a function of the project that has it outside of loops."""
    return backward_of(call) is not None or any(_is_step(function) for function in callees(call))


@query(on_cycle=False)
def _is_step(function: Function) -> bool:
    return any(call.region.loop is None and _runs_step(call) for call in function.calls)


def is_repeated(call: Call) -> bool | None:
    """Whether ``call`` runs in a loop, or in a function that is called in a loop; None if no caller is in sight.

    Callers that disable gradients do not count.
    """
    return _is_repeated(call, _MAX_CALLERS)


def _is_repeated(call: Call, depth: int) -> bool | None:
    function = call.function
    if call.region.loop is not None or runs_for_each_batch(function):
        return True
    sites = [site for site in call_sites(function) if site.function is not function]
    if not sites or depth == 0:
        return None if function.parent is not None and function.name != "__init__" else False
    sites = [site for site in sites if grad_mode(site.region) is not GradMode.DISABLED]
    repeated = [_is_repeated(site, depth - 1) for site in sites]
    return True if True in repeated else None if None in repeated else False


_EVALUATION_NAME = re.compile(
    r"(^|_)(eval|evaluate|evaluation|valid|validate|validation|test|infer|inference|predict|prediction|score|generate)(_|$)"
)


def is_named_for_evaluation(function: Function) -> bool:
    """Whether the name of ``function``, or of one around it, says that it evaluates: a hint, and no proof."""
    return any(_EVALUATION_NAME.search(each.name.lower()) for each in (function, *function.enclosing()))


# ---------------------------------------------------------------------------- wasted graphs


@query(on_cycle=None)
def wasted(call: Call) -> Confidence | None:
    """How sure it is that no gradient flows through the graph that a forward pass records; None if one does.

    Possible: it is handed to code out of sight, or dropped at once, so that only a hook could use it; or it stands in a
    test, under ``enable_grad``, or in a callback that code out of sight may call under ``no_grad``; or NumPy reads it,
    which it could not.
    """
    flow = gradient_flow(call)
    if flow.reach is Reach.YES or _is_wasted_inside(call):
        return None
    if not _is_read(call):
        return None if function_effects(call.function) & Effect.BACKWARD else Confidence.POSSIBLE
    if flow.reach is Reach.UNKNOWN or flow.handed_over or call.function.module.is_test:
        return Confidence.POSSIBLE
    unsure = _is_foreign_callback(call.function) or _may_be_no_module(call) or is_read_by_numpy(call)
    unsure = unsure or _is_told_to_record(call.region)
    return Confidence.POSSIBLE if unsure else certainty(call)


def _is_told_to_record(region: Region) -> bool:
    """Whether the author has switched gradients on for this code alone: what it is for may be out of sight."""
    contexts = (context for each in region.ancestors() if isinstance(each, With) for context in each.contexts)
    return any(context_mode(context) is GradMode.ENABLED for context in contexts)


def _may_be_no_module(call: Call) -> bool:
    """Whether what is called is a module in some cases, and another known object in others."""
    module = called_module(call)
    return module is not None and any(kind.role in {Role.OBJECT, Role.FUNCTION, Role.CLASS} for kind in kinds(module))


def _is_foreign_callback(function: Function) -> bool:
    """Whether ``function`` is a lambda or a hook, or only such call it, so that whoever gets it decides on the mode."""
    if _is_handed_out(function):
        return True
    sites = [site for site in call_sites(function) if grad_mode(site.region) is not GradMode.DISABLED]
    return bool(sites) and all(_is_handed_out(site.function) for site in sites)


def _is_handed_out(function: Function) -> bool:
    return function.name == "<lambda>" or _is_hook(function)


@query(on_cycle=False)
def _is_hook(function: Function) -> bool:
    """Whether ``function`` overrides a method of a class of the project that no call in sight names.

    One that runs a backward is no such hook: its caller has gradients enabled. Nor is one whose name says that it
    evaluates, unless the name stands somewhere, as in ``getattr(plugin, "after_eval")``.
    """
    owner = function.owner
    if owner is None or call_sites(function) or function_effects(function) & Effect.BACKWARD:
        return False
    if is_named_for_evaluation(function) and not function.project.mentioning(function.name):
        return False
    return any(function.name in cls.methods for cls in mro(owner) if cls is not owner)


def _is_wasted_inside(call: Call) -> bool:
    """Whether a forward pass in a function of the project that ``call`` runs is wasted already there."""
    if called_module(call) is not None:
        return False
    return any(
        wasted(inner) is not None or _is_wasted_inside(inner)
        for function in callees(call)
        if function is not call.function
        for inner in forwards(function)
    )


def _is_read(output: Value) -> bool:
    """Whether anything is done with an output but to name it, and to take a field of it: ``model(x).sample``."""
    return any(
        _is_read(use) if isinstance(use, (Attribute, Item)) else not (isinstance(use, Store) and use.base is None)
        for use in output.uses
    )
