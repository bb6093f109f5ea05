"""From observations to verdicts, without a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from memlint.diagnostics import Diagnostic, LocatedClaim, Location
from memlint.findings import ClaimShape, Confidence, Severity, Watch
from memlint.trace.events import HOST, Action, Category, MemoryEvent, Origin, Phase, Recording
from memlint.trace.frames import Frame, Stack
from memlint.verify.decide import NODE_BYTES, decide
from memlint.verify.observations import (
    ALONE,
    Amount,
    Ending,
    GradientsSeen,
    GraphSeen,
    LineSeen,
    Observations,
    OptimizerSeen,
    Sample,
)
from memlint.verify.plan import WatchedLine
from memlint.verify.verdicts import Ruling, Verdict

PATH = Path("/project/train.py")
KIB = 1 << 10


def diagnostic(watch: Watch, shape: ClaimShape = ClaimShape.GROWS, **claim: str | int) -> Diagnostic:
    place = Location(10, 5)
    located = LocatedClaim(shape.value, "device", "A", "kept", "loss", place, watch=watch.value)
    return Diagnostic(
        "MEM101",
        "name",
        "message",
        PATH,
        place,
        Location(10, 9),
        Severity.ERROR,
        Confidence.LIKELY,
        "",
        (),
        10,
        "",
        claim=located._replace(**claim),  # type: ignore[arg-type]
    )


def rule(
    watch: Watch,
    seen: LineSeen,
    run: Observations | None = None,
    recording: Recording | None = None,
    shape: ClaimShape = ClaimShape.GROWS,
    limit: int = 0,
) -> Ruling:
    line = WatchedLine(0, str(PATH), (10, 10), (8, 12), watch.value, ("kept",))
    run = run or Observations(steps=8)
    run.lines = {0: seen}
    (judged,) = decide([diagnostic(watch, shape, limit=limit)], [line], run, recording)
    return judged.ruling


def samples(*device: int, nodes: int = 0, epochs: list[int] | None = None, **fields: object) -> LineSeen:
    found = [
        Sample(
            execution=index,
            step=index,
            epoch=epochs[index - 1] if epochs else 0,
            kind="list",
            tensors=1,
            device_bytes=size,
            viewed_bytes=size,
            nodes=nodes * index,
            **fields,  # type: ignore[arg-type]
        )
        for index, size in enumerate(device, 1)
    ]
    return LineSeen(executions=len(found), steps=list(range(1, len(found) + 1)), samples=found, root="kept")


def test_what_did_not_run_is_not_exercised() -> None:
    assert rule(Watch.REACHABLE, LineSeen()).verdict is Verdict.NOT_EXERCISED
    run = Observations(steps=8, files=["/project/other.py"])
    assert "did not import this file" in rule(Watch.REACHABLE, LineSeen(), run).evidence


def test_how_far_a_script_without_an_optimizer_ran() -> None:
    run = Observations(forwards=12)
    assert rule(Watch.REACHABLE, LineSeen(), run).evidence.endswith("12 forward passes without an optimizer step")
    assert Observations(steps=1, forwards=12).extent == "1 step"
    assert Observations().extent == "0 steps"


def test_a_process_that_was_ended_says_nothing_of_its_lines() -> None:
    ruling = rule(Watch.REACHABLE, LineSeen(), Observations(ending=Ending.DIED))
    assert ruling.verdict is Verdict.INCONCLUSIVE


def test_a_container_that_grows_on_the_device() -> None:
    ruling = rule(Watch.REACHABLE, samples(4096, 8192, 12288, 16384, 20480, nodes=3))
    assert (ruling.verdict, ruling.memory) == (Verdict.CONFIRMED, "device")
    assert (ruling.bytes_per_step, ruling.bytes_at_peak, ruling.per) == (4096, 20480, "step")
    assert "3 autograd nodes" in ruling.evidence


def test_a_drained_graph_grows_on_the_host_only() -> None:
    ruling = rule(Watch.REACHABLE, samples(4, 4, 4, 4, 4, nodes=8))
    assert (ruling.verdict, ruling.memory) == (Verdict.CONFIRMED, "host")
    assert ruling.bytes_per_step == 8 * NODE_BYTES
    assert "device memory stays flat at 4 B" in ruling.evidence


def test_several_executions_in_a_step_add_up() -> None:
    seen = samples(*range(1000, 17000, 1000))
    for number, sample in enumerate(seen.samples):
        sample.step = number // 4
    seen.steps = [0, 1, 2, 3]
    assert rule(Watch.REACHABLE, seen).bytes_per_step == 4000


def test_what_starts_anew_within_a_step_is_told_by_the_execution() -> None:
    found = samples(4 * KIB, 8 * KIB, 12 * KIB, 4 * KIB, 8 * KIB, 12 * KIB, epochs=[0, 0, 0, 1, 1, 1])
    for sample, step in zip(found.samples, (1, 1, 2, 2, 3, 3), strict=True):
        sample.step = step
    found.steps = [1, 2, 3]
    ruling = rule(Watch.REACHABLE, found)
    assert (ruling.bytes_per_step, ruling.per) == (4 * KIB, "execution")


def test_outside_of_training_an_execution_is_the_unit() -> None:
    seen = samples(1000, 2000, 3000, 4000, 5000)
    seen.steps = [0]
    ruling = rule(Watch.REACHABLE, seen)
    assert (ruling.per, ruling.bytes_per_step) == ("execution", 1000)


def test_growth_is_seen_within_each_epoch() -> None:
    seen = samples(1000, 2000, 3000, 1000, 2000, 3000, epochs=[0, 0, 0, 1, 1, 1])
    assert rule(Watch.REACHABLE, seen).bytes_per_step == 1000


@pytest.mark.parametrize(
    ("seen", "reason"),
    [
        (samples(4096, 4096, 4096, 4096, 4096), "does not grow"),
        (samples(4, 8, 12, 16, 20), "plain values without a graph"),
        (samples(1000, 2000, 3000, 4000, 1000, 2000, 3000, 4000, 1000), "emptied inside its loop"),
        (samples(*range(1000, 9000, 1000), limit=100), "a deque of 100 items"),
        (samples(1000, 2000, 1000, 2000, 1000, 2000, epochs=[0, 0, 1, 1, 2, 2]), "starts anew in each step"),
    ],
    ids=["flat", "scalars", "emptied", "bounded", "within a step"],
)
def test_what_does_not_grow_without_bound_is_refuted(seen: LineSeen, reason: str) -> None:
    if "anew" in reason:
        for number, sample in enumerate(seen.samples):
            sample.step = number // 2
    ruling = rule(Watch.REACHABLE, seen)
    assert ruling.verdict is Verdict.REFUTED, ruling
    assert reason in ruling.evidence


def test_a_number_holds_nothing() -> None:
    seen = samples(0, 0)
    for sample in seen.samples:
        sample.kind = "float"
    assert "plain float" in rule(Watch.REACHABLE, seen).evidence


def test_two_executions_decide_nothing() -> None:
    ruling = rule(Watch.REACHABLE, samples(1000, 2000))
    assert ruling.verdict is Verdict.INCONCLUSIVE
    assert "--steps" in ruling.evidence


def test_views_that_pin_storages_are_told() -> None:
    seen = samples(40960, 81920, 122880, 163840, 204800)
    for sample in seen.samples:
        sample.viewed_bytes = 16 * sample.execution
    assert "80 B of views keep storages of 200 KiB alive" in rule(Watch.REACHABLE, seen).evidence


def graphs(*each: GraphSeen) -> LineSeen:
    return LineSeen(executions=len(each), steps=[1], graphs=list(each), forwards=len(each))


def test_graphs_of_forward_passes() -> None:
    none, wasted = GraphSeen(1, 1, 0, 0), GraphSeen(2, 1, 9, 4096)
    used = GraphSeen(3, 1, 9, 4096, differentiated=True, trains=True)
    useless = GraphSeen(4, 1, 9, 8192, differentiated=True)
    assert rule(Watch.FORWARD_GRAPH, graphs(none, none)).verdict is Verdict.REFUTED
    assert rule(Watch.FORWARD_GRAPH, graphs(used)).verdict is Verdict.REFUTED
    confirmed = rule(Watch.FORWARD_GRAPH, graphs(none, wasted))
    assert (confirmed.verdict, confirmed.bytes_at_peak) == (Verdict.CONFIRMED, 4096)
    assert "no backward ran over them" in confirmed.evidence
    assert "trained nothing" in rule(Watch.FORWARD_GRAPH, graphs(useless, used)).evidence


def test_retained_graphs() -> None:
    freed, kept = GraphSeen(1, 1, 9, 0), GraphSeen(2, 1, 9, 4096)
    needed = GraphSeen(3, 1, 9, 4096, differentiated=True)
    assert rule(Watch.RETAINED_GRAPH, graphs(freed)).verdict is Verdict.REFUTED
    assert rule(Watch.RETAINED_GRAPH, graphs(freed, needed)).verdict is Verdict.REFUTED
    assert rule(Watch.RETAINED_GRAPH, graphs(needed, kept)).bytes_at_peak == 4096


def summed(*saved: int) -> Ruling:
    found = samples(*saved)
    for sample, size in zip(found.samples, saved, strict=True):
        sample.saved_bytes = size
    return rule(Watch.SUMMED_GRAPHS, found)


def test_losses_whose_graphs_wait_for_one_backward() -> None:
    ruling = summed(4 * KIB, 8 * KIB, 12 * KIB, 4 * KIB, 8 * KIB, 12 * KIB)
    assert (ruling.verdict, ruling.bytes_at_peak) == (Verdict.CONFIRMED, 8 * KIB)
    assert "each of 3 iterations" in ruling.evidence


def test_losses_that_have_a_backward_each() -> None:
    assert summed(4 * KIB, 4 * KIB, 4 * KIB, 4 * KIB).verdict is Verdict.REFUTED
    assert summed(4 * KIB, 8 * KIB).verdict is Verdict.INCONCLUSIVE


@pytest.mark.parametrize(
    ("alive", "verdict"),
    [([], Verdict.INCONCLUSIVE), ([4, 4, 4], Verdict.REFUTED), ([0, 9 * KIB, 9 * KIB], Verdict.CONFIRMED)],
)
def test_outputs_that_outlive_their_backward(alive: list[int], verdict: Verdict) -> None:
    assert rule(Watch.OUTPUT_AFTER_BACKWARD, LineSeen(executions=3, after_backward=alive)).verdict is verdict


def test_gradients_that_are_added_to() -> None:
    seen = LineSeen(executions=3, steps=[1, 2, 3])
    kept = OptimizerSeen("SGD", steps=3, added_to=[400, 400])
    cleared = OptimizerSeen("Adam", steps=3, added_to=[0, 0])

    def ruling(*numbers: int) -> Ruling:
        run = Observations(steps=3, optimizers=[kept, cleared], holder_optimizers={0: list(numbers)})
        return rule(Watch.GRADIENTS_ADDED_TO, seen, run)

    assert ruling(0).bytes_at_peak == 400
    assert ruling(1).verdict is Verdict.REFUTED
    assert rule(Watch.GRADIENTS_ADDED_TO, seen, Observations(steps=3)).verdict is Verdict.INCONCLUSIVE


@pytest.mark.parametrize(
    ("watch", "seen", "verdict"),
    [
        (Watch.GRADIENTS_ZEROED, GradientsSeen(2, 1, 400, 400, True, False), Verdict.CONFIRMED),
        (Watch.GRADIENTS_ZEROED, GradientsSeen(2, 1, 400, 0, True, False), Verdict.REFUTED),
        (Watch.GRADIENTS_ZEROED, GradientsSeen(2, 1, 0, 0, True, False), Verdict.INCONCLUSIVE),
        (Watch.GRADIENTS_IN_FORWARD, GradientsSeen(2, 1, 400, 0, True, False), Verdict.CONFIRMED),
        (Watch.GRADIENTS_IN_FORWARD, GradientsSeen(2, 1, 400, 0, False, False), Verdict.REFUTED),
        (Watch.GRADIENTS_DISCARDED, GradientsSeen(2, 1, 400, 0, True, True), Verdict.CONFIRMED),
        (Watch.GRADIENTS_DISCARDED, GradientsSeen(2, 1, 400, 0, True, False), Verdict.REFUTED),
        (Watch.GRADIENTS_DISCARDED, GradientsSeen(2, 1, 0, 0, True, True), Verdict.REFUTED),
    ],
)
def test_gradients_around_a_line(watch: Watch, seen: GradientsSeen, verdict: Verdict) -> None:
    ruling = rule(watch, LineSeen(executions=2, steps=[1], gradients=[seen]))
    assert ruling.verdict is verdict
    assert (ruling.bytes_at_peak == 400) is (verdict is Verdict.CONFIRMED)


def recording(*events: tuple[str, int, int, int]) -> Recording:
    """Events as (action, address, KiB, row), one step each."""
    stack = {row: Stack((Frame(str(PATH), row, "fit"),)) for _, _, _, row in events}
    return Recording(
        Origin.CPU_RECORDER,
        [
            MemoryEvent(
                Action.ALLOCATE if action == "alloc" else Action.FREE,
                HOST,
                address,
                size * KIB,
                size * KIB,
                step=step,
                phase=Phase.FORWARD,
                stack=stack[row],
            )
            for step, (action, address, size, row) in enumerate(events)
        ],
    )


def test_a_spike_counts_at_the_peak_only() -> None:
    seen = LineSeen(executions=1, steps=[1])
    at_peak = recording(("alloc", 1, 8, 10), ("alloc", 2, 100, 3), ("free", 1, 8, 10))
    ruling = rule(Watch.ALLOCATED, seen, recording=at_peak, shape=ClaimShape.SPIKE)
    assert (ruling.verdict, ruling.bytes_at_peak) == (Verdict.CONFIRMED, 8 * KIB)
    before = recording(("alloc", 1, 8, 10), ("free", 1, 8, 10), ("alloc", 2, 100, 3))
    ruling = rule(Watch.ALLOCATED, seen, recording=before, shape=ClaimShape.SPIKE)
    assert ruling.verdict is Verdict.REFUTED
    assert "held 8.00 KiB at most" in ruling.evidence


def test_a_plateau_outlives_its_step() -> None:
    seen = LineSeen(executions=1, steps=[1])
    stays = recording(("alloc", 1, 8, 10), ("alloc", 2, 1, 3), ("alloc", 3, 1, 3))
    ruling = rule(Watch.ALLOCATED, seen, recording=stays, shape=ClaimShape.PLATEAU)
    assert (ruling.verdict, ruling.bytes_at_step_end) == (Verdict.CONFIRMED, 8 * KIB)


@pytest.mark.parametrize("watch", [Watch.ALLOCATED, Watch.ATTENTION_WEIGHTS, Watch.CACHED_CASTS])
def test_a_recording_that_lacks_events_decides_nothing(watch: Watch) -> None:
    run = Observations(steps=8, missing=["cuda:0: only the latest 9 events of the allocator's history were kept"])
    ruling = rule(watch, LineSeen(executions=5), run, Recording(Origin.CUDA_SNAPSHOT, []), ClaimShape.SPIKE)
    assert ruling.verdict is Verdict.INCONCLUSIVE
    assert "cuda:0: only the latest 9 events" in ruling.evidence


def test_what_was_looked_at_itself_needs_no_recording() -> None:
    run = Observations(steps=8, missing=["cuda:0: some"])
    ruling = rule(Watch.REACHABLE, samples(1 * KIB, 2 * KIB, 3 * KIB, 4 * KIB, 5 * KIB), run)
    assert ruling.verdict is Verdict.CONFIRMED


def test_a_claim_that_no_run_can_show_says_why() -> None:
    finding = diagnostic(Watch.REACHABLE, unobservable="it is in another process")
    (judged,) = decide([finding], [], Observations(), None)
    assert (judged.ruling.verdict, judged.ruling.evidence) == (Verdict.INCONCLUSIVE, "it is in another process")


@pytest.mark.parametrize(
    ("amounts", "verdict"),
    [
        ([], Verdict.INCONCLUSIVE),
        ([Amount(64 * KIB, 64 * KIB, ALONE)], Verdict.INCONCLUSIVE),
        ([Amount(0, 0)], Verdict.REFUTED),
        ([Amount(0, 64 * KIB)], Verdict.REFUTED),
        ([Amount(0, 64 * KIB), Amount(64 * KIB, 64 * KIB)], Verdict.CONFIRMED),
    ],
    ids=["never", "one process", "shards only", "moved to the host", "on the device"],
)
def test_weights_are_gathered_where_several_processes_have_them(amounts: list[Amount], verdict: Verdict) -> None:
    assert rule(Watch.GATHERED, LineSeen(executions=1, amounts=amounts)).verdict is verdict


def held(parameters: int, activations: int, inputs: int = 0) -> Recording:
    """What is alive at the peak, in KiB."""
    sizes = {Category.PARAMETER: parameters, Category.ACTIVATION: activations, Category.INPUT: inputs}
    found = recording(*(("alloc", number, size, 10) for number, size in enumerate(sizes.values())))
    for event, category in zip(found.events, sizes, strict=True):
        event.category = category
    return found


@pytest.mark.parametrize(
    ("memory", "verdict"),
    [
        (held(40, 55), Verdict.CONFIRMED),
        (held(30, 45), Verdict.INCONCLUSIVE),
        (held(10, 45), Verdict.REFUTED),
        (held(60, 40), Verdict.REFUTED),
    ],
    ids=["full of activations", "three quarters", "half", "full of states"],
)
def test_a_batch_is_too_large_where_what_it_saves_fills_the_device(memory: Recording, verdict: Verdict) -> None:
    assert rule(Watch.BATCH_PEAK, LineSeen(executions=1), recording=memory, limit=100 * KIB).verdict is verdict


@pytest.mark.parametrize(
    ("gain", "alike", "memory", "verdict"),
    [
        (30, 4, held(40, 60), Verdict.CONFIRMED),
        (30, 4, held(40, 60, 900), Verdict.CONFIRMED),
        (9, 4, held(40, 60), Verdict.REFUTED),
        (30, 0, held(40, 60), Verdict.INCONCLUSIVE),
        (30, 4, held(60, 40), Verdict.INCONCLUSIVE),
    ],
    ids=["worth it", "beside much data", "a small gain", "no blocks alike", "mostly states"],
)
def test_checkpoints_must_lower_the_peak(gain: int, alike: int, memory: Recording, verdict: Verdict) -> None:
    seen = LineSeen(executions=1, amounts=[Amount(gain * KIB, 40 * KIB, share=alike)])
    assert rule(Watch.UNCHECKPOINTED_BLOCKS, seen, recording=memory).verdict is verdict


@pytest.mark.parametrize(
    ("gain", "share", "verdict"),
    [
        (6, 1.0, Verdict.CONFIRMED),
        (6, 0.6, Verdict.INCONCLUSIVE),
        (6, 0.1, Verdict.REFUTED),
        (4, 1.0, Verdict.REFUTED),
    ],
)
def test_autocast_must_lower_the_peak(gain: int, share: float, verdict: Verdict) -> None:
    seen = LineSeen(executions=1, amounts=[Amount(gain * KIB, 40 * KIB, share=share)])
    assert rule(Watch.FULL_PRECISION, seen, recording=held(40, 60, 50)).verdict is verdict
