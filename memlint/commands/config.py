"""``memlint config``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import click

from memlint.commands.configuration import configuration_from, known_rules
from memlint.config import DEFAULT_EXCLUDE, Patterns, Settings
from memlint.files import absolute
from memlint.rule import Rule


def show(rules: Sequence[Rule] | None, path: Path, config: Sequence[str], isolated: bool) -> None:
    """Prints the settings that hold for ``path``, as TOML. Raises ConfigError."""
    known = known_rules(rules)
    target = absolute(path)
    if not target.exists():
        raise click.UsageError(f"{path} does not exist")
    configuration = configuration_from(frozenset(rule.code for rule in known), config, isolated)
    settings = configuration.settings(target if target.is_dir() else target.parent)
    click.echo(f"# {settings.source or 'no configuration file'}")
    for key, value in _effective(settings, target, known).items():
        click.echo(f"{key} = {_toml(value)}")


def _effective(settings: Settings, path: Path, rules: Sequence[Rule]) -> dict[str, object]:
    """The keys of a configuration file that would have the same effect."""
    table: dict[str, object] = {
        "select": sorted(settings.enabled_in(path, rules) if path.is_file() else settings.enabled(rules)),
        "exclude": _texts(settings.exclude) if settings.exclude else list(DEFAULT_EXCLUDE),
        "extend-exclude": _texts(settings.extend_exclude),
        "force-exclude": settings.force_exclude,
        "respect-gitignore": settings.respect_gitignore,
        "output-format": settings.output_format,
        "fix": settings.fix,
        "unsafe-fixes": settings.unsafe_fixes,
    }
    if settings.device is not None:
        table["device"] = settings.device
    if not path.is_file():
        table["per-file-ignores"] = {each.pattern: list(each.selectors) for each in settings.per_file_ignores}
    return table


def _texts(patterns: Sequence[Patterns]) -> list[str]:
    return [text for each in patterns for text in each.texts]


def _toml(value: object) -> str:
    # JSON's strings, numbers, booleans and lists are TOML's.
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{_toml(key)} = {_toml(item)}" for key, item in value.items()) + " }"
    return json.dumps(value, ensure_ascii=False)
