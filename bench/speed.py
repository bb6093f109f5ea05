"""Prints how fast memlint is beside its peers, each goal with what was measured and whether it is met.

    python bench/speed.py
    python bench/speed.py --rounds 1 --peer-rounds 0 --only warm help

The peers are installed at pinned versions, each into an environment of its own. Commands take turns; medians are
printed. Ratios and goals in seconds are of processor time (user and system, children included), which other work on the
machine spoils less than the clock; the time of the clock stands beside it. A goal about several processes can only be
judged by the clock, so on an idle machine.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cached_property, partial
from pathlib import Path

from generated import project
from parse_ratio import parse, past_the_gate
from scaling import points, sizes, slope
from usage import MEMLINT, Usage, in_turns, usage
from wheels import PACKAGES, default_cache, unpacked

PEERS = {"torchfix": "0.7.0", "torch-preflight": "0.5.0", "ruff": "0.14.0"}


@dataclass(frozen=True)
class Row:
    """One goal."""

    what: str
    measured: str
    goal: str
    met: bool | None
    """None if this run cannot tell."""


@dataclass(frozen=True)
class Bench:
    """What is compared, and how often."""

    cache: Path
    package: str
    rounds: int
    peer_rounds: int
    up_to: int

    @cached_property
    def root(self) -> Path:
        """The unpacked wheel."""
        return unpacked(self.package, self.cache).root

    @cached_property
    def gated(self) -> list[Path]:
        """Its files that pass the gate."""
        return past_the_gate(sorted(self.root.rglob("*.py")))

    def peer(self, name: str) -> str:
        """The command of a peer, installed when it is first needed."""
        environment = self.cache / f"env-{name}-{PEERS[name]}"
        if not environment.exists():
            venv.create(environment, with_pip=True)
            pip = [
                str(environment / "bin" / "python"),
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
            ]
            subprocess.run([*pip, f"{name}=={PEERS[name]}"], check=True)
        return str(environment / "bin" / name)


def memlint(cwd: Path, *options: str | Path) -> Usage:
    """A run of ``memlint check``."""
    return usage([sys.executable, *MEMLINT, "check", "--quiet", *options], cwd)


# ---------------------------------------------------------------------------------------------------- rows


def cold(bench: Bench) -> Iterator[Row]:
    """One process, nothing known."""
    check = partial(memlint, bench.root, "--no-cache", "--jobs", "1", ".")
    taken = in_turns({"parse": lambda: Usage(parse(bench.gated)[0], 0, 0), "check": check}, bench.rounds)
    found = taken["check"]
    ratio = found.cpu / taken["parse"].cpu
    yield Row(
        f"cold, {bench.package}, one process, over bare parsing",
        f"{ratio:.2f} ({found.cpu:.2f} s, {found.peak:.0f} MiB; parsing {taken['parse'].cpu:.2f} s)",
        "<= 1.6",
        ratio <= 1.6,
    )
    yield Row("peak memory there", f"{found.peak:.0f} MiB", "<= 200 MiB", found.peak <= 200)
    if bench.peer_rounds:
        yield from _peers(bench, found)


def _peers(bench: Bench, found: Usage) -> Iterator[Row]:
    torchfix = [bench.peer("torchfix"), "-j", "1", "."]
    preflight = [bench.peer("torch-preflight"), "check", "."]
    for name, command, goal in (("TorchFix", torchfix, 12), ("torch-preflight", preflight, 45)):
        taken = in_turns({name: partial(usage, command, bench.root)}, bench.peer_rounds)[name]
        ratio = taken.cpu / found.cpu
        yield Row(f"cold, times faster than {name}", f"{ratio:.1f} ({taken.cpu:.1f} s)", f">= {goal}", ratio >= goal)


def processes(bench: Bench) -> Iterator[Row]:
    """Two processes beside one."""
    one, two = (partial(memlint, bench.root, "--no-cache", "--jobs", jobs, ".") for jobs in "12")
    taken = in_turns({"one": one, "two": two}, bench.rounds)
    ratio = taken["one"].wall / taken["two"].wall
    yield Row(
        "cold, two processes over one, by the clock",
        f"{ratio:.2f} ({taken['one'].wall:.1f} s and {taken['two'].wall:.1f} s; processor time "
        f"{taken['one'].cpu:.1f} s and {taken['two'].cpu:.1f} s)",
        ">= 1.7",
        ratio >= 1.7 if _is_idle() else None,
    )
    small = bench.gated[0]
    one, two = (partial(memlint, bench.root, "--no-cache", "--jobs", jobs, small) for jobs in "12")
    taken = in_turns({"one": one, "two": two}, max(bench.rounds, 9))
    ratio = taken["two"].cpu / taken["one"].cpu
    yield Row("one file, two processes over one", f"{ratio:.2f}", "<= 1.1", ratio <= 1.1)


def _is_idle() -> bool:
    return os.getloadavg()[0] < 2.5


def warm(bench: Bench) -> Iterator[Row]:
    """Nothing has changed."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "tree")
        shutil.copytree(bench.root, root)
        ruff = [bench.peer("ruff"), "check", "--no-cache", "--isolated", "."]
        settle(root)
        taken = in_turns({"ruff": partial(usage, ruff, root), "memlint": partial(memlint, root)}, max(bench.rounds, 3))
    found = taken["memlint"]
    ratio = found.cpu / taken["ruff"].cpu
    figures = f"{found.cpu:.3f} s, by the clock {found.wall:.3f} s; ruff {taken['ruff'].cpu:.3f} s"
    yield Row("warm, over ruff check --no-cache", f"{ratio:.2f} ({figures})", "<= 2", ratio <= 2)
    yield Row("warm, start to exit", f"{found.cpu:.2f} s", "<= 0.35 s", found.cpu <= 0.35)


