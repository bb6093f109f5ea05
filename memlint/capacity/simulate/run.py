"""Starts the child that runs the script, waits for it, and reads what it says."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from memlint.capacity.simulate.settings import Outcome, Settings, Share, SimulationPlan
from memlint.devices import context
from memlint.trace.errors import TraceError
from memlint.trace.events import Recording
from memlint.trace.reading import read_trace
from memlint.verify.serial import dumped, loaded

_GRACE = 60.0
"""Seconds that the child may take beyond its time in order to write what it has."""
_UNCERTAIN_ABOVE, _UNCERTAIN_BELOW = 0.08, 0.05


_FAILURES = frozenset({"raised", "timed out", "died"})
_STEPS_TO_PEAK = 2
"""The states of optimizers are made in the first step, so that the second one may need more."""


@dataclass(frozen=True)
class Prediction:
    """What the script's step takes on the device. Sizes are bytes."""

    outcome: Outcome
    settings: Settings
    recording: Recording | None
    """Every allocation of the run, as a timeline."""

    @property
    def is_known(self) -> bool:
        """Whether the script took a step, or at least ran a model forward on the device."""
        return self.outcome.peak_reserved > 0 and (self.outcome.steps > 0 or self.outcome.forwards > 0)

    @property
    def peak_allocated(self) -> int:
        """As ``torch.cuda.max_memory_allocated()``."""
        return self.outcome.peak_allocated

    @property
    def peak_reserved(self) -> int:
        """As ``torch.cuda.max_memory_reserved()``."""
        return self.outcome.peak_reserved

    @property
    def interval(self) -> tuple[int, int]:
        """Where the reserved peak of a real run is to be expected: a margin, not a measured quantile."""
        low, high = (1 - _UNCERTAIN_BELOW), (1 + _UNCERTAIN_ABOVE)
        return int(max(self.peak_allocated, self.peak_reserved * low)), int(self.peak_reserved * high)

    @property
    def fits(self) -> bool | None:
        """None where nothing ran, or where the run failed before the second step: more may have been to come."""
        if not self.is_known:
            return None
        usable = self.settings.device.usable
        least, _, _ = context(usable)
        if self.outcome.out_of_memory or self.peak_reserved + least > usable:
            return False
        return None if self.outcome.ending in _FAILURES and self.outcome.steps < _STEPS_TO_PEAK else True

    def by_category(self) -> dict[str, int]:
        """What is allocated at the peak, by category, largest first."""
        sizes: dict[str, int] = {}
        for share in self.outcome.shares:
            sizes[share.category] = sizes.get(share.category, 0) + share.size
        return dict(sorted(sizes.items(), key=lambda item: -item[1]))

    def by_line(self) -> list[Share]:
        """The user's lines that hold it, largest first."""
        return [share for share in self.outcome.shares if share.path]


def simulate(
    script: str, args: Sequence[str] = (), settings: Settings | None = None, *, is_module: bool = False
) -> Prediction:
    """Run ``script`` in a process of its own on a device that is not there. What it prints goes to standard error."""
    settings = settings or Settings()
    with tempfile.TemporaryDirectory(prefix="memlint-") as name:
        folder = Path(name)
        results, recording = folder / "outcome.json", folder / "recording.pickle"
        plan = SimulationPlan(script, is_module, tuple(args), settings, results, recording)
        path = folder / "plan.json"
        path.write_text(dumped(plan), "utf-8")
        code = _wait_for(path, settings.seconds, settings.count)
        outcome = _outcome(results, code)
        return Prediction(outcome, settings, _recording(recording, outcome))


def _wait_for(plan: Path, seconds: float, ranks: int) -> int:
    command = [sys.executable, "-m", "memlint.capacity.simulate.child", str(plan)]
    sys.stderr.flush()
    # No GPU of this machine is to be touched.
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "CUDA_VISIBLE_DEVICES": "", **_rank_zero(ranks)}
    with subprocess.Popen(command, stdout=_standard_error(), env=environment) as process:
        try:
            return process.wait(seconds + _GRACE)
        except subprocess.TimeoutExpired:
            # It did not even write what it had; the outcome says that it died.
            process.kill()
            return process.wait()
        except BaseException:
            process.kill()
            raise


def _rank_zero(ranks: int) -> dict[str, str]:
    """What ``torchrun`` tells the first of several processes."""
    if ranks == 1:
        return {}
    places = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks)}
    return {**places, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


def _standard_error() -> int:
    try:
        return sys.stderr.fileno()
    except (OSError, ValueError):
        return subprocess.DEVNULL


def _outcome(path: Path, code: int) -> Outcome:
    try:
        return loaded(Outcome, path.read_text("utf-8"))
    except (OSError, ValueError, TypeError, KeyError):
        return Outcome(ending="died", error=f"the process ended with exit code {code}")


def _recording(path: Path, outcome: Outcome) -> Recording | None:
    try:
        return read_trace(path) if outcome.has_recording else None
    except TraceError as error:
        outcome.notes.append(str(error))
        return None
