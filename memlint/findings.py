"""What a rule says: findings, the fixes that it asks for, and the claim that a run can test.

A rule speaks about syntax nodes, because that is what it reads. Nothing here knows where in the file a node
stands: rows and columns are added later (:mod:`memlint.diagnostics`), and only for files that have a finding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import libcst

    FixTarget = libcst.CSTNode | tuple[libcst.CSTNode, ...]

Message = str | Callable[[], str]
"""What a finding or a fix says, or what makes it. To quote code, the whole file has to be read once more, which is in
vain for the many findings that are only possible, and are dropped."""


def told(message: Message) -> str:
    """The text of ``message``."""
    return message if isinstance(message, str) else message()


class Severity(str, Enum):
    """What happens to those who ship the line as it is."""

    ERROR = "error"
    """Memory grows without bound, or the model trains wrongly."""
    WARNING = "warning"
    """Memory is wasted."""
    NOTE = "note"
    """An opportunity that depends on the hardware."""


class Confidence(str, Enum):
    """How much of the finding is proven by the source."""

    CERTAIN = "certain"
    LIKELY = "likely"
    POSSIBLE = "possible"
    """Not reported by ``memlint check``, but watched by ``memlint verify``."""

    rank: int
    """0 for possible, 1 for likely, 2 for certain."""

    def __init__(self, value: str) -> None:
        self.rank = ("possible", "likely", "certain").index(value)

    # Confidences are parts of keys that are looked up a million times; Enum would hash their names in Python.
    __hash__ = str.__hash__

    @classmethod
    def weakest(cls, *parts: Confidence) -> Confidence:
        """The confidence of a conclusion that needs every one of ``parts`` (at least one)."""
        return min(parts, key=lambda part: part.rank)


class Applicability(str, Enum):
    """When a fix may be applied; the words are ruff's."""

    SAFE = "safe"
    """Same numbers, less memory."""
    UNSAFE = "unsafe"
    """May change numerics, speed or what later code sees."""
    DISPLAY = "display"
    """Shown, never applied."""


@dataclass(frozen=True)
class Fix:
    """An edit that a rule asks for, by the name of the fixer that knows how to make it.

    ``fixer`` is the name of a module in ``fixers/``; ``targets`` are the nodes that it works on and ``options``
    the texts and flags that it needs, both under the names that the fixer's docstring gives.
    """

    fixer: str
    message: Message
    applicability: Applicability
    targets: Mapping[str, FixTarget]
    options: Mapping[str, str | int | bool] = field(default_factory=dict)
    reveals: frozenset[str] = frozenset()
    """Codes of findings that the edit may bring to light, such as a ``retain_graph`` that was needed until then."""


class ClaimShape(str, Enum):
    """What memory does if the finding is true (design section 6)."""

    GROWS = "grows"
    """Bytes alive at the step boundary rise each step, and the survivors were allocated where the finding says."""
    PLATEAU = "plateau"
    """An extra copy of known size stays."""
    SPIKE = "spike"
    """Only the peak is higher."""
    PRESENT = "present"
    """A kind of operation happens at all, such as autograd nodes recorded during evaluation."""


