"""Runs the scenarios of ``tests/scenarios`` on a CUDA GPU and says whether ``verify`` decides as on the CPU.

``python bench/gpu_verify.py`` writes into ``bench/results/gpu/``: ``verify.json`` (the GPU, the release of PyTorch, and
for each scenario its verdicts, bytes and peaks) and a compressed memory snapshot of each run that is small enough. A
scenario that fails is a row like the others. ``--device cpu`` is a dry run on a machine without a GPU.

The scripts are written for the CPU. They are moved by a default device and by the options of the frameworks, row by
row, so that the comments with the expected verdicts stay beside their lines; batches come in order, since the generator
of a shuffling loader lives on the CPU.
"""

from __future__ import annotations

import argparse
import gzip
import importlib.util
import json
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from memlint.verify.memory import run_memory
from memlint.verify.plan import Budget
from memlint.verify.verdicts import Judged
from tests.verify.expectations import Expected, expectations, ranks_of
from tests.verify.scenarios import SCRIPTS, JudgedRun, identity, judged_run, missing_framework, moved

RESULTS = ROOT / "bench" / "results" / "gpu"
LARGEST_SNAPSHOT = 200_000
"""Bytes of a compressed snapshot that is kept."""
ANYWHERE = {"MEM801"}
"""What only a GPU can decide: on the CPU such findings are inconclusive, and any verdict is news."""


@dataclass
class Row:
    """What became of one line. Sizes are bytes."""

    code: str
    row: int
    expected: str
    verdict: str
    memory: str | None
    size: int | None
    expected_size: float | None
    evidence: str

    @property
    def agrees(self) -> bool:
        """Whether the verdict is that of the CPU."""
        return self.code in ANYWHERE or self.verdict == self.expected


@dataclass
class Scenario:
    """What became of one script."""

    name: str
    seconds: float = 0.0
    device: str | None = None
    peak_allocated: int | None = None
    peak_reserved: int | None = None
    rows: list[Row] = field(default_factory=list)
    failure: str | None = None

    @property
    def agrees(self) -> bool:
        """Whether it ran and every verdict is that of the CPU."""
        return self.failure is None and all(row.agrees for row in self.rows)


def run(script: Path, device: str, seconds: float, snapshots: Path) -> Scenario:
    """Runs one scenario; whatever goes wrong is its failure."""
    scenario = Scenario(identity(script))
    missing = missing_framework(script)
    if missing is not None:
        scenario.failure = f"{missing} is not installed"
        return scenario
    ranks = ranks_of(script)
    if ranks > 1 and device != "cpu":
        scenario.failure = f"it runs in {ranks} processes, for which one GPU is too few"
        return scenario
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        keep, source = Path(folder, "snapshot.pickle"), Path(folder, script.name)
        source.write_text(moved(script.read_text("utf-8"), device), "utf-8")
        try:
            result = judged_run(script, source, Budget(seconds=seconds), keep)
            _fill(scenario, script, result)
            _keep_snapshot(keep, snapshots / f"{scenario.name.replace('/', '_')}.pickle.gz")
        except Exception as error:  # noqa: BLE001 - the others are still worth running
            scenario.failure = f"{type(error).__name__}: {error}"
    scenario.seconds = round(time.monotonic() - start, 1)
    return scenario


def _fill(scenario: Scenario, script: Path, result: JudgedRun) -> None:
    scenario.failure = result.failure
    memory = run_memory(result.outcome.recording, result.outcome.seen)
    if memory is not None:
        scenario.device = memory.device
        scenario.peak_allocated, scenario.peak_reserved = memory.peak_allocated, memory.peak_reserved
    verdicts = {(each.diagnostic.code, each.diagnostic.location.row): each for each in result.judged}
    scenario.rows = [_row(each, verdicts.pop((each.code, each.row))) for each in expectations(script)]
    scenario.rows += [_row(None, each) for each in verdicts.values() if each.is_confirmed]


def _row(expected: Expected | None, judged: Judged) -> Row:
    ruling = judged.ruling
    at_peak = expected is not None and expected.measure == "at peak"
    return Row(
        judged.diagnostic.code,
        judged.diagnostic.location.row,
        expected.verdict if expected is not None else "nothing",
        ruling.verdict.value,
        ruling.memory,
        ruling.bytes_at_peak if at_peak else ruling.bytes_per_step,
        expected.size if expected is not None else None,
        ruling.evidence,
    )


def _keep_snapshot(source: Path, target: Path) -> None:
    data = gzip.compress(source.read_bytes(), mtime=0) if source.exists() else b""
    if 0 < len(data) <= LARGEST_SNAPSHOT:
        target.write_bytes(data)


def lines(scenario: Scenario) -> Iterator[str]:
    """The scenario as rows of the printed table."""
    peak = f"{scenario.peak_allocated / 2**20:9.2f}" if scenario.peak_allocated is not None else " " * 9
    yield f"{'same' if scenario.agrees else 'DIFFERS':8}{scenario.name:32}{peak} MiB {scenario.seconds:6.1f} s"
    if scenario.failure is not None:
        yield f"        {scenario.failure}"
    for row in scenario.rows:
        if not row.agrees:
            yield f"        row {row.row} {row.code}: {row.verdict}, expected {row.expected}: {row.evidence}"


def main() -> int:
    """Prints the table; exits with 1 if a verdict differs, with 2 if there is no GPU."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--only", default="", help="scenarios whose name holds this")
    parser.add_argument("--seconds", type=float, default=60, help="for each scenario")
    parser.add_argument("--total", type=float, default=900, help="seconds after which no scenario is begun")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    if importlib.util.find_spec("torch") is None:
        print('torch is not installed: pip install "torch-memlint[verify]"', file=sys.stderr)
        return 2
    import torch

    if arguments.device == "cuda" and not torch.cuda.is_available():
        print("PyTorch sees no CUDA GPU here; --device cpu makes a dry run", file=sys.stderr)
        return 2
    gpu = torch.cuda.get_device_name() if arguments.device == "cuda" else platform.processor() or "cpu"
    snapshots = arguments.output / "snapshots"
    snapshots.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    scenarios = []
    for script in SCRIPTS:
        if arguments.only not in identity(script):
            continue
        if time.monotonic() - start > arguments.total:
            scenarios.append(Scenario(identity(script), failure="not begun: time was up"))
        else:
            scenarios.append(run(script, arguments.device, arguments.seconds, snapshots))
        print("\n".join(lines(scenarios[-1])), flush=True)
        result = {"gpu": gpu, "torch": torch.__version__, "scenarios": [asdict(each) for each in scenarios]}
        (arguments.output / "verify.json").write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    same = sum(each.agrees for each in scenarios)
    print(f"{gpu}, PyTorch {torch.__version__}: {same} of {len(scenarios)} scenarios decided as on the CPU")
    return int(same < len(scenarios))


if __name__ == "__main__":
    sys.exit(main())
