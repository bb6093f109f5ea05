from __future__ import annotations

import codecs
import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import libcst
import libcst.matchers as m
import pytest

from memlint.check.engine import check_data
from memlint.check.results import FileResult
from memlint.check.suppression import UnusedNoqa
from memlint.config import Settings
from memlint.findings import Applicability, Confidence, Finding, Fix, Severity
from memlint.fixing import MAX_PASSES, FixOutcome, fix_data, unified_diff
from memlint.model.program import Program
from memlint.model.project import Project
from memlint.rule import Rule
from memlint.writing import WriteError, write_atomically

SAFE, UNSAFE, DISPLAY = Applicability.SAFE, Applicability.UNSAFE, Applicability.DISPLAY
Fixes = Callable[[libcst.Call, libcst.Module], tuple[Fix, ...]]


class CallRule(Rule):
    """Finds the calls of one function that lack an argument."""

    severity = Severity.ERROR
    gate = frozenset()
    positive = ()
    negative = ()

    def __init__(self, function: str, code: str, fixes: Fixes, argument: str = "ok") -> None:
        self.function = function
        self.argument = argument
        self.code = code  # type: ignore[misc]
        self.name = function  # type: ignore[misc]
        self.fixes = fixes

    def check(self, program: Program) -> Iterator[Finding]:
        for call in m.findall(program.tree, m.Call(m.Name(self.function))):
            assert isinstance(call, libcst.Call)
            if not any(m.matches(arg, m.Arg(m.Name(self.argument))) for arg in call.args):
                fixes = self.fixes(call, program.tree)
                yield self.finding(call, self.function, holds="", confidence=Confidence.CERTAIN, fixes=fixes)


def fix(fixer: str, applicability: Applicability = SAFE, /, **options: str) -> Fixes:
    """A fix of the call that is found, with these options; ``import_`` stands for ``import``."""
    target = {"add_argument": "call", "replace_expression": "expression"}.get(fixer, "statement")
    texts = {name.rstrip("_"): text for name, text in options.items()}
    return lambda call, _: (Fix(fixer, "message", applicability, {target: call}, texts),)


def accept(code: str, function: str, applicability: Applicability = SAFE, argument: str = "ok") -> CallRule:
    """A rule whose fix adds the argument."""
    return CallRule(function, code, fix("add_argument", applicability, code=argument), argument)


def unfixable(code: str, function: str) -> CallRule:
    """A rule that has no fix."""
    return CallRule(function, code, lambda *_: ())


def run(text: str | bytes, *rules: Rule, unsafe: bool = False, path: str = "/project/x.py") -> FixOutcome:
    data = text.encode() if isinstance(text, str) else text

    def check(data: bytes) -> FileResult:
        project = Project(Path("/project"))
        return check_data(Path(path), data, [*rules, UnusedNoqa()], project, Settings(Path("/project")))

    return fix_data(Path(path), data, check, unsafe)


# Which fixes are applied


def test_a_safe_fix_is_applied() -> None:
    outcome = run("a(1)\nb(2)\n", accept("MEM901", "a"))
    assert outcome.data == b"a(1, ok)\nb(2)\n"
    assert [each.code for each in outcome.fixed] == ["MEM901"]
    assert outcome.result.diagnostics == []
    assert (outcome.refused, outcome.passes) == ((), 1)


@pytest.mark.parametrize(
    ("applicability", "unsafe", "applied"),
    [(UNSAFE, False, False), (UNSAFE, True, True), (DISPLAY, False, False), (DISPLAY, True, False), (SAFE, True, True)],
)
def test_applicability_is_respected(applicability: Applicability, unsafe: bool, applied: bool) -> None:
    outcome = run("a()\n", accept("MEM901", "a", applicability), unsafe=unsafe)
    assert outcome.data == (b"a(ok)\n" if applied else b"a()\n")
    assert len(outcome.fixed) == applied
    assert len(outcome.result.diagnostics) == 1 - applied


