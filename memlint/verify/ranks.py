"""Several processes of one training run under torchrun: each writes what it has seen, and the first one reports."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from memlint.verify.memory import RunMemory
from memlint.verify.observations import Observations
from memlint.verify.serial import dumped, loaded
from memlint.verify.sizes import in_bytes
from memlint.verify.verdicts import Judged, Ruling, Verdict

_INTERVAL = 0.2


@dataclass(frozen=True)
class RankResult:
    """What one process found out."""

    rank: int
    rulings: tuple[Ruling, ...]
    """In the order of the findings, which are the same in every process."""
    memory: RunMemory | None
    seen: Observations = field(default_factory=Observations)


@dataclass(frozen=True)
class Ranks:
    """The place of this process among those that torchrun has started on this machine."""

    rank: int
    local_world: int
    folder: Path

    @classmethod
    def from_environment(cls) -> Ranks | None:
        """None where there is one process only."""
        world = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        if world < 2 or "LOCAL_RANK" not in os.environ:
            return None
        # The agent is the parent of all of them, so that no earlier run has the same name.
        parts = (os.environ.get("TORCHELASTIC_RUN_ID", ""), os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
        name = re.sub(r"\W", "_", "-".join(("memlint", *parts, str(os.getppid()))))
        return cls(int(os.environ["LOCAL_RANK"]), world, Path(tempfile.gettempdir()) / name)

    def publish(self, result: RankResult) -> None:
        """Let the first process have it."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = self.folder / f"{self.rank}.tmp"
        temporary.write_text(dumped(result), "utf-8")
        temporary.replace(self.folder / f"{self.rank}.json")

    def collect(self, seconds: float) -> list[RankResult]:
        """The results of all processes, by rank; of those that do not come within ``seconds``, none."""
        end = time.monotonic() + seconds
        found: dict[int, RankResult] = {}
        while len(found) < self.local_world and time.monotonic() < end:
            for rank in range(self.local_world):
                path = self.folder / f"{rank}.json"
                if rank not in found and path.exists():
                    found[rank] = loaded(RankResult, path.read_text("utf-8"))
            time.sleep(_INTERVAL)
        shutil.rmtree(self.folder, ignore_errors=True)
        return [found[rank] for rank in sorted(found)]


def merged(judged: Sequence[Judged], results: Sequence[RankResult]) -> list[Judged]:
    """For each finding the gravest ruling of all ranks, which says how far they differ."""
    return [
        replace(each, ruling=_worst([result.rulings[number] for result in results]))
        for number, each in enumerate(judged)
    ]


_GRAVITY = (Verdict.CONFIRMED, Verdict.INCONCLUSIVE, Verdict.REFUTED, Verdict.NOT_EXERCISED)


def _worst(rulings: Sequence[Ruling]) -> Ruling:
    def size(ruling: Ruling) -> int:
        return ruling.bytes_at_peak or 0 if ruling.bytes_per_step is None else ruling.bytes_per_step

    worst = min(rulings, key=lambda ruling: (_GRAVITY.index(ruling.verdict), -size(ruling)))
    same = [size(ruling) for ruling in rulings if ruling.verdict is worst.verdict]
    spread = f"{worst.verdict.value.lower()} on {len(same)} of {len(rulings)} ranks"
    if min(same) != max(same):
        spread += f", with {in_bytes(min(same))} to {in_bytes(max(same))}"
    return replace(worst, evidence=f"{worst.evidence} ({spread})")
