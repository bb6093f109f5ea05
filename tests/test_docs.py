"""The documentation is true: built pages are up to date, commands print what is shown, links lead somewhere."""

from __future__ import annotations

import doctest
import importlib.util
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest

from memlint.config import KEYS
from memlint.registry import all_rules
from tests.e2e.programs import ROOT, output, run

GUIDES = sorted(path for path in (ROOT, ROOT / "docs") for path in path.glob("*.md"))


def text(name: str) -> str:
    """The content of a documentation file."""
    return (ROOT / name).read_text(encoding="utf-8")


def fenced(document: str, language: str) -> list[str]:
    """The code blocks in ``language``."""
    return re.findall(rf"^```{language}\n(.*?)^```$", document, re.MULTILINE | re.DOTALL)


class Session(NamedTuple):
    """A command that a guide shows with what it prints."""

    guide: str
    command: str
    printed: str

    def __str__(self) -> str:
        return f"{self.guide}: {self.command}"


def sessions() -> Iterator[Session]:
    """The commands in the ``console`` blocks of all guides."""
    for guide in GUIDES:
        for block in fenced(guide.read_text(encoding="utf-8"), "console"):
            for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
                command, _, printed = part.partition("\n")
                yield Session(guide.relative_to(ROOT).as_posix(), command, printed)


def build() -> ModuleType:
    """The script that builds pages from rules."""
    spec = importlib.util.spec_from_file_location("docs_build", ROOT / "docs" / "build.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_pages_of_rules_are_up_to_date() -> None:
    output(sys.executable, "docs/build.py", "--check", cwd=ROOT)


def test_outdated_pages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    docs = build()
    monkeypatch.setattr(docs, "ROOT", tmp_path)
    (tmp_path / "README.md").write_text("<!-- rules -->\n<!-- end of rules -->\n", encoding="utf-8")
    files = docs.built(all_rules(), text("README.md"))
    docs.write(files)
    assert docs.outdated(files) == []
    (tmp_path / docs.INDEX).write_text("", encoding="utf-8")
    (tmp_path / docs.INDEX).with_name("MEM000.md").write_text("", encoding="utf-8")
    assert docs.outdated(files) == [docs.INDEX, docs.INDEX.with_name("MEM000.md")]


def test_readme_lists_every_rule() -> None:
    listed = re.findall(r"^\| \[(MEM\d+)\]\((\S+)\)", text("README.md"), re.MULTILINE)
    assert listed == [(rule.code, f"docs/rules/{rule.code}.md") for rule in all_rules()]


@pytest.mark.parametrize("session", list(sessions()), ids=str)
def test_commands_print_what_is_shown(session: Session, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "examples", tmp_path / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    program, *arguments = shlex.split(session.command)
    assert program == "memlint"
    process = run(sys.executable, "-m", "memlint", *arguments, cwd=tmp_path, COLUMNS="120")
    printed = (process.stdout + process.stderr).rstrip() + "\n"
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    assert doctest.OutputChecker().check_output(session.printed, printed, flags), printed


@pytest.mark.parametrize("guide", GUIDES, ids=lambda guide: str(guide.relative_to(ROOT)))
def test_links_within_the_repository_lead_somewhere(guide: Path) -> None:
    for target in re.findall(r"\]\((?!https?://)([^)#]+)[^)]*\)", guide.read_text(encoding="utf-8")):
        assert (guide.parent / target).exists(), target


def test_every_key_of_the_configuration_is_explained() -> None:
    explained = re.findall(r"^### `([a-z-]+)`$", text("docs/configuration.md"), re.MULTILINE)
    assert sorted(explained) == sorted(KEYS)


def test_rule_of_the_contributors_guide_works_as_one_new_file(tmp_path: Path) -> None:
    guide = text("CONTRIBUTING.md")
    rule = next(block for block in fenced(guide, "python") if "(Rule):" in block)
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
    printed = output(sys.executable, "-m", "pytest", "tests/rules", "-q", "-k", code, cwd=tmp_path)
    assert re.search(r"\d+ passed", printed)
    assert (
        f"{code}-positive-1"
        in run(sys.executable, "-m", "pytest", "tests/rules", "-q", "-k", code, "--collect-only", cwd=tmp_path).stdout
    )
