"""The training scripts of ``tests/scenarios`` and what ``memlint verify`` says of them."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, replace
from pathlib import Path

from memlint.check.results import FileResult
from memlint.config import Configuration, Options
from memlint.registry import all_rules
from memlint.verify.decide import decide
from memlint.verify.launch import Outcome, Program, run_program
from memlint.verify.plan import Budget
from memlint.verify.report import failure_of
from memlint.verify.static import Static, check_program, watched_lines
from memlint.verify.verdicts import Judged
from tests.verify.expectations import SCENARIOS, device_of, expectations, forced

FRAMEWORKS = ("lightning", "transformers", "accelerate", "peft")
SCRIPTS = sorted([*SCENARIOS.glob("*.py"), *SCENARIOS.glob("*/train.py")])


def identity(script: Path) -> str:
    return script.relative_to(SCENARIOS).as_posix().removesuffix(".py").removesuffix("/train")


@dataclass(frozen=True)
class JudgedRun:
    """One run of a scenario."""

    judged: list[Judged]
    outcome: Outcome
    failure: str | None


def judged_run(
    script: Path, source: Path | None = None, budget: Budget | None = None, keep: Path | None = None
) -> JudgedRun:
    """The verdicts of a script's lines, those included that only its comments want to be watched.

    ``source`` is a file with the text that is run instead of the script's own, with the same rows; ``keep`` is where
    the recording stays.
    """
    rules = all_rules()
    options = Options(select=("ALL",), device=device_of(script))
    configuration = Configuration(frozenset(rule.code for rule in rules), options, isolated=True)
    static = with_forced(check_program(script, configuration, rules), script)
    lines = watched_lines(static)
    sources = {str(script): str(source)} if source is not None else None
    program = Program(str(script), False, ())
    outcome = run_program(program, lines, budget or Budget(), sources=sources, keep=keep, silent=True)
    verdicts = decide(static.diagnostics, lines, outcome.seen, outcome.recording)
    return JudgedRun(verdicts, outcome, failure_of(script.name, outcome.seen))


def with_forced(static: Static, script: Path) -> Static:
    known = {(each.code, each.location.row) for each in static.diagnostics}
    missing = [each for each in expectations(script) if (each.code, each.row) not in known]
    for each in missing:
        # A hazard is found by the rules, unless the scenario says what to watch because they miss it.
        assert each.verdict == "REFUTED" or each.root, each
    result = next(each for each in static.results if each.path == script)
    more = FileResult(result.path, [*result.diagnostics, *map(forced, missing)], None, script.read_text("utf-8"))
    return replace(static, results=tuple(more if each is result else each for each in static.results))


def missing_framework(script: Path) -> str | None:
    text = script.read_text("utf-8")
    used = [name for name in FRAMEWORKS if f"import {name}" in text or f"from {name}" in text]
    return next((name for name in used if importlib.util.find_spec(name) is None), None)


def moved(text: str, device: str) -> str:
    """The script for another device, with the same rows."""
    if device == "cpu":
        return text
    replacements = {
        "\nimport torch\n": f'\nimport torch; torch.set_default_device("{device}")\n',
        "Accelerator(cpu=True)": "Accelerator()",
        "use_cpu=True": "use_cpu=False",
        'accelerator="cpu"': 'accelerator="gpu"',
        "shuffle=True": "shuffle=False",
    }
    for old, new in replacements.items():
        text = text.replace(old, new)
    return text
