"""What ``memlint verify`` costs: step time and memory of three models, run plainly and watched, on the CPU.

Run it with ``python bench/verify_overhead.py`` where torch is installed. Times are processor time of forward and
backward on one thread, so that a busy machine does not show. Every figure is that of a process of its own; plain and
watched runs take turns, and the fastest of each counts.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from memlint.verify.launch import Program, run_program
from memlint.verify.plan import Budget, WatchedLine

SCRIPT = """\
import json, os, resource, sys, time
import torch
from torch import nn

torch.manual_seed(0)
name, steps = sys.argv[1], int(sys.argv[2])
if name == "mlp":
    layers = [nn.Sequential(nn.Linear(1024, 1024), nn.ReLU()) for _ in range(6)]
    model, x = nn.Sequential(*layers), torch.randn(256, 1024)
elif name == "convolutions":
    layers = [nn.Sequential(nn.Conv2d(i, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()) for i in (3, *[32] * 7)]
    model, x = nn.Sequential(*layers), torch.randn(8, 3, 48, 48)
else:
    layer = nn.TransformerEncoderLayer(256, 4, 1024, batch_first=True)
    model, x = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False), torch.randn(4, 128, 256)
optimizer = torch.optim.AdamW(model.parameters())
total, seconds = 0.0, []
for step in range(steps):
    start = time.process_time()
    optimizer.zero_grad()
    loss = model(x).square().mean()
    loss.backward()
    total += loss
    seconds.append(time.process_time() - start)
    optimizer.step()
    with open(os.environ["BENCH_RESULT"], "w") as file:
        median = sorted(seconds[2:] or seconds)[len(seconds[2:] or seconds) // 2]
        json.dump([median, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss], file)
"""
ROW = SCRIPT.splitlines().index("    total += loss") + 1
LOOP = SCRIPT.splitlines().index("for step in range(steps):") + 1
MODELS = ("mlp", "convolutions", "transformer")


def measured(script: Path, model: str, steps: int, watched: bool, result: Path) -> tuple[float, int]:
    """Median seconds of forward and backward, and the most bytes of host memory that the process had."""
    os.environ |= {"BENCH_RESULT": str(result), "OMP_NUM_THREADS": "1"}
    if watched:
        line = WatchedLine(0, str(script), (ROW, ROW), (LOOP, ROW + 5), "reachable", ("total",))
        budget = replace(Budget(steps=steps), until=(steps, steps))
        run_program(Program(str(script), False, (model, str(steps))), (line,), budget, silent=True)
    else:
        subprocess.run([sys.executable, str(script), model, str(steps)], check=True)
    seconds, kibibytes = json.loads(result.read_text())
    return seconds, kibibytes * 1024


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    print("| model | step | watched | ratio | memory | watched | difference |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        script, result = Path(folder) / "train.py", Path(folder) / "result.json"
        script.write_text(SCRIPT)
        for model in MODELS:
            rounds = [
                [measured(script, model, options.steps, watched, result) for watched in (False, True)]
                for _ in range(options.rounds)
            ]
            plain, watched = (min(each[index] for each in rounds) for index in (0, 1))
            mebibytes = [each[1] / (1 << 20) for each in (plain, watched)]
            print(
                f"| {model} | {plain[0] * 1e3:.0f} ms | {watched[0] * 1e3:.0f} ms | {watched[0] / plain[0]:.2f} "
                f"| {mebibytes[0]:.0f} MiB | {mebibytes[1]:.0f} MiB | {mebibytes[1] - mebibytes[0]:+.0f} MiB |",
                flush=True,
            )


if __name__ == "__main__":
    main()
