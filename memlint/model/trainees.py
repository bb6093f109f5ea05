"""What a file hands over to be trained: to optimizers, and to the Trainers of transformers and TRL."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from memlint.model.aliases import qualified_names
from memlint.model.calls import callees
from memlint.model.effects import backward_of
from memlint.model.hf_trainers import construction
from memlint.model.identity import Objects, everywhere, objects
from memlint.model.keywords import given
from memlint.model.memo import query
from memlint.model.optimized import coverage, makes_optimizer, overlap
from memlint.model.scopes import Module
from memlint.model.training import inside
from memlint.model.values import Call, Value


class Trainee(NamedTuple):
    """A model, or several, that ``call`` is given: one that makes an optimizer or a Trainer."""

    call: Call
    models: Objects
    has_adapters: bool
    """Whether adapters are trained, or may be, and not the model itself."""

    def trains(self, model: Value) -> bool:
        """Whether ``model`` is among the models, or a part of one."""
        return overlap(self.models, frozenset(inside(everywhere(objects(model)))))


@query(on_cycle=())
def trainees(module: Module) -> tuple[Trainee, ...]:
    """What a file hands over to be trained."""
    return tuple(found for function in module.functions for call in function.calls for found in _given_to(call))


def _given_to(call: Call) -> Iterator[Trainee]:
    if makes_optimizer(call):
        yield Trainee(call, coverage([objects(call)]).objects, has_adapters=False)
    elif call.name.endswith("Trainer") and not callees(call):
        for made in construction(call):
            models = (objects(value) for value in made.model.values)
            adapters = given(call, "peft_config")
            known = frozenset(inside(everywhere(frozenset().union(*models))))
            yield Trainee(call, known, bool(adapters.values) or adapters.unknown)


@query(on_cycle=False)
def trains(module: Module) -> bool:
    """Whether a file runs a backward, or hands a model to a Trainer."""
    started = (call for name in ("backward", "manual_backward") for call in module.calls_by_name.get(name, ()))
    return any(backward_of(call) is not None for call in started) or bool(trainees(module))


_ADAPTING = ("get_peft_model", "add_adapter", "inject_adapter_in_model", "inject_adapter", "from_pretrained")
"""Functions and methods that put adapters into a model; of ``from_pretrained`` that of the classes of peft."""


def gets_adapters(model: Value) -> bool:
    """Whether adapters are put into ``model``, in the file where it is used or loaded."""
    whole = frozenset(inside(everywhere(objects(model))))
    made = (each.root for each in whole if isinstance(each.root, Call))
    files = dict.fromkeys([model.function.module, *(call.function.module for call in made)])
    return any(
        overlap(everywhere(objects(value)), whole)
        for file in files
        for name in _ADAPTING
        for call in file.calls_by_name.get(name, ())
        for value in _adapted_by(call)
    )


def _adapted_by(call: Call) -> Iterator[Value]:
    """The models that ``call`` puts adapters into."""
    receiver = call.receiver
    if call.name == "from_pretrained":
        if receiver is None or not any(name.startswith("peft.") for name in qualified_names(receiver)):
            return
    elif call.name == "add_adapter" and receiver is not None:
        yield receiver
    yield from (argument.value for argument in call.arguments)
