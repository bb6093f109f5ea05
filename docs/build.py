"""Writes into the documentation what the product says: the pages of the rules, their table, the output of commands.

``python docs/build.py`` writes; ``python docs/build.py --check`` names the files that are out of date and fails. What a
command such as ``$ memlint check examples/`` prints in a ``console`` block of a guide is printed anew.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from memlint.commands.rule import page
from memlint.registry import DOCUMENTATION, all_rules
from memlint.rule import Rule

ROOT = Path(__file__).resolve().parents[1]
GUIDES = sorted(path.relative_to(ROOT) for folder in (ROOT, ROOT / "docs") for path in folder.glob("*.md"))
INDEX = Path(DOCUMENTATION, "README.md")
_TABLE = re.compile(r"(?<=<!-- rules -->\n).*?(?=<!-- end of rules -->)", re.DOTALL)
_SESSION = re.compile(r"(?<=^```console\n)\$ (memlint .*)\n(?:.*\n)*?(?=^```$)", re.MULTILINE)


def table(rules: Iterable[Rule], folder: str) -> str:
    """One row a rule; the codes link to the pages in ``folder``."""
    rows = (
        f"| [{rule.code}]({folder}{rule.code}.md) | {rule.name} | {summary(rule)} | {fix_safety(rule)} |\n"
        for rule in rules
    )
    return "| code | name | summary | fix |\n|---|---|---|---|\n" + "".join(rows)


def fix_safety(rule: Rule) -> str:
    """The kinds of fixes that a rule's page speaks of: safe, unsafe, both, or none."""
    section = rule.documentation().partition("## Fix safety")[2].partition("\n## ")[0].lower()
    return ", ".join(kind for kind in ("safe", "unsafe") if re.search(rf"\b{kind}\b", section)) or "none"


def summary(rule: Rule) -> str:
    """The first sentence of a rule's page, without its full stop."""
    return " ".join(rule.documentation().partition("\n\n")[0].split()).removesuffix(".")


def index(rules: Iterable[Rule]) -> str:
    """The list of all pages."""
    origin = "These pages are the docstrings of the rules' classes; `memlint rule CODE` prints them in a terminal."
    return f"# Rules\n\n{origin}\n\n{table(rules, '')}"


def guide(text: str, rules: Iterable[Rule]) -> str:
    """A guide with the table of the rules and the output of its commands as they are now."""
    with_table = _TABLE.sub(lambda _: table(rules, f"{DOCUMENTATION}/"), text)
    return _SESSION.sub(lambda found: f"$ {found[1]}\n{printed(found[1])}\n", with_table)


def printed(command: str) -> str:
    """What a ``memlint`` command prints in the root of the repository."""
    run = subprocess.run(
        [sys.executable, "-m", *shlex.split(command)],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "120", "NO_COLOR": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        check=False,
    )
    return run.stdout.rstrip()


def built(rules: Iterable[Rule]) -> dict[Path, str]:
    """What each built file must hold, by its path relative to the repository."""
    rules = list(rules)
    pages = {Path(DOCUMENTATION, f"{rule.code}.md"): page(rule) for rule in rules}
    guides = {path: guide((ROOT / path).read_text(encoding="utf-8"), rules) for path in GUIDES}
    return {**pages, INDEX: index(rules), **guides}


def outdated(files: Mapping[Path, str]) -> list[Path]:
    """The files that hold something else, and the pages that belong to no rule."""
    changed = [path for path, content in files.items() if _content(path) != content]
    pages = (path.relative_to(ROOT) for path in (ROOT / DOCUMENTATION).glob("*.md"))
    return [*changed, *(path for path in pages if path not in files)]


def write(files: Mapping[Path, str]) -> None:
    """Writes the files and removes the pages that belong to no rule."""
    for path in outdated(files):
        if path not in files:
            (ROOT / path).unlink()
            continue
        (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / path).write_text(files[path], encoding="utf-8")


def _content(path: Path) -> str | None:
    return (ROOT / path).read_text(encoding="utf-8") if (ROOT / path).exists() else None


def main() -> None:
    """Writes or checks."""
    parser = argparse.ArgumentParser(description="Builds what the documentation takes from the product.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a file is out of date")
    files = built(all_rules())
    if parser.parse_args().check:
        stale = outdated(files)
        if stale:
            sys.exit(f"out of date, run python docs/build.py: {', '.join(map(str, stale))}")
        return
    write(files)


if __name__ == "__main__":
    main()
