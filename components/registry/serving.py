"""The model as MLflow serves it: images in, named probabilities out. MLflow runs this file; nothing is pickled."""

from __future__ import annotations

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
        from ferry.common.errors import UserError  # type: ignore[import-not-found]
        from ferry.faces.requests import requested_pixels  # type: ignore[import-not-found]

        try:
            pixels: np.ndarray = requested_pixels(cell, f"row {row}", self.source.input_size, self.source.channels)
            return pixels
        except UserError as error:
            raise _refusal(str(error)) from None


def _refusal(message: str) -> MlflowException:
    return MlflowException.invalid_parameter_value(message)


def _cells(column: pd.Series[Any]) -> list[Any]:
    """Returns the cells of the column; MLflow makes one cell of all texts in ``{"image": [text, ...]}``."""
    cells = list(column)
    folded = len(cells) == 1 and isinstance(cells[0], list) and cells[0] and all(isinstance(x, str) for x in cells[0])
    return list(cells[0]) if folded else cells


set_model(ExpressionModel())
