"""Carries out the changes of a what-if while the script runs, without touching its source."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.nn.modules import module as module_hooks
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils._pytree import tree_map_only
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader

from memlint.capacity.simulate.child.recorder import DeviceRecorder
from memlint.capacity.simulate.child.sharding import Sharding, hand_over

_STATE_BLOCK = 256
"""Elements that share one scale in an 8-bit state, as in bitsandbytes (``blocksize`` of its 8-bit optimizers)."""
_SMALLEST_8BIT = 4096
"""Parameters with fewer elements keep single precision states there (``min_8bit_size``)."""
_PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Changes:
    """What is done differently. ``not_applied`` are the words that have found nothing to change."""

    def __init__(self, words: tuple[str, ...], recorder: DeviceRecorder) -> None:
        self.not_applied = set(words)
        self._recorder = recorder
        self._optimizers: list[weakref.ref[torch.optim.Optimizer]]
        self._at_first_forward: list[Callable[[torch.nn.Module], bool]] = []
        for word in words:
            name, _, value = word.partition("=")
            getattr(self, f"_{_METHODS[name]}")(word, value)
        self._optimizers = watched_optimizers()
        if self._at_first_forward:
            module_hooks.register_module_forward_pre_hook(self._before_forward)

    def _done(self, word: str) -> None:
        self.not_applied.discard(word)

    # Batches

    def _accumulate(self, word: str, value: str) -> None:
        parts = int(value)
        make, owner = DataLoader.__init__, self

        def init(loader: Any, dataset: Any, batch_size: int | None = 1, *args: Any, **kwargs: Any) -> None:
            if batch_size is not None and batch_size >= parts and kwargs.get("batch_sampler") is None:
                batch_size //= parts
                owner._done(word)
            make(loader, dataset, batch_size, *args, **kwargs)

        DataLoader.__init__ = init
        self._step_every(parts)

    def _step_every(self, parts: int) -> None:
        """Optimizers step, and clear gradients, once for so many calls."""
        calls: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
        patch, clear = torch.optim.Optimizer._patch_step_function, torch.optim.Optimizer.zero_grad

        def patched(optimizer: Any) -> None:
            patch(optimizer)
            kind = type(optimizer)
            inner = kind.step
            if getattr(inner, "accumulates", False):
                return

            @functools.wraps(inner)
            def step(each: Any, *args: Any, **kwargs: Any) -> Any:
                calls[each] = calls.get(each, 0) + 1
                return None if calls[each] % parts else inner(each, *args, **kwargs)

            step.accumulates = step.hooked = True  # type: ignore[attr-defined]
            kind.step = step

        def zero_grad(optimizer: Any, *args: Any, **kwargs: Any) -> None:
            if calls.get(optimizer, 0) % parts == 0:
                clear(optimizer, *args, **kwargs)

        torch.optim.Optimizer._patch_step_function = patched
        torch.optim.Optimizer.zero_grad = zero_grad

    # Forward passes

    def _amp(self, word: str, value: str) -> None:
        dtype = _PRECISIONS[value]
        regions: list[Any] = []

        def enter(*_: Any) -> None:
            regions.append(torch.autocast("cuda", dtype=dtype))
            if len(regions) == 1:
                regions[0].__enter__()
            self._done(word)

        def leave(*_: Any) -> None:
            region = regions.pop()
            if not regions:
                region.__exit__(None, None, None)

        module_hooks.register_module_forward_pre_hook(enter)
        module_hooks.register_module_forward_hook(leave, always_call=True)

    def _checkpoint(self, word: str, _: str) -> None:
        def wrap(model: torch.nn.Module) -> bool:
            blocks = list(repeated_blocks(model))
            for block in blocks:
                block.forward = _checkpointed(block.forward)
            if blocks:
                self._done(word)
            return bool(blocks)

        self._at_first_forward.append(wrap)

    def _before_forward(self, module: torch.nn.Module, *_: Any) -> None:
        self._at_first_forward[:] = [change for change in self._at_first_forward if not change(module)]

    # What is trained, and how

    def _fused(self, word: str, _: str) -> None:
        def choose(optimizer: Any, *_: Any) -> None:
            for group in optimizer.param_groups:
                if "fused" in group and not group["fused"]:
                    group["fused"], group["foreach"] = True, False
                    self._done(word)

        register_optimizer_step_pre_hook(choose)

    def _eight_bit(self, word: str, _: str) -> None:
        def step(optimizer: Any, closure: Any = None) -> Any:
            loss = closure() if closure is not None else None
            with torch.no_grad():
                for group in optimizer.param_groups:
                    for parameter in group["params"]:
                        if parameter.grad is not None:
                            self._done(word)
                            _step_in_8_bits(optimizer.state[parameter], parameter)
            return loss

        torch.optim.Adam.step = step
        torch.optim.AdamW.step = step

    def _lora(self, word: str, value: str) -> None:
        rank = int(value)

        def adapt(model: torch.nn.Module) -> bool:
            layers = [each for each in model.modules() if type(each) is torch.nn.Linear]
            if len(layers) < 2:
                return False
            model.requires_grad_(requires_grad=False)
            adapters = [adapter for layer in layers for adapter in _with_adapter(layer, rank)]
            for reference in self._optimizers:
                optimizer = reference()
                if optimizer is not None:
                    for group in optimizer.param_groups:
                        group["params"] = []
                    optimizer.param_groups[0]["params"] = adapters
            self._done(word)
            return True

        self._at_first_forward.append(adapt)

    # Where it is kept, and in which type

    def _half_parameters(self, word: str, _: str) -> None:
        def convert(model: torch.nn.Module) -> bool:
            model.to(dtype=torch.bfloat16)
            model.register_forward_pre_hook(_in_bfloat16, with_kwargs=True)
            self._recorder.begin_again()
            self._done(word)
            return True

        self._at_first_forward.insert(0, convert)

    def _fsdp(self, word: str, value: str) -> None:
        sharding = Sharding(self._recorder, int(value))
        stepping: set[int] = set()

        def shard(model: torch.nn.Module) -> bool:
            parts = sharding.shard(model, list(repeated_blocks(model)))
            optimizers = hand_over(self._optimizers, parts)
            stepping.update(id(each) for each in optimizers)
            self._recorder.begin_again()
            self._done(word)
            return bool(parts)

        self._at_first_forward.append(shard)
        register_optimizer_step_pre_hook(lambda *_: sharding.end_backward())

    def _offload(self, word: str, _: str) -> None:
        """The optimizer's state and its step are the host's: gradients go there, parameters come back."""

        def patched(optimizer: Any) -> None:
            kind = type(optimizer)
            if kind not in known:
                # Before the hooks are put around it: they are to be called.
                known.add(kind)
                kind.step = self._step_on_host(kind.step, word)
            patch(optimizer)

        known: set[type] = set()
        patch = torch.optim.Optimizer._patch_step_function
        torch.optim.Optimizer._patch_step_function = patched

    def _step_on_host(self, inner: Callable[..., Any], word: str) -> Callable[..., Any]:
        @functools.wraps(inner)
        def step(optimizer: Any, closure: Any = None) -> Any:
            loss = closure() if closure is not None else None
            with torch.no_grad():
                for parameter in (each for group in optimizer.param_groups for each in group["params"]):
                    if parameter.grad is not None:
                        self._done(word)
                        parameter.copy_(parameter.grad.cpu())
            return loss

        return step


_METHODS = {
    "bf16": "half_parameters",
    "fsdp": "fsdp",
    "offload": "offload",
    "accumulate": "accumulate",
    "amp": "amp",
    "checkpoint": "checkpoint",
    "fused": "fused",
    "8bit": "eight_bit",
    "lora": "lora",
}


def watched_optimizers() -> list[weakref.ref[torch.optim.Optimizer]]:
    """A list to which every optimizer comes that is made from now on."""
    found: list[weakref.ref[torch.optim.Optimizer]] = []
    patch = torch.optim.Optimizer._patch_step_function

    def patched(optimizer: Any) -> None:
        found.append(weakref.ref(optimizer))
        patch(optimizer)

    torch.optim.Optimizer._patch_step_function = patched
    return found


def repeated_blocks(model: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """The elements of every list of modules of one kind, if they are more than single layers; the outermost lists."""
    children = list(model.children())
    is_list = isinstance(model, (torch.nn.ModuleList, torch.nn.Sequential))
    if is_list and len(children) > 1 and len({type(child) for child in children}) == 1 and list(children[0].children()):
        yield from children
        return
    for child in children:
        yield from repeated_blocks(child)


def _in_bfloat16(_: torch.nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
    found: tuple[Any, Any] = tree_map_only(torch.Tensor, _halved, (args, kwargs))
    return found


def _halved(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to(torch.bfloat16) if tensor.dtype is torch.float32 else tensor


def _checkpointed(forward: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(forward)
    def run(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)

    return run


def _step_in_8_bits(state: dict[str, Any], parameter: torch.Tensor) -> None:
    """One kernel reads gradient and states and writes parameter and states in place."""
    if not state:
        small = parameter.numel() < _SMALLEST_8BIT
        for name in ("exp_avg", "exp_avg_sq"):
            state[name] = torch.zeros_like(parameter, dtype=torch.float32 if small else torch.uint8)
            if not small:
                state[f"{name}_scale"] = torch.zeros(-(-parameter.numel() // _STATE_BLOCK), device=parameter.device)
    parameter.add_(parameter.grad, alpha=0.0)


def _with_adapter(layer: torch.nn.Linear, rank: int) -> list[torch.nn.Parameter]:
    options = {"device": layer.weight.device, "dtype": layer.weight.dtype}
    down = torch.nn.Parameter(torch.empty(rank, layer.in_features, **options))
    up = torch.nn.Parameter(torch.zeros(layer.out_features, rank, **options))

    def add(_: torch.nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        return output + torch.nn.functional.linear(torch.nn.functional.linear(inputs[0], down), up)

    layer.register_forward_hook(add)
    return [down, up]
