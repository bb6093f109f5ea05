"""Whether a value is differentiated later: the flow of data from a value to the backwards that start from it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from enum import Enum
from typing import NamedTuple

from memlint.model.aliases import find_method, instance_class, module_of, origins, qualified_names, sources, zipped
from memlint.model.attachment import Attachment, attachment
from memlint.model.calls import (
    argument_parameters,
    bound_arguments,
    bound_arguments_of_constructor,
    call_sites,
    callees,
    gathering_parameters,
    has_callers_out_of_sight,
    proven_call_sites,
)
from memlint.model.containers import GROWING_METHODS, insertions_of, names_of
from memlint.model.differentiated import feeds_backward, starts_backward
from memlint.model.effects import backward_of, returns_loss_to_framework
from memlint.model.evidence import known_names
from memlint.model.fields import Field, Rest, part_at, record_fields
from memlint.model.gradmode import GradMode, grad_mode
from memlint.model.kinds import Role, class_of, kinds, role
from memlint.model.knowledge import frameworks, torch
from memlint.model.memo import query
from memlint.model.runners import runs_for_each_batch
from memlint.model.scopes import Function
from memlint.model.upstream import component_index, is_index_component
from memlint.model.values import (
    Attribute,
    Awaited,
    Binary,
    Call,
    Choice,
    ClassValue,
    Comparison,
    Constant,
    Display,
    Exit,
    Formatted,
    Item,
    Loop,
    Parameter,
    Part,
    Phi,
    Region,
    Store,
    Unary,
    Unbound,
    Value,
)


class Reach(str, Enum):
    """Whether a value is differentiated later."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"
    """It leaves what can be seen: returned to unknown callers, handed to unknown code."""


class GradientFlow(NamedTuple):
    """Where the graph of a value goes."""

    reach: Reach
    handed_over: tuple[Call, ...]
    """Calls of code out of sight that get the value (and would have to run a backward by themselves)."""


_MAX_FLOW = 3000


def reaches_gradient(value: Value) -> Reach:
    """Whether a backward or ``autograd.grad`` starts from something computed from ``value``.

    Follows names, containers, attributes of the class, calls into the project's functions, and returns to their
    callers.
    """
    return gradient_flow(value).reach


@query(on_cycle=GradientFlow(Reach.UNKNOWN, ()))
def gradient_flow(value: Value) -> GradientFlow:
    """Follows the graph of ``value`` to what it is used for; see :func:`reaches_gradient`."""
    return _Flow().run(value)


def gradient_flow_within(value: Value, dead: Collection[Region], callers: Sequence[Call]) -> GradientFlow:
    """Like :func:`gradient_flow`, in a run that takes none of the ``dead`` branches.

    The function of ``value`` returns to the first of ``callers``, the function of that one to the second, and so on.
    """
    flow = _Flow(frozenset(dead))
    flow.entered = bool(callers)
    for site, run in zip(callers, (value, *callers), strict=False):
        flow.entries[run.function] = [_Step(site, site is not callers[-1])]
    return flow.run(value)


class _Step(NamedTuple):
    """A value to be followed, whether it lies in a function that was entered, and which component of it matters."""

    value: Value
    entered: bool
    component: object = None


def _is_newest_alone(item: Item | Part) -> bool:
    """Whether the newest element of a container is differentiated in the loop that fills it, not those before it.

    ``losses[-1].backward()``, or ``losses[step].backward()`` where the loop also puts ``losses[step + 1]``.
    """
    if not isinstance(item, Item) or item.region.loop is None or not starts_backward(item):
        return False
    return component_index(item) == -1 or (_is_computed(item) and _is_filled_in(item.base, item.region.loop))


def _is_detached_part(part: Item | Part) -> bool:
    """Whether ``part`` is what a function of the project returns without a graph, beside others that have one."""
    if not isinstance(part.base, Call) or component_index(part) is None or not callees(part.base):
        return False
    # A caller without gradients detaches everything, and says nothing of others.
    return grad_mode(part.base.region) is GradMode.ENABLED and attachment(part) is Attachment.DETACHED


