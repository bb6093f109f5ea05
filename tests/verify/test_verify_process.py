"""``memlint verify`` as a program: how scripts run, how they end, what is printed and what is written."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.programs import run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs torch"),
]

TRAINING = """\
import sys
import torch
from torch import nn


def main():
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    total = 0.0
    for step in range(40):
        optimizer.zero_grad()
        loss = model(torch.randn(16, 64)).square().mean()
        loss.backward()
        optimizer.step()
        total += loss
        {extra}
    print("total", total.item())


if __name__ == "__main__":
    main()
"""
HAZARD_ROW = 15


def verify(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return run(sys.executable, "-m", "memlint", "verify", *arguments, cwd=cwd, OMP_NUM_THREADS="1")


def report(*arguments: str | Path, cwd: Path) -> tuple[int, dict[str, Any]]:
    process = verify("--output-format", "json", *arguments, cwd=cwd)
    assert "Traceback" not in process.stdout
    document: dict[str, Any] = json.loads(process.stdout)
    return process.returncode, document


def script(folder: Path, extra: str = "pass", name: str = "train.py") -> Path:
    path = folder / name
    path.write_text(TRAINING.replace("{extra}", extra))
    return path


def test_json_has_the_verdict_and_the_figures(tmp_path: Path) -> None:
    code, document = report(script(tmp_path), cwd=tmp_path)
    assert code == 1
    (finding,) = document["findings"]
    assert finding["code"] == "MEM101"
    assert finding["location"]["row"] == HAZARD_ROW
    assert (finding["verdict"], finding["memory"]) == ("CONFIRMED", "host")
    assert finding["bytes_per_step"] > 0
    assert finding["where"].endswith(f"train.py:{HAZARD_ROW}")
    assert "device memory stays flat" in finding["evidence"]
    assert document["device"] == "cpu"
    assert 8 <= document["steps"] < 40
    parameters = (64 * 128 + 128 + 128 + 1) * 4
    assert document["categories"]["parameter"] == parameters
    assert document["peak_allocated"] > 2 * parameters
    assert document["peak_reserved"] % (2 << 20) == 0
    assert document["ending"] == "stopped"


def test_text_shows_the_verdict_and_what_the_script_prints_goes_to_standard_error(tmp_path: Path) -> None:
    script(tmp_path, 'print("step", step)')
    process = verify("train.py", "--ignore", "MEM604", cwd=tmp_path)
    assert process.returncode == 1
    assert "CONFIRMED  MEM101 train.py:15" in process.stdout
    assert "1 finding: 1 confirmed." in process.stdout
    assert "step 0" in process.stderr
    assert "step 0" not in process.stdout


def test_a_clean_script(tmp_path: Path) -> None:
    path = tmp_path / "train.py"
    path.write_text(TRAINING.replace("total += loss", "total += loss.detach()").replace("{extra}", "pass"))
    process = verify(path, cwd=tmp_path)
    assert (process.returncode, "No findings to verify." in process.stdout) == (0, True)


@pytest.mark.parametrize(
    ("extra", "ending", "error"),
    [
        ("assert step < 3, 'no more'", "raised", "AssertionError: no more"),
        ("sys.exit(7) if step == 3 else None", "exited", "sys.exit(7)"),
        (
            "(_ for _ in ()).throw(MemoryError('cannot allocate')) if step == 3 else None",
            "out of memory",
            "MemoryError",
        ),
        ("__import__('os').abort() if step == 3 else None", "died", "SIGABRT"),
        ("__import__('os')._exit(0) if step == 3 else None", "died", "exit code 0"),
    ],
    ids=["raises", "exits", "memory", "aborts", "leaves"],
)
def test_a_script_that_fails_at_step_three(tmp_path: Path, extra: str, ending: str, error: str) -> None:
    code, document = report(script(tmp_path, extra), cwd=tmp_path)
    assert code == 2
    assert document["ending"] == ending
    assert error in document["error"]
    assert document["findings"][0]["verdict"] == ("INCONCLUSIVE" if ending == "died" else "CONFIRMED")
    if ending != "died":
        assert document["steps"] == 4


def test_the_traceback_is_that_of_python(tmp_path: Path) -> None:
    # The operator runs in the recorder, whose frames stand between it and the script.
    process = verify(script(tmp_path, "torch.ones(2, 3) @ torch.ones(2, 3)"), cwd=tmp_path)
    assert process.stderr.count("Traceback") == 1
    trace = process.stderr[process.stderr.index("Traceback") :]
    assert "memlint" not in trace
    assert "_ops.py" not in trace
    assert f'train.py", line {HAZARD_ROW + 1}, in main' in trace


def test_sys_exit_zero_is_no_failure(tmp_path: Path) -> None:
    code, document = report(script(tmp_path, "sys.exit() if step == 9 else None"), cwd=tmp_path)
    assert (code, document["error"]) == (1, None)


def test_a_script_that_hangs_is_stopped(tmp_path: Path) -> None:
    hangs = "__import__('time').sleep(600) if step == 5 else None"
    code, document = report(script(tmp_path, hangs), "--timeout", "20", cwd=tmp_path)
    assert code == 2
    assert document["ending"] == "timed out"
    assert f"train.py:{HAZARD_ROW + 1}" in document["error"]
    assert document["findings"][0]["verdict"] == "CONFIRMED"


def test_forks_folders_and_streams_of_the_script_are_its_own(tmp_path: Path) -> None:
    extra = """if step == 2:
            import os
            child = os.fork()
            if child == 0:
                model(torch.randn(4, 64))
                os._exit(0)
            os.waitpid(child, 0)
            os.makedirs("elsewhere", exist_ok=True)
            os.chdir("elsewhere")
            sys.stdout = open("log.txt", "w")"""
    code, document = report(script(tmp_path, extra), cwd=tmp_path)
    assert (code, document["error"], document["findings"][0]["verdict"]) == (1, None, "CONFIRMED")
    assert (tmp_path / "elsewhere" / "log.txt").exists()


def test_a_compiled_model_is_watched_all_the_same(tmp_path: Path) -> None:
    path = script(tmp_path)
    path.write_text(path.read_text().replace("    optimizer =", "    model = torch.compile(model)\n    optimizer ="))
    code, document = report(path, cwd=tmp_path)
    assert (code, document["error"], document["findings"][0]["verdict"]) == (1, None, "CONFIRMED")


def test_two_optimizers_make_one_step(tmp_path: Path) -> None:
    path = script(tmp_path, "other.step()")
    path.write_text(
        path.read_text().replace("    total = 0.0", "    other = torch.optim.Adam(model.parameters())\n    total = 0.0")
    )
    code, document = report(path, cwd=tmp_path)
    assert code == 1
    finding = next(each for each in document["findings"] if each["code"] == "MEM101")
    assert finding["per"] == "step"
    assert 8 <= document["steps"] < 40


def test_the_script_sees_what_it_would_see_under_python(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "look.py"
    path.parent.mkdir()
    (path.parent / "beside.py").write_text("VALUE = 5\n")
    path.write_text(
        "import json, sys, __main__, beside\n"
        "print(json.dumps([sys.argv, __name__, __file__, sys.path[0], __main__ is sys.modules['__main__'],"
        " __main__.beside.VALUE, __spec__ is None, __package__, sorted(k for k in globals() if k.startswith('__'))]))\n"
    )
    plain = run(sys.executable, "sub/look.py", "--epochs", "3", cwd=tmp_path).stdout
    process = verify("sub/look.py", "--", "--epochs", "3", cwd=tmp_path)
    assert process.returncode == 2
    assert "did not import torch" in process.stdout
    assert plain.strip() in process.stderr


def test_a_module_with_relative_imports_and_workers(tmp_path: Path) -> None:
    package = tmp_path / "pkg"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "data.py").write_text(
        """\
