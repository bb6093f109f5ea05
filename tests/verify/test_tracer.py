"""How watched lines are followed; both mechanisms say the same, where Python has both."""

from __future__ import annotations

import sys
import textwrap
import threading
import types
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from memlint.diagnostics import Diagnostic, Location
from memlint.findings import Confidence, Severity
from memlint.verify.child.local_names import local_names
from memlint.verify.child.tracer import MonitoringTracer, TraceFunction, Tracer, tracer
from memlint.verify.plan import WatchedLine
from memlint.verify.statements import Statements

FILE = "/somewhere/train.py"

Make = Callable[[Any, Callable[[Exception], None]], Tracer]


def monitoring(observers: Any, failed: Callable[[Exception], None]) -> Tracer:
    tool = MonitoringTracer.free_tool()
    assert tool is not None
    return MonitoringTracer(observers, failed, tool)


@pytest.fixture(
    params=[
        TraceFunction,
        pytest.param(
            monitoring,
            marks=pytest.mark.skipif(sys.version_info < (3, 12), reason="Python 3.12 brought sys.monitoring"),
        ),
    ],
    ids=["settrace", "monitoring"],
)
def make(request: pytest.FixtureRequest) -> Make:
    chosen: Make = request.param
    return chosen


class Notes:
    """Writes down what it is told, with the value of ``n`` in the frame."""

    def __init__(self, line: WatchedLine, *, fails: bool = False) -> None:
        self.line = line
        self.told: list[str] = []
        self._fails = fails

    def begin(self, frame: types.FrameType) -> None:
        self.told.append(f"begin {local_names(frame).get('n')}")
        if self._fails:
            raise ValueError("no")

    def end(self, frame: types.FrameType) -> None:
        try:
            n = eval("n", frame.f_globals, local_names(frame))
        except NameError:
            n = None
        self.told.append(f"end {n}")

    def left_loop(self) -> None:
        self.told.append("loop")

    def left_function(self) -> None:
        self.told.append("function")


def watched(text: str) -> WatchedLine:
    """The line with a ``#`` behind it."""
    row = next(number for number, line in enumerate(text.splitlines(), 1) if line.endswith("#"))
    line = text.splitlines()[row - 1]
    column = len(line) - len(line.lstrip()) + 1
    if ": " in line:
        column = line.rindex(": ") + 3
    place = Statements(text).place(finding(row, column))
    return WatchedLine(0, FILE, place.rows, place.loop, "reachable", (), place.function, repeats=place.repeats)


def finding(row: int, column: int) -> Diagnostic:
    start, end = Location(row, column), Location(row, column + 1)
    return Diagnostic("MEM101", "x", "x", Path(FILE), start, end, Severity.WARNING, Confidence.LIKELY, "", (), row, "")


def told(make: Make, text: str, call: str = "f()", **names: Any) -> list[str]:
    text = textwrap.dedent(text)
    notes = Notes(watched(text))
    failures: list[Exception] = []
    following = make([notes], failures.append)
    space: dict[str, Any] = {"following": following, **names}
    code = compile(text, FILE, "exec")
    run = compile(call, "/somewhere/else.py", "exec")
    before = sys.gettrace()
    following.start()
    try:
        exec(code, space)
        exec(run, space)
    finally:
        following.stop()
        sys.settrace(before)
    assert not failures
    # What a line begins with depends on what was read last; what it ends with does not.
    return [each.split()[0] if each.startswith("begin") else each for each in notes.told]


LOOP = """
def f():
    n = 0
    for i in range(3):
        n += 1 #
    return n
"""


def test_a_line_in_a_loop(make: Make) -> None:
    assert told(make, LOOP) == ["begin", "end 1", "begin", "end 2", "begin", "end 3", "loop", "function"]


@pytest.mark.parametrize(
    "text",
    [
        "def f():\n    n = 0\n    for i in range(3): n += 1 #\n",
        "def f():\n    n = 0\n    while n < 3: n += 1 #\n",
    ],
    ids=["for", "while"],
)
def test_a_loop_on_one_row(make: Make, text: str) -> None:
    found = told(make, text)
    assert [each for each in found if each.startswith("end")][:3] == ["end 1", "end 2", "end 3"]
    assert found[-2:] == ["loop", "function"]


