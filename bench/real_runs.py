"""Runs training scripts of public repositories with ``memlint estimate --run`` and prints what they are said to need.

    python bench/real_runs.py --mirrors DIR [--only TEXT] [--device NAME]

The scripts are those of ``real_scripts.py``, from the same mirrors, as far as data can be made up for them: a few
hundred random images, digits and words. They need what they import (torchvision, timm, Pillow, tqdm, tensorboard_logger
and others); what is not installed is said in the row of the script. Nothing is downloaded.
"""

from __future__ import annotations

import fcntl
import json
import os
import pickle
import pty
import string
import struct
import subprocess
import sys
import tempfile
import termios
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from mirrors import Mirrors
from real_scripts import SCRIPTS, unpacked
from rich.console import Console
from rich.table import Table

MiB = 2**20
SECONDS = 300.0
RANDOM = np.random.default_rng(0)
_LINE = "the quick brown fox jumps over the lazy dog and reads books . " * 20 + "\n"
TEXT = _LINE * 200 + string.printable.replace("\r", "")


def digits(folder: Path) -> None:
    """The files of MNIST, with 2,000 and 500 random images."""
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    for name, count in (("train", 2000), ("t10k", 500)):
        pixels = RANDOM.integers(0, 255, (count, 28, 28), dtype=np.uint8).tobytes()
        labels = RANDOM.integers(0, 10, count, dtype=np.uint8).tobytes()
        (raw / f"{name}-images-idx3-ubyte").write_bytes(struct.pack(">iiii", 2051, count, 28, 28) + pixels)
        (raw / f"{name}-labels-idx1-ubyte").write_bytes(struct.pack(">ii", 2049, count) + labels)


def cifar(folder: Path) -> None:
    """The files of CIFAR-10, with 400 random images each."""
    batches = folder / "cifar-10-batches-py"
    batches.mkdir(parents=True, exist_ok=True)
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        data = RANDOM.integers(0, 255, (400, 3072), dtype=np.uint8)
        (batches / name).write_bytes(pickle.dumps({"data": data, "labels": RANDOM.integers(0, 10, 400).tolist()}))
    (batches / "batches.meta").write_bytes(pickle.dumps({"label_names": list("0123456789")}))


