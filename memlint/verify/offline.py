"""Verdicts from a trace that was recorded elsewhere: a CUDA memory snapshot or a profiler trace. Nothing runs.

A trace shows what was allocated, when, by which code, and how long it lived; it does not show who held it. A verdict is
given where that is enough, and INCONCLUSIVE where two explanations are left. How much a trace says depends on who
recorded it: one of memlint's own has phases, categories, and which operators recorded a graph.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path, PurePath

from memlint.diagnostics import Diagnostic
from memlint.findings import ClaimShape, Watch
from memlint.trace.events import HOST, Action, Category, MemoryEvent, Recording
from memlint.verify.allocations import Allocations, LineAllocations, Scope, is_of_softmax
from memlint.verify.memory import RunMemory
from memlint.verify.passes import Passes
from memlint.verify.plan import WatchedLine
from memlint.verify.sizes import counted, in_bytes
from memlint.verify.survivors import LEAST_BOUNDARIES, Survivors, survivors
from memlint.verify.verdicts import SMALLEST_GROWTH, Judged, Ruling, Verdict, confirmed, inconclusive, refuted

_NEARLY_ALL = 0.95
_NEARLY_NOTHING = 0.05
_GROWTH_WATCHES = frozenset({Watch.REACHABLE, Watch.FILLED})
_ACCUMULATE = "torch::autograd::AccumulateGrad"
_ADDS = frozenset({"aten::add_", "aten::add"})
_ZEROES = frozenset({"aten::zero_", "aten::_foreach_zero_"})


def judge_trace(
    diagnostics: Iterable[Diagnostic], lines: Iterable[WatchedLine], recording: Recording, memory: RunMemory | None
) -> list[Judged]:
    """A verdict for each finding. Paths in the trace may be those of another machine: their ends are compared."""
    diagnostics = list(diagnostics)
    watched = {line.number: (diagnostics[line.number], line) for line in lines}
    trace = _Trace(recording, memory, tuple(watched.values()))
    return [
        Judged(diagnostic, _ruling(diagnostic, watched[number][1] if number in watched else None, trace))
        for number, diagnostic in enumerate(diagnostics)
    ]


@dataclass(frozen=True)
class _Trace:
    recording: Recording
    memory: RunMemory | None
    watched: tuple[tuple[Diagnostic, WatchedLine], ...]

    @property
    def overrun(self) -> str:
        """How it shows that the oldest events are missing."""
        return "; ".join(f"{device}: {sign}" for device, sign in self.recording.overrun.items())

    @cached_property
    def has_stacks(self) -> bool:
        return any(event.stack is not None for event in self.recording.kinds())

    @cached_property
    def has_graphs(self) -> bool:
        """Whether it says which operators recorded a graph."""
        return any(event.records_graph is not None for event in self.recording.kinds())

    @cached_property
    def allocations(self) -> Allocations:
        return Allocations(self.recording)

    @cached_property
    def passes(self) -> Passes:
        return Passes.of(self.recording)

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

    @property
    def all(self) -> Allocations:
        """The allocations of the whole trace."""
        return self.trace.allocations

    @cached_property
    def allocations(self) -> LineAllocations:
        """Those of the line."""
        return self.all.of(self.line, anywhere=True)

    @property
    def shape(self) -> ClaimShape:
        return ClaimShape(self.diagnostic.claim.shape) if self.diagnostic.claim else ClaimShape.PRESENT

    @property
    def here(self) -> Scope:
        """The rows of the line."""
        return self.all.scope(self.line, anywhere=True)

    @property
    def around(self) -> Scope:
        """The loop around the line; where there is none, its function."""
        return _around(self.line, self.all)

    def births(self, scope: Scope) -> list[int]:
        """When something was allocated there, in order."""
        return sorted(birth for _, births in self.all.births(scope) for birth in births)

    def size(self, birth: int) -> int:
        return self.all.event(birth).size

    def rivals(self) -> Iterator[tuple[Diagnostic, WatchedLine]]:
        """Other findings that say that something grows."""
        for diagnostic, line in self.trace.watched:
            if diagnostic is not self.diagnostic and Watch(line.watch) in _GROWTH_WATCHES:
                yield diagnostic, line


def _around(line: WatchedLine, allocations: Allocations) -> Scope:
    body = (line.function, line.function_end) if line.function else line.rows
    return allocations.scope(line, line.loop or body, anywhere=True)


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
    if watch not in _WITHOUT_STACKS and not trace.has_stacks:
        return inconclusive("the trace holds no stacks; record it with with_stack=True or stacks='python'")
    if trace.has_stacks and not trace.mentions(line):
        return Ruling(Verdict.NOT_EXERCISED, "no recorded allocation was made by a function of this file")
    return _DECISIONS.get(watch, _needs_a_run)(_Case(diagnostic, line, trace))


# ------------------------------------------------------------------------------------------------------- growth


def _grows(case: _Case) -> Ruling:
    found = survivors(case.all, case.around)
    if found is None:
        return Ruling(Verdict.NOT_EXERCISED, f"nothing was allocated in {_place(case)} while the trace was recorded")
    if found.times < LEAST_BOUNDARIES:
        times = counted(found.times, found.per)
        return inconclusive(f"the trace holds {times} of {_place(case)}; growth shows after {LEAST_BOUNDARIES}")
    if found.growth <= SMALLEST_GROWTH and found.per == "step" and not _may_start_anew(case):
        found = survivors(case.all, case.around, by_step=False) or found
    if found.growth <= SMALLEST_GROWTH:
        return _flat(case, found)
    others = {diagnostic: _around(line, case.all) for diagnostic, line in case.rivals()}
    own = survivors(case.all, case.around, tuple(others.values()), by_step=found.per == "step")
    if own is not None and own.times >= LEAST_BOUNDARIES and own.growth > SMALLEST_GROWTH:
        return confirmed(
            f"what {_place(case)} allocates adds up by {in_bytes(own.growth)} with each of {own.times} {own.per}s",
            "device",
            bytes_per_step=round(own.growth),
            bytes_at_peak=own.most,
            bytes_at_step_end=own.most,
            per=own.per,
            where=own.where,
        )
    return inconclusive(
        f"what {_place(case)} allocates adds up by {in_bytes(found.growth)} with each {found.per}{_from(found)}; a "
        f"trace does not show who holds it, and {_named(case, others)} would explain it as well"
    )


def _place(case: _Case) -> str:
    return "this loop" if case.line.loop else "this function" if case.line.function else "this line"


def _from(found: Survivors) -> str:
    return "" if found.where is None else f", mostly from {PurePath(found.where).name}"


def _may_start_anew(case: _Case) -> bool:
    """A container may be filled within each step; a state that is carried through a sequence may not."""
    return case.diagnostic.claim is not None and case.diagnostic.claim.holder is not None


def _flat(case: _Case, found: Survivors) -> Ruling:
    flat = (
        f"what {_place(case)} allocates does not add up: {in_bytes(found.most)} of it are alive at most after each of "
        f"{counted(found.times, found.per)}"
    )
    claim = case.diagnostic.claim
    if claim is not None and claim.memory == "host":
        return inconclusive(f"{flat}; but a trace does not show what graphs and Python's objects take of the host's")
    return refuted(flat)


def _named(case: _Case, others: dict[Diagnostic, Scope]) -> str:
    """The findings that what grows here may be due to."""
    stacks = [stack for stack, _ in case.all.births(case.around)]
    same = [each for each, scope in others.items() if any(scope.matches(stack) for stack in stacks)]
    return " or ".join(f"{each.code} in row {each.location.row}" for each in same[:3]) or "something else"


# ------------------------------------------------------------------------------------------------------- graphs


def _forward_graph(case: _Case) -> Ruling:
    return _recorded(case, case.here)


def _later_graphs(case: _Case) -> Ruling:
    return _recorded(case, case.all.scope(case.line, (case.line.rows[1] + 1, case.line.function_end), anywhere=True))


def _recorded(case: _Case, scope: Scope) -> Ruling:
    found = case.all.within(scope)
    if not found.count:
        return _not_seen()
    if not case.trace.has_graphs:
        return inconclusive(
            f"{counted(found.count, 'allocation')} of {in_bytes(found.most_alive)} at most; the snapshot does not say "
            "which operators recorded a graph, and a profiler trace does"
        )
    if not found.recorded_bytes:
        return refuted(f"none of {counted(found.count, 'allocation')} was made by an operator that recorded a graph")
    if any(_ends_in_backward(case, birth) for birth in case.births(scope)):
        return inconclusive(
            f"operators that recorded a graph allocated {in_bytes(found.recorded_bytes)}, and a backward freed some of "
            "it; a trace does not show whether it trained something"
        )
    return confirmed(
        f"operators that recorded a graph allocated {in_bytes(found.recorded_bytes)}, up to "
        f"{in_bytes(found.most_alive)} at the same time, and no backward freed it",
        "device",
        bytes_at_peak=found.most_alive,
        where=found.where,
    )


def _ends_in_backward(case: _Case, birth: int) -> bool:
    """Whether a backward freed a block that an earlier forward pass had allocated."""
    span = case.trace.passes.backward_at(case.all.gone(birth))
    return span is not None and birth < span[0]


def _retained(case: _Case) -> Ruling:
    """What forward passes allocated and the backward in this line has not freed."""
    passes = case.trace.passes
    if not case.allocations.count:
        return _not_seen()
    if not passes.backwards or not passes.forwards:
        return inconclusive("the trace does not tell the backward pass from the forward pass")
    spans = {span for birth in case.births(case.here) if (span := passes.backward_at(birth)) is not None}
    if not spans:
        return _not_seen()
    before = after = 0
    for birth in passes.forwards:
        span = passes.backward_after(birth)
        if span in spans and case.all.gone(birth) >= span[0] and case.all.event(birth).records_graph is not False:
            before += case.size(birth)
            after += case.size(birth) if case.all.gone(birth) > span[1] and not _ends_in_backward(case, birth) else 0
    return _freed_share(before, after, len(spans))


def _freed_share(before: int, after: int, times: int) -> Ruling:
    if not before:
        return inconclusive("nothing that a forward pass had allocated was alive when the backward began")
    each = f"{in_bytes(before / times)} of a forward pass were alive when the backward began"
    if after >= _NEARLY_ALL * before:
        return confirmed(
            f"{each}, and {in_bytes(after / times)} when it was over; no later backward freed it",
            "device",
            bytes_at_peak=round(after / times),
        )
    if after <= _NEARLY_NOTHING * before:
        return refuted(f"{each}, and the backward freed nearly all of it")
    return inconclusive(
        f"{each}, and {in_bytes(after / times)} when it was over; a trace does not show whether a graph holds that, or "
        "names do"
    )


def _output_after_backward(case: _Case) -> Ruling:
    births = case.births(case.here)
    if not births:
        return _not_seen()
    followed = [(birth, span) for birth in births if (span := case.trace.passes.backward_after(birth)) is not None]
    if not followed:
        return inconclusive("the trace does not show a backward pass after this line")
    kept = sum(case.size(birth) for birth, span in followed if case.all.gone(birth) > span[1])
    times = len({span for _, span in followed})
    if kept <= SMALLEST_GROWTH * times:
        return refuted("nothing that the line allocated was alive when the backward was over")
    return confirmed(
        f"{in_bytes(kept / times)} that the line allocated were alive throughout the backward, and after it",
        "device",
        bytes_at_peak=round(kept / times),
        where=case.allocations.where,
    )


# ---------------------------------------------------------------------------------------------------- gradients


def _gradients_added_to(case: _Case) -> Ruling:
    counts = case.trace.accumulations
    if not counts:
        return _by_lifetimes(case, _cleared)
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
        return _by_lifetimes(case, _zeroed)
    if case.trace.zeroes:
        return confirmed(f"zero_grad filled gradients with zeros in {counted(case.trace.zeroes, 'operator')}", "device")
    return refuted("zero_grad filled nothing with zeros")


def _gradients_in_forward(case: _Case) -> Ruling:
    return _by_lifetimes(case, _freed_late)


@dataclass(frozen=True)
class _Gradients:
    """What backward passes in the loop of a line allocated as gradients. Sizes are bytes."""

    size: int
    """What was alive at the same time, at most."""
    kept: float
    """The share that outlives the next step as well."""
    in_forward: float
    """The share that is alive when the next forward pass begins."""


def _by_lifetimes(case: _Case, decide: Callable[[_Gradients], Ruling]) -> Ruling:
    passes, everything = case.trace.passes, case.all
    if not passes.gradients:
        return inconclusive("the trace does not say what is a gradient; a snapshot that memlint records does")
    wanted = set(passes.gradients) & set(case.births(case.around))
    if not wanted:
        return inconclusive("no gradient of the trace comes from a backward in the loop or function of this line")
    total = kept = in_forward = 0
    for birth in wanted:
        size, gone = case.size(birth), everything.gone(birth)
        total += size
        kept += size if sum(birth < end <= gone for end in everything.step_ends[:]) > 1 else 0
        step_end = next((end for end in everything.step_ends if end > birth), None)
        forward = None if step_end is None else passes.next_forward(step_end)
        in_forward += size if forward is not None and gone > forward else 0
    most = everything.within(case.around, by=_is_gradient).most_alive
    return decide(_Gradients(most, kept / total, in_forward / total))


def _cleared(found: _Gradients) -> Ruling:
    if found.kept <= _NEARLY_NOTHING:
        return refuted(f"the gradients, {in_bytes(found.size)}, were freed between steps")
    return inconclusive(
        f"{in_bytes(found.size)} of gradients stay alive from step to step; a trace does not show whether they were "
        "filled with zeros in between"
    )


def _zeroed(found: _Gradients) -> Ruling:
    if found.kept <= _NEARLY_NOTHING:
        return refuted(f"the gradients, {in_bytes(found.size)}, were freed between steps")
    return confirmed(
        f"{in_bytes(found.size)} of gradients stay allocated from step to step",
        "device",
        bytes_at_peak=found.size,
        bytes_at_step_end=found.size,
    )


def _freed_late(found: _Gradients) -> Ruling:
    if found.in_forward <= _NEARLY_NOTHING:
        return refuted(f"the gradients, {in_bytes(found.size)}, were freed before the next forward pass")
    return confirmed(
        f"{in_bytes(found.size)} of gradients were alive during the next forward pass",
        "device",
        bytes_at_peak=found.size,
    )


# -------------------------------------------------------------------------------------------------- allocations


def _allocated(case: _Case) -> Ruling:
    found = case.allocations
    if not found.count:
        return _not_seen()
    if case.shape is ClaimShape.PLATEAU and case.all.step_ends:
        return _plateau(found)
    if found.at_peak:
        return confirmed(
            f"{in_bytes(found.at_peak)} that the line allocated were alive at the peak",
            "device",
            bytes_at_peak=found.at_peak,
            where=found.where,
        )
    return refuted(f"the line held {in_bytes(found.most_alive)} at most, and nothing of it at the peak")


def _plateau(found: LineAllocations) -> Ruling:
    stays = found.at_end_of_step()
    if stays <= SMALLEST_GROWTH:
        return refuted("nothing that the line allocated outlives the step")
    return confirmed(
        f"{in_bytes(stays)} that the line allocated are alive at the end of the step",
        "device",
        bytes_at_peak=found.at_peak,
        bytes_at_step_end=stays,
        where=found.where,
    )


def _regrown(case: _Case) -> Ruling:
    """The tensors that a line makes one after the other, each larger than the one before."""
    series = [births for _, births in case.all.births(case.here) if len(births) >= LEAST_BOUNDARIES]
    if not series:
        return inconclusive(f"the trace holds fewer than {LEAST_BOUNDARIES} executions of this line")
    pairs = [(one, other) for births in series for one, other in pairwise(births)]
    larger = [(one, other) for one, other in pairs if case.size(other) - case.size(one) > SMALLEST_GROWTH]
    together = [(one, other) for one, other in larger if case.all.gone(one) > other]
    if 2 * len(larger) <= len(pairs):
        return refuted("what the line allocates does not become larger from one time to the next")
    if not together:
        return refuted("what the line had allocated before was freed each time before it allocated more")
    one, other = max(together, key=lambda pair: case.size(pair[1]))
    return confirmed(
        f"the line allocates more each time: at last {in_bytes(case.size(other))}, while {in_bytes(case.size(one))} of "
        "the time before were alive",
        "device",
        bytes_at_peak=case.size(one) + case.size(other),
        where=case.allocations.where,
    )


def _attention_weights(case: _Case) -> Ruling:
    if not case.allocations.count:
        return _not_seen()
    found = case.all.of(case.line, anywhere=True, by=is_of_softmax)
    if not found.count:
        return refuted(f"none of {counted(case.allocations.count, 'allocation')} of the line was made by softmax")
    return confirmed(
        f"{in_bytes(found.most_alive)} of attention weights were alive at the same time",
        "device",
        bytes_at_peak=found.most_alive,
        where=found.where,
    )


def _is_gradient(event: MemoryEvent) -> bool:
    return event.category is Category.GRADIENT


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


_WITHOUT_STACKS = frozenset({Watch.GRADIENTS_ADDED_TO, Watch.GRADIENTS_ZEROED})
"""A profiler trace says it of all optimizers together, and needs no stacks for that."""
_DECISIONS: dict[Watch, Callable[[_Case], Ruling]] = {
    Watch.REACHABLE: _grows,
    Watch.FILLED: _grows,
    Watch.FORWARD_GRAPH: _forward_graph,
    Watch.LATER_GRAPHS: _later_graphs,
    Watch.RETAINED_GRAPH: _retained,
    Watch.OUTPUT_AFTER_BACKWARD: _output_after_backward,
    Watch.GRADIENTS_ADDED_TO: _gradients_added_to,
    Watch.GRADIENTS_ZEROED: _gradients_zeroed,
    Watch.GRADIENTS_IN_FORWARD: _gradients_in_forward,
    Watch.REGROWN: _regrown,
    Watch.ATTENTION_WEIGHTS: _attention_weights,
    Watch.ALLOCATED: _allocated,
    Watch.LOADED: _loaded,
}


def trace_name(path: Path, recording: Recording) -> str:
    """What a report calls the trace."""
    return f"the {recording.origin.value} {path.name}"
