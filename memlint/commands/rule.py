"""``memlint rule``."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

import click

from memlint.commands.configuration import known_rules
from memlint.messages import did_you_mean
from memlint.registry import documentation_url
from memlint.report.style import wants_color
from memlint.rule import Rule


def explain(rules: Sequence[Rule] | None, code: str | None, every: bool, output_format: str) -> None:
    """Prints the page of the rule with ``code`` (or of ``every`` rule), or without a code the list of rules."""
    known = known_rules(rules)
    chosen = known if code is None else [_rule(code, known)]
    if output_format == "json":
        table = [_as_json(rule) for rule in chosen]
        click.echo(json.dumps(table if code is None else table[0], indent=2))
    elif code is None and not every:
        for rule in chosen:
            click.echo(f"{rule.code}  {rule.name}{'' if rule.default else '  (off by default)'}")
    else:
        _print_pages([page(rule) for rule in chosen])


def _rule(code: str, rules: Sequence[Rule]) -> Rule:
    """The rule with a code, or with that name. Raises click.UsageError."""
    for rule in rules:
        if code.casefold() in {rule.code.casefold(), rule.name.casefold()}:
            return rule
    names = [name for rule in rules for name in (rule.code, rule.name)]
    raise click.UsageError(f'no rule "{code}"{did_you_mean(code, names)}')


def page(rule: Rule) -> str:
    """The page of a rule in Markdown: its identity, then its docstring."""
    facts = [f"severity: {rule.severity.value}", "on by default" if rule.default else "off by default"]
    return f"# {rule.name} ({rule.code})\n\n*{', '.join(facts)}*\n\n{rule.documentation()}\n"


def _print_pages(pages: Sequence[str]) -> None:
    """As Markdown, which a terminal gets to see rendered."""
    if not wants_color(sys.stdout):
        click.echo("\n".join(pages), nl=False)
        return
    from rich.console import Console
    from rich.markdown import Markdown

    console = Console(force_terminal=True)
    for page in pages:
        console.print(Markdown(page))


def _as_json(rule: Rule) -> dict[str, Any]:
    page = rule.documentation()
    return {
        "code": rule.code,
        "name": rule.name,
        "severity": rule.severity.value,
        "default": rule.default,
        "summary": page.partition("\n")[0],
        "explanation": page,
        "fixers": list(rule.fixers),
        "gate": sorted(rule.gate),
        "url": documentation_url(rule.code),
    }
