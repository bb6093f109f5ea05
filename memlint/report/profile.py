"""The table of ``memlint check --profile``."""

from __future__ import annotations

from memlint.stages import Seconds, added

_BEFORE = ("start", "discover", "cache", "gate", "parse", "lowering")
_AFTER = ("check", "report")
_MEANINGS = {"start": "start, imports", "check": "rest of the checks"}


def table(own: Seconds, others: Seconds) -> str:
    """Rows of stages and rules, the dearest rule first, with seconds of processor time.

    ``own`` is what this process took, ``others`` what the processes took that checked for it.
    """
    seconds = added((own, others))
    total = sum(seconds.values())
    rules = sorted(seconds.keys() - {*_BEFORE, *_AFTER}, key=lambda name: (-seconds[name], name))
    names = [name for name in (*_BEFORE, *rules, *_AFTER) if name in seconds]
    rows = [(_MEANINGS.get(name, name), seconds[name]) for name in names]
    width = max(len(name) for name, _ in rows)
    lines = [f"{name:<{width}}  {taken:8.2f} s  {taken / total:6.1%}" for name, taken in rows]
    return "\n".join([*lines, f"{'total':<{width}}  {total:8.2f} s of processor time"]) + "\n"
