"""From what was seen to a verdict for each finding.

Evidence is what the finding's own line holds, not a total: two findings never share the same bytes unless both hold
them. The recording adds what the line allocated, and when.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from memlint.diagnostics import Diagnostic
from memlint.findings import ClaimShape, Watch
from memlint.trace.events import Recording
from memlint.verify import followed
from memlint.verify.allocations import Allocations, LineAllocations, is_of_softmax
from memlint.verify.evidence import Evidence, rests_on_recording
from memlint.verify.observations import Ending, GraphSeen, LineSeen, Observations, Sample
from memlint.verify.plan import WARM_UP, WatchedLine
from memlint.verify.sizes import counted, in_bytes
from memlint.verify.verdicts import SMALLEST_GROWTH, Judged, Ruling, Verdict, confirmed, inconclusive, refuted

NODE_BYTES = 640
"""Host memory of one autograd node and what it refers to besides tensors. Measured with ``mallinfo2`` on torch 2.13 for
stacks of Linear and ReLU (635 bytes a node), of transformer layers (628) and of convolutions with batch norm (907)."""

_LEAST_DIFFERENCES = 3


def decide(
    diagnostics: Iterable[Diagnostic], lines: Iterable[WatchedLine], seen: Observations, recording: Recording | None
) -> list[Judged]:
    """A verdict for each of ``diagnostics``; ``lines`` are the watches that the run had."""
    by_number = {line.number: line for line in lines}
    case = _Case(seen, recording)
    return [Judged(each, case.ruling(each, by_number.get(number))) for number, each in enumerate(diagnostics)]


class _Case:
    """Everything that a verdict may rest on."""

    def __init__(self, seen: Observations, recording: Recording | None) -> None:
        self._seen = seen
        self._allocations = None if recording is None else Allocations(recording)

    def ruling(self, diagnostic: Diagnostic, line: WatchedLine | None) -> Ruling:
        claim = diagnostic.claim
        if claim is None:
            return inconclusive("the rule states nothing that a run could show")
        if claim.unobservable:
            return inconclusive(claim.unobservable)
        if line is None:
            return inconclusive("the finding could not be placed in its file")
        seen = self._seen.lines.get(line.number, LineSeen())
        if self._seen.ending is Ending.DIED:
            return inconclusive("the process was ended, and what it had seen is lost")
        if not seen.executions:
            return Ruling(Verdict.NOT_EXERCISED, self._why_not(diagnostic))
        evidence = Evidence(diagnostic, line, seen, self._seen, self._allocations)
        return _DECISIONS[Watch(line.watch)](evidence)

    def _why_not(self, diagnostic: Diagnostic) -> str:
        loaded = {os.path.realpath(path) for path in self._seen.files}
        if loaded and os.path.realpath(diagnostic.path) not in loaded:
            return "the script did not import this file"
        return f"the line did not run in {self._seen.extent}"


# ------------------------------------------------------------------------------------------------------- growth


def _reachable(evidence: Evidence) -> Ruling:
    samples = evidence.seen.samples
    if not samples:
        return _allocated_growth(evidence)
    numbers = all(sample.kind in ("float", "int", "complex", "bool", "str", "NoneType") for sample in samples)
    root = evidence.seen.root
    if numbers:
        return refuted(f"`{root}` is a plain {samples[-1].kind}: it holds no tensor and no graph")
    growth = _Growth.of(samples)
    if growth.differences < _LEAST_DIFFERENCES:
        return inconclusive(f"{evidence.ran}, too seldom in a row to see growth; --steps or --batches give it more")
    if growth.is_emptied and growth.rounds:
        at_most = in_bytes(max(sample.device_bytes for sample in samples))
        return refuted(
            f"`{root}` is emptied inside its loop, after {counted(growth.rounds, 'time')}: {at_most} at most"
        )
    if growth.starts_anew_in_each_step and _has_holder(evidence):
        at_most = in_bytes(max(sample.device_bytes for sample in samples))
        return refuted(f"`{root}` starts anew in each step: {at_most} at most")
    limit = samples[-1].limit
    if limit is not None and growth.device > SMALLEST_GROWTH:
        return refuted(f"`{root}` is bounded: a deque of {limit} items, at most {in_bytes(limit * growth.device)}")
    return _growing(evidence, growth)


def _growing(evidence: Evidence, growth: _Growth) -> Ruling:
    samples, root = evidence.seen.samples, evidence.seen.root
    runs, per = _runs_per_step(evidence)
    again = "in each step" if per == "step" else "each time the line runs"
    last = samples[-1]
    host = round(growth.nodes * NODE_BYTES)
    nodes = f"{counted(round(growth.nodes * runs), 'autograd node')} ({in_bytes(host * runs)} of host memory)"
    if growth.device > SMALLEST_GROWTH:
        kept = "saved by its graph" if growth.saved > growth.device / 2 else "of tensors"
        more = f", and {nodes}" if growth.nodes >= 1 else ""
        return confirmed(
            f"`{root}` holds {in_bytes(growth.device * runs)} more {again}, {kept}{more}{_pinned(last)}",
            "device",
            bytes_per_step=round(growth.device * runs),
            bytes_at_peak=max(sample.device_bytes for sample in samples),
            bytes_at_step_end=last.device_bytes,
            per=per,
            where=evidence.where,
        )
    if growth.nodes >= 1:
        device = f"device memory stays flat at {in_bytes(last.device_bytes)}"
        return confirmed(
            f"`{root}` keeps {nodes} more {again}; {device}",
            "host",
            bytes_per_step=round(host * runs),
            bytes_at_peak=round(last.nodes * NODE_BYTES),
            bytes_at_step_end=round(last.nodes * NODE_BYTES),
            per=per,
            where=f"{evidence.diagnostic.path}:{evidence.diagnostic.location.row}",
        )
    return refuted(_flat(root, growth, samples))


def _flat(root: str, growth: _Growth, samples: list[Sample]) -> str:
    last = samples[-1]
    if growth.device > 0:
        return f"`{root}` grows by {in_bytes(growth.device)} a time, plain values without a graph"
    held = f"{in_bytes(last.device_bytes)} in {counted(last.tensors, 'tensor')}" if last.tensors else "no tensor"
    graph = f", {counted(last.nodes, 'autograd node')}" if last.nodes else ", no graph"
    return f"`{root}` does not grow: it holds {held}{graph} after {counted(last.execution, 'execution')}"


def _pinned(last: Sample) -> str:
    directly = last.device_bytes - last.saved_bytes
    if last.viewed_bytes and directly >= 2 * last.viewed_bytes + SMALLEST_GROWTH:
        return f"; {in_bytes(last.viewed_bytes)} of views keep storages of {in_bytes(directly)} alive"
    return ""


@dataclass(frozen=True)
class _Growth:
    """What each execution adds, in the median; runs between which values may have started anew do not count."""

    device: float
    saved: float
    nodes: float
    differences: int
    is_emptied: bool
    rounds: int
    """Executions between two times that it was emptied."""
    starts_anew_in_each_step: bool
    """Whether the loop around the line lies within a step, and begins with as little each time."""

    @classmethod
    def of(cls, samples: list[Sample]) -> _Growth:
        pairs = [
            (one, other, other.execution - one.execution)
            for one, other in pairwise(samples)
            if one.epoch == other.epoch
        ]

        def typical(value: Callable[[Sample], int]) -> float:
            return median((value(other) - value(one)) / gap for one, other, gap in pairs) if pairs else 0.0

        drops = [other.execution for one, other, _ in pairs if _is_drop(one, other)]
        rounds = (
            round(median(b - a for a, b in zip([samples[0].execution, *drops], drops, strict=False))) if drops else 0
        )
        return cls(
            typical(lambda sample: sample.device_bytes),
            typical(lambda sample: sample.saved_bytes),
            typical(lambda sample: sample.nodes),
            len(pairs),
            bool(drops),
            rounds,
            _starts_anew(samples),
        )


def _starts_anew(samples: list[Sample]) -> bool:
    firsts = [samples[0]]
    firsts += [other for one, other in pairwise(samples) if one.epoch != other.epoch]
    steps = samples[-1].step - samples[0].step + 1
    return len(firsts) >= max(_LEAST_DIFFERENCES, steps) and all(
        other.device_bytes <= one.device_bytes and other.nodes <= one.nodes for one, other in pairwise(firsts)
    )


def _has_holder(evidence: Evidence) -> bool:
    """A container may grow inside a step; a state that is carried through a sequence may not."""
    claim = evidence.diagnostic.claim
    return claim is not None and claim.holder is not None


def _is_drop(one: Sample, other: Sample) -> bool:
    """Whether most of what was held has been let go."""
    fewer_items = one.items is not None and other.items is not None and other.items < one.items
    return fewer_items or (2 * other.device_bytes < one.device_bytes and 2 * other.nodes <= one.nodes)


def _runs_per_step(evidence: Evidence) -> tuple[float, str]:
    """How often the line runs in a step, and what a "step" then is: outside of training, one execution."""
    seen = evidence.seen
    steps = len(seen.steps)
    # Within a step it may start anew, so that several executions do not add up.
    anew = any(one.step == other.step and one.epoch != other.epoch for one, other in pairwise(seen.samples))
    if steps < _LEAST_DIFFERENCES or anew:
        return 1.0, "execution"
    return max(1.0, round(seen.executions / steps)), "step"


@rests_on_recording
def _allocated_growth(evidence: Evidence) -> Ruling:
    """Nothing could be looked at: what was allocated while the line ran, and is alive at later steps, must do."""
    allocations = evidence.line_allocations
    if allocations is None or evidence.run.steps <= WARM_UP + _LEAST_DIFFERENCES:
        return inconclusive(f"{evidence.ran}, and what it keeps could not be looked at")
    slope = allocations.growth_per_step(WARM_UP)
    if slope > SMALLEST_GROWTH:
        return confirmed(
            f"{in_bytes(slope)} that this line allocated stay alive after each step",
            "device",
            bytes_per_step=round(slope),
            bytes_at_peak=allocations.at_peak,
            bytes_at_step_end=allocations.at_end_of_step(),
            where=allocations.where,
        )
    return refuted("nothing that this line allocated stays alive from step to step")


# ------------------------------------------------------------------------------------------------------- graphs


def _forward_graph(evidence: Evidence) -> Ruling:
    graphs = evidence.seen.graphs
    if not graphs:
        return _recorded_operators(evidence)
    recorded = [graph for graph in graphs if graph.nodes]
    if not recorded:
        return refuted(f"no autograd node was recorded in {counted(len(graphs), 'forward pass')}")
    wasted = [graph for graph in recorded if not graph.trains]
    if not wasted:
        return refuted(f"a backward ran over each of {counted(len(recorded), 'recorded graph')} and trained with it")
    return _wasted_graph(evidence, wasted, len(graphs))


def _wasted_graph(evidence: Evidence, wasted: list[GraphSeen], forwards: int) -> Ruling:
    largest = max(wasted, key=lambda graph: graph.saved_bytes)
    share = f"{len(wasted)} of {counted(forwards, 'forward pass')}"
    after = "and their gradients trained nothing" if largest.differentiated else "and no backward ran over them"
    return confirmed(
        f"{share} recorded a graph, {after}: up to {counted(largest.nodes, 'node')} that save "
        f"{in_bytes(largest.saved_bytes)} until the result is freed",
        "device",
        bytes_at_peak=largest.saved_bytes,
        where=evidence.where,
    )


@rests_on_recording
def _recorded_operators(evidence: Evidence) -> Ruling:
    """No module ran: the operators of the line itself tell whether a graph was recorded."""
    if evidence.line.watch == Watch.LATER_GRAPHS.value:
        if evidence.seen.grad_enabled:
            return inconclusive("gradients are still recorded after the line, but no forward pass follows it")
        return refuted("gradients are not recorded after the line")
    allocations = evidence.line_allocations
    if allocations is None or not allocations.count:
        return inconclusive(f"{evidence.ran}, but no module was called in it")
    if allocations.recorded_bytes:
        return confirmed(
            f"{in_bytes(allocations.recorded_bytes)} were allocated by operators that recorded a graph",
            "device",
            bytes_at_peak=allocations.most_alive,
            where=allocations.where,
        )
    return refuted("its operators recorded no graph")


def _retained_graph(evidence: Evidence) -> Ruling:
    graphs = evidence.seen.graphs
    if not graphs:
        return inconclusive(f"{evidence.ran}, but what it differentiates could not be looked at")
    retained = [graph for graph in graphs if graph.saved_bytes]
    if not retained:
        return refuted("the backward freed everything that the graph had saved")
    needless = [graph for graph in retained if not graph.differentiated]
    if not needless:
        return refuted(f"a later backward ran over each of {counted(len(retained), 'retained graph')}")
    largest = max(needless, key=lambda graph: graph.saved_bytes)
    return confirmed(
        f"after the backward the graph still saves {in_bytes(largest.saved_bytes)}, and no later backward used it "
        f"({len(needless)} of {counted(len(graphs), 'time')})",
        "device",
        bytes_at_peak=largest.saved_bytes,
        where=evidence.where,
    )


def _summed_graphs(evidence: Evidence) -> Ruling:
    sizes = [sample.saved_bytes for sample in evidence.seen.samples]
    root = evidence.seen.root
    if len(sizes) < _LEAST_DIFFERENCES:
        return inconclusive(f"{evidence.ran}, and the sum of the losses was looked at {counted(len(sizes), 'time')}")
    more = [other - one for one, other in pairwise(sizes) if other - one > SMALLEST_GROWTH]
    if not more:
        return refuted(f"the graph of `{root}` saves {in_bytes(max(sizes))} at most, and no more with each iteration")
    iterations = _longest_rise(sizes)
    one = median(more)
    return confirmed(
        f"the graph of `{root}` saves {in_bytes(one)} more with each of {iterations} iterations that wait for one "
        f"backward, {in_bytes(one * (iterations - 1))} more than the graph of one",
        "device",
        bytes_at_peak=round(one * (iterations - 1)),
        where=evidence.where,
    )


def _longest_rise(sizes: list[int]) -> int:
    longest = current = 1
    for one, other in pairwise(sizes):
        current = current + 1 if other - one > SMALLEST_GROWTH else 1
        longest = max(longest, current)
    return longest


def _output_after_backward(evidence: Evidence) -> Ruling:
    observed, root = evidence.seen.after_backward, evidence.seen.root
    if not observed:
        return inconclusive(f"{evidence.ran}, but no backward followed it")
    size = round(median(observed))
    if size <= SMALLEST_GROWTH:
        return refuted(f"{in_bytes(size)} of what `{root}` names were alive when the backward was over")
    return confirmed(
        f"{in_bytes(size)} of what `{root}` names were alive throughout the backward, and after it",
        "device",
        bytes_at_peak=size,
        where=evidence.where,
    )


# ---------------------------------------------------------------------------------------------------- gradients


def _gradients_added_to(evidence: Evidence) -> Ruling:
    numbers = evidence.run.holder_optimizers.get(evidence.line.number, [])
    optimizers = [evidence.run.optimizers[number] for number in numbers] or evidence.run.optimizers
    observed = [(size, each) for each in optimizers for size in each.added_to]
    if not observed:
        return inconclusive(f"{evidence.ran}, but no backward followed a step of its optimizer")
    kept = [size for size, _ in observed if size]
    if not kept:
        return refuted(f"the gradients were cleared between each of {counted(len(observed) + 1, 'step')}")
    size = round(median(kept))
    return confirmed(
        f"{len(kept)} of {counted(len(observed), 'backward')} added to gradients that the optimizer had already used; "
        f"they stay alive through every forward pass",
        "device",
        bytes_at_peak=size,
        bytes_at_step_end=size,
    )


def _gradients_zeroed(evidence: Evidence) -> Ruling:
    later = [each for each in evidence.seen.gradients if each.before]
    if not later:
        return inconclusive(f"{evidence.ran}, but there were no gradients to clear")
    kept = [each.after for each in later if each.after]
    if not kept:
        return refuted("the gradients were freed, not zeroed")
    size = round(median(kept))
    return confirmed(
        "the gradients were filled with zeros and stay allocated through the next forward pass",
        "device",
        bytes_at_peak=size,
        bytes_at_step_end=size,
    )


def _gradients_in_forward(evidence: Evidence) -> Ruling:
    return _freed_late(
        evidence,
        [
            each.before - each.after
            for each in evidence.seen.gradients
            if each.after_forward and not each.after_backward
        ],
        "the gradients of the step before were alive during the forward pass, and freed only after it",
        "no gradient was alive when the line ran after a forward pass",
    )


def _gradients_discarded(evidence: Evidence) -> Ruling:
    return _freed_late(
        evidence,
        [each.before - each.after for each in evidence.seen.gradients if each.after_backward],
        "the line cleared gradients that no optimizer step had used",
        "the gradients that the line cleared had been used by an optimizer step",
    )


def _freed_late(evidence: Evidence, freed: list[int], found: str, not_found: str) -> Ruling:
    if not any(each.before for each in evidence.seen.gradients):
        return refuted(f"there were no gradients when the line ran ({counted(evidence.seen.executions, 'time')})")
    sizes = [size for size in freed if size > 0]
    if not sizes:
        return refuted(not_found)
    return confirmed(found, "device", bytes_at_peak=round(median(sizes)))


def _stray_gradients(evidence: Evidence) -> Ruling:
    graphs, claim = evidence.seen.graphs, evidence.diagnostic.claim
    root = evidence.seen.root or (claim and claim.held) or "what is passed on"
    if not graphs:
        return inconclusive(f"{evidence.ran}, but the value that it passes on could not be looked at")
    if not any(graph.nodes for graph in graphs):
        return refuted(f"`{root}` had no graph in {counted(len(graphs), 'execution')}")
    if not any(graph.differentiated for graph in graphs):
        return refuted(f"no backward ran over the graph of `{root}`")
    stray = [graph for graph in graphs if graph.stray_bytes]
    if stray:
        return _stray(evidence, stray, root)
    used = sum(graph.trains for graph in graphs)
    if used:
        return refuted(f"an optimizer used the gradients of {counted(used, 'backward')} over the graph of `{root}`")
    return inconclusive(f"a backward ran over the graph of `{root}`, and its gradients were neither used nor cleared")


def _stray(evidence: Evidence, stray: list[GraphSeen], root: str) -> Ruling:
    saved = round(median(graph.saved_bytes for graph in stray))
    gradients = round(median(graph.stray_bytes for graph in stray))
    return confirmed(
        f"{counted(len(stray), 'backward')} ran over the graph of `{root}`, which saves {in_bytes(saved)}, and left "
        f"{in_bytes(gradients)} of gradients that were cleared before an optimizer used them",
        "device",
        bytes_at_peak=saved + gradients,
        where=evidence.where,
    )


def _gradient_buckets(evidence: Evidence) -> Ruling:
    observed = evidence.seen.beside_buckets
    if not evidence.seen.root:
        return inconclusive(f"{evidence.ran}, but the wrapped model could not be looked at")
    if not observed:
        return inconclusive(f"{evidence.ran}, but no optimizer stepped on gradients of the wrapped model")
    size = round(median(observed))
    if not size:
        return refuted("the gradients are views of the buckets in which they are reduced")
    return confirmed(
        f"{in_bytes(size)} of gradients have storages of their own beside the buckets of the reducer",
        "device",
        bytes_at_peak=size,
        bytes_at_step_end=size,
    )


def _output_copies(evidence: Evidence) -> Ruling:
    observed = evidence.seen.output_copies
    if not observed:
        return inconclusive(f"{evidence.ran}, but no forward pass of the wrapped model was seen")
    size = round(median(observed))
    if size <= SMALLEST_GROWTH:
        return refuted(f"the wrapper returns what the model returns, or copies of {in_bytes(size)}")
    return confirmed(
        f"each forward pass copies {in_bytes(size)} of outputs, which are alive beside the originals",
        "device",
        bytes_at_peak=size,
    )


def _by_products(evidence: Evidence) -> Ruling:
    observed = evidence.seen.by_products
    if not observed:
        # An output without names, or of a model inside another one.
        return _allocated(evidence)
    what = _BY_PRODUCTS[Watch(evidence.line.watch)]
    size = max(observed)
    if size <= SMALLEST_GROWTH:
        return refuted(f"the outputs of {counted(len(observed), 'forward pass')} hold no {what}")
    return confirmed(
        f"each output holds up to {in_bytes(size)} of {what} as long as it lives",
        "device",
        bytes_at_peak=size,
        where=evidence.where,
    )


_BY_PRODUCTS = {
    Watch.KEY_VALUE_CACHE: "keys and values",
    Watch.LAYER_OUTPUTS: "hidden states or attention weights of all layers",
}


# -------------------------------------------------------------------------------------------------- allocations


def _regrown(evidence: Evidence) -> Ruling:
    samples, root = evidence.seen.samples, evidence.seen.root
    pairs = [(one.device_bytes, other.device_bytes) for one, other in pairwise(samples) if one.epoch == other.epoch]
    if not samples:
        return _allocated(evidence)
    if len(pairs) < _LEAST_DIFFERENCES:
        return inconclusive(f"{evidence.ran}, too seldom in a row to see `{root}` grow")
    if median(other - one for one, other in pairs) <= SMALLEST_GROWTH:
        return refuted(f"`{root}` does not grow: it holds {in_bytes(max(sample.device_bytes for sample in samples))}")
    old, new = max(pairs, key=sum)
    return confirmed(
        f"`{root}` is made anew each time, {in_bytes(new - old)} larger: at the last time {in_bytes(old)} of the old "
        f"one and {in_bytes(new)} of the new one were alive together",
        "device",
        bytes_at_peak=old + new,
        where=evidence.where,
    )


@rests_on_recording
def _allocated(evidence: Evidence) -> Ruling:
    allocations = evidence.line_allocations
    if allocations is None:
        return inconclusive("there is no recording of what the line allocated")
    if not allocations.count:
        return refuted(f"{evidence.ran} and allocated nothing")
    if evidence.shape is ClaimShape.PLATEAU:
        stays = allocations.at_end_of_step()
        if stays > SMALLEST_GROWTH:
            return confirmed(
                f"{in_bytes(stays)} that the line allocated are alive at the end of the step",
                "device",
                bytes_at_peak=allocations.at_peak,
                bytes_at_step_end=stays,
                where=allocations.where,
            )
        return refuted("nothing that the line allocated outlives the step")
    return _spike(allocations)


def _spike(allocations: LineAllocations) -> Ruling:
    if allocations.at_peak > SMALLEST_GROWTH:
        return confirmed(
            f"{in_bytes(allocations.at_peak)} that the line allocated were alive at the peak of the run",
            "device",
            bytes_at_peak=allocations.at_peak,
            where=allocations.where,
        )
    return refuted(
        f"the line held {in_bytes(allocations.most_alive)} at most, and nothing of it was alive at the peak of the run"
    )


@rests_on_recording
def _attention_weights(evidence: Evidence) -> Ruling:
    if evidence.allocations is None:
        return inconclusive("there is no recording of what the line allocated")
    allocations = evidence.allocations.of(evidence.line, by=is_of_softmax)
    if not allocations.count:
        return refuted(f"{evidence.ran} and computed no attention weights")
    return confirmed(
        f"{in_bytes(allocations.most_alive)} of attention weights were alive at the same time",
        "device",
        bytes_at_peak=allocations.most_alive,
        where=evidence.where,
    )


_DECISIONS: dict[Watch, Callable[[Evidence], Ruling]] = {
    Watch.REACHABLE: _reachable,
    Watch.FILLED: _reachable,
    Watch.FORWARD_GRAPH: _forward_graph,
    Watch.LATER_GRAPHS: _forward_graph,
    Watch.RETAINED_GRAPH: _retained_graph,
    Watch.SUMMED_GRAPHS: _summed_graphs,
    Watch.OUTPUT_AFTER_BACKWARD: _output_after_backward,
    Watch.GRADIENTS_ADDED_TO: _gradients_added_to,
    Watch.GRADIENTS_ZEROED: _gradients_zeroed,
    Watch.GRADIENTS_IN_FORWARD: _gradients_in_forward,
    Watch.GRADIENTS_DISCARDED: _gradients_discarded,
    Watch.STRAY_GRADIENTS: _stray_gradients,
    Watch.GRADIENT_BUCKETS: _gradient_buckets,
    Watch.OUTPUT_COPIES: _output_copies,
    Watch.KEY_VALUE_CACHE: _by_products,
    Watch.LAYER_OUTPUTS: _by_products,
    Watch.REGROWN: _regrown,
    Watch.ALLOCATED: _allocated,
    Watch.ATTENTION_WEIGHTS: _attention_weights,
    **followed.DECISIONS,
}
