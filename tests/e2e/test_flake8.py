"""flake8 runs the plugin in a process of its own and reports what ``memlint check`` reports."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

from memlint.registry import all_rules
from tests.e2e.programs import CLEAN, HAZARDS, ROOT, Environment, run

pytestmark = pytest.mark.slow

FORMAT = "%(path)s|%(row)d|%(col)d|%(code)s|%(text)s"


class Place(NamedTuple):
    """What must agree between the two front ends."""

    path: str
    row: int
    column: int
    code: str
    message: str


def flake8(
    environment: Environment, *arguments: str | Path, cwd: Path, stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    """The finished process of ``flake8``, which prints one line for each place."""
    options = ("--select=MEM,E9", f"--format={FORMAT}")
    return run(environment.program("flake8"), *options, *arguments, cwd=cwd, stdin=stdin)


def places(process: subprocess.CompletedProcess[str], cwd: Path) -> list[Place]:
    """What flake8 reported, by file and place."""
    assert process.stderr == ""
    found = []
    for line in process.stdout.splitlines():
        path, row, column, code, message = line.split("|", 4)
        found.append(Place(str((cwd / path).resolve()), int(row), int(column), code, message))
    return sorted(found)


def checked(environment: Environment, *arguments: str | Path, cwd: Path) -> list[Place]:
    """What ``memlint check`` reports, by file and place."""
    process = run(environment.program("memlint"), "check", "--output-format", "json", *arguments, cwd=cwd)
    return sorted(
        Place(entry["filename"], entry["location"]["row"], entry["location"]["column"], entry["code"], entry["message"])
        for entry in json.loads(process.stdout)
    )


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with findings in one file, a suppressed twin, a skipped one, and a model in another module."""
    (tmp_path / "setup.cfg").write_text("[metadata]\nname = project\n")
    (tmp_path / "hazards.py").write_text(HAZARDS)
    (tmp_path / "clean.py").write_text(CLEAN)
    suppressed = HAZARDS.replace('"model.pt"))', '"model.pt"))  # noqa: MEM801').replace("+= loss", "+= loss  # noqa")
    (tmp_path / "suppressed.py").write_text(suppressed)
    (tmp_path / "skipped.py").write_text(f"# memlint: skip-file\n{HAZARDS}")
    return tmp_path


def test_same_places_as_check(installed: Environment, project: Path) -> None:
    process = flake8(installed, ".", cwd=project)
    found = places(process, project)
    assert process.returncode == 1
    assert [(Path(place.path).name, place.row, place.column, place.code) for place in found] == [
        ("hazards.py", 7, 27, "MEM801"),
        ("hazards.py", 15, 18, "MEM101"),
    ]
    assert found == checked(installed, ".", cwd=project)


def test_same_places_as_check_in_the_examples(installed: Environment) -> None:
    found = places(flake8(installed, "examples", cwd=ROOT), ROOT)
    assert found
    assert found == checked(installed, "examples", cwd=ROOT)


def test_same_places_as_check_in_the_examples_of_all_rules(installed: Environment, tmp_path: Path) -> None:
    for rule in all_rules():
        for number, text in enumerate((*rule.positive, *rule.negative)):
            (tmp_path / f"{rule.code.lower()}_{number}.py").write_text(text, encoding="utf-8")
    found = places(flake8(installed, ".", cwd=tmp_path), tmp_path)
    assert {rule.code for rule in all_rules() if rule.default} <= {place.code for place in found}
    assert found == checked(installed, ".", cwd=tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("\ufeff" + HAZARDS, id="byte order mark"),
        pytest.param(HAZARDS.replace("\n", "\r\n"), id="CRLF"),
        pytest.param(HAZARDS.replace("    ", "\t"), id="tabs"),
        pytest.param(HAZARDS.replace("\n\n\ndef", "\n\x0c\n\ndef"), id="form feed"),
        pytest.param(HAZARDS.replace("total +=", '"äöü€𝄞"; total +='), id="beyond ASCII"),
    ],
)
def test_same_places_in_unusual_text(installed: Environment, tmp_path: Path, text: str) -> None:
    (tmp_path / "hazards.py").write_bytes(text.encode())
    found = places(flake8(installed, ".", cwd=tmp_path), tmp_path)
    assert [place.code for place in found] == ["MEM801", "MEM101"]
    assert found == checked(installed, ".", cwd=tmp_path)


def test_declared_encoding(installed: Environment, tmp_path: Path) -> None:
    text = "# coding: latin-1\n" + HAZARDS.replace("total +=", '"äöü"; total +=')
    (tmp_path / "hazards.py").write_bytes(text.encode("latin-1"))
    found = places(flake8(installed, ".", cwd=tmp_path), tmp_path)
    assert [place.code for place in found] == ["MEM801", "MEM101"]
    assert found == checked(installed, ".", cwd=tmp_path)


