"""Runs a program as ``python script.py`` or ``python -m module`` would, with other sources for some files if wanted."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import linecache
import os
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any


class CannotStart(Exception):
    """The program is not there or does not parse; ``str(error)`` is one line."""


class Script:
    """The program: prepared first, then run."""

    def __init__(self, target: str, is_module: bool, arguments: tuple[str, ...], sources: Mapping[str, str]) -> None:
        self._target = target
        self._is_module = is_module
        self._arguments = arguments
        self._sources = {os.path.realpath(path): other for path, other in sources.items()}
        self._module = types.ModuleType("__main__")
        self._code: types.CodeType | None = None

    def prepare(self) -> None:
        """Make ``sys.argv``, ``sys.path`` and ``__main__`` what the program expects. Raises :class:`CannotStart`."""
        if self._sources:
            sys.meta_path.insert(0, _OtherSources(self._sources))
            linecache.checkcache = _without_check  # Its rows are those of the other sources.
        if self._is_module:
            self._prepare_module()
        else:
            self._prepare_script()
        sys.modules["__main__"] = self._module

    def run(self) -> None:
        """Run it in this thread; whatever it raises comes through."""
        assert self._code is not None
        exec(self._code, vars(self._module))

    def _prepare_script(self) -> None:
        path = Path(self._target)
        # A folder or an archive with a __main__.py would need an importer; Python itself runs those.
        if not path.is_file():
            raise CannotStart(f"{self._target}: no such file")
        absolute = str(path.absolute())
        sys.argv[:] = [self._target, *self._arguments]
        sys.path[0] = str(path.resolve().parent)
        self._code = self._compiled(absolute)
        loader = importlib.machinery.SourceFileLoader("__main__", absolute)
        vars(self._module).update(__file__=absolute, __spec__=None, __loader__=loader, __builtins__=__builtins__)
        vars(self._module).update(__cached__=None, __package__=None, __annotations__={})

    def _compiled(self, path: str) -> types.CodeType:
        source = self._sources.get(os.path.realpath(path), path)
        try:
            data = Path(source).read_bytes()
            if source != path:
                _remember(path, data)
            return compile(data, path, "exec", dont_inherit=True)
        except (SyntaxError, ValueError) as error:
            raise CannotStart(f"{path}: {error}") from error
        except OSError as error:
            raise CannotStart(f"{path}: {error.strerror or error}") from error

    def _prepare_module(self) -> None:
        sys.argv[:] = ["-m", *self._arguments]
        sys.path[0] = str(Path.cwd())
        spec = self._found()
        loader: Any = spec.loader
        self._code = loader.get_code(spec.name)
        if self._code is None:
            raise CannotStart(f"{self._target}: the module has no code")
        sys.argv[0] = spec.origin or self._target
        vars(self._module).update(
            __file__=spec.origin,
            __spec__=spec,
            __loader__=loader,
            __builtins__=__builtins__,
            __cached__=spec.cached,
            __package__=spec.parent,
        )

    def _found(self) -> importlib.machinery.ModuleSpec:
        for name in (self._target, f"{self._target}.__main__"):
            try:
                spec = importlib.util.find_spec(name)
            except (ImportError, ValueError) as error:
                raise CannotStart(f"{self._target}: {error}") from error
            if spec is None or spec.loader is None:
                break
            if spec.submodule_search_locations is None:
                return spec
        raise CannotStart(f"{self._target}: no module of this name can be run")


class _OtherSources(importlib.abc.MetaPathFinder):
    """Loads some files from elsewhere; modules keep their names and places."""

    def __init__(self, sources: Mapping[str, str]) -> None:
        self._sources = sources

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.origin is None:
            return None
        other = self._sources.get(os.path.realpath(spec.origin))
        if other is None:
            return None
        spec.loader = _OtherSource(fullname, spec.origin, other)
        spec.cached = None
        return spec


class _OtherSource(importlib.machinery.SourceFileLoader):
    def __init__(self, fullname: str, path: str, other: str) -> None:
        super().__init__(fullname, path)
        self._other = other

    def get_code(self, fullname: str) -> types.CodeType:  # noqa: ARG002 - what Python passes
        # No cached bytecode is read or written: it belongs to the file that stands there.
        data = Path(self._other).read_bytes()
        _remember(self.path, data)
        return compile(data, self.path, "exec", dont_inherit=True)


def _remember(path: str, data: bytes) -> None:
    """Let tracebacks show the rows that run."""
    text = importlib.util.decode_source(data)
    linecache.cache[path] = (len(data), None, text.splitlines(keepends=True), path)


_check = linecache.checkcache


def _without_check(filename: str | None = None) -> None:
    kept = {name: entry for name, entry in linecache.cache.items() if len(entry) == 4 and entry[1] is None}
    _check(filename)
    linecache.cache.update(kept)


def after_import(name: str, action: Callable[[], None]) -> None:
    """Call ``action`` as soon as the top-level module ``name`` has been imported."""
    if name in sys.modules:
        action()
    else:
        sys.meta_path.insert(0, _ImportWatch(name, action))


class _ImportWatch(importlib.abc.MetaPathFinder):
    def __init__(self, name: str, action: Callable[[], None]) -> None:
        self._name = name
        self._action = action
        self._searching = False

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,  # noqa: ARG002 - what Python passes
        target: types.ModuleType | None = None,  # noqa: ARG002
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self._name or self._searching:
            return None
        self._searching = True
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self._searching = False
        if spec is None or spec.loader is None:
            return None
        sys.meta_path.remove(self)
        spec.loader = _Announcing(spec.loader, self._action)
        return spec


class _Announcing(importlib.abc.Loader):
    """Loads as another loader does, and says when it is done."""

    def __init__(self, loader: Any, action: Callable[[], None]) -> None:
        self._loader = loader
        self._action = action

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType | None:
        module: types.ModuleType | None = self._loader.create_module(spec)
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        module.__loader__ = self._loader
        self._loader.exec_module(module)
        self._action()
