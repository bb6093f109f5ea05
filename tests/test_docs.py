"""The documentation is true: built parts are up to date, links lead somewhere, what it names exists."""

from __future__ import annotations

import importlib
import importlib.util
import re
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest

from memlint.config import KEYS
from memlint.registry import all_rules
from tests.e2e.programs import ROOT, output, run

GUIDES = sorted(path for path in (ROOT, ROOT / "docs") for path in path.glob("*.md"))


def text(name: str) -> str:
    """The content of a documentation file."""
    return (ROOT / name).read_text(encoding="utf-8")


@pytest.fixture
def build() -> ModuleType:
    """The script that builds the documentation."""
    spec = importlib.util.spec_from_file_location("docs_build", ROOT / "docs" / "build.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_documentation_is_up_to_date() -> None:
    output(sys.executable, "docs/build.py", "--check", cwd=ROOT)


def test_outdated_pages_are_named(build: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {build.INDEX: build.index(all_rules())}
    monkeypatch.setattr(build, "ROOT", tmp_path)
    build.write(files)
    assert build.outdated(files) == []
    (tmp_path / build.INDEX).write_text("", encoding="utf-8")
    (tmp_path / build.INDEX).with_name("MEM000.md").write_text("", encoding="utf-8")
    assert build.outdated(files) == [build.INDEX, build.INDEX.with_name("MEM000.md")]


def test_what_commands_print_is_printed_anew(build: ModuleType) -> None:
    shown = "before\n```console\n$ memlint --version\nmemlint 0.0\n$ of old\n```\nafter\n"
    version = output(sys.executable, "-m", "memlint", "--version", cwd=ROOT)
    assert build.guide(shown, []) == f"before\n```console\n$ memlint --version\n{version}```\nafter\n"


def test_readme_lists_every_rule_and_shows_a_finding() -> None:
    readme = text("README.md")
    listed = re.findall(r"^\| \[(MEM\d+)\]\((\S+)\)", readme, re.MULTILINE)
    assert listed == [(rule.code, f"docs/rules/{rule.code}.md") for rule in all_rules()]
    assert re.search(r"^\$ memlint check .*\nMEM101 \[\*\] ", readme, re.MULTILINE)


@pytest.mark.parametrize("guide", GUIDES, ids=lambda guide: str(guide.relative_to(ROOT)))
def test_links_within_the_repository_lead_somewhere(guide: Path) -> None:
    for target in re.findall(r"\]\((?!https?://)([^)#]+)[^)]*\)", guide.read_text(encoding="utf-8")):
        assert (guide.parent / target).exists(), target


def test_questions_that_the_architecture_names_can_be_asked() -> None:
    rows = re.findall(r"^\| `(\w+)` \| .* \| (.*) \|$", text("docs/architecture.md"), re.MULTILINE)
    assert rows
    for module, questions in rows:
        answering = importlib.import_module(f"memlint.model.{module}")
        for question in re.findall(r"`(\w+)`", questions):
            assert callable(getattr(answering, question)), f"{module}.{question}"


def test_every_key_of_the_configuration_is_explained() -> None:
    explained = re.findall(r"^### `([a-z-]+)`$", text("docs/configuration.md"), re.MULTILINE)
    assert sorted(explained) == sorted(KEYS)


def test_rule_of_the_contributors_guide_works_as_one_new_file(tmp_path: Path) -> None:
    guide = text("CONTRIBUTING.md")
    blocks = re.findall(r"^```python\n(.*?)^```$", guide, re.MULTILINE | re.DOTALL)
    rule = next(block for block in blocks if "(Rule):" in block)
    name, code = (re.findall(rf'^    {field} = "(.*)"$', rule, re.MULTILINE)[0] for field in ("name", "code"))
    file = re.findall(r"This is a complete rule, `rules/(\S+)`", guide)[0]
    assert Path(file).stem == name.replace("-", "_")
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "memlint", tmp_path / "memlint", ignore=ignored)
    for folder in ("rules", "fixers"):
        shutil.copytree(ROOT / folder, tmp_path / "memlint" / folder, ignore=ignored)
    shutil.copytree(ROOT / "tests", tmp_path / "tests", ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "memlint" / "rules" / file).write_text(rule, encoding="utf-8")
    tests = (sys.executable, "-m", "pytest", "tests/rules", "-q", "-k", code)
    assert re.search(r"\d+ passed", output(*tests, cwd=tmp_path))
    assert f"{code}-positive-1" in run(*tests, "--collect-only", cwd=tmp_path).stdout
