"""What a sharded model has whole: the parameters of its units while they run, and the weights that it gathers."""

from __future__ import annotations

import functools
import sys
import types
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes

from memlint.verify.child.following import Follower, wrap
from memlint.verify.child.reachable import storage_keys
from memlint.verify.observations import ALONE


class Unsharded(Follower):
    """The parameters of a model that ``fully_shard`` was called on: which of them are whole while a layer runs.

    Between forward and backward they are DTensors, which hold a shard; a unit that is in use has plain tensors.
    """

    _model: weakref.ref[torch.nn.Module] | None = None

    def end(self, frame: types.FrameType) -> None:
        """Look at the model whenever a layer of it has run."""
        super().end(frame)
        for value in self.values(frame):
            if self._model is None and isinstance(value, torch.nn.Module) and any(map(_is_sharded, value.parameters())):
                self._model = weakref.ref(value)
                for each in value.modules():
                    if next(each.parameters(recurse=False), None) is not None:
                        each.register_forward_hook(self._layer_done)

    def _layer_done(self, *_: object) -> None:
        model = self._model() if self._model is not None else None
        if model is None or self.is_elsewhere:
            return
        sizes = [(each, each.numel() * each.element_size()) for each in model.parameters()]
        whole = sum(size for each, size in sizes if not _is_sharded(each))
        self.note(whole, sum(size for _, size in sizes))


def _is_sharded(parameter: torch.Tensor) -> bool:
    tensors = sys.modules.get("torch.distributed.tensor")
    return tensors is not None and isinstance(parameter, tensors.DTensor)


