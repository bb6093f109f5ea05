"""``memlint check``."""

from __future__ import annotations

import gc
import json
import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TextIO

import click

from memlint import stages
from memlint.cache.cache import DIRECTORY, Cache
from memlint.check.collector import collector_out, let_go
from memlint.check.results import Action
from memlint.check.session import STDIN, Outcome, Session, default_jobs
from memlint.commands.configuration import configuration_from, known_rules, listed, selectors
from memlint.config import (
    ConfigError,
    Options,
    Patterns,
    PerFileIgnore,
    Settings,
    checked_device,
    checked_format,
    checked_patterns,
    checked_selectors,
    shown,
)
from memlint.diagnostics import Diagnostic
from memlint.files import absolute, is_root, project_root
from memlint.findings import Applicability
from memlint.messages import CLEAN, FAILED, FOUND, UserError
from memlint.report import Report, fails, renderer
from memlint.report.style import wants_color, wrapped
from memlint.rule import Rule, RuleFacts
from memlint.writing import WriteError, write_atomically

_TEXT_FORMATS = ("full", "concise")
_FORMATS_WITH_RULES = ("sarif",)
"""Formats that say something of all rules, whether they have found anything or not."""
CACHE_VARIABLE = "MEMLINT_CACHE_DIR"
"""Environment variable that says where caches are kept."""
_WATCH_INTERVAL = 0.5
"""Seconds between two looks at the files."""


@dataclass(frozen=True)
class Arguments:
    """The options of ``memlint check``; None is what was not given."""

    fix: bool | None
    unsafe_fixes: bool | None
    diff: bool
    select: tuple[str, ...]
    ignore: tuple[str, ...]
    extend_select: tuple[str, ...]
    per_file_ignores: tuple[str, ...]
    exclude: tuple[str, ...]
    extend_exclude: tuple[str, ...]
    force_exclude: bool | None
    respect_gitignore: bool | None
    device: str | None
    output_format: str | None
    output_file: Path | None
    statistics: bool
    add_noqa: bool
    show_files: bool
    exit_zero: bool
    exit_non_zero_on_fix: bool
    no_cache: bool
    cache_dir: Path | None
    watch: bool
    stdin_filename: Path | None
    jobs: int | None
    profile: bool
    quiet: bool
    verbose: bool
    config: tuple[str, ...]
    isolated: bool

    def overrides(self, codes: frozenset[str]) -> Options:
        """What they say about the configuration. Raises ConfigError."""
        return Options(
            select=selectors("--select", self.select, codes),
            ignore=selectors("--ignore", self.ignore, codes),
            extend_select=selectors("--extend-select", self.extend_select, codes),
            per_file_ignores=_per_file_ignores(self.per_file_ignores, codes),
            exclude=_patterns("--exclude", self.exclude),
            extend_exclude=_patterns("--extend-exclude", self.extend_exclude),
            force_exclude=self.force_exclude,
            respect_gitignore=self.respect_gitignore,
            output_format=checked_format(self.output_format, "--output-format") if self.output_format else None,
            device=checked_device(self.device, "--device") if self.device else None,
            fix=self.fix,
            unsafe_fixes=self.unsafe_fixes,
        )


def cache_directory(given: Path | None, root: Path) -> Path:
    """Where caches are kept: as the command line or the environment says, else at the root of the project."""
    named = given or os.environ.get(CACHE_VARIABLE)
    if named:
        return absolute(Path(named))
    return (root if is_root(root) else Path.cwd()) / DIRECTORY


def _patterns(option: str, given: Sequence[str]) -> Patterns | None:
    parts = listed(given)
    return None if parts is None else Patterns(Path.cwd(), checked_patterns(parts, option))


def _per_file_ignores(given: Sequence[str], codes: frozenset[str]) -> tuple[PerFileIgnore, ...] | None:
    option = "--per-file-ignores"
    pairs = [part.rpartition(":") for part in listed(given) or ()]
    for pattern, colon, code in pairs:
        if not (pattern and colon and code):
            raise ConfigError(f'{option}: "{pattern}{colon}{code}" is not PATTERN:CODE')
        checked_patterns((pattern.removeprefix("!"),), option)
    ignores = (
        PerFileIgnore(Path.cwd(), pattern, checked_selectors((code,), option, codes)) for pattern, _, code in pairs
    )
    return tuple(ignores) if given else None


def check(paths: Sequence[str], rules: Sequence[Rule] | None, arguments: Arguments) -> int:
    """Runs the command and returns its exit code. Raises ConfigError and click.UsageError."""
    return _Check(paths, rules, arguments).run()


