"""Pickles from strangers: plain data comes out, everything else is refused with one line, and nothing is executed."""

from __future__ import annotations

import pickle
import re
import struct
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memlint.trace import safe_pickle
from memlint.trace.errors import TraceError
from memlint.trace.pickle_machine import Taker

PLAIN = {
    "segments": [{"address": 2**47, "pool": (0, 0), "free": True, "used": False, "frames": [], "none": None}],
    "text": "ä" * 300,
    "numbers": [0, -1, 255, 65_536, -(2**40), 2**63, 0.5],
    "pairs": [(1, 2), (2**40, 3)],
}


@pytest.fixture(autouse=True, params=["whole", "in pieces"])
def taker(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Taker | None:
    """Every test goes for both: the standard library's unpickler, and the one whose objects can be taken away."""
    chosen = None if request.param == "whole" else _nothing
    monkeypatch.setitem(globals(), "_taker", chosen)
    return chosen


def _nothing(_: list[Any], __: list[Any]) -> bool:
    return False


_taker: Taker | None = None


def load_plain(path: Path) -> object:
    return safe_pickle.load_plain(path, _taker)


def refusal(path: Path) -> str:
    with pytest.raises(TraceError) as caught:
        load_plain(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{path}: ")
    return message


def outcome(path: Path) -> str:
    """The message with which a file is refused, or nothing."""
    try:
        load_plain(path)
    except TraceError as error:
        return str(error)
    return ""


@pytest.fixture
def file(tmp_path: Path) -> Callable[[bytes], Path]:
    def write(data: bytes) -> Path:
        path = tmp_path / "file.pickle"
        path.write_bytes(data)
        return path

    return write


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_data_is_loaded(file: Callable[[bytes], Path], protocol: int) -> None:
    assert load_plain(file(pickle.dumps(PLAIN, protocol))) == PLAIN


def test_many_distinct_objects_are_loaded(file: Callable[[bytes], Path]) -> None:
    data = [{"action": "alloc", "addr": 2**46 + index, "frames": [], "name": f"n{index}"} for index in range(70_000)]
    assert load_plain(file(pickle.dumps(data, 2))) == data


class Touch:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_nothing_is_called(file: Callable[[bytes], Path], tmp_path: Path, protocol: int) -> None:
    victim = tmp_path / "victim"
    message = refusal(file(pickle.dumps({"segments": [Touch(victim)]}, protocol)))
    assert "refused" in message
    assert not victim.exists()


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00ls\x85R.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x02ls\x85R.",
        b"\x80\x02(X\x02\x00\x00\x00lsios\nsystem\n.",
        b"\x80\x02(cos\nsystem\nX\x02\x00\x00\x00lso.",
        b"\x80\x02}}b.",
        b"\x80\x02\x82\x01.",
        b"\x80\x02X\x01\x00\x00\x00aQ.",
        b"\x80\x02Pname\n.",
        pickle.dumps(OrderedDict(a=1)),
        pickle.dumps([ValueError]),
    ],
    ids=["global", "stack_global", "inst", "obj", "build", "ext", "binpersid", "persid", "class", "reference"],
)
def test_every_way_to_python_objects_is_refused_by_name(file: Callable[[bytes], Path], data: bytes) -> None:
    assert "a memory snapshot holds plain data only" in refusal(file(data))


def test_the_unpickler_itself_looks_nothing_up(
    file: Callable[[bytes], Path], monkeypatch: pytest.MonkeyPatch, taker: Taker | None
) -> None:
    """Should the check of the opcodes ever let something pass."""
    monkeypatch.setattr(safe_pickle, "_check", lambda *_: None)
    if taker is not None:
        assert "not a readable pickle" in refusal(file(pickle.dumps(Touch(Path("x")))))
        return
    said = refusal(file(pickle.dumps(Touch(Path("x")))))
    assert re.search(r"it refers to pathlib(\._local)?\.(Posix)?Path\.touch", said), said
    assert "outside the file" in refusal(file(b"\x80\x02X\x01\x00\x00\x00aQ."))


