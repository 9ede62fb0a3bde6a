"""Door of the room: pseudo-labels for the target."""

from kfp import dsl

from ..common.images import image


@dsl.component(base_image=image("cpu"), install_kfp_package=False)
def pseudo_label(
    labels: dsl.Output[dsl.Artifact],
    target: dsl.Input[dsl.Dataset],
    source: dsl.Input[dsl.Model],
    adabn: dsl.Input[dsl.Model],
    teacher: str = "auto",
    preset: str = "clean",
    score: str = "purity",
    clusters: int = 0,
    keep: float = 0.0,
    seed: int = 0,
) -> None:
    """Cluster the target in the teacher's features and keep the purest labels of every class.

    Args:
        labels: The PseudoLabels artifact.
        target: Unlabelled target faces.
        source: The source model.
        adabn: The source model with the target's statistics.
        teacher: Which of the two gives labels and features: source, adabn, or auto (adabn where it could be made, but
            source in the preset released).
        preset: clean, or released: the switches of the CluP authors' code.
        score: purity or confidence.
        clusters: Number of clusters K; 0 for the preset's.
        keep: Fraction r that is kept per class; 0 for the preset's.
        seed: Seed.
    """
    from ferry.common.stage import stage
    from ferry.labelling.stage import labelling_stage

    with stage("pseudo-label") as record:
        chosen = {"source": source.path, "adabn": adabn.path}
        found = labelling_stage(
            target.path,
            chosen,
            teacher,
            labels.path,
            record,
            preset=preset,
            score=score,
            clusters=clusters,
            keep=keep,
            seed=seed,
        )
        labels.metadata.update(found)