def _is_computed(item: Item) -> bool:
    return len(item.index) == 1 and not isinstance(item.index[0], (Constant, Unary))


def _is_filled_in(container: Value, loop: Loop) -> bool:
    return any(
        isinstance(use, Store) and use.base is name and use.index is not None and use.region.loop is loop
        for name in names_of(container)
        for use in name.uses
    )


def _writes_in_place(call: Call) -> bool:
    """Whether a method of a tensor writes what it is given into it: ``nll.index_copy_(0, rows, -scores)``."""
    method = call.method or ""
    if not method.endswith("_") or method.startswith("_") or grad_mode(call.region) is GradMode.DISABLED:
        return False
    # What is written into the data of a tensor goes past its graph.
    return not (isinstance(call.receiver, Attribute) and call.receiver.name in torch.DETACHING_ATTRIBUTES)


def _paired(container: Value) -> Iterator[Value]:
    """The containers of a literal that a loop over pairs goes through: ``for xs, x in zip((heads, tails), (a, b))``."""
    column = zipped(container)
    for source in sources(column) if column is not None else ():
        if isinstance(source, Display) and not source.starred:
            yield from (element for element in source.elements if element is not container)


def _is_filled_field(value: Value) -> bool:
    """Whether ``value`` is an attribute of another object that is filled as a list is: ``stats.losses.append(x)``."""
    if not isinstance(value, Attribute) or instance_class(value.base) is not None:
        return False
    methods = (use for use in value.uses if isinstance(use, Attribute) and use.name in GROWING_METHODS)
    return any(isinstance(user, Call) and user.callee is use for use in methods for user in use.uses)


