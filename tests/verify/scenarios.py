"""The training scripts of ``tests/scenarios`` and what ``memlint verify`` says of them."""

from __future__ import annotations

import importlib.util
import socket
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock

from memlint.check.results import FileResult
from memlint.config import Configuration, Options
from memlint.registry import all_rules
from memlint.verify.decide import decide
from memlint.verify.launch import Outcome, Program, run_program
from memlint.verify.plan import Budget
from memlint.verify.ranks import RankResult, merged
from memlint.verify.report import failure_of
from memlint.verify.static import Static, check_program, watched_lines
from memlint.verify.verdicts import Judged
from tests.verify.expectations import SCENARIOS, device_of, expectations, forced, ranks_of

FRAMEWORKS = ("lightning", "transformers", "accelerate", "peft")
SCRIPTS = sorted([*SCENARIOS.glob("*.py"), *SCENARIOS.glob("*/train.py")])


def identity(script: Path) -> str:
    return script.relative_to(SCENARIOS).as_posix().removesuffix(".py").removesuffix("/train")


_CHECKING = Lock()
"""Scenarios run side by side, in processes; a check is made by one thread at a time."""


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
    with _CHECKING:
        static = with_forced(check_program(script, configuration, rules), script)
    lines = watched_lines(static)
    sources = {str(script): str(source)} if source is not None else None
    program = Program(str(script), False, ())
    places = places_of(ranks_of(script))

    def run(place: Mapping[str, str]) -> Outcome:
        own = keep if place.get("RANK", "0") == "0" else None
        return run_program(program, lines, budget or Budget(), sources=sources, keep=own, silent=True, variables=place)

    with ThreadPoolExecutor(len(places)) as pool:
        outcomes = list(pool.map(run, places))
    verdicts = [decide(static.diagnostics, lines, each.seen, each.recording) for each in outcomes]
    failures = [failure for each in outcomes if (failure := failure_of(script.name, each.seen)) is not None]
    return JudgedRun(merged_verdicts(verdicts), outcomes[0], failures[0] if failures else None)


def places_of(ranks: int) -> list[dict[str, str]]:
    """For each process what torchrun would tell it of its place; of a single one, nothing."""
    if ranks == 1:
        return [{}]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [{name: str(each) for name, each in (shared | {"RANK": n, "LOCAL_RANK": n}).items()} for n in range(ranks)]


def merged_verdicts(verdicts: list[list[Judged]]) -> list[Judged]:
    """Those of several ranks, as their common report has them."""
    if len(verdicts) == 1:
        return verdicts[0]
    results = [RankResult(n, tuple(each.ruling for each in judged), None) for n, judged in enumerate(verdicts)]
    return merged(verdicts[0], results)


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
