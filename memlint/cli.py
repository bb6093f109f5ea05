"""The command ``memlint``. Whatever a command needs is imported when it runs, so that help and version are instant."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from memlint import __version__
from memlint.messages import CLEAN, FAILED, FOUND, INTERRUPTED, TERMINATED, UserError, did_you_mean

if TYPE_CHECKING:
    from memlint.rule import Rule

_Function = TypeVar("_Function", bound=Callable[..., Any])


class _Commands(click.Group):
    """A group that knows what was meant."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if not name.startswith("-") and self.get_command(ctx, name) is None:
            meant = did_you_mean(name, self.list_commands(ctx))
            if not meant and Path(name).exists():
                meant = f'; did you mean "memlint check {name}"?'
            ctx.fail(f'no such command "{name}"{meant}')
        return super().resolve_command(ctx, args)


def main() -> NoReturn:
    """The console script."""
    # Whoever ends memlint politely gets it to clean up, as Ctrl-C does.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str], rules: Sequence[Rule] | None = None) -> int:
    """Runs the command line ``arguments`` and returns the exit code; ``rules`` are used instead of all that exist."""
    if not arguments:
        click.echo(click.Context(_cli, info_name="memlint").get_help(), err=True)
        return FAILED
    try:
        code = _cli.main(list(arguments), prog_name="memlint", standalone_mode=False, obj=rules)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader has seen enough; Python must not complain when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FOUND
    except (click.Abort, KeyboardInterrupt):
        return _fail("interrupted", INTERRUPTED)
    except click.ClickException as error:
        return _fail(_one_line(error.format_message()))
    except UserError as error:
        return _fail(_one_line(str(error)))
    except OSError as error:
        name = f"{error.filename}: " if error.filename else ""
        return _fail(f"{name}{error.strerror or error}")
    except Exception as error:  # No traceback reaches a user.
        if os.environ.get("MEMLINT_DEBUG") == "1":
            raise
        text = _one_line(f"{type(error).__name__}: {error}")
        return _fail(f"internal error ({text}); please report it with the output of MEMLINT_DEBUG=1")
    return code if isinstance(code, int) else CLEAN


def _fail(message: str, code: int = FAILED) -> int:
    click.echo(f"error: {message}", err=True)
    return code


def _one_line(text: str) -> str:
    return " ".join(text.split())


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, "-V", "--version", message="memlint %(version)s")
def _cli() -> None:
    """Finds, explains and fixes memory hazards in PyTorch training code."""


def _configured(function: _Function) -> _Function:
    """The options that say which configuration counts."""
    function = click.option(
        "--config",
        "config",
        multiple=True,
        metavar="FILE|KEY=VALUE",
        help="Use this configuration file, or override one key of it, as in --config 'select = [\"ALL\"]'.",
    )(function)
    return click.option("--isolated", is_flag=True, help="Use no configuration file.")(function)


def _list_option(name: str, metavar: str, help_text: str) -> Callable[[_Function], _Function]:
    return click.option(name, multiple=True, metavar=metavar, help=help_text)


@_cli.command()
@click.argument("paths", nargs=-1, metavar="[PATH...]")
@click.option("--fix/--no-fix", default=None, help="Apply safe fixes.")
@click.option("--unsafe-fixes/--no-unsafe-fixes", default=None, help="Count unsafe fixes among those to apply.")
@click.option("--diff", is_flag=True, help="Print what --fix would change and write nothing.")
@_list_option("--select", "CODES", "Rules to turn on, instead of those that are: codes, beginnings of codes, or ALL.")
@_list_option("--ignore", "CODES", "Rules to turn off.")
@_list_option("--extend-select", "CODES", "Rules to turn on besides those that are.")
@_list_option("--per-file-ignores", "PATTERN:CODES", "Rules to turn off in files that match.")
@_list_option("--exclude", "PATTERNS", "Files and directories to leave out, instead of the default ones.")
@_list_option("--extend-exclude", "PATTERNS", "Files and directories to leave out besides.")
@click.option("--force-exclude/--no-force-exclude", default=None, help="Leave out excluded files even if named.")
@click.option("--respect-gitignore/--no-respect-gitignore", default=None, help="Leave out what git ignores.")
@click.option("--device", metavar="NAME", help="The GPU that the code is to run on, such as t4, a100-80gb or 24GB.")
@click.option("--output-format", metavar="FORMAT", help="full, concise, json, github or sarif.")
@click.option("-o", "--output-file", type=click.Path(path_type=Path), help="Print findings to this file.")
@click.option("--statistics", is_flag=True, help="Print how many findings each rule has instead of the findings.")
@click.option("--add-noqa", is_flag=True, help="Silence all findings with noqa comments.")
@click.option("--show-files", is_flag=True, help="Print the files that would be checked.")
@click.option("-e", "--exit-zero", is_flag=True, help="Exit with 0 even if there are findings.")
@click.option("--exit-non-zero-on-fix", is_flag=True, help="Exit with 1 if anything was fixed.")
@click.option("-n", "--no-cache", is_flag=True, help="Neither read nor write the cache.")
@click.option(
    "--cache-dir", type=click.Path(path_type=Path, file_okay=False), help="Keep the cache here (MEMLINT_CACHE_DIR)."
)
@click.option("-w", "--watch", is_flag=True, help="Check again whenever a file changes.")
@click.option("--stdin-filename", type=click.Path(path_type=Path), help="The name of what comes from standard input.")
@click.option("-j", "--jobs", type=click.IntRange(min=1), help="Processes to use; by default as many as are worth it.")
@click.option("--profile", is_flag=True, help="Print where the time goes, by stage and by rule.")
@click.option("-q", "--quiet", is_flag=True, help="Print findings only.")
@click.option("-v", "--verbose", is_flag=True, help="Say what is done.")
@_configured
@click.pass_obj
def check(rules: Sequence[Rule] | None, /, paths: tuple[str, ...], **options: Any) -> int:
    """Checks files and directories (by default the current one); - is standard input.

    Exits with 1 if errors or warnings are found, with 2 if something could not be checked.
    """
    from memlint.check.collector import collector_out

    with collector_out():
        from memlint.commands.check import Arguments
        from memlint.commands.check import check as run_check

        return run_check(paths, rules, Arguments(**options))


