"""Verdicts from small recordings like memlint's own, in which phases, categories and graphs are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from memlint.diagnostics import Diagnostic, LocatedClaim, Location
from memlint.findings import ClaimShape, Confidence, Severity, Watch
from memlint.trace.events import Action, Category, MemoryEvent, Origin, Phase, Recording
from memlint.trace.frames import Frame, Stack
from memlint.verify.memory import run_memory
from memlint.verify.offline import judge_trace
from memlint.verify.plan import WatchedLine
from memlint.verify.verdicts import Ruling, Verdict

PATH = "/project/train.py"
KIB = 1024
MODEL, BACKWARD, KEEP, OPTIMIZER, EVALUATION = 10, 12, 13, 14, 30
LOOP, BODY = (9, 14), (5, 20)


class Run:
    """A recording, event by event."""

    def __init__(self) -> None:
        self.events: list[MemoryEvent] = []
        self.step = 0
        self._stacks: dict[int, Stack] = {}
        self._next = 1 << 20

    def make(
        self, row: int, size: int, phase: Phase, *, graph: bool | None = None, category: Category | None = None
    ) -> int:
        """Allocate something in ``row``; returns its place among the events."""
        stack = self._stacks.setdefault(row, Stack((Frame("torch/x.py", 1, "f"), Frame(PATH, row, "fit"))))
        self._next += 1 << 20
        event = MemoryEvent(Action.ALLOCATE, "cpu", self._next, size, size, step=self.step, phase=phase, stack=stack)
        event.records_graph, event.category, event.time_us = graph, category, float(len(self.events))
        self.events.append(event)
        return len(self.events) - 1

    def free(self, birth: int, phase: Phase | None = None) -> None:
        """Free what was allocated then."""
        born = self.events[birth]
        event = MemoryEvent(Action.FREE, "cpu", born.address, born.requested_bytes, born.block_bytes)
        event.step, event.phase, event.time_us = self.step, phase, float(len(self.events))
        self.events.append(event)

    def judge(self, *findings: tuple[Diagnostic, WatchedLine]) -> list[Ruling]:
        self.step += 1
        self.make(99, 4, Phase.LOAD)
        recording = Recording(Origin.CPU_RECORDER, self.events, baseline_bytes={"cpu": 0})
        diagnostics, lines = zip(*findings, strict=True)
        return [each.ruling for each in judge_trace(diagnostics, lines, recording, run_memory(recording))]


def finding(
    number: int,
    row: int,
    watch: Watch,
    *,
    holder: str | None = "kept",
    memory: str = "device",
    loop: tuple[int, int] | None = LOOP,
    body: tuple[int, int] = BODY,
) -> tuple[Diagnostic, WatchedLine]:
    place = Location(row, 5)
    claim = LocatedClaim(ClaimShape.GROWS.value, memory, "A", holder, "loss", place, watch=watch.value)
    diagnostic = Diagnostic(
        f"MEM{number + 101}", "name", "m", Path(PATH), place, place, Severity.ERROR, Confidence.LIKELY, "", (), row, "",
        claim=claim,
    )  # fmt: skip
    return diagnostic, WatchedLine(number, PATH, (row, row), loop, watch.value, (), body[0], body[1])


def training(run: Run, steps: int, *, keeps: bool, row: int = MODEL) -> None:
    """A loop that keeps what its forward passes allocate, or frees it in the backward."""
    for _ in range(steps):
        made = run.make(row, 64 * KIB, Phase.FORWARD, graph=True)
        passing = run.make(row + 1, 8 * KIB, Phase.FORWARD, graph=True)
        run.free(passing)
        if not keeps:
            run.free(made, Phase.BACKWARD)
        run.step += 1


def test_what_adds_up_in_a_loop_confirms_the_one_finding_there() -> None:
    run = Run()
    training(run, 8, keeps=True)
    (ruling,) = run.judge(finding(0, KEEP, Watch.REACHABLE))
    assert (ruling.verdict, ruling.bytes_per_step, ruling.per) == (Verdict.CONFIRMED, 64 * KIB, "step")
    assert ruling.where == f"{PATH}:{MODEL}"


def test_two_findings_in_one_loop_name_each_other() -> None:
    run = Run()
    training(run, 8, keeps=True)
    one, other = run.judge(finding(0, KEEP, Watch.REACHABLE), finding(1, OPTIMIZER, Watch.REACHABLE))
    assert {one.verdict, other.verdict} == {Verdict.INCONCLUSIVE}
    assert f"MEM102 in row {OPTIMIZER}" in one.evidence
    assert f"MEM101 in row {KEEP}" in other.evidence


def test_memory_that_stays_flat_refutes_and_says_nothing_of_the_host() -> None:
    run = Run()
    training(run, 8, keeps=False)
    device, host = run.judge(finding(0, KEEP, Watch.REACHABLE), finding(1, KEEP, Watch.REACHABLE, memory="host"))
    assert device.verdict is Verdict.REFUTED
    assert host.verdict is Verdict.INCONCLUSIVE
    assert "of the host" in host.evidence


def test_steps_of_other_loops_do_not_hide_growth() -> None:
    run = Run()
    training(run, 6, keeps=True)
    training(run, 20, keeps=False, row=40)
    (ruling,) = run.judge(finding(0, KEEP, Watch.REACHABLE))
    assert (ruling.verdict, ruling.bytes_per_step) == (Verdict.CONFIRMED, 64 * KIB)


def test_few_steps_and_other_lines_say_nothing() -> None:
    run = Run()
    training(run, 3, keeps=True)
    few, elsewhere = run.judge(
        finding(0, KEEP, Watch.REACHABLE), finding(1, 60, Watch.REACHABLE, loop=(58, 62), body=(55, 65))
    )
    assert (few.verdict, elsewhere.verdict) == (Verdict.INCONCLUSIVE, Verdict.NOT_EXERCISED)
    assert "growth shows after" in few.evidence


@pytest.mark.parametrize(("holder", "verdict"), [(None, Verdict.CONFIRMED), ("kept", Verdict.REFUTED)])
def test_a_state_may_not_grow_within_a_step_and_a_container_may(holder: str | None, verdict: Verdict) -> None:
    run = Run()
    for _ in range(6):
        made = [run.make(MODEL, 64 * KIB, Phase.FORWARD, graph=True) for _ in range(8)]
        for each in made:
            run.free(each)
        run.step += 1
    (ruling,) = run.judge(finding(0, KEEP, Watch.REACHABLE, holder=holder))
    assert ruling.verdict is verdict, ruling
    assert ruling.per == ("execution" if holder is None else "step")


@pytest.mark.parametrize(
    ("graph", "freed", "verdict"),
    [
        (True, Phase.EVALUATION, Verdict.CONFIRMED),
        (False, Phase.EVALUATION, Verdict.REFUTED),
        (True, Phase.BACKWARD, Verdict.INCONCLUSIVE),
        (None, Phase.EVALUATION, Verdict.INCONCLUSIVE),
    ],
)
def test_a_graph_that_a_forward_pass_recorded(graph: bool | None, freed: Phase, verdict: Verdict) -> None:
    run = Run()
    made = [run.make(EVALUATION, 32 * KIB, Phase.EVALUATION, graph=graph) for _ in range(3)]
    if freed is Phase.BACKWARD:
        run.make(BACKWARD, 4 * KIB, Phase.BACKWARD)
    for each in made:
        run.free(each, freed)
    (ruling,) = run.judge(finding(0, EVALUATION, Watch.FORWARD_GRAPH))
    assert ruling.verdict is verdict, ruling
    if verdict is Verdict.CONFIRMED:
        assert ruling.bytes_at_peak == 96 * KIB


@pytest.mark.parametrize(
    ("retained", "verdict"), [(0, Verdict.REFUTED), (2, Verdict.INCONCLUSIVE), (4, Verdict.CONFIRMED)]
)
def test_what_a_backward_leaves_of_the_forward_pass(retained: int, verdict: Verdict) -> None:
    run = Run()
    for _ in range(6):
        made = [run.make(MODEL, 64 * KIB, Phase.FORWARD, graph=True) for _ in range(4)]
        run.make(BACKWARD, 4 * KIB, Phase.BACKWARD)
        for each in made[retained:]:
            run.free(each, Phase.BACKWARD)
        run.make(BACKWARD, 4 * KIB, Phase.BACKWARD)
        for each in made[:retained]:
            run.free(each, Phase.OPTIMIZER)
        run.step += 1
    (ruling,) = run.judge(finding(0, BACKWARD, Watch.RETAINED_GRAPH))
    assert ruling.verdict is verdict, ruling
    if verdict is Verdict.CONFIRMED:
        assert ruling.bytes_at_peak == 256 * KIB


def gradients(run: Run, freed: str) -> None:
    """Gradients that are freed at the end of each step, in the next forward pass, or never."""
    older = -1
    for step in range(6):
        run.make(MODEL, 4 * KIB, Phase.FORWARD, graph=True)
        if freed == "late" and older >= 0:
            run.free(older, Phase.FORWARD)
        if freed != "never" or not step:
            older = run.make(BACKWARD, 128 * KIB, Phase.BACKWARD, category=Category.GRADIENT)
        run.step += 1
        if freed == "early":
            run.free(older, Phase.OPTIMIZER)


@pytest.mark.parametrize(
    ("watch", "verdicts"),
    [
        (Watch.GRADIENTS_ZEROED, (Verdict.REFUTED, Verdict.REFUTED, Verdict.CONFIRMED)),
        (Watch.GRADIENTS_ADDED_TO, (Verdict.REFUTED, Verdict.REFUTED, Verdict.INCONCLUSIVE)),
        (Watch.GRADIENTS_IN_FORWARD, (Verdict.REFUTED, Verdict.CONFIRMED, Verdict.CONFIRMED)),
    ],
    ids=str,
)
def test_how_long_gradients_live(watch: Watch, verdicts: Sequence[Verdict]) -> None:
    found: list[Any] = []
    for freed in ("early", "late", "never"):
        run = Run()
        gradients(run, freed)
        found += run.judge(finding(0, OPTIMIZER, watch))
    assert [each.verdict for each in found] == list(verdicts)
    assert {each.bytes_at_peak for each in found if each.verdict is Verdict.CONFIRMED} <= {128 * KIB, 256 * KIB}


@pytest.mark.parametrize(("grows", "verdict"), [(True, Verdict.CONFIRMED), (False, Verdict.REFUTED)])
def test_a_tensor_that_is_copied_into_a_larger_one(grows: bool, verdict: Verdict) -> None:
    run = Run()
    older = -1
    for number in range(8):
        made = run.make(KEEP, (number if grows else 1) * 32 * KIB + KIB, Phase.EVALUATION)
        if older >= 0:
            run.free(older)
        older = made
    (ruling,) = run.judge(finding(0, KEEP, Watch.REGROWN))
    assert ruling.verdict is verdict, ruling
    if verdict is Verdict.CONFIRMED:
        assert ruling.bytes_at_peak == (7 + 6) * 32 * KIB + 2 * KIB


@pytest.mark.parametrize("watch", list(Watch))
def test_a_recording_of_another_program_says_nothing_of_this_one(watch: Watch) -> None:
    run = Run()
    training(run, 8, keeps=True)
    diagnostic, line = finding(0, KEEP, watch)
    (ruling,) = run.judge((diagnostic, replace(line, path="/project/other.py")))
    assert ruling.verdict is Verdict.NOT_EXERCISED
