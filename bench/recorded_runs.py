"""Predicts the runs whose CUDA memory history is in the recorded ``gpt_*`` traces, and compares the peaks.

    python bench/recorded_runs.py TRACES

TRACES is the folder of the recorded pickles. The model is written anew (``gpu_runs/recorded_gpt.py``), with the
operators and the shapes that the traces show.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from memlint.capacity.simulate.run import simulate
from memlint.capacity.simulate.settings import Settings
from memlint.devices import device
from memlint.trace.events import Recording
from memlint.trace.live import LiveMemory
from memlint.trace.reading import read_trace

SCRIPT = Path(__file__).parent / "gpu_runs" / "recorded_gpt.py"
RUNS = ("128 forward fp32", "128 forward mixed", "128 fullstep fp32", "256 fullstep fp32")


def recorded_peaks(recording: Recording) -> tuple[int, int]:
    """Bytes allocated at the peak, and reserved at the end, as the trace says."""
    reserved = sum(segment.total_size for segment in recording.segments)
    return LiveMemory.before(recording, "cuda:0").run(recording.of("cuda:0")).allocated.peak, reserved


def predicted_peaks(run: str) -> tuple[int, int]:
    """The same of the simulated run. Raises :class:`click.ClickException` where it fails."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "peaks.json"
        # Steps are counted over all the runs of the process: none is to end it.
        settings = Settings(device=device("H100-80GB"), steps=1000, torch="2.6")
        outcome = simulate(str(SCRIPT), (*run.split(), str(out)), settings).outcome
        if outcome.ending != "finished":
            raise click.ClickException(f"{run}: {outcome.ending}: {outcome.error}")
        seen = json.loads(out.read_text("utf-8"))
    return seen["allocated"], seen["reserved"]


@click.command()
@click.argument("traces", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--only", default="", help="Only runs with this in their name, such as forward.")
def main(traces: Path, only: str) -> None:
    """Print recorded and predicted peaks side by side, in MiB."""
    table = Table("run", "allocated", "predicted", "error", "reserved", "predicted", "error")
    for run in (each for each in RUNS if only in each):
        name = f"gpt_ctx{run.replace(' ', '_')}"
        recorded = recorded_peaks(read_trace(traces / f"{name}.pickle"))
        cells = [
            cell
            for truth, found in zip(recorded, predicted_peaks(run), strict=True)
            for cell in (f"{truth / 2**20:.0f}", f"{found / 2**20:.0f}", f"{found / truth - 1:+.1%}")
        ]
        table.add_row(name, *cells)
        print(name, *cells, file=sys.stderr)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
