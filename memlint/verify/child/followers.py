"""Which watch needs which follower."""

from __future__ import annotations

from memlint.findings import Watch
from memlint.verify.child.file_followers import Loaded, Serialised
from memlint.verify.child.following import Follower
from memlint.verify.child.host_followers import CacheEmptied, Cycled, SampleObjects
from memlint.verify.child.model_followers import (
    BlockActivations,
    EvaluationLoop,
    FullPrecision,
    Padding,
    QuantisedLayers,
)
from memlint.verify.child.optimizer_followers import DoubleParameter, ForeachStep, OptimizerState
from memlint.verify.child.sharding_followers import Gathered, Unsharded

FOLLOWERS: dict[Watch, type[Follower]] = {
    Watch.DOUBLE_PARAMETER: DoubleParameter,
    Watch.SERIALISED: Serialised,
    Watch.FOREACH_STEP: ForeachStep,
    Watch.LOADED: Loaded,
    Watch.OPTIMIZER_STATE: OptimizerState,
    Watch.BLOCK_ACTIVATIONS: BlockActivations,
    Watch.UNCHECKPOINTED_BLOCKS: BlockActivations,
    Watch.RECOMPUTED_SEGMENT: BlockActivations,
    Watch.FULL_PRECISION: FullPrecision,
    Watch.PADDING: Padding,
    Watch.EVALUATION_LOOP: EvaluationLoop,
    Watch.UNSHARDED: Unsharded,
    Watch.GATHERED: Gathered,
    Watch.QUANTISED_LAYERS: QuantisedLayers,
    Watch.CACHE_EMPTIED: CacheEmptied,
    Watch.CYCLED: Cycled,
    Watch.SAMPLE_OBJECTS: SampleObjects,
}
