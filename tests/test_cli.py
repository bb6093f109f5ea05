from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from memlint import __version__
from memlint.cli import run
from tests.check.tiny import RULES


@dataclass(frozen=True)
class Ran:
    """What a command line came to."""

    code: int
    out: str
    err: str


Memlint = Callable[..., Ran]


@pytest.fixture
def memlint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> Memlint:
    """Runs a command line in an empty directory, with the tests' own rules."""
    monkeypatch.chdir(tmp_path)
    for name in ("NO_COLOR", "FORCE_COLOR", "MEMLINT_DEBUG"):
        monkeypatch.delenv(name, raising=False)

    def ran(*arguments: str, stdin: bytes = b"") -> Ran:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        code = run(arguments, RULES)
        sys.stdout.flush()
        sys.stderr.flush()
        captured = capfdbinary.readouterr()
        return Ran(code, captured.out.decode(), captured.err.decode())

    return ran


def write(**texts: str) -> None:
    for name, text in texts.items():
        Path(f"{name}.py").write_text(text)


def config(text: str, name: str = "memlint.toml") -> None:
    Path(name).write_text(text)


# Exit codes and summaries


def test_nothing_found(memlint: Memlint) -> None:
    write(x="x = 1\n")
    assert memlint("check") == Ran(0, "All checks passed!\n", "")
    assert memlint("check", "x.py", "--quiet") == Ran(0, "", "")


def test_no_files(memlint: Memlint) -> None:
    assert memlint("check") == Ran(0, "All checks passed!\n", "warning: no Python files found\n")


def test_findings(memlint: Memlint) -> None:
    write(a="hazard()\nrisk()\n", b="waste()\n")
    ran = memlint("check", "--output-format", "concise")
    assert ran == Ran(
        1,
        "a.py:1:1: MEM901 [*] `hazard` is called\n"
        "a.py:2:1: MEM902 `risk` is called\n"
        "b.py:1:1: MEM911 `waste` is called\n"
        "Found 3 hazards.\n"
        "[*] 1 fixable with the `--fix` option (1 hidden fix can be enabled with the `--unsafe-fixes` option).\n",
        "",
    )
    assert memlint("check", "--exit-zero").code == 0
    assert memlint("check", "a.py", "--ignore", "MEM901").out.endswith(
        "No fixes available (1 hidden fix can be enabled with the `--unsafe-fixes` option).\n"
    )
    assert "[*] 2 fixable with the `--fix` option.\n" in memlint("check", "--unsafe-fixes").out


def test_notes_alone_do_not_fail(memlint: Memlint) -> None:
    write(x="chance()\n")
    ran = memlint("check")
    assert (ran.code, "Found 1 hazard.\n" in ran.out) == (0, True)


def test_what_was_named_and_does_not_parse_fails(memlint: Memlint) -> None:
    write(x="hazard(\n", y="hazard()\n")
    ran = memlint("check", "x.py", "y.py", "-q", "--output-format=concise")
    assert ran == Ran(
        2, "y.py:1:1: MEM901 [*] `hazard` is called\n", "error: x.py:1:7: syntax error: '(' was never closed\n"
    )


def test_what_was_found_and_does_not_parse_is_only_said(memlint: Memlint) -> None:
    write(x="hazard(\n", y="x = 1\n")
    assert memlint("check") == Ran(0, "All checks passed!\n", "warning: x.py:1:7: syntax error: '(' was never closed\n")
    write(y="hazard()\n")
    assert memlint("check").code == 1


def test_internal_errors_and_missing_files_fail_even_with_exit_zero(memlint: Memlint) -> None:
    write(x="crash()\n", y="hazard()\n")
    ran = memlint("check", "--exit-zero", "--quiet", "--output-format=concise")
    assert ran.code == 2
    assert ran.out == "y.py:1:1: MEM901 [*] `hazard` is called\n"
    assert ran.err.startswith("error: x.py: internal error in MEM931 (KeyError: ")
    assert ran.err.count("\n") == 1
    ran = memlint("check", "--exit-zero", "nothing.py", "y.py")
    assert (ran.code, ran.err) == (2, "error: nothing.py: does not exist\n")
    assert "MEM901" in ran.out


def test_a_directory_that_is_called_like_a_file_is_walked(memlint: Memlint) -> None:
    Path("x.py").mkdir()
    Path("x.py/y.py").write_text("hazard()\n")
    assert memlint("check", "x.py", "--output-format=concise", "-q").out.startswith("x.py/y.py:1:1: ")


