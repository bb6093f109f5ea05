from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from memlint.check.results import FileResult
from memlint.check.suppression import with_noqa
from memlint.diagnostics import Diagnostic
from memlint.edits import Replacement, applied
from memlint.source import Source
from tests.check.tiny import check, found


def codes(text: str, **options: Any) -> list[str]:
    return [code for *_, code in found(check(text, **options))]


def fixed(text: str) -> str:
    """``text`` with the fixes of its idle noqa comments."""
    source = Source.decode(text.encode())
    edits = [edit for each in idle(check(text)) if each.fix for edit in each.fix.edits]
    return applied(
        text,
        (Replacement(source.offset(edit.location), source.offset(edit.end_location), edit.content) for edit in edits),
    )


def idle(result: FileResult) -> list[Diagnostic]:
    return [each for each in result.diagnostics if each.code == "MEM001"]


# What a comment silences

SILENT = [
    "hazard()  # noqa",
    "hazard()  # NOQA",
    "hazard()  # noqa: MEM901",
    "hazard()  # noqa:MEM901",
    "hazard()  # noqa: E501,MEM901",
    "hazard()  # noqa: E501, MEM901",
    "hazard()  # noqa: E501 MEM901",
    "hazard()  # noqa: MEM",
    "hazard()  # noqa: MEM9",
    "hazard()  # noqa: MEM901 because it is small",
    "hazard()  # noqa because it is small",
    "hazard()  # type: ignore # noqa: MEM901",
    "hazard()  # noqa : MEM911",
    "hazard()# noqa",
]
LOUD = [
    "hazard()",
    "hazard()  #noqa",
    "hazard()  # no qa",
    "hazard()  # noqa: E501",
    "hazard()  # noqa: MEM911",
    "hazard()  # noqa: MEM9011",
    "hazard()  # noqa: mem901",
]
ROWS = [*SILENT, *LOUD]


@pytest.mark.parametrize("row", SILENT)
def test_a_noqa_comment_silences_its_row(row: str) -> None:
    assert "MEM901" not in codes(f"{row}\n")


@pytest.mark.parametrize("row", LOUD)
def test_other_comments_silence_nothing(row: str) -> None:
    assert "MEM901" in codes(f"{row}\n")


def test_flake8_agrees(tmp_path: Path) -> None:
    """Where a comment does not silence it, flake8 reports F821: ``hazard`` is an undefined name."""
    text = "\n".join(ROWS)
    for ours, theirs in {"MEM90": "F82", "mem90": "f82", "MEM9": "F8", "MEM": "F"}.items():
        text = text.replace(ours, theirs)
    (tmp_path / "x.py").write_text(text)
    command = [sys.executable, "-m", "flake8", "--isolated", "--select=F821", "--format=%(row)d", "x.py"]
    process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert [ROWS[int(row) - 1] for row in process.stdout.split()] == LOUD, process.stderr


@pytest.mark.parametrize(
    "text",
    [
        'x = hazard("""\n""")  # noqa\n',
        'x = """\n""", hazard()  # noqa\n',
        "x = 1 + \\\n    hazard()  # noqa\n",
        "x = hazard() + \\\n    1  # noqa\n",
        'x = hazard() + """\n""" + """\n"""  # noqa\n',
    ],
)
def test_a_comment_speaks_for_all_rows_that_a_string_or_a_backslash_joins(text: str) -> None:
    assert codes(text) == []


@pytest.mark.parametrize(
    "text",
    [
        "hazard(\n    1,\n)  # noqa\n",
        "hazard()\n# noqa\n",
        "# noqa\nhazard()\n",
        'hazard("# noqa")\n',
        'x = """\n# noqa\n"""; hazard()\n',
        "hazard(  # ok\n)  # noqa\n",
    ],
)
def test_a_comment_does_not_speak_for_other_rows_and_a_string_is_no_comment(text: str) -> None:
    assert codes(text) == ["MEM901"]


def test_hosts_that_know_noqa_themselves_get_everything() -> None:
    assert found(check("hazard()  # noqa: MEM901\nx = 1  # noqa: MEM901\n", noqa=False)) == [(1, 1, "MEM901")]


@pytest.mark.parametrize(
    "text",
    [
        "# memlint: skip-file\nhazard()\n",
        "hazard()\n#memlint:skip-file\n",
        "hazard()  # memlint: skip-file (generated)\n",
        "# memlint: skip-file\nprint 'Python 2', hazard\n",
    ],
)
def test_a_file_can_be_skipped(text: str) -> None:
    assert check(text, named=True) == check("")


@pytest.mark.parametrize("text", ['"""# memlint: skip-file"""\n', "# memlint: skip-files\n", "# memlint skip-file\n"])
def test_a_file_is_not_skipped_by_accident(text: str) -> None:
    assert codes(f"{text}hazard()\n") == ["MEM901"]


