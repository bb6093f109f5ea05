"""Which functions of the project a call runs, what it passes to them, and where a function is called."""

from __future__ import annotations

from collections.abc import Iterator

from memlint.model.aliases import aliases, find_method, instance_class, mro, partial_names, sources
from memlint.model.kinds import Role, class_of, classes_of, kinds, role
from memlint.model.knowledge import frameworks
from memlint.model.memo import query
from memlint.model.overrides import overriding
from memlint.model.scopes import Class, Function, Module
from memlint.model.values import Argument, Attribute, Call, ClassValue, External, FunctionValue, Parameter, Value


@query(on_cycle=())
def callees(call: Call) -> tuple[Function, ...]:
    """The functions of the project that ``call`` may run; for a class its ``__init__`` is not meant.

    A method that is abstract, or does nothing, stands for those of subclasses.
    """
    return tuple(function for function in dict.fromkeys(_callees(call)) if not function.is_abstract)


def _callees(call: Call) -> Iterator[Function]:
    yield from _closures(call)
    for source in sources(call.callee):
        match source:
            case FunctionValue():
                yield from _with_overrides(source.target)
            case Call() if partial_names(source):
                given = sources(source.arguments[0].value)
                yield from (inner.target.lower() for inner in given if isinstance(inner, FunctionValue))
            case Attribute():
                for owner in tuple(classes_of(source.base)) or (None,):
                    yield from _method_callees(source, owner)
            case ClassValue():
                pass
            case Parameter(index=0) if source.function.is_class_method:
                pass
            case _:
                yield from _calling_methods(source)


def runs_forward(call: Call) -> bool:
    """Whether ``call`` is of a method that computes what a module is for: its ``forward``, or a library's own."""
    if call.method == "forward":
        return True
    if call.receiver is None or call.method is None or callees(call):
        return False
    if _is_part_of_forward(call, call.method):
        return True
    libraries = tuple(kind.name for kind in kinds(call.receiver) if kind.role is Role.MODULE)
    return call.method in frameworks.FORWARD_METHODS or any(
        name.startswith(root) and call.method in methods
        for name in libraries
        for root, methods in frameworks.FORWARD_METHODS_OF.items()
    )


def _is_part_of_forward(call: Call, method: str) -> bool:
    """Whether ``method`` computes a part of the forward pass or a step of it: ``y = model.incremental_forward(x)``.

    Methods that change how a forward pass runs return nothing; those that tell about it are given nothing.
    """
    words = method.strip("_").split("_")
    return "forward" in {words[0], words[-1]} and bool(call.arguments) and bool(call.uses)


def _closures(call: Call) -> Iterator[Function]:
    """The function that ``optimizer.step(closure)`` runs, and whose result it returns."""
    if call.method != "step" or call.receiver is None or not role(call.receiver, Role.OPTIMIZER):
        return
    closure = call.argument("closure", 0)
    for source in sources(closure) if closure is not None else ():
        if isinstance(source, FunctionValue):
            yield source.target.lower()


def _calling_methods(instance: Value) -> Iterator[Function]:
    """What calling an object of the project runs."""
    owner = class_of(instance)
    method = find_method(owner, "__call__") or find_method(owner, "forward") if owner is not None else None
    if method is not None:
        yield method.lower()


def _method_callees(callee: Attribute, owner: Class | None) -> Iterator[Function]:
    if owner is None:
        owner = _super_class(callee.base) or _named_class(callee.base)
    if owner is None:
        return
    method = find_method(owner, callee.name)
    if method is not None:
        yield from _with_overrides(method)


def _with_overrides(function: Function) -> Iterator[Function]:
    """``function``, and if it leaves to subclasses what is done, those of them."""
    yield function.lower()
    if function.owner is not None and (function.is_abstract or function.is_blank):
        yield from (each.lower() for each in overriding(function.owner, function.name))


def _named_class(base: Value) -> Class | None:
    """The class of the project that ``Class.method(...)`` names."""
    found = [source.target for source in sources(base) if isinstance(source, ClassValue)]
    return found[0] if len(found) == 1 else None


def _super_class(base: Value) -> Class | None:
    """The nearest base of the project for ``super()``."""
    if isinstance(base, Call) and isinstance(base.callee, External) and base.callee.qualified_name == "builtins.super":
        owner = base.function.owner
        if owner is not None:
            following = list(mro(owner))[1:]
            return following[0] if following else None
    return None


