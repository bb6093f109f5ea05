"""What the expression that computes a value says of its kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import libcst as cst

from memlint.findings import Confidence
from memlint.model.aliases import (
    attribute_values,
    base_names,
    find_property,
    instance_class,
    mro,
    qualified_names,
    sources,
    zipped,
)
from memlint.model.annotations import annotation_kinds
from memlint.model.call_results import result_kinds
from memlint.model.calls import callees, passed_arguments
from memlint.model.constructors import is_class_name
from memlint.model.containers import elements
from memlint.model.evidence import may_be_module
from memlint.model.fields import part_at
from memlint.model.gradmode import is_hf_trainer
from memlint.model.instances import instance_kind
from memlint.model.kinds import Kind, Role, class_of, kinds, role, written_kind
from memlint.model.knowledge import frameworks
from memlint.model.memo import query
from memlint.model.scopes import Class
from memlint.model.values import (
    Attribute,
    Binary,
    Call,
    Comparison,
    Constant,
    Element,
    Entered,
    External,
    Item,
    Parameter,
    Part,
    Unary,
    Value,
)


def source_kinds(value: Value) -> Iterator[Kind]:
    """The kinds that ``value`` has by the expression that computes it."""
    written = written_kind(value)
    if written is not None:
        yield written
        return
    computed = _COMPUTED.get(type(value))
    if computed is not None:
        yield from computed(value)


def _external_kinds(value: External) -> Iterator[Kind]:
    if is_class_name(value.qualified_name):
        yield Kind(Role.CLASS, name=value.qualified_name)


def _comparison_kinds(value: Comparison) -> Iterator[Kind]:
    yield _comparison_kind(value)


def _entered_kinds(value: Entered) -> Iterator[Kind]:
    yield from kinds(value.context)


def _comparison_kind(value: Comparison) -> Kind:
    tensors = [role(part, Role.TENSOR, Role.OUTPUT) for part in value.values]
    if any(tensors) and not set(value.operators) & {"is", "is not", "in", "not in"}:
        return Kind(Role.TENSOR, Confidence.LIKELY)
    return Kind(Role.NUMBER)


def _arithmetic_kinds(value: Binary | Unary) -> Iterator[Kind]:
    parts = [kind for operand in value.operands() for kind in kinds(operand)]
    roles = {kind.role for kind in parts}
    for found in (Role.TENSOR, Role.OUTPUT, Role.BATCH):
        if found in roles:
            yield Kind(Role.TENSOR, max((k.confidence for k in parts if k.role is found), key=lambda c: c.rank))
            return
    for found in (Role.CONTAINER, Role.TEXT):
        if found in roles:
            yield Kind(found)
            return
    if roles and roles <= {Role.NUMBER} and all(kinds(operand) for operand in value.operands()):
        yield Kind(Role.NUMBER)


def _attribute_kinds(value: Attribute) -> Iterator[Kind]:
    base = value.base
    for kind in kinds(base):
        match kind.role:
            case Role.OUTPUT:
                yield Kind(Role.OUTPUT, Confidence.LIKELY)
            case Role.TENSOR:
                if value.name in {"data", "grad", "T", "mT", "real", "imag", "H"}:
                    yield Kind(Role.TENSOR)
                elif value.name in {"shape", "ndim", "is_cuda", "requires_grad"}:
                    yield Kind(Role.NUMBER)
            case Role.BATCH:
                yield Kind(Role.BATCH, Confidence.LIKELY)
            case Role.MODULE | Role.ENGINE if value.name in {"module", "model"} and kind.cls is None:
                yield kind
            case Role.LOADER if value.name == "dataset":
                yield Kind(Role.DATASET)
    yield from _kept_kinds(value)


def _kept_kinds(value: Attribute) -> Iterator[Kind]:
    """What the class of the project keeps in the attribute."""
    own = instance_class(value.base)
    owner = own or class_of(value.base)
    if owner is None:
        return
    declared = tuple(_declared_kinds(owner, value.name))
    yield from declared
    if not declared and own is None and _is_part_of_module(owner, value.name):
        yield Kind(Role.MODULE, Confidence.LIKELY)


def _is_part_of_module(owner: Class, name: str) -> bool:
    """Whether a module of the project was given something as ``name`` that it runs: ``Translator(encoder)``."""
    if instance_kind(owner).role is not Role.MODULE:
        return False
    given = any(isinstance(source, Parameter) for value in attribute_values(owner, name) for source in sources(value))
    return given and any(
        isinstance(use, Call) and use.callee is load
        for load in owner.module.loads.get(name, ())
        if instance_class(load.base) is not None
        for use in load.uses
    )


def _declared_kinds(owner: Class, name: str) -> Iterator[Kind]:
    for cls in mro(owner):
        if name in cls.annotations:
            yield from annotation_kinds(cls.annotations[name], cls.scope)
            return
    stored = attribute_values(owner, name)
    said = [kind for value in stored for kind in kinds(value)]
    yield from said or _promised_kinds(owner, name)
    if not stored and name in frameworks.HF_TRAINER_ATTRIBUTES and is_hf_trainer(base_names(owner)):
        yield Kind(Role(frameworks.HF_TRAINER_ATTRIBUTES[name]), Confidence.CERTAIN, f"transformers.Trainer.{name}")


def _promised_kinds(owner: Class, name: str) -> Iterator[Kind]:
    """What the annotation of a property says that it returns."""
    found = find_property(owner, name)
    if found is not None and isinstance(found.node, cst.FunctionDef) and found.node.returns is not None:
        yield from annotation_kinds(found.node.returns.annotation, (found.owner or owner).scope)


def _element_kinds(value: Item | Part | Element) -> Iterator[Kind]:
    base = value.iterable if isinstance(value, Element) else value.base
    column = zipped(value)
    if column is not None:
        yield from _kinds_inside(column, iterated=True)
        return
    for source in sources(base):
        if isinstance(source, Call):
            yield from _component_kinds(source, value)
    yield from _kinds_inside(base, iterated=isinstance(value, Element), unpacked=isinstance(value, Part))


def _kinds_inside(base: Value, *, iterated: bool, unpacked: bool = False) -> Iterator[Kind]:
    """The kinds of what ``base`` holds, which is iterated over, unpacked, or taken out by an index."""
    for kind in kinds(base):
        match kind.role:
            case Role.OUTPUT | Role.TENSOR:
                yield Kind(kind.role, kind.confidence)
            case Role.LOADER if iterated:
                yield Kind(Role.BATCH, kind.confidence)
            case Role.BATCH:
                yield Kind(Role.BATCH, Confidence.LIKELY)
            case Role.PARAMETERS:
                yield Kind(Role.TENSOR)
            case Role.MODULE if not unpacked:
                held = _held_kinds(base) if kind.name in _MODULE_CONTAINERS else ()
                yield from held or (Kind(Role.MODULE, Confidence.LIKELY),)
            case Role.CONTAINER if not unpacked:
                yield from (kind for element in _all_elements(base) for kind in kinds(element))
                if kind.name == "defaultdict":
                    yield from _made_for_new_keys(base)


def _all_elements(container: Value) -> Iterator[Value]:
    """What is put into ``container``, before it was passed as an argument as well."""
    yield from elements(container)
    for source in sources(container):
        for passed in (passed_arguments(source) or ()) if isinstance(source, Parameter) else ():
            yield from elements(passed)


def _made_for_new_keys(table: Value) -> Iterator[Kind]:
    """The objects that a ``defaultdict(AverageMeter)`` makes for keys that it does not have."""
    for source in sources(table):
        factory = source.argument("default_factory", 0) if isinstance(source, Call) else None
        for kind in kinds(factory) if factory is not None else ():
            if kind.role is Role.CLASS and kind.cls is not None:
                yield instance_kind(kind.cls)


_MODULE_CONTAINERS = frozenset({"torch.nn.ModuleList", "torch.nn.ModuleDict", "torch.nn.Sequential"})


def _held_kinds(container: Value) -> tuple[Kind, ...]:
    """The kinds of what a ``ModuleList`` holds, if libraries define them all; those of the project stay modules."""
    made = [source for source in sources(container) if isinstance(source, Call)]
    given = [value for call in made for argument in call.positional() for value in (elements(argument) or (argument,))]
    found = [kinds(value) for value in (*given, *elements(container))]
    if not found or not all(len(each) == 1 and each[0].role is Role.MODULE and each[0].cls is None for each in found):
        return ()
    return tuple(dict.fromkeys(Kind(Role.MODULE, Confidence.LIKELY, each[0].name) for each in found))


def _component_kinds(call: Call, value: Item | Part | Element) -> Iterator[Kind]:
    """Kinds of a component of what a call returns: ``a, b = accelerator.prepare(a, b)``, ``for x in tqdm(y)``."""
    if isinstance(value, Element):
        yield from _iterated_kinds(call)
        return
    index = value.index if isinstance(value, Part) else _constant_index(value)
    if index is not None:
        yield from kinds_at(call, index)


def _iterated_kinds(call: Call) -> Iterator[Kind]:
    if _wraps_iterable(call):
        for kind in (kind for argument in call.arguments for kind in kinds(argument.value)):
            if kind.role is Role.LOADER:
                yield Kind(Role.BATCH, kind.confidence)


@query(on_cycle=())
def kinds_at(call: Call, index: int) -> tuple[Kind, ...]:
    """Kinds of the component at ``index`` of the tuple that ``call`` returns."""
    return tuple(_kinds_at(call, index))


def _kinds_at(call: Call, index: int) -> Iterator[Kind]:
    names = qualified_names(call.callee)
    if names & frameworks.ENGINE_FACTORIES:
        found = {0: Role.ENGINE, 1: Role.OPTIMIZER, 2: Role.LOADER, 3: Role.SCHEDULER}.get(index)
        if found is not None:
            yield Kind(found, name="deepspeed")
    elif names & frameworks.MODEL_LOADERS:
        if index == 0:
            yield from (Kind(Role.MODULE, name=name) for name in sorted(names))
    elif names & frameworks.AMP_INITIALIZERS or (call.receiver is not None and role(call.receiver, Role.ACCELERATOR)):
        yield from _prepared_kinds_at(call.positional(), index)
    else:
        yield from _returned_kinds_at(call, index)


def _prepared_kinds_at(given: Sequence[Value], index: int) -> Iterator[Kind]:
    """Kinds at ``index`` of what comes back as it was given: several arguments, or one tuple of several."""
    inside = [part_at(source, index) for source in sources(given[0])] if len(given) == 1 else []
    for part in inside:
        if part is not None:
            yield from kinds(part)
    if not any(inside) and index < len(given):
        yield from kinds(given[index])


def _returned_kinds_at(call: Call, index: int) -> Iterator[Kind]:
    for function in callees(call):
        for exit in function.returns:
            for source in sources(exit.value):
                element = part_at(source, index)
                if element is not None:
                    yield from kinds(element)
                elif isinstance(source, Call):
                    # A function that returns what another one returns.
                    yield from kinds_at(source, index)


_ITERATING = frozenset(
    {
        "builtins.enumerate",
        "builtins.zip",
        "builtins.reversed",
        "builtins.iter",
        "builtins.sorted",
        "builtins.list",
        "tqdm.tqdm",
        "tqdm.auto.tqdm",
        "tqdm.notebook.tqdm",
    }
)
"""Functions that yield what the iterables yield that they are given."""


def _wraps_iterable(call: Call) -> bool:
    return bool(qualified_names(call.callee) & _ITERATING) or call.name in {
        "tqdm",
        "trange",
        "track",
        "progress_bar",
        "prefetch",
        "islice",
        "enumerate",
    }


def _constant_index(value: Item) -> int | None:
    index = value.index[0] if len(value.index) == 1 else None
    return index.constant if isinstance(index, Constant) and isinstance(index.constant, int) else None


def _parameter_kinds(parameter: Parameter) -> Iterator[Kind]:
    if parameter.star:
        yield Kind(Role.CONTAINER, name="tuple" if parameter.star == "*" else "dict")
        return
    owner = instance_class(parameter)
    if owner is not None:
        made_from = Kind(Role.CLASS, name=owner.qualified_name, cls=owner)
        yield made_from if parameter.function.is_class_method else instance_kind(owner)
        return
    said = _annotated_kinds(parameter) or _framework_kinds(parameter)
    yield from _shown_by_callers(parameter, said) or said
    if said:
        return
    passed = passed_arguments(parameter)
    for argument in passed or ():
        yield from kinds(argument)
    if passed is None and parameter.name in parameter.function.defaults:
        yield from (k for k in kinds(parameter.function.defaults[parameter.name]) if k.role is not Role.NONE)


def _shown_by_callers(parameter: Parameter, said: tuple[Kind, ...]) -> tuple[Kind, ...]:
    """What callers do with an object before they pass it, if its annotation names a class that nobody sees."""
    if not said or not all(kind.role is Role.OBJECT and kind.cls is None for kind in said):
        return ()
    if not may_be_module(parameter):
        return ()
    passed = [kind for given in passed_arguments(parameter) or () for kind in kinds(given)]
    return tuple(dict.fromkeys(kind for kind in passed if kind.role is Role.MODULE))


def _framework_kinds(parameter: Parameter) -> tuple[Kind, ...]:
    """What the Trainer of transformers passes to the hooks that subclasses override: the model comes first."""
    function = parameter.function
    if function.owner is None or parameter.index != 1 or function.name not in frameworks.HF_MODEL_HOOKS:
        return ()
    return (Kind(Role.MODULE, name="torch.nn.Module"),) if is_hf_trainer(base_names(function.owner)) else ()


def _annotated_kinds(parameter: Parameter) -> tuple[Kind, ...]:
    if parameter.annotation is None:
        return ()
    said = tuple(annotation_kinds(parameter.annotation, parameter.function.parent or parameter.function))
    if any(kind.name == "torch.nn.Module" for kind in said):
        # Losses are modules as well.
        given = (*(passed_arguments(parameter) or ()), *filter(None, [parameter.function.defaults.get(parameter.name)]))
        losses = tuple(kind for value in given for kind in kinds(value) if kind.role is Role.LOSS_FUNCTION)
        if losses or any(use.name == "reduction" for use in parameter.uses if isinstance(use, Attribute)):
            return losses or (Kind(Role.LOSS_FUNCTION, Confidence.LIKELY),)
    return said


_COMPUTED: dict[type[Value], Callable[[Any], Iterator[Kind]]] = {
    External: _external_kinds,
    Comparison: _comparison_kinds,
    Call: result_kinds,
    Binary: _arithmetic_kinds,
    Unary: _arithmetic_kinds,
    Attribute: _attribute_kinds,
    Item: _element_kinds,
    Part: _element_kinds,
    Element: _element_kinds,
    Entered: _entered_kinds,
    Parameter: _parameter_kinds,
}