class _Check:
    def __init__(self, paths: Sequence[str], rules: Sequence[Rule] | None, arguments: Arguments) -> None:
        self.paths = [Path(path) for path in paths or (".",)]
        self._given = rules
        self.arguments = arguments
        self.from_stdin = STDIN in self.paths
        self._expect_sense("" in paths)
        self.cache = self._cache()
        self.facts = self._facts()
        codes = frozenset(rule.code for rule in self.facts)
        overrides = arguments.overrides(codes)
        self.configuration = configuration_from(codes, arguments.config, arguments.isolated, overrides)
        self.settings = self._own_settings(overrides)

    def rules(self) -> tuple[Rule, ...]:
        """All rules, loaded when they are needed."""
        return known_rules(self._given)

    def _facts(self) -> tuple[RuleFacts, ...]:
        """What there is to select, without the rules being loaded if the cache knows it."""
        kept = self.cache.facts if self.cache is not None else None
        return kept or tuple(map(RuleFacts.of, self.rules()))

    def _cache(self) -> Cache | None:
        if self.arguments.no_cache or self._given is not None or self.from_stdin or self.arguments.show_files:
            return None
        root = project_root([absolute(path) for path in self.paths])
        return Cache(cache_directory(self.arguments.cache_dir, root), root)

    def _expect_sense(self, has_empty_path: bool) -> None:
        given = self.arguments
        if has_empty_path:
            raise click.UsageError("a path is empty")
        if self.from_stdin and len(self.paths) > 1:
            raise click.UsageError("- (standard input) cannot be checked together with other paths")
        if self.from_stdin and (given.watch or given.add_noqa):
            raise click.UsageError(f"{'--watch' if given.watch else '--add-noqa'} needs files, not standard input")
        if given.add_noqa and (given.fix or given.diff):
            raise click.UsageError(f"--add-noqa and {'--diff' if given.diff else '--fix'} contradict each other")

    def _own_settings(self, overrides: Options) -> Settings:
        """The settings that say how to print: those of the working directory."""
        try:
            return self.configuration.settings(Path.cwd())
        except ConfigError:
            # What is wrong is said when a file needs it.
            return overrides.applied(Settings(Path.cwd()))

    @property
    def _action(self) -> Action:
        if self.arguments.add_noqa:
            return Action.ADD_NOQA
        return Action.FIX if self.arguments.fix or self.arguments.diff else Action.CHECK

    def run(self) -> int:
        if self.from_stdin:
            return self._run_on_stdin()
        if self.arguments.watch:
            return self._watch()
        return self._run_once()[0]

    def _session(self, cache: Cache | None = None) -> Session:
        profile = self.arguments.profile
        return Session(self.configuration, self._loader, self.paths, self._action, cache, self.facts, profile)

    @property
    def _loader(self) -> Callable[[], tuple[Rule, ...]]:
        """What other processes can call to have the rules."""
        return partial(known_rules, self._given)

    def _run_once(self) -> tuple[int, Outcome]:
        if self.arguments.profile:
            stages.start()
        session = self._session(self.cache)
        if self.arguments.show_files:
            print_text("".join(f"{file.path}\n" for file in session.files))
            return self._complain(Outcome(errors=session.discovery.errors)), Outcome()
        if not session.files and not session.discovery.errors:
            _say("warning: no Python files found")
        self._log(session)
        start = time.monotonic()
        outcome = session.run(self.arguments.jobs, self._progress)
        if self.arguments.verbose:
            _say(f"checked in {time.monotonic() - start:.2f} s")
        if not self.arguments.diff:
            outcome.write()
        with stages.stage("report"):
            code = self._finish(outcome, session.root)
        if self.arguments.profile:
            self._print_profile(outcome)
        return code, outcome

    def _print_profile(self, outcome: Outcome) -> None:
        from memlint.report.profile import table

        print_text(table(stages.finished(), outcome.seconds), sys.stderr)

    def _run_on_stdin(self) -> int:
        name = self.arguments.stdin_filename
        session = Session(self.configuration, self._loader, [], self._action)
        data = sys.stdin.buffer.read()
        outcome = session.run_on(data, name)
        report = outcome.reports[0]
        fixes = self._action is Action.FIX or self.configuration.settings(report.file.path.parent).fix
        if not fixes or self.arguments.diff:
            return self._finish(outcome, session.root)
        # As with ruff, what standard output gets is the program, fixed or not.
        print_bytes(data if report.after is None else report.after)
        return self._finish(outcome, session.root, to_stderr=True)

    # ------------------------------------------------------------------------------------------------ output

    def _finish(self, outcome: Outcome, root: Path, to_stderr: bool = False) -> int:
        """Prints what has been found and says what that means for the exit code."""
        failed = self._complain(outcome)
        if self.arguments.diff:
            self._print_diff(outcome)
            changed = bool(outcome.changed) and not self.arguments.exit_zero
            return failed or (FOUND if changed else CLEAN)
        if self.arguments.add_noqa:
            _say(f"Added noqa comments for {_counted(outcome.silenced)}.", quiet=self.arguments.quiet)
            return failed
        self._print_findings(outcome, root, to_stderr)
        if failed or self.arguments.exit_zero:
            return failed
        fixed = self.arguments.exit_non_zero_on_fix and outcome.fixed
        found = any(fails(diagnostic) for result in outcome.results for diagnostic in result.diagnostics)
        return FOUND if found or fixed else CLEAN

    def _complain(self, outcome: Outcome) -> int:
        for error in outcome.warnings:
            _say(f"warning: {error}")
        for report in outcome.reports:
            for refusal in report.refused:
                row = refusal.diagnostic.location.row
                _say(f"warning: {shown(report.file.path)}:{row}: {refusal.diagnostic.code} not fixed: {refusal.reason}")
        for error in outcome.errors:
            _say(f"error: {error}")
        return FAILED if outcome.errors else CLEAN

    def _print_diff(self, outcome: Outcome) -> None:
        from memlint.fixing import unified_diff

        for report in outcome.changed:
            name = "-" if self.from_stdin and not self.arguments.stdin_filename else shown(report.file.path)
            after = report.after or b""
            print_bytes(unified_diff(report.file.path, Path(name).as_posix(), report.before, after))
        would = f"Would fix {_counted(outcome.fixed.total())}." if outcome.fixed else "No fixes to apply."
        _say(would, quiet=self.arguments.quiet)

    def _print_findings(self, outcome: Outcome, root: Path, to_stderr: bool) -> None:
        file = self.arguments.output_file
        stream = sys.stderr if to_stderr else sys.stdout
        color = file is None and wants_color(stream)
        width = shutil.get_terminal_size().columns if file is None and stream.isatty() else None
        errors = [*outcome.errors, *outcome.warnings]
        output_format = self.settings.output_format
        rules = self.rules() if output_format in _FORMATS_WITH_RULES else ()
        report = Report(outcome.results, errors, rules, root, self.settings.unsafe_fixes, width)
        if self.arguments.statistics:
            text = _statistics(report, as_json=output_format == "json")
        else:
            text = renderer(output_format).render(report, color=color)
        if file:
            write_output(file, text)
        else:
            print_text(text, stream)
        if output_format in _TEXT_FORMATS and not self.arguments.quiet:
            print_text(_summary(report, outcome, bool(outcome.errors)), stream)

    def _log(self, session: Session) -> None:
        if self.arguments.verbose:
            jobs = self.arguments.jobs or default_jobs(len(session.files))
            _say(f"project: {session.root}")
            _say(f"configuration: {self.settings.source or 'none'}")
            _say(f"files: {len(session.files)}, processes: {min(jobs, max(len(session.files), 1))}")

    @contextmanager
    def _progress(self, files: int) -> Iterator[Callable[[], None]]:
        """A bar on the terminal, while there is something to wait for."""
        if self.arguments.quiet or self.arguments.verbose or files < 2 or not sys.stderr.isatty():
            yield lambda: None
            return
        from rich.console import Console
        from rich.progress import Progress

        console = Console(stderr=True, no_color=not wants_color(sys.stderr))
        progress = Progress(console=console, transient=True, disable=console.is_dumb_terminal)
        task = progress.add_task("Checking", total=files)

        def done() -> None:
            # The bar has a thread; once there is one, other processes have to load everything for themselves.
            progress.start()
            progress.advance(task)

        try:
            yield done
        finally:
            progress.stop()

    # ------------------------------------------------------------------------------------------------ watching

    def _watch(self) -> int:
        """Checks until Ctrl-C."""
        gc.enable()  # Between the checks, which may take days.
        while True:
            before = self._snapshot()
            if sys.stdout.isatty():
                click.clear()
            with collector_out():
                _, outcome = self._run_once()
            self.cache = self._cache()
            # What memlint has just written itself is no news.
            before.times.update(_times(report.file.path for report in outcome.changed))
            let_go()
            _say("Watching for changes (Ctrl-C ends).", quiet=self.arguments.quiet)
            self._wait(before)

    def _wait(self, before: _Snapshot) -> None:
        """Returns when the files are no longer what they were."""
        seconds = 0.0
        while True:
            # Looking must not become the main thing that this machine does.
            time.sleep(max(_WATCH_INTERVAL, 5 * seconds))
            start = time.monotonic()
            if self._snapshot() != before:
                return
            seconds = time.monotonic() - start

    def _snapshot(self) -> _Snapshot:
        self.configuration.forget()
        session = self._session()
        files = {file.path for file in session.files}
        sources = {self.configuration.source(path.parent) for path in files}
        return _Snapshot(_times([*files, *filter(None, sources)]), tuple(map(str, session.discovery.errors)))


