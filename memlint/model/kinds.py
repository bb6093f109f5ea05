"""What kind of object a value is: a module, an optimizer, a loader, a tensor, a container...

Decided from where the value comes from (constructors, annotations, imports, the classes of the project) and, where
that is out of sight, from what is done with it. Names of variables are no evidence.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import Enum

import libcst as cst

from memlint.findings import Confidence
from memlint.model.aliases import (
    argument_parameters,
    base_names,
    callees,
    display_element,
    find_method,
    instance_class,
    module_of,
    mro,
    passed_arguments,
    qualified_names,
    sources,
)
from memlint.model.knowledge import frameworks, torch
from memlint.model.memo import query
from memlint.model.scopes import Class, Function
from memlint.model.values import (
    Attribute,
    Awaited,
    Binary,
    Call,
    Choice,
    ClassValue,
    Comparison,
    Comprehension,
    Constant,
    Display,
    Element,
    Entered,
    External,
    Formatted,
    FunctionValue,
    Item,
    Parameter,
    Part,
    Phi,
    Unary,
    Value,
)


class Role(str, Enum):
    """What an object is for."""

    TENSOR = "tensor"
    OUTPUT = "output"
    """What calling a module returns: a tensor or a structure of tensors."""
    BATCH = "batch"
    """What a loader yields."""
    MODULE = "module"
    LOSS_FUNCTION = "loss function"
    """A module without parameters: a loss, an activation."""
    OPTIMIZER = "optimizer"
    SCHEDULER = "scheduler"
    LOADER = "loader"
    DATASET = "dataset"
    SCALER = "gradient scaler"
    ACCELERATOR = "accelerator"
    ENGINE = "engine"
    """A DeepSpeed engine: model and optimizer in one."""
    PREPARED = "prepared"
    """The tuple that a framework returns for what it was given (``accelerator.prepare(...)``)."""
    PARAMETERS = "parameters"
    CONTAINER = "container"
    NUMBER = "number"
    TEXT = "text"
    NONE = "none"
    FUNCTION = "function"
    CLASS = "class"
    OBJECT = "object"
    """An instance of a class that is none of the above."""


@dataclass(frozen=True)
class Kind:
    """A role, how sure it is, and the class by qualified name and, if the project defines it, by definition."""

    role: Role
    confidence: Confidence = Confidence.CERTAIN
    name: str = ""
    cls: Class | None = None


@query(on_cycle=())
def kinds(value: Value) -> tuple[Kind, ...]:
    """The kinds that ``value`` may have, one for each source that says something; empty if nothing is known."""
    found = dict.fromkeys(kind for source in sources(value) for kind in _source_kinds(source))
    if not any(kind.role is not Role.NONE for kind in found):
        found.update(dict.fromkeys(_evidence(value)))
    return tuple(found)


def role(value: Value, *wanted: Role) -> Confidence | None:
    """How sure it is that ``value`` may be one of ``wanted``; None if nothing says so."""
    best: Confidence | None = None
    for kind in kinds(value):
        if kind.role in wanted and (best is None or kind.confidence.rank > best.rank):
            best = kind.confidence
    return best


def is_known_other(value: Value, *wanted: Role) -> bool:
    """Whether ``value`` is known, and known to be none of ``wanted``."""
    known = [kind for kind in kinds(value) if kind.role is not Role.NONE]
    return bool(known) and not any(kind.role in wanted for kind in known)


def class_of(value: Value) -> Class | None:
    """The class of the project that ``value`` is an instance of."""
    owner = instance_class(value)
    if owner is not None:
        return owner
    return next((kind.cls for kind in kinds(value) if kind.cls is not None and kind.role is not Role.CLASS), None)


# ------------------------------------------------------------------- by source


def _source_kinds(value: Value) -> Iterator[Kind]:
    match value:
        case Constant():
            yield _constant_kind(value.constant)
        case Formatted():
            yield Kind(Role.TEXT)
        case Display() | Comprehension():
            yield Kind(Role.CONTAINER, name=value.kind)
        case Comparison():
            yield from _comparison_kinds(value)
        case FunctionValue():
            yield Kind(Role.FUNCTION, name=value.target.qualified_name)
        case ClassValue():
            yield Kind(Role.CLASS, name=value.target.qualified_name, cls=value.target)
        case External():
            yield from _external_kinds(value)
        case Call():
            yield from _call_kinds(value)
        case Binary() | Unary():
            yield from _arithmetic_kinds(value)
        case Attribute():
            yield from _attribute_kinds(value)
        case Item() | Part() | Element():
            yield from _element_kinds(value)
        case Entered():
            yield from kinds(value.context)
        case Parameter():
            yield from _parameter_kinds(value)


def _constant_kind(constant: object) -> Kind:
    if constant is None:
        return Kind(Role.NONE)
    if isinstance(constant, (str, bytes)):
        return Kind(Role.TEXT)
    return Kind(Role.NUMBER)


def _comparison_kinds(value: Comparison) -> Iterator[Kind]:
    tensors = [role(part, Role.TENSOR, Role.OUTPUT) for part in value.values]
    if any(tensors) and not set(value.operators) & {"is", "is not", "in", "not in"}:
        yield Kind(Role.TENSOR, Confidence.LIKELY)
    else:
        yield Kind(Role.NUMBER)


def _external_kinds(value: External) -> Iterator[Kind]:
    name = value.qualified_name
    last = name.rsplit(".", 1)[-1]
    if last[:1].isupper() and not last.isupper():
        yield Kind(Role.CLASS, name=name)


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


def _call_kinds(call: Call) -> Iterator[Kind]:
    yield from _result_kinds(call)


def _result_kinds(call: Call) -> Iterator[Kind]:
    callee = call.callee
    receiver = call.receiver
    if receiver is not None:
        yield from _method_kinds(call, receiver)
        return
    wrapped = _wrapped_argument(call)
    if wrapped is not None:
        yield from (replace(kind) for kind in kinds(wrapped))
        return
    known = False
    for source in sources(callee):
        match source:
            case External():
                for kind in _constructor_kinds(source.qualified_name, call):
                    known = True
                    yield kind
            case ClassValue():
                known = True
                yield instance_kind(source.target)
            case Call() if source.callee is not call.callee:
                yield from _partial_kinds(source, call)
            case Parameter():
                for kind in kinds(source):
                    if kind.role is Role.CLASS and kind.cls is not None:
                        known = True
                        yield instance_kind(kind.cls)
    if known:
        return
    functions = callees(call)
    if functions:
        yield from _returned_kinds(functions)
    if role(callee, Role.MODULE, Role.LOSS_FUNCTION, Role.ENGINE):
        confidence = role(callee, Role.MODULE, Role.LOSS_FUNCTION, Role.ENGINE)
        assert confidence is not None
        yield Kind(Role.OUTPUT, confidence)


def _partial_kinds(partial: Call, call: Call) -> Iterator[Kind]:
    if "functools.partial" in qualified_names(partial.callee) and partial.arguments:
        for source in sources(partial.arguments[0].value):
            if isinstance(source, External):
                yield from _constructor_kinds(source.qualified_name, call)
            elif isinstance(source, ClassValue):
                yield instance_kind(source.target)


def _wrapped_argument(call: Call) -> Value | None:
    if isinstance(call.callee, External) and call.callee.qualified_name in torch.MODULE_WRAPPERS and call.arguments:
        argument = call.argument("module", 0) or call.argument("model", 0)
        if argument is not None and any(kind.role is not Role.CLASS for kind in kinds(argument)):
            return argument
    return None


def _returned_kinds(functions: Iterable[Function]) -> Iterator[Kind]:
    for function in functions:
        if function.is_generator:
            yield Kind(Role.CONTAINER, name="generator")
            continue
        for exit in function.returns:
            yield from kinds(exit.value)


def _constructor_kinds(name: str, call: Call) -> Iterator[Kind]:
    """What calling the external function or class ``name`` returns."""
    owner, _, last = name.rpartition(".")
    if last in _LOADING_METHODS and owner.rpartition(".")[2][:1].isupper():
        yield from _class_method(Kind(Role.CLASS, name=owner), last)
    elif name in frameworks.ENGINE_FACTORIES or name in frameworks.AMP_INITIALIZERS:
        yield Kind(Role.PREPARED, name=name)
    elif name in frameworks.ACCELERATORS or name in frameworks.FABRICS:
        yield Kind(Role.ACCELERATOR, name=name)
    elif name in torch.SCALER_CLASSES:
        yield Kind(Role.SCALER, name=name)
    elif name in torch.LOADER_CLASSES or (last.endswith("DataLoader") and last[:1].isupper()):
        yield Kind(Role.LOADER, name=name)
    elif name.startswith(torch.SCHEDULER_ROOTS):
        yield Kind(Role.SCHEDULER, name=name)
    elif name in torch.OPTIMIZER_CLASSES or (name.startswith(torch.OPTIMIZER_ROOTS) and last[:1].isupper()):
        yield Kind(Role.OPTIMIZER, name=name)
    elif name in torch.MODULE_CLASSES or name in torch.MODULE_FACTORIES or _is_module_class(name):
        yield _module_kind(name)
    elif name in torch.DATASET_CLASSES:
        yield Kind(Role.DATASET, name=name)
    elif name.startswith("builtins."):
        yield from _builtin_kinds(last, call)
    elif name.startswith(torch.FUNCTION_MODULES) and not last[:1].isupper() and last not in _TORCH_NOT_TENSOR:
        yield Kind(Role.TENSOR, Confidence.CERTAIN if name.count(".") <= 3 else Confidence.LIKELY, name=name)
    elif name in {"collections.defaultdict", "collections.deque", "collections.OrderedDict", "collections.Counter"}:
        yield Kind(Role.CONTAINER, name=last)
    elif last[:1].isupper() and not last.isupper():
        yield Kind(Role.OBJECT, name=name)


_TORCH_NOT_TENSOR = frozenset(
    """
    device manual_seed is_available device_count current_device synchronize empty_cache save load no_grad enable_grad
    set_grad_enabled inference_mode is_tensor is_grad_enabled compile get_device_name memory_allocated
    max_memory_allocated init_process_group get_rank get_world_size is_initialized barrier set_device autocast
    get_rng_state set_rng_state random_split profile schedule record_function checkpoint_sequential seed
    reset_peak_memory_stats memory_summary memory_reserved ipc_collect stream current_stream script trace
    """.split()
)


def _module_kind(name: str) -> Kind:
    last = name.rsplit(".", 1)[-1]
    if name.startswith("torch.nn.") and (last.endswith("Loss") or last in torch.STATELESS_MODULES):
        return Kind(Role.LOSS_FUNCTION, name=name)
    return Kind(Role.MODULE, name=name)


def _is_module_class(name: str) -> bool:
    last = name.rsplit(".", 1)[-1]
    if name in torch.NOT_MODULES:
        return False
    if name.startswith("torchvision.models."):
        return not last.endswith(("Weights", "_weights"))
    if name.startswith(torch.MODULE_ROOTS):
        return last[:1].isupper() and "utils" not in name and not last.endswith("Data")
    return is_pretrained_class(name)


def is_pretrained_class(name: str) -> bool:
    """Whether ``name`` is a model class of a library of pretrained models."""
    last = name.rsplit(".", 1)[-1]
    if not name.startswith(frameworks.PRETRAINED_ROOTS) or not last[:1].isupper():
        return False
    return (
        not last.endswith(frameworks.PRETRAINED_NOT_MODULES)
        and "Collator" not in last
        and (
            "Model" in last
            or "For" in last
            or last.endswith(("Net", "Transformer", "2D", "3D", "KL", "Encoder", "Decoder"))
        )
    )


def _builtin_kinds(name: str, call: Call) -> Iterator[Kind]:
    if name in {"list", "dict", "set", "tuple", "zip", "enumerate", "sorted", "reversed", "map", "filter", "frozenset"}:
        yield Kind(Role.CONTAINER, name=name)
    elif name in {"int", "float", "len", "bool", "round", "id", "hash", "ord"}:
        yield Kind(Role.NUMBER)
    elif name in {"str", "repr", "format", "chr", "bytes"}:
        yield Kind(Role.TEXT)
    elif name in {"sum", "max", "min", "abs", "next"} and call.arguments:
        yield from (kind for kind in kinds(call.arguments[0].value) if kind.role in {Role.TENSOR, Role.OUTPUT})
    elif name == "getattr" and call.argument("", 2) is not None:
        yield from kinds(call.arguments[2].value)


def instance_kind(owner: Class) -> Kind:
    """The kind of an instance of a class of the project."""
    names = base_names(owner)
    roles: list[tuple[Role, Confidence]] = []
    for name in sorted(names):
        last = name.rsplit(".", 1)[-1]
        if name in frameworks.LIGHTNING_MODULES or last == "LightningModule":
            roles.append((Role.MODULE, Confidence.CERTAIN))
        elif name in torch.MODULE_CLASSES or _is_module_class(name) or name in frameworks.KERAS_MODELS:
            loss = name.startswith("torch.nn.") and last.endswith("Loss")
            roles.append((Role.LOSS_FUNCTION if loss else Role.MODULE, Confidence.CERTAIN))
        elif name.startswith(torch.OPTIMIZER_ROOTS) and not name.startswith(torch.SCHEDULER_ROOTS):
            roles.append((Role.OPTIMIZER, Confidence.CERTAIN))
        elif name.startswith(torch.SCHEDULER_ROOTS):
            roles.append((Role.SCHEDULER, Confidence.CERTAIN))
        elif name in torch.DATASET_CLASSES or last in {"Dataset", "IterableDataset"}:
            roles.append((Role.DATASET, Confidence.CERTAIN))
        elif name in torch.LOADER_CLASSES:
            roles.append((Role.LOADER, Confidence.CERTAIN))
    if roles:
        found, confidence = roles[0]
        if found is Role.MODULE and not _holds_parameters(owner):
            found = Role.LOSS_FUNCTION
        return Kind(found, confidence, owner.qualified_name, owner)
    return Kind(Role.OBJECT, Confidence.CERTAIN, owner.qualified_name, owner)


@query(on_cycle=True)
def _holds_parameters(owner: Class) -> bool:
    """Whether a module of the project may have parameters of its own: False only if all that it holds has none."""
    classes = list(mro(owner))
    if not any("__init__" in cls.methods for cls in classes):
        return not all(_plain_module_bases(cls) for cls in classes)
    if not all(_plain_module_bases(cls) for cls in classes):
        return True
    computes = find_method(owner, "forward")
    if computes is not None and computes.lower().is_abstract:
        return True
    for cls in classes:
        for stores in cls.instance_stores.values():
            if any(_may_hold_parameters(store.value) for store in stores):
                return True
        for method in cls.methods.values():
            for call in method.lower().calls:
                if call.method in {"register_parameter", "add_module", "register_module", "setattr"}:
                    return True
                if isinstance(call.callee, External) and call.callee.qualified_name == "builtins.setattr":
                    return True
    return False


def _plain_module_bases(cls: Class) -> bool:
    for base in cls.bases:
        for source in sources(base):
            if isinstance(source, External) and source.qualified_name not in {
                "torch.nn.Module",
                "torch.nn.modules.Module",
                "torch.nn.modules.loss._Loss",
                "torch.nn.modules.loss._WeightedLoss",
                "builtins.object",
                "abc.ABC",
            }:
                return False
            if not isinstance(source, (External, ClassValue)):
                return False
    return True


def _may_hold_parameters(value: Value) -> bool:
    for source in sources(value):
        match source:
            case Constant() | Formatted() | Comparison() | FunctionValue():
                continue
            case Call():
                names = qualified_names(source.callee)
                if names and all(_parameterless(name) for name in names):
                    continue
                if any(
                    kind.role in {Role.LOSS_FUNCTION, Role.NUMBER, Role.TEXT, Role.TENSOR} for kind in kinds(source)
                ) and not (names & torch.CREATORS_WITH_GRAD):
                    continue
                return True
            case Parameter():
                passed = passed_arguments(source)
                if passed is not None and not any(role(argument, Role.MODULE) for argument in passed):
                    continue
                if source.annotation is not None and role(source, Role.NUMBER, Role.TEXT, Role.TENSOR):
                    continue
                if source.name in source.function.defaults and not _module_default(source):
                    continue
                if not _used_as_module(source):
                    continue
                return True
            case Binary() | Unary() | Attribute() | Item():
                if role(source, Role.MODULE):
                    return True
            case Display():
                if any(_may_hold_parameters(element) for element in source.elements):
                    return True
            case Comprehension():
                if _may_hold_parameters(source.element):
                    return True
            case _:
                return True
    return False


def _module_default(parameter: Parameter) -> bool:
    return any(kind.role in {Role.MODULE, Role.NONE} for kind in kinds(parameter.function.defaults[parameter.name]))


def _used_as_module(parameter: Parameter) -> bool:
    """Whether what a constructor stores from a parameter is ever called in the class."""
    owner = parameter.function.owner
    if owner is None:
        return True
    names = [name for name, stores in owner.instance_stores.items() if any(s.value is parameter for s in stores)]
    return any(
        isinstance(use, Call) and use.callee is load
        for name in names
        for load in owner.module.loads.get(name, ())
        for use in load.uses
    )


def _parameterless(name: str) -> bool:
    last = name.rsplit(".", 1)[-1]
    if name.startswith("torch.nn."):
        return last in torch.STATELESS_MODULES or last.endswith("Loss")
    return (
        name.startswith(("builtins.", "math.", "torch.")) and name not in torch.CREATORS_WITH_GRAD and last != "super"
    )


# ------------------------------------------------------------------ by receiver


def _method_kinds(call: Call, receiver: Value) -> Iterator[Kind]:
    method = call.method or ""
    functions = callees(call)
    owner_kinds = kinds(receiver)
    for kind in owner_kinds:
        yield from _known_method(call, receiver, kind, method)
    if functions:
        yield from _returned_kinds(functions)
    elif not owner_kinds:
        yield from _unknown_method(call, receiver, method)
    # A call of a module held in a container or attribute: ``self.layers[0](x)`` has no receiver and comes elsewhere;
    # ``self.net(x)`` does, and is a call of what ``self.net`` holds.
    if not functions:
        confidence = role(call.callee, Role.MODULE, Role.LOSS_FUNCTION, Role.ENGINE)
        if confidence is not None:
            yield Kind(Role.OUTPUT, confidence)
        for source in sources(call.callee):
            if isinstance(source, ClassValue):
                yield instance_kind(source.target)
            elif isinstance(source, External):
                yield from _constructor_kinds(source.qualified_name, call)


def _known_method(call: Call, receiver: Value, kind: Kind, method: str) -> Iterator[Kind]:
    match kind.role:
        case Role.MODULE | Role.LOSS_FUNCTION | Role.ENGINE:
            if method in torch.SELF_RETURNING:
                yield kind
            elif method in {"parameters", "named_parameters", "buffers"}:
                yield Kind(Role.PARAMETERS)
            elif method in {"modules", "children", "named_modules", "named_children", "state_dict"}:
                yield Kind(Role.CONTAINER, name=method)
            elif method == "generate" or (method == "forward" and not callees(call)):
                yield Kind(Role.OUTPUT, Confidence.LIKELY)
        case Role.TENSOR | Role.OUTPUT | Role.BATCH:
            if method in {"item"}:
                yield Kind(Role.NUMBER)
            elif method in {"tolist", "size", "split", "chunk", "unbind"}:
                yield Kind(Role.CONTAINER, name=method)
            elif method in {"dim", "numel", "nelement", "element_size", "data_ptr"}:
                yield Kind(Role.NUMBER)
            elif method == "numpy":
                yield Kind(Role.OBJECT, name="numpy.ndarray")
            elif method in {"keys", "items", "values"}:
                yield Kind(Role.CONTAINER, name=method)
            elif method in {"get", "pop"}:
                yield Kind(Role.OUTPUT if kind.role is Role.OUTPUT else Role.BATCH, Confidence.LIKELY)
            elif kind.role is Role.BATCH and method in {"to", "cuda"}:
                yield kind
            else:
                yield Kind(
                    Role.TENSOR,
                    Confidence.weakest(
                        kind.confidence, Confidence.LIKELY if kind.role is Role.OUTPUT else Confidence.CERTAIN
                    ),
                )
        case Role.ACCELERATOR:
            if method in {
                "prepare",
                "setup",
                "setup_dataloaders",
                "setup_module",
                "setup_optimizers",
                "prepare_model",
                "prepare_optimizer",
                "prepare_data_loader",
            }:
                if len(call.arguments) == 1 and not call.is_open:
                    yield from kinds(call.arguments[0].value)
                else:
                    yield Kind(Role.PREPARED, name=method)
            elif method == "unwrap_model" and call.arguments:
                yield from kinds(call.arguments[0].value)
            elif (
                method in {"gather", "gather_for_metrics", "reduce", "pad_across_processes", "all_gather", "all_reduce"}
                and call.arguments
            ):
                yield from kinds(call.arguments[0].value)
        case Role.SCALER:
            if method == "scale":
                yield Kind(Role.TENSOR)
        case Role.CLASS:
            yield from _class_method(kind, method)
        case Role.LOSS_FUNCTION if method == "forward":
            yield Kind(Role.OUTPUT)
        case Role.TEXT:
            yield Kind(Role.TEXT)
        case Role.CONTAINER:
            yield from _container_method(call, receiver, method)


_LOADING_METHODS = frozenset(
    {"from_pretrained", "from_config", "load_from_checkpoint", "from_name", "_from_config", "load"}
)
"""Class methods that return an instance."""


def _class_method(kind: Kind, method: str) -> Iterator[Kind]:
    if method in _LOADING_METHODS:
        if kind.cls is not None:
            yield instance_kind(kind.cls)
        elif _is_module_class(kind.name) or kind.name in torch.MODULE_CLASSES:
            yield _module_kind(kind.name)
        else:
            yield Kind(Role.OBJECT, name=kind.name)


def _container_method(call: Call, receiver: Value, method: str) -> Iterator[Kind]:
    if method in {"copy", "keys", "items", "values"}:
        yield Kind(Role.CONTAINER, name=method)
    elif method in {"pop", "popleft", "get", "setdefault"}:
        for element in container_elements(receiver):
            yield from kinds(element)


def _unknown_method(call: Call, receiver: Value, method: str) -> Iterator[Kind]:
    """Methods whose name alone says what they return, whoever owns them."""
    if method in {"item", "numel"}:
        yield Kind(Role.NUMBER, Confidence.LIKELY)
    elif method in {"detach", "unsqueeze", "squeeze", "requires_grad_", "log_softmax", "masked_fill"}:
        yield Kind(Role.TENSOR, Confidence.LIKELY)
    elif method == "parameters":
        yield Kind(Role.PARAMETERS, Confidence.LIKELY)


def container_elements(value: Value) -> tuple[Value, ...]:
    """Values that are known to be put into the container ``value``: literally, by ``append`` and its kin, by item."""
    from memlint.model.containers import elements  # noqa: PLC0415

    return elements(value)


# ------------------------------------------------------------ parts of something


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
    owner = instance_class(base) or class_of(base)
    if owner is not None:
        yield from _declared_kinds(owner, value.name)


def _declared_kinds(owner: Class, name: str) -> Iterator[Kind]:
    from memlint.model.aliases import attribute_values  # noqa: PLC0415

    for cls in mro(owner):
        if name in cls.annotations:
            yield from annotation_kinds(cls.annotations[name], cls.scope)
            return
    for stored in attribute_values(owner, name):
        yield from kinds(stored)


def _element_kinds(value: Item | Part | Element) -> Iterator[Kind]:
    base = value.iterable if isinstance(value, Element) else value.base
    for source in sources(base):
        if isinstance(source, Call):
            yield from _component_kinds(source, value)
    for kind in kinds(base):
        match kind.role:
            case Role.OUTPUT:
                yield Kind(Role.OUTPUT, kind.confidence)
            case Role.TENSOR:
                yield Kind(Role.TENSOR, kind.confidence)
            case Role.LOADER if isinstance(value, Element):
                yield Kind(Role.BATCH, kind.confidence)
            case Role.BATCH:
                yield Kind(Role.BATCH, Confidence.LIKELY)
            case Role.PARAMETERS:
                yield Kind(Role.TENSOR)
            case Role.MODULE if not isinstance(value, Part):
                yield Kind(Role.MODULE, Confidence.LIKELY)
            case Role.CONTAINER if not isinstance(value, Part):
                for element in container_elements(base):
                    yield from kinds(element)


def _component_kinds(call: Call, value: Item | Part | Element) -> Iterator[Kind]:
    """Kinds of a component of what a call returns: ``a, b = accelerator.prepare(a, b)``, ``for i, x in enumerate(y)``."""
    names = qualified_names(call.callee)
    if isinstance(value, Element):
        if names & {
            "builtins.enumerate",
            "builtins.zip",
            "builtins.reversed",
            "builtins.iter",
            "tqdm.tqdm",
            "tqdm.auto.tqdm",
            "tqdm.notebook.tqdm",
            "builtins.sorted",
            "builtins.list",
        } or _wraps_iterable(call):
            for kind in (kind for argument in call.arguments for kind in kinds(argument.value)):
                if kind.role is Role.LOADER:
                    yield Kind(Role.BATCH, kind.confidence)
        return
    index = value.index if isinstance(value, Part) else _constant_index(value)
    if index is None:
        return
    if names & frameworks.ENGINE_FACTORIES:
        role_at = {0: Role.ENGINE, 1: Role.OPTIMIZER, 2: Role.LOADER, 3: Role.SCHEDULER}.get(index)
        if role_at is not None:
            yield Kind(role_at, name="deepspeed")
        return
    arguments = call.positional()
    if names & frameworks.AMP_INITIALIZERS or (call.receiver is not None and role(call.receiver, Role.ACCELERATOR)):
        if index < len(arguments):
            yield from kinds(arguments[index])
        return
    for function in callees(call):
        for exit in function.returns:
            for source in sources(exit.value):
                element = display_element(source, index)
                if element is not None:
                    yield from kinds(element)


def _wraps_iterable(call: Call) -> bool:
    return call.name in {"tqdm", "trange", "track", "progress_bar", "prefetch", "islice", "enumerate"}


def _constant_index(value: Item) -> int | None:
    index = value.index[0] if len(value.index) == 1 else None
    return index.constant if isinstance(index, Constant) and isinstance(index.constant, int) else None


# ----------------------------------------------------------------- annotations


def _parameter_kinds(parameter: Parameter) -> Iterator[Kind]:
    if parameter.star:
        yield Kind(Role.CONTAINER, name="tuple" if parameter.star == "*" else "dict")
        return
    owner = instance_class(parameter)
    if owner is not None:
        made_from = Kind(Role.CLASS, name=owner.qualified_name, cls=owner)
        yield made_from if parameter.function.is_class_method else instance_kind(owner)
        return
    said = _annotated_kinds(parameter)
    yield from said
    if said:
        return
    passed = passed_arguments(parameter)
    for argument in passed or ():
        yield from kinds(argument)
    if passed is None and parameter.name in parameter.function.defaults:
        yield from (k for k in kinds(parameter.function.defaults[parameter.name]) if k.role is not Role.NONE)


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


def annotation_kinds(node: cst.BaseExpression, scope: Function) -> Iterator[Kind]:
    """What an annotation says of the annotated object; ``Optional`` and unions are looked through."""
    if isinstance(node, cst.BinaryOperation):
        yield from annotation_kinds(node.left, scope)
        yield from annotation_kinds(node.right, scope)
        return
    if isinstance(node, cst.Subscript):
        yield from _generic_kinds(node, scope)
        return
    if isinstance(node, (cst.SimpleString,)):
        try:
            node = cst.parse_expression(str(node.evaluated_value))
        except cst.ParserSyntaxError:
            return
        yield from annotation_kinds(node, scope)
        return
    named = _named(node, scope)
    if isinstance(named, ClassValue):
        yield instance_kind(named.target)
    elif isinstance(named, str):
        yield from _annotated_class(named)


def _generic_kinds(node: cst.Subscript, scope: Function) -> Iterator[Kind]:
    outer = _named(node.value, scope)
    inner = [element.slice.value for element in node.slice if isinstance(element.slice, cst.Index)]
    last = outer.rsplit(".", 1)[-1] if isinstance(outer, str) else ""
    if last in {"Optional", "Union", "Annotated"}:
        for part in inner:
            yield from annotation_kinds(part, scope)
    elif last in {"List", "list", "Dict", "dict", "Tuple", "tuple", "Sequence", "Iterable", "Set", "set", "Mapping"}:
        yield Kind(Role.CONTAINER, name=last.lower())
    elif isinstance(outer, ClassValue):
        yield instance_kind(outer.target)
    elif isinstance(outer, str):
        yield from _annotated_class(outer)


def _annotated_class(name: str) -> Iterator[Kind]:
    last = name.rsplit(".", 1)[-1]
    if name in {"torch.Tensor", "torch.FloatTensor", "torch.LongTensor"} or last in {
        "Tensor",
        "FloatTensor",
        "LongTensor",
    }:
        yield Kind(Role.TENSOR, name=name)
    elif name in {"builtins.int", "builtins.float", "builtins.bool"}:
        yield Kind(Role.NUMBER)
    elif name == "builtins.str":
        yield Kind(Role.TEXT)
    elif name in {"builtins.list", "builtins.dict", "builtins.tuple", "builtins.set"}:
        yield Kind(Role.CONTAINER, name=last)
    elif name in {"torch.optim.Optimizer", "torch.optim.optimizer.Optimizer"}:
        yield Kind(Role.OPTIMIZER, name=name)
    elif name in torch.MODULE_CLASSES or _is_module_class(name) or last in {"PreTrainedModel", "LightningModule"}:
        yield _module_kind(name)
    elif name in torch.LOADER_CLASSES or last.endswith("DataLoader"):
        yield Kind(Role.LOADER, name=name)
    elif name in torch.SCALER_CLASSES:
        yield Kind(Role.SCALER, name=name)
    elif name in frameworks.ACCELERATORS | frameworks.FABRICS:
        yield Kind(Role.ACCELERATOR, name=name)
    elif name.startswith(torch.OPTIMIZER_ROOTS) and not name.startswith(torch.SCHEDULER_ROOTS):
        yield Kind(Role.OPTIMIZER, name=name)
    elif name.startswith(torch.SCHEDULER_ROOTS):
        yield Kind(Role.SCHEDULER, name=name)
    elif last in {"Dataset", "IterableDataset"}:
        yield Kind(Role.DATASET, name=name)
    elif last[:1].isupper() and last not in {"Any", "Callable", "None"}:
        yield Kind(Role.OBJECT, Confidence.LIKELY, name=name)


def _named(node: cst.BaseExpression, scope: Function) -> ClassValue | str | None:
    """What a dotted name in an annotation stands for, by the bindings of the enclosing scopes."""
    parts: list[str] = []
    while isinstance(node, cst.Attribute):
        parts.append(node.attr.value)
        node = node.value
    if not isinstance(node, cst.Name):
        return None
    bound: list[Value] = []
    current: Function | None = scope
    while current is not None and not bound:
        bound = current.bindings.get(node.value, [])
        current = current.parent
    rest = list(reversed(parts))
    if not bound:
        return ".".join(["builtins", node.value, *rest])
    value = bound[-1]
    if isinstance(value, ClassValue) and not rest:
        return value
    if isinstance(value, External):
        name = ".".join([value.qualified_name, *rest])
        found = module_of(value).project.resolve(module_of(value), name)
        return found if isinstance(found, ClassValue) else name
    return None


# -------------------------------------------------------------------- evidence


def aliases_forward(value: Value) -> Iterator[Value]:
    """``value`` and the names that it is known by later on in the same function."""
    seen: set[int] = set()
    pending = [value]
    while pending:
        current = pending.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        pending.extend(use for use in current.uses if isinstance(use, (Phi, Choice, Awaited)))


def _evidence(value: Value) -> Iterator[Kind]:
    """What the uses of a value say about it when its origin says nothing."""
    methods: set[str] = set()
    called = False
    iterated = False
    attributes: set[str] = set()
    for alias in _same_object(value):
        for use in alias.uses:
            if isinstance(use, Attribute):
                attributes.add(use.name)
                if any(isinstance(user, Call) and user.callee is use for user in use.uses):
                    methods.add(use.name)
            elif isinstance(use, Call) and use.callee is alias:
                called = True
            elif isinstance(use, Element):
                iterated = True
    yield from _judge(methods, attributes, called, iterated)


def _same_object(value: Value) -> Iterator[Value]:
    names = list(aliases_forward(value))
    for source in sources(value):
        if source is not value and isinstance(source, Parameter) and source is not source.function.instance:
            names.extend(aliases_forward(source))
            for passed in passed_arguments(source) or ():
                names.extend(aliases_forward(passed))
    yield from names
    for name in names:
        yield from _parameters_for(name)
    # An attribute of self is one object in all methods of its class.
    if isinstance(value, Attribute):
        owner = instance_class(value.base)
        if owner is not None:
            for load in owner.module.loads.get(value.name, ()):
                if load is not value and instance_class(load.base) is owner:
                    yield load
                    yield from (use for use in load.uses if isinstance(use, Phi))


def _parameters_for(value: Value) -> Iterator[Value]:
    """The names that ``value`` has in the project's functions that it is passed to."""
    for use in value.uses:
        if isinstance(use, Call) and use.callee is not value:
            for argument in use.arguments:
                if argument.value is value:
                    for parameter in argument_parameters(use, argument):
                        yield from aliases_forward(parameter)


