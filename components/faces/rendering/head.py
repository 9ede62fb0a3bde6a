"""The head and what surrounds it: background, clothes, hair, skin, beard, glasses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .canvas import Canvas
from .geometry import Frame, Window, arc, box, cover, ellipse

Values = Mapping[str, Tensor]


@dataclass(frozen=True)
class Head:
    """Where a head is in its picture.

    Attributes:
        frame: Origin between the eyes and the mouth, axes along the face.
        unit: Pixels per face unit, ``[images]``.
        turn: (cosine, sine) of the yaw.
        nod: (cosine, sine) of the pitch.
        values: All parameters.
    """

    frame: Frame
    unit: Tensor
    turn: tuple[Tensor, Tensor]
    nod: tuple[Tensor, Tensor]
    values: Values

    def place(self, x: Tensor, y: Tensor, depth: float) -> tuple[Tensor, Tensor]:
        """Returns where a point of the face (in face units, `depth` towards the camera) is seen, in pixels."""
        u = x * self.turn[0] + depth * self.turn[1]
        v = y * self.nod[0] + depth * self.nod[1]
        return u * self.unit, v * self.unit

    def narrowing(self, side: float) -> Tensor:
        """Returns how much a feature on one half is narrowed (or widened) by the turn of the head."""
        return (self.turn[0] - side * 0.45 * self.turn[1]).clamp(0.5, 1.15)


def place_head(values: Values, size: int) -> Head:
    """Places heads in their pictures from pose and scale."""
    half = size / 2.0
    roll = values["roll"]
    frame = Frame(half * (1.0 + values["shift_x"]), half * (1.0 + values["shift_y"]), roll.cos(), roll.sin())
    turn = (values["yaw"].cos(), values["yaw"].sin())
    nod = (values["pitch"].cos(), values["pitch"].sin())
    return Head(frame, half * values["scale"], turn, nod, values)


def draw_background(canvas: Canvas) -> None:
    """Adds a gradient and a soft blob to the background."""
    values, size = canvas.values, canvas.size
    line = torch.linspace(-1.0, 1.0, size)
    slope = values["gradient"] * 0.5
    canvas.picture.add_(line[None, :, None] * (values["gradient_x"] * slope))
    blob_x = (line[None, :, None] - values["blob_x"]).square_().mul_(-2.0).add_(1.0)
    blob_y = (line[:, None, None] - values["blob_y"]).square_().mul_(-2.0)
    blob = (blob_x + blob_y).clamp_(min=0.0).mul_(values["gradient"])
    canvas.picture.add_(blob.add_(line[:, None, None] * (values["gradient_y"] * slope)))


def draw_back(canvas: Canvas, head: Head) -> None:
    """Draws shoulders, neck and the hair behind the face."""
    values, unit = head.values, head.unit
    zero = torch.zeros_like(unit)
    shoulders = head.frame.child(zero, 1.75 * unit)
    window = shoulders.window(1.3 * unit, unit, canvas.size)
    u, v = shoulders.coordinates(window)
    canvas.paint("clothes", window, ellipse(u, v, 1.2 * unit, 0.6 * unit))
    canvas.shade("skin", window, box(u, v + 0.7 * unit, 0.36 * unit, 0.28 * unit))
    width, top = values["face_width"] + values["hair_volume"], values["forehead"] + values["hair_volume"]
    bottom = (0.1 + values["hair_length"]).clamp(0.1, 1.0)
    middle = (bottom - top) * 0.5
    hair = head.frame.child(zero - 0.15 * head.turn[1] * unit, middle * unit)
    wide, high = width * unit, (top + bottom) * 0.5 * unit
    window = hair.window(wide, high, canvas.size)
    u, v = hair.coordinates(window)
    distance = ellipse(u, v, wide, high)
    canvas.paint("hair", window, distance)
    if canvas.hatched:
        _hatch(canvas, window, hair, cover(distance))


def draw_skin(canvas: Canvas, head: Head) -> tuple[Window, Tensor]:
    """Draws the face's skin with the hair over the forehead.

    Returns:
        A window and the light that falls on the face in it: a factor on tones, ``[rows, columns, images]``.
    """
    values, unit = head.values, head.unit
    window = head.frame.window(values["face_width"] * unit * 1.1, 1.3 * unit, canvas.size)
    u, v = head.frame.coordinates(window)
    chin = values["chin"] + 0.16 * values["jaw_drop"] - 0.03 * values["chin_raise"]
    across = u / (values["face_width"] * unit)
    below = v.clamp(min=0.0).div_(chin * unit)
    down = v.clamp(max=0.0).div_(values["forehead"] * unit).add_(below)
    radius = across.square().mul_(below.square_().mul_(values["jaw"]).add_(1.0)).add_(down.square())
    distance = radius.sqrt().sub_(1.0).mul_(values["face_width"] * unit)
    canvas.paint("skin", window, distance)
    part = values["parting"] * unit
    fringe = (u - part).square_().mul_(-0.35 / unit).sub_(v).sub_(values["hair_line"] * unit).neg_()
    canvas.paint("hair", window, torch.maximum(fringe, distance - canvas.pixel))
    inside = cover(distance)
    light = across.mul_(values["light_x"]).add_(down.mul_(values["light_y"]))
    if canvas.hatched:
        _hatch(canvas, window, head.frame, cover(light.add(0.35).mul_(6.0)).mul_(inside))
    light.mul_(values["light"]).sub_(radius.sub_(0.35).mul_(values["relief"]))
    return window, light.mul_(inside).add_(1.0)


def draw_beard(canvas: Canvas, head: Head) -> None:
    """Draws a beard along the jaw and a moustache under the nose, before the mouth."""
    values, unit = head.values, head.unit
    if not bool((values["has_beard"] + values["moustache"]).any()):
        return
    zero = torch.zeros_like(unit)
    beard = head.frame.child(*head.place(zero, values["mouth_height"] + 0.16, 0.1))
    window = beard.window(0.7 * unit, 0.5 * unit, canvas.size)
    u, v = beard.coordinates(window)
    outer = ellipse(u, v - 0.02 * unit, values["face_width"] * 0.78 * unit, 0.4 * unit)
    opening = ellipse(u, v + 0.3 * unit, values["face_width"] * 0.6 * unit, 0.42 * unit)
    soft = torch.maximum(outer, opening.neg_()).mul_(0.4)
    canvas.shade("beard", window, soft, values["has_beard"])
    lip = head.frame.child(*head.place(zero, values["mouth_height"] - 0.13 - 0.05 * values["lip_raise"], 0.3))
    wide = values["mouth_width"] * unit * 0.9
    window = lip.window(wide, 0.15 * unit, canvas.size)
    u, v = lip.coordinates(window)
    canvas.shade("beard", window, arc(u / wide, v, 0.06 * unit, 0.05 * unit), values["moustache"])


def draw_glasses(canvas: Canvas, head: Head) -> None:
    """Draws rims around the eyes and a bridge between them."""
    values, unit = head.values, head.unit
    if not bool(values["has_glasses"].any()):
        return
    width = values["eye_distance"] * 0.8 * unit
    height = (0.19 + 0.06 * values["glasses_round"]) * unit
    rim = 0.022 * unit + 0.25 * canvas.pixel
    for side in (-1.0, 1.0):
        place = head.place(side * values["eye_distance"], values["eye_height"] + 0.02, 0.22)
        frame = head.frame.child(*place)
        wide = width * head.narrowing(side)
        window = frame.window(wide + rim, height + rim, canvas.size)
        u, v = frame.coordinates(window)
        distance = ellipse(u, v, wide, height).abs_().sub_(rim)
        canvas.shade("glasses", window, distance, values["has_glasses"])
    zero = torch.zeros_like(unit)
    frame = head.frame.child(*head.place(zero, values["eye_height"], 0.3))
    wide = (values["eye_distance"] * unit - width).clamp(min=1.0)
    window = frame.window(wide, 2.0 * rim, canvas.size)
    u, v = frame.coordinates(window)
    canvas.shade("glasses", window, box(u, v, wide, rim), values["has_glasses"])


def draw_occluder(canvas: Canvas) -> None:
    """Draws the rare patch in front of the face (a hand, a cup, a censor's bar)."""
    values, half = canvas.values, canvas.size / 2.0
    if not bool(values["patch_size"].any()):
        return
    side = half * values["patch_size"]
    shown = (side > 0.0).to(side.dtype)
    centres = torch.arange(canvas.size, dtype=side.dtype).add_(0.5)[:, None]
    across = (centres - half * (1.0 + 0.8 * values["patch_x"])).abs_().sub_(1.5 * side)[None]
    down = (centres - half * (1.0 + 0.8 * values["patch_y"])).abs_().sub_(side)[:, None]
    inside = cover(across, shown) * cover(down)
    ink = canvas.style.inks["occluder"]
    rim = inside.clone()
    canvas.lay(canvas.whole, inside, canvas.tones["occluder"], ink.fill)
    if ink.line > 0.0:
        rim.sub_(cover(across + canvas.pixel, shown) * cover(down + canvas.pixel))
        canvas.lay(canvas.whole, rim, canvas.ink, ink.line)


def _hatch(canvas: Canvas, window: Window, frame: Frame, where: Tensor) -> None:
    """Hatches along the diagonal of `frame` by the mask `where` (its memory is reused)."""
    values = canvas.values
    along = frame.diagonal(window, values["hatch_period"] * canvas.pixel)
    wave = along.sub_(along.round()).abs_().mul_(-4.0).add_(1.1).clamp_(0.0, 1.0)
    canvas.lay(window, wave.mul_(where.mul_(values["hatch"])), canvas.ink)
