"""One run of the script, from the first line to the files that say what was seen. Imports no torch by itself."""

from __future__ import annotations

import io
import os
import platform
import sys
import threading
import time
import traceback
import types
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memlint.trace.frames import Frame
from memlint.verify.child.script import CannotStart, Script, after_import
from memlint.verify.observations import Ending, Observations
from memlint.verify.plan import Plan
from memlint.verify.serial import dumped

if TYPE_CHECKING:
    from memlint.verify.child.session import Session

_PACKAGE = str(Path(__file__).parents[2]) + os.sep
"""Where memlint lies."""
_OPERATOR_CALL = str(Path("torch", "_ops.py"))
"""Where the recorder calls an operator, which PyTorch otherwise does without Python."""
_EXIT_TIMED_OUT = 124
"""As of ``timeout(1)``."""
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")


class Run:
    """Runs the plan's script, watches, and writes what was seen, however the script ends."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._seen = Observations(python=platform.python_version())
        self._session: Session | None = None
        self._written = threading.Lock()
        self._is_written = False
        self._process = os.getpid()
        self._directory = Path.cwd()

    def execute(self) -> None:
        """Ends the process as the script would."""
        script = Script(self._plan.target, self._plan.is_module, self._plan.arguments, self._plan.sources)
        try:
            script.prepare()
        except CannotStart as error:
            self._seen.ending, self._seen.error = Ending.RAISED, str(error)
            self._seen.exit_code = 2
            self._finish()
            sys.exit(2)
        after_import("torch", self._start)
        self._watch_the_clock()
        sys.exit(self._run(script))

    def _run(self, script: Script) -> Any:
        """The exit code, as the script's end means it."""
        code: object = 0
        try:
            script.run()
        except SystemExit as error:
            code = error.code
            self._exited(code)
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is the script's
            code = self._raised(error)
        finally:
            self._finish()
        return code

    def _exited(self, code: object) -> None:
        number = code if isinstance(code, int) else 0 if code is None else 1
        if number:
            self._seen.ending, self._seen.exit_code = Ending.EXITED, number
            self._seen.error = f"it called sys.exit({code!r})"

    def _raised(self, error: BaseException) -> int:
        if type(error).__name__ == "EnoughSeen":
            self._seen.ending = Ending.STOPPED
            return 0
        self._stop_watching()
        own = traceback.TracebackException.from_exception(error)
        self._seen.error = "".join(own.format_exception_only()).strip().partition("\n")[0]
        self._seen.error_place = place_of(frame for frame, _ in traceback.walk_tb(error.__traceback__))
        self._seen.ending = Ending.OUT_OF_MEMORY if _is_out_of_memory(error) else Ending.RAISED
        self._seen.exit_code = 1
        for each in _chain(error):
            each.__traceback__ = without_own_frames(each.__traceback__)
        sys.excepthook(type(error), error, error.__traceback__)
        return 1

    # ---------------------------------------------------------------------------------------------- watching

    def _start(self) -> None:
        """Torch is there."""
        from memlint.verify.child.session import Session

        self._seen.has_torch = True
        self._session = Session(self._plan, self._seen)
        self._session.start()

    def _stop_watching(self) -> None:
        if self._session is not None:
            self._session.stop()

    def _watch_the_clock(self) -> None:
        """Write what there is when time is up; the script may hang for ever."""

        def wait() -> None:
            time.sleep(self._plan.budget.seconds)
            frame = sys._current_frames().get(main)
            stack = [] if frame is None else [each for each, _ in traceback.walk_stack(frame)]
            self._seen.error_place = place_of(reversed(stack))
            self._seen.ending, self._seen.exit_code = Ending.TIMED_OUT, _EXIT_TIMED_OUT
            self._finish(stopped=True)
            _flush()
            os._exit(_EXIT_TIMED_OUT)

        main = threading.get_ident()
        threading.Thread(target=wait, name="memlint clock", daemon=True).start()

    def _finish(self, stopped: bool = False) -> None:
        """Write everything, once; not in a process that the script has forked and let run to the end."""
        with self._written:
            if self._is_written or os.getpid() != self._process:
                return
            self._is_written = True
            session = self._session
            if session is not None:
                if not stopped:
                    session.stop()
                session.complete()
                self._seen.has_recording = _attempt(session.write_recording, "recording", self._seen)
                _attempt(session.write_profile, "profiler trace", self._seen)
            self._seen.files = sorted(_loaded_files(self._directory))
            replace(self._plan.results, dumped(self._seen).encode())


def _attempt(action: Callable[[], None], what: str, seen: Observations) -> bool:
    try:
        action()
    except Exception as error:  # noqa: BLE001 - what was seen counts even if the recording is lost
        seen.notes.append(f"the {what} could not be written: {type(error).__name__}: {error}")
        return False
    return True


def replace(path: Path, data: bytes) -> None:
    """Write ``path`` whole or not at all."""
    temporary = path.with_name(f"{path.name}.tmp")
    with io.open(temporary, "wb") as file:  # noqa: UP020 - the script may have replaced the builtin
        file.write(data)
    temporary.replace(path)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        # The script may have closed or replaced it.
        with suppress(Exception):
            stream.flush()


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _OUT_OF_MEMORY)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """``error``, and those that led to it."""
    waiting: list[BaseException | None] = [error]
    known: set[int] = set()
    while waiting:
        each = waiting.pop()
        if each is not None and id(each) not in known:
            known.add(id(each))
            yield each
            waiting += [each.__cause__, each.__context__]


def without_own_frames(trace: types.TracebackType | None) -> types.TracebackType | None:
    """What the user would see without memlint: neither what runs the script, nor what stands before an operator."""
    kept: list[types.TracebackType] = []
    is_below_own = False
    while trace is not None:
        filename = trace.tb_frame.f_code.co_filename
        is_below_own = filename.startswith(_PACKAGE) or (is_below_own and filename.endswith(_OPERATOR_CALL))
        if not is_below_own:
            kept.append(trace)
        trace = trace.tb_next
    for each, inner in zip(kept, [*kept[1:], None], strict=True):
        each.tb_next = inner
    return kept[0] if kept else None


def place_of(frames: Iterable[types.FrameType]) -> str:
    """The innermost of the user's lines among ``frames``, outermost first."""
    place = ""
    for frame in frames:
        filename = frame.f_code.co_filename
        if not filename.startswith(_PACKAGE) and Frame(filename, 0, "").is_user_code:
            place = f"{filename}:{frame.f_lineno}"
    return place


def _loaded_files(directory: Path) -> set[str]:
    """The user's own modules."""
    files = set()
    for module in list(sys.modules.values()):
        file: Any = getattr(module, "__file__", None)
        if isinstance(file, str) and file.endswith(".py"):
            path = os.path.realpath(directory / file)
            if Frame(path, 0, "").is_user_code:
                files.add(path)
    return files
