"""Activation checkpointing: where it is asked for, what a segment holds, and whether it takes place."""

from __future__ import annotations

import re
from collections.abc import Iterator

from memlint.findings import Confidence
from memlint.model.aliases import base_names, qualified_names, sources
from memlint.model.calls import callees
from memlint.model.definitions import calls_of_class
from memlint.model.effects import Effect, region_effects, returns_loss_to_framework
from memlint.model.forwards import Mode, called_module, in_training_step, mode_before, runs_module
from memlint.model.gradmode import GradMode, grad_mode, is_lightning_module
from memlint.model.identity import Object, Objects, everywhere, holds, objects
from memlint.model.instances import instance_kind
from memlint.model.keywords import entries, given
from memlint.model.kinds import Role, kinds, role
from memlint.model.memo import query
from memlint.model.pins import is_older
from memlint.model.program import Program
from memlint.model.scopes import Class, Function, Module
from memlint.model.settings import option, union, values
from memlint.model.unread_options import Unread, unread_options
from memlint.model.values import Attribute, Call, FunctionValue, Parameter, Value

CHECKPOINT = frozenset({"torch.utils.checkpoint.checkpoint"})
CHECKPOINT_SEQUENTIAL = frozenset({"torch.utils.checkpoint.checkpoint_sequential"})
_ENABLING = ("gradient_checkpointing_enable", "activation_checkpointing_enable", "enable_gradient_checkpointing")
"""Methods of models of transformers (the second since 5) and diffusers that switch checkpointing on."""


def checkpoints(program: Program) -> Iterator[Call]:
    """The calls of PyTorch's own ``checkpoint`` and ``checkpoint_sequential`` where gradients may be recorded."""
    for call in program.calls("checkpoint", "checkpoint_sequential"):
        known = qualified_names(call.callee) & (CHECKPOINT | CHECKPOINT_SEQUENTIAL)
        if known and grad_mode(call.region) is not GradMode.DISABLED:
            yield call


def is_sequential(call: Call) -> bool:
    """Whether a checkpoint is ``checkpoint_sequential``, which splits a list of modules itself."""
    return bool(qualified_names(call.callee) & CHECKPOINT_SEQUENTIAL)


# ------------------------------------------------------------------------- one segment


def is_single_segment(call: Call) -> Confidence | None:
    """How sure it is that a checkpoint holds all of the model, so that the backward has all of it recomputed at once.

    Possible: nothing in sight trains the model as a whole, or a layer runs outside of the segment.
    """
    if is_sequential(call):
        segments = option(call, "segments", 1).only
        return segments.confidence if segments is not None and segments.constant == 1 else None
    run = call.argument("function", 0)
    if run is None or _is_repeated_in_one_graph(call):
        return None
    owner = _module_around(call.function)
    trained = _trains_here(call, run) if owner is None else _is_trained_forward(call, owner)
    if trained is None:
        return None
    outside = [other for other in call.function.calls if other is not call and _runs_other_module(other, run)]
    if all(_is_small(other) for other in outside):
        return Confidence.POSSIBLE if outside else trained
    return None


def _is_repeated_in_one_graph(call: Call) -> bool:
    """Whether a loop runs the checkpoint several times for one backward: over blocks, or parts of a batch."""
    loop = call.region.loop
    return loop is not None and not region_effects(loop) & Effect.BACKWARD


def _module_around(function: Function) -> Class | None:
    """The module that ``function`` is a method of, unless it is one that a framework calls to train the module."""
    owner = function.owner
    if owner is None or instance_kind(owner).role is not Role.MODULE or returns_loss_to_framework(function):
        return None
    return owner


def _trains_here(call: Call, run: Value) -> Confidence | None:
    """For a checkpoint in a training step: whether what it runs is a model that the step trains."""
    loop = call.region.loop
    if (
        not returns_loss_to_framework(call.function)
        and not region_effects(loop if loop is not None else call.function.body) & Effect.BACKWARD
    ):
        return None
    return role(run, Role.MODULE)


def _is_trained_forward(call: Call, owner: Class) -> Confidence | None:
    """For a checkpoint in the ``forward`` of a module: whether that module is all that is trained, and no part."""
    if call.function.name != "forward":
        return None
    if is_lightning_module(base_names(owner)):
        return Confidence.LIKELY
    made = calls_of_class(owner)
    if any(_is_trained_whole(each) for each in made):
        return Confidence.LIKELY
    return None if made and all(_is_part(each) for each in made) else Confidence.POSSIBLE