class _Flow:
    """Follows a value along its uses.

    A function that is entered through an argument returns to the call that entered it, and to no other. The flag that
    goes with each pending value says whether it lies in such a function.
    """

    def __init__(self, dead: frozenset[Region] = frozenset()) -> None:
        self.dead = dead
        self.seen: set[tuple[int, bool, object]] = set()
        self.pending: list[_Step] = []
        self.entered = False
        self.component: object = None
        self.of_container = False
        self.entries: dict[Function, list[_Step | None]] = {}
        self.returning: set[Function] = set()
        self.filled: set[Parameter] = set()
        self.escaped = False
        self.handed_over: list[Call] = []

    def run(self, start: Value) -> GradientFlow:
        self.of_container = bool(role(start, Role.CONTAINER)) or _is_filled_field(start)
        if isinstance(start, (Item, Parameter, Attribute)) and self.of_container:
            self.into_container(start)
        self.push(*(names_of(start) if self.of_container else (start,)))
        while self.pending:
            value, self.entered, self.component = self.pending.pop()
            if self.is_seen(value):
                continue
            self.seen.add((id(value), self.entered, self.component))
            if len(self.seen) > _MAX_FLOW:
                return self.result(Reach.UNKNOWN)
            for use in value.uses:
                if not self.is_dead(use.region) and self.follow(value, use):
                    return self.result(Reach.YES)
        unknown = self.escaped or _starts_from_unbound(start.function)
        return self.result(Reach.UNKNOWN if unknown else Reach.NO)

    def is_dead(self, region: Region) -> bool:
        """Whether ``region`` is in a branch that is not taken."""
        return bool(self.dead) and any(ancestor in self.dead for ancestor in region.ancestors())

    def is_seen(self, value: Value) -> bool:
        """Whether the value was followed already, in the same way or in a more general one."""
        return any(
            (id(value), entered, component) in self.seen
            for entered in {self.entered, False}
            for component in (self.component, None)
        )

    def result(self, reach: Reach) -> GradientFlow:
        return GradientFlow(reach, tuple(self.handed_over))

    def push(self, *values: Value) -> None:
        """Values of the same run of the function that is looked at."""
        self.pending.extend(_Step(value, self.entered) for value in values)

    def push_elsewhere(self, *values: Value) -> None:
        """Values of any other run."""
        self.pending.extend(_Step(value, False) for value in values)

    def push_into(self, display: Display, value: Value) -> None:
        """A literal that holds the value in one of its places."""
        for place, element in enumerate(display.elements):
            if element is value:
                key = display.keys[place] if display.kind == "dict" else None
                index = key.constant if isinstance(key, Constant) else None if display.kind == "dict" else place
                self.pending.append(_Step(display, self.entered, None if display.starred else index))

    def push_part(self, part: Item | Part) -> None:
        """A component of the value; none that is known to be another one than that which matters."""
        index = component_index(part)
        if isinstance(self.component, Field) and not isinstance(index, str):
            self.push(part)  # A named tuple may be unpacked as well.
            return
        if isinstance(index, Rest):
            if not isinstance(self.component, int) or self.component < 0 or self.component >= index.start:
                self.push(part)
            return
        from_the_end = isinstance(index, int) and index < 0
        if self.component is None or index is None or from_the_end or index == self.component:
            self.push(part)

    def follow(self, value: Value, use: Value | Store | Exit) -> bool:
        """Follows one use; True if it is a gradient."""
        match use:
            case Store():
                self.store(value, use)
            case Exit():
                return self.exit(use)
            case Attribute(name="backward"):
                return any(isinstance(user, Call) and backward_of(user) for user in use.uses)
            case Attribute():
                self.attribute(use)
            case Call():
                return self.call(value, use)
            case _:
                self.derived(value, use)
        return False

    def derived(self, value: Value, use: Value) -> None:
        """Follows what is computed from the value by operators, literals, names and components."""
        match use:
            case Comparison() | Formatted():
                pass
            case Binary() | Unary():
                if grad_mode(use.region) is not GradMode.DISABLED:
                    self.push(use)
            case Display():
                self.push_into(use, value)
            case Item() | Part():
                newest_alone = self.of_container and _is_newest_alone(use)
                if not is_index_component(use) and not newest_alone and not _is_detached_part(use):
                    self.push_part(use)
            case Phi() | Choice() | Awaited():
                self.pending.append(_Step(use, self.entered, self.component))
            case _:
                self.push(use)

    def attribute(self, use: Attribute) -> None:
        if use.name in torch.DETACHING_ATTRIBUTES or self.is_other_field(use):
            return
        for user in use.uses:
            if not (isinstance(user, Call) and user.callee is use):
                self.push(use)
            elif user.method not in torch.DETACHING_METHODS and user.method not in GROWING_METHODS:
                self.push(user)

    def is_other_field(self, use: Attribute) -> bool:
        """Whether ``use`` reads another field of the record than that which holds the value."""
        if not isinstance(self.component, Field) or use.name == self.component:
            return False
        return not any(isinstance(user, Call) and user.callee is use for user in use.uses)

    def store(self, value: Value, store: Store) -> None:
        if store.value is not value:
            return
        if store.base is None:
            self.captured(store)
        elif store.attribute is not None:
            self.stored_attribute(store.base, store.attribute)
        else:
            self.into_container(store.base)

    def captured(self, store: Store) -> None:
        """Functions defined inside, or the functions of a module, read the name."""
        for inner in store.function.functions:
            inner.lower()
        self.push_elsewhere(*store.function.captures.get(store.key or "", ()))

    def stored_attribute(self, base: Value, name: str) -> None:
        owner = instance_class(base) or class_of(base)
        module = owner.module if owner is not None else module_of(base)
        loads = module.loads.get(name, ())
        self.push_elsewhere(*loads)
        if module is not module_of(base):
            self.push_elsewhere(*module_of(base).loads.get(name, ()))
        if not loads:
            self.escaped = True

    def into_container(self, container: Value) -> None:
        holder = container
        while isinstance(holder, Item):
            holder = holder.base
        if isinstance(holder, Attribute):
            self.stored_attribute(holder.base, holder.name)
            if instance_class(holder.base) is None and class_of(holder.base) is None:
                self.escaped = True  # The methods of its class are not in sight.
        # What is put into one item may be taken out of another, if the indices are not known.
        for name in dict.fromkeys((*names_of(container), *names_of(holder))):
            if name.function is container.function:
                self.push(name)
            else:
                self.push_elsewhere(name)
        for source in sources(holder):
            if isinstance(source, Parameter) and source is not source.function.instance:
                self.into_argument(source)
        for one in _paired(container):
            self.into_container(one)

    def into_argument(self, parameter: Parameter) -> None:
        """The container that the callers pass for ``parameter``: those by which the function was entered, if it was."""
        if parameter in self.filled:
            return
        self.filled.add(parameter)
        function = parameter.function
        entries = [step.value for step in self.entries.get(function, ()) if step is not None] if self.entered else []
        for call in entries or proven_call_sites(function):
            passed = bound_arguments(call, function).get(parameter.name) if isinstance(call, Call) else None
            if passed is not None:
                self.push_elsewhere(passed)
                self.into_container(passed)

    def exit(self, exit: Exit) -> bool:
        function = exit.function
        if returns_loss_to_framework(function):
            self.into_step_end(function)
            return self.component in {None, 0, "loss"}
        if function.parent is None or runs_for_each_batch(function):
            return False
        if self.entered and function in self.entries:
            self.returning.add(function)
            self.pending.extend(entry for entry in self.entries[function] if entry is not None)
            return False
        sites = proven_call_sites(function)
        if function.name == "<lambda>" or len(sites) < len(call_sites(function)) or has_callers_out_of_sight(function):
            self.escaped = True
        if not sites or _is_tested_only(function, sites):
            self.escaped = True
        if sites:
            here = self.entered and any(outer in self.entries for outer in function.enclosing())
            self.pending.extend(_Step(site, here, self.component) for site in sites)
        return False

    def into_step_end(self, step: Function) -> None:
        """The method of Lightning that gets the outputs of a step, from which it computes the loss."""
        end = find_method(step.owner, "training_step_end") if step.owner is not None else None
        if end is not None and step is not end and end.lower().is_method and len(end.parameters) > 1:
            self.pending.append(_Step(end.parameters[1], False, self.component))

    def call(self, value: Value, call: Call) -> bool:
        if call.callee is value:
            return False
        backward = backward_of(call)
        if backward is not None:
            return any(root is value for root in backward.roots)
        names = qualified_names(call.callee)
        if any(name in torch.DETACHING_FUNCTIONS or name.startswith(torch.DETACHING_ROOTS) for name in names):
            return False
        if call.receiver is not None and any(insertion.value is value for insertion in insertions_of(call)):
            self.into_container(call.receiver)
            return False
        if call.method in frameworks.DETACHING_SINK_METHODS and not _is_of_torch(names):
            return False
        if call.receiver is not None and _writes_in_place(call):
            self.into_container(call.receiver)
        return self.argument(value, call, names)

    def argument(self, value: Value, call: Call, names: frozenset[str]) -> bool:
        if self.enter(value, call):
            return False
        if any(isinstance(source, ClassValue) for source in sources(call.callee)):
            self.constructor(value, call)
            return False
        if not _is_plain(call) and (grad_mode(call.region) is not GradMode.DISABLED or names & torch.PASSING_BUILTINS):
            self.push(call)
        if not names and not kinds(call.callee) and call.method is None and not _is_criterion(call.callee):
            self.escaped = True
        if _is_out_of_sight(call, names):
            self.handed_over.append(call)
            return "backward" in call.name
        return False

    def enter(self, value: Value, call: Call) -> bool:
        """Follows an argument into the functions of the project that ``call`` runs; False if there are none."""
        records = grad_mode(call.region) is not GradMode.DISABLED
        steps: list[_Step] = []
        for argument in call.arguments:
            if argument.value is value:
                steps.extend(_Step(p, True, self.component) for p in argument_parameters(call, argument))
                for parameter, key in gathering_parameters(call, argument):
                    steps.append(_Step(parameter, True, self.component if argument.star else key))
        for step in steps:
            function = step.value.function
            entry = _Step(call, self.entered) if records else None
            self.entries.setdefault(function, []).append(entry)
            if entry is not None and function in self.returning:
                self.pending.append(entry)
        self.pending.extend(steps)
        return bool(steps)

    def constructor(self, value: Value, call: Call) -> None:
        """An object of a project's class keeps what it is built from."""
        for source in sources(call.callee):
            if not isinstance(source, ClassValue):
                continue
            init = find_method(source.target, "__init__")
            if init is None:
                self.record(value, call)
                continue
            bound = bound_arguments_of_constructor(call, init)
            self.pending.extend(_Step(p, True) for p in init.parameters if bound.get(p.name) is value)

    def record(self, value: Value, call: Call) -> None:
        """An object without a constructor of its own: a record, of which one field holds the value."""
        holding = [name for name in record_fields(call) if part_at(call, Field(name)) is value]
        self.pending.append(_Step(call, self.entered, Field(holding[0]) if len(holding) == 1 else None))


