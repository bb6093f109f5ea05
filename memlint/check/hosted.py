"""Checks single files for a host that decides by itself which files it reads and when: flake8, an editor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from memlint.check.engine import check_data
from memlint.check.results import FileResult
from memlint.config import Configuration
from memlint.files import project_files, project_root
from memlint.model.project import Project
from memlint.rule import Rule


@dataclass(frozen=True)
class HostedChecker:
    """Checks texts one after the other; the files of each project are looked for once.

    Without ``noqa``, comments silence nothing, for hosts that do it themselves.
    """

    configuration: Configuration
    rules: Sequence[Rule]
    noqa: bool = True
    _projects: dict[Path, Project] = field(default_factory=dict)

    def check(self, path: Path, data: bytes) -> FileResult:
        """Checks ``data``, which stands (or will stand) at the absolute ``path``. Raises ConfigError."""
        settings = self.configuration.settings(path.parent)
        # The excludes that everybody has are about directories that the host was told to look into.
        if settings.source and settings.excludes(path):
            return FileResult(path, [])
        return check_data(path, data, self.rules, self._project(path), settings, noqa=self.noqa)

    def forget(self) -> None:
        """Looks for the files of each project anew, and reads them again."""
        self._projects.clear()

    def _project(self, path: Path) -> Project:
        root = project_root([path])
        if root not in self._projects:
            self._projects[root] = Project(root, project_files(root, (), self.configuration))
        return self._projects[root]
