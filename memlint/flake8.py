"""The flake8 plugin: ``flake8 --select MEM`` reports what ``memlint check`` reports, at the same rows and columns.

Which rules are on, and in which files, is decided by memlint's own configuration (``[tool.memlint]`` and its
relatives), because flake8 reads none of it; flake8's ``select``, ``ignore`` and ``noqa`` then apply to what is left.
A file that cannot be checked gets one finding with the code ``MEM000`` that says why, since an exception would end
flake8's whole run.
"""

from __future__ import annotations

import argparse
import functools
import os
from ast import AST
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from flake8.exceptions import ExecutionError
from flake8.options.manager import OptionManager

from memlint.check.hosted import HostedChecker
from memlint.check.results import FileResult
from memlint.config import ConfigError, Configuration, Options, checked_selectors
from memlint.diagnostics import Location
from memlint.files import ErrorKind, FileError, absolute
from memlint.registry import all_rules
from memlint.source import encoded

NOT_CHECKED = "MEM000"
"""The code of the finding that stands for a file that could not be checked."""

Report = tuple[int, int, str, type]
"""What flake8 takes from a plugin: the 1-based row, the 0-based column, code and message, and the plugin's class."""


@dataclass(frozen=True)
class Host:
    """What flake8's command line and configuration say to memlint."""

    configuration: Configuration
    noqa: bool = True

    @classmethod
    def from_options(cls, options: argparse.Namespace) -> Host:
        """The host of one run. Raises ConfigError for codes that do not exist and a file that cannot be used."""
        codes = frozenset(rule.code for rule in all_rules())
        selectors = checked_selectors(options.memlint_extend_select, "--memlint-extend-select", codes)
        configuration = Configuration(
            codes,
            overrides=Options(extend_select=selectors or None),
            file=Path(options.memlint_config) if options.memlint_config else None,
            isolated=options.isolated,
        )
        if configuration.file:
            configuration.settings(Path.cwd())
        return cls(configuration, noqa=not options.disable_noqa)

    @functools.cached_property
    def _checker(self) -> HostedChecker:
        # Comments silence here what flake8 would silence after us, so that those for nothing are found as well.
        return HostedChecker(self.configuration, all_rules(), noqa=self.noqa)

    def check(self, path: Path, data: bytes) -> FileResult:
        """Checks ``data``, which stands (or will stand) at the absolute ``path``. Raises ConfigError."""
        return self._checker.check(path, data)


class Plugin:
    """Checks one file for flake8."""

    _host: ClassVar[Host]

    def __init__(self, tree: AST, filename: str, lines: Sequence[str]) -> None:  # noqa: ARG002 - the name is flake8's
        """Takes the file that flake8 has read; it passes ``tree`` to no plugin that does not ask for it."""
        self._path = absolute(Path(filename))
        self._lines = lines

    @staticmethod
    def add_options(manager: OptionManager) -> None:
        """Registers memlint's options, whose names all plugins share."""
        manager.add_option(
            "--memlint-config",
            metavar="FILE",
            parse_from_config=True,
            normalize_paths=True,
            help="memlint's configuration file, instead of the closest pyproject.toml or memlint.toml.",
        )
        manager.add_option(
            "--memlint-extend-select",
            metavar="CODES",
            default="",
            parse_from_config=True,
            comma_separated_list=True,
            help="Rules of memlint, or beginnings of their codes, to turn on besides those that are.",
        )

    @classmethod
    def parse_options(cls, options: argparse.Namespace) -> None:
        """Keeps what the user said, for all files of the process."""
        try:
            cls._host = Host.from_options(options)
        except ConfigError as error:
            raise ExecutionError(str(error)) from error

    def run(self) -> Iterator[Report]:
        """Yields the findings in the file."""
        # flake8 reads a notebook as if its JSON were Python.
        if self._path.suffix == ".ipynb":
            return
        result = self._result()
        for diagnostic in result.diagnostics:
            yield self._report(diagnostic.location, f"{diagnostic.code} {diagnostic.message}")
        if result.error:
            place = Location(result.error.row or 1, result.error.column or 1)
            yield self._report(place, f"{NOT_CHECKED} not checked: {result.error.message}")

    def _result(self) -> FileResult:
        try:
            return self._host.check(self._path, encoded(self._lines))
        except ConfigError as error:
            return FileResult(self._path, [], FileError(self._path, str(error), kind=ErrorKind.CONFIGURATION))
        except Exception as error:  # flake8 ends with a traceback for whatever leaves a plugin.
            if os.environ.get("MEMLINT_DEBUG") == "1":
                raise
            message = f"internal error ({error!r}); please report it with the output of MEMLINT_DEBUG=1"
            return FileResult(self._path, [], FileError(self._path, message, kind=ErrorKind.INTERNAL))

    def _report(self, place: Location, text: str) -> Report:
        return place.row, place.column - 1, text, type(self)