import pathlib, torch
from torch.utils.data import Dataset, get_worker_info

class Noise(Dataset):
    def __len__(self):
        return 640
    def __getitem__(self, index):
        if index == 0:
            here = pathlib.Path(__file__).parent
            fixed = "loss.det" + "ach()" in (here / "train.py").read_text()
            with open(here.parent / "logs" / "log.txt", "a") as log:
                print("worker", get_worker_info() is not None, "fixed", fixed, file=log)
        return (torch.full((64,), index / 640),)

def make():
    return Noise()
"""
    )
    logs = tmp_path / "logs"
    logs.mkdir()
    (tmp_path / "pyproject.toml").write_text("")
    text = TRAINING.replace("{extra}", "pass").replace(
        "import sys\n", "import sys\nfrom torch.utils.data import DataLoader\nfrom .data import make\n"
    )
    text = text.replace("for step in range(40):", "for (x,) in DataLoader(make(), batch_size=16, num_workers=2):")
    text = text.replace("torch.randn(16, 64)", "x").replace(
        "total = 0.0", "total = 0.0; print(sys.argv[1:], __package__)"
    )
    (package / "train.py").write_text(text)
    process = verify("-m", "pkg.train", "--with-fixes", "--", "--config", "c.yaml", cwd=tmp_path)
    assert process.returncode == 1, process.stderr
    assert "['--config', 'c.yaml'] pkg" in process.stderr
    assert "CONFIRMED  MEM101 pkg/train.py" in process.stdout
    assert "agree bit for bit" in process.stdout, process.stdout
    found = (logs / "log.txt").read_text().splitlines()
    assert found == [f"worker True fixed {fixed}" for fixed in (False, False, True)]


def test_with_fixes_compares_two_runs_and_leaves_the_file_alone(tmp_path: Path) -> None:
    path = script(tmp_path)
    before = path.read_text()
    code, document = report(path, "--with-fixes", cwd=tmp_path)
    assert code == 1
    comparison = document["comparison"]
    assert comparison["fixes"] == 1
    assert comparison["losses"] == comparison["equal_losses"] >= 8
    assert comparison["same_losses"]
    assert comparison["failure"] is None
    assert comparison["host_growth"] == document["findings"][0]["bytes_per_step"]
    assert path.read_text() == before


def test_the_copy_holds_for_imports_workers_subprocesses_and_what_is_written(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "number.txt").write_text("1")
    (tmp_path / "meters.py").write_text("def add(total, loss):\n    return total + loss\n")
    (tmp_path / "look.py").write_text("import inspect, train; print('loss.detach()' in inspect.getsource(train))\n")
    log = tmp_path / "data" / "log.txt"
    text = TRAINING.replace("{extra}", "pass").replace("total.item()", "total.item(), meters.__file__")
    text = text.replace(
        "import sys\n", "import os, subprocess, sys\nimport meters\nimport torch.multiprocessing as mp\n"
    )
    text = text.replace(
        "def main():",
        """def fixed():
    with open(__file__) as file:
        return "loss.det" + "ach()" in file.read()


