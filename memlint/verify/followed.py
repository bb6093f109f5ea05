"""Verdicts on what was followed through the rest of the run (:mod:`memlint.verify.child.followers`)."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

from memlint.findings import Watch
from memlint.verify.allocations import is_of_cast
from memlint.verify.evidence import Evidence, rests_on_recording
from memlint.verify.observations import HostLoad
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


DECISIONS: dict[Watch, Callable[[Evidence], Ruling]] = {
    Watch.DOUBLE_PARAMETER: _double_parameter,
    Watch.SERIALISED: _serialised,
    Watch.FOREACH_STEP: _foreach_step,
    Watch.CACHED_CASTS: _cached_casts,
    Watch.LOADED: _loaded,
}
