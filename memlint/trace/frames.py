"""Call stacks: the frames that a recording carries, and which of them is the user's line."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from typing import NamedTuple

_INSTALLED = re.compile(
    r"(^|[/\\])(site-packages|dist-packages)[/\\]"
    r"|[/\\]lib(64)?[/\\]python\d+(\.\d+)?t?[/\\]"
    r"|[/\\]Lib[/\\](?!.*[/\\]Lib[/\\])[^/\\]+\.py$"
    r"|[/\\]memlint[/\\](trace|verify)[/\\]",
)
"""Where interpreters keep what was installed: packages, and the standard library on POSIX and on Windows; and what of
memlint runs beside a script, wherever it was installed from."""

_TYPED_IN = re.compile(r"^<(stdin|string|ipython-input|ipython|cell|doctest)\b")
"""Pseudo file names of code that a person typed, as against code that a library generated."""

_FRAMEWORKS = frozenset(
    {
        "accelerate",
        "apex",
        "catalyst",
        "composer",
        "datasets",
        "deepspeed",
        "diffusers",
        "einops",
        "evaluate",
        "fairscale",
        "fastai",
        "functorch",
        "huggingface_hub",
        "ignite",
        "lightning",
        "lightning_fabric",
        "lightning_utilities",
        "memlint",
        "monai",
        "numpy",
        "pandas",
        "peft",
        "PIL",
        "pytorch_lightning",
        "sentence_transformers",
        "timm",
        "torch",
        "torch_geometric",
        "torchaudio",
        "torchdata",
        "torchmetrics",
        "torchtext",
        "torchtune",
        "torchvision",
        "tqdm",
        "transformers",
        "trl",
        "wandb",
        "xformers",
    }
)
"""Packages that call user code or allocate for it. The profiler cuts every ``sys.path`` entry off a file name
(``torch.profiler.python_tracer._prefix_regex``), so of an installed file only the path inside its package is left."""


class Frame(NamedTuple):
    """One entry of a call stack; ``line`` is 1-based, 0 where it is not known (most C++ frames)."""

    filename: str
    line: int
    function: str

    @property
    def is_python(self) -> bool:
        """Whether the frame is Python code; snapshots taken with ``stacks="all"`` hold C++ frames as well."""
        return self.filename.endswith((".py", ".pyw", ">"))

    @property
    def is_user_code(self) -> bool:
        """Whether the frame is Python code outside the standard library and outside installed packages."""
        if not self.is_python:
            return False
        if self.filename.startswith("<"):
            return _TYPED_IN.match(self.filename) is not None
        if _INSTALLED.search(self.filename):
            return False
        return not _is_package_path(self.filename)

    def __str__(self) -> str:
        return f"{self.filename}:{self.line}"


def _is_package_path(filename: str) -> bool:
    if filename.startswith(("/", "\\")) or filename[1:2] == ":":
        return False
    top = re.split(r"[/\\]", filename, maxsplit=1)[0].removesuffix(".py")
    return top in _FRAMEWORKS or (top in sys.stdlib_module_names and top != "__main__")


class Stack:
    """A call stack, innermost frame first. Equal stacks of one recording are one object."""

    __slots__ = ("frames", "user")

    def __init__(self, frames: tuple[Frame, ...]) -> None:
        self.frames = frames
        self.user = next((frame for frame in frames if frame.is_user_code), None)
        """The innermost frame of the user's own code, or None (an autograd thread has no Python frames at all)."""

    def __repr__(self) -> str:
        return f"Stack({self.user or '<no user code>'}, {len(self.frames)} frames)"

    def mentions(self, filename_end: str, functions: Iterable[str] = ()) -> bool:
        """Whether a frame lies in a file that ends so and, if any are given, in one of these functions."""
        wanted = frozenset(functions)
        return any(
            frame.filename.endswith(filename_end) and (not wanted or frame.function in wanted) for frame in self.frames
        )


class StackTable:
    """Keeps one object for each distinct stack and frame: millions of events share a few thousand stacks."""

    def __init__(self) -> None:
        self._frames: dict[Frame, Frame] = {}
        self._stacks: dict[tuple[Frame, ...], Stack] = {}

    def frame(self, filename: str, line: int, function: str) -> Frame:
        """The frame with these fields."""
        frame = Frame(filename, line, function)
        return self._frames.setdefault(frame, frame)

    def stack(self, frames: tuple[Frame, ...]) -> Stack | None:
        """The stack of these frames; None where there are none."""
        if not frames:
            return None
        stack = self._stacks.get(frames)
        if stack is None:
            stack = self._stacks[frames] = Stack(frames)
        return stack
