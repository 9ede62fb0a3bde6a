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
    adapted: dsl.Input[dsl.Model],
    adabn: dsl.Input[dsl.Model] = None,
    pretrained: dsl.Input[dsl.Model] = None,
    labels: dsl.Input[dsl.Artifact] = None,
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
        adapted: The adapted model.
        adabn: The source model with the target's statistics, as a row to compare with; may be skipped.
        pretrained: The pretrained encoder, for its curves; may be skipped.
        labels: The pseudo-labels, for methods that have them.
        method: Name of the method in the report.
        scored: Classes that count, separated by commas; empty for all.
        seed: Seed of the embedding pictures.
    """
    from ferry.common.stage import stage
    from ferry.evaluation.stage import evaluation_stage

    with stage("evaluate") as record:
        given = {"source": source, "adabn": adabn, "adapted": adapted, "pretrained": pretrained}
        models = {key: value.path for key, value in given.items() if value is not None}
        data = {"target": target.path, "holdout": holdout.path, **({"labels": labels.path} if labels else {})}
        outputs = {"evaluation": evaluation.path, "report": report.path}
        names: dict[str, str] = dict(method=method, scored=scored, origin=source.metadata.get("source", ""))
        counted: float | None = holdout.metadata.get("shared")
        shared = None if counted is None else int(counted)
        found = evaluation_stage(data, models, outputs, record, seed=seed, shared=shared, **names)
        for name, value in found.scalars.items():
            metrics.log_metric(name, value)
        if found.matrix:
            confusion.log_confusion_matrix(found.classes, found.matrix)
