"""Metric objects of torchmetrics: which keep predictions, where they are fed, and who empties them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from memlint.model.aliases import qualified_names, sources
from memlint.model.effects import Effect, region_effects, returns_loss_to_framework
from memlint.model.gradmode import evaluates_a_batch
from memlint.model.keywords import Setting, given
from memlint.model.knowledge import metrics
from memlint.model.program import Program
from memlint.model.scopes import Class
from memlint.model.values import Attribute, Call, Comprehension, Display, Element, Item, Value


class Metric(NamedTuple):
    """A metric that keeps predictions, by the call that makes it; ``fed`` are the calls that give it some."""

    made: Call
    name: str
    fed: tuple[Call, ...]


def keeping_metrics(program: Program) -> Iterator[Metric]:
    """The metrics made in a file that keep what they are given on its device until they are reset."""
    feeding: dict[int, list[Call]] = {}
    for call in program.calls():
        for made in _fed_by(call):
            feeding.setdefault(id(made), []).append(call)
    for call in program.calls():
        name = kept_class(call)
        if name is not None:
            yield Metric(call, name, tuple(feeding.get(id(call), ())))


def kept_class(call: Call) -> str | None:
    """The class of the metric that ``call`` makes if it keeps predictions on their device."""
    for qualified in qualified_names(call.callee) if call.name[:1].isupper() else ():
        name = qualified.rpartition(".")[2]
        if not qualified.startswith(metrics.METRIC_ROOT) or name not in metrics.BINNED | metrics.UNBINNED:
            continue
        counts = name in metrics.BINNED and given(call, "thresholds").setting is not Setting.OFF
        moves = given(call, "compute_on_cpu").setting is not Setting.OFF
        return None if counts or moves else name
    return None


def _fed_by(call: Call) -> Iterator[Call]:
    """The calls that make the metrics to which ``call`` gives a batch: ``metric(x, y)``, ``metric.update(x, y)``."""
    if not call.arguments:
        return
    metric = call.receiver if call.method in {"update", "forward"} else call.callee
    if metric is not None:
        yield from made_by(metric)


def made_by(metric: Value) -> Iterator[Call]:
    """The calls that make the metric object ``metric``, those of a collection's members included."""
    seen: set[int] = set()
    pending = list(sources(metric))
    while pending:
        current = pending.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        match current:
            case Call() if _keeps_metrics(current) and current.arguments:
                yield current
                pending.extend(source for a in current.arguments for source in sources(a.value))
            case Call() if current.method in _RETURNING_METRICS and current.receiver is not None:
                pending.extend(sources(current.receiver))
            case Call():
                yield current
            case Display():
                pending.extend(source for element in current.elements for source in sources(element))
            case Comprehension():
                pending.extend(sources(current.element))
            case Item() | Attribute():
                pending.extend(sources(current.base))
            case Element():
                pending.extend(sources(current.iterable))


_RETURNING_METRICS = frozenset({"to", "cuda", "cpu", "clone", "values", "items"})


def _keeps_metrics(call: Call) -> bool:
    return call.name in metrics.COLLECTIONS or call.name in {"ModuleDict", "ModuleList"}


def feeds_training(call: Call) -> bool:
    """Whether ``call`` stands in a step of training, by hand or of Lightning."""
    if returns_loss_to_framework(call.function):
        return True
    loop = call.region.loop
    return loop is not None and bool(region_effects(loop) & Effect.BACKWARD)


def is_emptied(metric: Metric) -> bool:
    """Whether something may reset the metric, or Lightning does because it is logged as an object."""
    module = metric.made.function.module
    for call in module.calls_by_name.get("reset", ()):
        found = list(made_by(call.receiver)) if call.receiver is not None else []
        if metric.made in found or not found:
            return True
    logged = (call for name in ("log", "log_dict") for call in module.calls_by_name.get(name, ()))
    return any(metric.made in made_by(argument.value) for call in logged for argument in call.arguments)


def is_fed_again_and_again(metric: Metric) -> bool:
    """Whether the metric gets predictions of several evaluations: it is older than two loops, or than its method."""
    return any(_outlives_evaluation(metric.made, call) for call in metric.fed)


def _outlives_evaluation(made: Call, fed: Call) -> bool:
    if fed.function is made.function:
        return sum(not made.region.within(loop) for loop in fed.region.loops()) > 1
    if evaluates_a_batch(fed.function) or returns_loss_to_framework(fed.function):
        return True
    owner: Class | None = fed.function.owner
    kept = owner is not None and owner is made.function.owner
    return kept and fed.region.loop is not None
