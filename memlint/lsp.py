"""The language server: findings while a file is edited, with their fixes and ``noqa`` comments as quick fixes.

A file is checked when it is opened, when it is saved, and a moment after the last key was pressed, together with the
other files of its project: open ones as they are in the editor, the others as they are on the disk. What does not parse
yet keeps the findings of its last version that did.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from lsprotocol import types
from pygls.lsp.server import LanguageServer
from pygls.uris import to_fs_path
from pygls.workspace import TextDocument

from memlint import __version__
from memlint.check.hosted import HostedChecker
from memlint.check.results import FileResult
from memlint.check.suppression import noqa_additions
from memlint.config import ConfigError, Configuration
from memlint.diagnostics import Diagnostic, LocatedFix, Location
from memlint.files import absolute
from memlint.findings import Applicability, Severity
from memlint.fixing import fix_data
from memlint.notebook import read_source
from memlint.rule import Rule
from memlint.source import Source, encoded

FIX_ALL = f"{types.CodeActionKind.SourceFixAll.value}.memlint"
"""The kind of the action that applies all safe fixes of a file; editors run it on saving if told so."""
_PAUSE = 0.3
"""Seconds without a key after which the text is checked."""
_SEVERITIES = {
    Severity.ERROR: types.DiagnosticSeverity.Error,
    Severity.WARNING: types.DiagnosticSeverity.Warning,
    Severity.NOTE: types.DiagnosticSeverity.Information,
}


@dataclass(frozen=True)
class _Checked:
    """What was found in one version of a document."""

    version: int | None
    document: TextDocument
    path: Path
    data: bytes
    result: FileResult

    @property
    def source(self) -> Source:
        return read_source(self.path, self.data)

    def range(self, start: Location, end: Location) -> types.Range:
        """The client's range; its columns count what the client has chosen, UTF-16 code units as a rule."""
        found = types.Range(*(types.Position(place.row - 1, place.column - 1) for place in (start, end)))
        return self.document.position_codec.range_to_client_units(self.document.lines, found)


class Server(LanguageServer):
    """Checks the open documents one at a time, off the thread that talks to the editor."""

    def __init__(self, configuration: Configuration, rules: Sequence[Rule]) -> None:
        super().__init__("memlint", __version__)
        self._checker = HostedChecker(configuration, rules)
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="check")
        self._checked: dict[str, _Checked] = {}
        self._complained: set[str] = set()

    async def changed(self, uri: str, pause: float = _PAUSE) -> None:
        """Checks the document after a pause, unless it changes in the meantime."""
        version = self.workspace.get_text_document(uri).version
        await asyncio.sleep(pause)
        if uri in self.workspace.text_documents and self.workspace.get_text_document(uri).version == version:
            await self.check(uri)

    async def saved(self, uri: str) -> None:
        """Checks all open documents anew: each may depend on what has been written."""
        self._checker.forget()
        for each in dict.fromkeys((uri, *self._checked)):
            await self.check(each)

    async def check(self, uri: str) -> None:
        """Checks the document as it is now and publishes what is found."""
        path = to_fs_path(uri)
        # Editors hand out a notebook cell by cell, under names that are no files.
        if path is None or path.endswith(".ipynb"):
            return
        document = self.workspace.get_text_document(uri)
        version, text = document.version, document.source
        copy = TextDocument(uri, text, version, position_codec=document.position_codec)
        loop = asyncio.get_running_loop()
        checked = await loop.run_in_executor(self._worker, self._check, copy, absolute(Path(path)))
        if checked is not None and uri in self.workspace.text_documents:
            self._checked[uri] = checked
            self._publish(uri, version, [_diagnostic(each, checked) for each in checked.result.diagnostics])

    def closed(self, uri: str) -> None:
        """Forgets the document."""
        if self._checked.pop(uri, None):
            self._publish(uri, None, [])

    async def actions(self, asked: types.CodeActionParams) -> list[types.CodeAction]:
        """What can be done about the findings in a range, and about all that have a safe fix."""
        return await asyncio.get_running_loop().run_in_executor(self._worker, self._actions, asked)

    def _actions(self, asked: types.CodeActionParams) -> list[types.CodeAction]:
        uri = asked.text_document.uri
        checked = self._checked.get(uri)
        document = self.workspace.get_text_document(uri)
        if checked is None or checked.document.source != document.source:
            return []
        only = asked.context.only
        found: list[types.CodeAction] = []
        if _is_asked_for(types.CodeActionKind.QuickFix.value, only):
            found += _quick_fixes(checked, asked.range)
        if _is_asked_for(FIX_ALL, only):
            found += self._fix_all(checked)
        return found

    def _check(self, document: TextDocument, path: Path) -> _Checked | None:
        data = encoded(document.source.splitlines(keepends=True))
        try:
            result = self._checker.check(path, data)
        except ConfigError as error:
            self._complain(str(error))
            return None
        return None if result.error else _Checked(document.version, document, path, data, result)

    def _complain(self, message: str) -> None:
        if message not in self._complained:
            self._complained.add(message)
            shown = types.ShowMessageParams(types.MessageType.Error, f"memlint: {message}")
            self.window_show_message(shown)

    def _publish(self, uri: str, version: int | None, diagnostics: list[types.Diagnostic]) -> None:
        self.text_document_publish_diagnostics(types.PublishDiagnosticsParams(uri, diagnostics, version))

    def _fix_all(self, checked: _Checked) -> Iterator[types.CodeAction]:
        if not any(each.fix and each.fix.applicability is Applicability.SAFE for each in checked.result.diagnostics):
            return
        outcome = fix_data(checked.path, checked.data, lambda data: self._checker.check(checked.path, data), False)
        if outcome.passes:
            text = read_source(checked.path, outcome.data).text
            whole = types.Range(types.Position(0, 0), types.Position(len(checked.document.lines), 0))
            yield _action("memlint: apply all safe fixes", checked, [types.TextEdit(whole, text)], kind=FIX_ALL)


