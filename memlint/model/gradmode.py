"""Whether operations record a graph at some place: contexts, decorators, framework hooks and callers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import Enum

from memlint.model.aliases import base_names, qualified_names, sources
from memlint.model.calls import call_sites, callees, has_callers_out_of_sight, nearest_call_sites
from memlint.model.knowledge import frameworks, torch
from memlint.model.memo import query
from memlint.model.scopes import Function
from memlint.model.values import Call, Constant, FunctionValue, Region, Value, With


class GradMode(str, Enum):
    """Gradient mode of a place."""

    ENABLED = "enabled"
    DISABLED = "disabled"
    UNKNOWN = "unknown"
    """Depends on a value that is only known when the program runs."""


@query(on_cycle=GradMode.ENABLED)
def grad_mode(region: Region) -> GradMode:
    """The mode in which code in ``region`` runs, callers included."""
    return local_grad_mode(region) or entry_mode(region.function)


def local_grad_mode(region: Region) -> GradMode | None:
    """The mode that contexts within the function itself set; None if none does."""
    for ancestor in region.ancestors():
        if isinstance(ancestor, With):
            for context in reversed(ancestor.contexts):
                mode = context_mode(context)
                if mode is not None:
                    return mode
    return None


def context_mode(context: Value) -> GradMode | None:
    """The mode inside ``with context:``; None if the context leaves it as it is."""
    modes = {_source_mode(source) for source in sources(context)}
    if len(modes) == 1:
        return modes.pop()
    return GradMode.UNKNOWN if modes else None


def _source_mode(source: Value) -> GradMode | None:
    if not isinstance(source, Call):
        return None
    names = qualified_names(source.callee)
    if names & torch.NO_GRAD:
        if names & torch.INFERENCE_MODE and source.arguments:
            return _switched(source, disabled_by=True)
        return GradMode.DISABLED
    if names & torch.ENABLE_GRAD:
        return GradMode.ENABLED
    if names & torch.SET_GRAD_ENABLED:
        return _switched(source, disabled_by=False)
    return _manager_mode(source)


def _switched(call: Call, *, disabled_by: bool) -> GradMode | None:
    argument = call.arguments[0].value if call.arguments else None
    values = sources(argument) if argument is not None else ()
    constants = {value.constant for value in values if isinstance(value, Constant)}
    if len(values) == 1 and len(constants) == 1:
        disabled = bool(constants.pop()) is disabled_by
        if disabled:
            return GradMode.DISABLED
        return None if disabled_by else GradMode.ENABLED
    return GradMode.UNKNOWN


def _manager_mode(call: Call) -> GradMode | None:
    """A context manager of the project, written as a generator: the mode in which it yields."""
    for function in callees(call):
        for exit in function.exits:
            if exit.kind == "yield":
                return local_grad_mode(exit.region)
    return None


@query(on_cycle=GradMode.ENABLED)
def entry_mode(function: Function) -> GradMode:
    """The mode in which the body of ``function`` starts: what is declared, or what all ways to call it have in common.

    It is disabled when callers are known and every chain of calls passes a place where gradients are disabled, and
    unknown when only the ``forward`` of a module calls it besides, whose own callers are out of sight.
    """
    found: set[GradMode | None] = set()
    for mode in _modes_on_the_way(function, set()):
        if mode is GradMode.ENABLED or mode is GradMode.UNKNOWN:
            return mode
        found.add(mode)
    if None in found:
        return GradMode.UNKNOWN if GradMode.DISABLED in found else GradMode.ENABLED
    return GradMode.DISABLED if found else GradMode.ENABLED


def _modes_on_the_way(function: Function, seen: set[Function]) -> Iterator[GradMode | None]:
    """The modes that are set last on the ways on which ``function`` is called; those of its nearest callers first.

    None for a ``forward`` on the way, whose own callers are out of sight.
    """
    if function in seen:
        return
    seen.add(function)
    declared = declared_mode(function)
    if declared is not None or _is_run_with_gradients(function):
        assumed = None if len(seen) > 1 and function.name == "forward" else GradMode.ENABLED
        yield declared or assumed
        return
    called = False
    for place in _places_of_call(function):
        called = True
        local = local_grad_mode(place)
        if local is not None:
            yield GradMode.DISABLED if local is GradMode.DISABLED else GradMode.ENABLED
        else:
            yield from _modes_on_the_way(place.function, seen)
    if called and function.owner is None and has_callers_out_of_sight(function):
        # What its neighbours do says nothing of a function that is imported everywhere.
        yield GradMode.ENABLED
    if not called:
        yield GradMode.DISABLED if _only_called_without_gradients(function) else GradMode.ENABLED


@query(on_cycle=False)
def is_part_of_forward(function: Function) -> bool:
    """Whether ``function`` is the ``forward`` of a module, or all calls of it come from one and none sets the mode."""
    return function.name == "forward" or set(_modes_on_the_way(function, set())) == {None}


def _is_run_with_gradients(function: Function) -> bool:
    """Whether code out of sight runs the method in training, whoever in sight calls it without gradients.

    So it is for what calling a module runs, and for the hooks whose loss a framework differentiates.
    """
    owner = function.owner
    if owner is None or function.name not in _TRAINING_METHODS:
        return False
    bases = base_names(owner)
    if function.name == "forward":
        return bool(bases & torch.MODULE_CLASSES)
    if function.name in frameworks.LIGHTNING_TRAINING_HOOKS and is_lightning_module(bases):
        return True
    return function.name in frameworks.HF_TRAINING_HOOKS and is_hf_trainer(bases)


_TRAINING_METHODS = {"forward"} | frameworks.LIGHTNING_TRAINING_HOOKS | frameworks.HF_TRAINING_HOOKS


def _places_of_call(function: Function) -> Iterator[Region]:
    """Where ``function`` is known to be called; for a lambda, where it is written."""
    if function.parent is not None and function.name == "<lambda>":
        yield _definition_region(function)
        return
    tests: list[Region] = []
    beside_tests = False
    for call in nearest_call_sites(function):
        if call.function is function:
            continue
        if call.function.module.is_test:
            tests.append(call.region)
        else:
            beside_tests = True
            yield call.region
    # Tests call things in ways that nobody else does.
    yield from tests if not beside_tests else ()


def _only_called_without_gradients(function: Function) -> bool:
    """Whether gradients are disabled at every call that may be one of ``function``, where none is known to be."""
    if has_callers_out_of_sight(function):
        return False
    sites = [call for call in call_sites(function) if call.function is not function]
    return bool(sites) and all(grad_mode(call.region) is GradMode.DISABLED for call in sites)


def _definition_region(function: Function) -> Region:
    assert function.parent is not None
    for value in _function_values(function.parent):
        if value.target is function:
            return value.region
    return function.parent.body


def _function_values(scope: Function) -> Iterator[FunctionValue]:
    for call in scope.calls:
        for operand in call.operands():
            if isinstance(operand, FunctionValue):
                yield operand
    for bound in scope.bindings.values():
        for value in bound:
            if isinstance(value, FunctionValue):
                yield value


def declared_mode(function: Function) -> GradMode | None:
    """The mode that decorators or the framework set for ``function``; None if its callers decide."""
    for decorator in function.decorators:
        mode = _decorator_mode(decorator)
        if mode is not None:
            return mode
    if function.parent is None:
        return GradMode.ENABLED
    if runs_without_gradients(function):
        return GradMode.DISABLED
    return None


def _decorator_mode(decorator: Value) -> GradMode | None:
    for source in sources(decorator):
        names = qualified_names(source)
        if names & torch.NO_GRAD:
            return GradMode.DISABLED
        if names & torch.ENABLE_GRAD:
            return GradMode.ENABLED
        if isinstance(source, FunctionValue):
            return _wrapper_mode(source.target.lower())
        if isinstance(source, Call):
            mode = _source_mode(source) or _made_decorator_mode(source)
            if mode is not None:
                return mode
    return None


def _made_decorator_mode(call: Call) -> GradMode | None:
    """The mode that the decorator sets which a function of the project makes: ``@evaluating()``."""
    made = (source for factory in callees(call) for exit in factory.returns for source in sources(exit.value))
    return _common(_wrapper_mode(each.target.lower()) for each in made if isinstance(each, FunctionValue))


def _wrapper_mode(decorator: Function) -> GradMode | None:
    """A decorator of the project: the mode in which what it returns calls the decorated function."""
    return _common(_modes_of_decorated(decorator)) if decorator.parameters else None


def _modes_of_decorated(decorator: Function) -> Iterator[GradMode | None]:
    decorated = decorator.parameters[0].name
    for inner in decorator.walk():
        for call in inner.calls:
            if call.name == decorated and inner is not decorator:
                yield local_grad_mode(call.region) or (declared_mode(inner) if inner.decorators else None)
            elif inner is decorator and any(given is decorator.parameters[0] for given in call.positional()):
                # torch.no_grad()(function)
                mode = _decorator_mode(call.callee)
                if mode is not None:
                    yield mode


def _common(modes: Iterable[GradMode | None]) -> GradMode | None:
    """The mode that all have; unknown if they differ."""
    found = set(modes)
    return found.pop() if len(found) == 1 else GradMode.UNKNOWN if found else None


def runs_without_gradients(function: Function) -> bool:
    """Whether a framework runs the method under ``no_grad`` or ``inference_mode``."""
    owner = function.owner
    if owner is None:
        return False
    name = function.name
    bases = base_names(owner)
    if name in frameworks.LIGHTNING_GRADIENT_FREE_HOOKS and is_lightning_class(bases):
        return True
    if name in frameworks.KERAS_GRADIENT_FREE_HOOKS and bases & frameworks.KERAS_MODELS:
        return True
    return name in frameworks.GRADIENT_FREE_METHODS and bool(bases & frameworks.GRADIENT_FREE_CLASSES)


def is_lightning_class(bases: frozenset[str]) -> bool:
    """Whether the Trainer of Lightning calls the hooks of a class with these bases: a LightningModule or a callback."""
    return is_lightning_module(bases) or any(
        base.startswith(frameworks.LIGHTNING_ROOTS) and (".callbacks." in base or base.endswith("Callback"))
        for base in bases
    )


def evaluates_a_batch(function: Function) -> bool:
    """Whether Lightning calls ``function`` with every batch of a validation, test or prediction run."""
    owner = function.owner
    if owner is None:
        return False
    bases = base_names(owner)
    if function.name in frameworks.LIGHTNING_EVALUATION_STEPS:
        return is_lightning_module(bases)
    return function.name in frameworks.LIGHTNING_BATCH_END_HOOKS and is_lightning_class(bases)


def is_lightning_module(function_owner_bases: frozenset[str]) -> bool:
    """Whether a class with these external bases is a LightningModule."""
    return any(
        base in frameworks.LIGHTNING_MODULES or base.endswith(".LightningModule") for base in function_owner_bases
    )


def is_hf_trainer(bases: frozenset[str]) -> bool:
    """Whether a class with these external bases is a Trainer of transformers or of a library built on it."""
    return any(
        base in frameworks.HF_TRAINER_CLASSES
        or (base.startswith(("transformers.", "trl.")) and base.endswith("Trainer"))
        for base in bases
    )


def declared_without_grad(function: Function) -> bool:
    """Whether decorators or a framework disable gradients for the function."""
    return declared_mode(function) is GradMode.DISABLED
