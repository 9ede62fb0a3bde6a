"""AdaBN: the source model with the target's batch-normalisation statistics, evaluated, reported and registered."""

from kfp import dsl

from ..adaptation.component import re_estimate_statistics
from .parts import evaluate_and_register, import_all


@dsl.pipeline(name="adabn")
def adabn(
    target: str,
    source: str,
    holdout: str = "",
    target_layout: str = "auto",
    target_split: str = "train",
    target_max_skipped: float = 0.05,
    holdout_layout: str = "auto",
    holdout_split: str = "test",
    holdout_max_skipped: float = 0.05,
    holdout_allow_overlap: bool = False,
    holdout_classes: str = "",
    model_name: str = "ferry-adabn",
    seed: int = 0,
) -> None:
    """Adapt a model to unlabelled faces in seconds, by its batch-normalisation statistics alone.

    Args:
        target: [required] Unlabelled faces: a folder, an s3://bucket/prefix, or a Faces folder.
        source: [required] Source model: a Ferry model or models:/NAME@ALIAS.
        holdout: [optional] Labelled faces of the target domain for evaluation; empty for a report without accuracy.
        target_layout: [optional] Layout of the target (ferry faces layouts lists them), or auto.
        target_split: [optional] Split of the target to adapt to; empty for all.
        target_max_skipped: [optional] Largest share of the target that may be skipped as unreadable.
        holdout_layout: [optional] Layout of the holdout (ferry faces layouts lists them), or auto.
        holdout_split: [optional] Split of the holdout to evaluate on; empty for all.
        holdout_max_skipped: [optional] Largest share of the holdout that may be skipped as unreadable.
        holdout_allow_overlap: [optional] Go on although pictures are in both target and holdout.
        holdout_classes: [optional] Classes of the holdout that count, separated by commas; empty for all.
        model_name: [optional] Name in the MLflow registry; empty registers nothing.
        seed: [optional] Fixes the pictures of the report; the adaptation itself draws nothing.
    """
    values = dict(locals())
    imported = import_all(values)
    adapted = re_estimate_statistics(**imported.inputs, required=True)
    evaluate_and_register(imported, adapted.outputs["model"], values, method="AdaBN")
