"""Door of the room: the only stage that sees labels of the target domain."""

from kfp import dsl

from ..common.images import image


@dsl.component(base_image=image("cpu"), install_kfp_package=False)
def evaluate(
    evaluation: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    confusion: dsl.Output[dsl.ClassificationMetrics],
    report: dsl.Output[dsl.HTML],
    target: dsl.Input[dsl.Dataset],
    holdout: dsl.Input[dsl.Dataset],
    source: dsl.Input[dsl.Model],
    adabn: dsl.Input[dsl.Model],
    adapted: dsl.Input[dsl.Model],
    pretrained: dsl.Input[dsl.Model],
    labels: dsl.Input[dsl.Artifact],
    method: str = "CluP",
    scored: str = "",
    seed: int = 0,
) -> None:
    """Evaluate source, AdaBN and the adapted model on the holdout, and write the report.

    Args:
        evaluation: Folder with metrics.json and a copy of the report, report.html.
        metrics: Scalars for the Kubeflow UI.
        confusion: Confusion matrix of the adapted model for the Kubeflow UI.
        report: The report, one self-contained HTML file.
        target: Unlabelled target faces, for predicted class shares where there is no holdout.
        holdout: Labelled holdout; may be empty.
        source: The source model.
        adabn: The source model with the target's statistics; may be skipped.
        adapted: The adapted model.
        pretrained: The pretrained encoder, for its curves; may be skipped.
        labels: The pseudo-labels.
        method: Name of the method in the report.
        scored: Classes that count, separated by commas; empty for all.
        seed: Seed of the embedding pictures.
    """
    from ferry.common.stage import stage
    from ferry.evaluation.stage import evaluation_stage

    with stage("evaluate") as record:
        models = {"source": source.path, "adabn": adabn.path, "adapted": adapted.path, "pretrained": pretrained.path}
        data = {"target": target.path, "holdout": holdout.path, "labels": labels.path}
        outputs = {"evaluation": evaluation.path, "report": report.path}
        names: dict[str, str] = dict(method=method, scored=scored, origin=source.metadata.get("source", ""))
        found = evaluation_stage(data, models, outputs, record, seed=seed, **names)
        for name, value in found.scalars.items():
            metrics.log_metric(name, value)
        if found.matrix:
            confusion.log_confusion_matrix(found.classes, found.matrix)