class Gathered(Follower):
    """The full weights of a sharded model that the line gathers, or that are gathered as it says, on this device.

    The line asks for a full state dict itself, sets the kind of a model's state dicts, makes the options for getting
    one, or has a parameter's full tensor. What is moved to the host meanwhile is on the device no longer; a move to the
    host is a copy here, as it is from a GPU.
    """

    def install(self) -> None:
        """Look at each state dict, and at what says of which kind it is to be."""
        self._models: weakref.WeakSet[torch.nn.Module] = weakref.WeakSet()
        """Those whose kind of state dict the line was the last one to set."""
        self._options: list[weakref.ref[Any]] = []
        self._tensors: list[weakref.ref[torch.UntypedStorage]] = []
        self._is_inside = False
        if not torch.distributed.is_available():
            return
        from torch.distributed.checkpoint import state_dict as functions
        from torch.distributed.fsdp import FullyShardedDataParallel
        from torch.distributed.tensor import DTensor

        wrap(torch.nn.Module, "state_dict", self._module_state_dict)
        wrap(FullyShardedDataParallel, "state_dict_type", self._sets_for_a_while)
        wrap(FullyShardedDataParallel, "set_state_dict_type", self._sets)
        wrap(FullyShardedDataParallel, "summon_full_params", self._summons)
        wrap(functions.StateDictOptions, "__init__", self._makes_options)
        for name in ("get_model_state_dict", "get_optimizer_state_dict", "get_state_dict"):
            wrap(functions, name, self._function_state_dict)
        wrap(DTensor, "full_tensor", self._full_tensor)

    def end(self, frame: types.FrameType) -> None:
        """Count the full tensors that the line has had one by one and that are still there."""
        super().end(frame)
        alive = [storage for each in self._tensors if (storage := each()) is not None]
        if self._tensors:
            size = sum(storage.nbytes() for storage in alive)
            self.note(size, size)
        self._tensors = [weakref.ref(storage) for storage in alive]

    # What says of which kind a state dict is to be

    def _sets(self, original: Callable[..., Any], module: Any, *args: Any, **kwargs: Any) -> Any:
        change = self._models.update if self.is_running else self._models.difference_update
        change(module.modules())
        return original(module, *args, **kwargs)

    @contextmanager
    def _sets_for_a_while(self, original: Callable[..., Any], module: Any, *args: Any, **kwargs: Any) -> Iterator[None]:
        # It calls the function above.
        with original(module, *args, **kwargs):
            yield
        self._models.difference_update(module.modules())

    def _makes_options(self, original: Callable[..., Any], options: Any, *args: Any, **kwargs: Any) -> None:
        original(options, *args, **kwargs)
        if self.is_running:
            self._options = [*filter(_is_alive, self._options), weakref.ref(options)]

    # What gathers

    def _module_state_dict(self, original: Callable[..., Any], module: Any, *args: Any, **kwargs: Any) -> Any:
        gather = functools.partial(original, module, *args, **kwargs)
        wanted = (self.is_running or module in self._models) and any(_units(module))
        return self._gathered(module, gather) if wanted else gather()

    def _function_state_dict(self, original: Callable[..., Any], module: Any, *args: Any, **kwargs: Any) -> Any:
        gather = functools.partial(original, module, *args, **kwargs)
        options = kwargs.get("options")
        wanted = self.is_running or any(options is not None and each() is options for each in self._options)
        return self._gathered(module, gather) if wanted else gather()

    def _gathered(self, module: torch.nn.Module, gather: Callable[[], Any]) -> Any:
        if self._is_inside or self.is_elsewhere:
            return gather()
        self._is_inside = True
        try:
            with _HostCopies() as copies:
                result = gather()
        finally:
            self._is_inside = False
        own = storage_keys([*module.parameters(), *module.buffers()])
        self._note(module, {key: each for key, each in _storages(result) if key not in own}, copies)
        return result

    @contextmanager
    def _summons(self, original: Callable[..., Any], module: Any, *args: Any, **kwargs: Any) -> Iterator[None]:
        is_own = self.is_running and not self.is_elsewhere
        with ExitStack() as stack:
            with _HostCopies() if is_own else nullcontext() as copies:
                stack.enter_context(original(module, *args, **kwargs))
            if copies is not None:
                self._note(module, dict(_storages(list(module.parameters()))), copies)
            yield

    def _full_tensor(self, original: Callable[..., Any], tensor: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(tensor, *args, **kwargs)
        if self.is_running and not self._is_inside and not self.is_elsewhere:
            if tensor.device_mesh.size() > 1:
                self._tensors.append(weakref.ref(result.untyped_storage()))
            else:
                self.note(result.nbytes, result.nbytes, ALONE)
        return result

    def _note(self, module: torch.nn.Module, storages: Mapping[int, torch.UntypedStorage], copies: _HostCopies) -> None:
        groups = list(_groups(module))
        if not any(size > 1 for size, _ in groups):
            self.note(0, 0, ALONE)
            return
        has_device = any(device != "cpu" for _, device in groups)
        there = [
            each for each in storages.values() if not (copies.made(each) or (has_device and each.device.type == "cpu"))
        ]
        whole = sum(each.nbytes() for each in storages.values())
        self.note(sum(each.nbytes() for each in there), whole)


def _is_alive(reference: weakref.ref[Any]) -> bool:
    return reference() is not None


def _units(module: torch.nn.Module) -> Iterator[Any]:
    """The units of FSDP in a model; those of ``fully_shard`` have a shard only in their parameters."""
    fsdp = sys.modules["torch.distributed.fsdp"]
    return (each for each in module.modules() if isinstance(each, fsdp.FullyShardedDataParallel))


def _groups(module: torch.nn.Module) -> Iterator[tuple[int, str]]:
    """For each sharded part of a model, how many processes have a shard and the type of their device."""
    for unit in _units(module):
        is_whole = unit.sharding_strategy.name == "NO_SHARD"
        yield 1 if is_whole else unit.process_group.size(), unit.compute_device.type
    for parameter in filter(_is_sharded, module.parameters()):
        mesh = parameter.device_mesh
        yield mesh.size(), mesh.device_type


def _storages(value: object) -> Iterator[tuple[int, torch.UntypedStorage]]:
    """The storages of the tensors in containers, by their identity in C++; shards of tensors are no tensors here."""
    if type(value) in {torch.Tensor, torch.nn.Parameter}:
        storage = value.untyped_storage()  # type: ignore[attr-defined]
        yield storage._cdata, storage
    elif isinstance(value, Mapping):
        yield from _storages(list(value.values()))
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _storages(each)


class _HostCopies(TorchFunctionMode):
    """What ``cpu()`` and ``to("cpu")`` return is a copy on the host, as it is of a tensor on a GPU.

    PyTorch itself relies on it: once FSDP has moved a unit to the host it frees the gathered one, which on a CPU is the
    same storage.
    """

    def __init__(self) -> None:
        super().__init__()
        self._storages: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def made(self, storage: torch.UntypedStorage) -> bool:
        """Whether a storage is one of these copies, or a copy of one."""
        known = self._storages.get(storage._cdata)
        return known is not None and known() is storage

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        source = args[0] if args else None
        if not (isinstance(source, torch.Tensor) and isinstance(result, torch.Tensor)) or _is_sharded(source):
            return result
        if func is torch.Tensor.cpu or (func is torch.Tensor.to and _names_host((*args[1:], *(kwargs or {}).values()))):
            return self._add(_copy_of(result) if storage_keys([source]) == storage_keys([result]) else result)
        is_copy = func is torch.Tensor.clone and self.made(source.untyped_storage())
        return self._add(result) if is_copy else result

    def _add(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        self._storages[storage._cdata] = weakref.ref(storage)
        return tensor


def _names_host(arguments: Iterable[object]) -> bool:
    return any(isinstance(each, (str, torch.device)) and torch.device(each).type == "cpu" for each in arguments)


def _copy_of(tensor: torch.Tensor) -> torch.Tensor:
    with _disable_current_modes(), torch.no_grad():
        return tensor.detach().clone()