# Selection and configuration


def selected(memlint: Memlint, *arguments: str) -> set[str]:
    return {each["code"] for each in json.loads(memlint("check", "--output-format=json", *arguments).out)}


def test_rules_can_be_selected(memlint: Memlint) -> None:
    write(x="hazard(); risk(); waste(); optional()\n")
    assert selected(memlint) == {"MEM901", "MEM902", "MEM911"}
    assert selected(memlint, "--select", "MEM90,MEM921") == {"MEM901", "MEM902", "MEM921"}
    assert selected(memlint, "--select", "MEM901", "--select", "MEM911") == {"MEM901", "MEM911"}
    assert selected(memlint, "--select", "ALL", "--ignore", "MEM9", "--extend-select", "MEM921") == {"MEM921"}
    assert selected(memlint, "--per-file-ignores", "x.py:MEM90,*.pyi:MEM911") == {"MEM911"}
    assert selected(memlint, "--config", 'select = ["MEM902"]') == {"MEM902"}
    assert selected(memlint, "--config", f'select = ["MEM902"]  # {"long" * 1000}') == {"MEM902"}
    config('select = ["MEM911"]\n')
    assert selected(memlint) == {"MEM911"}
    assert selected(memlint, "--isolated") == {"MEM901", "MEM902", "MEM911"}
    config('select = ["MEM901"]\n', "other.toml")
    assert selected(memlint, "--config", "other.toml") == {"MEM901"}
    assert selected(memlint, "--config", "other.toml", "--config", 'extend-select = ["MEM902"]') == {"MEM901", "MEM902"}


def test_files_can_be_left_out(memlint: Memlint) -> None:
    write(a="", b="", c="")
    Path("build").mkdir()
    Path("build/d.py").write_text("")

    def shown(*arguments: str) -> list[str]:
        return [Path(line).name for line in memlint("check", "--show-files", *arguments).out.splitlines()]

    assert shown() == ["a.py", "b.py", "c.py"]
    assert shown("--exclude", "a.py,b.*") == ["d.py", "c.py"]
    assert shown("--extend-exclude", "a.py") == ["b.py", "c.py"]
    assert shown("--extend-exclude", "a.py", "a.py", "build") == ["a.py", "d.py"]
    assert shown("--extend-exclude", "a.py", "--force-exclude", "a.py", "b.py", "build/d.py") == ["b.py"]


def test_each_file_has_its_own_settings(memlint: Memlint) -> None:
    for name in ("a", "b", "c"):
        Path(name).mkdir()
        Path(name, "x.py").write_text("hazard(); waste()\n")
    config("ignore = ['MEM901']", "a/memlint.toml")
    config("[tool.memlint]\nfix = true\n", "b/pyproject.toml")
    ran = memlint("check", "--output-format=concise", "-q")
    assert ran.out.splitlines() == [
        "a/x.py:1:11: MEM911 `waste` is called",
        "b/x.py:1:13: MEM911 `waste` is called",
        "c/x.py:1:1: MEM901 [*] `hazard` is called",
        "c/x.py:1:11: MEM911 `waste` is called",
    ]
    assert Path("b/x.py").read_text() == "harmless(); waste()\n"
    assert Path("c/x.py").read_text() == "hazard(); waste()\n"


