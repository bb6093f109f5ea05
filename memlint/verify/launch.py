"""Starts the child, waits for it, and reads what it has seen."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from memlint.trace.errors import TraceError
from memlint.trace.events import Recording
from memlint.trace.reading import read_trace
from memlint.verify.observations import Ending, Observations
from memlint.verify.plan import Budget, Plan, WatchedLine
from memlint.verify.serial import dumped, loaded

_GRACE = 60.0
"""Seconds that the child may take beyond its time in order to write what it has."""


@dataclass(frozen=True)
class Program:
    """What the user wants to run."""

    target: str
    is_module: bool
    arguments: tuple[str, ...]


@dataclass(frozen=True)
class Outcome:
    """One run."""

    seen: Observations
    recording: Recording | None


def run_program(
    program: Program,
    lines: tuple[WatchedLine, ...],
    budget: Budget,
    *,
    sources: Mapping[str, str] | None = None,
    seed: int | None = None,
    keep: Path | None = None,
    profile: Path | None = None,
    silent: bool = False,
    folder: Path | None = None,
    variables: Mapping[str, str] | None = None,
) -> Outcome:
    """Runs ``program`` in a process of its own. What it prints goes to standard error, or nowhere if ``silent``.

    ``keep`` is where the recording stays, as a memory snapshot. ``folder`` is the working directory if it is to be
    another one, and ``variables`` change its environment. Ctrl-C ends both processes.
    """
    with tempfile.TemporaryDirectory(prefix="memlint-") as name:
        own = Path(name)
        recording = keep or own / "recording.pickle"
        results = own / "observations.json"
        plan = Plan(
            program.target,
            program.is_module,
            program.arguments,
            lines,
            budget,
            results,
            recording,
            dict(sources or {}),
            seed,
            profile,
        )
        path = own / "plan.json"
        path.write_text(dumped(plan), "utf-8")
        code = _wait_for(path, budget.seconds, silent, folder, variables or {})
        seen = _observations(results, code)
        return Outcome(seen, _recording(recording, seen))


def _wait_for(plan: Path, seconds: float, silent: bool, folder: Path | None, variables: Mapping[str, str]) -> int:
    """The exit code of the child; minus a signal's number if that has ended it."""
    command = [sys.executable, *_interpreter_flags(), "-m", "memlint.verify.child", str(plan)]
    sys.stderr.flush()
    output = subprocess.DEVNULL if silent else _standard_error()
    # No new session: Ctrl-C is for both.
    environment = {**_environment(), **variables}
    with subprocess.Popen(command, stdout=output, stderr=output, env=environment, cwd=folder) as process:
        try:
            return process.wait(seconds + _GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return -signal.SIGKILL
        except BaseException:
            process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
            raise


def _interpreter_flags() -> list[str]:
    """The options that this Python was started with, such as ``-X dev`` and ``-W error``."""
    flags: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    return flags


def _environment() -> dict[str, str]:
    # What is printed shows at once, as on a terminal, though it passes through a pipe here and there.
    return {**os.environ, "PYTHONUNBUFFERED": "1"}


def _standard_error() -> int:
    try:
        return sys.stderr.fileno()
    except (OSError, ValueError):
        return subprocess.DEVNULL


def _observations(path: Path, code: int) -> Observations:
    try:
        return loaded(Observations, path.read_text("utf-8"))
    except (OSError, ValueError, TypeError, KeyError):
        seen = Observations(ending=Ending.DIED, exit_code=code)
        seen.error = f"it was ended by {_signal_name(-code)}" if code < 0 else f"it ended itself with exit code {code}"
        if code == -signal.SIGKILL:
            seen.error += ", perhaps for lack of memory"
        return seen


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _recording(path: Path, seen: Observations) -> Recording | None:
    if not seen.has_recording:
        return None
    try:
        return read_trace(path)
    except TraceError as error:
        seen.notes.append(str(error))
        return None
