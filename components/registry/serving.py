"""The model as MLflow serves it: images in, named probabilities out. MLflow runs this file; nothing is pickled."""

from __future__ import annotations

import base64
import binascii
from typing import Any

import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel


class ExpressionModel(PythonModel):
    """A saved classifier behind MLflow's pyfunc interface.

    The input is a table with the column ``image``, or a mapping with that key. A cell holds an encoded picture (bytes,
    or base64 text as JSON carries it, also as a data URL), or its pixels: 0 to 255, [H, W], [H, W, 1 or 3] or
    [1 or 3, H, W], as an array or nested lists. The output has one row per image and one column per class.
    """

    def load_context(self, context: Any) -> None:
        """Loads the classifier from the logged folder."""
        from ferry.networks import load_source  # type: ignore[import-not-found]

        self.source = load_source(context.artifacts["model"])

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Returns a table with one column per class: the probability that the face displays it.

        Raises:
            MlflowException: A cell holds no picture; the server answers with status 400.
        """
        if "image" not in model_input:
            got = ", ".join(map(str, model_input))
            raise _refusal(f"Expected `input` to have the column image, but got {got}. Rename the column.")
        pixels = [self._pixels(cell, row) for row, cell in enumerate(_cells(model_input["image"]))]
        names = list(self.source.classes)
        if not pixels:
            return pd.DataFrame(columns=names, dtype=float)
        chances = self.source.outputs(np.stack(pixels)).probabilities().numpy()
        return pd.DataFrame(chances.astype(float), columns=names)

    def _pixels(self, cell: Any, row: int) -> np.ndarray:
        from ferry.faces import SkippedImage, face_pixels  # type: ignore[import-not-found]

        try:
            pixels: np.ndarray = face_pixels(_encoded(cell), self.source.input_size, self.source.channels)
            return pixels
        except (SkippedImage, ValueError) as error:
            fix = "Send a PNG or JPEG file (base64 in JSON), or pixels from 0 to 255."
            raise _refusal(f"Expected `image` in row {row} to be a picture, but got {error}. {fix}") from None


def _refusal(message: str) -> MlflowException:
    return MlflowException.invalid_parameter_value(message)


def _cells(column: pd.Series[Any]) -> list[Any]:
    """Returns the cells of the column; MLflow makes one cell of all texts in ``{"image": [text, ...]}``."""
    cells = list(column)
    folded = len(cells) == 1 and isinstance(cells[0], list) and cells[0] and all(isinstance(x, str) for x in cells[0])
    return list(cells[0]) if folded else cells


def _encoded(cell: Any) -> bytes:
    """Returns a picture as an encoded file.

    Raises:
        ValueError: It is none.
    """
    if isinstance(cell, (bytes, bytearray, memoryview)):
        return bytes(cell)
    if isinstance(cell, str):
        text = cell.partition(",")[2] if cell.startswith("data:") else cell
        try:
            return base64.b64decode("".join(text.split()), validate=True)
        except (binascii.Error, ValueError):
            raise ValueError("text that is not base64") from None
    if isinstance(cell, (list, tuple, np.ndarray)):
        from ferry.faces.decode import encode_png  # type: ignore[import-not-found]

        file: bytes = encode_png(_as_uint8(cell))
        return file
    raise ValueError(f"a value of type {type(cell).__name__}")


def _as_uint8(cell: Any) -> np.ndarray:
    """Returns pixels as uint8 [H, W] or [H, W, 3]. Pixels from 0 to 1 are refused: as whole numbers they are black."""
    try:
        values = np.array(cell.tolist() if isinstance(cell, np.ndarray) and cell.dtype == object else cell)
    except ValueError:
        raise ValueError("rows of different lengths") from None
    if values.dtype.kind not in "uif" or not values.size:
        raise ValueError(f"pixels of type {values.dtype} and shape {values.shape}")
    if not ((values >= 0) & (values <= 255) & (values == np.floor(values))).all():
        raise ValueError(f"pixels from {values.min():g} to {values.max():g} that are not whole numbers from 0 to 255")
    if values.ndim == 3 and values.shape[-1] not in (1, 3) and values.shape[0] in (1, 3):
        values = values.transpose(1, 2, 0)
    if values.ndim == 3 and values.shape[-1] == 1:
        values = values[..., 0]
    if values.ndim != 2 and not (values.ndim == 3 and values.shape[-1] == 3):
        raise ValueError(f"pixels of shape {list(values.shape)}")
    return np.ascontiguousarray(values, dtype=np.uint8)


set_model(ExpressionModel())
