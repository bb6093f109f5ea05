"""The language server as a program: what an editor sees when it opens, changes and saves files."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

pytest.importorskip("pygls")

from lsprotocol import types
from pygls.lsp.client import LanguageClient

_WAIT = 30
"""Seconds after which the server counts as silent."""

METER = """\
class Meter:
    def __init__(self):
        self.sum = 0

    def update(self, value):
        self.sum += value
"""
TRAIN = """\
from torch import nn

from meter import Meter


def train(model: nn.Module, loader, opt, criterion):
    naïve = Meter()
    for x, y in loader:
        loss = criterion(model(x), y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        "𝄞"; naïve.update(loss)
    return naïve
"""


class Editor:
    """An editor that knows what is published about each file."""

    def __init__(self) -> None:
        self.client = LanguageClient("editor", "1")
        self.messages: list[str] = []
        self._published: dict[str, asyncio.Queue[types.PublishDiagnosticsParams]] = {}

        @self.client.feature(types.TEXT_DOCUMENT_PUBLISH_DIAGNOSTICS)  # type: ignore[untyped-decorator]
        def published(params: types.PublishDiagnosticsParams) -> None:
            self._queue(params.uri).put_nowait(params)

        @self.client.feature(types.WINDOW_SHOW_MESSAGE)  # type: ignore[untyped-decorator]
        def shown(params: types.ShowMessageParams) -> None:
            self.messages.append(params.message)

    def _queue(self, uri: str) -> asyncio.Queue[types.PublishDiagnosticsParams]:
        return self._published.setdefault(uri, asyncio.Queue())

    async def start(self, root: Path) -> None:
        await self.client.start_io(sys.executable, "-m", "memlint", "server", cwd=str(root))
        await self.client.initialize_async(
            types.InitializeParams(types.ClientCapabilities(), root_uri=root.as_uri(), process_id=None)
        )
        self.client.initialized(types.InitializedParams())

    async def stop(self) -> None:
        await self.client.shutdown_async(None)
        self.client.exit(None)
        await self.client.stop()  # type: ignore[no-untyped-call]

    async def findings(self, path: Path) -> list[types.Diagnostic]:
        """What is published next about a file."""
        return list((await asyncio.wait_for(self._queue(path.as_uri()).get(), _WAIT)).diagnostics)

    def open(self, path: Path) -> None:
        item = types.TextDocumentItem(path.as_uri(), "python", 1, path.read_text(encoding="utf-8"))
        self.client.text_document_did_open(types.DidOpenTextDocumentParams(item))

    def change(self, path: Path, text: str, version: int) -> None:
        self.client.text_document_did_change(
            types.DidChangeTextDocumentParams(
                types.VersionedTextDocumentIdentifier(version, path.as_uri()),
                [types.TextDocumentContentChangeWholeDocument(text)],
            )
        )

    def save(self, path: Path) -> None:
        self.client.text_document_did_save(types.DidSaveTextDocumentParams(_identifier(path)))

    def close(self, path: Path) -> None:
        self.client.text_document_did_close(types.DidCloseTextDocumentParams(_identifier(path)))

    async def actions(self, path: Path, row: int, only: list[str] | None = None) -> list[types.CodeAction]:
        found = await self.client.text_document_code_action_async(
            types.CodeActionParams(
                _identifier(path),
                types.Range(types.Position(row - 1, 0), types.Position(row - 1, 0)),
                types.CodeActionContext([], only=only),
            )
        )
        return [each for each in found or () if isinstance(each, types.CodeAction)]


def _identifier(path: Path) -> types.TextDocumentIdentifier:
    return types.TextDocumentIdentifier(path.as_uri())


@asynccontextmanager
async def editing(root: Path) -> AsyncIterator[Editor]:
    editor = Editor()
    await editor.start(root)
    try:
        yield editor
    finally:
        await editor.stop()


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """A training loop and the meter that it uses, in one project."""
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "meter.py").write_text(METER, encoding="utf-8")
    (tmp_path / "train.py").write_text(TRAIN, encoding="utf-8")
    return tmp_path / "train.py", tmp_path / "meter.py"


def run(session: Callable[[Editor], Awaitable[None]], root: Path) -> None:
    async def whole() -> None:
        async with editing(root) as editor:
            await session(editor)

    asyncio.run(whole())


def test_a_file_is_checked_when_it_is_opened_changed_and_closed(files: tuple[Path, Path]) -> None:
    train, _ = files

    async def session(editor: Editor) -> None:
        editor.open(train)
        (found,) = await editor.findings(train)
        assert (found.code, found.source, found.severity) == ("MEM101", "memlint", types.DiagnosticSeverity.Warning)
        assert "holds: " in found.message
        # 0-based; the clef counts as two UTF-16 code units.
        assert (found.range.start, found.range.end) == (types.Position(12, 27), types.Position(12, 31))
        editor.change(train, TRAIN.replace("(loss)", "(loss.detach())"), 2)
        assert await editor.findings(train) == []
        editor.change(train, TRAIN.replace("(loss)", "(loss"), 3)
        editor.change(train, TRAIN, 4)
        assert len(await editor.findings(train)) == 1
        editor.close(train)
        assert await editor.findings(train) == []

    run(session, train.parent)


def test_saving_a_file_checks_those_that_use_it(files: tuple[Path, Path]) -> None:
    train, meter = files

    async def session(editor: Editor) -> None:
        editor.open(train)
        assert len(await editor.findings(train)) == 1
        editor.open(meter)
        assert await editor.findings(meter) == []
        mended = METER.replace("+= value", "+= value.item()")
        meter.write_text(mended, encoding="utf-8")
        editor.change(meter, mended, 2)
        editor.save(meter)
        assert await editor.findings(train) == []

    run(session, train.parent)


def test_fixes_and_comments_are_offered_as_edits(files: tuple[Path, Path]) -> None:
    train, _ = files

    async def session(editor: Editor) -> None:
        editor.open(train)
        await editor.findings(train)
        fix, silence, everything = await editor.actions(train, 13)
        assert (fix.title, fix.is_preferred) == ("MEM101: Detach `loss` before it is kept", True)
        assert _applied(TRAIN, fix, train) == TRAIN.replace("(loss)", "(loss.detach())")
        silenced = TRAIN.replace("update(loss)\n", "update(loss)  # noqa: MEM101\n")
        assert _applied(TRAIN, silence, train) == silenced
        assert _applied(TRAIN, everything, train) == TRAIN.replace("(loss)", "(loss.detach())")
        assert [each.kind for each in await editor.actions(train, 1)] == ["source.fixAll.memlint"]
        assert [each.kind for each in await editor.actions(train, 13, ["source.fixAll"])] == ["source.fixAll.memlint"]

    run(session, train.parent)


def _applied(text: str, action: types.CodeAction, path: Path) -> str:
    assert action.edit is not None
    assert action.edit.changes is not None
    rows = text.splitlines(keepends=True)
    for edit in reversed(action.edit.changes[path.as_uri()]):
        start, end = (_offset(rows, place) for place in (edit.range.start, edit.range.end))
        text = text[:start] + edit.new_text + text[end:]
    return text


def _offset(rows: list[str], place: types.Position) -> int:
    before = "".join(rows[: place.line])
    row = rows[place.line] if place.line < len(rows) else ""
    return len(before) + len(row.encode("utf-16-le")[: 2 * place.character].decode("utf-16-le"))


def test_a_configuration_that_cannot_be_used_is_said_once(files: tuple[Path, Path]) -> None:
    train, meter = files
    (train.parent / "pyproject.toml").write_text("[tool.memlint]\nselct = []\n", encoding="utf-8")

    async def session(editor: Editor) -> None:
        editor.open(meter)
        editor.open(train)
        # Answers come in the order of the questions.
        assert await editor.actions(train, 13) == []
        assert editor.messages == ['memlint: pyproject.toml: unknown key "selct"; did you mean "select"?']

    run(session, train.parent)


def test_without_pygls_the_extra_is_named(tmp_path: Path) -> None:
    program = "import sys; sys.modules['pygls'] = None; from memlint.cli import run; sys.exit(run(['server']))"
    process = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert process.returncode == 2
    assert process.stderr == (
        'error: the language server needs pygls, which is not installed: pip install "torch-memlint[server]"\n'
    )
