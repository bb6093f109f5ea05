"""Real programs, recorded on the CPU: bytes, lines and lifetimes."""

from __future__ import annotations

import gc
import inspect
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("torch")

import torch

from memlint.trace.events import HOST, Action, Category, MemoryEvent, Origin, Phase, Recording
from memlint.trace.kineto import read_kineto
from memlint.trace.live import measure
from memlint.trace.reading import read_trace
from memlint.trace.recorder_cpu import CpuRecorder
from memlint.trace.snapshot_writer import write_snapshot

KIB = 1 << 10


@pytest.fixture(autouse=True)
def _settled() -> Iterator[None]:
    """One thread, since the machine may be shared, and no garbage of other tests that dies meanwhile."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    gc.collect()
    yield
    torch.set_num_threads(threads)


def line() -> int:
    """The line of the caller."""
    frame = inspect.currentframe()
    assert frame is not None
    assert frame.f_back is not None
    return frame.f_back.f_lineno


def allocations(recording: Recording) -> list[MemoryEvent]:
    return [event for event in recording.events if event.action is Action.ALLOCATE]


def test_an_allocation_has_its_size_its_line_and_its_end() -> None:
    with CpuRecorder() as recorder:
        here = line() + 1
        kept = torch.zeros(1024)
        temporary = torch.ones(256)
        del temporary
    recording = recorder.recording()
    assert recording.origin is Origin.CPU_RECORDER
    assert [(event.action, event.size) for event in recording.events] == [
        (Action.ALLOCATE, 4096),
        (Action.ALLOCATE, 1024),
        (Action.FREE, 1024),
    ]
    first = recording.events[0]
    assert first.address == kept.data_ptr()
    assert first.operator == "aten::zeros"
    assert first.device == HOST
    assert first.stack is not None
    assert first.stack.user is not None
    assert (Path(first.stack.user.filename).name, first.stack.user.line) == (Path(__file__).name, here)
    assert first.stack.frames[0] == first.stack.user
    assert measure(recording, HOST).allocated.peak == 4096 + 1024


def test_views_and_updates_in_place_allocate_nothing() -> None:
    with CpuRecorder() as recorder:
        tensor = torch.zeros(64)
        tensor.view(8, 8).t()[2:].add_(1)
    assert len(recorder.recording().events) == 1


def test_a_storage_lives_as_long_as_the_graph_needs_it() -> None:
    weight = torch.ones(100, requires_grad=True)
    with CpuRecorder() as recorder:
        loss = (weight * 2).exp().sum()
        assert measure(recorder.recording(), HOST).allocated.current == 400 + 4 + 400
        loss.backward()
        # The result of exp is gone, the gradient has come.
        assert measure(recorder.recording(), HOST).allocated.current == 400 + 4 + 400
        del loss
    recording = recorder.recording()
    assert weight.grad is not None
    live = measure(recording, HOST)
    assert sorted(live.blocks) == sorted([weight.data_ptr(), weight.grad.data_ptr()])
    operators = {event.operator: event.records_graph for event in allocations(recording)}
    assert operators["aten::exp"] is True
    assert live.blocks[weight.grad.data_ptr()].records_graph is False


def test_allocations_of_the_backward_pass_have_the_line_of_backward() -> None:
    weight = torch.ones(100, requires_grad=True)
    with CpuRecorder() as recorder:
        loss = (weight * weight).sum()
        here = line() + 1
        loss.backward()
    assert weight.grad is not None
    stack = measure(recorder.recording(), HOST).blocks[weight.grad.data_ptr()].stack
    assert stack is not None
    assert stack.user is not None
    assert stack.user.line == here


def test_memory_that_no_operator_made_is_met_when_it_is_used() -> None:
    numpy = pytest.importorskip("numpy")
    outside = torch.zeros(64)
    with CpuRecorder() as recorder:
        array = torch.from_numpy(numpy.ones(32))
        (outside.sum() + array.sum()).item()
    sizes = [event.size for event in allocations(recorder.recording()) if event.operator is None]
    assert sorted(sizes) == [256, 256]


def test_resizing_changes_what_is_live() -> None:
    with CpuRecorder() as recorder:
        tensor = torch.zeros(4)
        tensor.resize_(1024)
        assert measure(recorder.recording(), HOST).allocated.current == 4096
        tensor.untyped_storage().resize_(0)
        tensor.set_()
        assert measure(recorder.recording(), HOST).allocated.current == 0
        del tensor
    assert measure(recorder.recording(), HOST).unmatched_frees == 0


def test_a_loaded_file_is_recorded(tmp_path: Path) -> None:
    torch.save(torch.zeros(1000), tmp_path / "tensor.pt")
    with CpuRecorder() as recorder:
        loaded = torch.load(tmp_path / "tensor.pt")
        live = measure(recorder.recording(), HOST)
        assert live.blocks[loaded.data_ptr()].size == 4000


def test_step_phase_and_category_are_attached() -> None:
    with CpuRecorder() as recorder:
        parameter = torch.zeros(10)
        recorder.classify([parameter], Category.PARAMETER)
        recorder.place(3, Phase.FORWARD)
        activation = torch.zeros(20)
        recorder.place(4, None)
        del activation, parameter
    events = recorder.recording().events
    assert [(event.action.name, event.size, event.step, event.phase, event.category) for event in events] == [
        ("ALLOCATE", 40, None, None, Category.PARAMETER),
        ("ALLOCATE", 80, 3, Phase.FORWARD, None),
        ("FREE", 80, 4, None, None),
        ("FREE", 40, 4, None, Category.PARAMETER),
    ]


def test_sparse_and_meta_tensors_do_no_harm() -> None:
    with CpuRecorder() as recorder:
        torch.zeros(10, device="meta")
        torch.eye(4).to_sparse()
        assert torch.zeros(0).numel() == 0
    assert all(event.size > 0 for event in recorder.recording().events)


def test_recording_stops_at_its_bound() -> None:
    recorder = CpuRecorder(max_events=2)
    with recorder:
        tensors = [torch.zeros(8) for _ in range(5)]
        tensors.clear()
    recording = recorder.recording()
    assert [event.action for event in recording.events] == [Action.ALLOCATE] * 2 + [Action.FREE] * 2
    assert recording.overrun == {HOST: "3 events after the first 2 were not recorded"}


def test_an_exception_ends_the_recording() -> None:
    recorder = CpuRecorder()

    def fail() -> None:
        with recorder:
            torch.zeros(8)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    torch.zeros(1000)
    assert {event.size for event in recorder.recording().events} == {32}


def train(model: torch.nn.Module, steps: int) -> list[float]:
    optimizer = torch.optim.AdamW(model.parameters())
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = model(torch.randn(16, 64)).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    layers = [torch.nn.Linear(64, 512), torch.nn.GELU(), torch.nn.LayerNorm(512), torch.nn.Linear(512, 64)]
    return torch.nn.Sequential(*layers)


def test_recording_changes_no_number() -> None:
    plain = train(network(), 3)
    with CpuRecorder():
        recorded = train(network(), 3)
    assert recorded == plain


def test_training_takes_what_the_profiler_says(tmp_path: Path) -> None:
    """Byte for byte but for what operators allocate and free inside themselves."""
    train(network(), 1)
    gc.collect()
    with CpuRecorder() as recorder:
        train(network(), 3)
        gc.collect()
    mine = measure(recorder.recording(), HOST).allocated
    with torch.profiler.profile(profile_memory=True) as profiler:
        train(network(), 3)
        gc.collect()
    profiler.export_chrome_trace(str(tmp_path / "trace.json"))
    theirs = measure(read_kineto(tmp_path / "trace.json"), HOST).allocated
    assert theirs.peak * 0.99 <= mine.peak <= theirs.peak
    assert abs(mine.current - theirs.current) <= KIB


def test_a_step_keeps_parameters_gradients_and_optimizer_state() -> None:
    model = network()
    with CpuRecorder() as recorder:
        train(model, 2)
        gc.collect()
        live = measure(recorder.recording(), HOST)
    parameters = sum(parameter.nbytes for parameter in model.parameters())
    gradients = sum(parameter.grad.nbytes for parameter in model.parameters() if parameter.grad is not None)
    # The optimizer is gone when train returns, and its state with it.
    assert live.allocated.current == parameters + gradients


def test_pytorchs_own_tools_read_a_recording(tmp_path: Path) -> None:
    viewer = pytest.importorskip("torch.cuda._memory_viz")
    with CpuRecorder() as recorder:
        kept = torch.zeros(1 << 20)
        train(network(), 2)
    recording = recorder.recording()
    path = tmp_path / "snapshot.pickle"
    with path.open("wb") as file:
        write_snapshot(recording, file)
    with path.open("rb") as file:
        snapshot = pickle.load(file)
    # It asserts that the blocks add up to the segments.
    summary = viewer.segsum(snapshot)
    assert f"total_allocated: {viewer.Bytes(measure(recording, HOST).allocated.current)}" in summary
    assert f"{len(snapshot['device_traces'][0])} entries" in viewer.trace(snapshot)
    assert measure(read_trace(path), HOST).blocks[kept.data_ptr()].size == kept.nbytes


def test_fake_tensors_have_no_memory() -> None:
    fake_tensor = pytest.importorskip("torch._subclasses.fake_tensor")
    mode = fake_tensor.FakeTensorMode()
    fake = mode.from_tensor(torch.zeros(64))
    with CpuRecorder() as recorder:
        real = torch.zeros(32)
        with mode:
            _ = fake + 1
    assert [event.size for event in allocations(recorder.recording())] == [128]
    assert len(real) == 32


def test_what_was_allocated_and_freed_since_a_moment() -> None:
    with CpuRecorder() as recorder:
        kept = torch.zeros(1024)
        moment = recorder.mark()
        temporary = torch.ones(256)
        del temporary
        small = torch.ones(16)
    assert (recorder.most_since(moment), recorder.freed_since(moment)) == (1024, 1024)
    assert len(kept) > len(small)
