"""Door of the room: pretraining on the target."""

from kfp import dsl

from ..common.images import image


@dsl.component(base_image=image("cpu"), install_kfp_package=False)
def pretrain(
    encoder: dsl.Output[dsl.Model],
    target: dsl.Input[dsl.Dataset],
    source: dsl.Input[dsl.Model],
    method: str = "swav",
    preset: str = "small",
    init: str = "auto",
    epochs: int = 0,
    batch_size: int = 0,
    prototypes: int = 0,
    learning_rate: float = 0.0,
    precision: str = "auto",
    seed: int = 0,
) -> None:
    """Pretrain an encoder on the unlabelled target with SwAV or DeepClusterV2.

    Args:
        encoder: The pretrained encoder.
        target: Unlabelled target faces.
        source: The source model; gives the architecture.
        method: swav, deepcluster, or none.
        preset: small or published.
        init: random, source, a folder of a saved model, or auto for the preset's.
        epochs: Passes over the target; 0 for the preset's.
        batch_size: Images per step; 0 for the preset's.
        prototypes: Number of prototypes; 0 for the rule.
        learning_rate: Peak learning rate; 0 for the preset's.
        precision: auto, fp32, bf16, fp16 or measure.
        seed: Seed.
    """
    from ferry.common.stage import stage
    from ferry.pretraining.stage import run_stage

    with stage("pretrain") as record:
        given = {"epochs": epochs, "batch_size": batch_size, "prototypes": prototypes, "learning_rate": learning_rate}
        choices = {"init": init, "precision": precision, "seed": seed, **given}
        run_stage(target.path, source.path, encoder.path, record, method=method, name=preset, **choices)
