"""The scripts in ``examples/`` hold the hazards that memlint reports, no others, and they run."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import sys
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.e2e.programs import ROOT, output, run

EXAMPLES = ROOT / "examples"
ONE_THREAD = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}

EXPECTED = {
    "hazards.py": [
        ("MEM103", "self.feature_spread = 0.9 * self.feature_spread + 0.1 * spread"),
        ("MEM202", "optimizer.zero_grad(set_to_none=False)"),
        ("MEM801", "state = torch.load(checkpoint)"),
        ("MEM603", "teacher_logits = teacher(signal)"),
        ("MEM104", "soft_loss.backward(retain_graph=True)"),
        ("MEM101", "epoch_loss += hard_loss + soft_loss"),
        ("MEM102", "epoch_logits.append(student_logits.cpu())"),
        ("MEM601", "logits = model(signal.to(device))"),
        ("MEM604", "predictions.append(model(signal.to(device)).softmax(dim=1))"),
        ("MEM602", "torch.no_grad()"),
        ("MEM201", "optimizer.step()"),
        ("MEM107", "logits, state = detector(chunk, state)"),
    ],
    "clean.py": [],
    "signals.py": [],
    "lightning_module.py": [
        ("MEM607", "self.train_logits.append(logits)"),
        ("MEM604", "self.validation_logits.append(logits)"),
        ("MEM607", "self.validation_logits.append(logits)"),
    ],
    "accelerate_loop.py": [
        ("MEM101", "smoothed_loss = 0.9 * smoothed_loss + 0.1 * loss"),
        ("MEM604", "probabilities.append(probability)"),
        ("MEM801", "model.load_state_dict(torch.load(checkpoint))"),
    ],
    "hf_trainer.py": [
        ("MEM603", 'teacher_logits = self.teacher(input_ids=inputs["input_ids"]).logits'),
        ("MEM102", 'self.batch_losses.append(F.cross_entropy(outputs.logits, inputs["labels"], reduction="none"))'),
    ],
    "multifile/models.py": [],
    "multifile/meters.py": [],
    "multifile/train.py": [
        ("MEM101", "losses.update(loss, len(regime))"),
        ("MEM102", 'run.add("feature norm", features.norm(dim=1))'),
        ("MEM601", "logits, _ = model(signal)"),
    ],
}
"""The findings of each example: the code, and the line that it is reported in."""

PROGRAMS = {
    "hazards.py": ["torch"],
    "clean.py": ["torch"],
    "lightning_module.py": ["torch", "lightning"],
    "accelerate_loop.py": ["torch", "accelerate"],
    "hf_trainer.py": ["torch", "accelerate", "transformers"],
    "multifile/train.py": ["torch"],
}
"""The packages that each program needs."""


class Found(NamedTuple):
    """A finding: the file, the code, and the text of the line that is reported."""

    file: str
    code: str
    line: str


def check(*arguments: str | Path, cwd: Path) -> dict[Found, str | None]:
    """The findings, each with the applicability of its fix."""
    command = [sys.executable, "-m", "memlint", "check", "--isolated", "--no-cache", "--output-format", "json"]
    process = run(*command, *arguments, cwd=cwd)
    assert process.returncode in (0, 1), process.stderr
    findings = {}
    for finding in json.loads(process.stdout):
        path = Path(finding["filename"])
        line = path.read_text(encoding="utf-8").splitlines()[finding["location"]["row"] - 1].strip()
        found = Found(path.relative_to(cwd.resolve()).as_posix(), finding["code"], line)
        assert found not in findings, "the same line is reported twice"
        findings[found] = finding["fix"] and finding["fix"]["applicability"]
    return findings


@cache
def run_example(name: str, *arguments: str, examples: Path = EXAMPLES) -> str:
    """What the program prints; skips where its packages are missing."""
    for package in PROGRAMS[name]:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    module = name.removesuffix(".py").replace("/", ".")
    return output(sys.executable, "-m", module, *arguments, cwd=examples, **ONE_THREAD)


def learnt(name: str, examples: Path = EXAMPLES) -> list[str]:
    """What a short run prints, without the temperature and the detector: hazards change how those are trained."""
    printed = run_example(name, "--recordings", "128", "--epochs", "2", examples=examples)
    return [line for line in printed.splitlines() if not line.startswith(("temperature", "detector"))]


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A copy of the examples that a test may repair."""
    return Path(shutil.copytree(EXAMPLES, tmp_path / "examples", ignore=shutil.ignore_patterns("__pycache__")))


def test_every_example_has_expectations() -> None:
    files = {path.relative_to(EXAMPLES).as_posix() for path in EXAMPLES.rglob("*.py")}
    assert files - {"multifile/__init__.py"} == EXPECTED.keys()


def test_findings_are_the_hazards_of_the_examples() -> None:
    assert sorted(check(".", cwd=EXAMPLES)) == sorted(
        Found(name, *finding) for name, findings in EXPECTED.items() for finding in findings
    )


@pytest.mark.parametrize("name", [name for name, findings in EXPECTED.items() if findings])
def test_fixes_leave_nothing_that_has_a_fix(name: str, copied: Path) -> None:
    check("--fix", "--unsafe-fixes", name, cwd=copied)
    assert set(check(name, cwd=copied).values()) <= {None, "display"}


def test_safe_fixes_keep_the_numbers(copied: Path) -> None:
    check("--fix", "hazards.py", cwd=copied)
    assert learnt("hazards.py", copied) == learnt("hazards.py")


def test_repaired_program_prints_the_numbers_of_its_clean_twin(copied: Path) -> None:
    check("--fix", "--unsafe-fixes", "hazards.py", cwd=copied)
    assert learnt("hazards.py", copied) == learnt("clean.py")


def test_hazards_do_not_change_what_is_learnt() -> None:
    assert learnt("hazards.py") == learnt("clean.py")


@pytest.mark.parametrize("name", sorted(PROGRAMS.keys() - {"hazards.py", "clean.py"}))
def test_program_runs(name: str) -> None:
    assert re.search(r"\d\.\d", run_example(name))


def figures(row: str, table: str) -> list[float]:
    """The numbers in a row of a printed table."""
    return [
        float(figure) for figure in re.findall(r"-?\d+\.\d+", re.findall(rf"^ *{row} (.*)$", table, re.MULTILINE)[0])
    ]


@pytest.mark.slow
def test_memory_figures_of_the_readme_are_measured() -> None:
    pytest.importorskip("torch")
    printed = output(sys.executable, "bench/example_memory.py", "--fixed", cwd=ROOT, **ONE_THREAD)
    hazards, with_safe_fixes, _, clean = figures("whole run", printed)
    growth = figures("distil", printed)[1]
    quoted = re.findall(r"([\d.]+) MiB", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert [float(figure) for figure in quoted] == pytest.approx([hazards, clean, with_safe_fixes, growth], rel=0.05)