@_cli.command()
@click.argument("words", nargs=-1, metavar="SCRIPT [-- ARGUMENT...]")
@click.option("-m", "--module", metavar="NAME", help="Run a module, as python -m does, instead of a script.")
@click.option("--steps", type=click.IntRange(min=4), default=8, show_default=True, help="Optimizer steps to watch.")
@click.option(
    "--batches",
    type=click.IntRange(min=1),
    default=6,
    show_default=True,
    help="Batches of each iteration over a loader.",
)
@click.option(
    "--timeout", type=click.FloatRange(min=1), default=300, show_default=True, help="Seconds after which the run ends."
)
@click.option("--with-fixes", is_flag=True, help="Run the script with its fixes as well, in a copy, and compare.")
@click.option("--unsafe-fixes", is_flag=True, help="Count unsafe fixes among those to compare or to apply.")
@click.option("--apply-confirmed", is_flag=True, help="Apply the fixes of the findings that are confirmed.")
@click.option(
    "--trace",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Run nothing: decide from a recorded CUDA memory snapshot or profiler trace.",
)
@click.option(
    "--trace-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Keep the recording here: a memory snapshot and a trace of the profiler.",
)
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), help="Write a page with charts to this file.")
@_list_option("--select", "CODES", "Rules to turn on, instead of those that are: codes, beginnings of codes, or ALL.")
@_list_option("--ignore", "CODES", "Rules to turn off.")
@click.option(
    "--output-format", type=click.Choice(["text", "json", "sarif", "github"]), default="text", show_default=True
)
@click.option("-o", "--output-file", type=click.Path(path_type=Path), help="Print the report to this file.")
@click.option("-q", "--quiet", is_flag=True, help="Print the report only, not what the script prints.")
@click.option("-e", "--exit-zero", is_flag=True, help="Exit with 0 even if something is confirmed.")
@_configured
@click.pass_obj
def verify(rules: Sequence[Rule] | None, /, words: tuple[str, ...], **options: Any) -> int:
    """Runs a training script briefly and says of each finding whether memory does what it says.

    Exits with 1 if a finding is confirmed, with 2 if the script could not be watched.
    """
    from memlint.commands.verify import Arguments
    from memlint.commands.verify import verify as run_verify

    return run_verify(words, rules, Arguments(**options))


@_cli.command(context_settings={"ignore_unknown_options": True})
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="SCRIPT [ARG...]")
@click.option("--device", metavar="NAME", help="A GPU, a cloud instance or a size, such as t4, a100-80gb or 24GB.")
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="NAME=VALUE",
    help="Set batch, length, image, precision, ranks or a command-line argument, as in --set batch=16.",
)
@click.option("--output-format", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option("--output-file", type=click.Path(path_type=Path), metavar="FILE", help="Write there, not to the output.")
@click.option("--html", type=click.Path(path_type=Path), metavar="FILE", help="Write a page, too.")
@click.option("--run", is_flag=True, help="Run the script on fake tensors instead of reading it: no GPU, no computing.")
@click.option("--ranks", type=click.IntRange(1), default=1, metavar="N", help="With --run, as rank 0 of N processes.")
@click.option("--what-if", is_flag=True, help="With --run, run it again with changes that may make it fit.")
def estimate(words: tuple[str, ...], **options: Any) -> int:
    """Estimates the memory of a training step from the script, by reading it or on fake tensors.

    Exits with 1 if the step does not fit the device, with 2 if that cannot be told.
    """
    from memlint.commands.estimate import Arguments
    from memlint.commands.estimate import estimate as run_estimate

    return run_estimate(words, Arguments(**options))


@_cli.command()
@click.argument("code", required=False)
@click.option("--all", "every", is_flag=True, help="All rules.")
@click.option("--output-format", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.pass_obj
def rule(rules: Sequence[Rule] | None, code: str | None, every: bool, output_format: str) -> None:
    """Explains a rule, or lists all of them."""
    from memlint.commands.rule import explain

    explain(rules, None if every else code, every, output_format)


@_cli.command()
@click.argument("path", default=".", type=click.Path(path_type=Path))
@_configured
@click.pass_obj
def config(rules: Sequence[Rule] | None, path: Path, config: tuple[str, ...], isolated: bool) -> None:
    """Prints the settings that hold for a path (by default the current directory), as TOML."""
    from memlint.commands.config import show

    show(rules, path, config, isolated)


@_cli.command()
@click.argument("directory", default=".", type=click.Path(path_type=Path, exists=True, file_okay=False))
def clean(directory: Path) -> None:
    """Removes memlint's caches from a directory (by default the current one) and those below it."""
    from memlint.commands.clean import remove_caches

    remove_caches(directory)


@_cli.command()
@_configured
@click.pass_obj
def server(rules: Sequence[Rule] | None, config: tuple[str, ...], isolated: bool) -> None:
    """Runs the language server: findings and fixes in an editor, over standard input and output."""
    from memlint.commands.server import serve

    serve(rules, config, isolated)


@_cli.command()
@click.option("--output-format", type=click.Choice(["text", "json"]), default="text", show_default=True)
def version(output_format: str) -> None:
    """Prints the version."""
    import json

    click.echo(json.dumps({"version": __version__}) if output_format == "json" else f"memlint {__version__}")
