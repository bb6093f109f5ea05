"""``memlint estimate``."""

from __future__ import annotations

import importlib.util
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from memlint.capacity.estimate import Estimate, estimate_script, known_device
from memlint.capacity.overriding import overridden
from memlint.capacity.report import as_data, as_html, as_text
from memlint.capacity.simulate.changes import remedies
from memlint.capacity.simulate.run import simulate
from memlint.capacity.simulate.settings import Settings
from memlint.capacity.simulated import SimulatedEstimate, simulated_data, simulated_text
from memlint.commands.check import print_text, write_output
from memlint.config import shown
from memlint.messages import CLEAN, FAILED, FOUND, UserError
from memlint.parsing import deep_recursion
from memlint.report.simulation import simulated_html

_INSTALL = 'pip install "torch-memlint[verify]"'


@dataclass(frozen=True)
class Arguments:
    """The options of ``memlint estimate``."""

    device: str | None
    settings: tuple[str, ...]
    output_format: str
    output_file: Path | None
    html: Path | None
    run: bool = False
    what_if: bool = False
    ranks: int = 1


def estimate(words: Sequence[str], arguments: Arguments) -> int:
    """Runs the command and returns its exit code: 1 if the step does not fit, 0 if it does, 2 if that is unknown.

    Without a device the code is 0 if the peak could be estimated.

    Raises UserError and click.UsageError.
    """
    if not words:
        raise click.UsageError('which script? Use "memlint estimate SCRIPT"')
    script = Path(words[0])
    if not script.is_file():
        raise UserError(f"{shown(script)}: no such file")
    if arguments.run:
        return _exit_code(_run(script, words[1:], arguments))
    if arguments.ranks > 1:
        raise click.UsageError("--ranks is for scripts that run: use it with --run")
    if arguments.what_if:
        raise click.UsageError("--what-if runs the script again: use it with --run")
    with deep_recursion():
        result = estimate_script(script, arguments.device, overrides(arguments.settings), overrides((), words[1:]))
    _print(result, arguments)
    return _exit_code(result)


def _exit_code(result: Estimate | SimulatedEstimate) -> int:
    if result.fits is None:
        return FAILED if result.device is not None or not result.is_complete else CLEAN
    return CLEAN if result.fits else FOUND


def _run(script: Path, words: Sequence[str], arguments: Arguments) -> SimulatedEstimate:
    """Runs the script on fake tensors and prints what that says. Raises UserError and click.UsageError."""
    if importlib.util.find_spec("torch") is None:
        raise UserError(f"--run needs torch, which is not installed: {_INSTALL}")
    card = known_device(arguments.device)
    settings = Settings(count=arguments.ranks) if card is None else Settings(device=card, count=arguments.ranks)
    with deep_recursion():
        asked = overridden(script, words, overrides(arguments.settings), overrides((), words), settings)
    with tempfile.TemporaryDirectory(prefix="memlint-") as folder:
        settings = asked.written_to(Path(folder))
        prediction = simulate(str(script), asked.words, settings)
        found = remedies(str(script), asked.words, settings) if arguments.what_if and prediction.is_known else ()
        result = SimulatedEstimate(script, card, prediction, tuple(found))
    is_json = arguments.output_format == "json"
    _write(json.dumps(simulated_data(result), indent=2) + "\n" if is_json else simulated_text(result), arguments)
    if arguments.html is not None:
        write_output(arguments.html, simulated_html(result))
    return result


def overrides(settings: Sequence[str], words: Sequence[str] = ()) -> Mapping[str, Any]:
    """``batch=16`` and ``--batch-size 16`` by name. Raises UserError for what is neither."""
    given: dict[str, Any] = {}
    for text in settings:
        name, sign, value = text.partition("=")
        if not sign or not name:
            raise UserError(f'--set {text}: say NAME=VALUE, such as "--set batch=16"')
        given[name.strip().replace("-", "_")] = _plain(value.strip())
    name = ""
    for word in words:
        if word.startswith("--"):
            name, sign, value = word[2:].partition("=")
            name = name.replace("-", "_")
            given[name] = _plain(value) if sign else True
        elif name:
            given[name] = _plain(word)
            name = ""
    return given


def _plain(text: str) -> Any:
    """A number or a truth value, where ``text`` is one."""
    if text.lower() in {"true", "false"}:
        return text.lower() == "true"
    try:
        return int(text) if text.lstrip("+-").isdigit() else float(text)
    except ValueError:
        return text


def _print(result: Estimate, arguments: Arguments) -> None:
    is_json = arguments.output_format == "json"
    _write(json.dumps(as_data(result), indent=2) + "\n" if is_json else as_text(result), arguments)
    if arguments.html is not None:
        write_output(arguments.html, as_html(result))


def _write(text: str, arguments: Arguments) -> None:
    if arguments.output_file is not None:
        write_output(arguments.output_file, text)
    else:
        print_text(text)
        sys.stdout.flush()