@pytest.mark.parametrize(("unsafe", "after"), [(False, b"a(ok)\n"), (True, b"b()\n")])
def test_the_first_fix_that_is_allowed_is_applied(unsafe: bool, after: bytes) -> None:
    first, second = fix("replace_expression", UNSAFE, code="b()"), fix("add_argument", code="ok")
    rule = CallRule("a", "MEM901", lambda call, tree: (*first(call, tree), *second(call, tree)))
    assert run("a()\n", rule, unsafe=unsafe).data == after


def test_what_noqa_silences_is_not_fixed() -> None:
    text = "a()  # noqa: MEM901\na()  # noqa\na()\n"
    assert run(text, accept("MEM901", "a")).data.decode() == text[:-4] + "a(ok)\n"


def test_a_fixed_file_stays_as_it_is() -> None:
    rules = accept("MEM901", "a"), accept("MEM902", "b")
    once = run("a(b())\nb()\n", *rules)
    again = run(once.data, *rules)
    assert (again.data, again.passes) == (once.data, 0)


# Passes


def test_fixes_that_touch_are_applied_in_passes() -> None:
    outcome = run("a()\n", accept("MEM901", "a", argument="x"), accept("MEM902", "a", argument="y"))
    assert outcome.data == b"a(x, y)\n"
    assert outcome.passes == 2
    assert [each.code for each in outcome.fixed] == ["MEM901", "MEM902"]


def test_a_fix_is_applied_whole_or_not_at_all() -> None:
    # The imports of the two fixes collide, so the second one's other edit waits as well.
    rules = [
        CallRule(name, f"MEM90{n}", fix("replace_expression", code="t.f()", import_="t")) for n, name in enumerate("ab")
    ]
    outcome = run("x = a()\ny = b()\n", *rules)
    assert outcome.data == b"import t\n\nx = t.f()\ny = t.f()\n"
    assert outcome.passes == 2


def test_passes_end() -> None:
    outcome = run("a()\n", *(accept(f"MEM9{n:02}", "a", argument=f"x{n}") for n in range(MAX_PASSES + 2)))
    assert outcome.passes == MAX_PASSES
    assert len(outcome.fixed) == MAX_PASSES
    assert [each.code for each in outcome.result.diagnostics] == ["MEM910", "MEM911"]
    assert not outcome.refused


# What is taken back


def test_a_finding_that_stays_takes_its_fix_back() -> None:
    outcome = run("a()\nb()\n", CallRule("a", "MEM901", fix("add_argument", code="no")), accept("MEM902", "b"))
    assert outcome.data == b"a()\nb(ok)\n"
    assert [(each.diagnostic.code, each.reason) for each in outcome.refused] == [
        ("MEM901", "MEM901 would still be reported (row 1)")
    ]
    assert [each.code for each in outcome.result.diagnostics] == ["MEM901"]


def test_a_new_finding_takes_the_fix_back() -> None:
    rules = CallRule("a", "MEM901", fix("replace_expression", code="b()")), accept("MEM902", "b", UNSAFE)
    outcome = run("a()\n", *rules)
    assert outcome.data == b"a()\n"
    assert outcome.refused[0].reason == "MEM902 would be new (row 1): b"


def test_fixes_that_would_undo_each_other_are_taken_back() -> None:
    there = CallRule("a", "MEM901", fix("replace_expression", code="b()"))
    back = CallRule("b", "MEM902", fix("replace_expression", code="a()"))
    assert run("a()\n", there, back).data == b"a()\n"


def test_a_file_that_would_not_parse_takes_the_fix_back() -> None:
    broken = CallRule("a", "MEM901", fix("insert_statement", code="(("))
    outcome = run("a()\nb()\n", broken, accept("MEM902", "b"))
    assert outcome.data == b"a()\nb(ok)\n"
    assert outcome.refused[0].reason == "the fixed file would not parse"


