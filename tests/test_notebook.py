from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import libcst
import pytest

from memlint.diagnostics import Diagnostic, Edit, LocatedFix, Location, RelatedLocation
from memlint.findings import Applicability, Confidence, Severity
from memlint.notebook import Notebook, read_source
from memlint.source import Source, SourceError


def notebook(*cells: str | tuple[str, str], **metadata: object) -> dict[str, object]:
    """A notebook of code cells; a pair is a cell of another type."""
    typed = [cell if isinstance(cell, tuple) else ("code", cell) for cell in cells]
    return {
        "cells": [
            {"cell_type": kind, "metadata": {}, "outputs": [{"text": ["é"]}], "source": text.splitlines(keepends=True)}
            for kind, text in typed
        ],
        "metadata": metadata,
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def written(content: dict[str, object]) -> bytes:
    """As Jupyter writes it."""
    return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()


def read(*cells: str | tuple[str, str]) -> Notebook:
    return Notebook.decode(written(notebook(*cells)))


def sources(data: bytes) -> list[str]:
    return ["".join(cell["source"]) for cell in json.loads(data)["cells"]]


# The program


def test_cells_are_one_program_with_places_in_cells() -> None:
    book = read(("markdown", "# Title"), "import torch\nx = 1", "y = x\n\nz = y")
    libcst.parse_module(book.text)
    rows = book.text.split("\n")
    places = {row: book.place_in_cell(Location(number, 1)) for number, row in enumerate(rows, 1) if row.strip()}
    assert places["import torch"] == (2, Location(1, 1))
    assert places["x = 1"] == (2, Location(2, 1))
    assert places["y = x"] == (3, Location(1, 1))
    assert places["z = y"] == (3, Location(3, 1))


def test_a_place_in_a_cell_has_its_offset() -> None:
    book = read("a = 1", "b = 2\nc = 3")
    assert book.text[book.offset(Location(2, 5), cell=2)] == "3"
    assert book.cell_text(2) == "b = 2\nc = 3"


@pytest.mark.parametrize(
    "row",
    [
        "%matplotlib inline",
        "%%time",
        "!pip install torch",
        "    !ls -l",
        "torch.load?",
        "?torch.load",
        "??torch",
        "%timeit f(x)",
        "files = !ls",
        "a, b = %run this",
        "    d[0] = %who_ls",
    ],
)
def test_magics_become_placeholders_in_the_same_place(row: str) -> None:
    before = "if x:\n" if row.startswith(" ") else ""
    text = f"{before}{row}\nhere = 1" if not before else f"{before}{row}\n    here = 1"
    book = read(text)
    libcst.parse_module(book.text)
    hidden = next(line for line in book.text.split("\n") if "# magic" in line)
    kept = len(row) - len(row.lstrip()) if "=" not in row or "?" in row or "timeit" in row else row.index("=")
    assert hidden[:kept] == row[:kept]
    assert book.text.count("\n") == text.count("\n") + 3
    assert sources(book.encode(book.text.replace("here", "there"))) == [text.replace("here", "there")]


@pytest.mark.parametrize(
    "text",
    [
        "x = (a\n     %b)",
        "x = a \\\n  %b",
        's = """\n%matplotlib\n!ls\nwhat?\n"""',
        "s = '''it's\n%x'''",
        "# is this right?\nx = 1",
        "x = 'why?'",
        "x = 5 %y",
        "s = 'it\\'s (' + \"[\"\nx = 1  # ({[",
    ],
)
def test_python_that_looks_like_a_magic_stays(text: str) -> None:
    assert text in read(text, "%time x").text


def test_a_magic_behind_a_multi_line_string_is_one() -> None:
    book = read('s = """\n(\n"""\n!ls (')
    assert "!ls" not in book.text


def test_a_shell_command_over_several_rows() -> None:
    text = "!pip install \\\n  torch \\\n  numpy\nx = 1"
    book = read(text)
    libcst.parse_module(book.text)
    assert sources(book.encode(book.text.replace("x", "y"))) == [text.replace("x", "y")]


@pytest.mark.parametrize("magic", ["%%bash", "%%html", "%%writefile x.py", "%%javascript", "%%python"])
def test_cells_in_another_language_are_left_out(magic: str) -> None:
    book = read("a = 1", f"{magic}\nrm -rf (", "b = 2")
    libcst.parse_module(book.text)
    assert book.cell_numbers == [1, 3]


@pytest.mark.parametrize("magic", ["%%time", "%%capture out", "\n%%timeit -n 3"])
def test_cells_under_a_magic_for_python_are_part_of_the_program(magic: str) -> None:
    assert "b = 2" in read(f"{magic}\nb = 2").text


def test_a_notebook_of_another_language_has_no_program() -> None:
    kernel = {"name": "ir", "language": "R", "display_name": "R"}
    assert Notebook.decode(written(notebook("x <- 1", kernelspec=kernel))).text == ""


def test_an_empty_notebook_has_an_empty_program() -> None:
    book = read()
    assert book.text == ""
    assert book.encode("") == written(notebook())


# Diagnostics


def test_diagnostics_speak_about_cells() -> None:
    book = read("import torch", ("markdown", "text"), "a\nbad = 1\nc")
    row = book.text[: book.text.index("bad")].count("\n") + 1
    diagnostic = Diagnostic(
        code="MEM000",
        name="name",
        message="message",
        path=Path("x.ipynb"),
        location=Location(row, 1),
        end_location=Location(row, 4),
        severity=Severity.ERROR,
        confidence=Confidence.CERTAIN,
        holds="",
        fixes=(
            LocatedFix(
                Applicability.SAFE,
                "fix",
                (
                    Edit(Location(3, 1), Location(3, 1), "import x\n"),
                    Edit(Location(row, 1), Location(row, 4), "good"),
                ),
            ),
        ),
        noqa_row=row,
        url="",
        related=(RelatedLocation(Location(3, 8), Location(3, 13), "here"),),
    )
    relocated = book.relocate(diagnostic)
    assert (relocated.cell, relocated.location, relocated.end_location) == (3, Location(2, 1), Location(2, 4))
    assert relocated.noqa_row == 2
    assert relocated.related[0] == RelatedLocation(Location(1, 8), Location(1, 13), "here", cell=1)
    first, second = relocated.fixes[0].edits
    assert (first.cell, first.location) == (1, Location(1, 1))
    assert (second.cell, second.location) == (3, Location(2, 1))


def test_a_python_file_has_its_places_already() -> None:
    source = read_source(Path("x.py"), b"a\n")
    assert type(source) is Source


# Writing


def test_only_the_source_of_changed_cells_is_written() -> None:
    data = written(notebook("a = 1\nb = 2", ("markdown", "b = 2"), "c = 3")).replace(
        b'"metadata": {}', b'"metadata" : { }'
    )
    book = Notebook.decode(data)
    assert book.encode(book.text) == data
    assert book.encode(book.text.replace("c = 3", "c = 4")) == data.replace(b"c = 3", b"c = 4")


@pytest.mark.parametrize(
    "dumps",
    [
        pytest.param(lambda content: json.dumps(content, indent=1) + "\n", id="jupyter"),
        pytest.param(lambda content: json.dumps(content, indent=4, sort_keys=True), id="sorted-without-newline"),
        pytest.param(json.dumps, id="one-row"),
        pytest.param(lambda content: json.dumps(content, separators=(",", ":")), id="compact"),
        pytest.param(lambda content: json.dumps(content, indent="\t").replace("\n", "\r\n"), id="crlf"),
        pytest.param(lambda content: "\ufeff" + json.dumps(content, indent=2), id="byte-order-mark"),
        pytest.param(lambda content: json.dumps(content, ensure_ascii=False), id="unicode"),
    ],
)
@pytest.mark.parametrize(
    ("before", "after"),
    [("a = 'é'\nb = 2", "a = 'é'\nnew\nb = 2"), ("a = 'é'", "a = 'é'\nnew"), ("a = 'é'\nb = 2", "b = 2")],
)
def test_the_layout_of_the_json_is_kept(dumps: Callable[[object], str], before: str, after: str) -> None:
    data = dumps(notebook("é", before, "z")).encode()
    book = Notebook.decode(data)
    assert book.encode(book.text.replace(before, after)) == dumps(notebook("é", after, "z")).encode()


def test_a_source_that_is_one_string_stays_one() -> None:
    content = notebook("x")
    content["cells"][0]["source"] = "a = 1\nb = 2"  # type: ignore[index]
    book = Notebook.decode(written(content))
    data = book.encode(book.text.replace("b = 2", "b = 3"))
    assert json.loads(data)["cells"][0]["source"] == "a = 1\nb = 3"


def test_rows_keep_the_spelling_that_they_have() -> None:
    data = written(notebook("a = '/'\nb = 2")).replace(b"a = '/'", b"a = '\\/'")
    book = Notebook.decode(data)
    assert book.encode(book.text.replace("b = 2", "b = 3")) == data.replace(b"b = 2", b"b = 3")


def test_rows_that_look_like_the_markers_between_cells() -> None:
    cells = ["# cell 1\n\na = 1", "# cell 2\n# magic 0\n%time b", "c = 3"]
    book = read(*cells)
    assert sources(book.encode(book.text.replace("c = 3", "c = 4"))) == [*cells[:2], "c = 4"]


def test_a_change_across_cells_is_refused() -> None:
    book = read("with x:\n    a = 1", "b = 2")
    crossing = "\n".join(f"    {row}" for row in book.text.split("\n"))
    with pytest.raises(SourceError, match="border"):
        book.encode(crossing)


def test_a_change_that_loses_a_magic_is_refused() -> None:
    book = read("%time x\na = 1")
    with pytest.raises(SourceError, match="magic"):
        book.encode(book.text.replace("# magic 0\n", ""))


def test_a_magic_that_is_indented_stays_itself() -> None:
    book = read("if x:\n    %time a")
    placed = book.text.replace("    pass", "        pass").replace("if x:", "if x:\n    if y:")
    assert sources(book.encode(placed)) == ["if x:\n    if y:\n        %time a"]


# What is no notebook


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        pytest.param(b"", r"^not valid JSON: Expecting value \(row 1, column 1\)$", id="empty"),
        pytest.param(b'{"cells": [\n', "^not valid JSON: .*row 2", id="truncated"),
        pytest.param(b"[]", "^not a notebook", id="list"),
        pytest.param(b'{"a": 1}', "^not a notebook", id="other-json"),
        pytest.param(b'{"nbformat": 3, "worksheets": []}', "format 3 or older", id="old-format"),
        pytest.param(b'{"nbformat": 4}', "^not a notebook", id="no-cells"),
        pytest.param(b'{"nbformat": 4, "cells": [1]}', "cell 1 is not a cell", id="no-cell"),
        pytest.param(b'{"nbformat": 4, "cells": [{"cell_type": "code"}]}', "the source of cell 1", id="no-source"),
        pytest.param(
            b'{"nbformat": 4, "cells": [{"cell_type": "code", "source": [1]}]}', "source of cell 1", id="number"
        ),
        pytest.param(b"\xff", "^not valid UTF-8 at byte 0$", id="not-utf-8"),
        pytest.param(b"[" * 100_000, "nested too deeply", id="deep"),
    ],
)
def test_what_is_no_notebook(data: bytes, reason: str) -> None:
    with pytest.raises(SourceError, match=reason) as caught:
        Notebook.decode(data)
    assert "\n" not in str(caught.value)
