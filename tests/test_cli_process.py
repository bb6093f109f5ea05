"""The command as a process: signals, pipes, terminals, resources."""

from __future__ import annotations

import os
import pty
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
COMMAND = [sys.executable, "-m", "memlint"]
HAZARD = "import torch\n\nmodel = torch.nn.Linear(1, 1).cuda()\nmodel.load_state_dict(torch.load('x.pt'))\n"
"""One finding of MEM801 with a safe fix."""

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals, terminals and limits are those of POSIX")


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """Programs that a shell has put into the background ignore Ctrl-C, and so do those that they start."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def environment(**variables: str) -> dict[str, str]:
    unwanted = ("NO_COLOR", "FORCE_COLOR", "MEMLINT_DEBUG", "PYTHONIOENCODING", "COLUMNS", "TERM")
    return {name: value for name, value in os.environ.items() if name not in unwanted} | {"TERM": "xterm"} | variables


def memlint(*arguments: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments], cwd=cwd, env=environment(**variables), capture_output=True, text=True, check=False
    )


@contextmanager
def started(*arguments: str, cwd: Path) -> Iterator[subprocess.Popen[str]]:
    """The running command, in a process group of its own as a shell would have it."""
    pipe = subprocess.PIPE
    command = [*COMMAND, *arguments]
    with subprocess.Popen(
        command, cwd=cwd, env=environment(), stdout=pipe, stderr=pipe, text=True, start_new_session=True
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["check", "--help"], ["version"], ["nonsense"]])
def test_what_needs_no_analysis_loads_none(arguments: list[str], tmp_path: Path) -> None:
    heavy = {"libcst", "rich", "torch", "pathspec", "multiprocessing"}
    program = f"import sys; from memlint.cli import run; run({arguments!r}); print(*{heavy!r} & sys.modules.keys())"
    process = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert process.stdout.splitlines()[-1] == ""


def test_a_check_never_loads_torch(tmp_path: Path) -> None:
    (tmp_path / "x.py").write_text(HAZARD)
    (tmp_path / "torch.py").write_text("raise SystemExit('torch was imported')\n")
    assert "MEM801" in memlint("check", "x.py", cwd=tmp_path).stdout


def test_the_real_rules_say_the_same_in_one_process_and_in_two() -> None:
    arguments = ["check", "--isolated", "--output-format=json", "examples"]
    alone = memlint(*arguments, "-j1", cwd=ROOT)
    assert (alone.returncode, alone.stderr) == (1, "")
    together = memlint(*arguments, "-j2", cwd=ROOT)
    assert (together.returncode, together.stdout, together.stderr) == (1, alone.stdout, "")


def test_a_reader_may_go_away(tmp_path: Path) -> None:
    (tmp_path / "x.py").write_text(HAZARD + "torch.load('x.pt')\n" * 2000)
    with started("check", "x.py", cwd=tmp_path) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait() == 1


@pytest.mark.parametrize("jobs", ["-j1", "-j2"])
def test_ctrl_c_leaves_every_file_whole(jobs: str, tmp_path: Path) -> None:
    files = [tmp_path / f"f{number}.py" for number in range(60)]
    text = HAZARD * 100
    for file in files:
        file.write_text(text)
    with started("check", "--fix", "--verbose", jobs, cwd=tmp_path) as process:
        assert process.stderr is not None
        while not process.stderr.readline().startswith("files: 60"):
            pass
        os.killpg(process.pid, signal.SIGINT)
        assert process.stderr.read().strip() == "error: interrupted"
        assert process.wait() == 130
    assert {file.read_text() for file in files} <= {text, text.replace("'x.pt')", "'x.pt', map_location=\"cpu\")")}
    assert sorted(tmp_path.iterdir()) == sorted(files), "no temporary file is left"


@pytest.mark.parametrize(("end", "code"), [(signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)])
def test_a_process_that_is_ended_takes_its_helpers_along(end: signal.Signals, code: int, tmp_path: Path) -> None:
    for number in range(60):
        (tmp_path / f"f{number}.py").write_text(HAZARD * 100)
    with started("check", "--fix", "--verbose", "-j2", cwd=tmp_path) as process:
        assert process.stderr is not None
        while not process.stderr.readline().startswith("files: 60"):
            pass
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        while children.exists() and not children.read_text():
            time.sleep(0.01)
        process.send_signal(end)
        # The helpers hold the other end of the pipe as long as they live.
        assert process.stderr.read() == ""
        assert process.wait() == code
    assert all(file.read_text() == HAZARD * 100 for file in tmp_path.iterdir())


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "x.py").write_text(HAZARD)
    if not Path("/dev/full").exists():
        pytest.skip("only Linux has a device that is always full")
    with Path("/dev/full").open("w") as full:
        process = subprocess.run(
            [*COMMAND, "check"],
            cwd=tmp_path,
            env=environment(),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (process.returncode, process.stderr) == (2, "error: No space left on device\n")
    process_with_file = memlint("check", "-o", "/dev/full", cwd=tmp_path)
    assert process_with_file.returncode == 2
    assert process_with_file.stderr == "error: /dev/full: cannot be written: No space left on device\n"


def test_a_file_that_cannot_be_written_to_its_end_stays_as_it_was(tmp_path: Path) -> None:
    long = HAZARD + "# long\n" * 1000
    (tmp_path / "long.py").write_text(long)
    (tmp_path / "short.py").write_text(HAZARD)
    program = (
        "import resource, sys; from memlint.cli import run; "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000)); sys.exit(run(['check', '--fix', '-q']))"
    )
    process = subprocess.run(
        [sys.executable, "-B", "-c", program],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
    assert (process.returncode, process.stderr) == (2, "error: long.py: cannot be written: File too large\n")
    assert (tmp_path / "long.py").read_text() == long
    assert "map_location" in (tmp_path / "short.py").read_text()
    assert len(list(tmp_path.iterdir())) == 2


def test_a_file_that_the_system_does_not_let_read_is_one_line(tmp_path: Path) -> None:
    memory = Path("/proc/self/mem")
    if not memory.exists():
        pytest.skip("only Linux has a file that even the superuser cannot read")
    (tmp_path / "x.py").symlink_to(memory)
    (tmp_path / "y.py").write_text(HAZARD)
    process = memlint("check", "-q", "--output-format=concise", cwd=tmp_path)
    assert process.returncode == 2
    assert process.stderr == "error: x.py: cannot be read: Input/output error\n"
    assert process.stdout.startswith("y.py:4:")


def test_characters_that_the_output_cannot_take_are_escaped(tmp_path: Path) -> None:
    (tmp_path / "ä.py").write_text(HAZARD.replace("x.pt", "ö𝄞.pt"))
    process = memlint("check", cwd=tmp_path, PYTHONIOENCODING="ascii", PYTHONUTF8="0", LC_ALL="C")
    assert process.returncode == 1
    assert "torch.load('\\xf6\\U0001d11e.pt')" in process.stdout
    assert process.stderr == ""


def test_a_program_can_be_run_with_a_traceback_for_bugs(tmp_path: Path) -> None:
    program = "import sys; from memlint.cli import run; sys.exit(run(['check', 'x.py'], [object()]))"
    (tmp_path / "x.py").write_text("")

    def ran(**variables: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", program]
        return subprocess.run(
            command, cwd=tmp_path, env=environment(**variables), capture_output=True, text=True, check=False
        )

    quiet = ran()
    assert quiet.returncode == 2
    assert quiet.stderr.startswith("error: internal error (AttributeError: ")
    assert quiet.stderr.count("\n") == 1
    assert "Traceback" in ran(MEMLINT_DEBUG="1").stderr


# Terminals


def on_terminal(*arguments: str, cwd: Path, **variables: str) -> str:
    """What a terminal of 80 columns gets to see."""
    master, slave = pty.openpty()
    with subprocess.Popen(
        [*COMMAND, *arguments], cwd=cwd, env=environment(**variables), stdin=slave, stdout=slave, stderr=slave
    ) as process:
        os.close(slave)
        seen = b""
        try:
            while part := os.read(master, 65536):
                seen += part
        except OSError:
            # Linux says so when the other side has been closed.
            pass
        process.wait()
    os.close(master)
    return seen.decode()


@pytest.fixture
def hazards(tmp_path: Path) -> Path:
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.py").write_text(HAZARD)
    return tmp_path


def test_a_terminal_gets_colors_and_a_progress_bar(hazards: Path) -> None:
    seen = on_terminal("check", cwd=hazards)
    assert "\x1b[33m\x1b[1mMEM801\x1b[0m" in seen
    assert "Checking" in seen


@pytest.mark.parametrize("variables", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_colors_can_be_turned_off(variables: dict[str, str], hazards: Path) -> None:
    assert "\x1b[" not in on_terminal("check", "a.py", cwd=hazards, **variables)
    seen = on_terminal("check", cwd=hazards, **variables)
    assert "\x1b[3" not in seen
    assert "MEM801 [*] " in seen


def test_what_is_no_terminal_gets_neither(hazards: Path) -> None:
    process = memlint("check", cwd=hazards)
    assert "\x1b" not in process.stdout
    assert process.stderr == ""
    assert "\x1b" in memlint("check", cwd=hazards, FORCE_COLOR="1").stdout


# Watching


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux says so easily what a process takes")
def test_what_a_check_has_read_is_let_go_before_the_next(tmp_path: Path) -> None:
    function = (
        "def f{}(model, x):\n    y = model(x).sum()\n    y.backward()\n    return [y.detach() for _ in range(9)]\n"
    )
    text = "import torch\n" + "".join(function.format(number) for number in range(600))
    file = tmp_path / "x.py"
    file.write_text(text)
    taken = []
    with started("check", "--watch", "--no-cache", "--output-file", os.devnull, cwd=tmp_path) as process:
        assert process.stderr is not None
        for number in range(6):
            assert process.stderr.readline().startswith("Watching")
            status = Path(f"/proc/{process.pid}/status").read_text()
            taken.append(int(status.partition("VmRSS:")[2].split()[0]))
            file.write_text(text + f"x = {number}\n")
        os.killpg(process.pid, signal.SIGINT)
        process.wait()
    assert taken[-1] - taken[1] < (taken[1] - taken[0]) + 2_000, "KiB after each check: the last ones take no more"


def test_files_are_checked_again_when_they_change(tmp_path: Path) -> None:
    file = tmp_path / "x.py"
    file.write_text("x = 1\n")
    with started("check", "--watch", "--output-format=concise", cwd=tmp_path) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "All checks passed!\n"
        assert process.stderr.readline().startswith("Watching")
        file.write_text(HAZARD)
        assert process.stdout.readline().startswith("x.py:4:")
        assert process.stdout.readline() == "Found 1 hazard.\n"
        assert process.stdout.readline().startswith("[*] 1 fixable")
        assert process.stderr.readline().startswith("Watching")
        (tmp_path / "memlint.toml").write_text('ignore = ["MEM8"]\n')
        assert process.stdout.readline() == "All checks passed!\n"
        assert process.stderr.readline().startswith("Watching")
        (tmp_path / "memlint.toml").write_text('ignroe = ["MEM8"]\n')
        assert "unknown key" in process.stderr.readline()
        assert process.stderr.readline().startswith("Watching")
        (tmp_path / "memlint.toml").unlink()
        file.unlink()
        assert process.stderr.readline() == "warning: no Python files found\n"
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait() == 130
