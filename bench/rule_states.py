"""Prints the state of every rule: default, severity, fixes, claim, evidence for it, page.

    python bench/rule_states.py [--catalogue FILE]

What a rule does is taken from the findings on its own positive examples; the scenarios of ``tests/scenarios`` say in
their comments which claims a run confirms or refutes. ``--catalogue`` names a text with codes (``MEM101``): those that
no rule has are listed as not built.
"""

from __future__ import annotations

import argparse
import re
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from memlint.check.engine import check_data
from memlint.config import Selection, Settings
from memlint.diagnostics import Diagnostic
from memlint.findings import Confidence
from memlint.model.project import Project
from memlint.registry import DOCUMENTATION, all_rules
from memlint.rule import Rule

ROOT = Path(__file__).resolve().parents[1]
SCENARIOS = ROOT / "tests" / "scenarios"
_CODE = re.compile(r"\bMEM[1-9]\d\d\b")
_VERDICT = re.compile(r"\b(CONFIRMED|REFUTED) (MEM\d+)(.*)")
_COLUMNS = ("code", "name", "default", "severity", "fixes", "claim", "evidence", "page")


def examples_of(rule: Rule, folder: Path) -> Iterator[Diagnostic]:
    """The findings of ``rule`` on its own positive examples."""
    for number, text in enumerate(rule.positive):
        path = folder / f"{rule.code.lower()}_{number}.py"
        path.write_text(text, encoding="utf-8")
        settings = Settings(folder, selections=(Selection(select=(rule.code,)),))
        found = check_data(
            path, path.read_bytes(), [rule], Project(folder, (path,)), settings, least=Confidence.POSSIBLE
        )
        yield from (each for each in found.diagnostics if each.code == rule.code)


def scenarios() -> Mapping[str, Mapping[str, set[str]]]:
    """The scripts that confirm or refute each code, and those that do so with a number of bytes."""
    found: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for path in sorted([*SCENARIOS.glob("*.py"), *SCENARIOS.glob("*/*.py")]):
        name = path.stem if path.parent == SCENARIOS else path.parent.name
        for line in path.read_text(encoding="utf-8").splitlines():
            for part in line.partition("#")[2].split(";"):
                match = _VERDICT.search(part)
                if match is not None:
                    found[match[2]][match[1]].add(name)
                    if re.search(r"\d", match[3]) or "NODE" in match[3]:
                        found[match[2]]["bytes"].add(name)
    return found


def fixes(found: Iterable[Diagnostic]) -> str:
    """How far the fixes that are offered may be applied."""
    return ", ".join(sorted({fix.applicability.value for each in found for fix in each.fixes})) or "none"


def claims(found: Iterable[Diagnostic]) -> str:
    """What a run has to see, in whose memory, and how much."""
    told = {(each.claim.shape, each.claim.memory, each.claim.size) for each in found if each.claim is not None}
    return "; ".join(f"{shape} {memory} {size}".strip() for shape, memory, size in sorted(told)) or "none"


def evidence(found: Sequence[Diagnostic], pairs: Mapping[str, set[str]]) -> str:
    """The scenarios that try the claim, or why no run can show it."""
    if pairs.get("CONFIRMED"):
        names = ", ".join(sorted(name.removesuffix("_hazard") for name in pairs["CONFIRMED"]))
        how = "" if pairs.get("bytes") else ", no bytes"
        twin = "" if pairs.get("REFUTED") else ", no twin"
        return f"{names}{how}{twin}"
    reasons = {each.claim.unobservable for each in found if each.claim is not None and each.claim.unobservable}
    return f"none: {'; '.join(sorted(reasons))}" if reasons else "none"


def row(rule: Rule, folder: Path, pairs: Mapping[str, set[str]]) -> tuple[str, ...]:
    """The state of one rule."""
    found = list(examples_of(rule, folder))
    severities = ", ".join(sorted({each.severity.value for each in found})) or rule.severity.value
    page = Path(DOCUMENTATION, f"{rule.code}.md")
    return (
        rule.code,
        rule.name,
        "on" if rule.default else "off",
        severities,
        fixes(found),
        claims(found),
        evidence(found, pairs),
        page.as_posix() if (ROOT / page).exists() else "missing",
    )


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Prints the state of every rule.")
    parser.add_argument("--catalogue", type=Path, help="a text with the codes of rules that are wanted")
    options = parser.parse_args()
    rules = [rule for rule in all_rules() if _CODE.fullmatch(rule.code)]
    pairs = scenarios()
    print(f"| {' | '.join(_COLUMNS)} |\n|{'---|' * len(_COLUMNS)}")
    with tempfile.TemporaryDirectory(prefix="memlint-rules-") as temporary:
        folder = Path(temporary).resolve()
        for rule in rules:
            print(f"| {' | '.join(row(rule, folder, pairs.get(rule.code, {})))} |")
    built = {rule.code for rule in rules}
    wanted = set(_CODE.findall(options.catalogue.read_text(encoding="utf-8"))) if options.catalogue else set()
    off = sum(not rule.default for rule in rules)
    confirmed = sum("CONFIRMED" in pairs.get(code, {}) for code in built)
    sized = sum("bytes" in pairs.get(code, {}) for code in built)
    print(f"\n{len(built)} rules, {off} of them off by default; a run confirms {confirmed}, {sized} with bytes")
    if options.catalogue:
        print(f"wanted and not built: {', '.join(sorted(wanted - built)) or 'none'}")
        print(f"built and not wanted: {', '.join(sorted(built - wanted)) or 'none'}")


if __name__ == "__main__":
    main()
