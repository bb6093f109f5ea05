"""What a scenario says in its comments: the verdicts of its lines, with bytes where there is a formula.

``# CONFIRMED MEM101 host 8 * NODE per step; REFUTED MEM601``: a code, and for a confirmed finding whose memory grows
how much, ``per step``, ``per execution`` or ``at peak``; ``anything`` where there is no formula. A twin's line is
right, so that memlint does not report it; behind the code stands what to watch there all the same.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from memlint.devices import device
from memlint.diagnostics import Diagnostic, LocatedClaim, Location
from memlint.findings import ClaimShape, Confidence, Severity, Watch
from memlint.verify.decide import NODE_BYTES

SCENARIOS = Path(__file__).parents[1] / "scenarios"
_EXPECTED = re.compile(
    r"(?P<verdict>CONFIRMED|REFUTED|NOT EXERCISED|INCONCLUSIVE) (?P<code>MEM\d+)"
    r"(?: (?P<memory>device|host) (?P<size>.+?) (?P<measure>per step|per execution|at peak))?(?: (?P<root>[\w.]+))?$"
)
_WATCHES = {
    "MEM104": Watch.RETAINED_GRAPH,
    "MEM105": Watch.ALLOCATED,
    "MEM108": Watch.STRAY_GRADIENTS,
    "MEM110": Watch.OUTPUT_AFTER_BACKWARD,
    "MEM201": Watch.GRADIENTS_ADDED_TO,
    "MEM202": Watch.GRADIENTS_ZEROED,
    "MEM203": Watch.GRADIENTS_IN_FORWARD,
    "MEM301": Watch.SUMMED_GRAPHS,
    "MEM303": Watch.PEAK,
    "MEM311": Watch.BATCH_PEAK,
    "MEM401": Watch.CACHED_CASTS,
    "MEM302": Watch.PADDING,
    "MEM403": Watch.ALLOCATED,
    "MEM405": Watch.ALLOCATED,
    "MEM406": Watch.QUANTISED_LAYERS,
    "MEM411": Watch.FULL_PRECISION,
    "MEM501": Watch.RECOMPUTED_SEGMENT,
    "MEM502": Watch.BLOCK_ACTIVATIONS,
    "MEM503": Watch.ATTENTION_WEIGHTS,
    "MEM504": Watch.ATTENTION_WEIGHTS,
    "MEM505": Watch.LAYER_OUTPUTS,
    "MEM506": Watch.ALLOCATED,
    "MEM507": Watch.ALLOCATED,
    "MEM508": Watch.ALLOCATED,
    "MEM509": Watch.ALLOCATED,
    "MEM510": Watch.ALLOCATED,
    "MEM511": Watch.UNCHECKPOINTED_BLOCKS,
    "MEM601": Watch.FORWARD_GRAPH,
    "MEM602": Watch.LATER_GRAPHS,
    "MEM603": Watch.FORWARD_GRAPH,
    "MEM605": Watch.EVALUATION_LOOP,
    "MEM608": Watch.KEY_VALUE_CACHE,
    "MEM701": Watch.FOREACH_STEP,
    "MEM702": Watch.OPTIMIZER_STATE,
    "MEM704": Watch.ALLOCATED,
    "MEM706": Watch.ALLOCATED,
    "MEM707": Watch.DOUBLE_PARAMETER,
    "MEM801": Watch.LOADED,
    "MEM802": Watch.ALLOCATED,
    "MEM812": Watch.REGROWN,
    "MEM803": Watch.CACHE_EMPTIED,
    "MEM809": Watch.UNSHARDED,
    "MEM810": Watch.GATHERED,
    "MEM805": Watch.GRADIENT_BUCKETS,
    "MEM806": Watch.OUTPUT_COPIES,
    "MEM901": Watch.SAMPLE_OBJECTS,
    "MEM908": Watch.CYCLED,
    "MEM906": Watch.SERIALISED,
}
_SHAPES = {Watch.REACHABLE: ClaimShape.GROWS, Watch.ALLOCATED: ClaimShape.PLATEAU}
_SPIKES = {"MEM403", "MEM506", "MEM507", "MEM508", "MEM509", "MEM510", "MEM812"}
_ARITHMETIC = re.compile(r"[\d\s*+()/-]+|NODE")


@dataclass(frozen=True)
class Expected:
    """One expected verdict."""

    path: Path
    row: int
    verdict: str
    code: str
    memory: str | None
    size: float | None
    measure: str | None
    root: str | None


def expectations(path: Path) -> list[Expected]:
    """Those of a script; a comment that has a line to itself speaks of the line below."""
    found = []
    above: list[str] = []
    for row, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        _, mark, comment = line.partition("# ")
        parts = comment.split("; ") if mark else []
        if line.lstrip().startswith("# "):
            above += parts
            continue
        found += [expected for part in (*above, *parts) if (expected := _expected(path, row, part)) is not None]
        above.clear()
    return found


def _expected(path: Path, row: int, part: str) -> Expected | None:
    match = _EXPECTED.match(part)
    if match is None:
        return None
    size = None if match["size"] in (None, "anything") else _value(match["size"])
    return Expected(path, row, match["verdict"], match["code"], match["memory"], size, match["measure"], match["root"])


def _value(formula: str) -> float:
    assert not _ARITHMETIC.sub("", formula), formula
    return float(eval(formula, {"NODE": NODE_BYTES}))


def device_of(script: Path) -> str | None:
    """The device that the script's own comment wants to be configured."""
    found = re.search(r"^# device: (\S+)$", script.read_text("utf-8"), re.MULTILINE)
    return found[1] if found else None


def ranks_of(script: Path) -> int:
    """How many processes the script's own comment wants to run it."""
    found = re.search(r"^# ranks: (\d+)$", script.read_text("utf-8"), re.MULTILINE)
    return int(found[1]) if found else 1


def limit_of(script: Path) -> int:
    """Bytes of that device; 0 without one."""
    name = device_of(script)
    return device(name).usable if name is not None else 0


def forced(expected: Expected) -> Diagnostic:
    """A finding that memlint does not make, as its rule would make it."""
    line = expected.path.read_text("utf-8").splitlines()[expected.row - 1]
    start = Location(expected.row, len(line) - len(line.lstrip()) + 1)
    end = Location(expected.row, len(line.partition("  # ")[0]) + 1)
    watch = _WATCHES.get(expected.code, Watch.REACHABLE)
    claim = LocatedClaim(
        shape=(ClaimShape.SPIKE if expected.code in _SPIKES else _SHAPES.get(watch, ClaimShape.PRESENT)).value,
        memory="device",
        size="",
        holder=expected.root,
        held=line.partition("  # ")[0].strip(),
        held_location=start,
        held_end_location=end,
        holder_location=start if expected.root else None,
        holder_end_location=start if expected.root else None,
        watch=watch.value,
        limit=limit_of(expected.path),
    )
    return Diagnostic(
        expected.code,
        "forced",
        "forced",
        expected.path,
        start,
        end,
        Severity.WARNING,
        Confidence.POSSIBLE,
        "",
        (),
        expected.row,
        "",
        claim=claim,
    )
