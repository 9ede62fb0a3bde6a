"""A pipeline of two short stages for tests of the runner; what the first one does is a parameter."""

from dataclasses import dataclass

from ferry.common.images import image
from ferry.pipelines.catalogue import PipelineInfo
from kfp import dsl


@dsl.component(base_image=image("slim"), install_kfp_package=False)
def first(data: dsl.Output[dsl.Dataset], report: dsl.Output[dsl.HTML], numbers: dsl.Output[dsl.Metrics], mode: str):
    import os
    import signal
    import sys
    import tempfile
    import time
    from pathlib import Path

    if mode == "import":
        import there_is_no_such_module  # noqa: F401
    from ferry.common.checkpoints import checkpoint_path
    from ferry.common.errors import RetryableError, disk_errors, expected
    from ferry.common.stage import stage

    with stage("first") as record:
        record.facts["temporary"] = tempfile.mkdtemp(prefix="toy-")  # left behind, as by a library that is killed
        checkpoint_path("toy", {"mode": mode}).write_text("all of the training")
        if mode == "user":
            raise expected("faces", "labelled", "nothing", "Pass labelled faces.")
        if mode == "retry":
            raise RetryableError("The server is away. Try again.")
        if mode == "crash":
            raise ZeroDivisionError("a bug")
        if mode == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if mode == "exit":
            sys.exit(7)
        if mode == "sleep":
            time.sleep(600)
        if mode == "fill":
            with disk_errors("the faces"):
                Path(data.path).write_bytes(bytes(64 << 20))
        if mode != "nothing":
            Path(data.path).write_text("data")
            Path(report.path).write_text("<html>report</html>")
        numbers.log_metric("accuracy", 0.5)
        record.warn("look here")
        row = {"accuracy": 0.5, "mean_class_accuracy": float("nan")}
        record.facts.update(metrics={"source": row, "adapted": row}, images=3)
        record.facts["model"] = {"name": "toy", "version": "1", "uri": "models:/toy/1"}


@dsl.component(base_image=image("slim"), install_kfp_package=False)
def second(result: dsl.Output[dsl.Artifact], data: dsl.Input[dsl.Dataset], seed: int = 0):
    from pathlib import Path

    from ferry.common.stage import stage

    with stage("second"):
        Path(result.path).write_text(Path(data.path).read_text() + str(seed))


@dsl.pipeline(name="toy")
def toy(mode: str = "fine", folder: str = "", seed: int = 0):
    """A toy.

    Args:
        mode: [optional] What the first stage does.
        folder: [optional] A path.
        seed: [optional] Fixes the run.
    """
    second(data=first(mode=mode).outputs["data"], seed=seed)


@dataclass(frozen=True)
class ToyInfo(PipelineInfo):
    def component(self):
        return toy

    def choices(self):  # kfp's runner reads them in every test that runs the toy
        return {"mode": ("fine", "user", "retry", "crash", "die", "exit", "sleep", "fill", "nothing", "import")}

    def check(self, values):
        pass


TOY = ToyInfo("toy", "A toy", "toy", ("folder",))
