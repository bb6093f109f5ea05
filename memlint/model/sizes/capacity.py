"""What the capacity rules ask of a program: what it trains, how large that is, and where it says so."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import libcst as cst

from memlint.devices import UnknownDevice, device
from memlint.findings import Applicability, Claim, ClaimShape, Confidence, Fix, Severity, Watch
from memlint.model.aliases import qualified_names
from memlint.model.pins import is_older
from memlint.model.program import Program
from memlint.model.rows import rows
from memlint.model.scopes import Module
from memlint.model.sizes.objects import ModuleObject, Place
from memlint.model.sizes.reading import Fact, Reader, Reading
from memlint.model.techniques import Technique, techniques
from memlint.model.values import Call

_STEPS = 120_000
"""Nodes that are evaluated for the sake of rules; ``memlint estimate`` evaluates more."""
_STEPS_IN_PACKAGES = 6_000
"""The same for files that do something and are part of a package, whose imports lead into all of it."""
_STEPS_OF_LIBRARIES = 4_000
"""The same for files that run nothing by themselves, read alone: what they train is known where they are called."""


@dataclass(frozen=True)
class Card:
    """The GPU that a program is to run on."""

    name: str
    usable: int
    """Bytes that a process can use."""
    is_configured: bool


REFERENCE = Card("a GPU of 16 GB", 16 << 30, is_configured=False)
"""The card that is assumed where none is configured."""


def card_of(program: Program) -> Card:
    """The card of the configuration, or the one of reference."""
    if program.device is None:
        return REFERENCE
    try:
        known = device(program.device)
    except UnknownDevice:
        return REFERENCE
    return Card(known.name, known.usable, is_configured=True)


def confidence_of(*facts: Fact | None, models: Sequence[ModuleObject] = ()) -> Confidence:
    """Likely; possible where something is a default that the command line may change."""
    if any(fact is not None and fact.by_command_line for fact in facts):
        return Confidence.POSSIBLE
    if any("named on the command line" in model.attributes for model in models):
        return Confidence.POSSIBLE
    return Confidence.LIKELY


def confidence_of_estimate(reading: Reading) -> Confidence:
    """How sure a finding can be that rests on the estimate of a step.

    Possible where the program may run in half precision or with checkpointing in a way that the estimate leaves out.
    """
    facts = reading.facts
    is_full = reading.value("precision") is None and reading.value("parameters dtype") is None
    unread = "precision" in facts or uses(reading, Technique.HALF_PRECISION, Technique.LOSS_SCALING)
    is_unsaid = not {"precision", "parameters dtype"}.isdisjoint(reading.unknown)
    if is_unsaid or (is_full and unread) or _keeps_less(reading):
        return Confidence.POSSIBLE
    read = ("batch", "length", "image", *(("ranks",) if "sharding" in facts else ()))
    return confidence_of(*map(facts.get, read), models=reading.trained)


def _keeps_less(reading: Reading) -> bool:
    """Whether autograd may keep less than is estimated: for models of images it is estimated without checkpointing."""
    is_image_model = any("saved" in (model.entry or {}) for model in reading.trained)
    if "checkpointing" in reading.facts:
        return is_image_model
    return uses(reading, Technique.CHECKPOINTING)


def size_of_models(reading: Reading) -> int | None:
    """Elements of the parameters of what is trained; None if that is not known."""
    if not reading.trained or any(model.doubts() for model in reading.trained):
        return None
    return sum(model.count() for model in reading.trained)


def uses(reading: Reading, *wanted: Technique) -> bool:
    """Whether a file of the program uses one of these techniques, or has a setting for it."""
    return any(not techniques(text).isdisjoint(wanted) for text in reading.texts.values())


def is_sharded_unread(reading: Reading) -> bool:
    """Whether a file of the program may shard or lighten what is trained in a way that the estimate does not count."""
    if uses(reading, Technique.REDUCED_STATES, Technique.QUANTISED):
        return True
    return uses(reading, Technique.SHARDING) and "sharding" not in reading.facts


def capacity_claim(size: str, watch: Watch, limit: int = 0) -> Claim:
    """The claim of a rule about the size of a model: ``size`` bytes at the peak, of which there are ``limit``."""
    return Claim(ClaimShape.SPIKE, "device", size, watch=watch, limit=limit)


def capacity_severity(program: Program) -> Severity:
    """A warning where the device is configured, so that the estimate is about it; else a note."""
    return Severity.WARNING if card_of(program).is_configured else Severity.NOTE


def training_site(
    program: Program, reading: Reading, arguments: Mapping[str, str]
) -> tuple[cst.Call | None, tuple[Fix, ...]]:
    """Where a finding about what is trained stands, and the fix for it.

    The call of ``arguments`` that configures the training, to which the argument for it is added; without one, the call
    that makes the first model, and no fix.
    """
    call, argument = configuration_call(program, arguments)
    if call is None:
        place = reading.trained[0].place
        return (call_at(program, place) if place is not None else None), ()
    fix = Fix("add_argument", f"Add `{argument}`", Applicability.UNSAFE, {"call": call}, {"code": argument})
    return call, (fix,)


def training_of(program: Program) -> Reading | None:
    """What the program trains; None if it trains nothing in sight."""
    if program.training is None:
        if not _is_run(program.module) and not _may_train(program.module):
            program.training = Reading()
            return None
        reader = _read(program.module)
        program.training = reader.reading if reader.reading.is_training else Reading()
        # What was evaluated is as large as the files that the program imports.
        program.module.project.at_next_file(reader.evaluator.release)
    return program.training if program.training.is_training else None


def _is_run(module: Module) -> bool:
    """Whether a file does something by itself."""
    body = module.body.lower()
    return "__main__" in module.text or bool(body.loops) or any(isinstance(each, Call) for each in body.statements)


def _may_train(module: Module) -> bool:
    """Whether a file that is read alone has a call that trains: of a backward, of a Trainer, of its ``fit``."""
    return any(
        name in {"backward", "manual_backward", "fit"} or name.endswith("Trainer") for name in module.calls_by_name
    )


def _read(module: Module) -> Reader:
    """Evaluates a file, with what it imports if it does something by itself."""
    project = module.project
    is_run = _is_run(module)

    def locate(origin: Path, name: str) -> Path | None:
        return project.locate(origin, name) if is_run else None

    def read(path: Path) -> str | None:
        if path == module.path:
            return module.text
        return project.read(path).decode("utf-8", "replace")

    in_package = (module.folder / "__init__.py").is_file()
    steps = _STEPS_OF_LIBRARIES if not is_run else _STEPS_IN_PACKAGES if in_package else _STEPS
    reader = Reader(locate, read, steps=steps, older=partial(is_older, module))
    reader.read(module.path)
    return reader


def find_module(origin: Path, root: Path, name: str) -> Path | None:
    """The file of the module ``name`` as imported in the file ``origin`` of the project at ``root``."""
    relative = name.replace(".", os.sep)
    folder = origin.parent
    package = folder
    while (package / "__init__.py").is_file() and package.parent != package:
        package = package.parent
    for base in dict.fromkeys((package, folder, root, root / "src")):
        for candidate in (base / f"{relative}.py", base / relative / "__init__.py"):
            if candidate.is_file():
                return candidate
    return None


def call_at(program: Program, place: Place, *names: str) -> cst.Call | None:
    """The outermost call in that row of the program, of one of ``names`` if there is one."""
    if place.path != program.path:
        return None
    found: list[cst.Call] = []
    for call in program.calls():
        node = call.node
        if isinstance(node, cst.Call):
            start, end = rows(program.module, node) or (0, 0)
            if start <= place.row <= end:
                found.append(node)
    named = [node for node in found if _last_name(node) in names]
    chosen = named or (found if not names else [])
    return chosen[0] if chosen else None


def _last_name(node: cst.Call) -> str:
    callee = node.func
    if isinstance(callee, cst.Attribute):
        return callee.attr.value
    return callee.value if isinstance(callee, cst.Name) else ""


def configuration_call(program: Program, arguments: Mapping[str, str]) -> tuple[cst.Call | None, str]:
    """The call that configures the training, if it is one of those of ``arguments``, and the argument for it."""
    for name, argument in arguments.items():
        for call in program.calls(name):
            known = qualified_names(call.callee)
            if any(each.split(".")[0] in FRAMEWORKS for each in known):
                is_transformers = any(each.startswith("transformers.") for each in known)
                if name != "Trainer" or not is_transformers:
                    return call.node, argument
    return None, ""


FRAMEWORKS = frozenset({"transformers", "trl", "accelerate", "lightning", "pytorch_lightning"})
"""Libraries that train."""