def test_a_fix_that_only_fails_beside_another_is_tried_again_in_the_next_pass() -> None:
    class Together(Rule):
        code, name, severity = "MEM903", "together", Severity.ERROR
        gate, positive, negative = frozenset[str](), (), ()

        def check(self, program: Program) -> Iterator[Finding]:
            if {"p", "q"} <= {
                name.value for name in m.findall(program.tree, m.Name()) if isinstance(name, libcst.Name)
            }:
                yield self.finding(program.tree.body[0], "together", holds="", confidence=Confidence.CERTAIN)

    def fixes(call: libcst.Call, tree: libcst.Module) -> tuple[Fix, ...]:
        return fix("replace_expression", code="r" if tree.code.startswith("p") else "q")(call, tree)

    first = CallRule("a", "MEM901", fix("replace_expression", code="p"))
    outcome = run("a()\nb()\n", first, CallRule("b", "MEM902", fixes), Together())
    assert outcome.data == b"p\nr\n"
    assert outcome.refused == ()


def test_a_fix_without_effect_is_taken_back() -> None:
    outcome = run("a()\n", CallRule("a", "MEM901", fix("replace_expression", code="a()")))
    assert outcome.refused[0].reason == "the fix changes nothing"


def test_a_text_that_the_encoding_lacks_takes_the_fix_back() -> None:
    data = b"# coding: latin-1\na('\xe9')\n"
    outcome = run(data, CallRule("a", "MEM901", fix("replace_expression", code="'ж'")))
    assert outcome.data == data
    assert "cannot express" in outcome.refused[0].reason


def test_a_fix_is_refused_once() -> None:
    useless = CallRule("z", "MEM909", fix("add_argument", code="no"))
    outcome = run("z()\na()\n", useless, *(accept(f"MEM90{n}", "a", argument=f"x{n}") for n in range(3)))
    assert outcome.data == b"z()\na(x0, x1, x2)\n"
    assert [each.diagnostic.code for each in outcome.refused] == ["MEM909"]


def test_of_two_like_findings_the_right_one_is_refused() -> None:
    def fixes(call: libcst.Call, tree: libcst.Module) -> tuple[Fix, ...]:
        return fix("add_argument", code="ok" if call.args else "no")(call, tree)

    outcome = run("a()\na(1)\na()\n", CallRule("a", "MEM901", fixes))
    assert outcome.data == b"a()\na(1, ok)\na()\n"
    assert [each.diagnostic.location.row for each in outcome.refused] == [1, 3]


@pytest.mark.parametrize(
    ("text", "asked", "after"),
    [
        pytest.param("z(); a(); z()\n", {"code": "b"}, "z(); b; z()\n", id="same-row"),
        pytest.param("x = a(z())\n", {"code": "b(z())"}, "x = b(z())\n", id="inside-what-is-replaced"),
        pytest.param("z()\na()\nz()\n", {"code": "t.b", "import": "t"}, "import t\n\nz()\nt.b\nz()\n", id="rows"),
    ],
)
def test_findings_that_move_are_not_new(text: str, asked: Mapping[str, str], after: str) -> None:
    rule = CallRule("a", "MEM901", fix("replace_expression", **asked))
    assert run(text, rule, unfixable("MEM909", "z")).data.decode() == after


class OrderRule(Rule):
    """Finds ``a`` above ``b``."""

    code = "MEM901"
    name = "order"
    severity = Severity.ERROR
    gate = frozenset()
    positive = ()
    negative = ()

    def check(self, program: Program) -> Iterator[Finding]:
        a, b = (next(iter(m.findall(program.tree, m.Call(m.Name(name))))) for name in "ab")
        body = program.tree.children
        if [m.matches(each, m.SimpleStatementLine([m.Expr(m.Call(m.Name("a")))])) for each in body] == [True, False]:
            move = Fix("move_statement", "message", SAFE, {"statement": a, "anchor": b}, {})
            yield self.finding(a, "order", holds="", confidence=Confidence.CERTAIN, fixes=(move,))


