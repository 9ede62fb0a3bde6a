"""The model as MLflow serves it: images in, named probabilities out. MLflow runs this file; nothing is pickled."""

from __future__ import annotations

import base64
import binascii
from typing import Any

import numpy as np
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel


class ExpressionModel(PythonModel):
    """A saved classifier behind MLflow's pyfunc interface.

    The input is a table with one column ``image``. A cell holds an encoded picture (bytes, or base64 text as JSON
    carries it) or its pixels ([H, W] or [H, W, 3], uint8, as an array or nested lists).
    """

    def load_context(self, context: Any) -> None:
        """Loads the classifier from the logged folder."""
        from ferry.networks import load_source

        self.source = load_source(context.artifacts["model"])

    def predict(self, context: Any, model_input: Any, params: dict[str, Any] | None = None) -> Any:
        """Returns a table with one column per class: the probability that the face displays it."""
        import pandas as pd

        cells = list(model_input["image"]) if hasattr(model_input, "columns") else list(model_input)
        pixels = [self._pixels(cell, row) for row, cell in enumerate(cells)]
        names = list(self.source.classes)
        if not pixels:
            return pd.DataFrame(columns=names, dtype=float)
        chances = self.source.outputs(np.stack(pixels)).probabilities().numpy()
        return pd.DataFrame(chances.astype(float), columns=names)

    def _pixels(self, cell: Any, row: int) -> np.ndarray:
        from ferry.common.errors import expected
        from ferry.faces import SkippedImage, face_pixels

        try:
            return face_pixels(_encoded(cell), self.source.input_size, self.source.channels)
        except (SkippedImage, ValueError, TypeError, binascii.Error) as error:
            fix = "Send PNG or JPEG bytes (base64 in JSON), or pixels."
            raise expected(f"image in row {row}", "a picture", str(error), fix) from None


def _encoded(cell: Any) -> bytes:
    if isinstance(cell, (bytes, bytearray)):
        return bytes(cell)
    if isinstance(cell, str):
        return base64.b64decode(cell, validate=True)
    import io

    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(np.asarray(cell, dtype=np.uint8)).save(file, format="PNG")
    return file.getvalue()


set_model(ExpressionModel())