class Watch(str, Enum):
    """What ``memlint verify`` looks at, each time the finding's line runs, in order to test a claim."""

    REACHABLE = "reachable"
    """What the holder (without one, the receiver of the call or the held value) keeps alive; must grow."""
    FILLED = "filled"
    """The same, but looked at where the holder stands, which is not where the finding does."""
    FORWARD_GRAPH = "forward-graph"
    """The graph that forward passes record while the line runs; refuted where a backward trains something with it."""
    LATER_GRAPHS = "later-graphs"
    """The same for forward passes between the line and the end of its function."""
    RETAINED_GRAPH = "retained-graph"
    """What the graph still saves after the backward in this line; refuted where a later backward runs over it."""
    SUMMED_GRAPHS = "summed-graphs"
    """What the graph of the holder, a sum of losses, saves: the more, the more iterations wait for one backward."""
    OUTPUT_AFTER_BACKWARD = "output-after-backward"
    """The tensors that the holder names, if they are alive when the backward that follows the line is over."""
    GRADIENTS_ADDED_TO = "gradients-added-to"
    """Gradients that the optimizer has used and that are still there when the next backward begins."""
    GRADIENTS_ZEROED = "gradients-zeroed"
    """Gradients that are alive after the line has cleared them."""
    GRADIENTS_IN_FORWARD = "gradients-in-forward"
    """Gradients that the line frees although a forward pass has run since the optimizer used them."""
    GRADIENTS_DISCARDED = "gradients-discarded"
    """Gradients that the line frees although no optimizer has used them since their backward."""
    STRAY_GRADIENTS = "stray-gradients"
    """The graph behind the held value, if a backward runs over it, and whether an optimizer uses the gradients."""
    GRADIENT_BUCKETS = "gradient-buckets"
    """Gradients of the wrapped model that have a storage of their own beside the buckets in which they are reduced."""
    OUTPUT_COPIES = "output-copies"
    """Outputs of the wrapper of a model that are copies of what the model itself returned."""
    KEY_VALUE_CACHE = "key-value-cache"
    """The keys and values that are in the output of a language model that runs in the line."""
    LAYER_OUTPUTS = "layer-outputs"
    """The hidden states and attention weights of all layers that are in the output of a model that runs in the line."""
    REGROWN = "regrown"
    """The tensor that the line makes anew, larger each time: the old one and the new one are alive together."""
    ALLOCATED = "allocated"
    """What was allocated while the line ran: alive at the step's end (plateau) or at the peak (spike)."""
    ATTENTION_WEIGHTS = "attention-weights"
    """What softmax allocated while the line ran: scores for each pair of positions."""
    LOADED = "loaded"
    """To which device what is loaded from a file goes: alive there together with the model that takes it over."""
    DOUBLE_PARAMETER = "double-parameter"
    """Gradient and optimizer states of the parameter that the holder names, if another one shares its storage."""
    SERIALISED = "serialised"
    """What `torch.save` writes while the line runs beside the elements of the tensors themselves."""
    FOREACH_STEP = "foreach-step"
    """What the optimizer that the line makes allocates during its steps, as CUDA's default implementation."""
    PEAK = "peak"
    """What the tensors of the whole run take at its peak, against the limit of the claim."""
    BATCH_PEAK = "batch-peak"
    """The same, of which what autograd saves for the batch must be half."""
    OPTIMIZER_STATE = "optimizer-state"
    """The states of the optimizers once they have taken a step."""
    BLOCK_ACTIVATIONS = "block-activations"
    """What autograd saves in the blocks of the model but one; refuted where a backward computes some of it again."""
    UNCHECKPOINTED_BLOCKS = "uncheckpointed-blocks"
    """The same in blocks that save alike, where checkpoints would lower the peak."""
    RECOMPUTED_SEGMENT = "recomputed-segment"
    """What a backward computes again at once, of all that it computes again; nothing at all confirms it as well."""
    FULL_PRECISION = "full-precision"
    """Half of what autograd saves in float32, where the products are of float32 and autocast would lower the peak."""
    PADDING = "padding"
    """What autograd saves for positions at which every sample of a batch is padded, by its `attention_mask`."""
    EVALUATION_LOOP = "evaluation-loop"
    """What the evaluation of transformers' `Trainer` gathers, more with each batch."""
    UNSHARDED = "unsharded"
    """Parameters of the model that the line shards that are whole at the same time, while it runs."""
    GATHERED = "gathered"
    """Full weights of a sharded model that are gathered by the line, or as it says, and stay on the device."""
    QUANTISED_LAYERS = "quantised-layers"
    """Layers without parameters that a forward pass of training runs, since they were quantised."""
    CACHE_EMPTIED = "cache-emptied"
    """What is freed while the line runs, which must be in every step."""
    SAMPLE_OBJECTS = "sample-objects"
    """The Python objects that the attribute of a data set holds, once for each worker that reads it."""
    CYCLED = "cycled"
    """What an `itertools.cycle` keeps, each time that its next element is taken."""
    CACHED_CASTS = "cached-casts"
    """Casts that are made in the block of the line and are alive when an optimizer step in it is over."""


_DEFAULT_WATCHES = {
    ClaimShape.GROWS: Watch.REACHABLE,
    ClaimShape.PLATEAU: Watch.ALLOCATED,
    ClaimShape.SPIKE: Watch.ALLOCATED,
    ClaimShape.PRESENT: Watch.FORWARD_GRAPH,
}


class Claim(NamedTuple):
    """What ``memlint verify`` has to see in order to confirm a finding.

    ``holder`` is the expression that keeps the memory alive (the accumulator, the container, the attribute);
    ``held`` is the expression whose value it keeps. ``memory`` says whose memory it is: ``device`` or ``host``.
    ``size`` is the expected size in words and symbols of the rules' documentation (``A`` per step, ``G``, ...).
    ``watch`` says what to look at, by default what suits the shape. ``unobservable`` is the reason why no run can show
    the claim, where that is so.
    """

    shape: ClaimShape
    memory: str
    size: str
    holder: libcst.CSTNode | None = None
    held: libcst.CSTNode | None = None
    watch: Watch | None = None
    unobservable: str = ""
    limit: int = 0
    """Bytes that there are, where the claim is about more than these."""

    @property
    def watched(self) -> Watch:
        """What to look at."""
        return self.watch or _DEFAULT_WATCHES[self.shape]


class Related(NamedTuple):
    """Another place in the same file that explains the finding."""

    node: libcst.CSTNode
    message: str


class Finding(NamedTuple):
    """One hazard at one node. ``holds`` says in one phrase what stays alive; ``fixes`` come best first."""

    code: str
    name: str
    message: Message
    node: libcst.CSTNode
    severity: Severity
    confidence: Confidence
    holds: str
    fixes: tuple[Fix, ...] = ()
    claim: Claim | None = None
    related: tuple[Related, ...] = ()


class CannotFix(Exception):
    """A fix that cannot be made here; ``str(error)`` says why. The finding stays, without that fix."""
