"""One simulated run, from the script's first line to the files that say what was seen. Imports no torch by itself."""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from typing import TYPE_CHECKING, Any

from memlint.capacity.simulate.settings import Outcome, SimulationPlan
from memlint.verify.child.running import place_of, replace
from memlint.verify.child.script import CannotStart, Script, after_import
from memlint.verify.serial import dumped

if TYPE_CHECKING:
    from memlint.capacity.simulate.child.session import Session

_EXIT_TIMED_OUT = 124
"""As of ``timeout(1)``."""


class Run:
    """Runs the plan's script on a device that is not there and writes what was seen, however the script ends."""

    def __init__(self, plan: SimulationPlan) -> None:
        self._plan = plan
        self._seen = Outcome()
        self._session: Session | None = None
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._is_written = False

    def execute(self) -> int:
        """The exit code of the script."""
        script = Script(self._plan.target, self._plan.is_module, self._plan.arguments, self._plan.settings.sources)
        try:
            script.prepare()
        except CannotStart as error:
            self._seen.ending, self._seen.error = "raised", str(error)
            self._write()
            return 2
        after_import("torch", self._start)
        threading.Thread(target=self._end_in_time, name="memlint clock", daemon=True).start()
        try:
            script.run()
        except SystemExit as error:
            self._seen.ending = "exited" if error.code else "finished"
            self._seen.error = f"it called sys.exit({error.code!r})" if error.code else ""
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is the script's
            self._raised(error)
        self._write()
        return 0

    def _start(self) -> None:
        from memlint.capacity.simulate.child.session import Session

        self._session = Session(self._plan, self._seen)
        self._session.start()

    def _raised(self, error: BaseException) -> None:
        if type(error).__name__ == "EnoughSeen":
            self._seen.ending = "stopped"
            return
        self._seen.ending = "raised"
        lines = traceback.TracebackException.from_exception(error).format_exception_only()
        self._seen.error = "".join(lines).strip().partition("\n")[0]
        self._seen.error_place = place_of(frame for frame, _ in traceback.walk_tb(error.__traceback__))
        traceback.print_exception(error)

    def _end_in_time(self) -> None:
        time.sleep(self._plan.settings.seconds)
        self._seen.ending = "timed out"
        self._write()
        os._exit(_EXIT_TIMED_OUT)

    def _write(self) -> None:
        with self._lock:
            if self._is_written or os.getpid() != self._process:
                return
            self._is_written = True
            if self._session is not None:
                _attempt(self._session.finish, self._seen)
            replace(self._plan.results, dumped(self._seen).encode())
        sys.stdout.flush()


def _attempt(action: Any, seen: Outcome) -> None:
    try:
        action()
    except Exception as error:  # noqa: BLE001 - what was seen counts even if the rest is lost
        traceback.print_exception(error)
        seen.notes.append(f"the result is not complete: {type(error).__name__}: {error}")
