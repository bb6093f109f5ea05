"""Abstract evaluation of a program: what its objects are, as far as the source determines it.

Everything runs once, in order, on values that are known or unknown. Where a condition is unknown both branches run and
what they leave different is unknown afterwards; a loop over something unknown runs once. Nothing is imported.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from memlint.bare_trees.building import python_tree
from memlint.model.sizes import layers, natives
from memlint.model.sizes.calls import Calls
from memlint.model.sizes.hugging_face import field_name, registers_arguments
from memlint.model.sizes.marks import marked
from memlint.model.sizes.natives import Items, Missing, Pool, Table
from memlint.model.sizes.objects import (
    EITHER,
    PLAIN,
    Absent,
    ClassObject,
    External,
    FunctionObject,
    Instance,
    Method,
    ModuleObject,
    Namespace,
    Native,
    Parameter,
    Place,
    Scope,
    SuperObject,
    Tensor,
    Unknown,
    is_known,
    may_hold_module,
    now,
)

_MAX_STEPS = 400_000
"""Nodes that are evaluated before the evaluation gives up."""
_MAX_DEPTH = 30
_MAX_ROUNDS = 2_000
"""Rounds of one loop that are run."""


class TooMuch(Exception):
    """The program is too large to be evaluated."""


class Stopped(Exception):
    """Control leaves a function or a loop in some other way than at its end."""


class _Return(Stopped):
    def __init__(self, value: Any) -> None:
        self.value = value


class _Break(Stopped):
    pass


class _Continue(Stopped):
    pass


class _Raised(Stopped):
    """The program raises here."""


class Evaluator(Calls):
    """Evaluates programs of one project.

    ``locate(path, name)`` is the file of the module ``name`` as imported in the file ``path``, or None; ``read(path)``
    its text. ``watch(name, arguments, keywords, place)`` is told of each call of something outside the project, by
    qualified name or, for a method, as ``.method`` with the receiver first.
    """

    def __init__(
        self,
        locate: Callable[[Path, str], Path | None],
        read: Callable[[Path], str | None],
        watch: Callable[[str, list[Any], dict[str, Any], Place], Any] | None = None,
        steps: int = _MAX_STEPS,
    ) -> None:
        super().__init__()
        self.locate = locate
        self.read = read
        self.watch = watch
        self.steps_left = steps
        self.depth = 0
        self.since = []
        self.jumps: list[dict[str, Any]] = []
        """Variables where a round of the loop around may end early."""
        self.files: dict[Path, Namespace | None] = {}
        self.place = Place(Path(), 0)
        self.applied: set[int] = set()
        """Functions that have run, by identity."""
        self.entered: list[Any] = []
        """Values of the ``with`` statements around what is evaluated now."""
        self.absent: dict[str, Place] = {}
        """Files that the program asks for and that are assumed not to exist, with the place of the question."""
        self._generators: dict[ast.AST, bool] = {}
        self._training: dict[ast.AST, bool] = {}
        """What is known of functions and loops by their text, which are run again and again."""

    def release(self) -> None:
        """Forgets what was evaluated: variables and functions hold on to each other, and with them to whole files."""
        for namespace in self.files.values():
            if namespace is not None:
                namespace.scope.variables.clear()
        self.files.clear()
        self._generators.clear()
        self._training.clear()
        self.locate, self.read, self.watch = _no_file, _no_text, None

    # ------------------------------------------------------------------------------------------------- files

    def file(self, path: Path, name: str = "") -> Namespace | None:
        """The module at ``path``, its top level evaluated; None if it cannot be read."""
        if path in self.files:
            return self.files[path]
        self.files[path] = None
        text = self.read(path)
        if text is None:
            return None
        try:
            tree = _parsed(path, text)
        except (SyntaxError, ValueError, RecursionError):
            return None
        scope = Scope({"__name__": name or path.stem}, None, path)
        self.files[path] = namespace = Namespace(name, path, scope)
        with self._certain():
            self._tolerant(tree.body, scope)
        return namespace

    @contextmanager
    def _certain(self) -> Iterator[None]:
        """What an import defines does not depend on the conditions around the import."""
        before, place = self.since, self.place
        self.since = []
        try:
            yield
        finally:
            self.since, self.place = before, place

    @contextmanager
    def _perhaps(self, unsure: bool = True) -> Iterator[None]:
        """What is evaluated meanwhile may not happen, if ``unsure``; also what follows a jump that may happen."""
        depth = len(self.since)
        if unsure:
            self.since.append(now())
        try:
            yield
        finally:
            del self.since[depth:]

    @contextmanager
    def within(self, source: Callable[[str], Path | None]) -> Iterator[None]:
        """Evaluates a library meanwhile, whose modules ``source`` finds. Nobody is told, its files are forgotten."""
        before, files = (self.locate, self.watch), set(self.files)
        self.locate, self.watch = (lambda _origin, name: source(name)), None
        try:
            with self._certain():
                yield
        finally:
            self.locate, self.watch = before
            for path in self.files.keys() - files:
                del self.files[path]

    def _tolerant(self, body: Sequence[ast.stmt], scope: Scope) -> None:
        """Runs the statements of a file; one that raises does not stop the others."""
        for statement in body:
            with suppress(Stopped, Missing):
                self.run(statement, scope)

    def member(self, namespace: Namespace, name: str) -> Any:
        """A variable or a submodule of a module of the project."""
        if name in namespace.scope.variables:
            return namespace.scope.variables[name]
        path = self.locate(namespace.path, f"{namespace.name}.{name}") if namespace.name else None
        if path is not None:
            return self.file(path, f"{namespace.name}.{name}") or Unknown(f"module {name}")
        if "__getattr__" in namespace.scope.variables or "*" in namespace.scope.variables:
            return Unknown(f"{namespace.name}.{name}")
        return External(f"{namespace.name}.{name}")

    def imported(self, name: str, scope: Scope) -> Any:
        """What ``import name`` gives, for the last part of the name."""
        path = self.locate(scope.path, name)
        if path is None or name.split(".", maxsplit=1)[0] in {"torch", "numpy"}:
            return External(name)
        return self.file(path, name) or External(name)

    # -------------------------------------------------------------------------------------------- statements

    def body(self, statements: Sequence[ast.stmt], scope: Scope) -> None:
        """Runs statements in order."""
        for statement in statements:
            self.run(statement, scope)

    def run(self, node: ast.stmt, scope: Scope) -> None:
        """Runs one statement."""
        self._count(node, scope)
        method = _STATEMENTS.get(type(node))
        if method is not None:
            method(self, node, scope)

    def _count(self, node: ast.stmt | ast.expr, scope: Scope) -> None:
        self.steps_left -= 1
        if self.steps_left < 0:
            raise TooMuch
        self.place = Place(scope.path, node.lineno)

    def _expression(self, node: ast.Expr, scope: Scope) -> None:
        self.value(node.value, scope)

    def _assign(self, node: ast.Assign, scope: Scope) -> None:
        value = self.value(node.value, scope)
        for target in node.targets:
            self.store(target, value, scope)

    def _annotated(self, node: ast.AnnAssign, scope: Scope) -> None:
        if node.value is not None:
            self.store(node.target, self.value(node.value, scope), scope)

    def _augmented(self, node: ast.AugAssign, scope: Scope) -> None:
        old = self.value(node.target, scope)
        added = self.value(node.value, scope)
        if isinstance(old, Tensor):
            result = natives.binary(type(node.op).__name__, old, added)
            old.numbers = None  # Other names for it see the change.
            self.store(node.target, result, scope)
            return
        if isinstance(node.op, ast.Add) and isinstance(old, (ModuleObject, Items)):
            self.call(Method(old, "extend"), [added], {})
            return
        if isinstance(old, Items):
            old.doubt = "changed in place"
        elif isinstance(old, (Table, Pool)):
            self.call(Method(old, "update"), [added], {})
            return
        self.store(node.target, natives.binary(type(node.op).__name__, old, added), scope)

    def store(self, target: ast.expr, value: Any, scope: Scope) -> None:
        """Binds ``target``."""
        if isinstance(target, (ast.Name, ast.Attribute)):
            value = self._said(target.id if isinstance(target, ast.Name) else target.attr, value)
        if isinstance(target, ast.Name):
            home = scope.home(target.id)
            if home is not scope and self.since:
                value = self.join([home.variables.get(target.id), value])
            home.variables[target.id] = value
        elif isinstance(target, ast.Attribute):
            receiver = self.value(target.value, scope)
            if isinstance(receiver, (Unknown, Method)) and may_hold_module(value):
                self._replaced_inside(target, scope)
            self.set_attribute(receiver, target.attr, value)
        elif isinstance(target, ast.Subscript):
            self._store_item(target, value, scope)
        elif isinstance(target, ast.Starred):
            self.store(target.value, value, scope)
        elif isinstance(target, (ast.Tuple, ast.List)):
            self._unpack(target.elts, value, scope)

    def _said(self, name: str, value: Any) -> Any:
        """What somebody says of a variable, an attribute or an argument whose value the program does not tell."""
        if name not in self.given or not isinstance(value, Unknown):
            return value
        self.overridden.add(name)
        return marked(self.given[name], self.place)

    def _replaced_inside(self, target: ast.Attribute, scope: Scope) -> None:
        """A layer deep inside a well-known model is replaced, of which nobody knows how large it was."""
        node = target.value
        while isinstance(node, (ast.Attribute, ast.Subscript)):
            if isinstance(node, ast.Attribute) and node.attr.endswith("config"):
                return
            node = node.value
            owner = self.value(node, scope)
            if isinstance(owner, ModuleObject) and owner.entry is not None:
                owner.doubt = owner.doubt or f"{target.attr} is replaced inside it"
                return

    def _store_item(self, target: ast.Subscript, value: Any, scope: Scope) -> None:
        key = self.value(target.slice, scope)
        owner = self._table_of(target.value, scope)
        if owner is None:
            self._set_item(self.value(target.value, scope), key, value)
        elif isinstance(key, str):
            self.set_attribute(owner, key, value)
        else:
            owner.doubt = _BY_HAND

    def _table_of(self, node: ast.expr, scope: Scope) -> ModuleObject | None:
        """The module whose own table an expression names: ``module._modules``."""
        if not isinstance(node, ast.Attribute) or node.attr not in _TABLES:
            return None
        owner = self.value(node.value, scope)
        return owner if isinstance(owner, ModuleObject) else None

    def _unpack(self, targets: list[ast.expr], value: Any, scope: Scope) -> None:
        try:
            values: list[Any] = natives.sequence(value)
        except Missing:
            values = [self.part(value)] * len(targets)
        starred = [index for index, each in enumerate(targets) if isinstance(each, ast.Starred)]
        if starred:
            first, after = starred[0], len(targets) - starred[0] - 1
            middle = values[first : len(values) - after]
            values = [*values[:first], Items(middle), *values[len(values) - after :]]
        if len(values) != len(targets):
            values = [Unknown("unpacking")] * len(targets)
        for target, each in zip(targets, values, strict=False):
            self.store(target, each, scope)

    @staticmethod
    def part(value: Any) -> Any:
        """An element of something whose elements are not known."""
        if isinstance(value, Unknown):
            return value
        if isinstance(value, (Tensor, External)):
            return Tensor(None)
        known = isinstance(value, (list, tuple)) and all(isinstance(each, (int, float, str)) for each in value)
        return PLAIN if known else Unknown("an element")

    def set_attribute(self, receiver: Any, name: str, value: Any) -> None:
        """``receiver.name = value``."""
        if isinstance(receiver, (ClassObject, Parameter)):
            receiver.attributes[name] = self._if_certain(receiver, receiver.attributes.get(name), value)
        elif isinstance(receiver, Namespace):
            variables = receiver.scope.variables
            variables[name] = self._if_certain(receiver, variables.get(name), value)
        elif isinstance(receiver, Instance):
            name = field_name(receiver, name)
            setter = receiver.cls.find(name) if isinstance(receiver.cls, ClassObject) else None
            if isinstance(setter, FunctionObject) and setter.kind == "property":
                return
            inherited = receiver.cls.find(name) if isinstance(receiver.cls, ClassObject) else None
            value = self._if_certain(receiver, receiver.attributes.get(name, inherited), value)
            self.replace_head(receiver, name, value)
            receiver.attributes[name] = value

    def _if_certain(self, receiver: Any, before: Any, value: Any) -> Any:
        """What a part of ``receiver`` is, that was ``before`` and is replaced by ``value``, if this happens at all."""
        return self.join([before, value]) if self.is_old(receiver) and before is not value else value

    def _set_item(self, receiver: Any, key: Any, value: Any) -> None:
        if isinstance(receiver, ModuleObject):
            self._set_member(receiver, key, value)
        elif isinstance(receiver, dict) and not isinstance(key, Unknown) and _is_hashable(key):
            if self.is_old(receiver) and key not in receiver and isinstance(receiver, Table):
                receiver.doubt = "a key is added under a condition of unknown outcome"
            receiver[key] = self._if_certain(receiver, receiver.get(key), value)
        elif isinstance(receiver, list) and isinstance(key, int) and -len(receiver) <= key < len(receiver):
            receiver[key] = self._if_certain(receiver, receiver[key], value)
        elif isinstance(receiver, (Items, Table)):
            receiver.doubt = "an item of unknown position was replaced"
        elif isinstance(receiver, Tensor):
            receiver.numbers = None

    def _set_member(self, receiver: ModuleObject, key: Any, value: Any) -> None:
        if isinstance(key, str):
            if key in receiver.keys:
                place = receiver.keys.index(key)
                receiver.items[place] = self._if_certain(receiver, receiver.items[place], value)
            else:
                receiver.keys.append(key)
                receiver.items.append(self._if_certain(receiver, None, value))
        elif isinstance(key, int) and -len(receiver.items) <= key < len(receiver.items):
            receiver.items[key] = self._if_certain(receiver, receiver.items[key], value)
        else:
            receiver.doubt = "a member of unknown position was replaced"

    def _if(self, node: ast.If, scope: Scope) -> None:
        value = self.value(node.test, scope)
        condition = self.truth(value)
        if isinstance(value, Absent) and not _only_complains(node.orelse):
            # Checkpoints to go on from, caches, vocabularies: the program has a way without them.
            self.assume(value)
            condition = False
        if condition is None:
            self._both(node, scope)
        else:
            self.body(node.body if condition else node.orelse, scope)

    def _both(self, node: ast.If, scope: Scope) -> None:
        """Runs both branches of a condition that is not known, unless one of them ends the program."""
        branches = [branch for branch in (node.body, node.orelse) if not _only_complains(branch)]
        if len(branches) == 1 and not node.orelse and branches[0] is node.orelse:
            return
        self._alternatives([partial(self.body, each, scope) for each in branches], scope)

    def _alternatives(self, runs: Sequence[Callable[[], None]], scope: Scope) -> None:
        """Runs all of ``runs``, of which one happens, nobody knows which."""
        before = dict(scope.variables)
        results, returned, jumps = [], [], []
        jump: Stopped | None = None
        for run in runs:
            scope.variables.clear()
            scope.variables.update(before)
            try:
                with self._perhaps():
                    run()
            except _Return as end:
                returned.append(end.value)
                continue
            except (_Break, _Continue) as end:
                jump = end
                jumps.append(dict(scope.variables))
                continue
            except (Stopped, Missing):
                pass
            results.append(dict(scope.variables))
        scope.variables.clear()
        scope.variables.update(self._joined(results or jumps) if results or jumps else before)
        if returned:
            self.returned.append((id(scope), returned))
            if not results and not jumps:
                raise _Return(self.join(returned))
        if jump is not None and not results:
            raise jump
        self.jumps += jumps
        if jumps or returned:
            # What follows may not happen. The loop or the function around forgets that at its end.
            self.since.append(now())

    def _joined(self, results: list[dict[str, Any]]) -> dict[str, Any]:
        names = dict.fromkeys(name for each in results for name in each)
        joined = {}
        for name in names:
            values = [each[name] for each in results if name in each]
            joined[name] = self.join(values)
        return joined

    def join(self, values: list[Any]) -> Any:
        """What is one of ``values``, nobody knows which."""
        first = values[0]
        if all(_is_same(first, each) for each in values[1:]):
            return first
        if all(_has_no_parameters(each) for each in values):
            unknown = Unknown(EITHER, plain=True)
            return next((each for each in values if isinstance(each, ModuleObject)), unknown)
        doubtful = any(may_hold_module(each) or isinstance(each, (list, tuple, dict, Instance)) for each in values)
        callables = any(not isinstance(each, (int, float, str, Unknown, Tensor, type(None))) for each in values)
        return Unknown(EITHER, plain=not doubtful and not callables)

    def assume(self, value: Absent) -> None:
        """The program is read as if a file did not exist; who reads the result has to know."""
        self.absent.setdefault(value.path, self.place)

    def truth(self, value: Any) -> bool | None:
        """Whether ``value`` counts as true; None if that is not known."""
        if isinstance(value, External):
            return True if layers.layer_name(value.name) else None
        if isinstance(value, (Unknown, Tensor)):
            return None
        if natives.doubt_of(value):
            return None
        if isinstance(value, ModuleObject) and isinstance(value.cls, External):
            return bool(value.items) if value.cls.name.endswith(("List", "Dict", "Sequential")) else True
        if isinstance(value, Instance):
            return True
        return bool(value)

    def _for(self, node: ast.For, scope: Scope) -> None:
        iterated = self.value(node.iter, scope)
        if self._only_trains(node):
            self._tell("for", [iterated], {})
        try:
            values: list[Any] | None = natives.sequence(iterated)
        except Missing:
            values = None
        if values is not None and len(values) <= _MAX_ROUNDS and not self._is_training(node, values):
            with self._loop(scope):
                self._rounds(node, values, scope)
            return
        uncertain = values is None and not self._only_trains(node)
        before = dict(scope.variables)
        with self._loop(scope, uncertain):
            self._rounds(node, [self.part(iterated) if values is None else values[0]], scope)
        self._forget_rounds(before, scope)

    @contextmanager
    def _loop(self, scope: Scope, unsure: bool = False) -> Iterator[None]:
        """After a loop that may have been left early, variables are what they were there or are at its end."""
        outer, self.jumps = self.jumps, []
        try:
            with self._perhaps(unsure):
                yield
            if self.jumps:
                scope.variables.update(self._joined([dict(scope.variables), *self.jumps]))
        finally:
            self.jumps = outer

    def _forget_rounds(self, before: dict[str, Any], scope: Scope) -> None:
        """What a loop changes that has not run to its end is unknown after it."""
        scope.variables.update(self._joined([before, dict(scope.variables)]))

    def _is_training(self, node: ast.For, values: list[Any]) -> bool:
        """A loop over many numbers that runs a backward need not be run more than once."""
        return len(values) > 1 and self._only_trains(node)

    def _only_trains(self, node: ast.For | ast.While) -> bool:
        known = self._training.get(node)
        if known is None:
            known = self._training[node] = _only_trains(node)
        return known

    def _rounds(self, node: ast.For, values: list[Any], scope: Scope) -> None:
        for each in values:
            self.store(node.target, each, scope)
            try:
                self.body(node.body, scope)
            except _Break:
                return
            except _Continue:
                continue
        self.body(node.orelse, scope)

    def _while(self, node: ast.While, scope: Scope) -> None:
        with self._loop(scope):
            self._while_rounds(node, scope)

    def _while_rounds(self, node: ast.While, scope: Scope) -> None:
        before = dict(scope.variables)
        for _ in range(_MAX_ROUNDS):
            condition = self.truth(self.value(node.test, scope))
            if condition is False:
                self.body(node.orelse, scope)
                return
            endless = condition is None or isinstance(node.test, ast.Constant)
            try:
                with self._perhaps(condition is None):
                    self.body(node.body, scope)
            except _Break:
                if condition is None:
                    break
                return
            except _Continue:
                pass
            if endless and (condition is None or self._only_trains(node)):
                break
        self._forget_rounds(before, scope)

    def _with(self, node: ast.With, scope: Scope) -> None:
        count = len(self.entered)
        for item in node.items:
            value = self.value(item.context_expr, scope)
            self.entered.append(value)
            if item.optional_vars is not None:
                self.store(item.optional_vars, value, scope)
        try:
            self.body(node.body, scope)
        finally:
            del self.entered[count:]

    def _try(self, node: ast.Try, scope: Scope) -> None:
        if self._imports_others(node, scope):
            bodies = [[*node.body, *node.orelse], *(each.body for each in node.handlers)]
            self._alternatives([partial(self.body, each, scope) for each in bodies], scope)
            self.body(node.finalbody, scope)
            return
        try:
            self.body(node.body, scope)
            self.body(node.orelse, scope)
        except (_Raised, Missing):
            if node.handlers:
                self.body(node.handlers[0].body, scope)
        finally:
            self.body(node.finalbody, scope)

    def _imports_others(self, node: ast.Try, scope: Scope) -> bool:
        """Whether a statement imports a package that may be missing where the program runs, and has a way without."""
        names = []
        for each in node.body if any(map(_catches_missing, node.handlers)) else ():
            if isinstance(each, ast.Import):
                names += [alias.name for alias in each.names]
            elif isinstance(each, ast.ImportFrom) and not each.level:
                names.append(each.module or "")
        return any(name.partition(".")[0] not in _INSTALLED and self.locate(scope.path, name) is None for name in names)

    def _match(self, node: ast.Match, scope: Scope) -> None:
        self.value(node.subject, scope)
        cases = [partial(self._case, each.pattern, each.body, scope) for each in node.cases]
        self._alternatives([lambda: None, *cases], scope)

    def _case(self, pattern: ast.pattern, body: list[ast.stmt], scope: Scope) -> None:
        for each in ast.walk(pattern):
            name = getattr(each, "name", None) or getattr(each, "rest", None)
            if isinstance(name, str):
                scope.variables[name] = Unknown(f"name {name}")
        self.body(body, scope)

    def _return(self, node: ast.Return, scope: Scope) -> None:
        raise _Return(self.value(node.value, scope) if node.value is not None else None)

    def _raise(self, _node: ast.Raise, _scope: Scope) -> None:
        raise _Raised

    def _break(self, _node: ast.Break, _scope: Scope) -> None:
        raise _Break

    def _continue(self, _node: ast.Continue, _scope: Scope) -> None:
        raise _Continue

    def _delete(self, node: ast.Delete, scope: Scope) -> None:
        for target in node.targets:
            if isinstance(target, ast.Name):
                scope.variables.pop(target.id, None)
            elif isinstance(target, ast.Attribute):
                self.delete_attribute(self.value(target.value, scope), target.attr)
            elif isinstance(target, ast.Subscript):
                receiver = self._table_of(target.value, scope) or self.value(target.value, scope)
                self._delete_item(receiver, self.value(target.slice, scope))

    def _delete_item(self, receiver: Any, key: Any) -> None:
        if isinstance(receiver, ModuleObject):
            receiver.doubt = "a member is deleted"
        elif isinstance(receiver, (dict, list)) and not isinstance(key, Unknown) and not self.is_old(receiver):
            with suppress(LookupError, TypeError):
                del receiver[key]
        elif isinstance(receiver, (Items, Table)):
            receiver.doubt = "an item is deleted"

    def _outward(self, node: ast.Global | ast.Nonlocal, scope: Scope) -> None:
        scope.outward.update(node.names)

    def _import(self, node: ast.Import, scope: Scope) -> None:
        for alias in node.names:
            if alias.asname is not None:
                scope.variables[alias.asname] = self.imported(alias.name, scope)
                continue
            top = alias.name.split(".")[0]
            scope.variables[top] = self.imported(top, scope)
            if top != alias.name:
                self.imported(alias.name, scope)

    def _import_from(self, node: ast.ImportFrom, scope: Scope) -> None:
        origin = self._origin(node, scope)
        for alias in node.names:
            if alias.name == "*":
                self._star(origin, scope)
                continue
            value = self._from(origin, alias.name, scope)
            scope.variables[alias.asname or alias.name] = value

    def _origin(self, node: ast.ImportFrom, scope: Scope) -> str:
        if not node.level:
            return node.module or ""
        namespace = self.files.get(scope.file.path)
        name = namespace.name if namespace is not None else ""
        parts = name.split(".") if name else []
        is_package = scope.path.name == "__init__.py"
        kept = parts[: len(parts) - node.level + is_package]
        return ".".join([*kept, *([node.module] if node.module else [])])

    def _from(self, origin: str, name: str, scope: Scope) -> Any:
        namespace = self.imported(origin, scope) if origin else None
        if isinstance(namespace, Namespace):
            return self.member(namespace, name)
        return External(f"{origin}.{name}")

    def _star(self, origin: str, scope: Scope) -> None:
        namespace = self.imported(origin, scope)
        if isinstance(namespace, Namespace):
            hidden = {"__name__"}
            values = namespace.scope.variables
            names = values.get("__all__") if isinstance(values.get("__all__"), list) else None
            wanted = names if names is not None else [name for name in values if not name.startswith("_")]
            scope.variables.update({name: values[name] for name in wanted if name in values and name not in hidden})

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef, scope: Scope) -> None:
        function = self._closure(node, scope)
        value: Any = function
        for decorator in reversed(node.decorator_list):
            value = self._decorated(value, decorator, scope)
        scope.variables[node.name] = value

    def _closure(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda, scope: Scope) -> FunctionObject:
        defaults = [self.value(each, scope) for each in node.args.defaults]
        keywords = {
            argument.arg: self.value(default, scope)
            for argument, default in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=False)
            if default is not None
        }
        return FunctionObject(node, scope, defaults, keywords)

    def _decorated(self, value: Any, decorator: ast.expr, scope: Scope) -> Any:
        """The function under a decorator; one from outside is taken to leave it as it is."""
        name = decorator.id if isinstance(decorator, ast.Name) else getattr(decorator, "attr", "")
        kind = {"staticmethod": "static", "classmethod": "class", "property": "property", "cached_property": "property"}
        if name in kind and isinstance(value, FunctionObject):
            value.kind = kind[name]
            return value
        if name == "setter":
            return scope.variables.get(value.name, value) if isinstance(value, FunctionObject) else value
        return value

    def _class(self, node: ast.ClassDef, scope: Scope) -> None:
        bases = [self.value(base, scope) for base in node.bases]
        inner = Scope({}, scope, scope.path)
        created = ClassObject(node.name, node, scope, [each for each in bases if each != External("object")])
        self._tolerant(node.body, inner)
        created.attributes = inner.variables
        for each in inner.variables.values():
            if isinstance(each, FunctionObject) and each.owner is None:
                each.owner = created
                each.scope = scope
        created.fields = [
            each.target.id
            for each in node.body
            if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name)
        ]
        text = " ".join(ast.unparse(each) for each in node.decorator_list)
        named_tuple = any(isinstance(each, External) and each.name.endswith("NamedTuple") for each in bases)
        inherited = any(isinstance(each, ClassObject) and each.is_dataclass for each in created.mro())
        created.is_dataclass = "dataclass" in text or "define" in text or "attr.s" in text or named_tuple or inherited
        scope.variables[node.name] = created

    # ------------------------------------------------------------------------------------------- expressions

    def value(self, node: ast.expr, scope: Scope) -> Any:
        """The value of an expression."""
        self._count(node, scope)
        method = _EXPRESSIONS.get(type(node))
        if method is None:
            return Unknown(f"{type(node).__name__} at line {node.lineno}")
        return method(self, node, scope)

    def _constant(self, node: ast.Constant, _scope: Scope) -> Any:
        return marked(node.value, self.place)

    def _name(self, node: ast.Name, scope: Scope) -> Any:
        try:
            return scope.lookup(node.id)
        except KeyError:
            pass
        if node.id in natives.BUILTINS or node.id in self.special:
            return External(f"builtins.{node.id}")
        if node.id in {"object", "Exception", "NotImplemented", "Ellipsis", "type", "print", "open", "input"}:
            return External("object") if node.id == "object" else External(f"builtins.{node.id}")
        return Unknown(f"name {node.id}")

    def _attribute(self, node: ast.Attribute, scope: Scope) -> Any:
        return self.attribute(self.value(node.value, scope), node.attr)

    def _elements(self, nodes: Sequence[ast.expr], scope: Scope) -> Items:
        result = Items()
        for node in nodes:
            if not isinstance(node, ast.Starred):
                result.append(self.value(node, scope))
                continue
            try:
                result.extend(natives.sequence(self.value(node.value, scope)))
            except Missing:
                result.doubt = "elements of unknown number"
        return result

    def _list(self, node: ast.List, scope: Scope) -> Any:
        return self._elements(node.elts, scope)

    def _tuple(self, node: ast.Tuple, scope: Scope) -> Any:
        items = self._elements(node.elts, scope)
        return Unknown(items.doubt) if items.doubt else tuple(items)

    def _set(self, node: ast.Set, scope: Scope) -> Any:
        items = self._elements(node.elts, scope)
        result = Pool(each for each in items if _is_hashable(each))
        result.doubt = items.doubt or ("" if is_known(items) else "unknown elements")
        return result

    def _dict(self, node: ast.Dict, scope: Scope) -> Any:
        result = Table()
        for key, item in zip(node.keys, node.values, strict=False):
            value = self.value(item, scope)
            if key is None:
                if not isinstance(value, dict) or natives.doubt_of(value):
                    return Unknown("a dict that is partly unknown")
                result.update(value)
                continue
            name = self.value(key, scope)
            if isinstance(name, Unknown) or not _is_hashable(name):
                return Unknown("a dict with unknown keys")
            result[name] = value
        return result

    def _binary(self, node: ast.BinOp, scope: Scope) -> Any:
        left, right = self.value(node.left, scope), self.value(node.right, scope)
        return natives.binary(type(node.op).__name__, left, right)

    def _unary(self, node: ast.UnaryOp, scope: Scope) -> Any:
        value = self.value(node.operand, scope)
        if isinstance(node.op, ast.Not):
            truth = self.truth(value)
            return PLAIN if truth is None else not truth
        if isinstance(value, Tensor):
            return value
        if not isinstance(value, (int, float)):
            return PLAIN
        return -value if isinstance(node.op, ast.USub) else value

    def _compare(self, node: ast.Compare, scope: Scope) -> Any:
        left = self.value(node.left, scope)
        result: Any = True
        for operation, right_node in zip(node.ops, node.comparators, strict=False):
            right = self.value(right_node, scope)
            part = natives.comparison(type(operation).__name__, left, right)
            if part is False:
                return False
            if isinstance(part, Unknown):
                result = PLAIN
            left = right
        return result

    def _boolean(self, node: ast.BoolOp, scope: Scope) -> Any:
        is_or = isinstance(node.op, ast.Or)
        candidates = []
        for each in node.values[:-1]:
            value = self.value(each, scope)
            truth = self.truth(value)
            if truth is None:
                candidates.append(value)
            elif truth == is_or:
                # Of `unknown and False` nobody asks more than whether it is true.
                return self.join([*candidates, value]) if is_or else value
        last = self.value(node.values[-1], scope)
        if not is_or and candidates and self.truth(last) is False:
            return last
        return self.join([*candidates, last])

    def _conditional(self, node: ast.IfExp, scope: Scope) -> Any:
        value = self.value(node.test, scope)
        condition = self.truth(value)
        if isinstance(value, Absent):
            self.assume(value)
            condition = False
        if condition is None:
            with self._perhaps():
                return self.join([self.value(node.body, scope), self.value(node.orelse, scope)])
        return self.value(node.body if condition else node.orelse, scope)

    def _subscript(self, node: ast.Subscript, scope: Scope) -> Any:
        return self.item(self.value(node.value, scope), self.value(node.slice, scope))

    def _slice(self, node: ast.Slice, scope: Scope) -> Any:
        parts = [None if each is None else self.value(each, scope) for each in (node.lower, node.upper, node.step)]
        return slice(*parts) if all(each is None or isinstance(each, int) for each in parts) else PLAIN

    def _text(self, node: ast.JoinedStr, scope: Scope) -> Any:
        parts = []
        for each in node.values:
            if isinstance(each, ast.Constant):
                parts.append(str(each.value))
                continue
            value = self.value(each.value, scope) if isinstance(each, ast.FormattedValue) else PLAIN
            if not isinstance(value, (str, int, float)) or getattr(each, "format_spec", None):
                return PLAIN
            parts.append(str(value))
        return "".join(parts)

    def _lambda(self, node: ast.Lambda, scope: Scope) -> Any:
        return self._closure(node, scope)

    def _comprehension(self, node: ast.ListComp | ast.GeneratorExp | ast.SetComp, scope: Scope) -> Any:
        result = Items()
        inner = Scope({}, scope, scope.path, scope.owner, scope.receiver)
        self._generate(node.generators, inner, lambda: result.append(self.value(node.elt, inner)), result)
        return result

    def _dict_comprehension(self, node: ast.DictComp, scope: Scope) -> Any:
        result = Table()
        doubts = Items()
        inner = Scope({}, scope, scope.path, scope.owner, scope.receiver)

        def add() -> None:
            key = self.value(node.key, inner)
            if isinstance(key, Unknown) or not _is_hashable(key):
                doubts.doubt = "a dict with unknown keys"
                return
            result[key] = self.value(node.value, inner)

        self._generate(node.generators, inner, add, doubts)
        return Unknown(doubts.doubt) if doubts.doubt else result

    def _generate(
        self, generators: list[ast.comprehension], scope: Scope, add: Callable[[], None], result: Items
    ) -> None:
        if not generators:
            add()
            return
        first, rest = generators[0], generators[1:]
        iterated = self.value(first.iter, scope)
        try:
            values = natives.sequence(iterated)
        except Missing:
            result.doubt = "elements of unknown number"
            values = [self.part(iterated)]
        for each in values[:_MAX_ROUNDS]:
            self.store(first.target, each, scope)
            truths = [self.truth(self.value(test, scope)) for test in first.ifs]
            if False in truths:
                continue
            if None in truths:
                result.doubt = "elements of unknown number"
            self._generate(rest, scope, add, result)

    def _named(self, node: ast.NamedExpr, scope: Scope) -> Any:
        value = self.value(node.value, scope)
        self.store(node.target, value, scope)
        return value

    def _starred(self, node: ast.Starred, scope: Scope) -> Any:
        return self.value(node.value, scope)

    def _awaited(self, node: ast.Await | ast.YieldFrom, scope: Scope) -> Any:
        return self.value(node.value, scope)

    def _yield(self, node: ast.Yield, scope: Scope) -> Any:
        if node.value is not None:
            self.value(node.value, scope)
        return Unknown("a generator")

    # -------------------------------------------------------------------------------------------------- calls

    def _call(self, node: ast.Call, scope: Scope) -> Any:
        callee = self._callee(node, scope)
        arguments = self._elements(node.args, scope)
        keywords: dict[str, Any] = {}
        doubt = arguments.doubt
        for keyword in node.keywords:
            value = self.value(keyword.value, scope)
            if keyword.arg is not None:
                keywords[keyword.arg] = self._said(keyword.arg, value)
            elif isinstance(value, dict):
                keywords.update({str(name): each for name, each in value.items()})
                doubt = doubt or natives.doubt_of(value)
            elif isinstance(value, Instance):
                doubt = "arguments of unknown value"
            else:
                doubt = "arguments of unknown value"
        self.place = Place(scope.path, node.lineno)
        self._doubt_changed_by(node, scope)
        if isinstance(callee, Unknown) and isinstance(node.func, ast.Attribute):
            self._tell(f".{node.func.attr}", [callee, *arguments], keywords)
        return self.call(callee, list(arguments), keywords, doubt=doubt)

    def _doubt_changed_by(self, node: ast.Call, scope: Scope) -> None:
        """Calls that change a module behind its back."""
        if isinstance(node.func, ast.Attribute) and node.func.attr in _CHANGE_TABLES:
            owner = self._table_of(node.func.value, scope)
            if owner is not None:
                owner.doubt = _BY_HAND
        elif isinstance(node.func, ast.Name) and node.func.id == "exec":
            around: Scope | None = scope
            while around is not None and around.receiver is None:
                around = around.parent
            if around is not None and isinstance(around.receiver, ModuleObject):
                around.receiver.doubt = "code that is made at run time"

    def _callee(self, node: ast.Call, scope: Scope) -> Any:
        if isinstance(node.func, ast.Name) and node.func.id == "super":
            return Native("super", lambda *given: self._super(list(given), scope))
        if isinstance(node.func, ast.Name) and node.func.id in {"locals", "vars"}:
            return Native("locals", self._variables)
        if isinstance(node.func, ast.Attribute):
            receiver = self.value(node.func.value, scope)
            if isinstance(receiver, Instance) and receiver.open and isinstance(receiver.cls, External):
                # Of what others define, as a Trainer, any method may be called.
                return receiver.attributes.get(node.func.attr) or Method(receiver, node.func.attr)
            return self.attribute(receiver, node.func.attr)
        return self.value(node.func, scope)

    def _variables(self, *given: Any) -> Any:
        """``vars(object)``; those of a function are not known."""
        is_object = len(given) == 1 and isinstance(given[0], Instance)
        return self.attribute(given[0], "__dict__") if is_object else Unknown("local variables")

    @staticmethod
    def _super(given: list[Any], scope: Scope) -> Any:
        around: Scope | None = scope
        while around is not None and around.owner is None:
            around = around.parent
        if len(given) == 2 and isinstance(given[0], ClassObject):
            return SuperObject(given[0], given[1])
        if around is None or around.owner is None:
            return Unknown("super")
        return SuperObject(around.owner, around.receiver)

    def apply(self, function: FunctionObject, arguments: list[Any], keywords: dict[str, Any], receiver: Any) -> Any:
        """Runs a function of the project and gives what it returns."""
        if self.depth >= _MAX_DEPTH:
            return Unknown("calls nested too deeply")
        scope = Scope({}, function.scope, function.scope.path, function.owner, receiver)
        self.bind(function, arguments, keywords, scope)
        if function.name == "__init__" and isinstance(receiver, Instance) and registers_arguments(function):
            receiver.attributes["config"] = Instance(External("a configuration"), dict(scope.variables))
        if isinstance(function.node, ast.Lambda):
            return self.value(function.node.body, scope)
        if self._yields(function.node):
            return Unknown("a generator")
        self.depth += 1
        self.applied.add(id(function))
        mark = len(self.returned)
        place, jumps = self.place, self.jumps
        try:
            with self._perhaps(unsure=False):
                self.body(function.node.body, scope)
            result: Any = None
        except _Return as end:
            result = end.value
        except RecursionError:
            result = Unknown("calls nested too deeply")
        finally:
            self.depth -= 1
            self.place, self.jumps = place, jumps
        earlier = [value for owner, values in self.returned[mark:] if owner == id(scope) for value in values]
        del self.returned[mark:]
        return self.join([*earlier, result]) if earlier else result

    def _yields(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
        known = self._generators.get(node)
        if known is None:
            known = self._generators[node] = _is_generator(node)
        return known

    def bind(self, function: FunctionObject, arguments: list[Any], keywords: dict[str, Any], scope: Scope) -> None:
        """Binds parameters to arguments and defaults."""
        given = dict(keywords)
        parameters = function.node.args
        positional = [*parameters.posonlyargs, *parameters.args]
        variables = scope.variables
        for parameter, default in zip(reversed(positional), reversed(function.defaults), strict=False):
            variables[parameter.arg] = default
        variables.update(function.keyword_defaults)
        for parameter, value in zip(positional, arguments, strict=False):
            variables[parameter.arg] = self._said(parameter.arg, value)
        if parameters.vararg is not None:
            variables[parameters.vararg.arg] = tuple(arguments[len(positional) :])
        for parameter in [*positional, *parameters.kwonlyargs]:
            if parameter.arg in given:
                variables[parameter.arg] = given.pop(parameter.arg)
            variables.setdefault(parameter.arg, Unknown(f"argument {parameter.arg}"))
        if parameters.kwarg is not None:
            variables[parameters.kwarg.arg] = Table(given)


def _no_file(_origin: Path, _name: str) -> None:
    return None


def _no_text(_path: Path) -> None:
    return None


_TREES = 48
"""Files whose trees are kept."""
_trees: dict[Path, tuple[str, ast.Module]] = {}


def _parsed(path: Path, text: str) -> ast.Module:
    """The tree of a file, of which one version is kept; several programs import the same ones."""
    known = _trees.pop(path, None)
    tree = known[1] if known is not None and known[0] == text else python_tree(text)
    _trees[path] = text, tree
    if len(_trees) > _TREES:
        del _trees[next(iter(_trees))]
    return tree


def _catches_missing(handler: ast.ExceptHandler) -> bool:
    """Whether a handler catches that a package is missing."""
    if handler.type is None:
        return True
    names = {each.id for each in ast.walk(handler.type) if isinstance(each, ast.Name)}
    return bool(names & {"ImportError", "ModuleNotFoundError", "Exception", "BaseException"})


def _is_generator(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    stack: list[ast.AST] = list(node.body)
    while stack:
        each = stack.pop()
        if isinstance(each, (ast.Yield, ast.YieldFrom)):
            return True
        if not isinstance(each, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)):
            stack.extend(ast.iter_child_nodes(each))
    return False


def _is_hashable(value: Any) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


def _is_same(first: Any, other: Any) -> bool:
    if first is other:
        return True
    simple = (int, float, str, type(None), External, tuple, Unknown)
    return isinstance(first, simple) and type(first) is type(other) and bool(first == other)


def _has_no_parameters(value: Any) -> bool:
    """Whether it is certain that ``value`` brings no parameters along, and is not called to make a module either."""
    if isinstance(value, ModuleObject):
        return not value.parameters() and not value.doubts() and not value.shared
    return value is None or isinstance(value, (int, float, str))


def _only_complains(body: Sequence[ast.stmt]) -> bool:
    """Whether a branch raises, or only prints."""
    if not body:
        return False
    if isinstance(body[-1], ast.Raise):
        return True
    last = body[-1]
    if not (isinstance(last, ast.Expr) and isinstance(last.value, ast.Call)):
        return False
    return ast.unparse(last.value.func) in {"sys.exit", "exit", "quit", "parser.error"}


def _only_trains(node: ast.For | ast.While) -> bool:
    """Whether the loop trains: it computes no network, it runs one."""
    return any(
        isinstance(each, ast.Attribute) and each.attr in {"backward", "zero_grad", "step", "no_grad"}
        for statement in node.body
        for each in ast.walk(statement)
    )


_STATEMENTS: dict[type[ast.stmt], Callable[[Evaluator, Any, Scope], None]] = {
    ast.Expr: Evaluator._expression,
    ast.Assign: Evaluator._assign,
    ast.AnnAssign: Evaluator._annotated,
    ast.AugAssign: Evaluator._augmented,
    ast.If: Evaluator._if,
    ast.For: Evaluator._for,
    ast.While: Evaluator._while,
    ast.With: Evaluator._with,
    ast.AsyncFor: Evaluator._for,
    ast.AsyncWith: Evaluator._with,
    ast.Match: Evaluator._match,
    ast.Try: Evaluator._try,
    ast.Return: Evaluator._return,
    ast.Raise: Evaluator._raise,
    ast.Break: Evaluator._break,
    ast.Continue: Evaluator._continue,
    ast.Delete: Evaluator._delete,
    ast.Global: Evaluator._outward,
    ast.Nonlocal: Evaluator._outward,
    ast.Import: Evaluator._import,
    ast.ImportFrom: Evaluator._import_from,
    ast.FunctionDef: Evaluator._function,
    ast.AsyncFunctionDef: Evaluator._function,
    ast.ClassDef: Evaluator._class,
}
_INSTALLED = sys.stdlib_module_names | {"torch", "numpy"}
_TABLES = frozenset({"_modules", "_parameters"})
_CHANGE_TABLES = frozenset("clear pop popitem setdefault update __setitem__ __delitem__".split())
_BY_HAND = "its tables are changed by hand"
_EXPRESSIONS: dict[type[ast.expr], Callable[[Evaluator, Any, Scope], Any]] = {
    ast.Constant: Evaluator._constant,
    ast.Name: Evaluator._name,
    ast.Attribute: Evaluator._attribute,
    ast.List: Evaluator._list,
    ast.Tuple: Evaluator._tuple,
    ast.Set: Evaluator._set,
    ast.Dict: Evaluator._dict,
    ast.BinOp: Evaluator._binary,
    ast.UnaryOp: Evaluator._unary,
    ast.Compare: Evaluator._compare,
    ast.BoolOp: Evaluator._boolean,
    ast.IfExp: Evaluator._conditional,
    ast.Subscript: Evaluator._subscript,
    ast.Slice: Evaluator._slice,
    ast.JoinedStr: Evaluator._text,
    ast.Lambda: Evaluator._lambda,
    ast.ListComp: Evaluator._comprehension,
    ast.GeneratorExp: Evaluator._comprehension,
    ast.SetComp: Evaluator._comprehension,
    ast.DictComp: Evaluator._dict_comprehension,
    ast.NamedExpr: Evaluator._named,
    ast.Starred: Evaluator._starred,
    ast.Await: Evaluator._awaited,
    ast.YieldFrom: Evaluator._awaited,
    ast.Yield: Evaluator._yield,
    ast.Call: Evaluator._call,
}
