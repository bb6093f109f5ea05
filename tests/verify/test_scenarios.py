"""Real training scripts, the hazard and the twin that looks alike: verdicts and bytes against what arithmetic says."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from memlint.verify import launch
from memlint.verify.verdicts import Judged
from tests.verify.expectations import Expected, expectations
from tests.verify.fork_server import ForkServers
from tests.verify.scenarios import SCRIPTS, identity, judged_run, missing_framework, moved

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs torch"),
]

TOLERANCE = 0.05


def judge(script: Path) -> list[Judged]:
    """The verdicts of a script's lines."""
    run = judged_run(script)
    assert run.failure is None
    assert not run.outcome.seen.notes
    return run.judged


@pytest.fixture(scope="module")
def judged(request: pytest.FixtureRequest) -> Iterator[dict[Path, Future[list[Judged]]]]:
    """The scenarios that are to be tested, two at a time."""
    parameters = [item.callspec.params for item in request.session.items if hasattr(item, "callspec")]
    selected = {each["script"] for each in parameters if "script" in each}
    wanted = [script for script in SCRIPTS if script in selected and not missing_framework(script)]
    servers = ForkServers()
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(2) as pool:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setattr(launch, "_wait_for", lambda plan, *others: servers.run(plan, others[-1]))
        yield {script: pool.submit(judge, script) for script in wanted}
        pool.shutdown(cancel_futures=True)
    servers.close()


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
    assert hazards <= twins


@pytest.mark.parametrize("path", SCRIPTS, ids=identity)
def test_a_scenario_moves_to_a_gpu_row_by_row(path: Path) -> None:
    text = path.read_text("utf-8")
    there = moved(text, "cuda")
    assert len(there.splitlines()) == len(text.splitlines())
    assert there.count('torch.set_default_device("cuda")') == 1
    assert "(cpu=True" not in there
    assert 'accelerator="cpu"' not in there
    compile(there, path.name, "exec")
    assert moved(text, "cpu") == text