def test_findings_in_a_moved_statement_are_not_new() -> None:
    assert run("a(z())\nb()\n", OrderRule(), unfixable("MEM909", "z")).data == b"b()\na(z())\n"


def test_a_noqa_that_becomes_idle_is_removed() -> None:
    rule = CallRule("a", "MEM901", fix("replace_expression", code="b"))
    outcome = run("a(z())  # noqa: MEM909\n", rule, unfixable("MEM909", "z"))
    assert outcome.data == b"b\n"
    assert outcome.result.diagnostics == []


# Files that cannot be checked


@pytest.mark.parametrize("data", [b"a(\n", b"a()\xff\n", b"a()\0\n"])
def test_a_file_that_cannot_be_read_stays_as_it_is(data: bytes) -> None:
    outcome = run(data, accept("MEM901", "a"))
    assert outcome.data == data
    assert outcome.result.error is not None


# Bytes


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param(b"a()\r\n\r\na()\n", b"a(ok)\r\n\r\na(ok)\n", id="mixed-newlines"),
        pytest.param(codecs.BOM_UTF8 + b"a()\r\n", codecs.BOM_UTF8 + b"a(ok)\r\n", id="byte-order-mark"),
        pytest.param(b"# coding: latin-1\na('\xe9')\n", b"# coding: latin-1\na('\xe9', ok)\n", id="latin-1"),
        pytest.param(b"\x0ca()\n\x0c\n", b"\x0ca(ok)\n\x0c\n", id="form-feeds"),
        pytest.param(b"a()", b"a(ok)", id="no-final-newline"),
        pytest.param(b"if x:\n\ta()\r\ta()\r", b"if x:\n\ta(ok)\r\ta(ok)\r", id="tabs-and-lone-cr"),
    ],
)
def test_everything_else_in_the_file_stays(before: bytes, after: bytes) -> None:
    assert run(before, accept("MEM901", "a")).data == after


# Notebooks


def notebook(*sources: str) -> bytes:
    cells = [
        {"cell_type": "code", "execution_count": 1, "metadata": {}, "outputs": [1.50], "source": text.splitlines(True)}
        for text in sources
    ]
    return (json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}, indent=1) + "\n").encode()


def test_a_notebook_is_fixed_cell_by_cell() -> None:
    rules = accept("MEM901", "a"), CallRule("b", "MEM902", fix("replace_expression", code="t.f()", import_="t"))
    before = notebook("%time a()\nimport os", "for x in y:\n    !ls\n    a()", "x = b()\na()  # noqa")
    outcome = run(before, *rules, path="/project/x.ipynb")
    after = notebook("%time a()\nimport os\nimport t", "for x in y:\n    !ls\n    a(ok)", "x = t.f()\na()  # noqa")
    assert sorted(each.cell or 0 for each in outcome.fixed) == [2, 3]
    assert outcome.data == after


def test_no_fix_crosses_the_border_of_a_cell() -> None:
    rule = CallRule("a", "MEM901", fix("with_rest_of_block"))
    before = notebook("a()", "b()")
    outcome = run(before, rule, path="/project/x.ipynb")
    assert outcome.data == before
    assert "border" in outcome.refused[0].reason


# Diffs


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param(b"a\nb\n", b"a\nc\n", id="plain"),
        pytest.param(b"a\r\nb\n", b"a\r\nc\n", id="crlf"),
        pytest.param(b"a\nb", b"a\nc", id="no-final-newline"),
        pytest.param(b"a\nb", b"a\nc\n", id="new-final-newline"),
        pytest.param(codecs.BOM_UTF8 + b"a\n", codecs.BOM_UTF8 + b"b\n", id="byte-order-mark"),
        pytest.param(b"# coding: latin-1\n'\xe9'\na\n", b"# coding: latin-1\n'\xe9'\nb\n", id="latin-1"),
        pytest.param(b"a\x0cb\x1cc\rd\n", b"a\x0cb\x1cx\rd\n", id="separators"),
        pytest.param(b"x\n", b"", id="emptied"),
    ],
)
def test_git_applies_the_diff(tmp_path: Path, before: bytes, after: bytes) -> None:
    git_apply(tmp_path, "x.py", before, after)


