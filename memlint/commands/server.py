"""``memlint server``."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

from memlint.commands.configuration import configuration_from, known_rules
from memlint.config import Options
from memlint.messages import UserError
from memlint.rule import Rule

_INSTALL = 'pip install "torch-memlint[server]"'


def serve(rules: Sequence[Rule] | None, config: tuple[str, ...], isolated: bool) -> None:
    """Talks to an editor over standard input and output until it says goodbye. Raises UserError and ConfigError."""
    if importlib.util.find_spec("pygls") is None:
        raise UserError(f"the language server needs pygls, which is not installed: {_INSTALL}")
    from memlint.lsp import server

    known = known_rules(rules)
    codes = frozenset(rule.code for rule in known)
    server(configuration_from(codes, config, isolated, Options()), known).start_io()
