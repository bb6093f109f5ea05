"""``--set`` for a script that runs: options of it, another constant in its source, or a change of the simulation.

Which option or constant decides about the batch, for instance, is read off the script, as for the estimate without a
run. What that does not tell is an error, not a guess.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from memlint.capacity.estimate import FACTS, read_script
from memlint.capacity.simulate.settings import Settings
from memlint.config import shown
from memlint.files import absolute
from memlint.messages import UserError
from memlint.model.sizes.reading import Fact, Reader

_CHANGES = {
    ("precision", "bf16"): "amp=bf16",
    ("precision", "bfloat16"): "amp=bf16",
    ("precision", "fp16"): "amp=fp16",
    ("precision", "float16"): "amp=fp16",
    ("checkpointing", True): "checkpoint",
}
"""Facts that a change of the simulation brings about."""


@dataclass
class Overridden:
    """What to run instead of the script as it is."""

    words: list[str]
    """The script's own arguments."""
    settings: Settings
    texts: dict[Path, str] = field(default_factory=dict)
    """Files of the program with another text."""

    def written_to(self, folder: Path) -> Settings:
        """The settings, with the texts in files of ``folder``."""
        sources = {}
        for number, (path, text) in enumerate(self.texts.items()):
            other = folder / f"{number}.py"
            other.write_text(text, "utf-8")
            sources[str(path)] = str(other)
        return replace(self.settings, sources=sources)


def overridden(
    script: Path, words: Sequence[str], given: Mapping[str, Any], said: Mapping[str, Any], settings: Settings
) -> Overridden:
    """What ``--set`` asks for, by name, done to a script that runs with ``words``.

    ``said`` are the arguments among ``words`` by name. Raises UserError for what this script has no way to be told.
    """
    result = Overridden(list(words), settings)
    if given:
        reader = read_script(absolute(script), {**said, **given}, {})
        for name, value in given.items():
            _set(result, reader, name, value)
    return result


def _set(result: Overridden, reader: Reader, name: str, value: Any) -> None:
    option = reader.evaluator.options.get(name)
    fact = reader.reading.facts.get(name)
    if option is not None:
        result.words += option.words(value)
    elif name == "ranks" and isinstance(value, int) and value > 0:
        result.settings = replace(result.settings, count=value)
    elif (name, value) in _CHANGES:
        result.settings = replace(result.settings, changes=(*result.settings.changes, _CHANGES[name, value]))
    elif name not in FACTS:
        raise UserError(f"--set {name}: not one of {', '.join(FACTS)}, nor an argument that the script declares")
    elif fact is None or name in ("precision", "checkpointing", "ranks"):
        raise UserError(
            f"--set {name}={value}: nothing in the script decides about that in a way that --run can change"
        )
    else:
        _change(result, reader, name, fact, value)


def _change(result: Overridden, reader: Reader, name: str, fact: Fact, value: Any) -> None:
    """The option of the command line that the fact comes from, or the constant in the row that says it."""
    options = [each for each in reader.evaluator.options.values() if each.place == fact.place]
    if fact.by_command_line and len(options) == 1:
        result.words += options[0].words(value)
        return
    path = fact.place.path
    text = result.texts.get(path) or reader.evaluator.read(path)
    changed = None if text is None else _with_constant(text, fact, value)
    if changed is None:
        place = f"{shown(path)}:{fact.place.row}"
        raise UserError(f"--set {name}={value}: {place} says it in a way that --run cannot change; edit the script")
    result.texts[path] = changed


def _with_constant(text: str, fact: Fact, value: Any) -> str | None:
    """``text`` with ``value`` in place of the one constant in the fact's row that is the fact's value; else None."""
    found = [
        node
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Constant)
        and node.lineno == node.end_lineno == fact.place.row
        and type(node.value) is not bool
        and node.value == fact.value
    ]
    if len(found) != 1:
        return None
    (node,) = found
    lines = text.split("\n")
    # Columns count bytes.
    row = lines[node.lineno - 1].encode()
    lines[node.lineno - 1] = (row[: node.col_offset] + repr(value).encode() + row[node.end_col_offset :]).decode()
    return "\n".join(lines)
