"""What the command line says about the configuration."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from memlint.config import ConfigError, Configuration, Options, checked_selectors, inline_options
from memlint.rule import Rule


def known_rules(rules: Sequence[Rule] | None) -> tuple[Rule, ...]:
    """``rules``, or all that there are."""
    if rules is not None:
        return tuple(rules)
    from memlint.registry import all_rules

    return all_rules()


def configuration_from(
    codes: Collection[str], config: Sequence[str], isolated: bool, overrides: Options | None = None
) -> Configuration:
    """The configuration that ``--config`` and ``--isolated`` ask for. Raises ConfigError."""
    files = [text for text in config if "=" not in text or _is_file(text)]
    inline = tuple(inline_options(text, codes) for text in config if text not in files)
    if len(files) > 1:
        raise ConfigError(f"--config names two files, {files[0]} and {files[1]}; one can be used")
    if files and isolated:
        raise ConfigError("--config FILE and --isolated contradict each other")
    configuration = Configuration(
        frozenset(codes), overrides or Options(), inline, Path(files[0]).absolute() if files else None, isolated
    )
    if configuration.file:
        # Whatever is wrong with the one file that there is concerns every file.
        configuration.settings(Path.cwd())
    return configuration


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except OSError:
        # Longer than the name of a file may be.
        return False


def listed(separated: Sequence[str]) -> tuple[str, ...] | None:
    """The parts of an option that takes lists and can be repeated; None if it was not given."""
    return tuple(part.strip() for text in separated for part in text.split(",") if part.strip()) if separated else None


def selectors(option: str, given: Sequence[str], codes: frozenset[str]) -> tuple[str, ...] | None:
    """The codes and beginnings of codes that an option lists; None if it was not given. Raises ConfigError."""
    parts = listed(given)
    return None if parts is None else checked_selectors(parts, option, codes)