def test_output_format_and_fixes_can_be_configured(memlint: Memlint) -> None:
    config('output-format = "concise"\nfix = true\n')
    write(x="hazard()\nrisk()\n")
    assert memlint("check", "--no-fix", "-q").out.startswith("x.py:1:1: MEM901")
    assert memlint("check", "-q").out == "x.py:2:1: MEM902 `risk` is called\n"
    assert memlint("check", "--unsafe-fixes").code == 0
    assert Path("x.py").read_text() == "harmless()\nharmless()\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["chek"], 'no such command "chek"; did you mean "check"?'),
        (["x.py"], 'no such command "x.py"; did you mean "memlint check x.py"?'),
        (["check", "--slect", "MEM901"], "No such option"),
        (["check", "--select", "MEM900"], '--select: unknown rule "MEM900"; did you mean "MEM90'),
        (["check", "--ignore", "E501"], '--ignore: unknown rule "E501"'),
        (
            ["check", "--output-format", "jsn"],
            'must be one of full, concise, json, github, sarif, not "jsn"; did you mean',
        ),
        (["check", "--jobs", "0"], "Invalid value for '-j' / '--jobs'"),
        (["check", "--per-file-ignores", "x.py"], '--per-file-ignores: "x.py" is not PATTERN:CODE'),
        (["check", "--exclude", "!"], '--exclude: "!" is not a pattern as in .gitignore files'),
        (["check", "--config", "slect = []"], 'unknown key "slect"; did you mean "select"?'),
        (["check", "--config", "nothing.toml"], "nothing.toml: cannot be read: No such file or directory"),
        (["check", "--config", "a.toml", "--config", "b.toml"], "--config names two files"),
        (["check", "--config", "a.toml", "--isolated"], "--config FILE and --isolated contradict each other"),
        (["check", "--add-noqa", "--fix"], "--add-noqa and --fix contradict each other"),
        (["check", "-", "x.py"], "- (standard input) cannot be checked together with other paths"),
        (["check", "-", "--watch"], "--watch needs files, not standard input"),
        (["check", ""], "a path is empty"),
        (["rule", "MEM9O1"], 'no rule "MEM9O1"; did you mean "MEM9'),
        (["rule", "hazzard"], 'no rule "hazzard"; did you mean "hazard"?'),
        (["config", "nowhere"], "nowhere does not exist"),
        (["clean", "nowhere"], "'nowhere' does not exist"),
    ],
)
def test_what_cannot_be_understood_is_one_line(memlint: Memlint, arguments: Sequence[str], message: str) -> None:
    write(x="")
    ran = memlint(*arguments)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("error: ")
    assert message in ran.err
    assert ran.err.count("\n") == 1


def test_a_broken_configuration_is_one_line_and_other_files_are_checked(memlint: Memlint) -> None:
    write(x="hazard()\n")
    Path("sub").mkdir()
    Path("sub/y.py").write_text("hazard()\n")
    Path("sub/z.py").write_text("hazard()\n")
    config("selct = []\n", "sub/memlint.toml")
    ran = memlint("check", "--output-format=concise", "-q")
    assert ran == Ran(
        2,
        "x.py:1:1: MEM901 [*] `hazard` is called\n",
        'error: sub/memlint.toml: unknown key "selct"; did you mean "select"?\n',
    )


def test_two_configurations_in_one_directory_are_one_line(memlint: Memlint) -> None:
    write(x="hazard()\n")
    config("")
    config("[tool.memlint]\n", "pyproject.toml")
    ran = memlint("check")
    assert (ran.code, ran.out) == (2, "")
    assert "two configuration files, memlint.toml and pyproject.toml" in ran.err


# Fixes


def test_safe_fixes_are_applied_and_counted(memlint: Memlint) -> None:
    write(x="hazard()\nrisk()\n", y="hazard(); hazard()\n")
    ran = memlint("check", "--fix", "--output-format=concise")
    assert (ran.code, ran.out.splitlines()[:2]) == (
        1,
        ["x.py:2:1: MEM902 `risk` is called", "Found 4 hazards (3 fixed, 1 remaining)."],
    )
    assert Path("x.py").read_text() == "harmless()\nrisk()\n"
    assert Path("y.py").read_text() == "harmless(); harmless()\n"
    ran = memlint("check", "--fix", "--unsafe-fixes")
    assert ran == Ran(0, "Found 1 hazard (1 fixed, 0 remaining).\n", "")
    write(x="hazard()\n")
    assert memlint("check", "--fix", "--exit-non-zero-on-fix").code == 1


def test_a_diff_writes_nothing(memlint: Memlint) -> None:
    write(x="hazard()\nrisk()\n", y="x = 1\n")
    ran = memlint("check", "--diff")
    assert ran == Ran(
        1,
        "--- a/x.py\n+++ b/x.py\n@@ -1,2 +1,2 @@\n-hazard()\n+harmless()\n risk()\n",
        "Would fix 1 hazard.\n",
    )
    assert Path("x.py").read_text() == "hazard()\nrisk()\n"
    assert memlint("check", "--diff", "y.py") == Ran(0, "", "No fixes to apply.\n")
    assert memlint("check", "--diff", "--exit-zero", "-q").code == 0