def nested(depth: int, opening: bytes, closing: bytes) -> bytes:
    return b"\x80\x04" + opening * depth + closing * (depth - 1) + b"."


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (nested(200_000, b"]", b"a"), "more empty containers"),
        (b"\x80\x04(" + b"}" * 200_000 + b"l.", "more empty containers"),
        (b"\x80\x04N" + b"\x85" * 200_000 + b".", "opcode TUPLE1"),
        (b"\x80\x04K\x01" + b"K\x01\x86" * 200_000 + b".", "opcode TUPLE2"),
        (b"\x80\x04(" + b"\x8f" * 1000 + b"l.", "opcode EMPTY_SET"),
        (b"\x80\x04K\x01" + b"2" * 1000 + b".", "opcode DUP"),
        (b"\x80\x02K\x01r" + struct.pack("<I", 2**32 - 1) + b".", "more memory than the file accounts for"),
        (b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"abcd" * 8, "opcode BINBYTES8"),
        (b"\x80\x04\x8b" + struct.pack("<I", 2**31 - 1) + b"1234" * 8, "opcode LONG4"),
        (b"\x80\x02L" + b"9" * 100_000 + b"L\n.", "opcode LONG"),
    ],
    ids=["lists", "dicts", "tuples", "pairs", "sets", "dup", "memo", "bytes", "long4", "decimal"],
)
def test_bombs_are_refused(file: Callable[[bytes], Path], data: bytes, reason: str) -> None:
    assert reason in refusal(file(data))


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x04X" + struct.pack("<I", 2**31) + b"abc",
        b"\x80\x04\x8c\xffabc",
        b"\x80\x04}(\x8c\x01aK",
        b"\x80\x04]",
        b"\x80\x04\x95" + struct.pack("<Q", 2**62),
        b"\x80",
    ],
)
def test_a_file_that_was_cut_short_is_said_to_be(file: Callable[[bytes], Path], data: bytes) -> None:
    assert "cut short" in refusal(file(data))


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x04\x95" + struct.pack("<Q", 2**40) + b"}.",
        b"\x80\x04h\x05.",
        b"\x80\x04a.",
        b"\x80\x04.",
        b"\x80\x04}(]K\x01u.",
        b"\x80\x04X\x01\x00\x00\x00\xff.",
        b"\x80\xff}.",
    ],
    ids=["frame", "memo", "stack", "nothing", "unhashable", "text", "protocol"],
)
def test_broken_data_is_refused(file: Callable[[bytes], Path], data: bytes) -> None:
    assert "not a readable pickle" in refusal(file(data))


@pytest.mark.parametrize("data", [b"hello, world", b"(dp0\n.", b"PK\x03\x04" + bytes(100)])
def test_other_files_are_said_to_be_no_trace(file: Callable[[bytes], Path], data: bytes) -> None:
    assert "neither a memory snapshot" in refusal(file(data))


def test_files_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "No such file" in refusal(tmp_path / "absent.pickle")
    assert "directory" in refusal(tmp_path)
    (tmp_path / "empty.pickle").touch()
    assert "empty" in refusal(tmp_path / "empty.pickle")
    (tmp_path / "large.pickle").write_bytes(pickle.dumps(PLAIN))
    monkeypatch.setattr(safe_pickle, "MAX_BYTES", 100)
    assert "max_entries" in refusal(tmp_path / "large.pickle")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=400), protocol=st.integers(2, 5))
def test_arbitrary_bytes_raise_nothing_else(file: Callable[[bytes], Path], data: bytes, protocol: int) -> None:
    assert "\n" not in outcome(file(bytes([0x80, protocol]) + data))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.integers(0), value=st.integers(0, 255))
def test_a_damaged_snapshot_raises_nothing_else(file: Callable[[bytes], Path], position: int, value: int) -> None:
    data = bytearray(pickle.dumps(PLAIN))
    data[position % len(data)] = value
    assert "\n" not in outcome(file(bytes(data)))


def test_what_is_taken_is_held_nowhere_else(file: Callable[[bytes], Path]) -> None:
    first, second = {"action": "alloc"}, {"action": "free_completed"}
    path = file(pickle.dumps({"trace": [first, second], "other": [1, 2], "again": first}))
    taken: list[Any] = []

    def take(_: list[Any], more: list[Any]) -> bool:
        if isinstance(more[0], dict):
            taken.extend(more)
        return isinstance(more[0], dict)

    assert safe_pickle.load_plain(path, take) == {"trace": [], "other": [1, 2], "again": None}
    assert taken == [first, second]


def test_texts_of_any_length_are_read_in_pieces(file: Callable[[bytes], Path]) -> None:
    """They may begin at the end of what is in memory, and be longer than it."""
    data = [
        f"{number} " + "x" * length for number, length in enumerate([1 << 20, 3, (1 << 20) - 700, 500, 600, 1 << 21])
    ]
    data += ["y" * 200] * 3 + [str(number) for number in range(1000)]
    assert load_plain(file(pickle.dumps(data))) == data