def bound_arguments(call: Call, function: Function) -> dict[str, Value]:
    """Parameters of ``function`` by name, with the values that ``call`` passes for them."""
    bound: dict[str, Value] = {}
    parameters = [p for p in function.parameters if not p.star and not p.keyword_only]
    offset = 1 if function.is_method and (function.is_class_method or not _called_on_class(call, function)) else 0
    if offset and call.receiver is not None and (function.name != "__init__" or call.name == "__init__"):
        bound[parameters[0].name] = call.receiver
    place = offset
    names = {parameter.name for parameter in function.parameters if not parameter.star}
    for argument in call.arguments:
        if argument.star:
            if argument.star == "*":
                place = len(parameters)
        elif argument.keyword is not None:
            if argument.keyword in names:
                bound[argument.keyword] = argument.value
        elif place < len(parameters):
            bound[parameters[place].name] = argument.value
            place += 1
    return bound


def _called_on_class(call: Call, function: Function) -> bool:
    receiver, owner = call.receiver, function.owner
    if receiver is None or owner is None:
        return False
    return any(isinstance(source, ClassValue) and owner in mro(source.target) for source in sources(receiver))


def argument_parameters(call: Call, argument: Argument) -> tuple[Parameter, ...]:
    """The parameters of the project's functions that ``argument`` is passed for."""
    found: list[Parameter] = []
    for function in callees(call):
        bound = bound_arguments(call, function)
        found.extend(
            parameter
            for parameter in function.parameters
            if bound.get(parameter.name) is argument.value
            and (argument.keyword is None or argument.keyword == parameter.name)
        )
    return tuple(found)


def gathering_parameters(call: Call, argument: Argument) -> Iterator[tuple[Parameter, object]]:
    """The ``*args`` and ``**kwargs`` that ``argument`` becomes a part of, and the index or key that it has there.

    None for what is unpacked into them.
    """
    for function in callees(call):
        starred = {parameter.star: parameter for parameter in function.parameters if parameter.star}
        if argument.star:
            yield from ((starred[star], None) for star in starred if star == argument.star)
        elif argument.keyword is not None:
            named = argument.keyword in {p.name for p in function.parameters if not p.star}
            yield from ((starred[star], argument.keyword) for star in starred if star == "**" and not named)
        elif "*" in starred:
            place = [each for each in call.arguments if each.keyword is None].index(argument)
            plain = sum(not p.star and not p.keyword_only for p in function.parameters) - function.is_method
            if place >= plain:
                yield starred["*"], place - plain


@query(on_cycle=())
def gathered_arguments(parameter: Parameter) -> tuple[Value, ...]:
    """What the project's calls pass that a ``*args`` or ``**kwargs`` gathers."""
    return tuple(
        argument.value
        for call in beside_tests(proven_call_sites(parameter.function))
        for argument in call.arguments
        if not argument.star and any(gathering is parameter for gathering, _ in gathering_parameters(call, argument))
    )


@query(on_cycle=())
def call_sites(function: Function) -> tuple[Call, ...]:
    """The calls of ``function`` in the project; where its name is too common, those that :func:`caller_files` finds.

    A method call counts when the class of its receiver is known to be right, or is not known at all and no other
    class of the project's files that mention it has a method of that name.
    """
    modules = _modules_calling(function)
    return tuple(dict.fromkeys(call for module in modules for call in _call_sites_in_file(function, module)))


def _modules_calling(function: Function) -> Iterator[Module]:
    """The files in which calls of ``function`` count: its own, those of the bases of its class, and its callers'."""
    yield function.module
    bases = (cls.module for cls in mro(function.owner)) if function.owner is not None else ()
    near = dict.fromkeys(module for module in bases if module is not function.module)
    yield from near
    for module in function.project.callers(function):
        if module is not function.module and module not in near:
            yield module


def has_callers_out_of_sight(function: Function) -> bool:
    """Whether the name of ``function`` is so common that :func:`call_sites` may not be all."""
    return not function.project.caller_files(function).complete


def _call_sites_in_file(function: Function, module: Module) -> tuple[Call, ...]:
    if module is function.module:
        return _call_sites_in(function, module)
    with function.project.memo.abroad():
        return _call_sites_in(function, module)


def _runs(call: Call, function: Function) -> bool:
    """Whether ``call`` is known to run ``function``."""
    module = call.function.module
    if module is function.module:
        return _may_run(call, function)
    with function.project.memo.abroad():
        runs = _may_run(call, function)
    if runs:
        function.project.found_caller(module, function)
    return runs


def _may_run(call: Call, function: Function) -> bool:
    return function in callees(call) or _constructs(call, function) or _dispatches(call, function)


def _dispatches(call: Call, function: Function) -> bool:
    """Whether ``call``, in a base class or on an instance of it, leaves to subclasses what the method does.

    What a base class calls on its own instance is the method of the subclass, whatever the base class has for others.
    """
    if function.owner is None or call.receiver is None or call.method != function.name:
        return False
    on_itself = sources(call.receiver) == (call.function.instance,)
    return any(
        inherited is not None
        and inherited is not function
        and (on_itself or inherited.lower().is_abstract or inherited.is_blank)
        for owner in classes_of(call.receiver)
        if owner is not function.owner and owner in mro(function.owner)
        for inherited in [find_method(owner, function.name)]
    )


