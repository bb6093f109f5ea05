"""``torch.cuda`` and the methods of tensors that speak of devices, as a script on a machine with a GPU finds them."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.optim import optimizer as optimizers
from torch.utils._pytree import tree_map_only
from torch.utils.data import DataLoader

from memlint.capacity.simulate.child.device import CUDA, SimulatedDevice
from memlint.capacity.simulate.child.recorder import DeviceRecorder
from memlint.capacity.simulate.settings import Settings

_SEED = 42


class Facade:
    """Puts the simulated device where the script looks for one."""

    def __init__(self, device: SimulatedDevice, recorder: DeviceRecorder, settings: Settings) -> None:
        self._device = device
        self._recorder = recorder
        self._settings = settings
        self.notes: list[str] = []

    def install(self) -> None:
        """Everything, once."""
        # Without it ``torch.tensor(..., device="cuda")`` goes to the device before any mode sees it.
        torch._C._set_only_lift_cpu_tensors(True)
        self._tensors()
        self._cuda()
        self._streams()
        self._statistics()
        self._parameters()
        self._loaders()
        self._compilation()
        torch.nn.DataParallel.scatter = _to_the_first
        for kind in ("_foreach_supported_types",):
            getattr(optimizers, kind).append(FakeTensor)

    # ----------------------------------------------------------------------------------------------- tensors

    def _tensors(self) -> None:
        device, values = self._device, self._device.values
        FakeTensor.device = property(device.of)
        FakeTensor.is_cuda = property(lambda tensor: device.of(tensor).type == CUDA)
        FakeTensor.is_cpu = property(lambda tensor: device.of(tensor).type == "cpu")
        FakeTensor.get_device = lambda tensor: -1 if (found := device.of(tensor)).index is None else found.index
        FakeTensor.data_ptr = lambda tensor: tensor.untyped_storage()._cdata + tensor.storage_offset()
        FakeTensor.tolist = lambda tensor: values.real(tensor).tolist()
        FakeTensor.__format__ = lambda tensor, spec: values.real(tensor).__format__(spec)
        FakeTensor.numpy = lambda tensor, **_: values.real(tensor).numpy()
        FakeTensor.__array__ = lambda tensor, dtype=None: values.real(tensor).numpy().astype(dtype or None)
        FakeTensor.record_stream = lambda *_: None
        FakeTensor.__deepcopy__ = self._deep_copy
        FakeTensor.__reduce_ex__ = _refuse_to_pickle
        original = torch.Tensor.to
        torch.Tensor.to = lambda tensor, *args, **kwargs: self._to(original, tensor, *args, **kwargs)
        torch.Tensor.cuda = lambda tensor, device=None, **_: self._moved(tensor, _cuda_device(device))
        torch.Tensor.cpu = lambda tensor, **_: self._moved(tensor, torch.device("cpu"))
        torch.Tensor.pin_memory = lambda tensor, *_, **__: tensor
        torch.Tensor.is_pinned = lambda *_, **__: False

    def _to(self, original: Callable[..., Any], tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        device, dtype, rest = _asked(args, kwargs)
        here = tensor.device
        if device is None or device == here or (device.type == here.type and device.index in (None, here.index)):
            return original(tensor, dtype=dtype, **rest) if dtype or rest else tensor
        if CUDA not in (device.type, here.type):
            return original(tensor, *args, **kwargs)
        options = {name: value for name, value in rest.items() if name == "memory_format"}
        return self._device.move(tensor, device, dtype, **options)

    def _moved(self, tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
        moved: torch.Tensor = tensor.to(device)
        return moved

    @staticmethod
    def _deep_copy(tensor: torch.Tensor, memo: dict[int, Any]) -> torch.Tensor:
        known = memo.get(id(tensor))
        if known is None:
            known = memo[id(tensor)] = tensor.detach().clone().requires_grad_(tensor.requires_grad)
            vars(known).update({k: copy.deepcopy(v, memo) for k, v in vars(tensor).items() if k == "_is_param"})
            if tensor.is_leaf and tensor.grad is not None:
                known.grad = copy.deepcopy(tensor.grad, memo)
        result: torch.Tensor = known
        return result

    def _parameters(self) -> None:
        """Parameters hold no data from the start, so that they keep their identity when they move."""
        make = torch.nn.Parameter.__new__

        def without_data(kind: Any, data: Any = None, *args: Any, **kwargs: Any) -> Any:
            if isinstance(data, torch.Tensor) and data.dtype.is_floating_point:
                data = self._device.without_data(data)
            return make(kind, data, *args, **kwargs)

        torch.nn.Parameter.__new__ = without_data
        torch.nn.Module._apply = _apply

    # ------------------------------------------------------------------------------------------------- cuda

    def _cuda(self) -> None:
        cuda, gpu = torch.cuda, self._settings.device
        properties = SimpleNamespace(
            name=gpu.name,
            major=gpu.capability[0],
            minor=gpu.capability[1],
            total_memory=gpu.usable,
            multi_processor_count=gpu.processors,
            warp_size=32,
            gcnArchName="",
            uuid="",
        )
        answers: dict[str, Any] = {
            "is_available": True,
            "is_initialized": True,
            "_is_compiled": True,
            "device_count": self._settings.count,
            "_device_count_nvml": self._settings.count,
            "get_device_name": gpu.name,
            "get_device_capability": gpu.capability,
            "get_device_properties": properties,
            "is_bf16_supported": gpu.capability >= (8, 0),
            "is_tf32_supported": gpu.capability >= (8, 0),
            "get_arch_list": [f"sm_{gpu.capability[0]}{gpu.capability[1]}"],
            "can_device_access_peer": True,
            "is_current_stream_capturing": False,
            "initial_seed": _SEED,
        }
        for name, answer in answers.items():
            setattr(cuda, name, lambda *_, answer=answer, **__: answer)
        for name in (
            "_lazy_init init synchronize ipc_collect manual_seed manual_seed_all seed seed_all set_rng_state "
            "set_rng_state_all _check_capability _lazy_call"
        ).split():
            setattr(cuda, name, _nothing)
        cuda.current_device = lambda: self._device.current
        cuda.set_device = self._set_current
        cuda.device = lambda device: self._as_current(_cuda_device(device).index)
        cuda.device_of = lambda tensor: self._as_current(tensor.device.index)
        cuda.get_rng_state = lambda *_, **__: torch.get_rng_state()
        cuda.get_rng_state_all = lambda: [torch.get_rng_state()]
        torch.version.cuda = torch.version.cuda or "12.4"
        torch.backends.cuda.is_built = lambda: True
        torch.backends.cudnn.is_available = lambda: True
        torch.backends.cudnn.version = lambda: 90100
        torch.Generator = _generator(torch.Generator)
        if hasattr(torch, "accelerator"):
            accelerator = torch.accelerator
            accelerator.is_available = lambda: True
            accelerator.current_accelerator = lambda *_, **__: torch.device(CUDA)
            accelerator.device_count = lambda: self._settings.count
            accelerator.current_device_index = lambda: self._device.current
            accelerator.current_stream = lambda *_, **__: _Stream()
            accelerator.synchronize = accelerator.set_stream = _nothing
        torch._C._get_accelerator = lambda *_: torch.device(CUDA)
        for name in ("_cuda_clearCublasWorkspaces", "_cuda_resetPeakMemoryStats", "_cuda_synchronize"):
            setattr(torch._C, name, _nothing)

    def _set_current(self, device: Any) -> None:
        index = _cuda_device(device).index
        self._device.current = self._device.current if index is None or index < 0 else index

    @contextlib.contextmanager
    def _as_current(self, index: int | None) -> Any:
        before = self._device.current
        self._set_current(before if index is None else index)
        try:
            yield
        finally:
            self._device.current = before

    def _streams(self) -> None:
        cuda = torch.cuda
        cuda.Stream = cuda.ExternalStream = _Stream
        cuda.Event = _Event
        cuda.stream = cuda.StreamContext = lambda _: contextlib.nullcontext()
        cuda.set_stream = _nothing
        cuda.current_stream = cuda.default_stream = lambda *_, **__: _Stream()
        cuda.nvtx.range_push = cuda.nvtx.range_pop = cuda.nvtx.mark = _nothing

    def _statistics(self) -> None:
        cuda, memory = torch.cuda, torch.cuda.memory
        level: dict[str, Callable[[Any], int]] = {
            "memory_allocated": lambda stats: stats.allocated_bytes.current,
            "max_memory_allocated": lambda stats: stats.allocated_bytes.peak,
            "memory_reserved": lambda stats: stats.reserved_bytes.current,
            "max_memory_reserved": lambda stats: stats.reserved_bytes.peak,
        }
        for name, read in level.items():
            answer = self._level(read)
            setattr(cuda, name, answer)
            setattr(memory, name, answer)
        cuda.memory_stats = memory.memory_stats = lambda *_, **__: {}
        cuda.memory_summary = memory.memory_summary = lambda *_, **__: ""
        cuda.mem_get_info = memory.mem_get_info = self._free_and_total
        cuda.empty_cache = memory.empty_cache = self._empty_cache
        for name in ("reset_peak_memory_stats", "reset_max_memory_allocated", "reset_max_memory_cached"):
            setattr(cuda, name, self._reset_peaks)
            setattr(memory, name, self._reset_peaks)
        cuda.set_per_process_memory_fraction = memory.set_per_process_memory_fraction = _nothing

    def _level(self, read: Callable[[Any], int]) -> Callable[..., int]:
        return lambda device=None: read(self._recorder.allocator(self._index(device)).stats.all)

    def _reset_peaks(self, device: Any = None) -> None:
        self._recorder.reset_peaks(self._index(device))

    def _free_and_total(self, device: Any = None) -> tuple[int, int]:
        total = self._settings.device.usable
        return total - self._recorder.allocator(self._index(device)).reserved, total

    def _empty_cache(self) -> None:
        for index in self._recorder.used_devices:
            self._recorder.allocator(index).empty_cache()

    def _index(self, device: Any) -> int:
        index = _cuda_device(device).index
        return self._device.current if index is None else index

    # ------------------------------------------------------------------------------------------- compilation

    def _compilation(self) -> None:
        def compiled(model: Any = None, *_: Any, **__: Any) -> Any:
            self._note_compilation()
            return (lambda function: function) if model is None else model

        torch.compile = compiled
        torch.nn.Module.compile = lambda *_, **__: self._note_compilation()

    def _note_compilation(self) -> None:
        note = "torch.compile is left out: compiled code saves less for the backward as a rule"
        if note not in self.notes:
            self.notes.append(note)

    # ----------------------------------------------------------------------------------------------- loaders

    def _loaders(self) -> None:
        """Batches are made in this process, since no other knows the device."""
        make = DataLoader.__init__

        def init(loader: Any, *args: Any, **kwargs: Any) -> None:
            if len(args) > _WORKERS_POSITION:
                args = (*args[:_WORKERS_POSITION], 0, *args[_WORKERS_POSITION + 1 :])
            for name in ("num_workers", "prefetch_factor", "persistent_workers", "multiprocessing_context"):
                kwargs.pop(name, None)
            make(loader, *args, **{**kwargs, "pin_memory": False, "timeout": 0})

        DataLoader.__init__ = init


def _apply(module: torch.nn.Module, change: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Any:
    """``Module._apply`` as it treats plain tensors: parameters stay the objects that they are, their data change."""
    for child in module.children() if recurse else ():
        child._apply(change)
    with torch.no_grad():
        for name, parameter in module._parameters.items():
            if parameter is None:
                continue
            changed = change(parameter)
            if isinstance(parameter, FakeTensor) and isinstance(changed, FakeTensor):
                parameter.data = changed
            else:
                module._parameters[name] = torch.nn.Parameter(changed, parameter.requires_grad)
            if parameter.grad is not None:
                parameter.grad.data = change(parameter.grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = change(buffer)
    return module


_WORKERS_POSITION = 5
"""Of ``num_workers`` among the positional arguments of ``DataLoader`` after the loader itself."""


class _Stream:
    """A stream on which everything has already happened."""

    cuda_stream = 0
    device = torch.device(CUDA, 0)

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __enter__(self) -> _Stream:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def query(self) -> bool:
        return True

    def is_capturing(self) -> bool:
        return False

    def record_event(self, event: Any = None) -> Any:
        return event or _Event()

    def __getattr__(self, _: str) -> Any:
        return _nothing


class _Event:
    """An event that has happened."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def query(self) -> bool:
        return True

    def elapsed_time(self, _: Any) -> float:
        return 1.0

    def __getattr__(self, _: str) -> Any:
        return _nothing


