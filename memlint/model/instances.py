"""What the classes of the project are: modules with and without parameters, optimizers, datasets, ..."""

from __future__ import annotations

from memlint.findings import Confidence
from memlint.model.aliases import base_names, find_method, mro, qualified_names, sources
from memlint.model.calls import callees, passed_arguments
from memlint.model.constructors import is_dataset_base, is_module_class, is_optimizer_base
from memlint.model.containers import elements
from memlint.model.kinds import Kind, Role, kinds, role
from memlint.model.knowledge import frameworks, torch
from memlint.model.memo import query
from memlint.model.scopes import Class
from memlint.model.values import (
    Attribute,
    Binary,
    Call,
    ClassValue,
    Comparison,
    Comprehension,
    Constant,
    Display,
    Element,
    External,
    Formatted,
    FunctionValue,
    Item,
    Parameter,
    Unary,
    Value,
)


def instance_kind(owner: Class) -> Kind:
    """The kind of an instance of a class of the project."""
    found = _role_of_bases(owner)
    if found is Role.MODULE and not _holds_parameters(owner):
        found = Role.LOSS_FUNCTION
    return Kind(found, Confidence.CERTAIN, owner.qualified_name, owner)


@query(on_cycle=Role.OBJECT)
def _role_of_bases(owner: Class) -> Role:
    """What the bases of a class say of its instances."""
    in_sight = {cls.qualified_name for cls in mro(owner)}
    roles = filter(None, (_base_role(name, known=name in in_sight) for name in sorted(base_names(owner))))
    return next(roles, Role.MODULE if _is_module_of_base_out_of_sight(owner) else Role.OBJECT)


def _is_module_of_base_out_of_sight(owner: Class) -> bool:
    """Whether the class has the ``forward`` of a module, and a base that is not in sight to say that it is one."""
    computes = find_method(owner, "forward")
    return computes is not None and computes.lower().is_method and not all(map(_plain_base, mro(owner)))


def _plain_base(cls: Class) -> bool:
    """Whether the bases of a class are in the project, or of libraries that are known to have no such modules."""
    return all(
        isinstance(source, ClassValue)
        or (isinstance(source, External) and source.qualified_name.startswith(_KNOWN_LIBRARIES))
        for base in cls.bases
        for source in sources(base)
    )


_KNOWN_LIBRARIES = (
    "builtins.",
    "abc.",
    "typing.",
    "collections.",
    "enum.",
    "dataclasses.",
    "torch.",
    *frameworks.METRIC_ROOTS,
    *(f"{library}." for library in sorted(frameworks.OTHER_TENSOR_LIBRARIES)),
)
"""Libraries whose modules are known by name; other bases are taken from the project, or from a library of models."""


def _base_role(name: str, *, known: bool) -> Role | None:
    """What an instance of a subclass of ``name`` is.

    A class that is ``known``, since the project defines it, is not judged by the library that the project is.
    """
    last = name.rpartition(".")[2]
    if name in frameworks.LIGHTNING_MODULES or last == "LightningModule":
        return Role.MODULE
    if name in torch.MODULE_CLASSES or (not known and is_module_class(name)) or name in frameworks.KERAS_MODELS:
        return Role.LOSS_FUNCTION if name.startswith("torch.nn.") and last.endswith("Loss") else Role.MODULE
    if is_optimizer_base(name):
        return Role.OPTIMIZER
    if name in frameworks.ACCELERATORS:
        return Role.ACCELERATOR
    if name.startswith(torch.SCHEDULER_ROOTS):
        return Role.SCHEDULER
    if is_dataset_base(name):
        return Role.DATASET
    return Role.LOADER if name in torch.LOADER_CLASSES else None


@query(on_cycle=True)
def _holds_parameters(owner: Class) -> bool:
    """Whether a module of the project may have parameters to train: False only if all that it holds has none."""
    classes = list(mro(owner))
    computes = find_method(owner, "forward")
    if computes is not None and computes.lower().is_abstract:
        return True  # The subclasses that say what is computed may hold some.
    if not any("__init__" in cls.methods for cls in classes):
        return not all(_plain_module_bases(cls) for cls in classes)
    if not all(_plain_module_bases(cls) for cls in classes):
        return True
    return computes is None or any(map(_adds_parameters, classes))


def _adds_parameters(cls: Class) -> bool:
    return registers_parameters(cls) or _stores_parameters(cls)


def _stores_parameters(cls: Class) -> bool:
    """Whether what a class stores in attributes of its instances may have parameters."""
    stored = [store.value for stores in cls.instance_stores.values() for store in stores]
    # What a constructor is given is a question to all callers; what it makes is in sight.
    made = [value for value in stored if isinstance(value, Call)]
    return any(map(may_hold_parameters, made)) or any(map(may_hold_parameters, stored))


def registers_parameters(cls: Class) -> bool:
    """Whether a method registers parameters or modules by names that are computed."""
    return any(
        call.method in {"register_parameter", "add_module", "register_module", "setattr"}
        or (isinstance(call.callee, External) and call.callee.qualified_name == "builtins.setattr")
        for method in cls.methods.values()
        for call in method.lower().calls
    )