def settle(root: Path) -> None:
    """Fills the cache, with files whose times are old enough to be trusted."""
    for path in root.rglob("*"):
        os.utime(path, (1.7e9, 1.7e9))
    for _ in range(3):
        memlint(root, ".")


def one_changed(bench: Bench) -> Iterator[Row]:
    """One file of a project of 1,000 is another one."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        project(root, files=1000)
        settle(root)
        net = root / "project" / "models" / "net10.py"
        texts = [net.read_text(), net.read_text().replace("y), logits", "y).detach(), logits")]
        taken, right = [], []
        for number in range(bench.rounds):
            net.write_text(texts[(number + 1) % 2])
            taken.append(memlint(root, "."))
            right.append(findings(root) == findings(root, "--no-cache"))
    used = sorted(taken, key=lambda each: each.cpu)[len(taken) // 2]
    yield Row(
        "one file changed of 1,000",
        f"{used.cpu:.2f} s, by the clock {used.wall:.2f} s",
        "<= 0.5 s",
        used.cpu <= 0.5,
    )
    yield Row("findings then, in other files, too", f"{sum(right)} of {len(right)} right", "all", all(right))


def findings(root: Path, *options: str) -> list[tuple[str, str, int]]:
    """What ``memlint check`` finds below ``root``: files, codes and rows."""
    command = [sys.executable, *MEMLINT, "check", "--output-format", "json", *options, "."]
    found = json.loads(subprocess.run(command, cwd=root, capture_output=True, check=False).stdout)
    return [(each["filename"], each["code"], each["location"]["row"]) for each in found]


def pre_commit(bench: Bench) -> Iterator[Row]:
    """Three changed files are named, as pre-commit does."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "tree")
        shutil.copytree(bench.root, root)
        settle(root)
        files = sorted(bench.gated, key=lambda path: path.stat().st_size)
        changed = [files[at * len(files) // 4].relative_to(bench.root) for at in (1, 2, 3)]

        def commit() -> Usage:
            for path in changed:
                with (root / path).open("a") as file:
                    file.write("# changed\n")
            return memlint(root, *changed)

        found = in_turns({"commit": commit}, bench.rounds)["commit"]
    names = ", ".join(path.name for path in changed)
    yield Row(
        f"pre-commit on three changed files ({names})",
        f"{found.cpu:.2f} s, by the clock {found.wall:.2f} s",
        "<= 1 s",
        found.cpu <= 1,
    )


def per_rule(bench: Bench) -> Iterator[Row]:
    """What the rules take of a cold run."""
    command = [sys.executable, *MEMLINT, "check", "--no-cache", "--profile", "--quiet", "--jobs", "1", "."]
    printed = subprocess.run(command, cwd=bench.root, capture_output=True, text=True, check=False).stderr
    shares = sorted(
        (float(share), code) for code, share in re.findall(r"^(MEM\d+)\s.*?([\d.]+)%$", printed, re.MULTILINE)
    )
    middle = shares[len(shares) // 2][0]
    above = [f"{code} {share:.1f} %" for share, code in reversed(shares) if share >= 1]
    yield Row(f"cost of a rule, median of {len(shares)}", f"{middle:.2f} % of a cold run", "< 1 %", middle < 1)
    yield Row("rules that cost 1 % or more", f"{len(above)}: {', '.join(above)}", "", None)


def growth(bench: Bench) -> Iterator[Row]:
    """Time and memory over lines."""
    start, found = points(sizes(bench.up_to))
    steep = slope(start, found)
    largest = found[-1]
    figures = ", ".join(f"{point.lines:,} lines {point.used.cpu:.1f} s" for point in found)
    yield Row("growth of time with lines (slope)", f"{steep:.2f} ({figures})", "<= 1.05", steep <= 1.05)
    yield Row(
        f"peak memory at {largest.lines:,} lines",
        f"{largest.used.peak:.0f} MiB",
        "<= 200 MiB",
        largest.used.peak <= 200,
    )


def help_page(bench: Bench) -> Iterator[Row]:
    """``memlint --help``."""
    command = [sys.executable, *MEMLINT, "--help"]
    found = in_turns({"help": partial(usage, command, bench.root)}, max(bench.rounds, 3))["help"]
    yield Row("memlint --help", f"{found.cpu:.2f} s, by the clock {found.wall:.2f} s", "<= 0.15 s", found.cpu <= 0.15)
    printed = subprocess.run(
        [sys.executable, "-X", "importtime", *MEMLINT, "--help"], capture_output=True, text=True, check=True
    ).stderr
    heavy = [name for name in ("libcst", "torch", "rich") if re.search(rf"\| +{name}$", printed, re.MULTILINE)]
    yield Row("heavy modules that it imports", ", ".join(heavy) or "none", "none", not heavy)


ROWS: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "cold": cold,
    "processes": processes,
    "warm": warm,
    "changed": one_changed,
    "commit": pre_commit,
    "rules": per_rule,
    "growth": growth,
    "help": help_page,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="memlint's speed beside its goals and its peers.")
    parser.add_argument(
        "--cache", type=Path, default=default_cache(), help="where wheels and peers are kept (%(default)s)"
    )
    parser.add_argument("--package", default=PACKAGES[0], metavar="NAME==VERSION", help="(%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of memlint (%(default)s)")
    parser.add_argument(
        "--peer-rounds", type=int, default=1, help="turns of the slow peers; 0 leaves them out (%(default)s)"
    )
    parser.add_argument(
        "--up-to", type=int, default=100_000, help="lines of the largest generated project (%(default)s)"
    )
    parser.add_argument("--only", nargs="+", choices=ROWS, default=[*ROWS], help="parts to measure")
    options = parser.parse_args(arguments)
    bench = Bench(options.cache, options.package, options.rounds, options.peer_rounds, options.up_to)
    files = sorted(bench.root.rglob("*.py"))
    lines = sum(path.read_bytes().count(b"\n") for path in files)
    now = datetime.now(timezone.utc)
    print(
        f"{bench.package}: {len(files)} files, {lines:,} lines, {len(bench.gated)} pass the gate; {bench.rounds} rounds"
    )
    print(
        f"Python {platform.python_version()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {now:%Y-%m-%d}\n"
    )
    print("| what | measured | goal | |\n|---|---|---|---|")
    for name in options.only:
        for row in ROWS[name](bench):
            verdict = "" if row.met is None else "met" if row.met else "not met"
            print(f"| {row.what} | {row.measured} | {row.goal} | {verdict} |", flush=True)


if __name__ == "__main__":
    main()