def _generator(base: type) -> type:
    class Generator(base):
        def __new__(cls, device: Any = "cpu") -> Any:
            return super().__new__(cls, "cpu" if torch.device(device).type == CUDA else device)

    return Generator


def _to_the_first(_: Any, inputs: Any, kwargs: Any, devices: list[int]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """What ``DataParallel`` hands to one GPU; a CPU build cannot scatter."""
    first = torch.device(CUDA, devices[0])
    inputs, kwargs = tree_map_only(torch.Tensor, lambda tensor: tensor.to(first), (inputs, kwargs))
    return (inputs,), (kwargs or {},)


def _asked(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[torch.device | None, Any, dict[str, Any]]:
    """The device, the type and the other options that ``Tensor.to`` was called with."""
    rest = dict(kwargs)
    device, dtype, other = rest.pop("device", None), rest.pop("dtype", None), rest.pop("other", None)
    rest.pop("non_blocking", None)
    values = list(args)
    for value in values[:2]:
        if isinstance(value, torch.Tensor):
            other = value
        elif isinstance(value, torch.dtype):
            dtype = value
        elif isinstance(value, (str, torch.device)) or (isinstance(value, int) and not isinstance(value, bool)):
            device = value
    if other is not None:
        device, dtype = other.device, other.dtype
    if isinstance(device, int):
        device = torch.device(CUDA, device)
    return (None if device is None else torch.device(device)), dtype, {k: v for k, v in rest.items() if v}


def _cuda_device(device: Any) -> torch.device:
    if device is None:
        return torch.device(CUDA)
    return torch.device(CUDA, device) if isinstance(device, int) else torch.device(device)


def _refuse_to_pickle(tensor: torch.Tensor, _: int) -> Any:
    return (torch.zeros, (tuple(tensor.shape),), {})


def _nothing(*_: Any, **__: Any) -> None:
    """Nothing to do on a device that is not there."""
