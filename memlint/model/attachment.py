"""Which values carry an autograd graph, with a degree of certainty."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum

from memlint.findings import Confidence
from memlint.model.aliases import (
    aliases,
    attribute_values,
    find_method,
    find_property,
    instance_class,
    qualified_names,
    sources,
    zipped,
)
from memlint.model.building import builds_module
from memlint.model.calls import bound_arguments, callees, passed_arguments, runs_forward
from memlint.model.components import readers
from memlint.model.containers import elements
from memlint.model.differentiated import feeds_backward, holds_differentiated, is_fed, starts_backward
from memlint.model.effects import backward_of, returns_loss_to_framework
from memlint.model.fields import Field, part_at, returns_records
from memlint.model.freezing import is_frozen, turns_off_grad
from memlint.model.gradmode import GradMode, declared_without_grad, grad_mode
from memlint.model.kinds import Role, class_of, is_always, kinds, role
from memlint.model.knowledge import frameworks, torch
from memlint.model.memo import query
from memlint.model.scopes import Function
from memlint.model.upstream import (
    component_index,
    differentiable_operands,
    exit_values,
    gradient_parameters,
    is_index_component,
    picked_elements,
    walk_ancestors,
)
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
    Free,
    FunctionValue,
    Item,
    Narrowed,
    Parameter,
    Part,
    Phi,
    Store,
    Unary,
    Value,
)


class Attachment(IntEnum):
    """How sure it is that a value carries a graph."""

    DETACHED = 0
    UNKNOWN = 1
    LIKELY = 2
    CERTAIN = 3


def attachment(value: Value) -> Attachment:
    """How sure it is that ``value`` carries a graph where it is computed."""
    level = _level(value, None)
    return Attachment.CERTAIN if level is Attachment.UNKNOWN and holds_differentiated(value) else level


@query(on_cycle=True)
def is_leaf(value: Value) -> bool:
    """Whether ``value`` holds nothing attached but parameters: leaves of the graph, which keep no activations alive.

    Copies of them, views and sums are computed by operations that save nothing.
    """
    return attachment(value) <= Attachment.UNKNOWN or not any(map(_may_save, walk_ancestors(value)))


def records(value: Value) -> bool:
    """Whether autograd records the operation that computes ``value``."""
    if attachment(value) <= Attachment.UNKNOWN:
        return False
    if isinstance(value, Binary):
        return not role(value, Role.CONTAINER)
    if not isinstance(value, Call):
        return isinstance(value, Unary)
    return not hands_on(value) and not callees(value)


def _may_save(value: Value) -> bool:
    """Whether autograd records the operation that computes ``value``, and may save tensors for its backward."""
    if isinstance(value, Unary) or (isinstance(value, Binary) and value.operator in {"+", "-"}):
        return False
    return records(value) and not (isinstance(value, Call) and value.method in _SAVING_NOTHING)


_SAVING_NOTHING = frozenset(
    """
    cpu cuda to pin_memory float half double bfloat16 clone contiguous
    view reshape flatten unflatten squeeze unsqueeze transpose permute expand
    """.split()
)
"""Methods that copy a tensor or give it another shape, for whose backward no tensor is saved."""


def hands_on(call: Call) -> bool:
    """Whether ``call`` returns what it is given, or what its receiver holds, and computes nothing from it."""
    names = qualified_names(call.callee)
    return call.method in _HANDING_METHODS or bool(names & (torch.PASSING_BUILTINS | torch.CREATORS_WITH_GRAD))


_HANDING_METHODS = frozenset(
    {"requires_grad_", "values", "items", "keys", "copy", "pop", "popleft", "get"} | torch.PARAMETER_METHODS
)


def keeps_graph(value: Value) -> bool:
    """Whether keeping ``value`` keeps a graph alive, certainly or likely."""
    return attachment(value) > Attachment.UNKNOWN and not is_leaf(value)


def certainty(value: Value) -> Confidence:
    """The attachment of ``value`` as the confidence of a finding that rests on it."""
    level = attachment(value)
    if level is Attachment.CERTAIN:
        return Confidence.CERTAIN
    return Confidence.LIKELY if level is Attachment.LIKELY else Confidence.POSSIBLE


def _level(value: Value, bare: Function | None) -> Attachment:
    """What the origin of ``value`` says of its graph, the parameters of the function ``bare`` left out of account."""
    if type(value) in _PLAIN:
        return Attachment.DETACHED
    return _origin_level(value, bare if bare is value.function else None)


_PLAIN = frozenset({Constant, Formatted, Comparison, FunctionValue, ClassValue, Narrowed})


@query(on_cycle=Attachment.DETACHED)
def _origin_level(value: Value, bare: Function | None) -> Attachment:
    level = _evaluate(value, bare)
    deduced = level is Attachment.UNKNOWN and isinstance(value, (Call, Part, Item)) and is_only_origin(value)
    return Attachment.LIKELY if deduced else level


def _most(values: Iterable[Value], bare: Function | None) -> Attachment:
    best = Attachment.DETACHED
    for value in values:
        best = max(best, _level(value, bare))
        if best is Attachment.CERTAIN:
            break
    return best


def _evaluate(value: Value, bare: Function | None) -> Attachment:
    match value:
        case Parameter():
            return _parameter(value, bare)
        case Phi() | Choice() | Awaited() | Free() | External():
            return _renamed(value, bare)
        case Entered():
            return _level(value.context, bare)
        case Call():
            return _call(value, bare)
        case Attribute():
            return _attribute(value, bare)
        case Item() | Part() | Element():
            return _component(value, bare)
    return _combination(value, bare)


def _combination(value: Value, bare: Function | None) -> Attachment:
    """Operators, and literals that hold other values."""
    match value:
        case Binary():
            return _arithmetic(value, bare)
        case Unary():
            return _unary(value, bare)
        case Display(kind="tuple"):
            return _most(value.elements, bare)
        case Display():
            return _most(elements(value), bare)
        case Comprehension():
            return _level(value.element, bare)
    return Attachment.UNKNOWN


def is_only_origin(value: Value) -> bool:
    """Whether a backward must have its graph from ``value``: of what it was computed from, nothing else can carry one.

    ``loss = -logsigmoid(score(model, batch)).mean(); loss.backward()`` would raise if ``score`` returned no graph.
    """
    return id(value) in _only_origins(value.function)


@query(on_cycle=frozenset())
def _only_origins(function: Function) -> frozenset[int]:
    # What the functions that it calls do with their arguments would be a question for nearly every function.
    backwards = filter(None, map(backward_of, function.calls))
    roots = [root for backward in backwards for root in backward.roots]
    if returns_loss_to_framework(function):
        roots.extend(leaving.value for leaving in function.returns)
    return frozenset(id(origin) for root in roots for origin in _only_origin_of(root))


def _only_origin_of(root: Value) -> tuple[Value, ...]:
    """The one call out of sight, or part of what it returns, that ``root`` can have its graph from; else nothing."""
    origins: dict[int, Value] = {}
    seen: set[int] = set()
    pending = [root]
    while pending:
        value = pending.pop()
        if id(value) in seen or _computes_nothing_attached(value):
            continue
        seen.add(id(value))
        if _passes_graphs_on(value):
            pending.extend(differentiable_operands(value))
            continue
        # What is asked for may be one of these: their levels are open, and are not asked for again.
        level = _evaluate(value, None)
        if level > Attachment.UNKNOWN or (isinstance(value, Parameter) and level is Attachment.UNKNOWN):
            return ()  # Another graph is known, or what was handed in may carry one as well.
        if level is Attachment.UNKNOWN and _is_out_of_sight(value):
            origins[id(value)] = value
    return tuple(origins.values()) if len(origins) == 1 else ()


def _computes_nothing_attached(value: Value) -> bool:
    if isinstance(value, (Call, Binary)) and grad_mode(value.region) is GradMode.DISABLED:
        return True
    return isinstance(value, (Item, Part, Element)) and (_known_plain(value) or is_index_component(value))


def _passes_graphs_on(value: Value) -> bool:
    """Whether what ``value`` carries is what its operands do: arithmetic, operations of torch, parts of results."""
    match value:
        case Phi() | Choice() | Awaited() | Binary() | Unary() | Display():
            return True
        case Item() | Part():
            return not _is_out_of_sight(value)
        case Call():
            return _is_operation(value)
    return False


def _is_operation(call: Call) -> bool:
    """Whether ``call`` computes from its operands: an operation of torch, a loss, a function that adds no graph."""
    functions = callees(call)
    if functions and not role(call.callee, Role.MODULE):
        own = (_level(exit.value, function) for function in functions for exit in function.exits)
        return max(own, default=Attachment.UNKNOWN) is Attachment.DETACHED
    names = qualified_names(call.callee)
    if names & torch.PASSING_BUILTINS or any(map(_is_differentiable, names)) or role(call.callee, Role.LOSS_FUNCTION):
        return True
    if call.receiver is None:
        return False
    return call.method in torch.TENSOR_EVIDENCE or bool(role(call.receiver, Role.TENSOR, Role.OUTPUT, Role.SCALER))


def _is_out_of_sight(value: Value) -> bool:
    """Whether ``value`` is what a call returns that nobody sees, or a part of it; settings are none."""
    if isinstance(value, (Part, Item)):
        return component_index(value) is not None and all(map(_is_out_of_sight, sources(value.base)))
    return isinstance(value, Call) and not _is_operation(value)


def _renamed(value: Value, bare: Function | None) -> Attachment:
    nearer = aliases(value)
    if nearer is None:
        return Attachment.DETACHED if isinstance(value, External) else Attachment.UNKNOWN
    best = _most(nearer, bare)
    if best is Attachment.UNKNOWN and starts_backward(value):
        return Attachment.CERTAIN
    return best


def _unary(value: Unary, bare: Function | None) -> Attachment:
    if value.operator in {"not", "~"}:
        return Attachment.DETACHED  # Truth values and integers.
    level = _level(value.operand, bare)
    return Attachment.CERTAIN if level is Attachment.UNKNOWN and starts_backward(value) else level


def _parameter(value: Parameter, bare: Function | None) -> Attachment:
    if starts_backward(value):
        return Attachment.CERTAIN
    if bare is value.function or _known_plain(value):
        return Attachment.DETACHED
    passed = passed_arguments(value)
    return _most(passed, None) if passed else Attachment.UNKNOWN


def _arithmetic(value: Binary, bare: Function | None) -> Attachment:
    if role(value.left, Role.TEXT) or grad_mode(value.region) is GradMode.DISABLED:
        return Attachment.DETACHED
    best = _most(value.operands(), bare)
    if best is Attachment.UNKNOWN and starts_backward(value):
        return Attachment.CERTAIN
    return best


def _attribute(value: Attribute, bare: Function | None) -> Attachment:
    if value.name in torch.DETACHING_ATTRIBUTES or value.name in torch.INDEX_PARTS:
        return Attachment.DETACHED
    nearer = aliases(value)
    if nearer is not None:
        return _most(nearer, bare)
    if starts_backward(value):
        return Attachment.CERTAIN
    computed = _computed_by_property(value)
    if computed:
        return min(_most(computed, None), Attachment.LIKELY)
    level = max(_read_from(value, bare), _held_by_instance(value))
    # What an annotation says counts for less than what the value is seen to be.
    return Attachment.DETACHED if level is Attachment.UNKNOWN and _known_plain(value) else level


def _computed_by_property(value: Attribute) -> tuple[Value, ...]:
    """What the property of a class of the project returns that the attribute is read from; empty for other ones."""
    owner = class_of(value.base)
    found = find_property(owner, value.name) if owner is not None else None
    return tuple(exit.value for exit in found.lower().returns) if found is not None else ()


def _held_by_instance(value: Attribute) -> Attachment:
    """What the methods of a class of the project keep in the attribute; other code may keep something else.

    An object is given modules and settings when it is made, and nothing with a graph.
    """
    owner = class_of(value.base)
    kept = attribute_values(owner, value.name) if owner is not None else ()
    later = [each for each in kept if each.function.name != "__init__"]
    return min(_most(later, None), Attachment.LIKELY)


def _read_from(value: Attribute, bare: Function | None) -> Attachment:
    """What the object says of its graph that the attribute is read from."""
    recorded = [_field(source, Field(value.name), bare) for source in sources(value.base)]
    if recorded and all(level is not None for level in recorded):
        return max(level for level in recorded if level is not None)
    if role(value.base, Role.OUTPUT, Role.TENSOR):
        return _level(value.base, bare)
    if role(value.base, Role.MODULE, Role.ENGINE):
        return Attachment.UNKNOWN
    if role(value.base, Role.OPTIMIZER, Role.SCHEDULER):
        # Settings; what is optimized are leaves.
        return Attachment.DETACHED
    return min(_level(value.base, bare), Attachment.LIKELY)


def _field(source: Value, name: Field, bare: Function | None) -> Attachment | None:
    """The field of the record that ``source`` is, or that the functions of the project return which it runs."""
    if not isinstance(source, Call):
        return None
    given = part_at(source, name)
    if given is not None:
        return _level(given, bare)
    functions = callees(source)
    if not functions or grad_mode(source.region) is GradMode.DISABLED or not all(map(returns_records, functions)):
        return None
    return max(_returned(source, function, name, bare) for function in functions)


def _component(value: Item | Part | Element, bare: Function | None) -> Attachment:
    if starts_backward(value):
        return Attachment.CERTAIN
    if role(value, Role.BATCH) or _known_plain(value):
        return Attachment.DETACHED
    nearer = aliases(value)
    if nearer is not None:
        return _most(nearer, bare)
    base = value.iterable if isinstance(value, Element) else value.base
    if is_index_component(value) or _is_key(value):
        return Attachment.DETACHED
    column = zipped(value)
    if column is not None:
        return _level(column, bare)
    picked = picked_elements(value)
    return _most(picked, bare) if picked else _part_of(base, value, bare)


_YIELDING_KEYS = frozenset({"named_parameters", "named_buffers", "named_modules", "named_children", "items"})


def _is_key(value: Item | Part | Element) -> bool:
    """Whether the component is the key of a pair: ``name`` in ``for name, parameter in model.named_parameters()``."""
    if isinstance(value, Element) or component_index(value) != 0:
        return False
    pairs = [source.iterable for source in sources(value.base) if isinstance(source, Element)]
    made = [source for pair in pairs for source in sources(pair)]
    return bool(made) and all(isinstance(call, Call) and call.method in _YIELDING_KEYS for call in made)


def _part_of(base: Value, value: Item | Part | Element, bare: Function | None) -> Attachment:
    """What the value that a component is taken out of says of it."""
    if all(map(_is_told_by_use, sources(base))) and _is_beside_differentiated(value):
        return Attachment.UNKNOWN
    found = [_returned_component(source, value, bare) for source in sources(base)]
    if found and all(level is not None for level in found):
        return max(level for level in found if level is not None)
    if role(base, Role.CONTAINER):
        inside = elements(base)
        if inside:
            return _most(inside, bare)
    return _level(base, bare)


def _is_told_by_use(source: Value) -> bool:
    """Whether nobody knows what a call returns, but that a part of it is differentiated.

    A loss function out of sight may detach what it returns for the record, as those for preferences do.
    """
    if not isinstance(source, Call) or callees(source) or role(source.callee, Role.MODULE, Role.ENGINE):
        return False
    return not qualified_names(source.callee)


def _is_beside_differentiated(value: Item | Part | Element) -> bool:
    """Whether the component is left alone where another one is differentiated: ``loss, stats = compute(batch)``."""
    if isinstance(value, Element) or component_index(value) is None or is_fed(value):
        return False
    siblings = (use for use in value.base.uses if isinstance(use, (Part, Item)) and component_index(use) is not None)
    return any(component_index(use) != component_index(value) and is_fed(use) for use in siblings)


def _returned_component(source: Value, value: Item | Part | Element, bare: Function | None) -> Attachment | None:
    """The component of the tuple or dict that a function of the project returns."""
    if not isinstance(source, Call) or isinstance(value, Element):
        return None
    functions = callees(source)
    index = component_index(value)
    if not functions or index is None or grad_mode(source.region) is GradMode.DISABLED:
        return None
    if role(source.callee, Role.MODULE) and is_frozen(source.callee):
        return None  # It adds nothing to what its arguments carry.
    return max(_returned(source, function, index, bare) for function in functions)


def _returned(call: Call, function: Function, component: object, bare: Function | None) -> Attachment:
    """What ``call`` gets from ``function``: what it returns by itself, or of what is passed for its parameters."""
    own = max((_level(value, function) for value in exit_values(function, component)), default=Attachment.DETACHED)
    bound = bound_arguments(call, function)
    passing = gradient_parameters(function, component)
    return max(own, _most([bound[name] for name in passing if name in bound], bare))


def _call(call: Call, bare: Function | None) -> Attachment:
    level = _called(call, bare)
    return _written_into(call, bare) if level is Attachment.DETACHED else level


def _written_into(tensor: Call, bare: Function | None) -> Attachment:
    """What is written into a new tensor brings its graph along: ``scores[:, step] = model(x)``."""
    written = [
        use
        for use in readers(tensor)
        if isinstance(use, Store) and use.index is not None and _is_base(tensor, use.base)
    ]
    if not written or role(tensor, Role.CONTAINER):
        return Attachment.DETACHED
    return _most((store.value for store in written if grad_mode(store.region) is not GradMode.DISABLED), bare)


def _is_base(tensor: Value, base: Value | None) -> bool:
    return base is not None and any(source is tensor for source in sources(base))


def _called(call: Call, bare: Function | None) -> Attachment:
    if starts_backward(call):
        return Attachment.CERTAIN
    names = qualified_names(call.callee)
    if any(name in torch.DETACHING_FUNCTIONS or name.startswith(torch.DETACHING_ROOTS) for name in names):
        return Attachment.CERTAIN if _requests_grad(call) else Attachment.DETACHED
    if names & torch.CREATORS_WITH_GRAD:
        return Attachment.CERTAIN
    if names & torch.GRADIENT_FUNCTIONS:
        return _gradients(call, bare)
    mode = grad_mode(call.region)
    level = _call_under_grad(call, names, bare) if mode is not GradMode.DISABLED else _lookup(call, names, bare)
    return min(level, Attachment.LIKELY) if mode is GradMode.UNKNOWN else level


def _gradients(call: Call, bare: Function | None) -> Attachment:
    """Gradients carry a graph if one is asked for: ``torch.autograd.grad(loss, inputs, create_graph=True)``."""
    backward = backward_of(call)
    if backward is None or backward.creates_graph is False:
        return Attachment.DETACHED
    return _arguments(call, bare) if backward.creates_graph else Attachment.UNKNOWN


def _lookup(call: Call, names: frozenset[str], bare: Function | None) -> Attachment:
    """Without gradients a call can only hand back what was attached before."""
    if names & torch.PASSING_BUILTINS:
        return _arguments(call, bare)
    if call.method in {"pop", "popleft", "get"} and call.receiver is not None:
        return _most(elements(call.receiver), bare)
    return Attachment.DETACHED


def _call_under_grad(call: Call, names: frozenset[str], bare: Function | None) -> Attachment:
    if _is_made_for_inference(call.callee) or builds_module(call):
        return Attachment.DETACHED
    module = role(call.callee, Role.MODULE, Role.ENGINE)
    if module is not None and role(call.callee, Role.CLASS) is None:
        return _module_call(call, module.value == "certain", bare)
    if role(call.callee, Role.LOSS_FUNCTION):
        return _loss_call(call, bare)
    if names & torch.PASSING_BUILTINS or any(_is_differentiable(name) for name in names):
        # ``outputs = dict()`` is filled afterwards.
        inside = _most(elements(call), bare) if role(call, Role.CONTAINER) else Attachment.DETACHED
        return max(inside, _arguments(call, bare))
    functions = callees(call)
    if functions:
        level = _project_call(call, functions, bare)
        return Attachment.LIKELY if level is Attachment.UNKNOWN and _runs_own_forward(call) else level
    if call.receiver is not None:
        return _method_call(call, call.receiver, bare)
    if any(isinstance(source, ClassValue) for source in sources(call.callee)):
        # An optimizer holds parameters, and no graph.
        return Attachment.DETACHED if _known_plain(call) else min(_arguments(call, bare), Attachment.LIKELY)
    return _unknown_call(call, bare)


def _runs_own_forward(call: Call) -> bool:
    """Whether ``call`` is ``self.forward(x)``, which runs a module as ``self(x)`` does."""
    receiver = call.receiver
    if receiver is None or not runs_forward(call) or not role(receiver, Role.MODULE):
        return False
    return not is_frozen(receiver)


def _is_made_for_inference(module: Value) -> bool:
    """Whether calling ``module``, of a library, runs it without gradients by itself."""
    return any(isinstance(source, Call) and _makes_for_inference(source) for source in sources(module))


@query(on_cycle=False)
def _makes_for_inference(call: Call) -> bool:
    if call.receiver is not None and call.method in torch.SELF_RETURNING:
        return _is_made_for_inference(call.receiver)
    names = qualified_names(call.callee)
    if "torch.hub.load" in names:
        return _text(call.argument("repo_or_dir", 0)).startswith(frameworks.INFERENCE_HUBS)
    return bool(names & frameworks.INFERENCE_MODULES) or any(
        name.startswith(frameworks.INFERENCE_PIPELINES) and "Pipeline" in name for name in names
    )


def _text(value: Value | None) -> str:
    return value.constant if isinstance(value, Constant) and isinstance(value.constant, str) else ""


def _arguments(call: Call, bare: Function | None) -> Attachment:
    return _most((argument.value for argument in call.arguments), bare)


def _unknown_call(call: Call, bare: Function | None) -> Attachment:
    # Optimizers and their kin are given parameters, which are leaves.
    given = [argument.value for argument in call.arguments if not role(argument.value, Role.PARAMETERS)]
    level = _most(given, bare)
    if level > Attachment.UNKNOWN and all(is_leaf(value) for value in given):
        level = Attachment.UNKNOWN
    if level <= Attachment.UNKNOWN:
        return Attachment.LIKELY if _is_handed_in(call.callee) and feeds_backward(call) else Attachment.UNKNOWN
    return Attachment.UNKNOWN if _is_named_for_numbers(call.name) else min(level, Attachment.LIKELY)


def _is_named_for_numbers(name: str) -> bool:
    """Whether a function out of sight is called for what carries no graph: ``accuracy``, ``to_numpy``."""
    return bool(torch.GRAPHLESS_WORDS & set(name.lower().split("_"))) and "loss" not in name.lower()


def _module_call(call: Call, certain: bool, bare: Function | None) -> Attachment:
    if is_frozen(call.callee):
        return _arguments(call, bare)
    # A forward that only raises is computed by subclasses.
    functions = tuple(function for function in callees(call) if not function.lower().is_abstract)
    if functions:
        inside = _project_call(call, functions, bare)
        if inside is Attachment.DETACHED or inside is Attachment.CERTAIN:
            return inside
        if any(function.name == "__call__" for function in functions):
            # What it runs instead of its forward is in sight.
            return inside
        return Attachment.LIKELY
    return Attachment.CERTAIN if certain else Attachment.LIKELY


def _loss_call(call: Call, bare: Function | None) -> Attachment:
    functions = callees(call)
    level = _arguments(call, bare)
    if functions and level is not Attachment.CERTAIN:
        return max(level, _project_call(call, functions, bare))
    return level


def _project_call(call: Call, functions: tuple[Function, ...], bare: Function | None) -> Attachment:
    recording = [function for function in functions if not declared_without_grad(function)]
    return max((_returned(call, function, None, bare) for function in recording), default=Attachment.DETACHED)


_WITHOUT_TENSORS = (Role.OPTIMIZER, Role.SCHEDULER, Role.LOADER, Role.DATASET, Role.TEXT, Role.NUMBER)
"""Objects none of whose methods returns something with a graph."""


def _method_call(call: Call, receiver: Value, bare: Function | None) -> Attachment:
    method = call.method or ""
    settled = _settled(call, receiver, method)
    if settled is not None:
        return settled
    if method == "scale" and call.arguments and role(receiver, Role.SCALER):
        return _arguments(call, bare)
    if role(receiver, Role.MODULE, Role.ENGINE):
        return _module_method(call, receiver, method, bare)
    if role(receiver, Role.ACCELERATOR):
        return _arguments(call, bare)
    if role(receiver, Role.TENSOR, Role.OUTPUT, Role.BATCH) or method in torch.TENSOR_EVIDENCE:
        return max(_level(receiver, bare), _arguments(call, bare))
    if method in {"pop", "popleft", "get", "values", "items", "copy"}:
        inside = elements(receiver)
        if inside:
            return _most(inside, bare)
    return _unknown_method(call, receiver, bare)


def _unknown_method(call: Call, receiver: Value, bare: Function | None) -> Attachment:
    level = max(_level(receiver, bare), _arguments(call, bare))
    if level <= Attachment.UNKNOWN and _is_handed_in(call.callee) and feeds_backward(call):
        return Attachment.LIKELY
    if level is Attachment.DETACHED and not kinds(receiver):
        return Attachment.UNKNOWN
    return min(level, Attachment.LIKELY)


def _settled(call: Call, receiver: Value, method: str) -> Attachment | None:
    """What a method returns whatever its receiver and its arguments carry; None if it depends on them."""
    owner = class_of(receiver)
    if owner is None or find_method(owner, method) is None:
        if method in torch.DETACHING_METHODS or method in torch.IN_PLACE_DETACH:
            return Attachment.DETACHED
        if method == "requires_grad_":
            return Attachment.DETACHED if turns_off_grad(call) else Attachment.CERTAIN
    return Attachment.DETACHED if _returns_no_tensor(receiver, method) else None


def _returns_no_tensor(receiver: Value, method: str) -> bool:
    if method in torch.STRUCTURE_METHODS or role(receiver, *_WITHOUT_TENSORS):
        return True
    return method in {"index", "count", "keys"} and role(receiver, Role.CONTAINER) is not None


def _module_method(call: Call, receiver: Value, method: str, bare: Function | None) -> Attachment:
    if method in torch.GENERATED_WITHOUT_GRAD or method in torch.STRUCTURE_METHODS:
        return Attachment.DETACHED
    if method in torch.PARAMETER_METHODS:
        return Attachment.DETACHED if is_frozen(receiver) else Attachment.CERTAIN
    if method in {"log", "log_dict", "print"}:
        return Attachment.DETACHED
    if method == "__call__" or runs_forward(call):
        return Attachment.LIKELY if not is_frozen(receiver) else _arguments(call, bare)
    held = role(call.callee, Role.MODULE, Role.LOSS_FUNCTION)
    return _unknown_call(call, bare) if held is None else Attachment.LIKELY


def _is_handed_in(callee: Value) -> bool:
    """Whether what is called is an object that the function or its instance was given, as models and criteria are."""
    if isinstance(callee, Attribute):
        return instance_class(callee.base) is not None
    return any(isinstance(source, Parameter) for source in sources(callee))


def _is_differentiable(name: str) -> bool:
    last = name.rsplit(".", 1)[-1]
    return name.startswith(torch.FUNCTION_MODULES) and (
        not last[:1].isupper() or ".distributions." in name or last == "Variable"
    )


def _requests_grad(call: Call) -> bool:
    value = call.argument("requires_grad")
    return isinstance(value, Constant) and value.constant is True


def _known_plain(value: Value) -> bool:
    """Whether ``value`` is known to be something that carries no graph."""
    return is_always(
        value,
        Role.NUMBER,
        Role.TEXT,
        Role.LOADER,
        Role.BATCH,
        Role.DATASET,
        Role.OPTIMIZER,
        Role.SCHEDULER,
        Role.MODULE,
    )
