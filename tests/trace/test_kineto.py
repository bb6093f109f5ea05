"""Profiler traces: formats of several years, nesting, and files that are cut short or are something else."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memlint.trace import json_stream, kineto
from memlint.trace.errors import TraceError
from memlint.trace.events import Action, Origin, Phase, Recording
from memlint.trace.json_stream import EventStream
from memlint.trace.kineto import read_kineto
from memlint.trace.live import measure
from tests.trace.synthetic import memory, span, write_json

Reader = Callable[..., Recording]
CUDA = {"Device Type": 1, "Device Id": 0}


@pytest.fixture
def read(tmp_path: Path) -> Reader:
    return lambda *events: read_kineto(write_json(tmp_path / "trace.json", *events))


def test_allocations_and_frees(read: Reader) -> None:
    recording = read(
        memory(10.5, 4096, Addr=64, **{"Total Allocated": 4096, "Total Reserved": 0}),
        memory(12.25, -4096, Addr=64, **{"Total Allocated": 0, "Total Reserved": 0}),
    )
    assert recording.origin is Origin.PROFILER
    assert recording.devices() == ["cpu"]
    allocation, free = recording.events
    assert (allocation.action, allocation.address, allocation.time_us) == (Action.ALLOCATE, 64, 10.5)
    assert (allocation.requested_bytes, allocation.block_bytes, allocation.total_allocated) == (4096, 4096, 4096)
    assert (free.action, free.size, free.total_allocated) == (Action.FREE, 4096, 0)


def test_events_come_in_order_of_time(read: Reader) -> None:
    recording = read(memory(30, -8, Addr=64), memory(10, 8, Addr=64), memory(20, 16, Addr=128))
    assert [event.time_us for event in recording.events] == [10, 20, 30]
    assert recording.baseline == []


def test_blocks_on_a_gpu_have_rounded_sizes_and_absolute_totals(read: Reader) -> None:
    total = {"Total Allocated": 3 << 20, "Total Reserved": 20 << 20}
    recording = read(memory(1, 1 << 20, Addr=512, **CUDA, **total), memory(2, -512, Addr=4096, **CUDA))
    assert recording.devices() == ["cuda:0"]
    assert (recording.events[0].requested_bytes, recording.events[0].block_bytes) == (None, 1 << 20)
    assert recording.events[0].total_reserved == 20 << 20
    assert recording.baseline_bytes == {"cuda:0": 2 << 20}
    live = measure(recording, "cuda:0")
    assert (live.allocated.peak, live.allocated.current) == (3 << 20, (3 << 20) - 512)
    assert live.unmatched_frees == 0


def test_blocks_from_before_the_recording_are_the_baseline(read: Reader) -> None:
    recording = read(memory(1, 100, Addr=64), memory(2, -300, Addr=512))
    assert [(event.address, event.size) for event in recording.baseline] == [(512, 300)]
    assert measure(recording, "cpu").allocated.peak == 400


def test_running_out_of_memory(read: Reader) -> None:
    recording = read({**memory(1, 1 << 40, **CUDA), "name": "[OutOfMemory]"})
    assert recording.events[0].action is Action.OUT_OF_MEMORY


def test_other_devices_are_named_as_pytorch_names_them(read: Reader) -> None:
    events = [memory(index, 8, **{"Device Type": kind, "Device Id": 1}) for index, kind in enumerate((12, 20, 99))]
    assert [event.device for event in read(*events).events] == ["xpu:1", "privateuseone:1", "device type 99:1"]


def test_operator_and_functions_are_those_running_at_the_time(read: Reader) -> None:
    recording = read(
        span("python_function", "train.py(3): main", 0, 100),
        span("python_function", "nn.Module: Linear_0", 5, 40),
        span("python_function", "torch/nn/modules/linear.py(130): forward", 6, 30),
        span("python_function", "<built-in function linear>", 7, 25),
        span("cpu_op", "aten::linear", 8, 20, **{"Sequence number": 4}),
        span("cpu_op", "aten::addmm", 9, 10),
        memory(10, 64, Addr=64),
        memory(25, 64, Addr=128),
        memory(90, 64, Addr=256),
        memory(200, 64, Addr=512),
        {**memory(10, 64, Addr=1024), "tid": 2},
    )
    inner, outer, python, after = (event for event in recording.events if event.address != 1024)
    (other,) = (event for event in recording.events if event.address == 1024)
    assert (inner.operator, inner.records_graph) == ("aten::addmm", True)
    assert (outer.operator, outer.records_graph) == ("aten::linear", True)
    assert (python.operator, python.records_graph) == (None, None)
    assert inner.stack is not None
    assert [str(frame) for frame in inner.stack.frames] == ["torch/nn/modules/linear.py:130", "train.py:3"]
    assert str(inner.stack.user) == "train.py:3"
    assert inner.stack is outer.stack
    assert after.stack is None
    assert (other.operator, other.stack) == (None, None)
    assert recording.line_is_definition
    assert recording.calls == {("", "aten::linear"): 1, ("aten::linear", "aten::addmm"): 1}


def test_the_backward_pass_shows_in_the_operators(read: Reader) -> None:
    recording = read(
        span("cpu_op", "autograd::engine::evaluate_function: AddmmBackward0", 0, 10, **{"Sequence number": 1}),
        span("cpu_op", "AddmmBackward0", 1, 8, **{"Sequence number": 1}),
        span("cpu_op", "aten::mm", 2, 5),
        memory(3, 64, Addr=64),
        memory(50, 64, Addr=128),
    )
    assert [(event.operator, event.phase, event.records_graph) for event in recording.events] == [
        ("aten::mm", Phase.BACKWARD, False),
        (None, None, None),
    ]


def test_steps_and_the_optimizer_show_in_annotations(read: Reader) -> None:
    recording = read(
        span("user_annotation", "ProfilerStep#7", 0, 50),
        span("user_annotation", "ProfilerStep#8", 50, 50),
        span("user_annotation", "Optimizer.zero_grad#AdamW.zero_grad", 51, 5),
        span("cpu_op", "aten::zero_", 52, 2),
        span("user_annotation", "memlint.eval#8", 70, 20),
        *[memory(time, 8, Addr=8 * time) for time in (10, 53, 60, 75, 120)],
    )
    assert [(event.step, event.phase) for event in recording.events] == [
        (7, None),
        (8, Phase.OPTIMIZER),
        (8, None),
        (8, Phase.EVALUATION),
        (None, None),
    ]
    assert recording.calls["Optimizer.zero_grad#AdamW.zero_grad", "aten::zero_"] == 1


def test_the_format_of_2021(tmp_path: Path) -> None:
    """Other categories, threads as text, stacks in the operators, no addresses."""
    stack = "/opt/env/lib/python3.7/site-packages/torch/nn/functional.py(9): relu;train.py(21): forward"
    old: list[dict[str, Any]] = [
        {**span("Operator", "aten::relu", 0, 10, **{"Call stack": stack, "Sequence number": 3}), "tid": "1"},
        {**span("Operator", "ProfilerStep#4", 0, 100), "tid": "1"},
        memory(5, 4096),
        memory(6, -4096),
    ]
    recording = read_kineto(write_json(tmp_path / "trace.json", *old))
    assert {event.address for event in recording.events} == {None}
    assert recording.notes == ["no addresses: frees cannot be told apart, only totals are known"]
    first = recording.events[0]
    assert (first.operator, first.step) == ("aten::relu", 4)
    assert first.stack is not None
    assert str(first.stack.user) == "train.py:21"
    assert not recording.line_is_definition
    live = measure(recording, "cpu")
    assert (live.allocated.peak, live.allocated.current) == (4096, 0)


def test_a_trace_without_memory_says_why(read: Reader) -> None:
    assert "profile_memory=True" in read(span("cpu_op", "aten::add", 0, 1)).notes[0]


class TestFiles:
    def test_compressed_plain_array_and_marked_files_are_read_alike(self, tmp_path: Path) -> None:
        events = [memory(1, 64, Addr=64), memory(2, -64, Addr=64)]
        plain = write_json(tmp_path / "plain.json", *events)
        (tmp_path / "compressed.json.gz").write_bytes(gzip.compress(plain.read_bytes()))
        (tmp_path / "array.json").write_text(json.dumps(events))
        (tmp_path / "open.json").write_text(json.dumps(events).rstrip("]") + ",\n")
        (tmp_path / "marked.json").write_bytes(b"\xef\xbb\xbf" + plain.read_bytes())
        recordings = [read_kineto(path) for path in sorted(tmp_path.iterdir())]
        assert len(recordings) == 5
        assert all(recording == recordings[0] for recording in recordings)

    def test_what_a_strict_parser_would_refuse(self, tmp_path: Path) -> None:
        path = tmp_path / "trace.json"
        path.write_bytes(b'{"traceEvents": [1, {"name": "a\x01\xff"}], "note": "behind", "n": 12}')
        stream = EventStream(path)
        assert [event["name"] for event in stream] == ["a\x01\ufffd"]
        assert stream.metadata == {"note": "behind", "n": 12}

    @pytest.mark.parametrize(
        ("data", "reason"),
        [
            (b"", "the file is empty"),
            (b"  \n", "the file is empty"),
            (b"hello", "not JSON"),
            (b'{"a": 1}', "no traceEvents"),
            (b'{"traceEvents": 7}', "no traceEvents"),
            (b'{"traceEvents": [{"name": "x"}, {"na', "cut short, it ends after 1 events"),
            (b'{"traceEvents": [{"name": "x"}', "cut short"),
            (b'{"traceEvents": [{"name": "x"}]', "cut short"),
            (b'{"traceEvents"', "cut short"),
            (
                b'{"traceEvents": [{"name" "x"}, {"name": "some more text that follows"}]}',
                "malformed JSON after 0 events",
            ),
            (b'{"traceEvents": [{"name": "x"} {"name": "y"}]}', "malformed JSON after 1 events"),
            (b'{"traceEvents": [' + b"[" * 100_000 + b"]}", "malformed JSON"),
            (b'{"traceEvents": [{"ts": ' + b"9" * 10_000 + b"}]}", "malformed JSON"),
            (b'{"traceEvents": [{"ph": "i", "name": "[memory]", "ts": 1, "args": {}}]}', "without Bytes"),
            (b"\x1f\x8b" + b"nonsense", "method"),
            (gzip.compress(b'{"traceEvents": []}', mtime=0)[:-9], "end-of-stream"),
        ],
    )
    def test_others_are_refused_in_one_line(self, tmp_path: Path, data: bytes, reason: str) -> None:
        path = tmp_path / "trace.json"
        path.write_bytes(data)
        with pytest.raises(TraceError) as caught:
            read_kineto(path)
        assert reason in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_a_file_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(TraceError, match="No such file"):
            read_kineto(tmp_path / "absent.json")

    def test_too_many_events_are_refused(self, read: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(kineto, "MAX_SPANS", 2)
        with pytest.raises(TraceError, match="record fewer steps"):
            read(memory(1, 8), memory(2, 8), memory(3, 8))

    def test_an_endless_value_is_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(json_stream, "_LARGEST_VALUE", 1000)
        monkeypatch.setattr(json_stream, "_CHUNK", 100)
        path = tmp_path / "trace.json"
        path.write_text('{"traceEvents": [{"name": "' + "x" * 5000 + '"}]}')
        with pytest.raises(TraceError, match="malformed JSON after 0 events"):
            list(EventStream(path))

    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        names=st.lists(st.text(max_size=8), max_size=4),
        numbers=st.lists(st.floats(allow_nan=False), max_size=4),
        chunk=st.integers(1, 40),
    )
    def test_where_the_chunks_end_does_not_matter(
        self, tmp_path: Path, names: list[str], numbers: list[float], chunk: int
    ) -> None:
        events = [{"name": name, "ts": 12345, "args": {"a": [True, None]}} for name in names]
        path = tmp_path / "trace.json"
        document = {"first": numbers, "traceEvents": events, "last": 987654321}
        path.write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(json_stream, "_CHUNK", chunk)
            stream = EventStream(path)
            assert list(stream) == events
        assert stream.metadata == {"first": numbers, "last": 987654321}

    def test_memory_does_not_grow_with_the_file(self, tmp_path: Path) -> None:
        """A trace is mostly operators and functions; what is kept of one is a few numbers."""
        filler = json.dumps(span("kernel", "k" * 100, 1, 2, note="y" * 300))
        path = tmp_path / "trace.json"
        with path.open("w") as file:
            file.write('{"traceEvents": [' + json.dumps(memory(1, 8)))
            for _ in range(40_000):
                file.write(",\n" + filler)
            file.write("]}")
        tracemalloc.start()
        try:
            recording = read_kineto(path)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert len(recording.events) == 1
        assert path.stat().st_size > 18_000_000
        assert peak < 9_000_000