def worker(rank):
    note("worker", fixed())


def note(*words):
    with open("data/log.txt", "a") as file:
        print(*words, file=file)


def main():
    open(f"made-{os.getpid()}", "w").close()
    note("made", len([name for name in os.listdir() if name.startswith("made-")]))
    assert open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "data", "number.txt")).read() == "1"
    mp.spawn(worker)
    note("process", subprocess.run([sys.executable, "look.py"], capture_output=True, text=True).stdout.strip())""",
    )
    path = tmp_path / "train.py"
    path.write_text(text)
    assert "loss.detach()" not in text
    code, document = report(path.name, "--with-fixes", "--select", "MEM101", cwd=tmp_path)
    assert (code, document["comparison"]["failure"]) == (1, None)
    # The original, its copy as it is, its copy with fixes; what the first two write does not meet the third.
    assert log.read_text().splitlines() == [
        *("made 1", "worker False", "process False"),
        *("made 2", "worker False", "process False"),
        *("made 2", "worker True", "process True"),
    ]
    assert path.read_text() == text


def test_apply_confirmed_fixes_what_was_confirmed(tmp_path: Path) -> None:
    path = script(tmp_path)
    unreached = """

def unused(model, loader):
    total = 0.0
    for x in loader:
        loss = model(x)
        loss.backward()
        total += loss
    return total.item()