@dataclass(frozen=True)
class _Snapshot:
    """What has to change before files are checked again."""

    times: dict[Path, int]
    """When the files, and what configures them, were last changed."""
    errors: tuple[str, ...]
    """What stood in the way of finding more."""


def _times(paths: Iterable[Path]) -> dict[Path, int]:
    times = {}
    for path in paths:
        with suppress(OSError):
            times[path] = path.stat().st_mtime_ns
    return times


def _say(text: str, quiet: bool = False) -> None:
    if not quiet:
        click.echo(text, err=True)


def print_text(text: str, stream: TextIO | None = None) -> None:
    """Writes to standard output, whatever characters it can take."""
    stream = stream or sys.stdout
    encoding = stream.encoding or "utf-8"
    stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
    stream.flush()


def print_bytes(data: bytes) -> None:
    """Writes to standard output as it is."""
    sys.stdout.flush()
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def write_output(file: Path, text: str) -> None:
    """Makes ``file`` hold ``text``: whole, or not at all."""
    data = text.encode("utf-8", "backslashreplace")
    is_new = not file.exists()
    try:
        if not is_new and not file.is_file():
            # A pipe or a terminal cannot be replaced.
            file.write_bytes(data)
            return
        file.touch()
        write_atomically(file, data)
    except OSError as error:
        raise UserError(f"{file}: cannot be written: {error.strerror or error}") from error
    except WriteError as error:
        raise UserError(str(error)) from error
    finally:
        if is_new and file.exists() and not file.stat().st_size:
            file.unlink()


