"""memlint is installed in each of the ways that pip knows, into an environment of its own, and run there."""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest

import memlint
from tests.e2e.programs import CLEAN, HAZARDS, ROOT, Environment, output, run

pytestmark = pytest.mark.slow

IMPORT_ALL = """
import pkgutil, importlib, memlint.rules, memlint.fixers
for package in memlint.rules, memlint.fixers:
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
        print(module.name)
"""

NEW_RULE = '''
"""A rule of a new family."""

from collections.abc import Iterator

from memlint.findings import Confidence, Finding, Severity
from memlint.model.program import Program
from memlint.rule import Rule


class Everything(Rule):
    """Reports every file."""

    code = "MEM999"
    name = "everything"
    severity = Severity.WARNING
    gate = frozenset({"torch"})
    positive = ()
    negative = ()

    def check(self, program: Program) -> Iterator[Finding]:
        yield self.finding(program.tree.body[0], "a file", holds="nothing", confidence=Confidence.CERTAIN)
'''


def modules(folder: str) -> set[str]:
    """The modules that lie in ``folder`` of the checkout, under the names that they are installed by."""
    files = (ROOT / folder).rglob("*.py")
    parts = (file.relative_to(ROOT).with_suffix("").parts for file in files)
    return {".".join(("memlint", *part)).removesuffix(".__init__") for part in parts} - {f"memlint.{folder}"}


def assert_works(environment: Environment, directory: Path) -> None:
    """Asserts that the command runs, that all rules are there and that nothing heavy came along."""
    python = environment.program("python")
    command = environment.program("memlint")
    version = output(command, "--version", cwd=directory)
    assert memlint.__version__ in version
    assert output(python, "-m", "memlint", "--version", cwd=directory) == version
    assert set(output(python, "-c", IMPORT_ALL, cwd=directory).split()) == modules("rules") | modules("fixers")
    assert run(python, "-c", "import torch", cwd=directory).returncode == 1

    (directory / "hazards.py").write_text(HAZARDS)
    (directory / "clean.py").write_text(CLEAN)
    check = run(command, "check", "--output-format", "json", ".", cwd=directory)
    found = [(Path(entry["filename"]).name, entry["code"]) for entry in json.loads(check.stdout)]
    assert found == [("hazards.py", "MEM801"), ("hazards.py", "MEM101")]
    assert check.returncode == 1
    assert run(command, "check", "clean.py", cwd=directory).returncode == 0


def imported(process: subprocess.CompletedProcess[str]) -> set[str]:
    """The top-level packages that a ``python -X importtime`` has imported."""
    assert "import time:" in process.stderr
    return {line.rpartition("|")[2].strip().partition(".")[0] for line in process.stderr.splitlines()}


def test_wheel(installed: Environment, tmp_path: Path) -> None:
    assert_works(installed, tmp_path)


def test_sdist(distributions: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> None:
    _, sdist = distributions
    assert_works(Environment.create(tmp_path_factory.mktemp("sdist") / "venv", sdist), tmp_path)


def test_editable(repository: Path, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> None:
    checkout = tmp_path_factory.mktemp("editable") / "checkout"
    shutil.copytree(repository, checkout)
    environment = Environment.create(checkout / ".venv", "--editable", f"{checkout}[flake8]")
    assert_works(environment, tmp_path)

    family = checkout / "rules" / "new_family"
    family.mkdir()
    (family / "__init__.py").touch()
    (family / "everything.py").write_text(NEW_RULE)
    check = run(environment.program("memlint"), "check", "--output-format", "concise", "clean.py", cwd=tmp_path)
    assert check.stdout.startswith("clean.py:1:1: MEM999 a file"), check.stderr

    # A rule with a bug in it ends neither flake8's run nor the other rules.
    (family / "everything.py").write_text(NEW_RULE.replace("program.tree.body[0]", "program.no_such_thing"))
    lint = run(environment.program("flake8"), "--select=MEM", "hazards.py", cwd=tmp_path)
    assert [line.split()[1] for line in lint.stdout.splitlines()] == ["MEM000", "MEM801", "MEM101"]
    assert "internal error in MEM999" in lint.stdout
    assert "Traceback" not in lint.stdout + lint.stderr


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_and_version_are_light(installed: Environment, tmp_path: Path, option: str) -> None:
    process = run(installed.program("python"), "-X", "importtime", "-m", "memlint", option, cwd=tmp_path)
    assert "memlint" in imported(process)
    assert imported(process) & {"libcst", "rich", "torch"} == set()


def test_check_imports_no_torch(installed: Environment, tmp_path: Path) -> None:
    packages = tmp_path / "packages"
    packages.mkdir()
    (packages / "torch.py").touch()
    (tmp_path / "hazards.py").write_text(HAZARDS)
    command = (installed.program("python"), "-X", "importtime", "-m", "memlint", "check", "hazards.py")
    process = run(*command, cwd=tmp_path, PYTHONPATH=str(packages))
    assert "MEM101" in process.stdout
    assert "libcst" in imported(process)
    assert "torch" not in imported(process)


def test_contents(distributions: tuple[Path, Path]) -> None:
    wheel, sdist = distributions
    with zipfile.ZipFile(wheel) as archive:
        packed = {Path(name) for name in archive.namelist()}
    assert {path.parts[0] for path in packed} == {"memlint", f"torch_memlint-{memlint.__version__}.dist-info"}
    assert Path("memlint/py.typed") in packed

    with tarfile.open(sdist) as unpacked:
        source = {Path(*Path(name).parts[1:]) for name in unpacked.getnames()}
    assert {Path("LICENSE"), Path("README.md"), Path("rules/__init__.py"), Path("fixers/__init__.py")} <= source
    assert not [path for path in source if path.parts[:1] == ("tests",)]


@pytest.mark.parametrize("folder", ["rules", "fixers"])
def test_every_family_is_a_package(folder: str) -> None:
    """A folder without ``__init__.py`` is installed by nobody, and its rules would be missing without a word."""
    families = {file.parent for file in (ROOT / folder).rglob("*.py")}
    assert [str(family) for family in families if not (family / "__init__.py").is_file()] == []
