"""The files that belong together: what an import resolves to, and who mentions a function."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import libcst as cst

from memlint.digests import digest
from memlint.model.callers import FEW_FILES, CallerFiles, caller_files, callers_sought
from memlint.model.dependencies import (
    Basis,
    CallersSought,
    Dependencies,
    FileRead,
    FolderListed,
    Leaf,
    UsersSought,
    leaves,
    resting_on,
)
from memlint.model.documents import SUFFIXES, Entry, parse_document
from memlint.model.lookups import Lookups
from memlint.model.memo import Memo
from memlint.model.mentions import Mentions
from memlint.model.outline import defines
from memlint.model.program import Program
from memlint.model.room import Modules, take_apart
from memlint.model.scopes import Class, Function, Module
from memlint.model.values import ClassValue, External, FunctionValue, ModuleValue, Value
from memlint.parsing import expect_places_in, read, source_encoding
from memlint.stages import stage

if TYPE_CHECKING:
    from memlint.model.pins import Range

_MAX_USERS = 24
"""Files that use a name and are read for what they do with it."""
_MAX_DERIVING = 4
"""Files beside its own that are read for the classes that are derived from a class."""
_LIBRARIES = frozenset({"torch", "torchvision", "torchaudio", "transformers", "numpy"})
"""Libraries that are meant by their own names where a module out of sight provides these by ``import *``."""


class Project:
    """Files that are checked together. ``files`` are the absolute paths of its Python files.

    ``root`` is the folder that imports are resolved against, besides the folder of the importing file and the folder
    that holds its top-level package. Other modules are parsed only when a question leads to them.
    """

    def __init__(self, root: Path, files: Sequence[Path] = ()) -> None:
        self.root = root
        self.files = tuple(files)
        self._python_files = tuple(path for path in self.files if path.suffix == ".py")
        self._modules = Modules()
        self._found: dict[tuple[Path, str], Path | None] = {}
        self._paths = {str(path): path for path in self._python_files}
        """One object for each file: paths that are the same object are quick to compare."""
        self._folders: dict[Path, Path] = {}
        self.lookups = Lookups()
        self._digests: dict[Path, bytes] = {}
        """Of the bytes of files as they were read; empty for those that cannot be."""
        self._seen: dict[Path, int] = {}
        """Hashes of the bytes of files as they were last read or handed in."""
        self._callers: dict[Function, CallerFiles] = {}
        self._mentioning: dict[str, tuple[tuple[Module, ...] | None, Basis]] = {}
        self._resolved: dict[tuple[Path, str], tuple[Value | None, Basis]] = {}
        self._documents: dict[Path, Entry | None] = {}
        self._index: Mentions | None = None
        self.pins: dict[Path, tuple[Mapping[str, tuple[Range, ...]] | None, Basis]] = {}
        """What the metadata of a folder says of versions, kept by :mod:`memlint.model.pins`."""
        self._import_roots: dict[Path, tuple[str, ...]] = {}
        self._checked: Path | None = None
        self._is_watched = False
        """Whether it is still of interest what the findings of the checked file rest on."""
        self._numbers: dict[Path, int] = {}
        self._at_next_file: list[Callable[[], None]] = []
        self._uses = 0
        """Files that have been checked: the clock by which the last use of a module is told."""
        self.memo = Memo()
        """Answers of the analyses, dropped when a file changes."""

    # ------------------------------------------------------------------ modules

    def module(self, path: Path, text: str) -> Module:
        """The module of ``text``, which stands (or will stand) at ``path``, replacing what was known of that file.

        Raises ``libcst.ParserSyntaxError`` for a text that does not parse.
        """
        known = self._modules.get(path)
        if known is not None and known.text == text:
            return known
        module = self._parsed(path, text)
        seen = hash(text.encode("utf-8", "replace"))
        if known is not None or self._seen.get(path, seen) != seen:
            self.forget()
            self._index = None
        self._seen[path] = seen
        self._modules.keep(path, module)
        return module

    def folder(self, path: Path) -> Path:
        """The folder of ``path``, the same object for all files in it."""
        found = path.parent
        return self._folders.setdefault(found, found)

    def _parsed(self, path: Path, text: str) -> Module:
        self.lookups.follow_package(path.parent)
        with stage("parse"):
            tree = read(text)
        return Module(path, module_name(path), text, tree, self, path.name == "__init__.py")

    def forget(self) -> None:
        """Drops what was worked out so far; it is worked out again when it is asked for."""
        self.memo.clear()
        self._resolved.clear()
        self._callers.clear()
        self._mentioning.clear()
        self._modules.clear()
        self._documents.clear()
        self.pins.clear()

    def program(self, path: Path, text: str, data: bytes | None = None) -> Program:
        """What the rules see of ``text``, which ``data`` encodes; see :meth:`module`."""
        while self._at_next_file:
            self._at_next_file.pop()()
        self._make_room(path)
        program = Program(self.module(path, text))
        program.module.last_use = self._uses
        expect_places_in(program.tree)
        self._checked = path
        self._is_watched = True
        self._digests[path] = digest(text.encode("utf-8", "replace") if data is None else data)
        self.memo.start(self._bit(path))
        return program

    def _make_room(self, path: Path) -> None:
        """Lets go of modules that have not been used for long, if too many are in memory; that at ``path`` stays."""
        self._uses += 1
        modules = self._modules.to_let_go(path)
        if not modules:
            return
        paths = {module.path for module in modules}
        resolved, mentioning = self._resolved, self._mentioning
        remembered = (rest for store in (resolved, mentioning) for _, rest in store.values())
        rests = resting_on((*self.memo.resting(), *remembered), paths)
        self.memo.forget(frozenset(modules), rests)
        self._resolved = {key: known for key, known in resolved.items() if known[1] not in rests}
        self._mentioning = {name: known for name, known in mentioning.items() if known[1] not in rests}
        for function in [function for function in self._callers if function.module.path in paths]:
            del self._callers[function]
        for module in modules:
            self._modules.drop(module.path)
            take_apart(module)

    def at_next_file(self, release: Callable[[], None]) -> None:
        """Has ``release`` called when the check of another file begins."""
        self._at_next_file.append(release)

    def load(self, path: Path) -> Module | None:
        """The module at ``path``; None if it cannot be read or parsed."""
        self.memo.rests_on(FileRead(path))
        if path not in self._modules:
            self._modules.keep(path, None)
            try:
                self._modules.keep(path, self._parsed(path, _decoded(self.read(path))))
            except (cst.ParserSyntaxError, RecursionError, UnicodeError, SyntaxError, LookupError):
                return None
        module = self._modules.get(path)
        if module is not None:
            module.last_use = self._uses
        return module

    def read(self, path: Path) -> bytes:
        """The bytes of a file of the project, or of the text that was handed in for it; empty if it is unreadable."""
        self.memo.rests_on(FileRead(path))
        return self._read(path)

    def _read(self, path: Path) -> bytes:
        module = self._modules.get(path)
        if module is not None:
            return module.text.encode("utf-8", "replace")
        try:
            data = path.read_bytes()
        except OSError:
            data = b""
            self._digests[path] = b""
        else:
            self._digests[path] = digest(data)
        self._seen[path] = hash(data)
        return data

    def listed(self, folder: Path, pattern: str) -> list[Path]:
        """The files in ``folder`` whose names match ``pattern``, sorted."""
        self.memo.rests_on(FolderListed(folder, pattern))
        return self.lookups.matching(folder, pattern)

    def document(self, origin: Module, name: str) -> tuple[Path, Entry] | None:
        """The JSON or YAML file that code in ``origin`` names, with what it holds.

        A relative name is looked for where programs are usually started: beside the file and its package, and at the
        root of the project.
        """
        if Path(name).suffix not in SUFFIXES:
            return None
        for base in self._roots(origin.folder):
            path = Path(base, name)
            self.memo.rests_on(FileRead(path))
            if path not in self._documents:
                data = self.read(path)
                self._documents[path] = parse_document(path, data) if data else None
            found = self._documents[path]
            if found is not None:
                return path, found
        return None

    # ------------------------------------------------------------------ imports

    def resolve(self, origin: Module, qualified_name: str) -> Value | None:
        """What ``qualified_name`` means when imported in ``origin``, if the project defines it.

        A :class:`FunctionValue`, :class:`ClassValue` or :class:`ModuleValue`, or the value that a module-level
        variable was bound to last; None for everything outside the project.
        """
        key = (origin.folder, qualified_name)
        found = self.memo.once(self._resolved, key, lambda: self._resolve(origin, qualified_name, depth=0))
        if found is not None:
            found.module.last_use = self._uses
        return found

    def _resolve(self, origin: Module, qualified_name: str, depth: int) -> Value | None:
        parts = qualified_name.split(".")
        if depth > 8:
            return None
        for count in range(len(parts), 0, -1):
            path = self._locate(origin.folder, ".".join(parts[:count]))
            if path is None:
                continue
            module = self.load(path)
            if module is None:
                return None
            return self._member(module, parts[count:], depth)
        return None

    def _member(self, module: Module, names: list[str], depth: int) -> Value | None:
        body = module.body.lower()
        value: Value = ModuleValue(module.tree, body.body, 0, module)
        for position, name in enumerate(names):
            if isinstance(value, ModuleValue):
                found = self._binding(value.target, name, depth)
            elif isinstance(value, ClassValue):
                method = value.target.methods.get(name)
                found = FunctionValue(method.node, body.body, 0, method) if method is not None else None
            else:
                return None
            if isinstance(found, External):
                rest = ".".join([found.qualified_name, *names[position + 1 :]])
                return self._resolve(module, rest, depth + 1) or External(module.tree, body.body, 0, rest)
            if found is None:
                return None
            value = found
        return value

    def _binding(self, module: Module, name: str, depth: int) -> Value | None:
        bound = module.body.lower().bindings.get(name)
        if bound:
            return bound[-1]
        for star in module.star_imports:
            found = self._resolve(module, f"{star}.{name}", depth + 1)
            if found is not None:
                return found
        submodule = self._locate(module.folder, f"{module.name}.{name}") if module.is_package else None
        loaded = self.load(submodule) if submodule is not None else None
        return ModuleValue(loaded.tree, loaded.body.body, 0, loaded) if loaded is not None else None

    def star_import(self, module: Module, name: str) -> str | None:
        """The qualified name of ``name`` if one of the ``from m import *`` of ``module`` provides it."""
        for star in module.star_imports:
            if self._locate(module.folder, star) is not None and self.resolve(module, f"{star}.{name}") is not None:
                return f"{star}.{name}"
        if name in _LIBRARIES:
            return name
        only = module.star_imports[0] if len(module.star_imports) == 1 else None
        return f"{only}.{name}" if only is not None and self._locate(module.folder, only) is None else None

    def locate(self, importing: Path, name: str) -> Path | None:
        """The file of the module ``name`` as the file at ``importing`` imports it; None if the project has none."""
        found = self._locate(importing.parent, name)
        if found is not None:
            self.memo.rests_on(FileRead(found))
        return found

    def _locate(self, folder: Path, name: str) -> Path | None:
        key = (folder, name)
        if key not in self._found:
            self._found[key] = self._search(folder, name)
        return self._found[key]

    def _search(self, folder: Path, name: str) -> Path | None:
        first = name.partition(".")[0]
        lookups = self.lookups
        for base in self._roots(folder):
            if lookups.may_hold(folder, base, first):
                relative = f"{base}{name.replace('.', os.sep)}"
                for candidate in (f"{relative}.py", f"{relative}{os.sep}__init__.py"):
                    if lookups.is_file(folder, candidate):
                        return self._paths.setdefault(candidate, Path(candidate))
        return None

    def _roots(self, folder: Path) -> tuple[str, ...]:
        """The folders that imports in files of ``folder`` are resolved against, each with a separator at its end."""
        if folder not in self._import_roots:
            self.lookups.follow_package(folder)
            bases = (package_root(folder / "_"), folder, self.root, self.root / "src")
            self._import_roots[folder] = tuple(dict.fromkeys(f"{base}{os.sep}" for base in bases))
        return self._import_roots[folder]

    # ------------------------------------------------------------------ callers

    def caller_files(self, function: Function) -> CallerFiles:
        """The files of the project to read in search of calls of ``function``."""
        sought = callers_sought(function)
        if sought is not None:
            self.memo.rests_on(sought)
        known = self._callers.get(function)
        if known is None:
            own = function.module.path
            known = CallerFiles((own,), complete=True) if sought is None else caller_files(sought, self._mentions())
            self._callers[function] = known
        return known

    def callers(self, function: Function) -> Iterator[Module]:
        """The modules in which calls of ``function`` count, its own first, the others read as they are asked for.

        Those are all of :meth:`caller_files` for the functions of the file that is checked and of the files that call
        them, and for functions that few files call. Of other functions only the calls in their own and in the checked
        file count: others say little about the checked file, and lead through the whole project.
        """
        yield function.module
        others = self.caller_files(function).paths[1:]
        if not others:
            return
        checked = self._checked
        searched = len(others) <= FEW_FILES or self.memo.searched & self._bit(function.module.path)
        if searched and not self.memo.is_abroad:
            self.memo.depends_on_checked_file()
            wanted = others
        elif checked is not None and checked in others:
            self.memo.depends_on_checked_file()
            wanted = (checked,)
        else:
            self.memo.would_differ_for(sum(map(self._bit, (function.module.path, *others))))
            wanted = ()
        for path in wanted:
            module = self.load(path)
            if module is not None:
                yield module

    def found_caller(self, caller: Module, function: Function) -> None:
        """Takes note that ``caller`` has a call of ``function``; if that is a checked one, its callers count, too."""
        if function.module.path == self._checked and caller.path != self._checked:
            self.memo.searched |= self._bit(caller.path)

    def _bit(self, path: Path) -> int:
        return 1 << self._numbers.setdefault(path, len(self._numbers))

    def deriving(self, owner: Class) -> tuple[Module, ...]:
        """The other modules of the project that derive classes from one of the name of ``owner``; none if many do."""
        self.memo.rests_on(UsersSought(owner.name))
        mentions = self._mentions()
        paths = [
            path
            for path in mentions.of(owner.name) or ()
            if path != owner.module.path and owner.name in mentions.outline(path).initialized
        ]
        return tuple(filter(None, map(self.load, paths))) if len(paths) <= _MAX_DERIVING else ()

    def mentioning(self, name: str) -> tuple[Module, ...] | None:
        """The modules of the project whose code, quoted text included, uses ``name``; None when they are too many."""
        return self.memo.once(self._mentioning, name, lambda: self._users(name))

    def defining(self, name: str) -> tuple[Function, ...] | None:
        """The functions of the project that are called ``name``; None when too many files have one, or speak of it."""
        self.memo.rests_on(UsersSought(name))
        mentioned = self._mentions().of(name)
        paths = [path for path in mentioned or () if defines(self.read(path), name)]
        if mentioned is None or len(paths) > _MAX_USERS:
            return None
        modules = filter(None, map(self.load, paths))
        return tuple(each for module in modules for each in module.functions if each.name == name)

    def _users(self, name: str) -> tuple[Module, ...] | None:
        self.memo.rests_on(UsersSought(name))
        mentions = self._mentions()
        paths = [path for path in mentions.of(name) or () if name in mentions.outline(path).used]
        common = mentions.of(name) is None or len(paths) > _MAX_USERS
        return None if common else tuple(filter(None, map(self.load, paths)))

    def is_imported(self, module: Module) -> bool:
        """Whether a file of the project imports something of the name of this file; yes if too many speak of it."""
        name = module.path.stem
        self.memo.rests_on(UsersSought(name))
        mentions = self._mentions()
        paths = mentions.of(name)
        others = [path for path in paths or () if path != module.path]
        return paths is None or any(name in mentions.outline(path).imported for path in others)

    def _mentions(self) -> Mentions:
        if self._index is None:
            # Who asks of a word rests on who mentions it, not on the text of all files.
            self._index = Mentions(self._python_files, self._read)
        return self._index

    # ------------------------------------------------------------------ dependencies

    def dependencies(self) -> Dependencies | None:
        """What the findings of the file that was checked last rest on in other files.

        None if it was not parsed, or if they have been asked for already.
        """
        if self._checked is None or not self._is_watched:
            return None
        self._is_watched = False
        found = set(leaves((*self.memo.dependencies(), FileRead(self._checked)), self._lasting))
        listed = (leaf for leaf in found if isinstance(leaf, FolderListed))
        files = (leaf.path for leaf in found if isinstance(leaf, FileRead) and leaf.path != self._checked)
        return Dependencies(
            {path: self._digests.get(path, b"") for path in files},
            {leaf: tuple(path.name for path in self.lookups.matching(*leaf)) for leaf in listed},
            tuple(leaf for leaf in found if isinstance(leaf, CallersSought)),
            tuple(leaf.name for leaf in found if isinstance(leaf, UsersSought)),
        )

    def _lasting(self, leaf: Leaf) -> Iterable[Basis | Leaf]:
        """What everybody rests on who looks at a file."""
        module = self._modules.get(leaf.path) if isinstance(leaf, FileRead) else None
        return self.memo.lasting_of(module) if module is not None else ()


def _decoded(data: bytes) -> str:
    return data.decode(source_encoding(data))


def package_root(path: Path) -> Path:
    """The folder that holds the top-level package of the file at ``path``; its own folder for a plain script."""
    folder = path.parent
    while (folder / "__init__.py").is_file() and folder.parent != folder:
        folder = folder.parent
    return folder


def module_name(path: Path) -> str:
    """The dotted name under which the file at ``path`` is imported."""
    relative = path.relative_to(package_root(path)).with_suffix("")
    parts = relative.parts[:-1] if path.name == "__init__.py" else relative.parts
    return ".".join(parts) or path.stem
