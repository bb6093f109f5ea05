"""Steps and phases: which step an event belongs to, and whether it happened in the forward or the backward pass.

In order of trust: the metadata that a recorder attached to the event itself, ``memlint.*`` markers, the profiler's
``ProfilerStep#k``, and the annotations that every optimizer leaves (``Optimizer.step#AdamW.step``; see
``torch.optim.Optimizer.profile_hook_step``). The backward pass shows in the stack or in the running operator.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from memlint.trace.compact import edited
from memlint.trace.events import Mark, MemoryEvent, Phase, Recording
from memlint.trace.frames import Stack

_PHASES = {
    "load": Phase.LOAD,
    "fwd": Phase.FORWARD,
    "bwd": Phase.BACKWARD,
    "opt": Phase.OPTIMIZER,
    "eval": Phase.EVALUATION,
} | {phase.value: phase for phase in Phase}
_STEP_MARK = re.compile(r"(?:ProfilerStep|memlint\.step)#(\d+)$")
_PHASE_MARK = re.compile(r"memlint\.(load|fwd|bwd|opt|eval)(?:#\d+)?$")
_OPTIMIZER_STEP = "Optimizer.step#"
_OPTIMIZER_MARKS = (_OPTIMIZER_STEP, "Optimizer.zero_grad#")

_ENGINE = ("torch::autograd::Engine", "torch::autograd::python::PythonEngine")
"""C++ frames of the backward pass; on a GPU it runs in a thread of its own without Python frames."""


def parse_metadata(text: str) -> tuple[int | None, Phase | None]:
    """Step and phase from ``step=3;phase=fwd``, the metadata that a recorder sets; what is absent is None."""
    fields = dict(part.split("=", 1) for part in text.split(";") if "=" in part)
    step = fields.get("step", "")
    return int(step) if step.isdecimal() else None, _PHASES.get(fields.get("phase", ""))


def format_metadata(step: int | None, phase: Phase | None) -> str:
    """The inverse of :func:`parse_metadata`."""
    parts = [] if step is None else [f"step={step}"]
    return ";".join(parts if phase is None else [*parts, f"phase={phase.value}"])


def label(recording: Recording) -> None:
    """Set ``step`` and ``phase`` of every event for which they can be told and are not set yet."""
    steps = _step_spans(recording.marks)
    phases = _phase_spans(recording.marks)
    in_backward: dict[int, bool] = {}
    for event in edited(recording.events):
        time = event.time_us
        if time is not None and event.step is None:
            event.step = steps.at(time)
        if event.phase is not None:
            continue
        if time is not None:
            event.phase = phases.at(time)
        if event.phase is None and _is_backward(event, in_backward):
            event.phase = Phase.BACKWARD


class _Spans:
    """What holds at a time, from stretches of time; asked mostly in increasing order of time."""

    def __init__(self, spans: Iterable[tuple[float, float, object]]) -> None:
        self._spans = sorted(spans, key=lambda span: span[:2])
        self._next = 0
        self._open: list[tuple[float, float, object]] = []
        self._time = float("-inf")

    def find(self, time: float) -> object:
        """The value of the innermost stretch that contains ``time``, or None."""
        if not self._spans:
            return None
        if time < self._time:
            self._next = 0
            self._open.clear()
        self._time = time
        while self._next < len(self._spans) and self._spans[self._next][0] <= time:
            self._open.append(self._spans[self._next])
            self._next += 1
        while self._open and self._open[-1][1] < time:
            self._open.pop()
        return next((value for _, end, value in reversed(self._open) if time <= end), None)


class _StepSpans(_Spans):
    def at(self, time: float) -> int | None:
        step = self.find(time)
        return step if isinstance(step, int) else None


class _PhaseSpans(_Spans):
    def at(self, time: float) -> Phase | None:
        phase = self.find(time)
        return phase if isinstance(phase, Phase) else None


def _step_spans(marks: list[Mark]) -> _StepSpans:
    named = [(mark, _STEP_MARK.match(mark.name)) for mark in marks]
    spans = [(mark.start_us, _end(mark), int(match[1])) for mark, match in named if match is not None]
    if spans:
        return _StepSpans(spans)
    # Without step markers a step lasts until its optimizer is done.
    ends = sorted({_end(mark) for mark in marks if mark.name.startswith(_OPTIMIZER_STEP)})
    starts = [float("-inf"), *ends]
    return _StepSpans((start, end, index) for index, (start, end) in enumerate(zip(starts, ends, strict=False)))


def _phase_spans(marks: list[Mark]) -> _PhaseSpans:
    spans: list[tuple[float, float, Phase]] = []
    for mark in marks:
        match = _PHASE_MARK.match(mark.name)
        if match is not None:
            spans.append((mark.start_us, _end(mark), _PHASES[match[1]]))
        elif mark.name.startswith(_OPTIMIZER_MARKS):
            spans.append((mark.start_us, _end(mark), Phase.OPTIMIZER))
    return _PhaseSpans(spans)


def _end(mark: Mark) -> float:
    return float("inf") if mark.end_us is None else mark.end_us


def _is_backward(event: MemoryEvent, known: dict[int, bool]) -> bool:
    if event.operator is not None and event.operator.startswith("autograd::engine::evaluate_function"):
        return True
    stack = event.stack
    if stack is None:
        return False
    answer = known.get(id(stack))
    if answer is None:
        answer = known[id(stack)] = _runs_engine(stack)
    return answer


def _runs_engine(stack: Stack) -> bool:
    return any(frame.function.startswith(_ENGINE) for frame in stack.frames) or stack.mentions(
        "torch/autograd/graph.py", ("_engine_run_backward",)
    )
