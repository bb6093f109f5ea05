from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs torch")

SCRIPT = """\
import sys
import torch
from torch import nn

width = int(sys.argv[1])
model = nn.Linear(width, width, bias=False).cuda()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for _ in range(3):
    loss = model(torch.randn(8, width, device="cuda")).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
"""
MIB = 1 << 20


def memlint(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "memlint", "estimate", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=120)


@pytest.fixture
def script(tmp_path: Path) -> Path:
    (tmp_path / "train.py").write_text(SCRIPT, "utf-8")
    return tmp_path


@needs_torch
@pytest.mark.slow
def test_a_script_runs_on_a_device_that_is_not_there(script: Path) -> None:
    ran = memlint("train.py", "--run", "--device", "t4", "--output-format", "json", "--", "4096", cwd=script)
    assert ran.returncode == 0, ran.stderr
    said = json.loads(ran.stdout)
    assert said["fits"] is True
    assert said["breakdown"]["parameter"] == said["breakdown"]["gradient"] == 64 * MIB
    assert 128 * MIB <= said["peak_allocated"] <= said["peak_reserved"]
    assert said["sources"]["parameter train.py:6".replace("train.py", str(script / "train.py"))]["line"] == 6


@needs_torch
@pytest.mark.slow
def test_what_does_not_fit_is_said_with_its_lines(script: Path) -> None:
    ran = memlint("train.py", "--run", "--device", "1GB", "--html", "page.html", "--", "16384", cwd=script)
    assert ran.returncode == 1, ran.stderr
    assert "does not fit: 1GB has 1.00 GiB" in ran.stdout
    assert "train.py:6" in ran.stdout
    page = (script / "page.html").read_text("utf-8")
    assert "1GB has 1.00 GiB" in page
    assert "train.py:6" in page
    assert 'id="timeline"' in page


@needs_torch
@pytest.mark.slow
def test_a_script_that_fails_gives_no_estimate(script: Path) -> None:
    (script / "train.py").write_text("import torch\nraise ValueError('no data')\n", "utf-8")
    ran = memlint("train.py", "--run", cwd=script)
    assert ran.returncode == 2
    assert "nothing ran on the device: ValueError: no data" in ran.stdout


def test_options_that_contradict_each_other_are_refused(script: Path) -> None:
    assert (
        "--set is for estimates that are read off"
        in memlint("train.py", "--run", "--set", "batch=1", cwd=script).stderr
    )
    assert "use it with --run" in memlint("train.py", "--what-if", cwd=script).stderr
