"""Writes what the rules say about themselves into the documentation: docs/rules/ and the table of rules in README.md.

``python docs/build.py`` writes; ``python docs/build.py --check`` names the files that are out of date and fails.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from memlint.commands.rule import page
from memlint.registry import DOCUMENTATION, all_rules
from memlint.rule import Rule

ROOT = Path(__file__).resolve().parents[1]
README = Path("README.md")
INDEX = Path(DOCUMENTATION, "README.md")
_TABLE = re.compile(r"(?<=<!-- rules -->\n).*?(?=<!-- end of rules -->)", re.DOTALL)


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


def built(rules: Iterable[Rule], readme: str) -> dict[Path, str]:
    """What each built file must hold, by its path relative to the repository."""
    rules = list(rules)
    pages = {Path(DOCUMENTATION, f"{rule.code}.md"): page(rule) for rule in rules}
    with_table = _TABLE.sub(lambda _: table(rules, f"{DOCUMENTATION}/"), readme)
    return {**pages, INDEX: index(rules), README: with_table}


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
    parser = argparse.ArgumentParser(description="Builds the pages of the rules.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a file is out of date")
    files = built(all_rules(), (ROOT / README).read_text(encoding="utf-8"))
    if parser.parse_args().check:
        stale = outdated(files)
        if stale:
            sys.exit(f"out of date, run python docs/build.py: {', '.join(map(str, stale))}")
        return
    write(files)


if __name__ == "__main__":
    main()
