"""What the metadata of a project says of versions."""

from __future__ import annotations

from pathlib import Path

import pytest

from memlint.model.pins import is_at_least, is_older, supports_older
from memlint.model.project import Project
from memlint.model.scopes import Module

_BETWEEN = ("2.1", "2.6")
"""Every file below admits versions of torch from 2.1 on, and none from 2.6 on."""

_FILES = {
    "pyproject.toml": [
        '[project]\nname = "p"\ndependencies = ["torch>=2.1,<2.6; python_version > \'3.9\'"]',
        '[project.optional-dependencies]\ntrain = ["numpy", "torch[opt] ~= 2.5.1"]',
        '[dependency-groups]\ndev = [{include-group = "test"}, "torch==2.1.*"]',
        '[tool.poetry.dependencies]\npython = "^3.10"\ntorch = "~2.1"\nnumpy = "*"',
        '[tool.poetry.dependencies]\ntorch = {version = "2.1.0", source = "cpu"}',
        '[tool.poetry.group.gpu.dependencies]\ntorch = [{version = "2.1"}, {version = ">=2.4,<2.6"}]',
    ],
    "poetry.lock": ['[[package]]\nname = "torch"\nversion = "2.5.1+cu121"\n'],
    "uv.lock": ['version = 1\n[[package]]\nname = "torch"\nversion = "2.5.1"\nsource = { registry = "r" }\n'],
    "Pipfile.lock": ['{"default": {"torch": {"version": "==2.5.1"}}}'],
    "Pipfile": ['[packages]\ntorch = "==2.5.1"\n'],
    "requirements.txt": ["# what we need\nnumpy\ntorch==2.5.1+cu121  # not 2.6\n", "torch>=2.1, \\\n  <2.6\n"],
    "requirements-gpu.txt": ["torch (>=2.1,<=2.5)"],
    "requirements/base.txt": ["Torch == 2.5.*"],
    "setup.cfg": ["[options]\ninstall_requires =\n    numpy\n    torch>=2.1,<2.6\n"],
    "setup.py": ['from setuptools import setup\nNEEDS = ["torch>=2.1,<2.6"]\nsetup(install_requires=NEEDS)\n'],
    "environment.yml": [
        "dependencies:\n  - python=3.10\n  - pytorch::pytorch=2.1=py3.10_cuda11.8\n",
        "dependencies:\n  - pytorch>=2.1,<2.6\n",
        "dependencies:\n  - pip\n  - pip:\n    - torch==2.5.1\n",
    ],
}


def _module(root: Path, files: dict[str, str], script: str = "train.py") -> Module:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return Project(root, [root / script]).module(root / script, "import torch\n")


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in _FILES.items() for text in texts])
def test_every_kind_of_metadata_is_read(tmp_path: Path, name: str, text: str) -> None:
    module = _module(tmp_path, {name: text})
    first, end = _BETWEEN
    assert is_at_least(module, "torch", first)
    assert is_older(module, "torch", end)
    assert not is_at_least(module, "torch", end)
    assert not is_older(module, "torch", first)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "torch",
        "torch!=2.0.1",
        "torch @ file:///torch-2.5.1.whl",
        "torchvision==0.20",
        "torch==main",
        "-e .",
        "torch>",
    ],
)
def test_what_is_not_constrained_is_unknown(tmp_path: Path, text: str) -> None:
    module = _module(tmp_path, {"requirements.txt": text})
    assert not is_at_least(module, "torch", "0.1")
    assert not is_older(module, "torch", "99")


@pytest.mark.parametrize("text", ["[project", '{"default"', "setup(", "dependencies: [", "\x00\xff"])
def test_broken_metadata_says_nothing(tmp_path: Path, text: str) -> None:
    module = _module(tmp_path, dict.fromkeys(_FILES, text))
    assert not is_at_least(module, "torch", "0.1")
    assert not is_older(module, "torch", "99")


def test_a_lock_decides_before_what_is_asked_for(tmp_path: Path) -> None:
    files = {"pyproject.toml": '[project]\ndependencies = ["torch>=1.13", "lightning>=2"]'}
    files["uv.lock"] = '[[package]]\nname = "torch"\nversion = "2.5.1"\n'
    module = _module(tmp_path, files)
    assert is_at_least(module, "torch", "2.5")
    assert is_at_least(module, "lightning", "2.0")


def test_alternatives_are_all_possible(tmp_path: Path) -> None:
    module = _module(tmp_path, {"requirements.txt": "torch==1.13.1", "requirements-new.txt": "torch==2.5.1"})
    assert not is_at_least(module, "torch", "2.0")
    assert not is_older(module, "torch", "2.0")
    assert is_at_least(module, "torch", "1.13")
    assert is_older(module, "torch", "2.6")


def test_the_nearest_folder_that_constrains_decides(tmp_path: Path) -> None:
    files = {"requirements.txt": "torch<2\ntransformers>=5", "examples/old/requirements.txt": "torch>=2.1"}
    module = _module(tmp_path, files, "examples/old/train.py")
    assert is_at_least(module, "torch", "2.1")
    assert is_at_least(module, "transformers", "5")
    assert is_older(_module(tmp_path, {}), "torch", "2.0")


def test_names_are_compared_as_packages_are(tmp_path: Path) -> None:
    module = _module(tmp_path, {"requirements.txt": "PyTorch_Lightning>=2.0"})
    assert is_at_least(module, "pytorch-lightning", "2")


@pytest.mark.parametrize(
    ("requirement", "old"),
    [
        ("torch>=1.7", True),
        ("torch==1.13.1", True),
        ("torch<2", True),
        ("torch>=1.9,<3", True),
        ("torch>=2.0", False),
        ("torch<3", False),
        ("torch", False),
        ("torchvision>=0.1", False),
    ],
)
def test_a_project_supports_an_old_version_where_it_names_one(tmp_path: Path, requirement: str, old: bool) -> None:
    assert supports_older(_module(tmp_path, {"requirements.txt": requirement}), "torch", "2.0") is old
