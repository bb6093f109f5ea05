"""Whether code runs in every run of a program, or only when its user asks for it: ``if args.debug:``."""

from __future__ import annotations

from memlint.findings import Confidence
from memlint.model.aliases import sources
from memlint.model.calls import proven_call_sites
from memlint.model.effects import Effect, calls_in, region_effects
from memlint.model.values import Branch, Call, Comparison, Constant, External, Handler, Region, Unary, Value

_MAX_CALLERS = 4


def runs_unasked(region: Region, depth: int = _MAX_CALLERS) -> Confidence | None:
    """How sure it is that ``region`` runs without being asked for; None if a test that is not in sight decides.

    Certain: at the top level, or in a function that is called there. Possible: in a function that nobody calls in the
    project, or only others that nobody calls.
    """
    if any(_is_asked_for(outer) for outer in region.ancestors()):
        return None
    function = region.function
    if function.parent is None:
        return Confidence.CERTAIN
    sites = [site for site in proven_call_sites(function) if site.function is not function]
    if not sites or depth == 0:
        return Confidence.POSSIBLE
    found = [known for site in sites if (known := runs_unasked(site.region, depth - 1)) is not None]
    return max(found, key=lambda confidence: confidence.rank, default=None)


def _is_asked_for(region: Region) -> bool:
    if isinstance(region, Handler):
        return True
    if not isinstance(region, Branch) or region.test is None or _always_holds(region.test, region.negated):
        return False
    # A branch that is the training itself, and no variant of it, decides on more than what is looked at.
    return not trains(region) or any(trains(other) for other in region.siblings if other is not region)


def trains(region: Region) -> bool:
    """Whether ``region`` runs a backward, or tells an object to: ``trainer.fit()``."""
    started = any(call.method in {"fit", "train"} for call in calls_in(region))
    return started or bool(region_effects(region) & Effect.BACKWARD)


def _always_holds(test: Value, negated: bool) -> bool:
    """Whether a test comes out so that the branch is taken in each run of the program on its usual hardware."""
    if isinstance(test, Unary) and test.operator == "not":
        return _always_holds(test.operand, not negated)
    found = sources(test)
    if all(isinstance(source, Constant) for source in found):
        return all(bool(source.constant) is not negated for source in found if isinstance(source, Constant))
    return not negated and all(_is_usual(source) for source in found)


def _is_usual(test: Value) -> bool:
    """``__name__ == "__main__"`` and ``torch.cuda.is_available()``."""
    if isinstance(test, Comparison):
        return any(isinstance(v, External) and v.qualified_name == "builtins.__name__" for v in test.values)
    return isinstance(test, Call) and test.name == "is_available"
