"""Door of the room: the adapted model becomes a version in the MLflow registry."""

from kfp import dsl

from ..common.images import image


@dsl.component(base_image=image("cpu"), install_kfp_package=False)
def register(
    model: dsl.Input[dsl.Model],
    evaluation: dsl.Input[dsl.Artifact],
    report: dsl.Input[dsl.HTML],
    name: str = "ferry-clup",
) -> None:
    """Register the adapted model with its card as challenger.

    Args:
        model: The adapted model.
        evaluation: Folder with metrics.json.
        report: The HTML report.
        name: Name in the registry; empty registers nothing.
    """
    from ferry.common.stage import stage
    from ferry.registry.stage import register_stage

    with stage("register") as record:
        register_stage(model.path, evaluation.path, report.path, name, record)
