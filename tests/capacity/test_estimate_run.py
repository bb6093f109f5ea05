from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from memlint.capacity.estimate import Estimate, estimate_script
from memlint.messages import UserError

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


TRAINING = """\
import argparse
import torch
from torchvision.models import resnet50

parser = argparse.ArgumentParser()
parser.add_argument("--batch-size", type=int, default=64)
args = parser.parse_args()
model = resnet50().cuda()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for images, labels in torch.utils.data.DataLoader(data, batch_size=args.batch_size):
    torch.nn.functional.cross_entropy(model(images.cuda()), labels.cuda()).backward()
    optimizer.step()
"""


def _estimated(folder: Path, device: str | None = None, **settings: object) -> Estimate:
    path = folder / "training.py"
    path.write_text(TRAINING, "utf-8")
    return estimate_script(path, device, settings)


def test_a_setting_that_the_program_does_not_know_is_an_error(tmp_path: Path) -> None:
    assert _estimated(tmp_path, batch_size=16).reading.value("batch") == 16
    with pytest.raises(UserError, match="bacth"):
        _estimated(tmp_path, bacth=16)


def test_what_would_fit_is_the_smallest_combination(tmp_path: Path) -> None:
    single = [each for each in _estimated(tmp_path, "6GB", batch=1024, image=224).remedies if each.fits]
    assert [" and " in each.change for each in single] == [False]
    # One image of four needs more than the device has, and so do four under autocast.
    both = _estimated(tmp_path, "4GB", batch=4, image=1536).remedies
    assert [each.fits for each in both] == [False] * (len(both) - 1) + [True]
    assert both[-1].change.count(" and ") == 1
