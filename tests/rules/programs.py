"""Small programs that say in comments what must be found in them, and what is found there.

A line ends in ``# MEM101`` if MEM101 must be reported there, in ``# MEM101: 9`` to demand the 1-based column as well,
in ``# MEM101?`` if it must be found, but only as possible, so that ``memlint check`` does not report it. Several
expectations stand side by side: ``# MEM101: 9 MEM102: 21``.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from memlint.check.engine import check_data
from memlint.check.results import FileResult
from memlint.config import Selection, Settings
from memlint.findings import Confidence, Finding
from memlint.fixing import FixOutcome, fix_data
from memlint.model.project import Project
from memlint.registry import all_rules
from memlint.rule import Rule

FIXTURES = Path(__file__).parents[1] / "fixtures"
_EXPECTATION = re.compile(r"(MEM\d{3})(\?)?(?::[ ]?(\d+))?(?=\s|$)")
_EXPECTATIONS = re.compile(rf"#[ ]*((?:{_EXPECTATION.pattern}[ ]*)+)$")
_ANSWERS = (".fixed.py", ".unsafe.py")


@dataclass(frozen=True, order=True)
class Expected:
    """What a comment demands; column 0 stands for any."""

    row: int
    code: str
    possible: bool
    column: int


@dataclass(frozen=True)
class Example:
    """A program: the text that stands (or would stand) at ``path``, in the project of ``files`` below ``root``.

    ``code`` is the rule that it is about; None for all rules.
    """

    name: str
    code: str | None
    path: Path
    text: str
    root: Path
    files: tuple[Path, ...]

    def __str__(self) -> str:
        return self.name

    @property
    def expected(self) -> Counter[Expected]:
        """What the comments demand."""
        return Counter(each for each in _expectations(self.text) if self.code in {None, each.code})

    def found(self) -> Counter[Expected]:
        """What is found, in the words of the comments: with the columns that they demand, without the others."""
        result = self.check(rules_of(self.code), least=Confidence.POSSIBLE)
        assert result.error is None, result.error
        demanded = {(each.row, each.code) for each in self.expected if each.column}
        wanted_possible = {(each.row, each.code) for each in self.expected if each.possible}
        found: Counter[Expected] = Counter()
        for each in result.diagnostics:
            row, possible = each.location.row, each.confidence is Confidence.POSSIBLE
            if not possible or (row, each.code) in wanted_possible:
                column = each.location.column if (row, each.code) in demanded else 0
                found[Expected(row, each.code, possible, column)] += 1
        return found

    def check(
        self, rules: Sequence[Rule], least: Confidence = Confidence.LIKELY, data: bytes | None = None
    ) -> FileResult:
        """What ``rules`` find in the program, or in ``data`` in its place."""
        settings = Settings(self.root, selections=(Selection(select=("ALL",)),))
        data = self.text.encode() if data is None else data
        return check_data(self.path, data, rules, Project(self.root, self.files), settings, least=least, noqa=False)

    def findings(self, rule: Rule) -> list[Finding]:
        """What ``rule`` says about the program."""
        return list(rule.check(Project(self.root, self.files).program(self.path, self.text)))

    def answer(self, *, unsafe: bool) -> Path:
        """The file that holds what all fixes, or the safe ones, should make of the program, if it is there."""
        return self.path.with_suffix(".unsafe.py" if unsafe else ".fixed.py")

    def fixed(self, *, unsafe: bool, data: bytes | None = None) -> FixOutcome:
        """The program after the fixes of the rules that it is about."""
        rules = rules_of(self.code)
        data = self.text.encode() if data is None else data
        return fix_data(self.path, data, lambda fixed: self.check(rules, data=fixed), unsafe)


def _expectations(text: str) -> Iterator[Expected]:
    for row, line in enumerate(text.splitlines(), 1):
        comment = _EXPECTATIONS.search(line)
        for each in _EXPECTATION.finditer(comment[1]) if comment else ():
            yield Expected(row, each[1], bool(each[2]), int(each[3] or 0))


@cache
def rules_of(code: str | None) -> tuple[Rule, ...]:
    """The rule with this code; all rules if it is None."""
    return tuple(rule for rule in all_rules() if code in {None, rule.code})


def analysing_rules() -> tuple[Rule, ...]:
    """The rules in ``rules/``, without those of the engine itself."""
    return tuple(rule for rule in all_rules() if type(rule).__module__.startswith("memlint.rules."))


def own_examples(rule: Rule) -> Iterator[Example]:
    """The programs that ``rule`` carries as its proof."""
    root = FIXTURES / rule.code
    for kind, texts in (("positive", rule.positive), ("negative", rule.negative)):
        for number, text in enumerate(texts, 1):
            name = f"{rule.code}-{kind}-{number}"
            yield Example(name, rule.code, root / f"{name}.py", text, root, ())


def fixtures() -> Iterator[Example]:
    """The programs below ``tests/fixtures``: a folder in the folder of a rule is a project, a file there stands alone.

    A folder that is not named after a rule is about all rules.
    """
    for family in sorted(path for path in FIXTURES.glob("*") if path.is_dir()):
        code = family.name if re.fullmatch(r"MEM\d{3}", family.name) else None
        for entry in sorted(family.iterdir()):
            files = tuple(sorted(entry.rglob("*.py"))) if entry.is_dir() else (entry,)
            root = entry if entry.is_dir() else family
            files = tuple(path for path in files if path.suffix == ".py" and not path.name.endswith(_ANSWERS))
            for path in files:
                name = path.relative_to(FIXTURES).with_suffix("").as_posix()
                yield Example(name, code, path, path.read_bytes().decode(), root, files)
