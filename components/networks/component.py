"""Door of the room: a source model from wherever it is."""

from kfp import dsl

from ..common.images import image


@dsl.component(base_image=image("cpu"), install_kfp_package=False)
def import_model(model: dsl.Output[dsl.Model], source: str, trust: bool = False, snapshot: str = "") -> None:
    """Bring a source model into the run: a Ferry model, a foreign one, or one from the MLflow registry.

    Args:
        model: The model artifact.
        source: Folder of a Ferry model, ONNX or TorchScript file with its sidecar, or models:/NAME@ALIAS.
        trust: Whether a TorchScript file may be opened; it runs code from the file.
        snapshot: State of the source; with another one, Kubeflow's cache has no answer.
    """
    from ferry.common.stage import stage
    from ferry.networks.stage import import_model_stage

    with stage("import-model") as record:
        model.metadata.update(import_model_stage(source, model.path, record, trust), snapshot=snapshot)
