"""What autograd saves in the forward passes that come once a watched line has run, and what evaluations keep."""

from __future__ import annotations

import re
import sys
import types
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import dataloader

from memlint.verify.child.following import Follower, wrap
from memlint.verify.child.reachable import reach, storage_keys

_LOOKS = 3
"""Forward passes that are looked at; later ones save the same."""


class BlockActivations(Follower):
    """What autograd saves in the blocks of a model: of all of them, and without the largest."""

    def install(self) -> None:
        """Begin with nothing."""
        self._blocks: list[torch.nn.Module] | None = None
        self._sizes: list[int] = []

    def forward_done(self, module: torch.nn.Module, output: object) -> None:
        """Note what the blocks have saved in this forward pass."""
        if self.is_elsewhere or not self.seen.executions or len(self.seen.amounts) >= _LOOKS:
            return
        if self._blocks is None:
            # Hooks on its blocks see the next pass.
            self._blocks = list(repeated_blocks(module))
            for each in self._blocks:
                each.register_forward_hook(self._block_done)
        if self._sizes:
            alike = max(Counter(self._sizes).values())
            self.note(sum(self._sizes) - max(self._sizes), sum(self._sizes), share=alike if alike > 2 else 0)
            self._sizes.clear()
        elif not self._blocks and torch.is_grad_enabled():
            saved = reach(output, leave_out=storage_keys(module.parameters())).saved_bytes
            self.note(saved, saved)

    def _block_done(self, block: torch.nn.Module, given: object, output: object) -> None:
        if not torch.is_grad_enabled() or self.is_elsewhere or len(self.seen.amounts) >= _LOOKS:
            return
        before = reach(given)
        leave_out = storage_keys(block.parameters()) | before.storages.keys()
        self._sizes.append(reach(output, leave_out=leave_out).saved_bytes)


def repeated_blocks(model: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """The blocks of the list of modules that has most parameters in blocks of one class."""
    best: list[torch.nn.Module] = []
    most = 0
    for each in model.modules():
        if isinstance(each, (torch.nn.ModuleList, torch.nn.Sequential)):
            kind, times = next(iter(Counter(map(type, each)).most_common(1)), (torch.nn.Module, 0))
            blocks = [block for block in each.children() if type(block) is kind]
            size = sum(parameter.numel() for parameter in torch.nn.ModuleList(blocks).parameters())
            if times > 1 and size > most:
                best, most = blocks, size
    yield from best


class FullPrecision(Follower):
    """Of what autograd saves in a forward pass, what is of float32: half of it could be saved.

    Autocast saves the products' weights in half precision instead, which are no parameters. Notes what is left of the
    half, and the share of the products that are of float32.
    """

    def forward_done(self, module: torch.nn.Module, output: object) -> None:
        """Note what the graph of a forward pass saves."""
        if self.is_elsewhere or not self.seen.executions or len(self.seen.amounts) >= _LOOKS:
            return
        found = reach(output, leave_out=storage_keys(module.parameters()))
        if found.nodes:
            saved = found.storages.keys() - found.held
            full = found.bytes_of(key for key in saved if found.types[key] is torch.float32)
            products = [node for node in found.nodes if _PRODUCTS.match(node.name())]
            single = sum(_type_of(node) is torch.float32 for node in products)
            share = single / len(products) if products else 0
            self.note(max(0, full // 2 - _bytes_of_casts(products)), found.saved_bytes, share=share)


_PRODUCTS = re.compile(r"(Addmm|Mm|Bmm|Baddbmm|\w*Convolution\w*|ScaledDotProduct\w*)Backward\d")
"""The nodes of products of matrices, convolutions and fused attention."""


def _type_of(node: Any) -> torch.dtype | None:
    """The type in which a product was computed: that of its first output."""
    return next((each.dtype for each in node._input_metadata), None)


def _bytes_of_casts(products: Iterable[Any]) -> int:
    """What the weights of ``products`` take in half precision, those that are of float32."""
    weights: dict[int, int] = {}
    for node in products:
        for each, _ in node.next_functions:
            # A weight goes in as it is or transposed.
            for leaf in (each, *(inner for inner, _ in getattr(each, "next_functions", ()))):
                weight = getattr(leaf, "variable", None)
                if isinstance(weight, torch.nn.Parameter) and weight.dtype is torch.float32 and weight.dim() > 1:
                    weights[id(weight)] = weight.numel() * 2
    return sum(weights.values())


class Padding(Follower):
    """What autograd saves for the positions of a batch at which the mask of every sample says padding."""

    def install(self) -> None:
        """Look at the masks in batches."""
        self._share = 0.0
        wrap(dataloader._BaseDataLoaderIter, "__next__", self._next)

    def _next(self, original: Callable[..., Any], *args: Any) -> Any:
        batch = original(*args)
        mask = batch.get("attention_mask") if isinstance(batch, Mapping) else None
        if isinstance(mask, torch.Tensor) and mask.dim() == 2:
            self._share = 1 - float(mask.bool().any(0).float().mean())
        return batch

    def forward_done(self, module: torch.nn.Module, output: object) -> None:
        """Note what the graph of a forward pass saves for these positions."""
        if self.is_elsewhere or len(self.seen.amounts) >= _LOOKS or not module.training:
            return
        found = reach(output, leave_out=storage_keys(module.parameters()))
        if found.nodes:
            self.note(round(self._share * found.saved_bytes), found.saved_bytes)


_TRAINER = str(Path("transformers", "trainer.py"))


class EvaluationLoop(Follower):
    """The predictions that the loop of transformers' ``Trainer`` has gathered, after each forward pass of it."""

    def forward_done(self, module: torch.nn.Module, output: object) -> None:  # noqa: ARG002 - asked of the frame
        """Look at the loop, if it is what has run the model."""
        frame = None if self.is_elsewhere else _frame_of(_TRAINER, "evaluation_loop")
        if frame is not None:
            self.note(reach(frame.f_locals.get("all_preds")).device_bytes, what=str(id(frame)))


class QuantisedLayers(Follower):
    """The quantised layers in models that run while gradients are recorded."""

    def forward_done(self, module: torch.nn.Module, output: object) -> None:  # noqa: ARG002 - the layers say it
        """Count them."""
        if self.seen.executions and torch.is_grad_enabled() and len(self.seen.amounts) < _LOOKS:
            layers = [each for each in module.modules() if ".quantized." in f"{type(each).__module__}."]
            own = [each for each in layers if next(each.parameters(), None) is None and hasattr(each, "weight")]
            self.note(len(own), len(list(module.parameters())))


def _frame_of(file: str, function: str) -> types.FrameType | None:
    frame: types.FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == function and frame.f_code.co_filename.endswith(file):
            return frame
        frame = frame.f_back
    return None
