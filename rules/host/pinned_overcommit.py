"""MEM903."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from memlint.findings import Claim, ClaimShape, Confidence, Finding, Severity
from memlint.model.aliases import qualified_names
from memlint.model.program import Program
from memlint.model.settings import option, values
from memlint.model.values import Call, Display, Value
from memlint.rule import Rule


class PinnedOvercommit(Rule):
    """A large pinned buffer takes up to twice its size, because pinned memory is allocated in powers of two.

    ## What it does
    Finds tensors of at least 64 MiB that are pinned (`torch.empty(..., pin_memory=True)`, `torch.zeros(...)
    .pin_memory()`) and whose size, where it can be computed from constants, is at least a quarter below the next power
    of two. Off by default.

    ## Why is this bad?
    The allocator of pinned host memory rounds each request up to the next power of two: 20.4 GiB become 32 GiB
    (pytorch#150517). Pinned memory cannot be swapped out, and is kept for reuse when it is freed.

    ## Example
    ```python
    buffer = torch.empty(5_000, 1024, 1024, pin_memory=True)  # 19.5 GiB, takes 32 GiB
    ```

    ## Use instead
    ```python
    buffers = [torch.empty(256, 1024, 1024, pin_memory=True) for _ in range(20)]  # 1 GiB each
    ```

    ## Fix safety
    There is no automatic fix: smaller buffers change what uses them.

    ## When to ignore
    When host memory is plentiful. `PYTORCH_ALLOC_CONF=pinned_use_cuda_host_register:True` changes how memory is pinned,
    and not how sizes are rounded.

    ## References
    - [pytorch#150517](https://github.com/pytorch/pytorch/issues/150517),
      [pytorch#171662](https://github.com/pytorch/pytorch/pull/171662)
    """

    code = "MEM903"
    name = "pinned-overcommit"
    severity = Severity.NOTE
    default = False
    gate = frozenset({"pin_memory"})
    positive = (
        """
import torch
buffer = torch.empty(5_000, 1024, 1024, pin_memory=True)  # MEM903: 10
""",
        """
import torch
ROWS = 3 * 2 ** 20
cache = torch.zeros((ROWS, 12), dtype=torch.float64).pin_memory()  # MEM903
""",
    )
    negative = (
        """
import torch
small = torch.empty(1000, 1000, pin_memory=True)
exact = torch.empty(1024, 1024, 1024, pin_memory=True)
nearly = torch.empty(1000, 1024, 1024, dtype=torch.float16, pin_memory=True)
plain = torch.empty(5000, 1024, 1024, pin_memory=False)
def make(n):
    return torch.empty(n, 1024, 1024, pin_memory=True)
""",
    )

    def check(self, program: Program) -> Iterator[Finding]:
        for call in program.calls():
            made = _pinned(call)
            size = _bytes(made) if made is not None else None
            if size is not None and size >= _LARGE and _rounded(size) >= _WORTH * size:
                yield self._finding(call, size)

    def _finding(self, call: Call, size: int) -> Finding:
        return self.finding(
            call.node,
            f"{size / 2**30:.1f} GiB of pinned memory take {_rounded(size) / 2**30:.1f} GiB: the next power of two",
            holds=f"{(_rounded(size) - size) / 2**30:.1f} GiB of pinned host memory that nothing uses",
            confidence=Confidence.LIKELY,
            claim=Claim(
                ClaimShape.PLATEAU,
                "host",
                "next power of two - size",
                held=call.node,
                unobservable="memory is pinned by the CUDA driver, which a run without a GPU does not have",
            ),
        )


_LARGE = 64 * 2**20
"""Bytes from which on the rounding matters."""
_WORTH = 1.25
_MAKERS = frozenset({"torch.empty", "torch.zeros", "torch.ones", "torch.full", "torch.rand", "torch.randn"})
_ITEM_SIZES = {
    "float64": 8,
    "double": 8,
    "int64": 8,
    "long": 8,
    "float32": 4,
    "float": 4,
    "int32": 4,
    "int": 4,
    "float16": 2,
    "half": 2,
    "bfloat16": 2,
    "int16": 2,
    "uint8": 1,
    "int8": 1,
    "bool": 1,
}
_DEFAULT_ITEM_SIZE = 4


def _rounded(size: int) -> int:
    return 1 << (size - 1).bit_length()


def _pinned(call: Call) -> Call | None:
    """The call that makes the tensor that ``call`` pins."""
    if call.method == "pin_memory" and isinstance(call.receiver, Call):
        return call.receiver if qualified_names(call.receiver.callee) & _MAKERS else None
    makes = qualified_names(call.callee) & _MAKERS
    return call if makes and option(call, "pin_memory").is_on() is True else None


def _bytes(made: Call) -> int | None:
    """The size of a new tensor, where all of its dimensions are known."""
    given = made.positional()
    if len(given) == 1 and isinstance(given[0], Display):
        given = list(given[0].elements)
    elif any(name.endswith(".full") for name in qualified_names(made.callee)):
        return None
    known = [values(each).only for each in given]
    sizes = [each.constant for each in known if each is not None and isinstance(each.constant, int)]
    if not sizes or len(sizes) < len(given):
        return None
    item = _item_size(made.argument("dtype"))
    return prod(sizes) * item if item is not None else None


def _item_size(dtype: Value | None) -> int | None:
    if dtype is None:
        return _DEFAULT_ITEM_SIZE
    return next((_ITEM_SIZES[last] for name in qualified_names(dtype) if (last := name[6:]) in _ITEM_SIZES), None)