# Comments that silence nothing


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("x = 1  # noqa: MEM901\n", "x = 1\n"),
        ("x = 1# noqa:MEM901\n", "x = 1\n"),
        ("x = 1  # noqa: MEM901, E501\n", "x = 1  # noqa: E501\n"),
        ("x = 1  # noqa: E501,MEM901\n", "x = 1  # noqa: E501\n"),
        ("x = 1  # noqa: MEM901, MEM911\n", "x = 1\n"),
        ("hazard()  # noqa: MEM911,MEM901\n", "hazard()  # noqa: MEM901\n"),
        ("x = 1  # noqa: MEM901 it is small\n", "x = 1  # it is small\n"),
        ("x = 1  # noqa: MEM901, E501 it is small\n", "x = 1  # noqa: E501 it is small\n"),
        ("x = 1  # one  # noqa: MEM901\n", "x = 1  # one\n"),
        ("x = 1  # one # noqa: MEM901 # two\n", "x = 1  # one  # two\n"),
        ("x = 1\n# noqa: MEM901\ny = 1\n", "x = 1\ny = 1\n"),
        ("if x:\n    # noqa: MEM901\n    y = 1\n", "if x:\n    y = 1\n"),
        ("x = 'é𝄞'  # noqa: MEM901\r\ny = 1\r\n", "x = 'é𝄞'\r\ny = 1\r\n"),
        ("hazard(\n    1,\n)  # noqa: MEM901\n", "hazard(\n    1,\n)\n"),
        ("x = 1  # noqa: MEM9\n", "x = 1  # noqa: MEM9\n"),
    ],
)
def test_codes_that_silence_nothing_are_reported_and_removed(before: str, after: str) -> None:
    if "MEM9\n" in before:
        assert idle(check(before)) == [], "not all rules that it means are on"
    else:
        (diagnostic,) = idle(check(before))
        assert "nothing" in diagnostic.message
    assert fixed(before) == after
    assert "MEM001" not in codes(after)


def test_a_diagnostic_points_at_the_codes() -> None:
    (diagnostic,) = idle(check("x = 1  # noqa: E501, MEM901 ,MEM911\n"))
    assert (diagnostic.location.column, diagnostic.end_location.column) == (22, 36)
    assert diagnostic.message == "`MEM901` and `MEM911` in this noqa comment silence nothing"


def test_unknown_codes_are_reported_with_the_nearest_known_one() -> None:
    (diagnostic,) = idle(check("hazard()  # noqa: MEM991\n"))
    assert diagnostic.message.startswith("`MEM991` is no code of memlint; did you mean ")
    assert diagnostic.fixes == ()
    (diagnostic,) = idle(check("hazard()  # noqa: mem901\n"))
    assert diagnostic.message == '`mem901` is no code of memlint; did you mean "MEM901"?'


@pytest.mark.parametrize(
    "text",
    [
        "x = 1  # noqa\n",
        "x = 1  # noqa: E501\n",
        "x = 1  # noqa: MEM921\n",
        "doubt()  # noqa: MEM913\n",
        "x = 1  # noqa: MEM901, MEM001\n",
        "crash()  # noqa: MEM931\n",
        "x = '# noqa: MEM901'\n",
        '"""\n# noqa: MEM901\n"""\n',
    ],
    ids=["all", "others'", "off", "possible finding", "silenced", "crashed rule", "string", "docstring"],
)
def test_comments_that_may_have_their_reasons_are_left_alone(text: str) -> None:
    assert idle(check(text)) == []


def test_idle_comments_can_be_turned_off() -> None:
    assert codes("x = 1  # noqa: MEM901\n", ignore=("MEM001",)) == []


# Adding comments


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("hazard()\n", "hazard()  # noqa: MEM901\n"),
        ("hazard()", "hazard()  # noqa: MEM901"),
        ("hazard()  \r\n", "hazard()  # noqa: MEM901\r\n"),
        ("hazard(); waste(); hazard()\n", "hazard(); waste(); hazard()  # noqa: MEM901, MEM911\n"),
        ("hazard()  # one\n", "hazard()  # one  # noqa: MEM901\n"),
        ("hazard()  # noqa: E501\n", "hazard()  # noqa: E501, MEM901\n"),
        ("hazard()  # noqa: E501 because\n", "hazard()  # noqa: E501, MEM901 because\n"),
        ('x = hazard("""\n""")\n', 'x = hazard("""\n""")  # noqa: MEM901\n'),
        ("x = hazard() + \\\n    1\n", "x = hazard() + \\\n    1  # noqa: MEM901\n"),
        ("hazard(\n    1,\n)\n", "hazard(  # noqa: MEM901\n    1,\n)\n"),
    ],
)
def test_findings_can_be_silenced_where_they_are(before: str, after: str) -> None:
    assert with_noqa(Source.decode(before.encode()), check(before).diagnostics) == after
    assert codes(after) == []
