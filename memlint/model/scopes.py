"""Modules, classes and functions of a project, with what lowering found in them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import libcst as cst

from memlint.model.values import (
    NO_ANSWERS,
    Attribute,
    Binary,
    Call,
    Comprehension,
    Deletion,
    Exit,
    Free,
    Loop,
    Parameter,
    Region,
    Store,
    Value,
)
from memlint.stages import stage

if TYPE_CHECKING:
    from memlint.model.project import Project


class Function:
    """A body of code that runs as one: a ``def``, a ``lambda``, or the top level of a module.

    The body is lowered when it is first asked for, so that a file which is only consulted for one of its functions
    costs no more than that function.
    """

    __slots__ = (
        "_declared",
        "_lowered",
        "attributes",
        "bindings",
        "body",
        "calls",
        "captures",
        "classes",
        "comprehensions",
        "decorators",
        "defaults",
        "deletions",
        "exits",
        "functions",
        "global_names",
        "known",
        "loops",
        "module",
        "name",
        "node",
        "owner",
        "parameters",
        "parent",
        "parts",
        "statements",
        "stores",
        "sums",
    )

    def __init__(
        self,
        node: cst.FunctionDef | cst.Lambda | cst.Module,
        name: str,
        module: Module,
        parent: Function | None,
        owner: Class | None,
    ) -> None:
        self.node = node
        self.name = name
        self.module = module
        self.parent = parent
        self.owner = owner
        self.decorators: list[Value] = []
        self.defaults: dict[str, Value] = {}
        """What the enclosing scope evaluates parameters' defaults to, by parameter name."""
        self.parameters: list[Parameter] = []
        self.parts: list[Value | Region] = []
        """All that lowering has made."""
        self.body = Region(None, self, node, 0)
        self.bindings: dict[str, list[Value]] = {}
        self.calls: list[Call] = []
        self.captures: dict[str, list[Free]] = {}
        """Reads of this function's variables in the functions within it, by name, as far as those are lowered."""
        self.attributes: list[Attribute] = []
        self.stores: list[Store] = []
        self.sums: list[Binary] = []
        self.exits: list[Exit] = []
        self.loops: list[Loop] = []
        self.comprehensions: list[Comprehension] = []
        self.deletions: list[Deletion] = []
        self.statements: list[Value] = []
        self.functions: list[Function] = []
        self.classes: list[Class] = []
        self.global_names: set[str] = set()
        self.known = NO_ANSWERS
        self._declared: frozenset[str] | None = None
        self._lowered = False

    def __repr__(self) -> str:
        return f"<Function {self.qualified_name}>"

    @property
    def project(self) -> Project:
        """The project that the function belongs to."""
        return self.module.project

    @property
    def qualified_name(self) -> str:
        """Dotted name from the module down."""
        if self.parent is None:
            return self.module.name
        outer = self.owner.qualified_name if self.owner else self.parent.qualified_name
        return f"{outer}.{self.name}"

    @property
    def is_method(self) -> bool:
        """Whether the first parameter is the instance (or the class)."""
        return self.owner is not None and bool(self.parameters) and not self.is_static

    @property
    def is_static(self) -> bool:
        """Whether the function is declared ``@staticmethod``."""
        return self._is_declared("staticmethod")

    @property
    def is_class_method(self) -> bool:
        """Whether the function is declared ``@classmethod``, so that its first parameter is the class."""
        return self._is_declared("classmethod")

    def _is_declared(self, name: str) -> bool:
        if self._declared is None:
            decorators = self.node.decorators if isinstance(self.node, cst.FunctionDef) else ()
            written = (each.decorator for each in decorators)
            named = (each.attr if isinstance(each, cst.Attribute) else each for each in written)
            self._declared = frozenset(decorator.value for decorator in named if isinstance(decorator, cst.Name))
        return name in self._declared

    @property
    def is_property(self) -> bool:
        """Whether the function computes an attribute of its instance."""
        return self._is_declared("property") or self._is_declared("cached_property")

    @property
    def is_setter(self) -> bool:
        """Whether the function sets or deletes a property, whose name stands for the function that computes it."""
        return self._is_declared("setter") or self._is_declared("deleter")

    @property
    def is_generator(self) -> bool:
        """Whether the body yields."""
        return any(exit.kind != "return" for exit in self.exits)

    @property
    def is_abstract(self) -> bool:
        """Whether a subclass has to say what is done: the body only raises, or is empty and declared abstract."""
        if self.body.leaves == "raise":
            return not self.exits and all(store.base is None for store in self.stores)
        return self.is_blank and (self._is_declared("abstractmethod") or self._is_declared("abstractproperty"))

    @property
    def is_blank(self) -> bool:
        """Whether the body does nothing, as that of a hook which subclasses may fill."""
        return self.body.leaves is None and not (self.calls or self.stores or self.exits or self.functions)

    @property
    def instance(self) -> Parameter | None:
        """The parameter that a method is called on."""
        return self.parameters[0] if self.is_method else None

    @property
    def returns(self) -> list[Exit]:
        """The ``return`` statements (for a lambda, its expression)."""
        return [exit for exit in self.exits if exit.kind == "return"]

    def lower(self) -> Function:
        """Lowers the body unless that has been done; returns the function itself."""
        if not self._lowered:
            self._lowered = True
            from memlint.model.lowering import lower

            with self.project.memo.lasting(self.module), stage("lowering"):
                lower(self)
        return self

    def enclosing(self) -> Iterator[Function]:
        """The functions that this one is defined in, innermost first, the module's top level last."""
        outer = self.parent
        while outer is not None:
            yield outer
            outer = outer.parent

    def walk(self) -> Iterator[Function]:
        """This function, those defined in it, and the methods of classes defined in it; all lowered."""
        self.lower()
        yield self
        for function in self.functions:
            yield from function.walk()