def test_a_loop_without_a_condition(make: Make) -> None:
    text = """
    def step(n):
        if n == 3:
            raise StopIteration
        return n + 1

    def f():
        n = 0
        try:
            while True:
                n = step(n) #
        except StopIteration:
            pass
    """
    found = told(make, text)
    assert [each for each in found if each.startswith("end")] == ["end 1", "end 2", "end 3", "end 3"]


def test_a_comprehension_belongs_to_its_statement(make: Make) -> None:
    text = """
    def f():
        for i in range(2):
            n = sum([x for x in range(5)] + [y for y in range(3) if y]) #
    """
    assert told(make, text) == ["begin", "end 13", "begin", "end 13", "loop", "function"]


def test_a_statement_over_several_rows(make: Make) -> None:
    text = """
    def f():
        n = 0
        for i in range(2):
            n = max(
                n,
                i,
            )
            n += 10
    """.replace("            n = max(\n", "            n = max( #\n")
    assert told(make, text) == ["begin", "end 0", "begin", "end 10", "loop", "function"]


def test_an_exception_ends_the_line(make: Make) -> None:
    text = """
    def g():
        n = 4
        n = 1 / 0 #

    def f():
        try:
            g()
        except ZeroDivisionError:
            pass
    """
    assert told(make, text) == ["begin", "end 4", "function"]


def test_a_generator_is_left_at_each_yield(make: Make) -> None:
    text = """
    def g():
        n = 0
        for i in range(2):
            n += 1 #
            yield n

    def f():
        list(g())
    """
    found = ["begin", "end 1", "loop", "function", "begin", "end 2", "loop", "function", "loop"]
    assert told(make, text) == found


def test_calls_of_one_function_are_told_apart(make: Make) -> None:
    text = """
    def f(depth=2):
        n = depth
        n = n + (f(depth - 1) if depth else 0) #
        return n
    """
    ends = ["end 0", "function", "end 1", "function", "end 3", "function"]
    assert told(make, text) == ["begin", "begin", "begin", *ends]


def test_what_runs_already_is_followed(make: Make) -> None:
    text = """
    import sys

    def f():
        following.stop()
        following.start()
        following.join(sys._getframe())
        n = 5
        n += 1 #
    """
    assert told(make, text) == ["begin", "end 6", "function"]


def test_other_threads_are_none_of_its_business(make: Make) -> None:
    def in_a_thread(function: Callable[[], None]) -> None:
        thread = threading.Thread(target=function)
        thread.start()
        thread.join()

    assert told(make, LOOP, "in_a_thread(f)", in_a_thread=in_a_thread) == []


def test_functions_inside_the_statement_are_not_the_statement(make: Make) -> None:
    text = """
    def f():
        n = (lambda n: n + 1)(7) #
    """
    found = told(make, text)
    assert found.count("end 8") == 1


def test_what_an_observer_raises_is_told_and_the_script_goes_on(make: Make) -> None:
    notes = Notes(watched(LOOP), fails=True)
    failures: list[Exception] = []
    following = make([notes], failures.append)
    space: dict[str, Any] = {}
    exec(compile(LOOP, FILE, "exec"), space)
    before = sys.gettrace()
    following.start()
    try:
        assert space["f"]() == 3
    finally:
        following.stop()
        sys.settrace(before)
    assert [str(each) for each in failures] == ["no"] * 3


def test_nothing_is_left_behind(make: Make) -> None:
    before = sys.gettrace()
    try:
        told(make, LOOP)
        assert sys.gettrace() is before
        if sys.version_info >= (3, 12):
            assert MonitoringTracer.free_tool() == 3
    finally:
        sys.settrace(before)


def test_the_best_mechanism_is_chosen() -> None:
    chosen = tracer([], lambda _: None)
    assert isinstance(chosen, MonitoringTracer if sys.version_info >= (3, 12) else TraceFunction)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="a trace function brings the copy up to date there")
def test_a_look_keeps_nothing_alive() -> None:
    class Thing:
        pass

    def f() -> bool:
        n = Thing()
        reference = weakref.ref(n)
        assert eval("n", globals(), local_names(sys._getframe())) is n
        del n
        return reference() is None

    assert f()
