"""What the findings of a file rest on in other files, whoever has asked before."""

from __future__ import annotations

from pathlib import Path

import pytest

from memlint.check.engine import check_data
from memlint.config import Settings
from memlint.model.dependencies import Dependencies
from memlint.model.pins import is_older
from memlint.model.project import Project
from memlint.registry import all_rules

FILES = {
    "lib/__init__.py": "",
    "lib/base.py": "def scaled(x):\n    return x * 2\n",
    "lib/losses.py": "from lib.base import scaled\n\ndef loss(model, x):\n    return scaled(model(x).sum())\n",
    "lib/names.py": "from lib.losses import *\n",
    "train.py": """\
import torch
from lib.names import *

def train(model, loader):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    total = 0
    for x in loader:
        value = loss(model, x)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        total += value
    return total
""",
    "again.py": """\
import torch
from lib.losses import loss

def again(model, loader):
    return sum(loss(model, x) for x in loader)
""",
    "main.py": "import torch\nfrom train import train\n\nprint(train(torch.nn.Linear(2, 2), []))\n",
}


def made(root: Path) -> list[Path]:
    for name, text in FILES.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(text)
    return sorted(root.rglob("*.py"))


def dependencies(project: Project, path: Path) -> Dependencies | None:
    check_data(path, path.read_bytes(), all_rules(), project, Settings(project.root))
    return project.dependencies()


def names(found: Dependencies | None, root: Path) -> set[str]:
    assert found is not None
    return {path.relative_to(root).as_posix() for path in found.files if path.suffix == ".py"}


@pytest.mark.parametrize("before", [[], ["again.py"], ["lib/losses.py", "again.py", "main.py"]])
def test_what_others_have_asked_before_counts(tmp_path: Path, before: list[str]) -> None:
    project = Project(tmp_path, made(tmp_path))
    for name in before:
        dependencies(project, tmp_path / name)
    found = dependencies(project, tmp_path / "train.py")
    assert {"lib/names.py", "lib/losses.py", "lib/base.py", "main.py"} <= names(found, tmp_path)
    assert found is not None
    assert "train" in {sought.name for sought in found.calls}


def test_they_do_not_depend_on_the_order(tmp_path: Path) -> None:
    files = made(tmp_path)

    def all_of(order: list[Path]) -> dict[Path, tuple[set[str], set[str]] | None]:
        project = Project(tmp_path, files)
        found = {path: dependencies(project, path) for path in order}
        return {
            path: (names(each, tmp_path), {sought.name for sought in each.calls}) if each else None
            for path, each in found.items()
        }

    forwards = all_of(files)
    assert forwards[tmp_path / "lib" / "base.py"] is None
    assert all_of(files[::-1]) == forwards


def test_modules_that_are_not_there_are_remembered(tmp_path: Path) -> None:
    project = Project(tmp_path, made(tmp_path))
    dependencies(project, tmp_path / "train.py")
    assert "torch" in project.lookups.missed[tmp_path][str(tmp_path)]
    assert project.lookups.packages[tmp_path / "lib"] == (str(tmp_path / "lib" / "__init__.py"),)


def test_versions_rest_on_the_metadata(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("torch==1.13\n")
    path = tmp_path / "train.py"
    project = Project(tmp_path, [path])
    assert is_older(project.program(path, "import torch\n").module, "torch", "2.0")
    found = project.dependencies()
    assert found is not None
    assert tmp_path / "requirements.txt" in found.files
    assert found.files[tmp_path / "setup.cfg"] == b""
    assert ("requirements.txt",) in found.listed.values()
