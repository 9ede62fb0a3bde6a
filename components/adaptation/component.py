"""Doors of the room: AdaBN, and CluP's fine-tuning."""

from kfp import dsl

from ..common.images import image


@dsl.component(base_image=image("cpu"), install_kfp_package=False)
def re_estimate_statistics(
    model: dsl.Output[dsl.Model],
    target: dsl.Input[dsl.Dataset],
    source: dsl.Input[dsl.Model],
    required: bool = False,
) -> None:
    """Re-estimate batch-normalisation statistics on the target (AdaBN), the baseline of every adaptation.

    Args:
        model: The source model with the target's statistics.
        target: Unlabelled target faces.
        source: The source model.
        required: Whether a source model without weights of its own is an error, or the model is skipped.
    """
    from ferry.adaptation.stage import adabn_stage
    from ferry.common.stage import stage

    with stage("re-estimate-statistics") as record:
        adabn_stage(target.path, source.path, model.path, record, required=required)


@dsl.component(base_image=image("cpu"), install_kfp_package=False)
def fine_tune(
    model: dsl.Output[dsl.Model],
    target: dsl.Input[dsl.Dataset],
    source: dsl.Input[dsl.Model],
    pretrained: dsl.Input[dsl.Model],
    labels: dsl.Input[dsl.Artifact],
    start: str = "pretrained",
    epochs: int = 0,
    batch_size: int = 64,
    learning_rate: float = 0.0,
    mixup: float = 0.2,
    precision: str = "auto",
    seed: int = 0,
) -> None:
    """Fine-tune a network on the pseudo-labels that were kept (CluP, stage 3).

    Args:
        model: The adapted model.
        target: Unlabelled target faces.
        source: The source model.
        pretrained: The encoder that was pretrained on the target.
        labels: The pseudo-labels.
        start: First weights: pretrained, source, adabn or scratch.
        epochs: Passes over the kept faces; 0 for the rule.
        batch_size: Images per step.
        learning_rate: Peak learning rate; 0 for the rule.
        mixup: Parameter alpha of mixup; 0 for none.
        precision: auto, fp32, bf16, fp16 or measure.
        seed: Seed.
    """
    from ferry.adaptation.stage import fine_tuning_stage
    from ferry.common.stage import stage

    with stage("fine-tune") as record:
        choices: dict[str, str | float] = dict(start=start, epochs=epochs, batch_size=batch_size, seed=seed)
        choices.update(learning_rate=learning_rate, mixup=mixup, precision=precision)
        inputs = {"target": target.path, "source": source.path, "pretrained": pretrained.path, "labels": labels.path}
        fine_tuning_stage(inputs, model.path, record, **choices)
