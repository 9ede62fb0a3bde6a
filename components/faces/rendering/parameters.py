"""The parameters of faces as a struct of arrays, and how they are sampled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from ...common.errors import closest, expected
from ..schema import EXPRESSIONS
from .expressions import ACTION_UNITS, RANDOM_WIDTH, sample_action_units
from .identity import PERSON_WIDTH, SCENE_WIDTH, sample_person, sample_scene
from .streams import bell, gather_uniforms, uniforms
from .styles import Style, get_style


@dataclass(frozen=True)
class FaceParameters:
    """Parameters of N faces.

    Attributes:
        style: The style they were sampled from; it also says how they are painted.
        labels: Expression of each face, int64 ``[N]``.
        identities: Person of each face, int64 ``[N]``.
        values: float32 ``[N]`` by name: the action units, traits of the person, pose, light, camera.
    """

    style: Style
    labels: np.ndarray
    identities: np.ndarray
    values: Mapping[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, name: str) -> np.ndarray:
        return self.values[name]

    @property
    def action_units(self) -> np.ndarray:
        """The parameters that carry the expression, float32 ``[N, len(ACTION_UNITS)]``."""
        return np.stack([self.values[name] for name in ACTION_UNITS], axis=1)

    def part(self, start: int, stop: int) -> FaceParameters:
        """Returns the faces ``start .. stop``."""
        values = {name: column[start:stop] for name, column in self.values.items()}
        return FaceParameters(self.style, self.labels[start:stop], self.identities[start:stop], values)

    def changed(self, **changes: float | np.ndarray) -> FaceParameters:
        """Returns a copy with some parameters set, for example ``faces.changed(jaw_drop=1.0)``.

        Raises:
            UserError: No parameter has this name.
        """
        for name in changes:
            if name not in self.values:
                fix = closest(name, tuple(self.values)).strip() or "See FaceParameters.values for the names."
                raise expected("changed", "the name of a parameter", name, fix)
        new = {
            name: np.broadcast_to(np.asarray(value, dtype=np.float32), len(self)).copy()
            for name, value in changes.items()
        }
        return replace(self, values={**self.values, **new})


def sample_faces(
    labels: np.ndarray, style: str | Style, seed: int, *, start: int = 0, images_per_identity: int = 8
) -> FaceParameters:
    """Draws the parameters of one face for each label.

    Face i depends only on (seed, start + i, its label, style): any batch of a series can be drawn alone.

    Args:
        labels: Expressions, int64 ``[N]``.
        style: Name of a style, or one of your own.
        seed: Any whole number.
        start: Position of the first face in its series.
        images_per_identity: How many faces in a row show the same person.

    Returns:
        The parameters.

    Raises:
        UserError: A label is not one of the seven, the style is unknown, or a count is not positive.
    """
    style, labels = get_style(style), _checked_labels(labels)
    if images_per_identity < 1:
        raise expected("images_per_identity", "at least 1", images_per_identity, "Pass a number such as 8.")
    if start < 0:
        raise expected("start", "not negative", start, "Pass 0 for the beginning of the series.")
    count = len(labels)
    identities = (start + np.arange(count, dtype=np.int64)) // images_per_identity
    person = sample_person(style, gather_uniforms(seed, f"{style.name}/person", identities, PERSON_WIDTH))
    scene = sample_scene(style, person["skin"], uniforms(seed, f"{style.name}/scene", start, count, SCENE_WIDTH))
    random = uniforms(seed, f"{style.name}/expression", start, count, RANDOM_WIDTH)
    units = dict(zip(ACTION_UNITS, sample_action_units(labels, style, random).T, strict=True))
    uneven = {
        f"uneven_{part}": style.asymmetry * bell(random[:, 6 + k], random[:, 7 + k], random[:, 8 + k])
        for k, part in enumerate(("brow", "eye", "mouth"))
    }
    values = {name: column.astype(np.float32) for name, column in {**person, **scene, **units, **uneven}.items()}
    return FaceParameters(style, labels, identities, values)


def _checked_labels(labels: np.ndarray) -> np.ndarray:
    array = np.asarray(labels)
    if array.ndim != 1 or (array.size and not np.issubdtype(array.dtype, np.integer)):
        raise expected(
            "labels", "a one-dimensional array of whole numbers", (array.shape, str(array.dtype)), "Pass int64 [N]."
        )
    wrong = array[(array < 0) | (array >= len(EXPRESSIONS))]
    if wrong.size:
        raise expected(
            "labels", f"between 0 and {len(EXPRESSIONS) - 1}", int(wrong[0]), f"The order is {', '.join(EXPRESSIONS)}."
        )
    return array.astype(np.int64)