def _is_part(made: Call) -> bool:
    """Whether an instance is made by a module, to be one of its parts."""
    owner = made.function.owner
    return owner is not None and instance_kind(owner).role is Role.MODULE


def _is_trained_whole(made: Call) -> bool:
    """Whether the parameters of an instance are asked for, and so given to an optimizer, where it is made."""
    wanted = objects(made)
    loads = made.function.module.loads
    asked = (load.base for name in ("parameters", "named_parameters") for load in loads.get(name, ()))
    return not _is_part(made) and any(everywhere(objects(base)) & wanted for base in asked)


def _runs_other_module(other: Call, run: Value) -> bool:
    """Whether a call runs modules with parameters that are not those of the checkpoint."""
    module = called_module(other)
    if module is not None:
        return not (holds(objects(run), objects(module)) or role(module, Role.MODULE) is None)
    targets = {source.target for source in sources(run) if isinstance(source, FunctionValue)}
    if isinstance(run, Attribute) and isinstance(other.callee, Attribute) and other.callee.name == run.name:
        return False
    return any(function not in targets and runs_module(function) for function in callees(other))


_SMALL = frozenset(
    "Linear LazyLinear LayerNorm RMSNorm GroupNorm BatchNorm1d BatchNorm2d Dropout Identity Flatten Softmax "
    "AdaptiveAvgPool2d AdaptiveAvgPool1d AvgPool2d MaxPool2d".split()
)
"""Single layers of torch, which save little beside a network."""


def _is_small(call: Call) -> bool:
    module = called_module(call)
    found = [kind for kind in kinds(module) if kind.role is Role.MODULE] if module is not None else []
    return bool(found) and all(k.name.startswith("torch.nn.") and k.name.rpartition(".")[2] in _SMALL for k in found)


# ------------------------------------------------------------------------- the reentrant form


def leaves_form_open(call: Call) -> bool:
    """Whether a checkpoint does not say ``use_reentrant``, and the project's torch knows that argument."""
    said = given(call, "use_reentrant")
    return not said.values and not said.unknown and not is_older(call.function.module, "torch", "1.11")


def cuts_gradients(call: Call) -> Confidence | None:
    """How sure it is that a reentrant checkpoint is given nothing that requires a gradient, so that it trains nothing.

    Its inputs are those of the whole model: images or token ids. Likely if ``use_reentrant=True`` is said, possible
    if it is the default that may change.
    """
    owner = _module_around(call.function)
    if is_sequential(call) or owner is None or _is_trained_forward(call, owner) is not Confidence.LIKELY:
        return None
    inputs = call.positional()[1:]
    if not inputs or call.is_open or not all(_is_model_input(value, call.function) for value in inputs):
        return None
    if any(name in call.function.module.text for name in ("requires_grad_", "requires_grad=True")):
        return None
    said = option(call, "use_reentrant").is_on()
    return Confidence.LIKELY if said else Confidence.POSSIBLE if leaves_form_open(call) else None


def _is_model_input(value: Value, forward: Function) -> bool:
    found = sources(value)
    return bool(found) and all(isinstance(s, Parameter) and s.function is forward and s.index > 0 for s in found)


# ------------------------------------------------------------------------- models of libraries


def enabling_calls(program: Program) -> Iterator[Call]:
    """The calls that switch checkpointing on in a model of transformers or diffusers."""
    for call in program.calls(*_ENABLING):
        if call.receiver is not None:
            yield call


def untrained_adapter(call: Call) -> Confidence | None:
    """How sure it is that reentrant checkpointing is switched on in a frozen model whose adapters then get no gradient.

    ``get_peft_model`` freezes the embeddings, and nothing makes their outputs require gradients.
    """
    if call.receiver is None or not _is_reentrant(call) or _makes_inputs_require_grad(call.function.module):
        return None
    return Confidence.LIKELY if _is_adapted(call.receiver) else None


def _is_reentrant(enabling: Call) -> bool | None:
    """Which form a model is told to use: reentrant or not; None if it is not said."""
    said = [
        values(value)
        for name in ("gradient_checkpointing_kwargs", "activation_checkpointing_kwargs")
        for mapping in given(enabling, name, 0).values
        for value in entries(mapping, "use_reentrant").values
    ]
    return union(said).is_on(default=False) if said else None


_REQUIRING = frozenset(
    {"enable_input_require_grads", "prepare_model_for_kbit_training", "prepare_model_for_int8_training"}
)


