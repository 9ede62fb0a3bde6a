"""AdaBN: the source model with the target's batch-normalisation statistics, evaluated, reported and registered."""

from collections.abc import Mapping
from typing import Any

from kfp import dsl

from ..adaptation.component import re_estimate_statistics
from ..evaluation.component import evaluate
from ..faces.component import import_holdout, import_target
from ..networks.component import import_model
from ..registry.component import register


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
        target_layout: [optional] Layout of the target, or auto.
        target_split: [optional] Split of the target to adapt to; empty for all.
        target_max_skipped: [optional] Largest share of the target that may be skipped as unreadable.
        holdout_layout: [optional] Layout of the holdout, or auto.
        holdout_split: [optional] Split of the holdout to evaluate on; empty for all.
        holdout_max_skipped: [optional] Largest share of the holdout that may be skipped as unreadable.
        holdout_allow_overlap: [optional] Go on although pictures are in both target and holdout.
        holdout_classes: [optional] Classes of the holdout that count, separated by commas; empty for all.
        model_name: [optional] Name in the MLflow registry; empty registers nothing.
        seed: [optional] Fixes the pictures of the report; the adaptation itself draws nothing.
    """
    unlabelled = import_target(source=target, layout=target_layout, split=target_split, max_skipped=target_max_skipped)
    given = import_model(source=source)
    labelled = import_holdout(
        target=unlabelled.outputs["faces"],
        model=given.outputs["model"],
        source=holdout,
        layout=holdout_layout,
        split=holdout_split,
        allow_overlap=holdout_allow_overlap,
        max_skipped=holdout_max_skipped,
    )
    inputs = {"target": unlabelled.outputs["faces"], "source": given.outputs["model"]}
    adapted = re_estimate_statistics(**inputs, required=True)
    results = evaluate(
        **inputs,
        holdout=labelled.outputs["faces"],
        adapted=adapted.outputs["model"],
        method="AdaBN",
        scored=holdout_classes,
        seed=seed,
    )
    registration = register(
        model=adapted.outputs["model"],
        evaluation=results.outputs["evaluation"],
        report=results.outputs["report"],
        name=model_name,
    )
    for task in (unlabelled, labelled, given, registration):  # what they ask may have another answer tomorrow
        task.set_caching_options(False)


def check(values: Mapping[str, Any]) -> None:
    """Checks values beyond their types, before anything runs.

    Raises:
        UserError: A value is not one of its choices or out of range.
    """
    from ..common.errors import expected
    from .choices import check_adaptation, is_foreign

    check_adaptation(values)
    if is_foreign(values["source"]):
        fix = "Adapt it with `ferry run clup`, which needs only what a model predicts."
        raise expected("source", "a model of Ferry, with its weights", values["source"], fix)
