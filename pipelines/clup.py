"""CluP: from unlabelled faces and a source model to an adapted, evaluated, reported and registered model."""

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
        source: [required] Model to adapt: Ferry, ONNX or TorchScript; a path, s3://bucket/prefix, models:/NAME@ALIAS.
        holdout: [optional] Labelled faces of the target domain for evaluation; empty for a report without accuracy.
        source_trust: [optional] Open a source model that is a TorchScript file: it runs code from the file.
        target_layout: [optional] Layout of the target (ferry faces layouts lists them), or auto.
        target_split: [optional] Split of the target to adapt to; empty for all.
        target_max_skipped: [optional] Largest share of the target that may be skipped as unreadable.
        holdout_layout: [optional] Layout of the holdout (ferry faces layouts lists them), or auto.
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
