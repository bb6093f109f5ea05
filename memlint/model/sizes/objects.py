"""The values of abstract evaluation.

Numbers, texts, tuples, lists, dicts and None of the program are the same in Python. What is here stands for the rest.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

_CLOCK = count()
EITHER = "depends on a condition of unknown outcome"


def now() -> int:
    """A number larger than all that it gave before: when an object was made, when a condition began."""
    return next(_CLOCK)


@dataclass(frozen=True)
class Place:
    """A line of a file."""

    path: Path
    row: int


@dataclass(frozen=True)
class Unknown:
    """A value that the source does not determine. ``plain`` if it is a number or a text: certainly no module."""

    why: str = ""
    plain: bool = False


@dataclass(frozen=True)
class Absent(Unknown):
    """Whether a file exists that is not on this machine: it may on the one that trains."""

    path: str = ""


PLAIN = Unknown("", plain=True)


@dataclass(frozen=True)
class External:
    """Something from outside the project, by its qualified name."""

    name: str


@dataclass(eq=False)
class Tensor:
    """A tensor that is no parameter. ``shape`` is None if it is not known, and so is ``numbers``, its elements."""

    shape: tuple[int, ...] | None = None
    numbers: tuple[float, ...] | None = None


@dataclass(eq=False)
class Parameter:
    """A parameter of a module. ``numel`` counts its elements; None if the source does not determine it."""

    numel: int | None
    shape: tuple[int, ...] | None = None
    attributes: dict[str, Any] = field(default_factory=dict)

    @property
    def trainable(self) -> bool:
        """Whether gradients are computed for it; what is not determined counts as trainable."""
        return self.attributes.get("requires_grad", True) is not False


@dataclass(eq=False)
class Instance:
    """An object of a class of the project, or of a class that only collects fields (a namespace, a configuration)."""

    cls: ClassObject | External | None
    attributes: dict[str, Any] = field(default_factory=dict)
    doubt: str = ""
    """Why it may hold other things than ``attributes``; empty if it holds just those."""
    open: bool = False
    """Whether it may have further attributes, of unknown value."""
    born: int = field(default_factory=now, kw_only=True)

    @property
    def class_name(self) -> str:
        """The name of the class, for messages."""
        if self.cls is None:
            return "object"
        return self.cls.name.rpartition(".")[2]


@dataclass(frozen=True, eq=False)
class Recipe:
    """A model of transformers: ``model_type``, the classes of configuration and model, and what is set."""

    kind: str
    names: tuple[str, str]
    fields: dict[str, Any]


@dataclass(eq=False)
class ModuleObject(Instance):
    """An ``nn.Module``: parameters and submodules are among its attributes."""

    place: Place | None = None
    items: list[Any] = field(default_factory=list)
    """Members of a container (Sequential, ModuleList, ParameterList, the values of a ModuleDict)."""
    keys: list[str] = field(default_factory=list)
    """The names of the members of a ModuleDict."""
    entry: dict[str, Any] | None = None
    """What the registry knows of it, if it is a known architecture."""
    recipe: Recipe | None = None
    """How a library would make it, if only its source says what it consists of."""
    shared: bool = False
    """Whether other parts of the program, unseen by the evaluation, may change it."""

    def children(self) -> Iterator[tuple[str, Any]]:
        """Everything that PyTorch would register, by name."""
        yield from self.attributes.items()
        names = self.keys if len(self.keys) == len(self.items) else map(str, range(len(self.items)))
        yield from zip(names, self.items, strict=False)

    def modules(self) -> Iterator[ModuleObject]:
        """It and the modules in it, each once."""
        seen: set[int] = set()
        stack: list[ModuleObject] = [self]
        while stack:
            module = stack.pop()
            if id(module) in seen:
                continue
            seen.add(id(module))
            yield module
            inner = [child for _, child in module.children() if isinstance(child, ModuleObject)]
            stack.extend(reversed(inner))

    def parameters(self) -> list[Parameter]:
        """Its parameters and those of the modules in it, each once."""
        found: dict[int, Parameter] = {}
        for module in self.modules():
            for _, child in module.children():
                if isinstance(child, Parameter):
                    found.setdefault(id(child), child)
        return list(found.values())

    def doubts(self) -> list[str]:
        """Why the number of parameters is not known; empty if it is."""
        reasons = []
        for module in self.modules():
            if module.doubt:
                reasons.append(f"{module.class_name}: {module.doubt}")
            for name, child in module.children():
                if isinstance(child, Unknown) and not child.plain:
                    reasons.append(f"{module.class_name}.{name}: {child.why or 'unknown'}")
                elif isinstance(child, Parameter) and child.numel is None:
                    reasons.append(f"{module.class_name}.{name}: a parameter of unknown size")
        return reasons

    def count(self, *, trainable: bool = False) -> int:
        """The number of elements of its known parameters, of the trainable ones only if so asked."""
        return sum(each.numel or 0 for each in self.parameters() if each.trainable or not trainable)


@dataclass(eq=False)
class FunctionObject:
    """A function of the project with the variables that it sees."""

    node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
    scope: Scope
    defaults: list[Any]
    keyword_defaults: dict[str, Any]
    owner: ClassObject | None = None
    kind: str = ""
    """``static``, ``class``, ``property``, or empty."""

    @property
    def name(self) -> str:
        """Its name; that of a lambda says so."""
        return getattr(self.node, "name", "<lambda>")


@dataclass(eq=False)
class Bound:
    """A method with its object."""

    function: FunctionObject
    receiver: Any


@dataclass(eq=False)
class Method:
    """A method of an object that is not of the project: of a list, a module of torch, a parser of arguments."""

    receiver: Any
    name: str


@dataclass(eq=False)
class Native:
    """A function that the evaluation knows by itself: ``call(evaluator, arguments, keywords, place)``."""

    name: str
    call: Callable[..., Any]


@dataclass(eq=False)
class Partial:
    """``functools.partial``."""

    function: Any
    arguments: list[Any]
    keywords: dict[str, Any]


@dataclass(eq=False)
class ClassObject:
    """A class of the project."""

    name: str
    node: ast.ClassDef
    scope: Scope
    bases: list[Any]
    attributes: dict[str, Any] = field(default_factory=dict)
    fields: list[str] = field(default_factory=list)
    """Names of annotated class variables, in order: the fields if it is a dataclass or a named tuple."""
    is_dataclass: bool = False

    def mro(self) -> list[Any]:
        """It and its bases, linearised as far as that is simple: depth first, what is shared at its last place."""
        order: list[Any] = [self]
        for base in self.bases:
            order.extend(base.mro() if isinstance(base, ClassObject) else [base])
        kept: list[Any] = []
        for each in reversed(order):
            if all(each is not other and each != other for other in kept):
                kept.append(each)
        return kept[::-1]

    def find(self, name: str) -> Any:
        """The class attribute of this name, its own or inherited; None if no class of the project has it."""
        for each in self.mro():
            if isinstance(each, ClassObject) and name in each.attributes:
                return each.attributes[name]
        return None


@dataclass(eq=False)
class SuperObject:
    """``super()`` in a method of ``owner``."""

    owner: ClassObject
    receiver: Any


@dataclass(eq=False)
class Namespace:
    """A module of the project. ``scope`` holds what its top level has bound."""

    name: str
    path: Path
    scope: Scope


@dataclass(eq=False)
class Scope:
    """Variables. A function's scope stands in that of its file, or in that of the function around it."""

    variables: dict[str, Any]
    parent: Scope | None
    path: Path
    owner: ClassObject | None = None
    receiver: Any = None
    outward: set[str] = field(default_factory=set)
    """Names declared global or nonlocal."""

    def lookup(self, name: str) -> Any:
        """What ``name`` means here. Raises KeyError."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.variables:
                return scope.variables[name]
            scope = scope.parent
        raise KeyError(name)

    def home(self, name: str) -> Scope:
        """The scope that an assignment to ``name`` goes to."""
        if name not in self.outward:
            return self
        scope = self.parent
        while scope is not None and name not in scope.variables and scope.parent is not None:
            scope = scope.parent
        return scope or self

    @property
    def file(self) -> Scope:
        """The scope of the file."""
        scope = self
        while scope.parent is not None:
            scope = scope.parent
        return scope


def is_known(value: Any, depth: int = 4) -> bool:
    """Whether ``value`` holds nothing unknown."""
    if isinstance(value, Unknown):
        return False
    if depth and isinstance(value, (list, tuple, set)):
        return all(is_known(each, depth - 1) for each in value)
    if depth and isinstance(value, dict):
        return all(is_known(each, depth - 1) for each in value.values())
    return True


def may_hold_module(value: Any) -> bool:
    """Whether registering ``value`` might add parameters."""
    if isinstance(value, Unknown):
        return not value.plain
    return isinstance(value, (ModuleObject, Parameter))
