"""Which layers return one tensor and nothing else."""

from __future__ import annotations

from memlint.model.aliases import sources
from memlint.model.forwards import called_module
from memlint.model.kinds import kinds
from memlint.model.memo import query
from memlint.model.values import Call, Value

_ONE_TENSOR = frozenset(
    """
    Linear LazyLinear Bilinear Identity Flatten Unflatten Embedding EmbeddingBag LayerNorm RMSNorm GroupNorm ReLU GELU
    SiLU ELU SELU LeakyReLU PReLU Tanh Sigmoid Softmax LogSoftmax TransformerEncoder TransformerEncoderLayer
    TransformerDecoder TransformerDecoderLayer Transformer Upsample PixelShuffle
    """.split()
)
_FAMILIES = ("Conv", "BatchNorm", "InstanceNorm", "Dropout", "AvgPool", "AdaptiveAvgPool")


def is_tensor_of_layer(value: Value) -> bool:
    """Whether ``value`` is what a layer of ``torch.nn`` returns; other modules may return tuples."""
    found = sources(value)
    return bool(found) and all(isinstance(source, Call) and _runs_layer(source) for source in found)


def _runs_layer(call: Call) -> bool:
    module = called_module(call)
    return module is not None and _returns_one_tensor(module)


@query(on_cycle=False)
def _returns_one_tensor(module: Value) -> bool:
    """Whether all that ``module`` may be are such layers, or sequences that end with one."""
    names = {kind.name for kind in kinds(module)}
    if names == {"torch.nn.Sequential"}:
        made = [source for source in sources(module) if isinstance(source, Call) and source.arguments]
        return bool(made) and all(_returns_one_tensor(each.arguments[-1].value) for each in made)
    return bool(names) and all(map(_is_such_layer, names))


def _is_such_layer(name: str) -> bool:
    package, _, kind = name.rpartition(".")
    return package == "torch.nn" and (kind in _ONE_TENSOR or kind.startswith(_FAMILIES))