def words(*names: str) -> Callable[[Path], None]:
    """Files of a few words, over and over."""

    def make(folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            (folder / name).write_text(TEXT)

    return make


def tokens(folder: Path) -> None:
    """Random numbers of tokens of GPT-2, as nanoGPT prepares them."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("train", "val"):
        RANDOM.integers(0, 50_000, 200_000, dtype=np.uint16).tofile(folder / f"{name}.bin")


def images(*names: str) -> Callable[[Path], None]:
    """Random pictures in the files ``names``, whose content (PPM) says what they are, whatever their ending says."""

    def make(folder: Path) -> None:
        for name in names:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"P6 280 300 255\n" + RANDOM.integers(0, 255, (300, 280, 3), dtype=np.uint8).tobytes())

    return make


@dataclass(frozen=True)
class Run:
    """How a script is started: its place is ``folder / script``, and ``folder`` is where it runs."""

    folder: str
    script: str
    words: tuple[str, ...] = ()
    data: str = ""
    """Where its data are, from ``folder``."""
    make: Callable[[Path], None] | None = None


_PETS = tuple(f"{breed}_{number}.jpg" for breed in ("beagle", "pug") for number in range(80))
_INSECTS = tuple(f"{part}/{kind}/{n}.jpg" for part in ("train", "val") for kind in ("ants", "bees") for n in range(8))
_BASIC, _LATER = "tutorials/02-intermediate", "tutorials/03-advanced"
RUNS: dict[str, tuple[Run, ...]] = {
    "pytorch/examples": (
        Run("mnist", "main.py", ("--epochs", "1"), "../data", digits),
        Run("imagenet", "main.py", ("--dummy", "-a", "resnet18", "--epochs", "1")),
        Run(
            "word_language_model",
            "main.py",
            ("--accel", "--epochs", "1"),
            "data/wikitext-2",
            words("train.txt", "valid.txt", "test.txt"),
        ),
        Run("dcgan", "main.py", ("--dataset", "fake", "--niter", "1", "--accel")),
        Run("vae", "main.py", ("--epochs", "1"), "../data", digits),
        Run("siamese_network", "main.py", ("--epochs", "1"), "../data", digits),
        Run("mnist_rnn", "main.py", ("--epochs", "1", "--accel"), "../data", digits),
    ),
    "karpathy/minGPT": (
        Run(".", "projects/adder/adder.py"),
        Run(".", "projects/chargpt/chargpt.py", (), ".", words("input.txt")),
    ),
    "karpathy/nanoGPT": (Run(".", "train.py", ("--eval_iters=2",), "data/openwebtext", tokens),),
    "yunjey/pytorch-tutorial": (
        Run(f"{_BASIC}/deep_residual_network", "main.py", (), "../../data", cifar),
        Run(f"{_BASIC}/language_model", "main.py", (), "data", words("train.txt")),
        Run(f"{_LATER}/generative_adversarial_network", "main.py", (), "../../data", digits),
    ),
    "patrickloeber/pytorchTutorial": (
        Run(".", "14_cnn.py", (), "data", cifar),
        Run(".", "15_transfer_learning.py", (), "data/hymenoptera_data", images(*_INSECTS)),
    ),
    "kuangliu/pytorch-cifar": (Run(".", "main.py", (), "data", cifar),),
    "huggingface/accelerate": (Run(".", "examples/cv_example.py", ("--data_dir", "pets"), "pets", images(*_PETS)),),
    "HobbitLong/SupContrast": (
        Run(".", "main_supcon.py", ("--batch_size", "256", "--num_workers", "0"), "datasets", cifar),
    ),
    "locuslab/TCN": (Run("TCN/mnist_pixel", "pmnist_test.py", (), "data/mnist", digits),),
    "salesforce/awd-lstm-lm": (
        Run(".", "main.py", ("--data", "data/penn"), "data/penn", words("train.txt", "valid.txt", "test.txt")),
    ),
}
_UNCHECKED = """
import os
try:
    from torchvision.datasets import cifar
except ImportError:
    pass
else:
    cifar.check_integrity = lambda path, *_: os.path.isfile(path)
"""
"""What every Python process of a run does first: data that are made up have other digests than the real ones."""


def started(run: Run, tree: Path, device: str) -> tuple[int, str, str]:
    """The exit code of the estimate of a script in ``tree``, what it prints, and the last line of its errors."""
    place = tree / run.folder
    if run.make is not None:
        run.make((place / run.data).resolve())
    start = tree / "start"
    start.mkdir(exist_ok=True)
    (start / "sitecustomize.py").write_text(_UNCHECKED)
    paths = os.pathsep.join(filter(None, [str(start), ".", os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "memlint", "estimate", run.script, "--run", "--device", device]
    terminal, end = pty.openpty()
    # Some scripts ask for the width of their terminal.
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    try:
        done = subprocess.run(
            [*command, "--output-format", "json", "--", *run.words],
            cwd=place,
            env={**os.environ, "PYTHONPATH": paths, "WANDB_MODE": "disabled"},
            stdin=end,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
    finally:
        os.close(terminal)
        os.close(end)
    return done.returncode, done.stdout, (done.stderr.strip().splitlines() or [""])[-1]


def row(run: Run, tree: Path, device: str) -> tuple[str, str, str, str]:
    """Steps, MiB allocated and reserved at the peak, and why there are none."""
    try:
        code, printed, error = started(run, tree, device)
    except subprocess.TimeoutExpired:
        return "", "", "", f"not done after {SECONDS:.0f} s"
    result = json.loads(printed) if printed.startswith("{") else {}
    if result.get("fits") is None:
        return str(result.get("steps", "")), "", "", error or f"exit code {code}"
    allocated, reserved = (f"{result[peak] / MiB:,.0f}" for peak in ("peak_allocated", "peak_reserved"))
    return str(result["steps"]), allocated, reserved, ""


@click.command()
@click.option("--mirrors", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True)
@click.option("--only", default="", help="Only scripts with this in their repository or path.")
@click.option("--device", default="t4", help="What they run on.", show_default=True)
def main(mirrors: Path, only: str, device: str) -> None:
    """Run every script and print a row for it."""
    table = Table("script", "steps", "allocated MiB", "reserved MiB", "why not")
    ran = total = 0
    for repo, runs in RUNS.items():
        wanted = [run for run in runs if only in f"{repo}/{run.folder}/{run.script}"]
        commit = next(commit for each, commit in SCRIPTS if each == repo)
        with tempfile.TemporaryDirectory() as name:
            if not wanted or not unpacked(Mirrors(mirrors), repo, commit, Path(name)):
                continue
            for run in wanted:
                found = row(run, Path(name), device)
                total += 1
                ran += bool(found[1])
                table.add_row(f"{repo} {Path(run.folder, run.script)}", *found)
                print(f"{repo} {run.folder}/{run.script}: {', '.join(filter(None, found))}", file=sys.stderr)
    Console(width=150).print(table)
    print(f"{ran} of {total} scripts ran")


if __name__ == "__main__":
    main()