def _makes_inputs_require_grad(module: Module) -> bool:
    return any(name in module.calls_by_name for name in _REQUIRING) or "requires_grad_" in module.text


def _is_adapted(model: Value) -> bool:
    return any(
        isinstance(source, Call) and any(name.startswith("peft.") for name in qualified_names(source.callee))
        for source in sources(model)
    )


def needless_input_gradients(call: Call) -> Call | None:
    """For ``model.enable_input_require_grads()``: the call that switches on checkpointing which does not need it."""
    if call.receiver is None:
        return None
    wanted = everywhere(objects(call.receiver))
    for name in _ENABLING:
        for enabling in call.function.module.calls_by_name.get(name, ()):
            same = enabling.receiver is not None and everywhere(objects(enabling.receiver)) & wanted
            if same and _is_reentrant(enabling) is False:
                return enabling
    return None


def inactive_in_evaluation_mode(call: Call) -> tuple[Call, Confidence] | None:
    """For a call that switches checkpointing on: a forward in training that runs in evaluation mode, without it.

    Layers of transformers checkpoint only while ``training`` is set, which ``eval()`` clears, and ``from_pretrained``.
    """
    if call.receiver is None:
        return None
    wanted = everywhere(objects(call.receiver))
    for forward in _trained_forwards(call.function.module):
        module = called_module(forward)
        if module is None or not everywhere(objects(module)) & wanted:
            continue
        mode = mode_before(forward, objects(module))
        if mode is Mode.EVALUATION:
            return forward, Confidence.LIKELY
        if mode is None and _is_loaded(module) and not _is_switched_to_training(forward.function.module, wanted):
            return forward, Confidence.LIKELY
    return None


def trained_without(program: Program) -> tuple[Call, Call] | None:
    """Where checkpointing is switched on in one loaded model, and where another one is switched to training without."""
    enabling = [(call, everywhere(objects(call.receiver))) for call in enabling_calls(program) if call.receiver]
    if not enabling or program.module.is_test or not all(models for _, models in enabling):
        return None
    for call in program.calls("train"):
        model = everywhere(objects(call.receiver)) if call.receiver is not None and not call.arguments else frozenset()
        if not any(model & models for _, models in enabling) and any(map(_may_checkpoint, model)):
            return enabling[0][0], call
    return None


_CHECKPOINTING_DIFFUSERS = re.compile(r"UNet|Transformer|ControlNet")
"""Models of diffusers whose blocks checkpoint; adapters and some others do not."""


def _may_checkpoint(found: Object) -> bool:
    """Whether ``from_pretrained`` has made a model that can be told to checkpoint; a class out of sight may be one."""
    made = found.root
    if found.path or not isinstance(made, Call) or made.name != "from_pretrained":
        return False
    names = {name for name in qualified_names(made.callee) if name.startswith("diffusers.")}
    return not names or any(map(_CHECKPOINTING_DIFFUSERS.search, names))


@query(on_cycle=())
def _trained_forwards(module: Module) -> tuple[Call, ...]:
    return tuple(
        call
        for function in module.functions
        for call in function.calls
        if called_module(call) is not None and grad_mode(call.region) is GradMode.ENABLED and in_training_step(call)
    )


def _is_loaded(module: Value) -> bool:
    """Whether all that is known of a model is that ``from_pretrained`` of transformers has loaded it."""
    found = [source for source in sources(module) if isinstance(source, Call)]
    return bool(found) and all(
        source.name == "from_pretrained"
        and any(name.startswith("transformers.") for name in qualified_names(source.callee))
        for source in found
    )


def _is_switched_to_training(module: Module, model: Objects) -> bool:
    """Whether a file calls ``train`` on the model, or hands it to something out of sight that may do so."""
    switches = (call for call in module.calls_by_name.get("train", ()) if call.receiver is not None)
    return any(call.receiver is not None and not _is_known_other(call.receiver, model) for call in switches)


def _is_known_other(receiver: Value, model: Objects) -> bool:
    found = everywhere(objects(receiver))
    return bool(found) and not found & model and role(receiver, Role.MODULE) is not None


# ------------------------------------------------------------------------- options

_OPTION = re.compile(
    r"(^|_)(grad(ient)?|activation)_?checkpoint(ing|s)?$|^(use_)?checkpointing$|^checkpoint_activations$"
)


def ignored_options(program: Program) -> Iterator[Unread]:
    """Options of the program that ask for checkpointing, and that nothing reads."""
    if "checkpoint" in program.module.text:
        yield from unread_options(program.module, _OPTION)
