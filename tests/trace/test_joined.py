from __future__ import annotations

from memlint.trace.events import HOST, Action, Category, Mark, MemoryEvent, Origin, Phase, Recording
from memlint.trace.frames import Frame, Stack
from memlint.trace.joined import joined

GPU = "cuda:0"
KIB = 1024


def alloc(address: int, size: int, time: float, device: str = GPU, block: int | None = None) -> MemoryEvent:
    return MemoryEvent(Action.ALLOCATE, device, address, size, block or size, time)


def free(address: int, size: int, time: float, device: str = GPU) -> MemoryEvent:
    return MemoryEvent(Action.FREE, device, address, size, size, time)


def tensor(address: int, time: float, category: Category, step: int, phase: Phase | None = None) -> MemoryEvent:
    event = alloc(address, KIB, time)
    event.category, event.step, event.phase, event.operator = category, step, phase, "aten::mm"
    event.stack = Stack((Frame("train.py", step, "train"),))
    return event


def history(*events: MemoryEvent) -> Recording:
    return Recording(Origin.CUDA_SNAPSHOT, list(events), baseline_bytes={GPU: 7})


def operators(*events: MemoryEvent) -> Recording:
    return Recording(Origin.CPU_RECORDER, list(events), baseline_bytes={HOST: 0})


def test_a_block_gets_what_its_operator_says_and_keeps_its_own_size() -> None:
    block = alloc(0x100, KIB, 10, block=2 * KIB)
    whole = joined(operators(tensor(0x100, 11, Category.ACTIVATION, 3, Phase.FORWARD)), history(block))
    (event,) = whole.events
    assert (event.category, event.step, event.phase) == (Category.ACTIVATION, 3, Phase.FORWARD)
    assert (event.operator, event.size) == ("aten::mm", 2 * KIB)
    assert event.stack is not None
    assert str(event.stack.frames[0]) == "train.py:3"


def test_temporaries_of_kernels_that_reuse_an_address_are_told_from_tensors_by_the_time() -> None:
    blocks = [alloc(0x100, KIB, time) for time in (10, 20, 30, 40, 50)]
    known = [tensor(0x100, 22, Category.PARAMETER, 1), tensor(0x100, 41, Category.GRADIENT, 2)]
    whole = joined(operators(*known), history(*blocks))
    assert [event.category for event in whole.events] == [None, Category.PARAMETER, None, Category.GRADIENT, None]


def test_as_many_tensors_as_blocks_pair_up_in_order_however_far_the_clocks_are_apart() -> None:
    blocks = [alloc(0x100, KIB, time) for time in (10, 20, 30)]
    known = [tensor(0x100, 1_000 + step, Category.ACTIVATION, step) for step in (1, 2, 3)]
    assert [event.step for event in joined(operators(*known), history(*blocks)).events] == [1, 2, 3]


def test_blocks_of_another_size_are_not_the_tensor() -> None:
    whole = joined(operators(tensor(0x100, 11, Category.INPUT, 1)), history(alloc(0x100, 2 * KIB, 10)))
    assert whole.events[0].category is None


def test_what_no_operator_returned_happened_where_the_program_was() -> None:
    known = [tensor(0x100, 10, Category.ACTIVATION, 1, Phase.FORWARD), tensor(0x200, 30, Category.GRADIENT, 1)]
    known[1].phase = Phase.BACKWARD
    workspaces = [alloc(0x900, KIB, 20), alloc(0xA00, KIB, 40), free(0x900, KIB, 41)]
    whole = joined(operators(*known), history(*workspaces))
    assert [event.phase for event in whole.events] == [Phase.FORWARD, Phase.BACKWARD, Phase.BACKWARD]


def test_metadata_of_the_allocator_counts_before_the_clock() -> None:
    tagged = alloc(0x900, KIB, 20)
    tagged.step, tagged.phase = 5, Phase.OPTIMIZER
    whole = joined(operators(tensor(0x100, 10, Category.ACTIVATION, 1, Phase.FORWARD)), history(tagged))
    assert (whole.events[0].step, whole.events[0].phase) == (5, Phase.OPTIMIZER)


def test_frees_have_the_category_of_their_block() -> None:
    blocks = [alloc(0x100, KIB, 10), free(0x100, KIB, 20), alloc(0x100, 2 * KIB, 30), free(0x100, 2 * KIB, 40)]
    whole = joined(operators(tensor(0x100, 10, Category.INPUT, 1)), history(*blocks))
    assert [event.category for event in whole.events] == [Category.INPUT, Category.INPUT, None, None]


def test_the_host_is_kept_and_everything_stands_in_the_order_of_time() -> None:
    on_host = [alloc(0x1, 8, 5, HOST), free(0x1, 8, 25, HOST)]
    mark = Mark("ProfilerStep#1", 1, 2)
    told = operators(*on_host)
    told.marks.append(mark)
    whole = joined(told, history(alloc(0x100, KIB, 10), free(0x100, KIB, 20)))
    assert [event.device for event in whole.events] == [HOST, GPU, GPU, HOST]
    assert whole.baseline_bytes == {HOST: 0, GPU: 7}
    assert whole.marks == [mark]