def test_findings_can_be_silenced_where_they_are(memlint: Memlint) -> None:
    write(x="hazard(); risk()\n", y="x = 1\n", z="hazard(\n")
    ran = memlint("check", "--add-noqa")
    assert (ran.code, ran.err) == (
        0,
        "warning: z.py:1:7: syntax error: '(' was never closed\nAdded noqa comments for 2 hazards.\n",
    )
    assert Path("x.py").read_text() == "hazard(); risk()  # noqa: MEM901, MEM902\n"
    assert memlint("check").code == 0


def test_idle_noqa_comments_are_fixed(memlint: Memlint) -> None:
    write(x="x = 1  # noqa: MEM901\n")
    assert memlint("check", "--output-format=concise").out.startswith(
        "x.py:1:16: MEM001 [*] `MEM901` in this noqa comment silences nothing\n"
    )
    assert memlint("check", "--fix").code == 0
    assert Path("x.py").read_text() == "x = 1\n"


def test_a_file_that_cannot_be_written_stays_and_the_others_are_fixed(memlint: Memlint) -> None:
    write(a="hazard()\n", b="hazard()\n")
    Path("a.py").chmod(0o444)
    ran = memlint("check", "--fix", "--output-format=concise")
    assert ran.code == 2
    assert ran.err == "error: a.py: is read-only and was not changed\n"
    assert ran.out.startswith("a.py:1:1: MEM901 [*] `hazard` is called\nFound 2 hazards (1 fixed, 1 remaining).\n")
    assert (Path("a.py").read_text(), Path("b.py").read_text()) == ("hazard()\n", "harmless()\n")


# Standard input


def test_standard_input_is_checked_under_the_name_that_it_is_given(memlint: Memlint) -> None:
    text = b"hazard()\n"
    arguments = ("check", "-", "--output-format=concise", "-q")
    assert memlint(*arguments, stdin=text) == Ran(1, "-:1:1: MEM901 [*] `hazard` is called\n", "")
    ran = memlint(*arguments, "--stdin-filename", "sub/y.py", stdin=text)
    assert ran == Ran(1, "sub/y.py:1:1: MEM901 [*] `hazard` is called\n", "")
    assert memlint(*arguments, stdin=b"hazard(") == Ran(2, "", "error: -:1:7: syntax error: '(' was never closed\n")
    assert memlint(*arguments, stdin=b"\0").code == 2
    assert memlint(*arguments, "--per-file-ignores=y.py:MEM901", "--stdin-filename=y.py", stdin=text).code == 0
    exclude = ("--exclude", "y.py", "--stdin-filename", "y.py")
    assert memlint(*arguments, *exclude, stdin=text).code == 1
    assert memlint(*arguments, *exclude, "--force-exclude", stdin=text).code == 0


def test_fixing_standard_input_prints_the_program(memlint: Memlint) -> None:
    text = b"\xef\xbb\xbfhazard()\r\nrisk()\r\n"
    ran = memlint("check", "-", "--fix", "--output-format=concise", stdin=text)
    assert (ran.code, ran.out) == (1, "\ufeffharmless()\r\nrisk()\r\n")
    assert ran.err.startswith("-:2:1: MEM902 `risk` is called\nFound 2 hazards (1 fixed, 1 remaining).\n")
    assert memlint("check", "-", "--fix", "-q", stdin=b"x = 1\n") == Ran(0, "x = 1\n", "")
    assert memlint("check", "-", "--fix", "-q", stdin=b"hazard(\n").out == "hazard(\n"
    diff = memlint("check", "-", "--diff", "--stdin-filename", "x.py", stdin=b"hazard()\n")
    assert (diff.code, diff.out.splitlines()[:2]) == (1, ["--- a/x.py", "+++ b/x.py"])


# Output


