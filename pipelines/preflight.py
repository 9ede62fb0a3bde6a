"""The first stages of a run: wrong values and places end it before anything is read, wherever it was started from."""

from typing import NamedTuple

from kfp import dsl

from ..common.images import image


@dsl.component(base_image=image("slim"), install_kfp_package=False)
def check_parameters(
    target: str,
    source: str,
    holdout: str,
    source_trust: bool,
    target_layout: str,
    target_split: str,
    target_max_skipped: float,
    holdout_layout: str,
    holdout_split: str,
    holdout_max_skipped: float,
    holdout_allow_overlap: bool,
    holdout_classes: str,
    target_labels: str,
    labelling_score: str,
    labelling_teacher: str,
    labelling_preset: str,
    labelling_clusters: int,
    labelling_keep: float,
    pretraining: str,
    pretraining_preset: str,
    pretraining_init: str,
    pretraining_epochs: int,
    pretraining_batch_size: int,
    pretraining_prototypes: int,
    pretraining_learning_rate: float,
    finetuning_start: str,
    finetuning_epochs: int,
    finetuning_batch_size: int,
    finetuning_learning_rate: float,
    finetuning_mixup: float,
    model_name: str,
    precision: str,
    seed: int,
) -> int:
    """Check every value before anything runs, for runs that no `ferry` command has started.

    Args:
        target: Unlabelled faces: a folder, an s3://bucket/prefix, or a Faces folder.
        source: Model to adapt: Ferry, ONNX or TorchScript; a path, s3://bucket/prefix, models:/NAME@ALIAS.
        holdout: Labelled faces of the target domain for evaluation; empty for a report without accuracy.
        source_trust: Open a source model that is a TorchScript file: it runs code from the file.
        target_layout: Layout of the target (ferry faces layouts lists them), or auto.
        target_split: Split of the target to adapt to; empty for all.
        target_max_skipped: Largest share of the target that may be skipped as unreadable.
        holdout_layout: Layout of the holdout (ferry faces layouts lists them), or auto.
        holdout_split: Split of the holdout to evaluate on; empty for all.
        holdout_max_skipped: Largest share of the holdout that may be skipped as unreadable.
        holdout_allow_overlap: Go on although pictures are in both target and holdout.
        holdout_classes: Classes of the holdout that count, separated by commas; empty for all.
        target_labels: Labelled faces of the target itself, read as the target is; the report judges the
            pseudo-labels; no training sees them.
        labelling_score: purity (of a label's cluster) or confidence (of the teacher).
        labelling_teacher: Who labels: source, adabn (source with the target's statistics), or auto: adabn
            where it can be made, and source in the preset released.
        labelling_preset: clean (recommended), or released: the switches of the CluP authors' code.
        labelling_clusters: Number of k-means clusters; 0 for the rule (released: 1000).
        labelling_keep: Fraction of each class that is kept; 0 for the rule (released: 0.1).
        pretraining: swav, deepcluster, or none.
        pretraining_preset: small (minutes on a CPU) or published (GPUs).
        pretraining_init: First weights: random, source, the folder of a saved model, or auto: the source's
            in the preset small where they are known, random in published.
        pretraining_epochs: Passes over the target; 0 for the preset's.
        pretraining_batch_size: Images per step; 0 for the preset's.
        pretraining_prototypes: Number of prototypes; 0 for the rule.
        pretraining_learning_rate: Peak learning rate; 0 for the preset's.
        finetuning_start: First weights: pretrained, source, adabn or scratch.
        finetuning_epochs: Passes over the kept faces; 0 for the rule.
        finetuning_batch_size: Images per step.
        finetuning_learning_rate: Peak learning rate; 0 for the rule.
        finetuning_mixup: Parameter alpha of mixup; 0 for none.
        model_name: Name in the MLflow registry; empty registers nothing.
        precision: auto, fp32, bf16, fp16 or measure.
        seed: Fixes the run.

    Returns:
        How many faces the target must have at least.
    """
    values = dict(locals())

    from ferry.common.stage import stage
    from ferry.pipelines.checks.clup import preflight

    with stage("check-parameters"):
        return preflight(values)


# fmt: off
@dsl.component(base_image=image("slim"), install_kfp_package=False)
def take_snapshot(
    target: str, source: str, holdout: str, target_labels: str = ""
) -> NamedTuple("Snapshot", [("target", str), ("source", str), ("holdout", str)]):  # type: ignore[valid-type]
    # fmt: on
    """Say in what state data and model are, so that Kubeflow's cache sees when they have changed.

    Args:
        target: Unlabelled faces.
        source: The source model.
        holdout: Labelled faces for the evaluation; empty for none.
        target_labels: Labels of the target's faces; empty for none.

    Returns:
        The states of target, source model, and both labelled sets.
    """
    from ferry.common.errors import fields_as
    from ferry.common.stage import stage
    from ferry.pipelines.snapshots import state_of

    places = dict(target=target, source=source, holdout=holdout, target_labels=target_labels)
    with stage("take-snapshot") as record:
        found = {}
        for name, place in places.items():
            with fields_as("", source=name):
                found[name] = state_of(place)
        record.facts.update(found)
    return found["target"], found["source"], found["holdout"] + found["target_labels"]
