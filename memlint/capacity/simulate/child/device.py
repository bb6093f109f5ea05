"""The device that is not there: tensors without data that Python sees on ``cuda`` and PyTorch's core on the CPU.

A fake tensor on ``cuda`` ends the interpreter of a CPU build as soon as autograd meets it (no device guard is linked),
and fails in the backward of a CUDA build without a GPU. A fake tensor on the CPU works everywhere: so these are, and a
table of storages says which of them lie on which device. ``Tensor.device`` and its siblings read that table; what the
core decides by device (kernels of attention, dropout, autocast) is decided in ``kernels`` and ``autocast``.

Tensors on the host that were made from data are real and are computed with: loaders, labels, counters. Floating point
tensors that an initialiser would fill (parameters) are fake on the host, too, so that a model of any size can be built.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, UnsupportedOperatorException
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from memlint.capacity.simulate.child.recorder import HOST, DeviceRecorder
from memlint.capacity.simulate.child.values import Values
from memlint.trace.events import Phase

aten = torch.ops.aten

CUDA = "cuda"
_SMALL_TABLE = 64
"""Host tensors of no more elements stay real whoever makes them: means, weights of classes, counters."""
_FACTORIES = frozenset({"empty", "empty_strided", "zeros", "ones", "full", "rand", "randn", "normal", "new_empty"})

Hook = Callable[[Any, tuple[Any, ...], dict[str, Any], Any, int], None]


class SimulatedDevice(TorchDispatchMode):  # type: ignore[misc,unused-ignore]
    """Sees every operator and runs it for real, or without data and on a simulated device.

    ``around`` is called after an operator on a device with its results: it may hold and release memory there, as the
    kernel would. ``replacements`` run instead of operators whose kernel depends on the device.
    """

    def __init__(self, recorder: DeviceRecorder, around: Hook) -> None:
        super().__init__()
        self.recorder = recorder
        self.current = 0
        self.values = Values()
        self.fake = FakeTensorMode(allow_non_fake_inputs=True, allow_fallback_kernels=False)
        self.replacements: dict[Any, Callable[..., Any]] = {}
        self.unsupported: set[str] = set()
        self._around = around
        self._inside = 0
        self._moving = False
        self._implicit: dict[Any, bool] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    # What Python sees

    def of(self, tensor: torch.Tensor) -> torch.device:
        """The device that the program believes a tensor to be on."""
        if not isinstance(tensor, FakeTensor) or self._inside or tensor.fake_mode.in_kernel_invocation:
            return _real_device(tensor)
        index = self.recorder.place_of(tensor)
        return _real_device(tensor) if index is None or index == HOST else torch.device(CUDA, index)

    def index_of(self, device: torch.device) -> int:
        """The index of a device, which may not say it."""
        if device.type != CUDA:
            return HOST
        return self.current if device.index is None else device.index

    def move(self, tensor: torch.Tensor, device: torch.device, dtype: torch.dtype | None, **options: Any) -> Any:
        """A copy of ``tensor`` on another device."""
        self._moving = True
        try:
            return aten._to_copy(tensor, dtype=dtype, device=device, **options)
        finally:
            self._moving = False

    def without_data(self, tensor: torch.Tensor) -> torch.Tensor:
        """A fake tensor on the host in place of a real one."""
        if isinstance(tensor, FakeTensor) or tensor.is_meta:
            return tensor
        with self._within():
            fake = self.fake.from_tensor(tensor.detach())
        self.recorder.put(fake, HOST, "", records_graph=False)
        return fake

    # What operators do

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.prim.device.default:
            return _real_device(args[0])
        replacement = self.replacements.get(func)
        if replacement is not None:
            # Autograd is off altogether (``inference_mode``), and with it the key that replacements stand under.
            with self:
                return replacement(*args, **kwargs)
        if self._is_implicit(func):
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        tensors = [each for each in tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor)]
        device = _device_in(kwargs)
        if not self._is_ours(func, args, kwargs, tensors, device):
            return func(*args, **kwargs)
        return self._run(func, args, kwargs, tensors, device)

    def _is_ours(self, func: Any, args: Any, kwargs: Any, tensors: list[torch.Tensor], device: Any) -> bool:
        if device is not None and device.type == "meta":
            return False
        if any(isinstance(each, FakeTensor) for each in tensors):
            return True
        if any(each.is_meta for each in tensors) and (device is None or device.type == "meta"):
            return False
        if device is not None and device.type == CUDA:
            return True
        return not tensors and _is_initialiser(func, args, kwargs)

    def _is_implicit(self, func: Any) -> bool:
        known = self._implicit.get(func)
        if known is None:
            key = torch._C.DispatchKey.CompositeImplicitAutograd
            known = isinstance(func, torch._ops.OpOverload) and torch._C._dispatch_has_kernel_for_dispatch_key(
                func.name(), key
            )
            self._implicit[func] = known
        return known

    def _run(self, func: Any, args: Any, kwargs: Any, tensors: list[torch.Tensor], device: Any) -> Any:
        if func is aten._local_scalar_dense.default:
            return self.values.scalar(args[0])
        index = self._place_of_results(func, args, kwargs, tensors, device)
        plain = _on_host(kwargs)
        dynamic = self.values.shaped_by_data(func, args, plain)
        if dynamic is not None:
            args, plain, func = dynamic
        records = torch.is_grad_enabled() and any(each.requires_grad for each in tensors)
        result = self._without_data(func, args, plain, tensors)
        name = func.name()
        for each in tree_leaves(result):
            if isinstance(each, FakeTensor):
                self._see(each, index, name, records)
        self.values.follow(func, args, plain, tensors, result)
        if index != HOST:
            self._around(func, args, plain, result, index)
        return result

    def _place_of_results(self, func: Any, args: Any, kwargs: Any, tensors: list[torch.Tensor], device: Any) -> int:
        """The index of the device of what an operator makes, or :data:`HOST`."""
        if self._is_gradient(func, tensors, device):
            return self.current
        if self._is_converted_gradient(func, args, kwargs, device):
            return self._place(tensors, None)
        return self._place(tensors, None if _is_its_arguments(func, tensors, device) else device)

    def _is_converted_gradient(self, func: Any, args: Any, kwargs: Any, device: torch.device | None) -> bool:
        """Whether autograd converts a gradient back to the type of the tensor that was converted (autocast's weights).

        ``ToCopyBackward`` does it with the options of that tensor, whose device the core takes for the host.
        """
        if func is not aten._to_copy.default or device is None or device.type != "cpu" or self._moving:
            return False
        return self.recorder.phase is Phase.BACKWARD and kwargs.get("dtype") not in (None, args[0].dtype)

    def _is_gradient(self, func: Any, tensors: list[torch.Tensor], device: torch.device | None) -> bool:
        """Whether autograd makes a tensor with the options of a gradient, which it takes for the host's."""
        is_made = not tensors and device is not None and device.type == "cpu"
        return is_made and self.recorder.phase is Phase.BACKWARD and _name_of(func) in _FACTORIES

    def _without_data(self, func: Any, args: Any, kwargs: Any, tensors: list[torch.Tensor]) -> Any:
        with self._within(), self.fake:
            try:
                if func is aten._to_copy.default:
                    # To the core nothing changes from the host to the host, and it would return the same memory.
                    return _copy(*args, **kwargs)
                return func(*args, **kwargs)
            except (UnsupportedOperatorException, NotImplementedError):
                return self._guessed(func, args, tensors)

    def _guessed(self, func: Any, args: Any, tensors: list[torch.Tensor]) -> Any:
        """The results of an operator that nobody has described: those that it writes to, or one like its input."""
        schema = func._schema
        written = [value for value, argument in zip(args, schema.arguments, strict=False) if _is_written(argument)]
        if not schema.returns:
            return None
        if written:
            return written[0] if len(schema.returns) == 1 else tuple(written)
        if len(schema.returns) > 1 or not tensors:
            raise NotImplementedError(f"{func} cannot be run without data")
        self.unsupported.add(func.name())
        return torch.empty_like(tensors[0])

    def _see(self, tensor: FakeTensor, index: int, name: str, records: bool) -> None:
        if self.recorder.place_of(tensor) is None:
            self.recorder.put(tensor, index, name, records_graph=records)
        elif "resize" in name or "set_" in name:
            self.recorder.resized(tensor, name)

    def _place(self, tensors: list[torch.Tensor], device: torch.device | None) -> int:
        """Where results go: where they are told to, else to the arguments, of which a host's scalars do not count."""
        if device is not None:
            return self.index_of(device)
        places = [self.recorder.place_of(each) for each in tensors if isinstance(each, FakeTensor)]
        return next((place for place in places if place is not None and place != HOST), HOST)

    @contextlib.contextmanager
    def _within(self) -> Iterator[None]:
        self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1


def _real_device(tensor: torch.Tensor) -> torch.device:
    if isinstance(tensor, FakeTensor):
        return torch.device("meta") if tensor.fake_mode.in_kernel_invocation else tensor.fake_device
    return _DEVICE.__get__(tensor)


_DEVICE = torch._C.TensorBase.device


def _copy(tensor: torch.Tensor, dtype: torch.dtype | None = None, memory_format: Any = None, **_: Any) -> torch.Tensor:
    result: torch.Tensor = aten.empty_like.default(
        tensor, dtype=dtype or tensor.dtype, memory_format=memory_format or torch.preserve_format
    )
    return result


def _device_in(kwargs: dict[str, Any]) -> torch.device | None:
    device = kwargs.get("device")
    if device is None:
        return None
    return torch.device(CUDA, device) if isinstance(device, int) else torch.device(device)


def _is_its_arguments(func: Any, tensors: list[torch.Tensor], device: torch.device | None) -> bool:
    """Whether the device that an operator is told is that of its argument, which the core takes for the host's.

    So it clones gradients whose layout is not the parameter's (``clone_obey_contract`` in
    ``torch/csrc/autograd/utils/grad_layout_contract.h``), and makes those of an indexed tensor.
    """
    return device is not None and device.type == "cpu" and bool(tensors) and _name_of(func) in _LIKE_THEIR_ARGUMENT


_LIKE_THEIR_ARGUMENT = frozenset({"new_empty", "new_empty_strided", "new_zeros", "new_ones", "new_full"})


def _on_host(kwargs: dict[str, Any]) -> dict[str, Any]:
    """What the core is to be told: it knows no device but the host."""
    plain = {name: value for name, value in kwargs.items() if name != "pin_memory"}
    if plain.get("device") is not None:
        plain["device"] = torch.device("cpu")
    return plain


def _is_initialiser(func: Any, args: Any, kwargs: Any) -> bool:
    """Whether an operator makes a floating point tensor from nothing but its shape."""
    if _name_of(func) not in _FACTORIES:
        return False
    dtype = kwargs.get("dtype") or torch.get_default_dtype()
    if func is aten.full.default and kwargs.get("dtype") is None and not isinstance(args[1], float):
        return False
    size = args[0] if args and isinstance(args[0], (list, tuple, torch.Size)) else kwargs.get("size", ())
    elements = 1
    for each in size:
        elements *= int(each)
    return dtype.is_floating_point and elements > _SMALL_TABLE


def _name_of(func: Any) -> str:
    name: str = func._schema.name
    return name.removeprefix("aten::")


def _is_written(argument: Any) -> bool:
    return argument.alias_info is not None and argument.alias_info.is_write


def stripped(values: Any) -> Any:
    """Arguments with every fake tensor replaced by None, for messages."""
    return tree_map_only(FakeTensor, lambda _: None, values)