def _is_asked_for(kind: str, only: Sequence[types.CodeActionKind | str] | None) -> bool:
    """Whether the editor wants actions of ``kind``: it names kinds that hold it, or none."""
    names = [str(getattr(each, "value", each)) for each in only or ()]
    return not names or any(kind == name or kind.startswith(f"{name}.") for name in names)


def _diagnostic(found: Diagnostic, checked: _Checked) -> types.Diagnostic:
    is_link = found.url.startswith("http")
    return types.Diagnostic(
        range=checked.range(found.location, found.end_location),
        message=f"{found.message}\nholds: {found.holds}",
        severity=_SEVERITIES[found.severity],
        code=found.code,
        code_description=types.CodeDescription(found.url) if is_link else None,
        source="memlint",
        related_information=[
            types.DiagnosticRelatedInformation(
                types.Location(checked.document.uri, checked.range(each.location, each.end_location)), each.message
            )
            for each in found.related
        ],
    )


def _quick_fixes(checked: _Checked, wanted: types.Range) -> Iterator[types.CodeAction]:
    for found in checked.result.diagnostics:
        place = checked.range(found.location, found.end_location)
        if place.start.line > wanted.end.line or wanted.start.line > place.end.line:
            continue
        about = [_diagnostic(found, checked)]
        for number, fix in enumerate(each for each in found.fixes if each.applicability is not Applicability.DISPLAY):
            is_safe = fix.applicability is Applicability.SAFE
            title = f"{found.code}: {fix.message}" + ("" if is_safe else " (unsafe)")
            yield _action(title, checked, _fix_edits(fix, checked), about, preferred=is_safe and number == 0)
        yield _action(f"{found.code}: Silence with a noqa comment", checked, _noqa_edits(found, checked), about)


def _action(
    title: str,
    checked: _Checked,
    edits: list[types.TextEdit],
    diagnostics: list[types.Diagnostic] | None = None,
    kind: str = types.CodeActionKind.QuickFix.value,
    preferred: bool | None = None,
) -> types.CodeAction:
    change = types.WorkspaceEdit(changes={checked.document.uri: edits})
    return types.CodeAction(title, kind=kind, diagnostics=diagnostics, is_preferred=preferred, edit=change)


def _fix_edits(fix: LocatedFix, checked: _Checked) -> list[types.TextEdit]:
    return [types.TextEdit(checked.range(edit.location, edit.end_location), edit.content) for edit in fix.edits]


def _noqa_edits(found: Diagnostic, checked: _Checked) -> list[types.TextEdit]:
    source = checked.source
    return [
        types.TextEdit(checked.range(source.place(each.start), source.place(each.end)), each.content)
        for each in noqa_additions(source, [found])
    ]


def server(configuration: Configuration, rules: Sequence[Rule]) -> Server:
    """A server that is ready to talk to an editor."""
    made = Server(configuration, rules)

    @made.feature(types.TEXT_DOCUMENT_DID_OPEN)
    async def opened(params: types.DidOpenTextDocumentParams) -> None:
        await made.check(params.text_document.uri)

    @made.feature(types.TEXT_DOCUMENT_DID_CHANGE)
    async def changed(params: types.DidChangeTextDocumentParams) -> None:
        await made.changed(params.text_document.uri)

    @made.feature(types.TEXT_DOCUMENT_DID_SAVE)
    async def saved(params: types.DidSaveTextDocumentParams) -> None:
        await made.saved(params.text_document.uri)

    @made.feature(types.TEXT_DOCUMENT_DID_CLOSE)
    def closed(params: types.DidCloseTextDocumentParams) -> None:
        made.closed(params.text_document.uri)

    @made.feature(
        types.TEXT_DOCUMENT_CODE_ACTION,
        types.CodeActionOptions(code_action_kinds=[types.CodeActionKind.QuickFix, FIX_ALL]),
    )
    async def actions(params: types.CodeActionParams) -> list[types.CodeAction]:
        return await made.actions(params)

    return made
