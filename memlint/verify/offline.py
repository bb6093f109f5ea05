"""Verdicts from a trace that was recorded elsewhere: a CUDA memory snapshot or a profiler trace. Nothing runs.

A trace shows what was allocated, when, and by which code; it does not show who holds it. A verdict is given where that
is enough, and INCONCLUSIVE where two explanations are left.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from memlint.diagnostics import Diagnostic
from memlint.findings import Watch
from memlint.trace.events import HOST, Action, Origin, Phase, Recording
from memlint.verify.allocations import Allocations, LineAllocations
from memlint.verify.memory import RunMemory, run_memory
from memlint.verify.plan import WARM_UP, WatchedLine
from memlint.verify.sizes import counted, in_bytes
from memlint.verify.verdicts import Judged, Ruling, Verdict, confirmed, inconclusive, refuted

_LEAST_STEPS = WARM_UP + 3
_ACCUMULATE = "torch::autograd::AccumulateGrad"
_ADDS = frozenset({"aten::add_", "aten::add"})
_ZEROES = frozenset({"aten::zero_", "aten::_foreach_zero_"})


def judge_trace(diagnostics: Iterable[Diagnostic], lines: Iterable[WatchedLine], recording: Recording) -> list[Judged]:
    """A verdict for each finding. Paths in the trace may be those of another machine: their ends are compared."""
    by_number = {line.number: line for line in lines}
    trace = _Trace(recording, run_memory(recording))
    judged = []
    for number, diagnostic in enumerate(diagnostics):
        line = by_number.get(number)
        judged.append(Judged(diagnostic, _ruling(diagnostic, line, trace)))
    return judged


@dataclass(frozen=True)
class _Trace:
    recording: Recording
    memory: RunMemory | None

    @property
    def overrun(self) -> str:
        """How it shows that the oldest events are missing."""
        return "; ".join(f"{device}: {sign}" for device, sign in self.recording.overrun.items())

    @cached_property
    def has_stacks(self) -> bool:
        return any(event.stack is not None for event in self.recording.kinds())

    @cached_property
    def allocations(self) -> Allocations:
        return Allocations(self.recording)

    def mentions(self, line: WatchedLine) -> bool:
        """Whether any recorded stack passes through the file of ``line``."""
        end = Path(line.path).parts[-2:]
        return any(tuple(Path(name).parts[-2:]) == end[-len(Path(name).parts) :] for name in self._files)

    @cached_property
    def _files(self) -> set[str]:
        stacks = {id(event.stack): event.stack for event in self.recording.kinds() if event.stack is not None}
        return {frame.filename for stack in stacks.values() for frame in stack.frames if frame.is_python}

    @cached_property
    def zeroes(self) -> int:
        """How often ``zero_grad`` filled gradients with zeros."""
        calls = self.recording.calls.items()
        return sum(count for (caller, name), count in calls if "zero_grad" in caller and name in _ZEROES)

    @cached_property
    def accumulations(self) -> Counter[str]:
        """What ran when a gradient was accumulated."""
        calls = self.recording.calls.items()
        return Counter({name: count for (caller, name), count in calls if caller.startswith(_ACCUMULATE)})


@dataclass(frozen=True)
class _Case:
    diagnostic: Diagnostic
    line: WatchedLine
    trace: _Trace

    @cached_property
    def allocations(self) -> LineAllocations:
        return self.trace.allocations.of(self.line, anywhere=True)


def _ruling(diagnostic: Diagnostic, line: WatchedLine | None, trace: _Trace) -> Ruling:
    claim = diagnostic.claim
    if claim is None or line is None:
        return inconclusive(
            claim.unobservable if claim is not None and claim.unobservable else "there is nothing to see"
        )
    if trace.memory is None:
        return inconclusive("the trace holds no memory events")
    if trace.overrun:
        return inconclusive(f"the oldest events are missing from the trace ({trace.overrun})")
    watch = Watch(line.watch)
    needs_stacks = watch not in (Watch.GRADIENTS_ADDED_TO, Watch.GRADIENTS_ZEROED)
    if needs_stacks and not trace.has_stacks:
        return inconclusive("the trace holds no stacks; record it with with_stack=True or stacks='python'")
    return _DECISIONS.get(watch, _needs_a_run)(_Case(diagnostic, line, trace))


def _grows(case: _Case) -> Ruling:
    memory, claim = case.trace.memory, case.diagnostic.claim
    assert memory is not None
    assert claim is not None
    steps = len(memory.step_ends)
    if not case.trace.mentions(case.line):
        return Ruling(Verdict.NOT_EXERCISED, "no recorded allocation was made by a function of this file")
    if not steps:
        return inconclusive("the trace does not say where steps end, as ProfilerStep or an optimizer's annotation do")
    if steps < _LEAST_STEPS:
        return inconclusive(f"the trace holds {counted(steps, 'whole step')}; growth shows after {_LEAST_STEPS}")
    growth = memory.growth_per_step
    if growth <= _tolerance(memory):
        flat = f"what is allocated at the end of each of {steps} steps changes by {in_bytes(growth)} a step"
        if claim.memory == "host":
            return inconclusive(
                f"{flat}, and a trace does not show what graphs and Python's objects take of the host's"
            )
        return refuted(flat)
    found = case.trace.allocations.of(case.line, anywhere=True, within_loop=True)
    own = found.growth_per_step(WARM_UP)
    if 2 * own < growth:
        return inconclusive(f"memory grows by {in_bytes(growth)} a step, but not by what this loop allocates")
    return confirmed(
        f"memory grows by {in_bytes(growth)} a step, {in_bytes(own)} of it allocated in the loop of this line",
        "device",
        bytes_per_step=round(own),
        bytes_at_peak=found.at_peak,
        bytes_at_step_end=found.at_end_of_step(),
        where=found.where,
    )


def _tolerance(memory: RunMemory) -> float:
    return max(1 << 20, memory.peak_allocated * 0.005)


def _forward_graph(case: _Case) -> Ruling:
    found = case.allocations
    if not found.count:
        return _not_seen()
    if case.trace.recording.origin is not Origin.PROFILER:
        return inconclusive("a memory snapshot does not show whether operators recorded a graph; a profiler trace does")
    if not found.recorded_bytes:
        return refuted(f"none of {counted(found.count, 'allocation')} was made by an operator that recorded a graph")
    return confirmed(
        f"operators that recorded a graph allocated {in_bytes(found.recorded_bytes)}, up to "
        f"{in_bytes(found.most_alive)} at the same time",
        "device",
        bytes_at_peak=found.most_alive,
        where=found.where,
    )


def _gradients_added_to(case: _Case) -> Ruling:
    counts = case.trace.accumulations
    if not counts:
        return _needs_a_run(case)
    added = sum(count for name, count in counts.items() if name in _ADDS)
    cleared = any("zero_grad" in mark.name for mark in case.trace.recording.marks)
    if added and not cleared:
        return confirmed(
            f"{counted(added, 'gradient')} were added to older ones, and no optimizer cleared any", "device"
        )
    if added:
        return inconclusive(f"{counted(added, 'gradient')} were added to older ones, between calls of zero_grad")
    return refuted(f"no gradient of {counted(sum(counts.values()), 'accumulation')} was added to an older one")


def _gradients_zeroed(case: _Case) -> Ruling:
    if not any("zero_grad" in mark.name for mark in case.trace.recording.marks):
        return _needs_a_run(case)
    if case.trace.zeroes:
        return confirmed(f"zero_grad filled gradients with zeros in {counted(case.trace.zeroes, 'operator')}", "device")
    return refuted("zero_grad filled nothing with zeros")


def _retained(case: _Case) -> Ruling:
    """What forward passes allocated and a backward has not freed."""
    if not any(event.phase is Phase.BACKWARD for event in case.trace.recording.kinds()):
        return inconclusive("the trace does not tell the backward pass from the forward pass")
    return _needs_a_run(case)


def _allocated(case: _Case) -> Ruling:
    found = case.allocations
    if not found.count:
        return _not_seen()
    if found.at_peak:
        return confirmed(
            f"{in_bytes(found.at_peak)} that the line allocated were alive at the peak",
            "device",
            bytes_at_peak=found.at_peak,
            where=found.where,
        )
    return refuted(f"the line held {in_bytes(found.most_alive)} at most, and nothing of it at the peak")


def _loaded(case: _Case) -> Ruling:
    sizes: dict[str, int] = {}
    for event in case.trace.recording.events:
        stack = event.stack
        if event.action is Action.ALLOCATE and stack is not None and stack.mentions("torch/serialization.py"):
            sizes[event.device] = sizes.get(event.device, 0) + event.size
    on_device = {device: size for device, size in sizes.items() if device != HOST}
    if on_device:
        where = ", ".join(f"{in_bytes(size)} on {device}" for device, size in on_device.items())
        return confirmed(f"torch.load allocated {where}", "device", bytes_at_peak=sum(on_device.values()))
    if sizes and not any(device != HOST for device in case.trace.recording.devices()):
        return inconclusive(
            f"torch.load allocated {in_bytes(sizes[HOST])}; the trace is one of a CPU, where all of it goes to the host"
        )
    if sizes:
        return refuted(f"torch.load allocated {in_bytes(sizes[HOST])} of host memory only")
    return _not_seen()


def _not_seen() -> Ruling:
    return Ruling(Verdict.NOT_EXERCISED, "nothing in the trace was allocated while this line ran")


def _needs_a_run(case: _Case) -> Ruling:  # noqa: ARG001 - it says the same of all
    return inconclusive("a trace does not show it; run the script under memlint verify")


_DECISIONS: dict[Watch, Callable[[_Case], Ruling]] = {
    Watch.REACHABLE: _grows,
    Watch.FILLED: _grows,
    Watch.FORWARD_GRAPH: _forward_graph,
    Watch.RETAINED_GRAPH: _retained,
    Watch.GRADIENTS_ADDED_TO: _gradients_added_to,
    Watch.GRADIENTS_ZEROED: _gradients_zeroed,
    Watch.ALLOCATED: _allocated,
    Watch.LOADED: _loaded,
}


def trace_name(path: Path, recording: Recording) -> str:
    """What a report calls the trace."""
    return f"the {recording.origin.value} {path.name}"
