"""Doors of the room: labelled faces in, a source model out."""

from kfp import dsl

from ..common.images import image


@dsl.component(base_image=image("cpu"), install_kfp_package=False)
def train_source(
    model: dsl.Output[dsl.Model],
    faces: str,
    layout: str = "auto",
    split: str = "train",
    max_skipped: float = 0.05,
    backbone: str = "resnet10",
    width: int = 0,
    stem: str = "auto",
    input_size: int = 48,
    channels: int = 1,
    bottleneck: int = 0,
    head: str = "linear",
    epochs: int = 14,
    batch_size: int = 128,
    learning_rate: float = 0.1,
    label_smoothing: float = 0.1,
    precision: str = "auto",
    seed: int = 0,
) -> None:
    """Train a source model on labelled faces.

    Args:
        model: The source model.
        faces: Folder, file or s3://bucket/prefix of labelled faces, or a Faces folder.
        layout: Name of the layout, or auto.
        split: The split to train on.
        max_skipped: Largest share of faces that may be skipped, as broken files and the like are.
        backbone: resnet10, resnet18 or resnet50.
        width: Channels of the first stage; 0 for the usual.
        stem: auto, imagenet, cifar, clup or space_to_depth.
        input_size: Input size in pixels.
        channels: 1 for grey, 3 for RGB.
        bottleneck: Size of the bottleneck; 0 for none.
        head: linear or weight_norm.
        epochs: Passes over the faces.
        batch_size: Images per step.
        learning_rate: Peak learning rate.
        label_smoothing: Label smoothing.
        precision: auto, fp32, bf16, fp16 or measure.
        seed: Seed.
    """
    from ferry.common.stage import stage
    from ferry.source.stage import train_source_stage

    with stage("train-source") as record:
        network: dict[str, str | int] = dict(
            name=backbone, width=width, stem=stem, input_size=input_size, channels=channels
        )
        network.update(bottleneck=bottleneck, head=head)
        choices: dict[str, str | float] = dict(
            epochs=epochs, batch_size=batch_size, learning_rate=learning_rate, seed=seed
        )
        choices.update(label_smoothing=label_smoothing, precision=precision)
        settings = network, choices
        train_source_stage(faces, layout, split, model.path, record, *settings, max_skipped=max_skipped)