def _judge(methods: set[str], attributes: set[str], called: bool, iterated: bool) -> Iterator[Kind]:
    if methods & torch.STRONG_MODULE_EVIDENCE or (called and methods & {"load_state_dict", "zero_grad", "state_dict"}):
        yield Kind(Role.MODULE, Confidence.CERTAIN)
    elif "backward" in methods:
        yield Kind(Role.TENSOR, Confidence.CERTAIN)
    elif "step" in methods and (methods | attributes) & torch.OPTIMIZER_EVIDENCE:
        yield Kind(Role.OPTIMIZER, Confidence.CERTAIN)
    elif {"scale", "step", "update"} <= methods or {"scale", "unscale_"} <= methods:
        yield Kind(Role.SCALER, Confidence.CERTAIN)
    elif methods & {"eval", "train"} and (called or methods & {"to", "cuda", "forward", "state_dict"}):
        yield Kind(Role.MODULE, Confidence.CERTAIN)
    elif methods & {"eval", "gradient_checkpointing_enable", "save_pretrained"}:
        yield Kind(Role.MODULE, Confidence.LIKELY)
    elif called and "reduction" in attributes:
        yield Kind(Role.LOSS_FUNCTION, Confidence.LIKELY)
    elif called and attributes & {"eval", "training"}:
        yield Kind(Role.MODULE, Confidence.LIKELY)
    elif "zero_grad" in methods:
        yield Kind(Role.OPTIMIZER, Confidence.LIKELY)
    elif "step" in methods and methods & {"get_last_lr", "get_lr"}:
        yield Kind(Role.SCHEDULER, Confidence.LIKELY)
    elif methods & {"detach", "item", "argmax", "unsqueeze", "requires_grad_"} and not called:
        yield Kind(Role.TENSOR, Confidence.LIKELY)
    elif iterated and attributes & {"dataset", "batch_size", "sampler", "batch_sampler"}:
        yield Kind(Role.LOADER, Confidence.LIKELY)
