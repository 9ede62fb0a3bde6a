"""Train a source model on labelled faces; kept apart from adaptation, which never sees source images."""

from kfp import dsl

from ..source.component import train_source


@dsl.pipeline(name="source")
def source(
    faces: str,
    faces_layout: str = "auto",
    faces_split: str = "train",
    faces_max_skipped: float = 0.05,
    network: str = "resnet10",
    network_width: int = 0,
    network_stem: str = "auto",
    network_input_size: int = 48,
    network_channels: int = 1,
    network_bottleneck: int = 0,
    network_head: str = "linear",
    training_epochs: int = 14,
    training_batch_size: int = 128,
    training_learning_rate: float = 0.1,
    training_label_smoothing: float = 0.1,
    precision: str = "auto",
    seed: int = 0,
) -> None:
    """Train a source model on labelled faces.

    Args:
        faces: [required] Labelled faces: a folder, an s3://bucket/prefix, or a Faces folder.
        faces_layout: [optional] Layout of the faces (ferry faces layouts lists them), or auto.
        faces_split: [optional] Split to train on; empty for all.
        faces_max_skipped: [optional] Largest share of the faces that may be skipped as unreadable.
        network: [optional] resnet10, resnet18 or resnet50.
        network_width: [optional] Channels of the first stage; 0 for the usual.
        network_stem: [optional] auto, imagenet, cifar, clup or space_to_depth.
        network_input_size: [optional] Input size in pixels.
        network_channels: [optional] 1 for grey, 3 for RGB.
        network_bottleneck: [optional] Size of the bottleneck before the head; 0 for none.
        network_head: [optional] linear or weight_norm.
        training_epochs: [optional] Passes over the faces.
        training_batch_size: [optional] Images per step.
        training_learning_rate: [optional] Peak learning rate.
        training_label_smoothing: [optional] Label smoothing.
        precision: [optional] auto, fp32, bf16, fp16 or measure.
        seed: [optional] Fixes the run.
    """
    train_source(
        faces=faces,
        layout=faces_layout,
        split=faces_split,
        max_skipped=faces_max_skipped,
        backbone=network,
        width=network_width,
        stem=network_stem,
        input_size=network_input_size,
        channels=network_channels,
        bottleneck=network_bottleneck,
        head=network_head,
        epochs=training_epochs,
        batch_size=training_batch_size,
        learning_rate=training_learning_rate,
        label_smoothing=training_label_smoothing,
        precision=precision,
        seed=seed,
    ).set_caching_options(False)
