"""Which frame of a stack is the user's line."""

from __future__ import annotations

import pytest

from memlint.trace.frames import Frame, StackTable


@pytest.mark.parametrize(
    "filename",
    [
        "/home/user/project/train.py",
        "/tmp/ipykernel_4242/1234567.py",
        "C:\\work\\train.py",
        "train.py",
        "project/torch_utils.py",
        "<stdin>",
        "<ipython-input-3-abcdef>",
        "<string>",
    ],
)
def test_user_code(filename: str) -> None:
    assert Frame(filename, 1, "f").is_user_code


@pytest.mark.parametrize(
    "filename",
    [
        "/opt/env/lib/python3.12/site-packages/torch/nn/modules/linear.py",
        "/usr/lib/python3/dist-packages/numpy/core/numeric.py",
        "/usr/lib/python3.11/threading.py",
        "/opt/conda/lib/python3.13t/runpy.py",
        "C:\\Users\\me\\env\\Lib\\site-packages\\torch\\optim\\adam.py",
        "C:\\Python312\\Lib\\threading.py",
        "torch/nn/modules/linear.py",
        "transformers/trainer.py",
        "memlint/trace/recorder_cpu.py",
        "threading.py",
        "importlib/__init__.py",
        "<frozen runpy>",
        "<eval_with_key>.3",
        "<__array_function__ internals>",
        "CUDACachingAllocator.cpp",
        "??",
        "",
    ],
)
def test_code_of_others(filename: str) -> None:
    assert not Frame(filename, 1, "f").is_user_code


def test_the_innermost_user_frame_is_the_users() -> None:
    table = StackTable()
    stack = table.stack(
        (
            table.frame("??", 0, "at::native::empty_cuda"),
            table.frame("/env/lib/python3.11/site-packages/torch/nn/functional.py", 5, "relu"),
            table.frame("/home/user/model.py", 57, "forward"),
            table.frame("/home/user/train.py", 8, "main"),
        )
    )
    assert stack is not None
    assert stack.user == Frame("/home/user/model.py", 57, "forward")
    assert stack.mentions("torch/nn/functional.py")
    assert stack.mentions("torch/nn/functional.py", ["relu", "gelu"])
    assert not stack.mentions("torch/nn/functional.py", ["gelu"])
    assert not stack.mentions("checkpoint.py")


def test_a_stack_may_have_no_user_code() -> None:
    table = StackTable()
    stack = table.stack((table.frame("??", 0, "torch::autograd::Engine::thread_main"),))
    assert stack is not None
    assert stack.user is None
    assert table.stack(()) is None


def test_equal_stacks_are_one_object() -> None:
    table = StackTable()
    stacks = {id(table.stack((table.frame("a.py", 1, "f"), table.frame("b.py", 2, "g")))) for _ in range(3)}
    assert len(stacks) == 1
