"""Numbers that the script asks for, although device tensors hold none.

Small tensors of integers and truth values that came from the host (labels, masks, token ids) are computed with beside
their fake selves, so that branches over them go where they would. What depends on parameters has no value: a lone
number of that kind is taken to be 1, ``any`` to be false and ``all`` to be true, which is what a healthy run answers to
``isnan(loss).any()`` and ``isfinite(norm)``.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._pytree import tree_leaves, tree_map_only

aten = torch.ops.aten

_LARGEST_WHOLE = 8 << 20
"""Bytes of a twin of integers or truth values."""
_LARGEST_FLOAT = 64 << 10
_TWIN = "_memlint_twin"


class Values:
    """Keeps a real twin for each fake tensor whose values are known."""

    def __init__(self) -> None:
        self._spoilt: set[int] = set()
        """Storages that were written to with values that are not known."""
        self.assumed = 0
        """How often a number was made up."""

    def of(self, tensor: torch.Tensor) -> torch.Tensor | None:
        """The real values of a tensor, if they are known."""
        if not isinstance(tensor, FakeTensor):
            return tensor
        twin: torch.Tensor | None = getattr(tensor, _TWIN, None)
        if twin is None or twin.shape != tensor.shape or tensor.untyped_storage()._cdata in self._spoilt:
            return None
        return twin

    def set(self, tensor: FakeTensor, twin: torch.Tensor) -> None:
        """Remember the values of a fake tensor."""
        setattr(tensor, _TWIN, twin)

    def scalar(self, tensor: torch.Tensor) -> Any:
        """What ``tensor.item()`` says."""
        twin = self.of(tensor)
        if twin is not None:
            return twin.item()
        self.assumed += 1
        return False if tensor.dtype is torch.bool else 1.0 if tensor.dtype.is_floating_point else 1

    def real(self, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor with values for ``numpy()``, ``tolist()``: the known ones, else zeros."""
        twin = self.of(tensor)
        if twin is not None:
            return twin
        self.assumed += 1
        return _plainly(torch.zeros, tuple(tensor.shape), dtype=tensor.dtype)

    def follow(self, func: Any, args: Any, kwargs: Any, tensors: list[torch.Tensor], result: Any) -> None:
        """Compute the values of results, where those of all arguments are known."""
        results = [each for each in tree_leaves(result) if isinstance(each, FakeTensor)]
        twins = [self.of(each) for each in tensors]
        if results and all(twin is not None for twin in twins) and all(_is_small(each) for each in results):
            self._compute(func, args, kwargs, results)
            return
        self._spoil(func, args, kwargs)
        for each in results:
            if each.numel() == 1 and self.of(each) is None and not _is_view(func):
                self.set(each, _assumed(func, each))

    def shaped_by_data(self, func: Any, args: Any, kwargs: Any) -> tuple[Any, Any, Any] | None:
        """Another call that makes results of the shape that the values ask for: the real one, or the largest one."""
        if func is aten.index.Tensor:
            return self._indexed(func, args, kwargs)
        if func not in _SHAPED_BY_DATA:
            return None
        tensors = [each for each in tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor)]
        if all(self.of(each) is not None for each in tensors):
            real = _plainly(func, *self._real(args), **self._real(kwargs))
        else:
            self.assumed += 1
            real = _SHAPED_BY_DATA[func](*args, **kwargs)
        return _copies(real)

    def _indexed(self, func: Any, args: Any, kwargs: Any) -> tuple[Any, Any, Any] | None:
        """Masks as indices become the numbers of their elements."""
        indices: list[Any] = []
        for each in args[1]:
            if each is None or each.dtype not in (torch.bool, torch.uint8):
                indices.append(each)
                continue
            mask = self.of(each)
            if mask is None:
                self.assumed += 1
                mask = _plainly(torch.ones, tuple(each.shape), dtype=torch.bool)
            indices += _plainly(torch.nonzero, mask).unbind(1)
        if len(indices) == len(args[1]) and all(new is old for new, old in zip(indices, args[1], strict=True)):
            return None
        return (args[0], indices), kwargs, func

    def _compute(self, func: Any, args: Any, kwargs: Any, results: list[FakeTensor]) -> None:
        try:
            real = _plainly(func, *self._real(args), **self._real(kwargs))
        except Exception:  # noqa: BLE001 - an operator that the host does not have: its values stay unknown
            self._spoil(func, args, kwargs)
            return
        twins = [each for each in tree_leaves(real) if isinstance(each, torch.Tensor)]
        for each, twin in zip(results, twins, strict=False):
            self.set(each, twin)

    def _real(self, values: Any) -> Any:
        return tree_map_only(FakeTensor, self.of, values)

    def _spoil(self, func: Any, args: Any, kwargs: Any) -> None:
        """What an operator writes to without knowing what."""
        for position, argument in enumerate(func._schema.arguments):
            if argument.alias_info is None or not argument.alias_info.is_write:
                continue
            value = args[position] if position < len(args) else kwargs.get(argument.name)
            for each in tree_leaves(value):
                if isinstance(each, FakeTensor) and hasattr(each, _TWIN) and each.numel() > 1:
                    self._spoil_storage(each)

    def _spoil_storage(self, tensor: FakeTensor) -> None:
        storage = tensor.untyped_storage()
        self._spoilt.add(storage._cdata)
        weakref.finalize(storage, self._spoilt.discard, storage._cdata)


def _plainly(func: Any, *args: Any, **kwargs: Any) -> Any:
    """A real computation that nobody watches."""
    with torch._C._DisableTorchDispatch(), torch.no_grad():
        return func(*args, **kwargs)


def _is_small(tensor: torch.Tensor) -> bool:
    limit = _LARGEST_FLOAT if tensor.dtype.is_floating_point or tensor.dtype.is_complex else _LARGEST_WHOLE
    return bool(tensor.numel() * tensor.element_size() <= limit)


def _is_view(func: Any) -> bool:
    return any(each.alias_info is not None for each in func._schema.returns)


def _assumed(func: Any, tensor: torch.Tensor) -> torch.Tensor:
    name = func._schema.name
    value = name in ("aten::all", "aten::isfinite") if tensor.dtype is torch.bool else 1
    return _plainly(torch.full, tuple(tensor.shape), value, dtype=tensor.dtype)


def _copies(real: Any) -> tuple[Any, Any, Any]:
    """A call without data that makes tensors like ``real``."""
    if isinstance(real, torch.Tensor):
        return (real,), {}, aten.clone.default
    return (list(real),), {}, _clones


def _clones(tensors: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    return tuple(aten.clone.default(each) for each in tensors)


_clones.name = lambda: "aten::clone"  # type: ignore[attr-defined]
_clones._schema = aten.clone.default._schema  # type: ignore[attr-defined]


def _all_of(tensor: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
    return _plainly(torch.zeros, (tensor.numel(), tensor.dim()), dtype=torch.long)


def _every_element(tensor: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
    return _plainly(torch.zeros, (tensor.numel(),), dtype=tensor.dtype)


_SHAPED_BY_DATA: dict[Any, Any] = {
    aten.nonzero.default: _all_of,
    aten.masked_select.default: _every_element,
}
"""Operators whose results are as large as their values say, and what stands for them: the largest there could be."""