@query(on_cycle=False)
def _is_criterion(callee: Value) -> bool:
    """Whether what another call of ``callee`` returns is differentiated, so that it runs no backward by itself."""
    return any(
        isinstance(use, Call) and use.callee is name and feeds_backward(use)
        for name in known_names(callee)
        for use in name.uses
    )


def _is_tested_only(function: Function, sites: tuple[Call, ...]) -> bool:
    """Whether nothing but tests calls ``function``, so that those whom it is made for are not in sight."""
    return not function.module.is_test and all(site.function.module.is_test for site in sites)


def _is_of_torch(names: frozenset[str]) -> bool:
    """Whether a function is one that tensors go through: ``torch.log`` is no method of a logger."""
    return any(name.startswith(torch.FUNCTION_MODULES) for name in names)


_HARMLESS_RECEIVERS = frozenset(Role) - {Role.OBJECT, Role.PREPARED, Role.FUNCTION, Role.CLASS}


def _is_out_of_sight(call: Call, names: frozenset[str]) -> bool:
    """Whether ``call`` runs code that is neither in the project nor known, and that could run a backward."""
    known = (*torch.FUNCTION_MODULES, *torch.DETACHING_ROOTS, *torch.BYSTANDER_ROOTS, *frameworks.METRIC_ROOTS)
    if call.uses and not any(role(argument.value, Role.OPTIMIZER, Role.PARAMETERS) for argument in call.arguments):
        # What runs a backward returns nothing, or the norm of the gradients that it clips.
        return False
    if names:
        return not callees(call) and not any(name.startswith(known) for name in names)
    subject = call.receiver if call.receiver is not None else call.callee
    if call.method in torch.TENSOR_EVIDENCE or role(subject, *_HARMLESS_RECEIVERS):
        return False
    libraries = origins(subject)
    return not libraries or not all(name.startswith(known) for name in libraries)


@query(on_cycle=False)
def _starts_from_unbound(function: Function) -> bool:
    """Whether ``function`` runs a backward from a name that nothing in sight binds: any value may be meant."""
    backwards = filter(None, map(backward_of, function.calls))
    return any(isinstance(source, Unbound) for each in backwards for root in each.roots for source in sources(root))


def _is_plain(value: Value) -> bool:
    """Whether ``value`` is known to be a text or a Python number."""
    known = kinds(value)
    return bool(known) and all(kind.role in {Role.TEXT, Role.NUMBER} for kind in known)
