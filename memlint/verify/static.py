"""The parent's first half: which findings there are, and what a run has to watch in order to judge them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from memlint.check.engine import check_data
from memlint.check.results import FileResult
from memlint.check.suppression import UnusedNoqa
from memlint.check.worker import UnstableFile, read
from memlint.config import Configuration
from memlint.diagnostics import Diagnostic, LocatedClaim
from memlint.files import ErrorKind, FileError, absolute, project_files, project_root
from memlint.findings import Confidence, Watch
from memlint.messages import UserError
from memlint.model.project import Project
from memlint.rule import Rule
from memlint.verify.closure import imported_files
from memlint.verify.plan import WatchedLine
from memlint.verify.statements import Place, Statements


@dataclass(frozen=True)
class Static:
    """What the check of the script and of the project's files that it imports has found."""

    root: Path
    script: Path
    results: tuple[FileResult, ...]
    errors: tuple[FileError, ...] = ()
    data: Mapping[Path, bytes] = field(default_factory=dict)
    """The bytes of the files, as they were checked."""

    @property
    def diagnostics(self) -> tuple[Diagnostic, ...]:
        """All findings, by file and place."""
        return tuple(each for result in self.results for each in result.diagnostics)


def check_program(script: Path, configuration: Configuration, rules: Sequence[Rule]) -> Static:
    """Checks ``script`` and what it imports, possible findings included. Raises :class:`UserError`."""
    script = absolute(script)
    if not script.is_file():
        raise UserError(f"{script}: no such file")
    root = project_root([script])
    files = project_files(root, [script], configuration)
    paths = imported_files(script, root)
    project = Project(root, files)
    results, errors, data = [], [], {}
    for path in paths:
        settings = configuration.settings(path.parent)
        if path != script and settings.excludes(path):
            continue
        try:
            data[path] = read(path)
        except (OSError, UnstableFile) as error:
            raise UserError(f"{path}: cannot be read: {error}") from error
        result = check_data(path, data[path], rules, project, settings, least=Confidence.POSSIBLE, named=path == script)
        if result.error and path == script and result.error.kind is not ErrorKind.INTERNAL:
            raise UserError(str(result.error))
        errors += [result.error] if result.error else []
        found = [each for each in result.diagnostics if each.code != UnusedNoqa.code]
        results.append(FileResult(path, found, result.error, result.text, result.cells))
    return Static(root, script, tuple(results), tuple(errors), data)


def watched_lines(static: Static) -> tuple[WatchedLine, ...]:
    """A watch for every finding with a claim that can be observed; numbers are places among the findings."""
    texts = {result.path: result.text for result in static.results}
    statements: dict[Path, Statements | None] = {}
    lines = []
    for number, diagnostic in enumerate(static.diagnostics):
        claim = diagnostic.claim
        if claim is None or claim.unobservable or not claim.watch:
            continue
        if diagnostic.path not in statements:
            statements[diagnostic.path] = _statements(texts[diagnostic.path] or "")
        known = statements[diagnostic.path]
        if known is not None:
            lines.append(_watched(number, diagnostic, claim, known))
    return tuple(lines)


def _statements(text: str) -> Statements | None:
    """None for what this Python does not parse, and so will not run."""
    try:
        return Statements(text)
    except (SyntaxError, ValueError, RecursionError):
        return None


def _watched(number: int, diagnostic: Diagnostic, claim: LocatedClaim, statements: Statements) -> WatchedLine:
    place = _place(diagnostic, claim, statements)
    roots = _roots(diagnostic, claim, place, statements)
    return WatchedLine(
        number,
        str(diagnostic.path),
        place.rows,
        place.loop,
        claim.watch,
        tuple(roots),
        place.function,
        place.function_end,
        place.repeats,
    )


def _place(diagnostic: Diagnostic, claim: LocatedClaim, statements: Statements) -> Place:
    start, end = claim.holder_location, claim.holder_end_location
    if claim.watch in _AT_THE_HOLDER and start is not None and end is not None:
        place = statements.place_of(start, end)
    else:
        place = statements.place(diagnostic)
    return replace(place, rows=place.block) if claim.watch == Watch.CACHED_CASTS.value else place


_AT_THE_HOLDER = frozenset(
    {Watch.FILLED.value, Watch.CACHED_CASTS.value, Watch.SAMPLE_OBJECTS.value, Watch.CYCLED.value}
)


def _roots(diagnostic: Diagnostic, claim: LocatedClaim, place: Place, statements: Statements) -> Iterable[str]:
    """Expressions to look at, best first."""
    watch = Watch(claim.watch)
    here = claim.holder_location
    # A holder in the function that is called, or in another file, means something else here.
    holder = claim.holder if here is not None and statements.same_function(here, diagnostic.location) else None
    receiver = place.receiver
    if watch is Watch.RETAINED_GRAPH:
        # The loss: of ``loss.backward()`` what stands before the dot, of ``manual_backward(loss)`` the argument.
        candidates = [receiver, *place.arguments] if "backward" in (claim.held or "") else [holder, claim.held]
    elif watch is Watch.SUMMED_GRAPHS:
        # What the statement binds may be the loss of one iteration.
        candidates = [holder, place.taker]
    elif watch in {Watch.FILLED, Watch.SAMPLE_OBJECTS, Watch.CYCLED}:
        candidates = [claim.holder]
    elif watch is Watch.UNSHARDED:
        candidates = [*place.arguments]
    elif watch is Watch.REGROWN:
        candidates = [holder, *place.targets]
    elif watch is Watch.STRAY_GRADIENTS:
        candidates = [claim.held]
    elif watch is Watch.DOUBLE_PARAMETER:
        candidates = [holder, claim.held]
    elif watch is Watch.REACHABLE:
        # A holder that stands elsewhere belongs to what takes the value, and is not the value itself.
        candidates = [holder or place.taker] if claim.holder else [claim.held, *place.targets]
    else:
        candidates = [holder, receiver]
    return dict.fromkeys(each for each in candidates if each)
