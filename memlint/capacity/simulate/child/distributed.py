"""``torch.distributed`` for a script of which only rank 0 runs: collectives return at once, and wrappers hold memory.

``DistributedDataParallel`` keeps a flat copy of every gradient (its buckets: ``initialize_buckets`` in
``torch/csrc/distributed/c10d/reducer.cpp``, v2.6.0), in which the gradients themselves lie if it is told so
(``gradient_as_bucket_view``). ``FullyShardedDataParallel`` and ``fully_shard`` shard as :mod:`.sharding` does.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
import weakref
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch.nn.modules import module as module_hooks
from torch.optim.optimizer import register_optimizer_step_pre_hook

from memlint.capacity.simulate.child.changes import repeated_blocks, watched_optimizers
from memlint.capacity.simulate.child.recorder import HOST, DeviceRecorder
from memlint.capacity.simulate.child.sharding import Sharding, hand_over
from memlint.trace.events import Category
from memlint.verify.child.script import after_import

BUCKETS = "ddp:buckets"
_IN_PLACE = """all_reduce broadcast reduce scatter barrier monitored_barrier send recv all_gather all_to_all
    all_gather_into_tensor reduce_scatter reduce_scatter_tensor all_to_all_single broadcast_object_list
    all_gather_object gather gather_object scatter_object_list destroy_process_group""".split()

_FSDP = ("torch.distributed.fsdp", "torch.distributed.fsdp.fully_sharded_data_parallel",
         "torch.distributed._composable.fsdp")  # fmt: skip


class Distributed:
    """Answers as the process group of ``ranks`` ranks would on rank 0."""

    def __init__(self, recorder: DeviceRecorder, ranks: int) -> None:
        self._recorder = recorder
        self._ranks = ranks
        self._is_initialized = False
        self._sharding: Sharding | None = None
        self._parts: dict[int, torch.nn.Parameter] = {}
        self._optimizers: list[weakref.ref[torch.optim.Optimizer]] = []

    def install(self) -> None:
        """For every name under which scripts reach it."""
        self._collectives()
        torch.nn.parallel.DistributedDataParallel = self._data_parallel()
        importlib.import_module("torch.nn.parallel.distributed").DistributedDataParallel = (  # type: ignore[attr-defined]
            torch.nn.parallel.DistributedDataParallel
        )
        sharded = self._fully_sharded()
        for name in _FSDP:
            after_import(name, partial(self._replace, name, sharded))
        after_import("torch.distributed.device_mesh", self._meshes)
        self._optimizers = watched_optimizers()
        register_optimizer_step_pre_hook(self._before_step)
        module_hooks.register_module_forward_pre_hook(self._before_forward)

    def _collectives(self) -> None:
        dist: Any = torch.distributed
        finished = _Work()
        for name in _IN_PLACE:
            setattr(dist, name, lambda *_, **options: finished if options.get("async_op") else None)
        dist.init_process_group = self._initialize
        dist.is_available = lambda: True
        dist.is_initialized = lambda: self._is_initialized
        dist.get_rank = dist.get_node_local_rank = lambda *_, **__: 0
        dist.get_world_size = lambda *_, **__: self._ranks
        dist.get_backend = lambda *_, **__: "nccl"
        dist.new_group = lambda *_, **__: _Work()

    def _meshes(self) -> None:
        mesh: Any = sys.modules["torch.distributed.device_mesh"]
        dist: Any = torch.distributed
        mesh.init_device_mesh = dist.init_device_mesh = lambda *_, **__: _Mesh(self._ranks)

    def _replace(self, name: str, sharded: type[torch.nn.Module]) -> None:
        module: Any = sys.modules[name]
        if hasattr(module, "FullyShardedDataParallel"):
            module.FullyShardedDataParallel = sharded
        if hasattr(module, "fully_shard"):
            module.fully_shard = self._fully_shard

    def _initialize(self, *_: Any, **__: Any) -> None:
        self._is_initialized = True

    # Replicas

    def _data_parallel(self) -> type[torch.nn.Module]:
        recorder = self._recorder

        class DistributedDataParallel(_Wrapped):
            def __init__(self, module: torch.nn.Module, *_: Any, **options: Any) -> None:
                super().__init__(module)
                trained = [each for each in module.parameters() if each.requires_grad]
                index = recorder.place_of(trained[0]) if trained else None
                if index is None or index == HOST:
                    return
                size = sum(each.numel() * each.element_size() for each in trained)
                self._buckets = recorder.hold(index, size, BUCKETS)
                self._buckets.category = Category.GRADIENT
                if options.get("gradient_as_bucket_view"):
                    for each in trained:
                        each.register_post_accumulate_grad_hook(lambda parameter: recorder.evict(parameter.grad))

        return DistributedDataParallel

    # Shards

    def _fully_sharded(self) -> type[torch.nn.Module]:
        owner = self

        class FullyShardedDataParallel(_Wrapped):
            def __init__(self, module: torch.nn.Module, *_: Any, auto_wrap_policy: Any = None, **__: Any) -> None:
                super().__init__(module)
                owner._shard(module, list(repeated_blocks(module)) if auto_wrap_policy is not None else [])

            def clip_grad_norm_(self, max_norm: float, norm_type: float = 2.0) -> torch.Tensor:
                return torch.nn.utils.clip_grad_norm_(owner._parts.values(), max_norm, norm_type)

            @staticmethod
            @contextlib.contextmanager
            def state_dict_type(*_: Any, **__: Any) -> Iterator[None]:
                yield

        return FullyShardedDataParallel

    def _fully_shard(self, module: Any, *_: Any, **__: Any) -> Any:
        for each in module if isinstance(module, (list, tuple)) else [module]:
            self._shard(each, [])
        return module

    def _shard(self, module: torch.nn.Module, blocks: list[torch.nn.Module]) -> None:
        if self._sharding is None:
            self._sharding = Sharding(self._recorder, self._ranks)
        # Of nested calls the last one is the outermost.
        for group in self._sharding.groups:
            group.is_root = False
        self._parts.update(self._sharding.shard(module, blocks))

    def _before_step(self, *_: Any) -> None:
        if self._sharding is not None:
            self._sharding.end_backward()

    def _before_forward(self, *_: Any) -> None:
        if self._parts and self._optimizers:
            hand_over(self._optimizers, self._parts)
            self._optimizers.clear()


class _Wrapped(torch.nn.Module):
    """What all wrappers of models have."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("module"), name)

    @contextlib.contextmanager
    def no_sync(self) -> Iterator[None]:
        """Gradients are not exchanged in here."""
        yield


class _Work:
    """A collective that is over, or a group that nobody looks into."""

    def wait(self, *_: Any) -> bool:
        return True

    def is_completed(self) -> bool:
        return True

    def __getattr__(self, _: str) -> Any:
        return lambda *_, **__: None


class _Mesh(_Work):
    """A mesh of devices of which this is the first."""

    def __init__(self, ranks: int) -> None:
        self._ranks = ranks

    def size(self, *_: Any) -> int:
        return self._ranks

    def get_local_rank(self, *_: Any) -> int:
        return 0

    def __getitem__(self, _: object) -> _Mesh:
        return self