"""
    path.write_text(path.read_text().replace("\n\nif __name__", f"{unreached}\n\nif __name__"))
    process = verify(path, "--apply-confirmed", cwd=tmp_path)
    assert process.returncode == 1
    text = path.read_text()
    assert text.count("total += loss.detach()") == 1
    assert text.index("total += loss.detach()") < text.index("def unused")
    assert "Applied the fixes of 1 of 1 confirmed findings." in process.stderr


def test_sarif_and_github_have_verdicts(tmp_path: Path) -> None:
    path = script(tmp_path)
    log = json.loads(verify(path, "--output-format", "sarif", cwd=tmp_path).stdout)
    (result,) = log["runs"][0]["results"]
    assert (result["kind"], result["properties"]["verdict"]) == ("fail", "CONFIRMED")
    assert verify(path, "--output-format", "github", cwd=tmp_path).stdout.startswith("::error title=memlint (MEM101)")


def test_kept_traces_are_read_again(tmp_path: Path) -> None:
    path = script(tmp_path)
    assert report(path, "--trace-dir", "traces", cwd=tmp_path)[0] == 1
    for name in ("train-rank0.pickle", "train-rank0.pt.trace.json.gz"):
        code, document = report(path, "--trace", f"traces/{name}", cwd=tmp_path)
        assert code == 0
        assert name in document["trace"]
        # A trace shows tensors, which stay flat, and not the nodes of graphs.
        assert document["findings"][0]["verdict"] == "INCONCLUSIVE"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.py"], "missing.py: no such file"),
        (["-m", "no.such.module"], "no.such.module: no such module"),
        ([], "which script?"),
        (["broken.py"], "syntax error"),
    ],
)
def test_errors_are_one_line(tmp_path: Path, arguments: list[str], message: str) -> None:
    (tmp_path / "broken.py").write_text("import torch\ndef f(:\n")
    process = verify(*arguments, cwd=tmp_path)
    assert process.returncode == 2
    assert message in process.stderr
    assert process.stderr.count("\n") == 1


def test_ranks_are_merged(tmp_path: Path) -> None:
    path = script(tmp_path)
    text = path.read_text().replace("import sys\n", "import sys\nimport torch.distributed as dist\n")
    text = text.replace(
        "    optimizer =",
        "    dist.init_process_group('gloo')\n    model = nn.parallel.DistributedDataParallel(model)\n    optimizer =",
    )
    path.write_text(text)
    command = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "memlint", "verify", path)
    process = run(
        sys.executable, *command, "--output-format", "json", "-o", "report.json", cwd=tmp_path, OMP_NUM_THREADS="1"
    )
    document = json.loads((tmp_path / "report.json").read_text())
    assert [each["rank"] for each in document["ranks"]] == [0, 1], process.stderr
    finding = next(each for each in document["findings"] if each["code"] == "MEM101")
    assert finding["verdict"] == "CONFIRMED"
    assert "confirmed on 2 of 2 ranks" in finding["evidence"]


def test_the_kept_trace_opens_in_the_profiler_plugin_of_tensorboard(tmp_path: Path) -> None:
    data = pytest.importorskip("torch_tb_profiler.profiler.data")
    verify(script(tmp_path), "--trace-dir", "traces", cwd=tmp_path)
    parsed = data.RunProfileData.parse("rank0", None, str(tmp_path / "traces" / "train-rank0.pt.trace.json.gz"), None)
    assert max(parsed.memory_snapshot.get_peak_memory().values()) > 0
