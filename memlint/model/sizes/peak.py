"""An estimate of the peak of a training step, from what the program says. ``memlint estimate --run`` simulates it.

Each part is an interval: what is known exactly has two equal ends, and what is unknown widens it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from memlint.model.sizes.objects import External, ModuleObject
from memlint.model.sizes.reading import Reading

_HALF = frozenset({"float16", "half", "bfloat16"})
GIB = 1 << 30
_WORKSPACE = 64 << 20
"""Bytes of cuBLAS workspaces and small temporaries that the estimate allows for; their share is within the interval."""

RESERVED = 1.05
"""Reserved bytes for each allocated one at the peak: what the caching allocator rounds up and cannot reuse. The
interval of the estimate is much wider; ``--run`` simulates the allocator."""


@dataclass(frozen=True)
class Span:
    """Bytes between ``low`` and ``high``; ``likely`` is the best single figure."""

    low: float
    likely: float
    high: float

    def __add__(self, other: Span) -> Span:
        return Span(self.low + other.low, self.likely + other.likely, self.high + other.high)

    def scaled(self, factor: float) -> Span:
        """The same times ``factor``."""
        return Span(self.low * factor, self.likely * factor, self.high * factor)


def exactly(value: float) -> Span:
    """An interval of no width."""
    return Span(value, value, value)


NOTHING = exactly(0)


@dataclass
class Peak:
    """The estimate. ``activations`` is None if they cannot be estimated; then ``total`` is a lower bound only."""

    parameters: Span
    gradients: Span
    optimizer: Span
    activations: Span | None
    temporary: Span
    missing: list[str] = field(default_factory=list)
    """What the estimate would need to know besides."""
    notes: list[str] = field(default_factory=list)

    @property
    def is_complete(self) -> bool:
        """Whether everything that matters is known."""
        return self.activations is not None and not self.missing

    @property
    def total(self) -> Span:
        """Bytes at the peak; without the activations where they are not known."""
        at_backward = self.activations or NOTHING
        states = self.parameters + self.optimizer
        # Activations are freed while gradients come; what the optimizer computes with comes after both.
        forward = states + at_backward
        backward = states + self.gradients + at_backward.scaled(0.35)
        step = states + self.gradients + self.temporary
        moments = (forward, backward, step)
        likely = max(each.likely for each in moments) + _WORKSPACE / 2
        return Span(max(each.low for each in moments), likely, max(each.high for each in moments) + _WORKSPACE)


def bytes_of_parameters(model: ModuleObject) -> int:
    """Bytes of an element of its parameters."""
    dtype = model.attributes.get("dtype of parameters")
    return 2 if isinstance(dtype, External) and dtype.name.rpartition(".")[2] in _HALF else 4


def estimate(
    reading: Reading, *, batch: int | None = None, autocast: bool | None = None, checkpointing: bool | None = None
) -> Peak | None:
    """The peak of a step, or of one with another micro-batch, under autocast or with checkpointing.

    None if no model is known well enough to say anything.
    """
    known = [model for model in reading.models if not model.doubts() and model.count()]
    if not reading.trained or any(model.doubts() for model in reading.trained):
        return None
    missing = ["another model: " + model.doubts()[0] for model in reading.models if model.doubts()]
    half = 2 if reading.value("parameters dtype") in _HALF else 4
    parameters = exactly(sum(model.count() * min(half, bytes_of_parameters(model)) for model in known))
    trainable = sum(model.count(trainable=True) * min(half, bytes_of_parameters(model)) for model in reading.trained)
    if "adapter" in reading.facts:
        missing.append("the parameters of the adapter")
    state = reading.value("optimizer state")
    optimizer = Span(0, trainable * 2, trainable * 2) if state is None else exactly(trainable / 4 * state)
    if state is None:
        missing.append("the optimizer")
    if "sharding" in reading.facts or "offload" in reading.facts:
        missing.append("how the model is sharded")
    under = autocast if autocast is not None else str(reading.value("precision", "")).startswith("autocast")
    saved = _activations(reading, batch, under or half == 2, checkpointing, missing)
    casts = parameters.scaled(0.5) if under else NOTHING
    if saved is not None and under:
        saved = saved + Span(0, casts.likely * 0.8, casts.high)
    foreach = exactly(trainable) if reading.value("foreach") and state else NOTHING
    return Peak(parameters, exactly(trainable), optimizer, saved, foreach, missing)


def _activations(
    reading: Reading, batch: int | None, half: bool, checkpointing: bool | None, missing: list[str]
) -> Span | None:
    """What autograd saves in one forward of the trained models."""
    size = batch if batch is not None else reading.value("batch")
    if not isinstance(size, int):
        missing.append("the batch size")
        return None
    total = NOTHING
    for model in reading.trained:
        one = _saved_for_one(model, reading, half, checkpointing, missing)
        if one is None:
            return None
        total = total + one.scaled(size)
    return total


def _saved_for_one(
    model: ModuleObject, reading: Reading, half: bool, checkpointing: bool | None, missing: list[str]
) -> Span | None:
    """What autograd saves for one sample."""
    entry = model.entry
    asked = reading.value("checkpointing") if checkpointing is None else checkpointing
    if entry is not None and "saved" in entry:
        image = reading.value("image", entry["image"])
        scale = (image / entry["image"]) ** 2 * (0.55 if half else 1)
        known = "image" in reading.facts
        saved = float(entry["saved"]) * scale
        if not known:
            missing.append("the image size")
        return Span(saved * (0.9 if known else 0.1), saved, saved * (1.15 if known else 2.5))
    shape = _transformer_shape(entry)
    length = reading.value("length")
    if shape is None or not isinstance(length, int):
        missing.append("the sequence length" if shape is not None else f"what {model.class_name} saves")
        return None
    return _transformer_saved(shape, length, half, bool(asked))


def _transformer_shape(entry: dict[str, Any] | None) -> tuple[int, int, int, int] | None:
    """Layers, width, inner width and vocabulary."""
    if entry is None or not {"layers", "width"} <= entry.keys():
        return None
    width = entry["width"]
    return entry["layers"], width, entry.get("inner") or 4 * width, entry.get("vocabulary", 0)


def _transformer_saved(shape: tuple[int, int, int, int], length: int, half: bool, checkpointing: bool) -> Span:
    """Korthikanti et al. 2022 without the score matrices: 34 bytes a token and unit of width in half precision."""
    layers, width, inner, vocabulary = shape
    element = 2 if half else 4
    block = length * element * (9 * width + 2 * inner) + length * width * 2
    logits = length * vocabulary * (element * 2 + (4 if half else 0))
    blocks = length * width * element * layers + block if checkpointing else block * layers
    saved = float(blocks + logits)
    return Span(saved * 0.75, saved, saved * 1.5)


def smaller_batch(reading: Reading, usable: float) -> int | None:
    """The largest micro-batch of the form batch / 2^n that fits; None if none does."""
    batch = reading.value("batch")
    while isinstance(batch, int) and batch >= 1:
        peak = estimate(reading, batch=batch)
        if peak is not None and peak.total.likely * RESERVED <= usable:
            return batch
        batch //= 2
    return None


def shown_bytes(size: float) -> str:
    """``size`` in binary units."""
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / (1 << 20):.0f} MiB"