_PARAMETERLESS_BASES = frozenset(
    {
        "torch.nn.Module",
        "torch.nn.modules.Module",
        "torch.nn.modules.loss._Loss",
        "torch.nn.modules.loss._WeightedLoss",
        "builtins.object",
        "abc.ABC",
    }
)
"""Classes outside of the project that give the modules derived from them no parameters."""


def _plain_module_bases(cls: Class) -> bool:
    return all(
        isinstance(source, ClassValue)
        or (isinstance(source, External) and source.qualified_name in _PARAMETERLESS_BASES)
        for base in cls.bases
        for source in sources(base)
    )


@query(on_cycle=False)
def may_hold_parameters(value: Value) -> bool:
    """Whether ``value`` may be a module with parameters: False only if all that it can be has none."""
    return any(_source_may_hold_parameters(source) for source in sources(value))


def is_parameterless(value: Value) -> bool:
    """Whether what ``value`` is known to be has no parameters; what may be given instead is of the same sort."""
    known = [source for source in sources(value) if not isinstance(source, Parameter)]
    return bool(known) and not any(_source_may_hold_parameters(source) for source in known)


def _source_may_hold_parameters(source: Value) -> bool:
    match source:
        case Constant() | Formatted() | Comparison() | FunctionValue():
            return False
        case Call():
            return _result_may_hold_parameters(source)
        case Parameter():
            return _argument_may_hold_parameters(source)
        case Binary() | Unary() | Attribute() | Item():
            return role(source, Role.MODULE) is not None
        case Display():
            return any(may_hold_parameters(element) for element in source.elements)
        case Comprehension():
            return may_hold_parameters(source.element)
    return True


def _result_may_hold_parameters(call: Call) -> bool:
    names = qualified_names(call.callee)
    if names and all(_parameterless(name) for name in names):
        return False
    if names & _SEQUENTIAL and call.arguments and not call.is_open:
        return any(may_hold_parameters(part) for part in call.positional())
    if call.method in {"get", "pop"} and call.receiver is not None and elements(call.receiver):
        return any(may_hold_parameters(element) for element in elements(call.receiver))
    if names & torch.CREATORS_WITH_GRAD:
        required = call.argument("requires_grad", 1)
        return not (isinstance(required, Constant) and required.constant is False)
    if role(call, Role.MODULE):
        return not _makes_plain_holder(call)
    if role(call, Role.LOSS_FUNCTION, Role.NUMBER, Role.TEXT, Role.TENSOR):
        return False
    made_by = callees(call)
    if made_by and all(function.name != "__init__" and function.exits for function in made_by):
        return any(may_hold_parameters(exit.value) for function in made_by for exit in function.exits)
    return bool(names & _PARAMETER_CONTAINERS) or _used_as_module(call)


def _makes_plain_holder(call: Call) -> bool:
    """Whether ``call`` makes a module without ``forward``, and no subclass of it, that stores no parameters."""
    made = [source.target for source in sources(call.callee) if isinstance(source, ClassValue)]
    if len(made) != 1 or find_method(made[0], "forward") is not None:
        return False
    classes = list(mro(made[0]))
    return all(map(_plain_module_bases, classes)) and not any(map(_adds_parameters, classes))


def _argument_may_hold_parameters(parameter: Parameter) -> bool:
    """Whether a constructor may be given something with parameters for ``parameter``, and use it as a module."""
    passed = passed_arguments(parameter)
    if passed is not None and not any(role(argument, Role.MODULE) for argument in passed):
        return False
    if parameter.annotation is not None and role(parameter, Role.NUMBER, Role.TEXT, Role.TENSOR):
        return False
    if parameter.name in parameter.function.defaults and not _module_default(parameter):
        return False
    return _used_as_module(parameter)


def _module_default(parameter: Parameter) -> bool:
    return any(kind.role in {Role.MODULE, Role.NONE} for kind in kinds(parameter.function.defaults[parameter.name]))


def _used_as_module(value: Value) -> bool:
    """Whether what a method stores in an attribute is ever called in the class, itself or a part of it.

    What a call returned may be a parameter as well, which is given to operations of torch.
    """
    owner = value.function.owner
    if owner is None:
        return True
    names = [name for name, stores in owner.instance_stores.items() if any(s.value is value for s in stores)]
    if not names:
        return True
    return any(
        _runs(load, use) or (isinstance(value, Call) and _is_torch_operation(use))
        for name in names
        for load in owner.module.loads.get(name, ())
        for use in load.uses
    )


def _runs(load: Value, use: object) -> bool:
    match use:
        case Call():
            return use.callee is load
        case Item() | Element():
            return any(_runs(use, further) for further in use.uses)
    return False


def _is_torch_operation(use: object) -> bool:
    return isinstance(use, Call) and any(name.startswith("torch.") for name in qualified_names(use.callee))


_PARAMETER_CONTAINERS = frozenset({"torch.nn.ParameterList", "torch.nn.ParameterDict"})
_SEQUENTIAL = frozenset({"torch.nn.Sequential", "torch.nn.modules.container.Sequential"})


def _parameterless(name: str) -> bool:
    last = name.rsplit(".", 1)[-1]
    if name.startswith("torch.nn."):
        return last in torch.STATELESS_MODULES or last.endswith("Loss")
    return (
        name.startswith(("builtins.", "math.", "torch.")) and name not in torch.CREATORS_WITH_GRAD and last != "super"
    )
