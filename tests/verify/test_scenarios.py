"""Real training scripts, the hazard and the twin that looks alike: verdicts and bytes against what arithmetic says."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from memlint.check.engine import FileResult
from memlint.config import Configuration, Options
from memlint.registry import all_rules
from memlint.verify.decide import decide
from memlint.verify.launch import Program, run_program
from memlint.verify.plan import Budget
from memlint.verify.report import failure_of
from memlint.verify.static import Static, check_program, watched_lines
from memlint.verify.verdicts import Judged
from tests.verify.expectations import SCENARIOS, Expected, expectations, forced

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs torch"),
]

FRAMEWORKS = ("lightning", "transformers", "accelerate")
SCRIPTS = sorted([*SCENARIOS.glob("*.py"), *SCENARIOS.glob("*/train.py")])
TOLERANCE = 0.05


def identity(script: Path) -> str:
    return script.relative_to(SCENARIOS).as_posix().removesuffix(".py").removesuffix("/train")


def judge(script: Path) -> list[Judged]:
    """The verdicts of a script's lines, those included that only its comments want to be watched."""
    rules = all_rules()
    configuration = Configuration(frozenset(rule.code for rule in rules), Options(select=("ALL",)), isolated=True)
    static = with_forced(check_program(script, configuration, rules), script)
    lines = watched_lines(static)
    outcome = run_program(Program(str(script), False, ()), lines, Budget(), silent=True)
    assert failure_of(script.name, outcome.seen) is None
    assert not outcome.seen.notes
    return decide(static.diagnostics, lines, outcome.seen, outcome.recording)


def with_forced(static: Static, script: Path) -> Static:
    known = {(each.code, each.location.row) for each in static.diagnostics}
    missing = [each for each in expectations(script) if (each.code, each.row) not in known]
    for each in missing:
        # A hazard is found by the rules, unless the scenario says what to watch because they miss it.
        assert each.verdict == "REFUTED" or each.root, each
    result = next(each for each in static.results if each.path == script)
    more = FileResult(result.path, [*result.diagnostics, *map(forced, missing)], None, script.read_text("utf-8"))
    return replace(static, results=tuple(more if each is result else each for each in static.results))


@pytest.fixture(scope="module")
def judged(request: pytest.FixtureRequest) -> Iterator[dict[Path, Future[list[Judged]]]]:
    """The scenarios that are to be tested, two at a time."""
    parameters = [item.callspec.params for item in request.session.items if hasattr(item, "callspec")]
    selected = {each["script"] for each in parameters if "script" in each}
    wanted = [script for script in SCRIPTS if script in selected and not missing_framework(script)]
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(2) as pool:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield {script: pool.submit(judge, script) for script in wanted}
        pool.shutdown(cancel_futures=True)


def missing_framework(script: Path) -> str | None:
    text = script.read_text("utf-8")
    used = [name for name in FRAMEWORKS if f"import {name}" in text or f"from {name}" in text]
    return next((name for name in used if importlib.util.find_spec(name) is None), None)


@pytest.mark.parametrize("script", SCRIPTS, ids=identity)
def test_scenario(script: Path, judged: dict[Path, Future[list[Judged]]]) -> None:
    missing = missing_framework(script)
    if missing:
        pytest.skip(f"needs {missing}")
    verdicts = {(each.diagnostic.code, each.diagnostic.location.row): each for each in judged[script].result()}
    expected = expectations(script)
    assert expected
    for each in expected:
        check(each, verdicts.pop((each.code, each.row)))
    assert not [each for each in verdicts.values() if each.is_confirmed]


def check(expected: Expected, judged: Judged) -> None:
    ruling = judged.ruling
    assert (ruling.verdict.value, ruling.memory) == (expected.verdict, expected.memory), ruling
    if expected.size is None:
        return
    if expected.measure == "at peak":
        measured = ruling.bytes_at_peak
    else:
        assert f"per {ruling.per}" == expected.measure, ruling
        measured = ruling.bytes_per_step
    assert measured == pytest.approx(expected.size, rel=TOLERANCE), ruling


def test_there_are_pairs() -> None:
    names = {identity(script) for script in SCRIPTS}
    hazards = {name.removesuffix("_hazard") for name in names if name.endswith("_hazard")}
    twins = {name.removesuffix("_twin") for name in names if name.endswith("_twin")}
    assert len(names) >= 40
    assert hazards - twins == {"loaded_checkpoint"}