def test_findings_across_files(installed: Environment, tmp_path: Path) -> None:
    (tmp_path / "setup.cfg").write_text("")
    (tmp_path / "losses.py").write_text(
        "from torch import nn\n\n\ndef distance(model, inputs, targets):\n"
        "    return nn.functional.mse_loss(model(inputs), targets)\n"
    )
    train = HAZARDS.replace(
        "nn.functional.mse_loss(model(inputs.cuda()), targets.cuda())", "distance(model, inputs, targets)"
    ).replace("from torch import nn\n", "from torch import nn\n\nfrom losses import distance\n")
    (tmp_path / "train.py").write_text(train)
    found = places(flake8(installed, "train.py", cwd=tmp_path), tmp_path)
    assert "MEM101" in [place.code for place in found]
    assert found == checked(installed, "train.py", cwd=tmp_path)


def test_processes(installed: Environment, project: Path) -> None:
    for number in range(8):
        (project / f"copy{number}.py").write_text(HAZARDS)
    two = flake8(installed, "-j2", ".", cwd=project)
    assert places(two, project) == places(flake8(installed, "-j1", ".", cwd=project), project)
    assert two.stdout.count("MEM101") == 9


def test_standard_input(installed: Environment, project: Path) -> None:
    """The text counts, not the file of that name: editors check what is not saved yet."""
    process = flake8(installed, "--stdin-display-name=clean.py", "-", cwd=project, stdin=HAZARDS)
    assert [place[1:4] for place in places(process, project)] == [(7, 27, "MEM801"), (15, 18, "MEM101")]
    assert flake8(installed, "-", cwd=project, stdin=CLEAN).stdout == ""


def test_disable_noqa(installed: Environment, project: Path) -> None:
    found = places(flake8(installed, "--disable-noqa", "suppressed.py", cwd=project), project)
    assert [place.code for place in found] == ["MEM801", "MEM101"]


def test_unused_noqa_is_reported(installed: Environment, project: Path) -> None:
    (project / "clean.py").write_text(CLEAN.replace("loss.detach()", "loss.detach()  # noqa: MEM101"))
    found = places(flake8(installed, "clean.py", cwd=project), project)
    assert [place.code for place in found] == ["MEM001"]
    assert found == checked(installed, "clean.py", cwd=project)


def test_memlint_table_of_pyproject_counts(installed: Environment, project: Path) -> None:
    (project / "pyproject.toml").write_text(
        '[tool.memlint]\nignore = ["MEM801"]\nexclude = ["copy.py"]\nper-file-ignores = { "other.py" = ["MEM101"] }\n'
    )
    (project / "copy.py").write_text(HAZARDS)
    (project / "other.py").write_text(HAZARDS)
    found = places(flake8(installed, ".", cwd=project), project)
    assert [(Path(place.path).name, place.code) for place in found] == [("hazards.py", "MEM101")]
    assert found == checked(installed, ".", cwd=project)


def test_options_in_setup_cfg(installed: Environment, project: Path) -> None:
    (project / "settings.toml").write_text('ignore = ["MEM101"]\n')
    (project / "setup.cfg").write_text("[flake8]\nmemlint-config = settings.toml\n")
    assert [place.code for place in places(flake8(installed, "hazards.py", cwd=project), project)] == ["MEM801"]


def test_flake8_ignores_codes_too(installed: Environment, project: Path) -> None:
    (project / "setup.cfg").write_text("[flake8]\nextend-ignore = MEM801\n")
    found = places(flake8(installed, "hazards.py", cwd=project), project)
    assert [place.code for place in found] == ["MEM101"]


def test_syntax_error_is_left_to_flake8(installed: Environment, project: Path) -> None:
    (project / "broken.py").write_text("import torch\ntorch.load(\n")
    process = flake8(installed, "broken.py", "hazards.py", cwd=project)
    assert [place.code for place in places(process, project)] == ["E999", "MEM801", "MEM101"]


@pytest.mark.parametrize(
    ("settings", "reason"),
    [("[tool.memlint]\nselct = []\n", "selct"), ("[tool.memlint\n", "pyproject.toml")],
    ids=["unknown key", "invalid TOML"],
)
def test_wrong_configuration_is_one_line(installed: Environment, project: Path, settings: str, reason: str) -> None:
    (project / "pyproject.toml").write_text(settings)
    process = flake8(installed, "hazards.py", "clean.py", cwd=project)
    assert process.returncode == 1
    assert reason in process.stdout
    assert "Traceback" not in process.stdout + process.stderr
