"""``memlint verify``."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import click

from memlint.commands.check import print_text, write_output
from memlint.commands.configuration import configuration_from, known_rules, selectors
from memlint.config import Options, shown
from memlint.files import absolute
from memlint.messages import CLEAN, FAILED, FOUND, UserError
from memlint.report.concise import place
from memlint.report.style import wants_color
from memlint.report.verification import verdict_renderer
from memlint.rule import Rule
from memlint.trace.errors import TraceError
from memlint.trace.reading import read_trace
from memlint.verify.compare import compare
from memlint.verify.decide import decide
from memlint.verify.fixed import FixedFile, fixed_files
from memlint.verify.launch import Program, run_program
from memlint.verify.memory import run_memory
from memlint.verify.observations import Observations
from memlint.verify.offline import judge_trace, trace_name
from memlint.verify.plan import Budget
from memlint.verify.ranks import RankResult, Ranks, merged
from memlint.verify.report import VerifyReport, failure_of
from memlint.verify.static import Static, check_program, watched_lines
from memlint.verify.verdicts import Verdict
from memlint.writing import WriteError, write_atomically

_INSTALL = 'pip install "torch-memlint[verify]"'


@dataclass(frozen=True)
class Arguments:
    """The options of ``memlint verify``."""

    module: str | None
    steps: int
    batches: int
    timeout: float
    with_fixes: bool
    unsafe_fixes: bool
    apply_confirmed: bool
    select: tuple[str, ...]
    ignore: tuple[str, ...]
    trace: Path | None
    trace_dir: Path | None
    html: Path | None
    output_format: str
    output_file: Path | None
    quiet: bool
    exit_zero: bool
    config: tuple[str, ...]
    isolated: bool


def verify(words: Sequence[str], rules: Sequence[Rule] | None, arguments: Arguments) -> int:
    """Runs the command and returns its exit code.

    ``words`` are the script, unless a module is given, and its arguments.

    Raises UserError and click.UsageError.
    """
    return _Verify(words, known_rules(rules), arguments).run()


class _Verify:
    def __init__(self, words: Sequence[str], rules: tuple[Rule, ...], arguments: Arguments) -> None:
        self.arguments = arguments
        self.rules = rules
        if arguments.module is None and not words:
            raise click.UsageError('which script? Use "memlint verify SCRIPT [-- ARGUMENT...]"')
        target, rest = (arguments.module, words) if arguments.module is not None else (words[0], words[1:])
        self.program = Program(target, arguments.module is not None, tuple(rest))
        codes = frozenset(rule.code for rule in rules)
        overrides = Options(
            select=selectors("--select", arguments.select, codes), ignore=selectors("--ignore", arguments.ignore, codes)
        )
        self.configuration = configuration_from(codes, arguments.config, arguments.isolated, overrides)
        self.budget = Budget(arguments.steps, arguments.batches, arguments.timeout)

    def run(self) -> int:
        static = check_program(self._script(), self.configuration, self.rules)
        for error in static.errors:
            click.echo(f"warning: {error}", err=True)
        report = self._read(static, self.arguments.trace) if self.arguments.trace else self._run(static)
        ranks = Ranks.from_environment() if self.arguments.trace is None else None
        if ranks is not None:
            ranks.publish(
                RankResult(ranks.rank, tuple(each.ruling for each in report.judged), report.memory, report.seen)
            )
            if ranks.rank:
                # Its verdicts stand in the report of the first one.
                return CLEAN
            report = self._merged(report, ranks)
        self._print(report)
        if self.arguments.apply_confirmed:
            self._apply(static, report)
        if report.failure:
            return FAILED
        return FOUND if report.counts[Verdict.CONFIRMED] and not self.arguments.exit_zero else CLEAN

    def _script(self) -> Path:
        if not self.program.is_module:
            return Path(self.program.target)
        return module_file(self.program.target)

    # ------------------------------------------------------------------------------------------------ running

    def _run(self, static: Static) -> VerifyReport:
        if importlib.util.find_spec("torch") is None:
            raise UserError(f"torch is not installed for {sys.executable}; install it with: {_INSTALL}")
        lines = watched_lines(static)
        self._say(f"Watching {len(lines)} of {len(static.diagnostics)} findings while {self.program.target} runs.")
        keep, profile = self._trace_files()
        outcome = run_program(self.program, lines, self.budget, silent=self.arguments.quiet, keep=keep, profile=profile)
        judged = decide(static.diagnostics, lines, outcome.seen, outcome.recording)
        report = VerifyReport(
            program=self.program.target,
            root=static.root,
            judged=judged,
            seen=outcome.seen,
            memory=run_memory(outcome.recording, outcome.seen),
            results=static.results,
            rules=self.rules,
            errors=static.errors,
            recording=outcome.recording,
        )
        return self._compared(static, report) if self.arguments.with_fixes else report

    def _trace_files(self) -> tuple[Path | None, Path | None]:
        """Where the snapshot and the profiler's trace go, if they are wanted."""
        folder = self.arguments.trace_dir
        if folder is None:
            return None, None
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{Path(self.program.target).stem}-rank{os.environ.get('RANK', '0')}"
        return absolute(folder / f"{name}.pickle"), absolute(folder / f"{name}.pt.trace.json.gz")

    def _read(self, static: Static, path: Path) -> VerifyReport:
        """Decides from a recorded trace."""
        try:
            recording = read_trace(path)
        except TraceError as error:
            raise UserError(str(error)) from error
        seen = Observations(notes=list(recording.notes), has_torch=True)
        memory = run_memory(recording)
        seen.steps = len(memory.step_ends) if memory is not None else 0
        return VerifyReport(
            program=self.program.target,
            root=static.root,
            judged=judge_trace(static.diagnostics, watched_lines(static), recording, memory),
            seen=seen,
            memory=memory,
            results=static.results,
            rules=self.rules,
            errors=static.errors,
            recording=recording,
            trace=trace_name(path, recording),
        )

    def _merged(self, report: VerifyReport, ranks: Ranks) -> VerifyReport:
        results = ranks.collect(self.arguments.timeout)
        figures = [(result.rank, result.memory) for result in results if result.memory is not None]
        worst = max((memory for _, memory in figures), key=lambda memory: memory.peak_allocated, default=report.memory)
        missing = ranks.local_world - len(results)
        if missing:
            report.seen.notes.append(f"{missing} of {ranks.local_world} ranks did not report")
        failed = [each for each in results if failure_of(report.program, each.seen)]
        return replace(
            report,
            judged=merged(report.judged, results),
            seen=failed[0].seen if failed else report.seen,
            memory=worst,
            ranks=figures,
        )

    def _compared(self, static: Static, report: VerifyReport) -> VerifyReport:
        unsafe = self.arguments.unsafe_fixes
        compared = compare(
            self.program,
            static.root,
            partial(fixed_files, static, self.configuration, self.rules, unsafe=unsafe),
            self.budget,
            report.seen,
            judged=report.judged,
            corrections=self._corrections,
            say=self._say,
        )
        return replace(report, comparison=compared)

    @property
    def _corrections(self) -> dict[str, str]:
        return {rule.code: rule.corrects for rule in self.rules if rule.corrects}

    # ----------------------------------------------------------------------------------------------- printing

    def _print(self, report: VerifyReport) -> None:
        file = self.arguments.output_file
        color = file is None and wants_color(sys.stdout)
        width = shutil.get_terminal_size().columns if file is None and sys.stdout.isatty() else None
        text = verdict_renderer(self.arguments.output_format).render(report, color=color, width=width)
        if file is not None:
            write_output(file, text)
        else:
            print_text(text)
        if self.arguments.html is not None:
            write_output(self.arguments.html, verdict_renderer("html").render(report))

    def _apply(self, static: Static, report: VerifyReport) -> None:
        """Writes the fixes of what was confirmed."""
        confirmed = [each.diagnostic for each in report.judged if each.is_confirmed]
        files = fixed_files(static, self.configuration, self.rules, unsafe=self.arguments.unsafe_fixes, only=confirmed)
        done = 0
        for file in files:
            self._complain(file)
            if not file.fixed:
                continue
            try:
                write_atomically(file.path, file.after, expected=file.before)
            except WriteError as error:
                raise UserError(str(error)) from error
            done += len(file.fixed)
            for each in file.fixed:
                if each.code in self._corrections:
                    self._say(f"{place(each)}: {each.code} changes the training: {self._corrections[each.code]}.")
        self._say(f"Applied the fixes of {done} of {len(confirmed)} confirmed findings.")

    @staticmethod
    def _complain(file: FixedFile) -> None:
        for refusal in file.refused:
            row = refusal.diagnostic.location.row
            click.echo(
                f"warning: {shown(file.path)}:{row}: {refusal.diagnostic.code} not fixed: {refusal.reason}", err=True
            )

    def _say(self, text: str) -> None:
        if not self.arguments.quiet:
            click.echo(text, err=True)


def module_file(name: str) -> Path:
    """The file of a module as ``python -m`` would find it from the working directory; nothing is imported."""
    search = [str(Path.cwd()), *sys.path[1:]]
    for part in (*name.split("."), "__main__"):
        spec = importlib.machinery.PathFinder.find_spec(part, search)
        if spec is None or spec.origin is None:
            break
        if spec.submodule_search_locations is None:
            return absolute(Path(spec.origin))
        search = list(spec.submodule_search_locations)
    raise UserError(f"{name}: no such module; it is looked for in {Path.cwd()} and where Python looks")
