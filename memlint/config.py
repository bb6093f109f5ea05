"""Configuration: ``[tool.memlint]`` in pyproject.toml, ``memlint.toml``, ``.memlint.toml`` and the command line.

Names, precedence and search follow ruff: the closest configuration above a file is the one that counts, and the
command line goes before it. Nothing here knows a rule; the caller says which codes exist.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from memlint.messages import UserError, did_you_mean

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

    from memlint.rule import Rule, RuleFacts

DEFAULT_EXCLUDE = (
    ".bzr",
    ".direnv",
    ".eggs",
    ".git",
    ".git-rewrite",
    ".hg",
    ".ipynb_checkpoints",
    ".memlint_cache",
    ".mypy_cache",
    ".nox",
    ".pants.d",
    ".pyenv",
    ".pytest_cache",
    ".pytype",
    ".ruff_cache",
    ".svn",
    ".tox",
    ".venv",
    ".vscode",
    "__pypackages__",
    "_build",
    "buck-out",
    "build",
    "dist",
    "node_modules",
    "site-packages",
    "venv",
)
"""What is not walked into unless it is named; ruff's list and memlint's own cache."""

DEFAULT_NAMES = frozenset(DEFAULT_EXCLUDE)

OUTPUT_FORMATS = ("full", "concise", "json", "github", "sarif")
"""How findings can be printed (:mod:`memlint.report`)."""

PROJECT_FILE = "pyproject.toml"
OWN_FILES = ("memlint.toml", ".memlint.toml")
ALL = "ALL"


class ConfigError(UserError):
    """A configuration that cannot be used; ``str(error)`` says in one line where and why."""


class Selection(NamedTuple):
    """Which rules one layer (a file, the command line) turns on and off. None leaves the layer below as it is."""

    select: tuple[str, ...] | None = None
    extend_select: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()

    def applied(self, enabled: frozenset[str], codes: Collection[str]) -> frozenset[str]:
        """The codes that are on when this layer comes on top of ``enabled``. More specific selectors win."""
        on = set(enabled if self.select is None else ())
        wanted = (*(self.select or ()), *self.extend_select)
        for specificity in sorted({_specificity(selector) for selector in (*wanted, *self.ignore)}):
            on |= _matching((selector for selector in wanted if _specificity(selector) == specificity), codes)
            on -= _matching((selector for selector in self.ignore if _specificity(selector) == specificity), codes)
        return frozenset(on)


class Patterns(NamedTuple):
    """Patterns as in .gitignore files, relative to ``root``."""

    root: Path
    texts: tuple[str, ...]

    def match(self, path: Path, base: Path | None = None, is_directory: bool = False) -> bool:
        """Whether ``path`` matches, taken relative to ``base`` instead of ``root`` if that is given."""
        return matcher(self.texts).match_file(relative(path, base or self.root) + "/" * is_directory)


class PerFileIgnore(NamedTuple):
    """Rules that are off in the files that match ``pattern``; a leading ``!`` means all other files."""

    root: Path
    pattern: str
    selectors: tuple[str, ...]

    def matches(self, path: Path) -> bool:
        """Whether the rules are off in the file at ``path``."""
        matched = Patterns(self.root, (self.pattern.removeprefix("!"),)).match(path)
        return matched != self.pattern.startswith("!")


class Settings(NamedTuple):
    """What holds for a file."""

    root: Path
    """The directory of the configuration file, or the working directory if there is none."""
    source: Path | None = None
    """The configuration file, if there is one."""
    selections: tuple[Selection, ...] = ()
    """From the weakest layer to the strongest."""
    per_file_ignores: tuple[PerFileIgnore, ...] = ()
    exclude: tuple[Patterns, ...] = ()
    """Patterns instead of :data:`DEFAULT_EXCLUDE`; empty if nobody says so."""
    extend_exclude: tuple[Patterns, ...] = ()
    """From each layer."""
    force_exclude: bool = False
    respect_gitignore: bool = True
    output_format: str = "full"
    fix: bool = False
    unsafe_fixes: bool = False
    device: str | None = None

    def enabled(self, rules: Sequence[Rule | RuleFacts]) -> frozenset[str]:
        """The codes of those of ``rules`` that are on."""
        return _enabled(self.selections, tuple(rules))

    def enabled_in(self, path: Path, rules: Sequence[Rule | RuleFacts]) -> frozenset[str]:
        """The codes of those of ``rules`` that are on in the file at ``path``."""
        enabled = self.enabled(rules)
        ignored = (each.selectors for each in self.per_file_ignores if each.matches(path))
        return enabled.difference(*(_matching(selectors, enabled) for selectors in ignored))

    def excludes(self, path: Path, base: Path | None = None, is_directory: bool = False) -> bool:
        """Whether ``path`` is excluded; ``base`` is what patterns are relative to instead of their own roots."""
        if not self.exclude and not DEFAULT_NAMES.isdisjoint(_parts(path, base or self.root)):
            return True
        return any(patterns.match(path, base, is_directory) for patterns in (*self.exclude, *self.extend_exclude))


@functools.lru_cache(maxsize=1024)
def matcher(patterns: tuple[str, ...]) -> GitIgnoreSpec:
    """Compiles patterns as in .gitignore files."""
    from pathspec import GitIgnoreSpec

    return GitIgnoreSpec.from_lines(patterns)


def is_pattern(text: str) -> bool:
    """Whether ``text`` can stand in a .gitignore file."""
    try:
        matcher((text,))
    except ValueError:
        return False
    return True


def relative(path: Path, root: Path) -> str:
    """``path`` as patterns see it: relative to ``root``, with forward slashes; a path elsewhere keeps all its parts."""
    try:
        return path.relative_to(root).as_posix()
    except ValueError:
        return path.as_posix().lstrip("/")


def _parts(path: Path, root: Path) -> tuple[str, ...]:
    """The names in ``path`` below ``root``; all of them for a path elsewhere."""
    parts, above = path.parts, root.parts
    return parts[len(above) :] if parts[: len(above)] == above else parts


@functools.lru_cache(maxsize=1024)
def _enabled(selections: tuple[Selection, ...], rules: tuple[Rule | RuleFacts, ...]) -> frozenset[str]:
    codes = [rule.code for rule in rules]
    enabled = frozenset(rule.code for rule in rules if rule.default)
    for selection in selections:
        enabled = selection.applied(enabled, codes)
    return enabled


def _specificity(selector: str) -> int:
    return 0 if selector == ALL else len(selector)


def _matching(selectors: Iterable[str], codes: Collection[str]) -> frozenset[str]:
    prefixes = tuple("" if selector == ALL else selector for selector in selectors)
    return frozenset(code for code in codes if code.startswith(prefixes))


# ---------------------------------------------------------------------------------------------------- options


class Options(NamedTuple):
    """What one layer of configuration says; None where it says nothing. The fields are the keys of the files."""

    select: tuple[str, ...] | None = None
    extend_select: tuple[str, ...] | None = None
    ignore: tuple[str, ...] | None = None
    per_file_ignores: tuple[PerFileIgnore, ...] | None = None
    exclude: Patterns | None = None
    extend_exclude: Patterns | None = None
    force_exclude: bool | None = None
    respect_gitignore: bool | None = None
    output_format: str | None = None
    fix: bool | None = None
    unsafe_fixes: bool | None = None
    device: str | None = None

    def applied(self, settings: Settings) -> Settings:
        """``settings`` with this layer on top."""
        said = {name: value for name, value in self._asdict().items() if value is not None}
        selection = Selection(said.pop("select", None), said.pop("extend_select", ()), said.pop("ignore", ()))
        if selection != Selection():
            said["selections"] = (*settings.selections, selection)
        if "exclude" in said:
            said["exclude"] = (said["exclude"],)
        if "extend_exclude" in said:
            said["extend_exclude"] = (*settings.extend_exclude, said["extend_exclude"])
        return settings._replace(**said)


KEYS = tuple(name.replace("_", "-") for name in Options._fields)
"""The keys of a configuration file."""
_SELECTOR_KEYS = frozenset({"select", "extend-select", "ignore"})
_PATTERN_KEYS = frozenset({"exclude", "extend-exclude"})
_FLAG_KEYS = frozenset({"force-exclude", "respect-gitignore", "fix", "unsafe-fixes"})


def options_from(table: Mapping[str, Any], where: str, root: Path, codes: Collection[str]) -> Options:
    """The options in a table of TOML that stands ``where``, its patterns relative to ``root``.

    Raises ConfigError for what is not right in it.
    """
    return Options(**{key.replace("-", "_"): _value(key, value, where, root, codes) for key, value in table.items()})


def _value(key: str, value: Any, where: str, root: Path, codes: Collection[str]) -> Any:
    if key not in KEYS:
        raise ConfigError(f'{where}: unknown key "{key}"{did_you_mean(key, KEYS)}')
    if key in _SELECTOR_KEYS:
        return checked_selectors(_strings(key, value, where), f'{where}: "{key}"', codes)
    if key in _PATTERN_KEYS:
        return Patterns(root, checked_patterns(_strings(key, value, where), f'{where}: "{key}"'))
    if key == "per-file-ignores":
        return _per_file_ignores(value, where, root, codes)
    if key in _FLAG_KEYS:
        if not isinstance(value, bool):
            raise ConfigError(f'{where}: "{key}" must be true or false, not {_toml_type(value)}')
        return value
    if not isinstance(value, str):
        raise ConfigError(f'{where}: "{key}" must be a string, not {_toml_type(value)}')
    checked = {"output-format": checked_format, "device": checked_device}[key]
    return checked(value, f'{where}: "{key}"')


def _strings(key: str, value: Any, where: str) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise ConfigError(f'{where}: "{key}" must be a list of strings, not {_toml_type(value)}')
    for each in value:
        if not isinstance(each, str):
            raise ConfigError(f'{where}: "{key}" must hold strings only, not {_toml_type(each)}')
    return tuple(value)


def _per_file_ignores(value: Any, where: str, root: Path, codes: Collection[str]) -> tuple[PerFileIgnore, ...]:
    key = "per-file-ignores"
    if not isinstance(value, dict):
        raise ConfigError(f'{where}: "{key}" must be a table of patterns and lists of codes, not {_toml_type(value)}')
    return tuple(
        PerFileIgnore(
            root,
            checked_patterns((pattern,), f'{where}: "{key}"')[0],
            checked_selectors(_strings(f"{key}.{pattern}", selectors, where), f'{where}: "{key}"', codes),
        )
        for pattern, selectors in value.items()
    )


def _toml_type(value: Any) -> str:
    names = {bool: "a boolean", int: "an integer", float: "a float", str: "a string", list: "a list", dict: "a table"}
    return names.get(type(value), "a date or time")


def checked_selectors(selectors: Iterable[str], where: str, codes: Collection[str]) -> tuple[str, ...]:
    """``selectors`` if each of them is ``ALL`` or begins the code of a rule; else raises ConfigError."""
    checked = tuple(selectors)
    for selector in checked:
        if selector != ALL and not (selector and any(code.startswith(selector) for code in codes)):
            known = [*codes, *{code[:size] for code in codes for size in range(3, len(code))}, ALL]
            raise ConfigError(f'{where}: unknown rule "{selector}"{did_you_mean(selector, known)}')
    return checked


def checked_format(output_format: str, where: str) -> str:
    """``output_format`` if it is one of those that there are; else raises ConfigError."""
    if output_format not in OUTPUT_FORMATS:
        meant = did_you_mean(output_format, OUTPUT_FORMATS)
        raise ConfigError(f'{where}: must be one of {", ".join(OUTPUT_FORMATS)}, not "{output_format}"{meant}')
    return output_format


def checked_device(name: str, where: str) -> str:
    """``name`` if it is a device that memlint knows, or a size; else raises ConfigError."""
    from memlint.devices import UnknownDevice, device

    try:
        device(name)
    except UnknownDevice as error:
        raise ConfigError(f"{where}: {error}") from error
    return name


def checked_patterns(patterns: Iterable[str], where: str) -> tuple[str, ...]:
    """``patterns`` if each of them is a gitignore pattern; else raises ConfigError."""
    checked = tuple(patterns)
    for pattern in checked:
        if not is_pattern(pattern):
            raise ConfigError(f'{where}: "{pattern}" is not a pattern as in .gitignore files')
    return checked


# ---------------------------------------------------------------------------------------------------- files


@dataclass
class Configuration:
    """Answers which settings hold where. Can be sent to another process."""

    codes: frozenset[str]
    """The codes of all rules that there are."""
    overrides: Options = field(default_factory=Options)
    """What the command line says."""
    inline: tuple[Options, ...] = ()
    """``--config "key = value"``: stronger than files, weaker than options of their own."""
    file: Path | None = None
    """``--config FILE``: used for every file instead of searching."""
    isolated: bool = False
    _known: dict[Path, Settings | ConfigError] = field(default_factory=dict)

    def settings(self, directory: Path) -> Settings:
        """The settings for the files in ``directory``, an absolute path. Raises ConfigError."""
        if directory not in self._known:
            try:
                self._known[directory] = self._search(directory)
            except ConfigError as error:
                self._known[directory] = error
        known = self._known[directory]
        if isinstance(known, ConfigError):
            raise known
        return known

    def source(self, directory: Path) -> Path | None:
        """The file that configures ``directory``, if there is one and it can be used."""
        try:
            return self.settings(directory).source
        except ConfigError:
            return None

    def forget(self) -> None:
        """Reads the files again when they are next needed."""
        self._known.clear()

    def _search(self, directory: Path) -> Settings:
        if self.isolated or self.file:
            return self._settings(Path.cwd(), self.file)
        found = _configuration_in(directory)
        if found:
            return self._settings(directory, found)
        if directory.parent == directory:
            return self._settings(Path.cwd(), None)
        return self.settings(directory.parent)

    def _settings(self, root: Path, file: Path | None) -> Settings:
        settings = Settings(root, file)
        layers = [options_from(_table(file), shown(file), root, self.codes)] if file else []
        for options in (*layers, *self.inline, self.overrides):
            settings = options.applied(settings)
        return settings


def _configuration_in(directory: Path) -> Path | None:
    """The one file in ``directory`` that configures memlint. Raises ConfigError if there are two."""
    found = [directory / name for name in OWN_FILES if (directory / name).is_file()]
    project = directory / PROJECT_FILE
    if project.is_file() and _own_table(_toml(project), project) is not None:
        found.append(project)
    if len(found) > 1:
        names = " and ".join(path.name for path in found)
        raise ConfigError(f"{shown(directory)}: two configuration files, {names}; remove one of them")
    return found[0] if found else None


def _table(file: Path) -> Mapping[str, Any]:
    content = _toml(file)
    return (_own_table(content, file) or {}) if file.name == PROJECT_FILE else content


def _own_table(content: Mapping[str, Any], file: Path) -> dict[str, Any] | None:
    tool = content.get("tool")
    table = tool.get("memlint") if isinstance(tool, dict) else None
    if table is not None and not isinstance(table, dict):
        raise ConfigError(f"{shown(file)}: tool.memlint must be a table, not {_toml_type(table)}")
    own: dict[str, Any] | None = table
    return own


def _toml(file: Path) -> dict[str, Any]:
    try:
        return _parsed(file.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"{shown(file)}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{shown(file)}: not valid UTF-8 at byte {error.start}") from error
    except _NotTomlError as error:
        raise ConfigError(f"{shown(file)}: not valid TOML: {error}") from error
    except RecursionError as error:
        raise ConfigError(f"{shown(file)}: not valid TOML: nested too deeply") from error


class _NotTomlError(Exception):
    """What is wrong with a text that should be TOML."""


def _parsed(text: str) -> dict[str, Any]:
    """What ``text`` says in TOML; its parser is loaded when there is something to parse. Raises _NotTomlError."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise _NotTomlError(str(error)) from error


def inline_options(text: str, codes: Collection[str]) -> Options:
    """The options in ``--config "key = value"``. Raises ConfigError."""
    where = f"--config {text!r}"
    try:
        table = _parsed(text)
    except _NotTomlError as error:
        raise ConfigError(f"{where}: neither a file nor valid TOML: {error}") from error
    return options_from(table, where, Path.cwd(), codes)


def shown(path: Path) -> str:
    """``path`` as messages show it: relative to the working directory if it is below it."""
    try:
        return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
    except OSError:
        return str(path)
