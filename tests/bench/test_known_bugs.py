"""The list of released bugs, and its benchmark on packages that are made here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).resolve().parents[2] / "bench"

BUGGY = """\
import torch


def train(model: torch.nn.Module, loader, optimizer):
    total = 0.0
    for x, y in loader:
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        total += loss
    return total
"""
LIST = """\
[[bug]]
package = "sums"
file = "sums/train.py"
class = "graph-accumulation"
before = { version = "1.0", rows = [11] }
after = { version = "1.1", rows = [11] }
holds = "each loss with its graph"
"""
PROGRAM = f"""\
import sys
from pathlib import Path
sys.path.insert(0, {str(BENCH)!r})
import known_bugs
known_bugs.known_bugs.__defaults__ = (Path("list.toml"),)
known_bugs.main()
"""


def run(folder: Path, **versions: str) -> str:
    """What the benchmark prints for the releases in its cache; each is the text of its only file."""
    for version, text in versions.items():
        package = folder / "cache" / f"sums-{version.removeprefix('v').replace('_', '.')}" / "sums"
        package.mkdir(parents=True)
        (package / "train.py").write_text(text)
    (folder / "list.toml").write_text(LIST)
    command = [sys.executable, "-c", PROGRAM, "--cache", str(folder / "cache")]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    return " ".join(done.stdout.split())


def test_a_bug_that_is_found_and_repaired(tmp_path: Path) -> None:
    printed = run(tmp_path, v1_0=BUGGY, v1_1=BUGGY.replace("+= loss", "+= loss.detach()"))
    assert "sums 1.0 MEM101:11 1.1 - each loss with its graph" in printed
    assert "found 1 of 1; silent after the repair 1 of 1" in printed


def test_a_bug_that_is_missed_and_one_that_stays(tmp_path: Path) -> None:
    printed = run(tmp_path, v1_0=BUGGY.replace("+= loss", "+= float(loss)"), v1_1=BUGGY)
    assert "found 0 of 1; silent after the repair 0 of 1 missed: sums 1.0 sums/train.py:11" in printed


def test_the_list_names_enough_bugs_of_the_families() -> None:
    program = (
        f"import sys; sys.path.insert(0, {str(BENCH)!r}); from known_bugs import known_bugs; "
        "print(sum(any(code < 'MEM7' for code in bug.codes) for bug in known_bugs()))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(done.stdout) >= 15