class Class:
    """A class statement."""

    def __init__(self, node: cst.ClassDef, name: str, module: Module, scope: Function) -> None:
        self.node = node
        self.name = name
        self.module = module
        self.scope = scope
        self.bases: list[Value] = []
        self.decorators: list[Value] = []
        self.methods: dict[str, Function] = {}
        self.attributes: dict[str, list[Value]] = {}
        """Class-level assignments by name."""
        self.annotations: dict[str, cst.BaseExpression] = {}
        self.known = NO_ANSWERS

    def __repr__(self) -> str:
        return f"<Class {self.qualified_name}>"

    @property
    def project(self) -> Project:
        """The project that the class belongs to."""
        return self.module.project

    @property
    def qualified_name(self) -> str:
        """Dotted name from the module down."""
        return f"{self.scope.qualified_name}.{self.name}"

    @cached_property
    def instance_stores(self) -> dict[str, list[Store]]:
        """Stores to ``self.name`` in the methods of this class, by name."""
        from memlint.model.aliases import instance_class

        found: dict[str, list[Store]] = {}
        with self.project.memo.lasting(self.module):
            for method in self.methods.values():
                for function in method.walk():
                    for store in function.stores:
                        attribute, base = store.attribute, store.base
                        if attribute is not None and base is not None and instance_class(base) is self:
                            found.setdefault(attribute, []).append(store)
        return found


class Module:
    """A parsed file of the project."""

    def __init__(self, path: Path, name: str, text: str, tree: cst.Module, project: Project, is_package: bool) -> None:
        self.path = path
        self.folder = project.folder(path)
        self.name = name
        self.text = text
        self.tree = tree
        self.project = project
        self.is_package = is_package
        self.star_imports: list[str] = []
        self.last_use = 0
        """When a question led here last; see :meth:`Project.program`."""
        self.known = NO_ANSWERS
        self.body = Function(tree, "<module>", self, None, None)

    def __repr__(self) -> str:
        return f"<Module {self.name}>"

    @cached_property
    def is_test(self) -> bool:
        """Whether a test runner finds the file, by its name or in a folder of tests, and tests in it by theirs."""
        name = self.path.stem
        if name.startswith("test_") or name.endswith("_test") or name == "conftest":
            return any(function.name.startswith("test_") or function.owner is not None for function in self.functions)
        if self.project.root not in self.path.parents:
            return False
        folders = self.path.relative_to(self.project.root).parts[:-1]
        in_folder = not {"test", "tests", "unittest", "unittests"}.isdisjoint(folders)
        return in_folder and any(function.name.startswith("test_") for function in self.functions)

    @cached_property
    def functions(self) -> tuple[Function, ...]:
        """The top level and every function, method and lambda of the file, lowered."""
        return tuple(self.body.walk())

    @cached_property
    def calls_by_name(self) -> dict[str, list[Call]]:
        """Calls in the file by the last component of what is called (``f`` for ``f()``, ``m.f()``, ``a.b.f()``)."""
        found: dict[str, list[Call]] = {}
        for function in self.functions:
            for call in function.calls:
                found.setdefault(call.name, []).append(call)
        return found

    @cached_property
    def loads(self) -> dict[str, list[Attribute]]:
        """Reads of the form ``x.name`` in the file, by ``name``."""
        found: dict[str, list[Attribute]] = {}
        for function in self.functions:
            for value in function.attributes:
                found.setdefault(value.name, []).append(value)
        return found

    def absolute(self, relative: str, dots: int) -> str:
        """The absolute name of the module ``relative`` that stands behind ``dots`` dots in an import."""
        if dots == 0:
            return relative
        parts = self.name.split(".")
        keep = len(parts) - dots + (1 if self.is_package else 0)
        base = ".".join(parts[: max(keep, 0)])
        return ".".join(part for part in (base, relative) if part)