def _counted(number: int) -> str:
    return f"{number} hazard{'s' * (number != 1)}"


def _summary(report: Report, outcome: Outcome, failed: bool) -> str:
    """How many findings there are, and what ``--fix`` would do about them."""
    left = list(report.diagnostics)
    fixed = outcome.fixed.total()
    if not left and not fixed:
        return "" if failed else "All checks passed!\n"
    counts = f" ({fixed} fixed, {len(left)} remaining)" if fixed else ""
    lines = [f"Found {_counted(len(left) + fixed)}{counts}."]
    fixable = sum(report.applicable_fix(diagnostic) is not None for diagnostic in left)
    hidden = 0 if report.unsafe_fixes else sum(_has_unsafe_fix_only(diagnostic) for diagnostic in left)
    more = f"{hidden} hidden fix{'es' * (hidden != 1)} can be enabled with the `--unsafe-fixes` option"
    if fixable:
        lines.append(f"[*] {fixable} fixable with the `--fix` option{f' ({more})' if hidden else ''}.")
    elif hidden:
        lines.append(f"No fixes available ({more}).")
    return "".join(f"{wrapped('', line, 0, report.width)}\n" for line in lines)


def _has_unsafe_fix_only(diagnostic: Diagnostic) -> bool:
    applicabilities = {fix.applicability for fix in diagnostic.fixes}
    return Applicability.UNSAFE in applicabilities and Applicability.SAFE not in applicabilities


def _statistics(report: Report, as_json: bool) -> str:
    """Findings by rule, the most frequent first."""
    counts = Counter((diagnostic.code, diagnostic.name) for diagnostic in report.diagnostics)
    fixable = Counter(diagnostic.code for diagnostic in report.diagnostics if report.applicable_fix(diagnostic))
    rows = sorted(counts.items(), key=lambda row: (-row[1], row[0]))
    if as_json:
        table = [{"code": code, "name": name, "count": count, "fixable": fixable[code]} for (code, name), count in rows]
        return json.dumps(table, indent=2) + "\n"
    width = len(str(rows[0][1])) if rows else 0
    return "".join(
        f"{count:>{width}}  {code}  {'[*]' if fixable[code] else '[ ]'} {name}\n" for (code, name), count in rows
    )
