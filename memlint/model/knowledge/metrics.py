"""Metrics of torchmetrics that keep every prediction they are given, in lists, until they are reset.

Source: the states of each class of torchmetrics 1.9.0, constructed with its defaults.
"""

from __future__ import annotations

METRIC_ROOT = "torchmetrics."
COLLECTIONS = frozenset({"MetricCollection", "MetricTracker", "ClasswiseWrapper", "MinMaxMetric", "MultioutputWrapper"})
"""Classes that keep other metrics, and hand on to them what they are given."""

_CURVES = frozenset(
    """
    AUROC AveragePrecision EER LogAUC PrecisionAtFixedRecall PrecisionRecallCurve ROC RecallAtFixedPrecision
    SensitivityAtSpecificity SpecificityAtSensitivity
    """.split()
)
BINNED = _CURVES | {f"{kind}{curve}" for curve in _CURVES for kind in ("Binary", "Multiclass", "Multilabel")}
"""Metrics that keep counts in place of predictions when they get ``thresholds``."""

UNBINNED = frozenset(
    """
    AdjustedMutualInfoScore AdjustedRandScore BinaryCalibrationError CalibrationError CalinskiHarabaszScore CatMetric
    CompletenessScore CosineSimilarity DaviesBouldinScore DunnIndex ErrorRelativeGlobalDimensionlessSynthesis
    FleissKappa FowlkesMallowsIndex HomogeneityScore KendallRankCorrCoef MulticlassCalibrationError MutualInfoScore
    NormalizedMutualInfoScore QualityWithNoReference RandScore RelativeAverageSpectralError RetrievalAUROC
    RetrievalFallOut RetrievalHitRate RetrievalMAP RetrievalMRR RetrievalNormalizedDCG RetrievalPrecision
    RetrievalPrecisionRecallCurve RetrievalRPrecision RetrievalRecall RetrievalRecallAtFixedPrecision
    SpatialDistortionIndex SpearmanCorrCoef SpectralDistortionIndex VMeasureScore InceptionScore
    KernelInceptionDistance MeanAveragePrecision
    """.split()
)
"""Metrics that keep what they are given, or features of it, whatever they are told."""

KEEPING_GRAPHS = frozenset({"CatMetric", "SpearmanCorrCoef"})
"""Those that keep their input as it is: ``update`` runs without gradients, but does nothing that would detach it."""