@pytest.mark.parametrize("name", ["src/deep er/x y.py", "é.py", 'quo"te.py', "tab\t.py", "back\\slash.py"])
def test_git_applies_the_diff_of_a_file_with_an_odd_name(tmp_path: Path, name: str) -> None:
    git_apply(tmp_path, name, b"a\n", b"b\n")


def git_apply(folder: Path, name: str, before: bytes, after: bytes) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(before)
    diff = unified_diff(path, name, before, after)
    subprocess.run(["git", "apply", "--whitespace=nowarn", "-"], input=diff, cwd=folder, check=True)
    assert (path.read_bytes() if path.exists() else b"") == after


def test_no_change_has_no_diff() -> None:
    assert unified_diff(Path("x.py"), "x.py", b"a\n", b"a\n") == b""


def test_the_diff_of_a_notebook_shows_its_cells() -> None:
    diff = unified_diff(Path("x.ipynb"), "x.ipynb", notebook("a", "%time b\nc"), notebook("a", "%time b\nd")).decode()
    assert diff.splitlines() == [
        "--- x.ipynb:cell 2",
        "+++ x.ipynb:cell 2",
        "@@ -1,2 +1,2 @@",
        " %time b",
        "-c",
        "\\ No newline at end of file",
        "+d",
        "\\ No newline at end of file",
    ]


# Writing


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "x.py"
    path.write_bytes(b"old\n")
    return path


def test_writes(file: Path) -> None:
    file.chmod(0o751)
    write_atomically(file, b"new\n", expected=b"old\n")
    assert file.read_bytes() == b"new\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o751
    assert list(file.parent.iterdir()) == [file]


def test_a_link_stays_a_link(file: Path, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    link = tmp_path / "folder" / "link.py"
    link.symlink_to(Path("..") / "x.py")
    write_atomically(link, b"new\n")
    assert link.is_symlink()
    assert file.read_bytes() == b"new\n"


def test_a_read_only_file_is_not_written(file: Path) -> None:
    file.chmod(0o444)
    with pytest.raises(WriteError, match=r"x\.py: is read-only and was not changed$"):
        write_atomically(file, b"new\n")
    assert file.read_bytes() == b"old\n"


def test_a_file_that_has_changed_is_not_overwritten(file: Path) -> None:
    with pytest.raises(WriteError, match="has changed since it was read"):
        write_atomically(file, b"new\n", expected=b"older\n")
    assert file.read_bytes() == b"old\n"
    assert list(file.parent.iterdir()) == [file]


def test_a_file_that_has_vanished_is_not_made_again(tmp_path: Path) -> None:
    with pytest.raises(WriteError, match=r"x\.py: cannot be written: No such file"):
        write_atomically(tmp_path / "x.py", b"new\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="needs limits on the size of files")
def test_a_full_disk_leaves_the_old_file(file: Path) -> None:
    program = (
        "import resource, signal, sys\nfrom pathlib import Path\n"
        "from memlint.writing import WriteError, write_atomically\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try:\n    write_atomically(Path(sys.argv[1]), bytes(5000))\n"
        "except WriteError as error:\n    print(error)\n"
    )
    shown = subprocess.run([sys.executable, "-c", program, file], capture_output=True, text=True, check=True).stdout
    assert shown == f"{file}: cannot be written: File too large\n"
    assert file.read_bytes() == b"old\n"
    assert list(file.parent.iterdir()) == [file]


def test_an_interrupt_leaves_the_old_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(file, b"new\n")
    assert file.read_bytes() == b"old\n"
    assert list(file.parent.iterdir()) == [file]