def test_findings_can_be_written_to_a_file(memlint: Memlint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    write(x="hazard()\n")
    ran = memlint("check", "-o", "out.txt", "--output-format=concise", "-q")
    assert ran == Ran(1, "", "")
    assert Path("out.txt").read_text() == "x.py:1:1: MEM901 [*] `hazard` is called\n"
    memlint("check", "-o", "out.txt", "--output-format=json")
    assert len(json.loads(Path("out.txt").read_text())) == 1
    ran = memlint("check", "-o", "no/out.txt")
    assert (ran.code, ran.err) == (2, "error: no/out.txt: cannot be written: No such file or directory\n")
    assert [path.name for path in sorted(Path().iterdir())] == ["out.txt", "x.py"]


def test_statistics_count_findings_by_rule(memlint: Memlint) -> None:
    write(x="hazard()\n" * 11 + "waste()\n")
    assert memlint("check", "--statistics", "-q").out == "11  MEM901  [*] hazard\n 1  MEM911  [ ] waste\n"
    assert json.loads(memlint("check", "--statistics", "--output-format=json").out) == [
        {"code": "MEM901", "name": "hazard", "count": 11, "fixable": 11},
        {"code": "MEM911", "name": "waste", "count": 1, "fixable": 0},
    ]


def test_json_is_json_whatever_else_is_said(memlint: Memlint) -> None:
    write(x="x = 1\n", y="hazard(\n")
    ran = memlint("check", "--output-format", "json", "--verbose")
    assert (ran.code, ran.out) == (0, "[]\n")
    assert "files: 2" in ran.err


def test_colors_are_for_terminals(memlint: Memlint, monkeypatch: pytest.MonkeyPatch) -> None:
    write(x="hazard()\n")
    assert "\x1b" not in memlint("check").out
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b" in memlint("check").out
    assert "\x1b" in memlint("rule", "MEM901").out
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in memlint("check").out


# The other commands


def test_a_rule_is_explained(memlint: Memlint) -> None:
    ran = memlint("rule", "mem901")
    assert ran.out == (
        "# hazard (MEM901)\n\n*severity: error, on by default*\n\n"
        "Calls of `hazard` are errors that a safe fix turns into `harmless()`.\n\nNothing more is to be said.\n"
    )
    assert memlint("rule", "hazard") == ran
    found = json.loads(memlint("rule", "MEM901", "--output-format", "json").out)
    assert (found["code"], found["name"], found["severity"], found["default"]) == ("MEM901", "hazard", "error", True)
    assert found["summary"] == "Calls of `hazard` are errors that a safe fix turns into `harmless()`."


def test_all_rules_are_listed(memlint: Memlint) -> None:
    assert "MEM921  optional  (off by default)\n" in memlint("rule").out
    listed = json.loads(memlint("rule", "--all", "--output-format", "json").out)
    assert [each["code"] for each in listed] == [rule.code for rule in RULES]
    assert memlint("rule", "--all").out.count("\n# ") == len(RULES) - 1


def test_the_settings_of_a_path_are_shown_as_toml(memlint: Memlint) -> None:
    config('select = ["MEM90"]\nper-file-ignores = { "x*" = ["MEM901"] }\nextend-exclude = ["ä\\"b"]\ndevice = "t4"\n')
    write(x="hazard(); risk(); waste()\n", y="hazard(); risk(); waste()\n")
    text = memlint("config").out
    assert text.startswith(f"# {Path.cwd()}/memlint.toml\n")
    assert 'select = ["MEM901", "MEM902"]\n' in text
    assert 'select = ["MEM902"]\n' in memlint("config", "x.py").out
    findings = memlint("check", "--output-format=json").out
    Path("memlint.toml").write_text(text)
    assert memlint("config").out == text
    assert memlint("check", "--output-format=json").out == findings


def test_caches_are_removed(memlint: Memlint) -> None:
    for name in (".memlint_cache", "sub/.memlint_cache", "sub/other"):
        Path(name).mkdir(parents=True)
        Path(name, "data").write_text("")
    assert memlint("clean").out == "Removed .memlint_cache\nRemoved sub/.memlint_cache\n"
    assert Path("sub/other/data").exists()
    assert not Path("sub/.memlint_cache").exists()
    assert memlint("clean") == Ran(0, "", "")


def test_the_version_is_shown(memlint: Memlint) -> None:
    assert memlint("--version").out == memlint("version").out == f"memlint {__version__}\n"
    assert json.loads(memlint("version", "--output-format=json").out) == {"version": __version__}


def test_without_a_command_the_help_is_shown_and_nothing_counts_as_checked(memlint: Memlint) -> None:
    ran = memlint()
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("Usage: memlint [OPTIONS] COMMAND")


@pytest.mark.parametrize("command", ["", "check", "rule", "config", "clean", "version"])
def test_help_names_every_option(memlint: Memlint, command: str) -> None:
    ran = memlint(*command.split(), "--help")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith(f"Usage: memlint {command or '[OPTIONS]'}")
