"""``memlint verify --trace``: verdicts from recorded traces, without torch and without a run."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest

from memlint.cli import run
from memlint.trace.events import Action, MemoryEvent, Origin, Phase, Recording
from memlint.trace.frames import Frame, Stack
from memlint.trace.snapshot_writer import write_snapshot

SCRIPT = """\
import torch


def fit(model, loader, optimizer):
    kept = []
    for x in loader:
        optimizer.zero_grad()
        output = model(x)
        loss = output.square().mean()
        loss.backward()
        optimizer.step()
        kept.append(output)
    return kept
"""
FORWARD_ROW = 8
MIB = 1 << 20


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "project" / "train.py"
    path.parent.mkdir()
    path.write_text(SCRIPT)
    return path


def snapshot(path: Path, *, freed: bool, filename: str = "/elsewhere/project/train.py") -> Path:
    """Each step allocates 16 MiB in the forward pass, which the next step frees or nobody does."""
    stack = Stack((Frame("torch/nn/linear.py", 9, "forward"), Frame(filename, FORWARD_ROW, "fit")))
    events = []
    for step in range(9):
        address, time = (step + 1) * 64 * MIB, step * 1000.0
        common: dict[str, Any] = {"step": step, "phase": Phase.FORWARD}
        if freed and step:
            older = address - 64 * MIB
            events.append(MemoryEvent(Action.FREE, "cuda:0", older, 16 * MIB, 16 * MIB, time_us=time, **common))
        events.append(
            MemoryEvent(Action.ALLOCATE, "cuda:0", address, 16 * MIB, 16 * MIB, time_us=time, stack=stack, **common)
        )
    with path.open("wb") as file:
        write_snapshot(Recording(Origin.CUDA_SNAPSHOT, events, baseline_bytes={"cuda:0": 0}), file)
    return path


def verify(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    code = run(["verify", "--isolated", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def finding(capsys: pytest.CaptureFixture[str], script: Path, trace: Path) -> tuple[int, dict[str, Any]]:
    code, out, _ = verify(capsys, script, "--trace", trace, "--select", "MEM102", "--output-format", "json")
    document = json.loads(out)
    (found,) = document["findings"]
    return code, found


def test_growth_in_the_loop_of_the_line_confirms(
    capsys: pytest.CaptureFixture[str], script: Path, tmp_path: Path
) -> None:
    code, found = finding(capsys, script, snapshot(tmp_path / "s.pickle", freed=False))
    assert (code, found["verdict"]) == (1, "CONFIRMED"), found
    assert found["bytes_per_step"] == 16 * MIB
    assert found["where"] == f"/elsewhere/project/train.py:{FORWARD_ROW}"
    assert verify(capsys, script, "--trace", tmp_path / "s.pickle", "--select", "MEM102", "--exit-zero")[0] == 0


def test_flat_memory_refutes(capsys: pytest.CaptureFixture[str], script: Path, tmp_path: Path) -> None:
    code, found = finding(capsys, script, snapshot(tmp_path / "s.pickle", freed=True))
    assert (code, found["verdict"]) == (0, "REFUTED"), found


def test_a_trace_of_another_program_says_nothing(
    capsys: pytest.CaptureFixture[str], script: Path, tmp_path: Path
) -> None:
    trace = snapshot(tmp_path / "s.pickle", freed=False, filename="/elsewhere/other/main.py")
    assert finding(capsys, script, trace)[1]["verdict"] == "NOT EXERCISED"


LOADING = """
import torch
model = torch.nn.Linear(2, 2)
state = torch.load("weights.pt")
model.load_state_dict(state)
model.cuda()
"""


@pytest.mark.parametrize(
    ("device", "verdict"), [("cpu", "INCONCLUSIVE"), ("cuda:0", "CONFIRMED")], ids=["on a CPU", "on a GPU"]
)
def test_where_a_checkpoint_goes_shows_on_a_gpu_only(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, device: str, verdict: str
) -> None:
    script = tmp_path / "load.py"
    script.write_text(LOADING)
    stack = Stack((Frame("torch/serialization.py", 9, "load"), Frame(str(script), 4, "<module>")))
    event = MemoryEvent(Action.ALLOCATE, device, MIB, MIB, MIB, time_us=0.0, stack=stack)
    path = tmp_path / "s.pickle"
    with path.open("wb") as file:
        write_snapshot(Recording(Origin.CUDA_SNAPSHOT, [event], baseline_bytes={device: 0}), file)
    _, out, _ = verify(capsys, script, "--trace", path, "--select", "MEM801", "--output-format", "json")
    (found,) = json.loads(out)["findings"]
    assert found["verdict"] == verdict, found


class Hostile:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


def test_a_hostile_pickle_is_refused_and_does_nothing(
    capsys: pytest.CaptureFixture[str], script: Path, tmp_path: Path
) -> None:
    trace = tmp_path / "evil.pickle"
    trace.write_bytes(pickle.dumps({"segments": [Hostile(tmp_path / "made")]}))
    code, out, err = verify(capsys, script, "--trace", trace)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "refused" in err
    assert not (tmp_path / "made").exists()


def test_a_truncated_snapshot_is_told(capsys: pytest.CaptureFixture[str], script: Path, tmp_path: Path) -> None:
    trace = snapshot(tmp_path / "s.pickle", freed=False)
    trace.write_bytes(trace.read_bytes()[:500])
    code, _, err = verify(capsys, script, "--trace", trace)
    assert (code, err.count("\n")) == (2, 1)
    assert "cut short" in err
