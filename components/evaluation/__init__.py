"""Evaluation on the target: metrics with and without labels, intervals, and the HTML report."""

from .alarms import Alarm, share_alarms
from .calibration import Reliability, reliability_curve
from .evaluate import Evaluation, OutputsLike, RowEvaluation, evaluate
from .intervals import Difference, mcnemar, mean_interval, paired_difference, wilson_interval
from .labelfree import (
    LabelFree,
    agreement,
    effective_rank,
    label_free_metrics,
    predicted_shares,
    soft_neighbourhood_density,
)
from .metrics import ClassMetrics, Metrics, classification_metrics, group_metrics
from .quality import ClassQuality, LabelQuality, pseudo_label_quality, purity_histogram
from .record import History, PseudoLabelData
from .report import ReportData, ReportRow, render_report, write_report
from .verdict import Verdict

__all__ = [
    "Alarm",
    "ClassMetrics",
    "ClassQuality",
    "Difference",
    "Evaluation",
    "History",
    "LabelFree",
    "LabelQuality",
    "Metrics",
    "OutputsLike",
    "PseudoLabelData",
    "Reliability",
    "ReportData",
    "ReportRow",
    "RowEvaluation",
    "Verdict",
    "agreement",
    "classification_metrics",
    "effective_rank",
    "evaluate",
    "group_metrics",
    "label_free_metrics",
    "mcnemar",
    "mean_interval",
    "paired_difference",
    "predicted_shares",
    "pseudo_label_quality",
    "purity_histogram",
    "reliability_curve",
    "render_report",
    "share_alarms",
    "soft_neighbourhood_density",
    "wilson_interval",
    "write_report",
]
