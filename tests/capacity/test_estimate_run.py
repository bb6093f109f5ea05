from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from memlint.capacity.estimate import Estimate, estimate_script
from memlint.capacity.overriding import overridden
from memlint.capacity.simulate.settings import Settings
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
    assert '"name":"workspace"' in page
    assert '"name":"unknown"' not in page


@needs_torch
@pytest.mark.slow
def test_a_script_that_fails_gives_no_estimate(script: Path) -> None:
    (script / "train.py").write_text("import torch\nraise ValueError('no data')\n", "utf-8")
    ran = memlint("train.py", "--run", cwd=script)
    assert ran.returncode == 2
    assert "nothing ran on the device: ValueError: no data" in ran.stdout


def test_options_that_contradict_each_other_are_refused(script: Path) -> None:
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


def test_a_variable_that_the_data_decide_about_can_be_set(tmp_path: Path) -> None:
    lines = [
        "import torch",
        "class Net(torch.nn.Module):",
        "    def __init__(self, words, width):",
        "        super().__init__()",
        "        self.table = torch.nn.Embedding(words, width)",
        "        self.out = torch.nn.Linear(width, classes)",
        "classes = len(read('labels.txt'))",
        "net = Net(len(read('words.txt')), 8)",
        "net(texts).sum().backward()",
    ]
    path = tmp_path / "train.py"
    path.write_text("\n".join(lines), "utf-8")
    assert estimate_script(path, None, {}).peak is None
    known = estimate_script(path, None, {"words": 100, "classes": 3})
    assert [model.count() for model in known.reading.trained] == [100 * 8 + 8 * 3 + 3]
    with pytest.raises(UserError, match="width"):
        # The script says it.
        estimate_script(path, None, {"width": 16})


def test_what_would_fit_is_the_smallest_combination(tmp_path: Path) -> None:
    single = [each for each in _estimated(tmp_path, "6GB", batch=1024, image=224).remedies if each.fits]
    assert [" and " in each.change for each in single] == [False]
    # One image of four needs more than the device has, and so do four under autocast.
    both = _estimated(tmp_path, "4GB", batch=4, image=1536).remedies
    assert [each.fits for each in both] == [False] * (len(both) - 1) + [True]
    assert both[-1].change.count(" and ") == 1


SETTABLE = """\
import argparse
import torch
from torch import nn
from torch.utils.data import DataLoader
import torchvision

CROP = 224
parser = argparse.ArgumentParser()
parser.add_argument("-b", "--batch-size", type=int, default=64)
parser.add_argument("--no-flip", action="store_true")
args = parser.parse_args()
crop = torchvision.transforms.RandomCrop(CROP)
model = torchvision.models.resnet50().cuda()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for images, labels in DataLoader(data, batch_size=args.batch_size):
    nn.functional.cross_entropy(model(images.cuda()), labels.cuda()).backward()
    optimizer.step()
"""


def _asked(folder: Path, **given: object) -> tuple[list[str], Settings, list[str]]:
    """The words, the settings, and the row with the size of images."""
    path = folder / "training.py"
    path.write_text(SETTABLE, "utf-8")
    asked = overridden(path, ["--no-flip"], given, {"no_flip": True}, Settings())
    return asked.words, asked.settings, asked.texts.get(path, SETTABLE).splitlines()[6:7]


@pytest.mark.parametrize(
    ("given", "words", "row"),
    [
        ({"batch": 16}, ["--batch-size", "16"], "CROP = 224"),
        ({"batch_size": 16}, ["--batch-size", "16"], "CROP = 224"),
        ({"image": 96}, [], "CROP = 96"),
        ({"no_flip": False}, [], "CROP = 224"),
    ],
)
def test_a_run_is_told_what_is_set(tmp_path: Path, given: dict[str, object], words: list[str], row: str) -> None:
    assert _asked(tmp_path, **given) == (["--no-flip", *words], Settings(), [row])


def test_changes_of_the_simulation_are_set(tmp_path: Path) -> None:
    _, settings, _ = _asked(tmp_path, precision="bf16", checkpointing=True, ranks=4)
    assert (settings.changes, settings.count) == (("amp=bf16", "checkpoint"), 4)


@pytest.mark.parametrize("given", [{"bacth": 16}, {"length": 128}, {"precision": "int3"}, {"checkpointing": False}])
def test_what_a_run_cannot_be_told_is_an_error(tmp_path: Path, given: dict[str, object]) -> None:
    with pytest.raises(UserError, match="--set"):
        _asked(tmp_path, **given)


@needs_torch
@pytest.mark.slow
def test_a_constant_is_set_where_the_script_says_it(tmp_path: Path) -> None:
    text = SCRIPT.replace("import sys", "from sizes import BATCH").replace("int(sys.argv[1])", "4096")
    loader = "torch.utils.data.DataLoader([0] * 64, batch_size=BATCH)"
    text = text.replace("range(3)", loader).replace("loss = ", "print(len(_)); loss = ")
    (tmp_path / "train.py").write_text(text)
    (tmp_path / "sizes.py").write_text("BATCH = 8\n")
    ran = memlint("train.py", "--run", "--set", "batch=16", cwd=tmp_path)
    # What the script prints goes there.
    assert ran.stderr.splitlines() == ["16"] * 3
