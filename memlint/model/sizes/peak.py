"""An estimate of the peak of a training step, from what the program says. ``memlint estimate --run`` simulates it.

Each part is an interval: what is known exactly has two equal ends, and what is unknown widens it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from memlint.devices import context
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
    """What the optimizer computes with."""
    scores: Span = NOTHING
    """What the loss of a language model computes with at once, for each token and each word of the vocabulary."""
    gathered: Span = NOTHING
    """Parameters that a sharded model gathers while it computes with them."""
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
        # Activations are freed while gradients come; what the optimizer computes with comes after both. The backward
        # of the loss is the first, when no gradient of a parameter is there yet.
        forward = states + self.gathered + at_backward + self.scores
        backward = states + self.gathered + self.gradients + at_backward.scaled(0.35)
        step = states + self.gradients + self.temporary
        moments = (forward, backward, step)
        likely = max(each.likely for each in moments) + _WORKSPACE / 2
        return Span(max(each.low for each in moments), likely, max(each.high for each in moments) + _WORKSPACE)

    def needed(self, usable: int) -> Span:
        """Bytes that a device of ``usable`` bytes must have: with what is not PyTorch's."""
        return self.total + cuda_context(usable)

    def reserved(self, usable: int) -> Span:
        """The same with what the caching allocator reserves."""
        return self.total.scaled(RESERVED) + cuda_context(usable)

    def fits(self, usable: int) -> bool:
        """Whether it is likely to fit a device of which a process can use ``usable`` bytes."""
        return self.reserved(usable).likely <= usable


def cuda_context(usable: int) -> Span:
    """What is not PyTorch's of the ``usable`` bytes of a device."""
    return Span(*context(usable))


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
    under = autocast if autocast is not None else str(reading.value("precision", "")).startswith("autocast")
    saved = _activations(reading, batch, under or half == 2, checkpointing, missing)
    casts = parameters.scaled(0.5) if under else NOTHING
    if saved is not None and under:
        saved = saved + Span(0, casts.likely * 0.8, casts.high)
    foreach = exactly(trainable) if reading.value("foreach") and state else NOTHING
    scores = _scores(reading, batch, under or half == 2) if saved is not None else NOTHING
    peak = Peak(parameters, exactly(trainable), optimizer, saved, foreach, scores, missing=missing)
    return _sharded(peak, reading) if "sharding" in reading.facts or "offload" in reading.facts else peak


def _sharded(peak: Peak, reading: Reading) -> Peak:
    """One rank's part: stage 1 of ZeRO shards states, 2 gradients besides, and 3, which FSDP is, parameters as well."""
    ranks, stage = reading.value("ranks"), reading.value("stage")
    if "offload" in reading.facts:
        peak.missing.append("what is moved to the host")
    if "sharding" in reading.facts and not isinstance(stage, int):
        peak.missing.append("what is sharded")
    elif "sharding" in reading.facts and not isinstance(ranks, int):
        peak.missing.append("over how many GPUs the model is sharded")
    if not isinstance(ranks, int) or not isinstance(stage, int):
        return peak
    share = 1 / ranks
    if stage >= _PARAMETERS_SHARDED:
        layers = max([(model.entry or {}).get("layers", 0) for model in map(_core, reading.trained)], default=0)
        whole = peak.parameters
        # A block is gathered while it computes, and the next one is on its way; the depth of others is not known.
        peak.gathered = Span(0, whole.likely / layers, 2 * whole.high / layers) if layers else Span(0, 0, whole.high)
        peak.parameters = whole.scaled(share)
    if stage >= _GRADIENTS_SHARDED:
        peak.gradients, peak.temporary = peak.gradients.scaled(share), peak.temporary.scaled(share)
    if stage >= _STATES_SHARDED:
        peak.optimizer = peak.optimizer.scaled(share)
    return peak


def is_share_known(reading: Reading) -> bool:
    """Whether the device holds all of the model, or a part of known size."""
    if "offload" in reading.facts:
        return False
    known = all(isinstance(reading.value(each), int) for each in ("ranks", "stage"))
    return known or "sharding" not in reading.facts


_STATES_SHARDED, _GRADIENTS_SHARDED, _PARAMETERS_SHARDED = 1, 2, 3
"""Stages of ZeRO."""


def _activations(
    reading: Reading, batch: int | None, half: bool, checkpointing: bool | None, missing: list[str]
) -> Span | None:
    """What autograd saves in one forward of the trained models."""
    size = batch if batch is not None else reading.value("batch")
    if not isinstance(size, int):
        missing.append("the batch size")
        return None
    total = NOTHING
    for model in map(_core, reading.trained):
        one = _saved_for_one(model, reading, half, checkpointing, missing)
        if one is None:
            return None
        total = total + one.scaled(size)
    return total


def _core(model: ModuleObject) -> ModuleObject:
    """The well-known model that ``model`` holds, as a LightningModule does, if that has all of its parameters."""
    known = next((each for each in model.modules() if each.entry is not None), None)
    return known if known is not None and known.count() == model.count() else model


def _scores(reading: Reading, batch: int | None, half: bool) -> Span:
    """What is alive of a language model's scores when the backward begins, of all samples.

    In units of scores in the type that they are computed in, these are: their logarithm and the gradients of both, 3 in
    float32. The losses of transformers copy scores of half precision to float32 first, which makes 6; a loss of one's
    own that does not, 3 in half precision and 5 under autocast. Output that the loop keeps by a name is one more.
    """
    size, length = batch if batch is not None else reading.value("batch"), reading.value("length")
    words = sum(
        (model.entry or {}).get("vocabulary", 0) for model in map(_core, reading.trained) if _scores_words(model)
    )
    if not isinstance(size, int) or not isinstance(length, int):
        return NOTHING
    unit = size * length * words * (2 if half else 4)
    return Span(3 * unit, 6 * unit, 7 * unit) if half else Span(3 * unit, 3 * unit, 4 * unit)


def _scores_words(model: ModuleObject) -> bool:
    """Whether a model of transformers ends in a layer with an output for each word."""
    return any(head in model.class_name for head in _HEADS_OF_WORDS)


_HEADS_OF_WORDS = ("CausalLM", "LMHead", "MaskedLM", "Seq2SeqLM", "ConditionalGeneration", "PreTraining")


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


def _transformer_shape(entry: dict[str, Any] | None) -> tuple[int, int, int] | None:
    """Layers, width and inner width."""
    if entry is None or not {"layers", "width"} <= entry.keys():
        return None
    width = entry["width"]
    return entry["layers"], width, entry.get("inner") or 4 * width


def _transformer_saved(shape: tuple[int, int, int], length: int, half: bool, checkpointing: bool) -> Span:
    """Korthikanti et al. 2022 without the score matrices: 34 bytes a token and unit of width in half precision.

    Activations and norms that are written out of small operations save up to twice as much (GPT-2, Llama).
    """
    layers, width, inner = shape
    element = 2 if half else 4
    block = length * element * (9 * width + 2 * inner) + length * width * 2
    saved = float(length * width * element * layers + block if checkpointing else block * layers)
    return Span(saved * 0.75, saved, saved * 2)


def smaller_batch(reading: Reading, usable: int) -> int | None:
    """The largest micro-batch of the form batch / 2^n that fits; None if none does."""
    batch = reading.value("batch")
    while isinstance(batch, int) and batch >= 1:
        peak = estimate(reading, batch=batch)
        if peak is not None and peak.fits(usable):
            return batch
        batch //= 2
    return None


def shown_bytes(size: float) -> str:
    """``size`` in binary units."""
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / (1 << 20):.0f} MiB"
