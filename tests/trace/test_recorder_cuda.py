"""The recorder of CUDA's own history, before an allocator that answers as PyTorch's does on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import torch

from memlint.trace import recorder_cpu
from memlint.trace.errors import TraceError
from memlint.trace.events import Action, Phase
from memlint.trace.recorder_cuda import CudaRecorder
from memlint.trace.safe_pickle import load_plain
from tests.trace.synthetic import BASE, block, entry, frames, segment, snapshot


class Cuda:
    """A device that is initialized when the program first uses it."""

    def __init__(self, snapshot: Callable[[], object]) -> None:
        self.calls: list[object] = []
        self.snapshot = snapshot
        self.is_initialized = False

    def _record_memory_history(self, **options: Any) -> None:
        self.calls.append((options["enabled"], options.get("stacks"), options.get("max_entries")))

    def _set_memory_metadata(self, text: str) -> None:
        self.calls.append(text)

    def _snapshot(self) -> object:
        self.calls.append("snapshot")
        return self.snapshot()


EMPTY: dict[str, list[list[object]]] = {"segments": [], "device_traces": [[]]}


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    device = Cuda(lambda: EMPTY)
    monkeypatch.setattr(torch.cuda, "memory", device)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: device.is_initialized)
    return device


def test_recording_begins_when_the_program_uses_cuda_with_the_place_that_it_has_reached(cuda: Cuda) -> None:
    recorder = CudaRecorder(max_entries=9)
    recorder.start()
    recorder.tag(0, None)
    recorder.tag(0, Phase.FORWARD)
    recorder.follow()
    assert cuda.calls == []
    cuda.is_initialized = True
    recorder.follow()
    recorder.follow()
    recorder.tag(0, Phase.FORWARD)
    recorder.tag(1, Phase.BACKWARD)
    assert cuda.calls == [("all", "python", 9), "step=0;phase=forward", "step=1;phase=backward"]
    assert recorder.stop() is not None
    assert cuda.calls[3:] == ["snapshot", (None, None, None)]
    assert recorder.stop() is None


def test_a_program_without_cuda_has_no_history(cuda: Cuda) -> None:
    recorder = CudaRecorder()
    recorder.start()
    recorder.tag(3, Phase.FORWARD)
    assert recorder.stop() is None
    cuda.is_initialized = True
    recorder.follow()
    assert cuda.calls == []


def test_a_release_without_metadata_records_all_the_same(cuda: Cuda, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(Cuda, "_set_memory_metadata")
    recorder = CudaRecorder()
    cuda.is_initialized = True
    recorder.start()
    recorder.tag(1, Phase.FORWARD)
    assert recorder.stop() is not None


def test_a_device_that_has_failed_is_said_to_have(cuda: Cuda) -> None:
    def failed() -> object:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    cuda.snapshot = failed
    recorder = CudaRecorder()
    cuda.is_initialized = True
    recorder.start()
    with pytest.raises(TraceError, match="does not tell its history: CUDA error: an illegal memory access"):
        recorder.stop()


def test_the_history_of_a_real_gpu_becomes_events(cuda: Cuda, recorded: Callable[[str], Path]) -> None:
    cuda.snapshot = lambda: load_plain(recorded("forward_with_grad.pickle"))
    recorder = CudaRecorder()
    cuda.is_initialized = True
    recorder.start()
    recording = recorder.stop()
    assert recording is not None
    allocations = [event for event in recording.events if event.action is Action.ALLOCATE]
    assert max(event.size for event in allocations) >= 1 << 30
    assert recording.devices() == ["cuda:0"]


def test_a_backend_without_history_fails_in_the_recorder_and_not_in_the_program(
    cuda: Cuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(_cuda: Cuda, **_options: object) -> None:
        raise RuntimeError("cudaMallocAsync does not yet support recordHistory")

    monkeypatch.setattr(Cuda, "_record_memory_history", refuses)
    recorder = CudaRecorder()
    recorder.start()
    cuda.is_initialized = True
    recorder.follow()
    recorder.tag(1, Phase.FORWARD)
    with pytest.raises(TraceError, match="records no history: cudaMallocAsync"):
        recorder.stop()


def test_the_frames_of_the_recorder_of_tensors_are_left_out(cuda: Cuda) -> None:
    own = (recorder_cpu.__file__, 200, "__torch_dispatch__")
    mode = ("/lib/torch/utils/_python_dispatch.py", 9, "wrapped")
    through = frames(own, mode, ("/project/train.py", 7, "fit"), own)
    cuda.snapshot = lambda: snapshot(
        [entry("alloc", BASE, 512, frames=through), entry("alloc", BASE + 512, 512, frames=frames(own, mode))],
        segment(BASE, block(BASE, 512), block(BASE + 512, 512)),
    )
    recorder = CudaRecorder()
    cuda.is_initialized = True
    recorder.start()
    recording = recorder.stop()
    assert recording is not None
    first, second = (event.stack for event in recording.events)
    assert first is not None
    assert [str(frame) for frame in first.frames] == ["/project/train.py:7"]
    assert second is None


def test_a_history_that_is_longer_than_what_is_kept_is_said_to_be(cuda: Cuda) -> None:
    events = [entry("alloc", BASE + 512, 512), entry("alloc", BASE + 1024, 512)]
    cuda.snapshot = lambda: snapshot(events, segment(BASE, *(block(BASE + 512 * number, 512) for number in range(3))))
    cuda.is_initialized = True
    recorder = CudaRecorder(max_entries=2)
    recorder.start()
    recording = recorder.stop()
    assert recording is not None
    assert recording.overrun == {"cuda:0": "only the latest 2 events of the allocator's history were kept"}
