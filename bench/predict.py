"""Re-creates measured training runs on a GPU that is not there, and compares the predicted peak with the measured one.

    PYTHONPATH=... python bench/predict.py gpu_truth/runs.jsonl [--only TEXT] [--json FILE] [--peers DIR]

Each line of the file is one real run: what it trained, what the driver measured, and what published estimators said of
it. The runs need torchvision and transformers; with transformers 4.51.3 they are the models that were measured. Other
estimators that can be imported (``peers.py``) are asked about the same runs.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import peers
from rich.console import Console
from rich.table import Table

from memlint.capacity.simulate.run import simulate
from memlint.capacity.simulate.settings import Settings
from memlint.devices import device

SCRIPTS = Path(__file__).parent / "gpu_runs"
OTHERS = ("xmem", "dnnmem", "schedtune", "llmem")
UNDER = -0.05
LONGEST = 3600.0
"""Seconds for a run, on a machine that others use, too."""
WIDTH = 230


@dataclass
class Compared:
    """One run. Sizes are bytes, errors parts of the truth."""

    name: str
    optimizer: str
    batch: int
    gpu: str
    truth: int
    is_peak: bool
    predicted: int
    allocated: int
    fits: bool | None
    seconds: float
    others: dict[str, float | None]
    """Errors of published estimators, and of those that are installed."""
    failure: str = ""

    @property
    def error(self) -> float:
        """Signed; negative is under the truth."""
        return self.predicted / self.truth - 1


def compare(run: dict[str, Any], wanted: list[str]) -> Compared:
    """Simulate one measured run, and ask these peers about it."""
    script = SCRIPTS / ("cnn.py" if run["family"] == "cnn" else "transformer.py")
    position = "1" if "POS1" in run["zero_grad_position"] else "0"
    settings = Settings(device=device(run["gpu"]), steps=3, torch="2.6", seconds=LONGEST)
    begin = time.perf_counter()
    prediction = simulate(str(script), (run["model"], run["optimizer"], str(run["batch"]), position), settings)
    seconds = time.perf_counter() - begin
    outcome = prediction.outcome
    truth = run["truth_bytes"]
    said = {each: run[f"{each}_bytes"] for each in OTHERS} | peers.estimates(run, wanted)
    return Compared(
        name=run["model"].rpartition("/")[2],
        optimizer=run["optimizer"],
        batch=run["batch"],
        gpu=run["gpu"].replace("NVIDIA ", "").replace("GeForce ", ""),
        truth=truth,
        is_peak=run["truth_is_peak"],
        predicted=prediction.peak_reserved,
        allocated=prediction.peak_allocated,
        fits=prediction.fits,
        seconds=seconds,
        others={name: size / truth - 1 if size else None for name, size in said.items()},
        failure=outcome.error if outcome.ending != "stopped" else "",
    )


def table_of(results: Iterable[Compared], others: Iterable[str]) -> Table:
    """Truth and every prediction side by side."""
    table = Table(
        "model", "optimizer", "batch", "GPU", "truth MiB", "memlint MiB", "allocated", "memlint", *others, "s"
    )
    for each in results:
        mine = each.failure[:20] or (f"{each.error:+.1%}" if each.is_peak else f"fits: {each.fits}")
        errors = [f"{error:+.1%}" if (error := each.others[name]) is not None else "" for name in others]
        truth = f"{each.truth >> 20}" + ("" if each.is_peak else " OOM")
        sizes = truth, f"{each.predicted >> 20}", f"{each.allocated >> 20}"
        table.add_row(
            each.name, each.optimizer, str(each.batch), each.gpu, *sizes, mine, *errors, f"{each.seconds:.0f}"
        )
    return table


def summary(results: list[Compared], others: Iterable[str]) -> Table:
    """Median of the absolute errors and how many runs were predicted too low, for runs that ended."""
    table = Table("estimator", "runs", "median |error|", "90 %", "under by > 5 %", "mean", title="summary")
    ended = [each for each in results if each.is_peak]
    columns = {"memlint": [each.error for each in ended if not each.failure]}
    columns |= {other: [e for each in ended if (e := each.others[other]) is not None] for other in others}
    for name, errors in columns.items():
        if errors:
            sizes = sorted(abs(error) for error in errors)
            under = sum(error < UNDER for error in errors) / len(errors)
            worst = sizes[min(int(len(sizes) * 0.9), len(sizes) - 1)]
            median = statistics.median(sizes)
            mean = statistics.fmean(errors)
            table.add_row(name, str(len(errors)), f"{median:.1%}", f"{worst:.1%}", f"{under:.1%}", f"{mean:+.1%}")
    return table


def known(path: Path | None) -> dict[int, Compared]:
    """The runs of an earlier, interrupted call, by their number."""
    if path is None or not path.is_file():
        return {}
    return {int(key): Compared(**each) for key, each in json.loads(path.read_text("utf-8")).items()}


@click.command()
@click.argument("runs", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--only", default="", help="Only runs whose model has this in its name.")
@click.option("--first", default=1, help="The run to begin with; those before it come last.")
@click.option(
    "--json",
    "output",
    type=click.Path(path_type=Path),
    help="Write each run there; runs that stand there are not repeated.",
)
@click.option(
    "--peers",
    "packages",
    type=click.Path(exists=True, file_okay=False),
    help="A folder with the packages of other estimators, which the simulated runs do not see.",
)
def main(runs: Path, only: str, first: int, output: Path | None, packages: str | None) -> None:
    """Predict every run of RUNS and print how far off the prediction is."""
    sys.path += [packages] if packages is not None else []
    console = Console(width=WIDTH)
    entries = [json.loads(line) for line in runs.read_text("utf-8").splitlines() if line.strip()]
    wanted = [number for number, run in enumerate(entries) if only.lower() in run["model"].lower()]
    done = known(output)
    wanted_peers = peers.installed()
    others = [*OTHERS, *wanted_peers]
    for number in sorted(wanted, key=lambda each: (each < first - 1, each)):
        if number in done:
            continue
        result = done[number] = compare(entries[number], wanted_peers)
        print(f"{number + 1}/{len(entries)} {result.name} {result.error:+.1%} {result.failure}", file=sys.stderr)
        if output is not None:
            output.write_text(json.dumps({key: asdict(each) for key, each in done.items()}, indent=1), "utf-8")
    results = [done[number] for number in wanted]
    console.print(table_of(results, others))
    console.print(summary(results, others))


if __name__ == "__main__":
    main()