@query(on_cycle=())
def _call_sites_in(function: Function, module: Module) -> tuple[Call, ...]:
    found = [call for call in module.calls_by_name.get(function.name, ()) if _may_call(call, function)]
    if function.owner is not None and function.name in {"__call__", "forward"}:
        found.extend(_instance_calls(module, function))
    if function.owner is not None and function.name == "__init__":
        found.extend(_constructions(module, function))
    return tuple(found)


def _constructions(module: Module, init: Function) -> Iterator[Call]:
    """The calls in ``module`` that make instances of the class of ``init``, or of one derived from it there."""
    assert init.owner is not None
    derived = (cls.name for cls in module.body.lower().classes if init.owner in mro(cls))
    for name in dict.fromkeys((init.owner.name, *derived)):
        yield from (call for call in module.calls_by_name.get(name, ()) if _constructs(call, init))


def _constructs(call: Call, function: Function) -> bool:
    """Whether ``call`` makes an instance for which ``function``, an ``__init__``, runs."""
    return function.name == "__init__" and any(
        isinstance(source, ClassValue) and find_method(source.target, "__init__") is function
        for source in sources(call.callee)
    )


@query(on_cycle=())
def proven_call_sites(function: Function) -> tuple[Call, ...]:
    """Those of :func:`call_sites` that are known to run ``function``, and not merely to call something of that name."""
    return tuple(call for call in call_sites(function) if _runs(call, function))


def beside_tests(sites: tuple[Call, ...]) -> tuple[Call, ...]:
    """Those of ``sites`` that are in no test, if there are any: tests call things in ways that nobody else does."""
    return tuple(site for site in sites if not site.function.module.is_test) or sites


def nearest_call_sites(function: Function) -> Iterator[Call]:
    """Those of :func:`proven_call_sites`, the nearest first; for questions that the first ones may answer.

    Files are read as far as the caller goes on.
    """
    for module in _modules_calling(function):
        yield from (call for call in _call_sites_in_file(function, module) if _runs(call, function))


def _may_call(call: Call, function: Function) -> bool:
    known = callees(call)
    if any(target is function for target in known):
        return True
    if function.owner is None or call.receiver is None or call.name != function.name:
        return False
    owner = class_of(call.receiver)
    if owner is None:
        return not known and not isinstance(call.callee, External)
    # The object may be of a subclass that overrides the method.
    return owner is not function.owner and owner in mro(function.owner)


def _instance_calls(module: Module, function: Function) -> Iterator[Call]:
    yield from (call for call in _calls_of_objects(module) if function in callees(call))


@query(on_cycle=())
def _calls_of_objects(module: Module) -> tuple[Call, ...]:
    """The calls in a file of what may be an object: of a name that is no function or class, of a kept attribute."""
    return tuple(call for caller in module.functions for call in caller.calls if _may_be_of_object(call))


def _may_be_of_object(call: Call) -> bool:
    match call.callee:
        case FunctionValue() | ClassValue():
            return False
        case External() as named:
            return aliases(named) is not None
        case Attribute():
            return _is_held(call)
    return True


def _is_held(call: Call) -> bool:
    """Whether what is called is kept in an attribute, as ``self.decoder(x)`` calls it, and is no method."""
    # What objects of other names hold is not followed, and what they are would be a question for every call of a file.
    owner = instance_class(call.receiver) if call.receiver is not None else None
    return owner is not None and any(call.method in cls.instance_stores for cls in mro(owner))


@query(on_cycle=None)
def passed_arguments(parameter: Parameter) -> tuple[Value, ...] | None:
    """What the project's calls pass for ``parameter``, tests left out if others call it; None if nobody is known to."""
    function = parameter.function
    sites = beside_tests(proven_call_sites(function))
    if not sites:
        return None
    found: list[Value] = []
    for call in sites:
        value = bound_arguments(call, function).get(parameter.name)
        if value is not None:
            found.append(value)
        elif parameter.name in function.defaults:
            found.append(function.defaults[parameter.name])
    return tuple(found)


def bound_arguments_of_constructor(call: Call, init: Function) -> dict[str, Value]:
    """Parameters of ``__init__`` with what a call of the class passes for them."""
    bound: dict[str, Value] = {}
    parameters = [p for p in init.lower().parameters if not p.star and not p.keyword_only][1:]
    for parameter, passed in zip(parameters, call.positional(), strict=False):
        bound[parameter.name] = passed
    for argument in call.arguments:
        if argument.keyword is not None:
            bound[argument.keyword] = argument.value
    return bound
