"""Verdicts on what was followed through the rest of the run (:mod:`memlint.verify.child.followers`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from statistics import median

from memlint.findings import Watch
from memlint.trace.events import Category
from memlint.verify.allocations import is_of_cast
from memlint.verify.evidence import Evidence, rests_on_recording
from memlint.verify.observations import ALONE, HostLoad
from memlint.verify.sizes import counted, in_bytes
from memlint.verify.verdicts import SMALLEST_GROWTH, Ruling, confirmed, inconclusive, refuted


def _double_parameter(evidence: Evidence) -> Ruling:
    seen, root = evidence.seen.amounts, evidence.seen.root
    if not seen:
        return inconclusive(f"{evidence.ran}, but no optimizer was seen to train `{root}`")
    size = max(each.size for each in seen)
    if not size:
        return refuted(f"`{root}` is the same parameter under both names, or one of the two is not trained")
    return confirmed(
        f"the optimizer trains `{root}` beside the parameter that shares its storage: {in_bytes(size)} of a second "
        "gradient and of second states",
        "device",
        bytes_at_peak=size,
        bytes_at_step_end=size,
    )


def _serialised(evidence: Evidence) -> Ruling:
    seen = evidence.seen.amounts
    if not seen:
        return inconclusive(f"{evidence.ran}, but saved nothing by torch.save")
    largest = max(seen, key=lambda each: each.size)
    if largest.size <= SMALLEST_GROWTH:
        return refuted(f"the storages that were saved, {in_bytes(largest.whole)}, are those of the tensors themselves")
    return confirmed(
        f"each of {counted(len(seen), 'file')} holds {in_bytes(largest.whole)} of storages, of which "
        f"{in_bytes(largest.whole - largest.size)} are what was saved; loading it takes as much memory",
        "host",
        bytes_at_peak=largest.size,
    )


def _foreach_step(evidence: Evidence) -> Ruling:
    seen = evidence.seen.amounts
    if not seen:
        return inconclusive(f"{evidence.ran}, but no second step of an optimizer that it made was seen")
    size, whole = round(median(each.size for each in seen)), max(each.whole for each in seen)
    what = f"{in_bytes(size)} at most, for {in_bytes(whole)} of parameters"
    if seen[-1].what != "foreach" or size <= SMALLEST_GROWTH:
        how = "updates one parameter after the other" if seen[-1].what == "loop" else f"is the {seen[-1].what} one"
        return refuted(f"the implementation {how}: a step allocates {what}")
    return confirmed(
        f"with `foreach`, which CUDA defaults to, each step allocates {what}, beside everything that is there",
        "device",
        bytes_at_peak=size,
    )


@rests_on_recording
def _cached_casts(evidence: Evidence) -> Ruling:
    if evidence.allocations is None:
        return inconclusive("there is no recording of what was cast")
    casts = evidence.allocations.of(evidence.line, by=is_of_cast)
    if not casts.count:
        return refuted("nothing was cast inside of this context")
    size = casts.at_end_of_step()
    if size <= SMALLEST_GROWTH:
        return refuted(f"no cast was alive when a step was over; at most {in_bytes(casts.most_alive)} were at once")
    return confirmed(
        f"{in_bytes(size)} of casts were alive when a step was over, and are what later forward passes compute with",
        "device",
        bytes_at_peak=size,
        bytes_at_step_end=size,
        where=casts.where,
    )


def _loaded(evidence: Evidence) -> Ruling:
    places: dict[str, int] = {}
    for each in evidence.seen.amounts:
        places[each.what] = places.get(each.what, 0) + each.size
    host = {each.value for each in HostLoad}
    there = {place: size for place, size in places.items() if place not in host}
    if there:
        size = sum(there.values())
        return confirmed(
            f"{in_bytes(size)} of the file go to {', '.join(sorted(there))}, where they were saved, and are alive "
            "there together with the weights that take them over",
            "device",
            bytes_at_peak=size,
        )
    if not places:
        return inconclusive(f"{evidence.ran}, but no tensor was seen to be loaded")
    size = sum(places.values())
    if HostLoad.OWN.value in places:
        return inconclusive(
            f"the file's tensors take {in_bytes(size)}; this run has written it without a GPU, so that only one with a "
            "GPU can tell where they would go"
        )
    why = "as `map_location` says" if HostLoad.MAPPED.value in places else "from where they were saved"
    return refuted(f"the file's tensors, {in_bytes(size)}, go to the host, {why}")


@rests_on_recording
def _peak(evidence: Evidence) -> Ruling:
    claim = evidence.diagnostic.claim
    if evidence.allocations is None or claim is None:
        return inconclusive("there is no recording of what was allocated")
    most = evidence.allocations.most
    if not claim.limit:
        return inconclusive(f"the tensors take {in_bytes(most)} at the peak; configure `device` to compare that with")
    if not evidence.run.steps:
        return inconclusive(f"the tensors take {in_bytes(most)}, but no optimizer took a step")
    seen = f"the tensors take {in_bytes(most)} at the peak, {claim.size} was estimated"
    if most <= claim.limit:
        return refuted(f"{seen}, and the device has {in_bytes(claim.limit)}")
    return confirmed(
        f"{seen}, and the device has {in_bytes(claim.limit)}; what kernels and the allocator need comes on top",
        "device",
        bytes_at_peak=most,
    )


@rests_on_recording
def _batch_peak(evidence: Evidence) -> Ruling:
    claim, allocations = evidence.diagnostic.claim, evidence.allocations
    if allocations is None or claim is None or not claim.limit or not evidence.run.steps:
        return _peak(evidence)
    most, saved = allocations.most, allocations.at_peak()[Category.ACTIVATION]
    of = f"{in_bytes(most)} at the peak of the {in_bytes(claim.limit)} that the device has"
    if most < _FITS * claim.limit:
        return refuted(f"the tensors take {of}")
    if saved < _HALF * most:
        return refuted(f"the tensors take {of}, but what autograd saves for the batch are {in_bytes(saved)} of it")
    if most < _FULL * claim.limit:
        return inconclusive(f"the tensors take {of}, which may or may not be enough for kernels and the allocator")
    return confirmed(
        f"the tensors take {of}; {in_bytes(saved)} are what autograd saves for the batch",
        "device",
        bytes_at_peak=most,
    )


_FITS, _FULL = 0.6, 0.9
"""Parts of a device: what certainly fits it, and what is certainly too much with the allocator and kernels."""
_HALF = 0.5


def _optimizer_state(evidence: Evidence) -> Ruling:
    seen = evidence.seen.amounts
    if not seen:
        return inconclusive(f"{evidence.ran}, but no optimizer took a step")
    largest = {each.what: each for each in sorted(seen, key=lambda each: each.size)}
    size, elements = sum(each.size for each in largest.values()), sum(each.whole for each in largest.values())
    names = " and ".join(sorted(largest))
    if size < 6 * elements:
        return refuted(f"{names} keeps {in_bytes(size)} for {elements:,} parameters")
    return confirmed(
        f"{names} keeps {in_bytes(size)} for {elements:,} parameters from the first step on",
        "device",
        bytes_at_peak=size,
        bytes_at_step_end=size,
    )


@rests_on_recording
def _block_activations(evidence: Evidence) -> Ruling:
    if evidence.allocations is None:
        return inconclusive("there is no recording of what is computed again")
    again = evidence.allocations.recomputed_segments()
    if again:
        return refuted(f"the backward passes compute up to {in_bytes(max(again))} again, in {len(again)} segments")
    size = max((each.size for each in evidence.seen.amounts), default=0)
    if size <= SMALLEST_GROWTH:
        return inconclusive(f"{evidence.ran}, but no forward pass that autograd records was seen after it")
    whole = max(each.whole for each in evidence.seen.amounts)
    return confirmed(
        f"autograd saves {in_bytes(whole)} in a forward pass and nothing is computed again; with checkpoints, "
        f"{in_bytes(size)} of it were not there",
        "device",
        bytes_at_peak=size,
    )


@rests_on_recording
def _uncheckpointed_blocks(evidence: Evidence) -> Ruling:
    ruling = _block_activations(evidence)
    if not ruling.bytes_at_peak or evidence.allocations is None:
        return ruling
    sizes = evidence.allocations.at_peak()
    peak, saved = _of_training(sizes), sizes[Category.ACTIVATION]
    gain = f"checkpoints would save {in_bytes(ruling.bytes_at_peak)} of {in_bytes(peak)} at the peak"
    if ruling.bytes_at_peak < _WORTHWHILE_CHECKPOINTS * peak:
        return refuted(gain)
    if saved < _HALF * peak:
        return inconclusive(f"{gain}, of which what autograd saves is {in_bytes(saved)}")
    if not any(each.share for each in evidence.seen.amounts):
        return inconclusive(f"{gain}, but no three blocks save the same")
    return ruling


def _of_training(sizes: Counter[Category | None]) -> int:
    """The peak without data: a run without a GPU may hold the whole data set in the same memory."""
    return sum(sizes.values()) - sizes[Category.INPUT]


_WORTHWHILE_CHECKPOINTS, _WORTHWHILE_AUTOCAST = 0.1, 0.05
"""Parts of the peak from which on something is worth its price."""


@rests_on_recording
def _recomputed_segment(evidence: Evidence) -> Ruling:
    if evidence.allocations is None:
        return inconclusive("there is no recording of what is computed again")
    again = evidence.allocations.recomputed_segments()
    if not again:
        return _block_activations(evidence)
    passes = max(1, evidence.run.steps)
    share = max(again) * passes / sum(again)
    if share < _ONE_SEGMENT:
        return refuted(
            f"a backward pass computes {in_bytes(max(again))} at once, {share:.0%} of what it computes again in all"
        )
    return confirmed(
        f"a backward pass computes {in_bytes(max(again))} again at once, which is {min(share, 1):.0%} of all that it "
        "computes again",
        "device",
        bytes_at_peak=max(again),
    )


_ONE_SEGMENT = 0.8
"""Share of what is computed again that makes a segment the whole."""


@rests_on_recording
def _full_precision(evidence: Evidence) -> Ruling:
    seen = evidence.seen.amounts
    if not seen or evidence.allocations is None:
        return inconclusive(f"{evidence.ran}, but no forward pass that autograd records was seen after it")
    largest = max(seen, key=lambda each: each.whole)
    peak = _of_training(evidence.allocations.at_peak())
    products = f"{largest.share:.0%} of the products of matrices and convolutions are of float32"
    gain = f"autocast would lower the peak by {in_bytes(largest.size)} of {in_bytes(peak)}"
    if largest.share <= 1 - _MOST:
        return refuted(products)
    if largest.size <= _WORTHWHILE_AUTOCAST * peak:
        return refuted(f"{products}, but {gain}")
    if largest.share < _MOST:
        return inconclusive(f"{products}; {gain}")
    return confirmed(f"{products}; {gain}", "device", bytes_at_peak=largest.size)


_MOST = 0.8


def _padding(evidence: Evidence) -> Ruling:
    seen = evidence.seen.amounts
    if not seen:
        return inconclusive(f"{evidence.ran}, but no batch with an `attention_mask` was seen to be trained with")
    largest = max(seen, key=lambda each: each.size)
    if largest.size <= SMALLEST_GROWTH:
        return refuted("in each batch that has a mask, each position is of a sample's token")
    return confirmed(
        f"{in_bytes(largest.size)} of the {in_bytes(largest.whole)} that autograd saves in a forward pass are for "
        "positions at which all samples are padded",
        "device",
        bytes_at_peak=largest.size,
    )


def _evaluation_loop(evidence: Evidence) -> Ruling:
    loops: dict[str, list[int]] = {}
    for each in evidence.seen.amounts:
        loops.setdefault(each.what, []).append(each.size)
    sizes = max(loops.values(), key=len, default=[])
    more = [other - one for one, other in pairwise(sizes)]
    if len(more) < 2:
        return inconclusive(f"{evidence.ran}, but no evaluation of several batches was seen")
    size = round(median(more))
    if size <= SMALLEST_GROWTH:
        return refuted(f"the evaluation gathers {in_bytes(max(sizes))} at most, and no more with each batch")
    return confirmed(
        f"the evaluation gathers {in_bytes(size)} more with each batch, {in_bytes(max(sizes))} after "
        f"{counted(len(sizes) - 1, 'batch')}",
        "device",
        bytes_per_step=size,
        bytes_at_peak=max(sizes),
        per="execution",
    )


def _unsharded(evidence: Evidence) -> Ruling:
    seen = evidence.seen.amounts
    if not seen:
        return inconclusive(f"{evidence.ran}, but no parameter of `fully_shard` was seen to be gathered")
    largest = max(seen, key=lambda each: each.size)
    if largest.size < _ONE_SEGMENT * largest.whole:
        return refuted(f"at most {in_bytes(largest.size)} of {in_bytes(largest.whole)} are gathered at the same time")
    return confirmed(
        f"{in_bytes(largest.size)} of parameters are gathered at the same time, of {in_bytes(largest.whole)} in all",
        "device",
        bytes_at_peak=largest.size,
    )


def _cycled(evidence: Evidence) -> Ruling:
    sizes, root = [each.size for each in evidence.seen.amounts], evidence.seen.root
    rises = [other - one for one, other in pairwise(sizes) if other > one]
    if not root:
        return inconclusive(f"{evidence.ran}, but the iterator could not be looked at")
    if not any(sizes):
        return refuted(f"`{root}` keeps nothing of what it has yielded")
    if len(rises) < 2:
        return inconclusive(f"{evidence.ran}, too seldom to see `{root}` grow; --batches gives it more")
    size = round(median(rises))
    return confirmed(
        f"`{root}` keeps {in_bytes(size)} more with each new batch, {in_bytes(max(sizes))} after {len(rises) + 1}",
        "host",
        bytes_per_step=size,
        bytes_at_peak=max(sizes),
        per="execution",
    )


def _gathered(evidence: Evidence) -> Ruling:
    seen = [each for each in evidence.seen.amounts if each.what != ALONE]
    if not seen and evidence.seen.amounts:
        return inconclusive("with one process its shard is the whole, and nothing is gathered; torchrun starts several")
    if not seen:
        return inconclusive(f"{evidence.ran}, but no state dict of a sharded model was seen to be gathered")
    largest = max(seen, key=lambda each: (each.size, each.whole))
    if not largest.whole:
        return refuted("the state dicts hold no gathered weights in this process")
    if largest.size <= SMALLEST_GROWTH:
        return refuted(f"of {in_bytes(largest.whole)} of gathered weights, {in_bytes(largest.size)} are on the device")
    return confirmed(
        f"{in_bytes(largest.size)} of gathered weights are on the device of this process, beside its own shard",
        "device",
        bytes_at_peak=largest.size,
    )


def _quantised_layers(evidence: Evidence) -> Ruling:
    seen = evidence.seen.amounts
    if not seen:
        return inconclusive(f"{evidence.ran}, but no forward pass of training was seen after it")
    layers = max(each.size for each in seen)
    if not layers:
        return refuted(f"no layer was quantised in {counted(len(seen), 'forward pass')} of training")
    return confirmed(
        f"{counted(layers, 'layer')} of the model that is trained are quantised and have no parameters",
        "device",
        bytes_at_peak=0,
    )


def _cache_emptied(evidence: Evidence) -> Ruling:
    steps, run = len(evidence.seen.steps), max(1, evidence.run.steps)
    freed = max((each.size for each in evidence.seen.amounts), default=0)
    if freed > SMALLEST_GROWTH:
        return refuted(f"{in_bytes(freed)} were freed while the line ran")
    if steps < 0.8 * run:
        return refuted(f"the line ran in {steps} of {counted(run, 'step')}")
    return confirmed(
        f"the line ran in {steps} of {counted(run, 'step')} and freed no tensor: what it costs is time, which a run "
        "without a GPU does not show",
        "device",
        bytes_at_peak=0,
    )


def _sample_objects(evidence: Evidence) -> Ruling:
    seen, root = evidence.seen.amounts, evidence.seen.root
    if not seen:
        return inconclusive(f"{evidence.ran}, but no loader over this data set began")
    largest = max(seen, key=lambda each: each.size)
    if largest.whole < _MANY_OBJECTS:
        return refuted(f"`{root}` consists of {counted(largest.whole, 'Python object')}")
    if not largest.size:
        return refuted(f"`{root}` consists of {largest.whole:,} Python objects, and no worker reads it")
    return confirmed(
        f"`{root}` consists of {largest.whole:,} Python objects, whose pages each of "
        f"{counted(int(largest.what), 'worker')} copies as it reads them: {in_bytes(largest.size)} in all",
        "host",
        bytes_at_peak=largest.size,
    )


_MANY_OBJECTS = 1_000
"""Python objects below which nobody cares: a page holds some fifty."""


DECISIONS: dict[Watch, Callable[[Evidence], Ruling]] = {
    Watch.DOUBLE_PARAMETER: _double_parameter,
    Watch.SERIALISED: _serialised,
    Watch.FOREACH_STEP: _foreach_step,
    Watch.CACHED_CASTS: _cached_casts,
    Watch.LOADED: _loaded,
    Watch.PEAK: _peak,
    Watch.BATCH_PEAK: _batch_peak,
    Watch.OPTIMIZER_STATE: _optimizer_state,
    Watch.BLOCK_ACTIVATIONS: _block_activations,
    Watch.UNCHECKPOINTED_BLOCKS: _uncheckpointed_blocks,
    Watch.RECOMPUTED_SEGMENT: _recomputed_segment,
    Watch.FULL_PRECISION: _full_precision,
    Watch.PADDING: _padding,
    Watch.EVALUATION_LOOP: _evaluation_loop,
    Watch.UNSHARDED: _unsharded,
    Watch.GATHERED: _gathered,
    Watch.CYCLED: _cycled,
    Watch.QUANTISED_LAYERS: _quantised_layers,
    Watch.CACHE_EMPTIED: _cache_emptied,
    Watch.SAMPLE_OBJECTS: _sample_objects,
}
