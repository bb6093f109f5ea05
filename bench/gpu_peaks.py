"""Measures small training runs on this machine's CUDA GPU and scores what memlint predicts of them.

    python bench/gpu_peaks.py [--json FILE] [--only MODEL] [--measure-only | --predict-only]

Needs a CUDA build of torch and an idle GPU. Where time on it is short, ``--measure-only --json FILE`` measures, and
``--predict-only --json FILE`` predicts the same runs elsewhere, for the GPU that the file names; without a file it
prints predictions alone. An interrupted run goes on with what FILE holds.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from memlint.capacity.simulate.run import simulate
from memlint.capacity.simulate.settings import Settings
from memlint.devices import Device, UnknownDevice, device

SCRIPT = Path(__file__).parent / "gpu_runs" / "configured.py"
UNDER = -0.05


@dataclass
class Measured:
    """One configuration: what was measured, and what was predicted. Bytes."""

    model: str
    optimizer: str
    precision: str
    checkpointing: str
    batch: int
    gpu: str = ""
    truth: dict[str, int] = field(default_factory=dict)
    allocated: int = 0
    reserved: int = 0
    failure: str = ""

    @property
    def arguments(self) -> tuple[str, ...]:
        """Of the script."""
        return self.model, self.optimizer, self.precision, self.checkpointing, str(self.batch)

    def error(self, of: str) -> float | None:
        """Of the allocated, the reserved or the driver's bytes, as a part of the truth."""
        predicted = self.allocated if of == "allocated" else self.reserved
        return predicted / self.truth[of] - 1 if self.truth else None


def configurations() -> list[Measured]:
    """Models by optimizers by precisions, with and without checkpointing, at three batch sizes."""
    found = [
        Measured(model, optimizer, precision, "no", batch)
        for model, optimizer, precision, batch in product(
            ("cnn", "transformer"), ("SGD", "AdamW", "AdamW-fused"), ("fp32", "amp", "bf16"), (8, 32, 128)
        )
    ]
    found += [
        Measured(model, "AdamW", precision, "yes", batch)
        for model, precision, batch in product(("cnn", "transformer"), ("fp32", "amp"), (8, 32, 128))
    ]
    found += [
        Measured(model, "AdamW", "fp32", "no", batch) for model, batch in product(("rnn", "unet", "lora"), (8, 32, 128))
    ]
    return found


def measure(run: Measured) -> None:
    """Run it on the GPU in a process of its own."""
    command = [sys.executable, str(SCRIPT), *run.arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        run.failure = (done.stderr.strip().splitlines() or ["no output"])[-1]
        return
    run.truth = json.loads(lines[-1])


def predict(run: Measured, gpu: Device) -> None:
    """Run it on a GPU that is not there."""
    prediction = simulate(str(SCRIPT), run.arguments, Settings(device=gpu))
    run.allocated, run.reserved = prediction.peak_allocated, prediction.peak_reserved
    if not prediction.is_known:
        run.failure = run.failure or prediction.outcome.error


def known(path: Path | None) -> list[Measured]:
    """The runs of an earlier call."""
    if path is None or not path.is_file():
        return []
    return [Measured(**each) for each in json.loads(path.read_text("utf-8"))]


def this_gpu() -> Device:
    """The GPU of this machine. Raises :class:`click.ClickException` where there is none."""
    import torch

    if not torch.cuda.is_available():
        raise click.ClickException("no CUDA GPU here; --predict-only needs none")
    try:
        return device(torch.cuda.get_device_name())
    except UnknownDevice:
        properties = torch.cuda.get_device_properties(0)
        size = properties.total_memory
        capability = (properties.major, properties.minor)
        return Device(
            properties.name, properties.name, size, size, capability, properties.multi_processor_count, "this machine"
        )


def table_of(runs: list[Measured]) -> Table:
    """Every run: measured and predicted MiB, and the errors."""
    table = Table("run", "allocated", "predicted", "error", "reserved", "predicted", "error", "driver", "error")
    for run in runs:
        errors = [f"{error:+.1%}" if (error := run.error(of)) is not None else "" for of in ("allocated", "reserved")]
        driver = f"{error:+.1%}" if (error := run.error("driver")) is not None else ""
        truth = [f"{run.truth[of] >> 20}" if run.truth else "" for of in ("allocated", "reserved", "driver")]
        predicted = f"{run.allocated >> 20}", f"{run.reserved >> 20}"
        name = " ".join(run.arguments)
        table.add_row(
            f"{name} {run.failure[:30]}", truth[0], predicted[0], errors[0], truth[1], predicted[1], errors[1],
            truth[2], driver,
        )  # fmt: skip
    return table


def summary(runs: list[Measured]) -> Table:
    """How far off the predictions are."""
    table = Table("against", "runs", "median |error|", "under by > 5 %")
    for of in ("allocated", "reserved", "driver"):
        errors = [error for run in runs if run.allocated and (error := run.error(of)) is not None]
        if errors:
            under = sum(error < UNDER for error in errors) / len(errors)
            table.add_row(of, str(len(errors)), f"{statistics.median(map(abs, errors)):.1%}", f"{under:.1%}")
    return table


@click.command()
@click.option("--json", "output", type=click.Path(path_type=Path), help="Write every run there, too.")
@click.option("--only", default="", help="Only this model.")
@click.option("--predict-only", is_flag=True, help="Measure nothing.")
@click.option("--measure-only", is_flag=True, help="Predict nothing.")
def main(output: Path | None, only: str, predict_only: bool, measure_only: bool) -> None:
    """Measure and predict every configuration."""
    done = {run.arguments: run for run in known(output)}
    runs = [done.get(run.arguments, run) for run in configurations() if only in run.model]
    here = None if predict_only else this_gpu()
    for number, run in enumerate(runs):
        if here is not None and not run.truth:
            run.gpu = here.name
            measure(run)
        if not measure_only and not run.allocated:
            predict(run, here or device(run.gpu or "A100-40GB"))
        print(f"{number + 1}/{len(runs)} {' '.join(run.arguments)} {run.failure}", file=sys.stderr)
        if output is not None:
            output.write_text(json.dumps([asdict(each) for each in runs], indent=1), "utf-8")
    console = Console(width=150)
    console.print(table_of(runs))
    console.print(summary(runs))


if __name__ == "__main__":
    main()
