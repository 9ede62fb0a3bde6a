"""CluP: from unlabelled faces and a source model to an adapted, evaluated, reported and registered model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kfp import dsl

from ..adaptation.component import fine_tune, re_estimate_statistics
from ..labelling.component import pseudo_label
from ..pretraining.component import pretrain
from .parts import evaluate_and_register, import_all, named
from .preflight import check_parameters


@dsl.pipeline(name="clup")
def clup(
    target: str,
    source: str,
    holdout: str = "",
    source_trust: bool = False,
    target_layout: str = "auto",
    target_split: str = "train",
    target_max_skipped: float = 0.05,
    holdout_layout: str = "auto",
    holdout_split: str = "test",
    holdout_max_skipped: float = 0.05,
    holdout_allow_overlap: bool = False,
    holdout_classes: str = "",
    target_labels: str = "",
    labelling_score: str = "purity",
    labelling_teacher: str = "auto",
    labelling_preset: str = "clean",
    labelling_clusters: int = 0,
    labelling_keep: float = 0.0,
    pretraining: str = "swav",
    pretraining_preset: str = "small",
    pretraining_init: str = "auto",
    pretraining_epochs: int = 0,
    pretraining_batch_size: int = 0,
    pretraining_prototypes: int = 0,
    pretraining_learning_rate: float = 0.0,
    finetuning_start: str = "pretrained",
    finetuning_epochs: int = 0,
    finetuning_batch_size: int = 64,
    finetuning_learning_rate: float = 0.0,
    finetuning_mixup: float = 0.2,
    model_name: str = "ferry-clup",
    precision: str = "auto",
    seed: int = 0,
) -> None:
    """Adapt a facial-expression model to unlabelled faces with CluP, evaluate, report and register it.

    Args:
        target: [required] Unlabelled faces: a folder, an s3://bucket/prefix, or a Faces folder.
        source: [required] Source model: a Ferry model, an ONNX or TorchScript file with sidecar, or models:/NAME@ALIAS.
        holdout: [optional] Labelled faces of the target domain for evaluation; empty for a report without accuracy.
        source_trust: [optional] Open a source model that is a TorchScript file: it runs code from the file.
        target_layout: [optional] Layout of the target, or auto.
        target_split: [optional] Split of the target to adapt to; empty for all.
        target_max_skipped: [optional] Largest share of the target that may be skipped as unreadable.
        holdout_layout: [optional] Layout of the holdout, or auto.
        holdout_split: [optional] Split of the holdout to evaluate on; empty for all.
        holdout_max_skipped: [optional] Largest share of the holdout that may be skipped as unreadable.
        holdout_allow_overlap: [optional] Go on although pictures are in both target and holdout.
        holdout_classes: [optional] Classes of the holdout that count, separated by commas; empty for all.
        target_labels: [optional] Labelled faces of the target itself, read as the target is; the report judges the
            pseudo-labels; no training sees them.
        labelling_score: [optional] purity (of a label's cluster) or confidence (of the teacher).
        labelling_teacher: [optional] Who labels: source, adabn (source with the target's statistics), or auto: adabn
            where it can be made, and source in the preset released.
        labelling_preset: [optional] clean (recommended), or released: the switches of the CluP authors' code.
        labelling_clusters: [optional] Number of k-means clusters; 0 for the rule (released: 1000).
        labelling_keep: [optional] Fraction of each class that is kept; 0 for the rule (released: 0.1).
        pretraining: [optional] swav, deepcluster, or none.
        pretraining_preset: [optional] small (minutes on a CPU) or published (GPUs).
        pretraining_init: [optional] First weights: random, source, the folder of a saved model, or auto: the source's
            in the preset small where they are known, random in published.
        pretraining_epochs: [optional] Passes over the target; 0 for the preset's.
        pretraining_batch_size: [optional] Images per step; 0 for the preset's.
        pretraining_prototypes: [optional] Number of prototypes; 0 for the rule.
        pretraining_learning_rate: [optional] Peak learning rate; 0 for the preset's.
        finetuning_start: [optional] First weights: pretrained, source, adabn or scratch.
        finetuning_epochs: [optional] Passes over the kept faces; 0 for the rule.
        finetuning_batch_size: [optional] Images per step.
        finetuning_learning_rate: [optional] Peak learning rate; 0 for the rule.
        finetuning_mixup: [optional] Parameter alpha of mixup; 0 for none.
        model_name: [optional] Name in the MLflow registry; empty registers nothing.
        precision: [optional] auto, fp32, bf16, fp16 or measure.
        seed: [optional] Fixes the run.
    """
    values = dict(locals())
    imported = import_all(values, check_parameters(**values))
    statistics = re_estimate_statistics(**imported.inputs)
    labels = pseudo_label(**imported.inputs, adabn=statistics.outputs["model"], **named(values, "labelling"), seed=seed)
    encoder = pretrain(
        **imported.inputs, method=pretraining, **named(values, "pretraining"), precision=precision, seed=seed
    ).after(imported.holdout)  # which it does not see: a wrong holdout is found before the hours of training
    adapted = fine_tune(
        **imported.inputs,
        pretrained=encoder.outputs["encoder"],
        labels=labels.outputs["labels"],
        **named(values, "finetuning"),
        precision=precision,
        seed=seed,
    )
    evaluate_and_register(
        imported,
        adapted.outputs["model"],
        values,
        method="CluP",
        adabn=statistics.outputs["model"],
        pretrained=encoder.outputs["encoder"],
        labels=labels.outputs["labels"],
    )


def check(values: Mapping[str, Any]) -> None:
    """Checks values beyond their types, before anything runs.

    Raises:
        UserError: A value is not one of its choices or out of range.
    """
    from ..adaptation.config import FinetuningConfig
    from ..common.errors import expected, fields_as, unknown
    from ..labelling.config import PRESETS, LabellingConfig
    from .choices import check_adaptation, check_precision

    check_adaptation(values)
    check_precision(values["precision"])
    _check_pretraining(values)
    teachers = ("auto", "source", "adabn")
    if values["labelling_teacher"] not in teachers:
        raise unknown("labelling_teacher", values["labelling_teacher"], teachers)
    if values["labelling_preset"] not in PRESETS:
        raise unknown("labelling_preset", values["labelling_preset"], tuple(PRESETS))
    names = ("start", "epochs", "batch_size", "learning_rate", "mixup")
    FinetuningConfig(**{name: values[f"finetuning_{name}"] for name in names})
    if values["finetuning_mixup"] < 0:
        raise expected("finetuning_mixup", "zero or positive", values["finetuning_mixup"], "Pass 0 for none.")
    with fields_as("labelling_", "score", "clusters", "keep"):
        LabellingConfig(
            score=values["labelling_score"],
            clusters=values["labelling_clusters"] or None,
            keep=values["labelling_keep"] or None,
        )
    _check_foreign(values)


def preflight(values: Mapping[str, Any]) -> int:
    """Checks the values of a run that no command of Ferry has started, in a pod that may not see every path.

    Args:
        values: All parameters.

    Returns:
        How many faces the target must have at least for these values.

    Raises:
        UserError: A value is not one of its choices or out of range.
    """
    from .catalogue import check_number

    for name, value in values.items():
        check_number(name, value)
    init = values["pretraining_init"]
    check({**values, "pretraining_init": "auto" if "/" in init else init})
    return least_faces(values)


def least_faces(values: Mapping[str, Any]) -> int:
    """Returns how many faces the target must have for the clusters, the prototypes and one batch.

    Args:
        values: All parameters, checked.
    """
    from ..labelling.config import PRESETS
    from ..pretraining.config import preset

    labelling = PRESETS[values["labelling_preset"]]()
    needed = [values["labelling_clusters"] or labelling.clusters or 1]
    if values["pretraining"] != "none":
        changes = {name: values[f"pretraining_{name}"] for name in ("batch_size", "prototypes")}
        config = preset(values["pretraining"], values["pretraining_preset"], **changes)
        needed += [config.batch_size, config.prototypes]
    return max(needed)


def _check_pretraining(values: Mapping[str, Any]) -> None:
    from ..common.errors import closest, expected, unknown
    from ..pretraining.config import preset

    if values["pretraining"] not in ("swav", "deepcluster", "none"):
        raise unknown("pretraining", values["pretraining"], ("swav", "deepcluster", "none"))
    if values["pretraining"] != "none":
        fields = ("init", "epochs", "batch_size", "prototypes", "learning_rate")
        changes = {name: values[f"pretraining_{name}"] for name in fields}
        preset(values["pretraining"], values["pretraining_preset"], **changes)
        init, words = values["pretraining_init"], ("auto", "random", "source")
        if init not in (*words, "") and not (Path(init) / "model.json").is_file():
            fix = closest(init, words).strip() or "Check the path."
            raise expected("pretraining_init", "auto, random, source or the folder of a saved model", init, fix)
    elif values["finetuning_start"] == "pretrained":
        fix = "Pass -p finetuning_start=source, adabn or scratch, or choose a pretraining."
        raise expected("finetuning_start", "another than pretrained without a pretraining", "pretrained", fix)


def _check_foreign(values: Mapping[str, Any]) -> None:
    """Finds now what needs the weights of a source model that gives none."""
    from ..common.errors import expected
    from .choices import is_foreign

    if not is_foreign(values["source"]):
        return
    for name, needs, others in (
        ("labelling_teacher", ("adabn",), "auto or source"),
        ("pretraining_init", ("source",), "auto, random or the folder of a saved model"),
        ("finetuning_start", ("source", "adabn"), "pretrained or scratch"),
    ):
        if values[name] in needs:
            fix = "The weights of a foreign model cannot be trained; only what it predicts is used."
            rule = f"{others} for the foreign source model {Path(values['source']).name}"
            raise expected(name, rule, values[name], fix)
