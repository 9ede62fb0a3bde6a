"""Doors of the room: unlabelled target faces, and a labelled holdout."""

from kfp import dsl

from ..common.images import image


@dsl.component(base_image=image("slim"), install_kfp_package=False)
def import_target(
    faces: dsl.Output[dsl.Dataset],
    source: str,
    layout: str = "auto",
    split: str = "train",
    max_skipped: float = 0.05,
    min_faces: int = 0,
    snapshot: str = "",
) -> None:
    """Import unlabelled target faces; labels that the layout may have are dropped.

    Args:
        faces: The Faces artifact, without a label column.
        source: Folder, file or s3://bucket/prefix, or an existing Faces folder.
        layout: Name of the layout, or auto.
        split: The split to take where the layout has several; empty takes all.
        max_skipped: Largest share of faces that may be skipped, as broken files and the like are.
        min_faces: How many faces the settings of later stages need.
        snapshot: State of the source; with another one, Kubeflow's cache has no answer.
    """
    from ferry.common.stage import stage
    from ferry.faces.stage import target_stage

    with stage("import-target") as record:
        found = target_stage(
            source, faces.path, record, layout=layout, split=split, max_skipped=max_skipped, min_faces=min_faces
        )
        faces.metadata.update(found, snapshot=snapshot)


@dsl.component(base_image=image("slim"), install_kfp_package=False)
def import_holdout(
    faces: dsl.Output[dsl.Dataset],
    target: dsl.Input[dsl.Dataset],
    model: dsl.Input[dsl.Model],
    source: str = "",
    layout: str = "auto",
    split: str = "test",
    allow_overlap: bool = False,
    max_skipped: float = 0.05,
    target_labels: str = "",
    target_labels_layout: str = "auto",
    target_labels_split: str = "train",
    snapshot: str = "",
) -> None:
    """Import a labelled holdout, which only evaluation sees; without a source it is empty.

    Args:
        faces: The Faces artifact, with labels: the split test, and the split target where target_labels are given.
        target: The target; a picture that is in both is an error.
        model: The source model; other classes than the holdout's are an error.
        source: Folder, file or s3://bucket/prefix, or an existing Faces folder; empty for none.
        layout: Name of the layout, or auto.
        split: The split to take where the layout has several; empty takes all.
        allow_overlap: Whether pictures may be in both.
        max_skipped: Largest share of faces that may be skipped, as broken files and the like are.
        target_labels: Labelled faces of the target itself, to judge pseudo-labels; training never sees them.
        target_labels_layout: Layout of target_labels, or auto.
        target_labels_split: The split of target_labels to take; empty takes all.
        snapshot: State of both sources; with another one, Kubeflow's cache has no answer.
    """
    from ferry.common.stage import stage
    from ferry.faces.stage import holdout_stage

    with stage("import-holdout") as record:
        choices: dict[str, str] = dict(layout=layout, split=split, classes=model.metadata.get("classes", ""))
        choices.update(target_labels=target_labels, target_labels_layout=target_labels_layout)
        choices.update(target_labels_split=target_labels_split)
        paths = source, faces.path, target.path
        found = holdout_stage(*paths, record, allow_overlap=allow_overlap, max_skipped=max_skipped, **choices)
        faces.metadata.update(found, snapshot=snapshot)
