"""The features that carry the expression: brows, eyes, nose, mouth, and the creases that they cause."""

from __future__ import annotations

import torch
from torch import Tensor

from .canvas import Canvas
from .geometry import Frame, Window, arc, ellipse, lens
from .head import Head


def draw_brows(canvas: Canvas, head: Head) -> None:
    """Draws both brows and the creases between and above them."""
    values, unit = head.values, head.unit
    knit = values["brow_lower"]
    for side in (-1.0, 1.0):
        uneven = 1.0 + side * values["uneven_brow"]
        inner = -0.19 * values["brow_inner"] * uneven + 0.18 * knit
        outer = -0.18 * values["brow_outer"] * uneven - 0.03 * knit + values["brow_tilt"] * 0.5
        middle = values["eye_height"] - values["brow_height"] + 0.5 * (inner + outer) + 0.03 * values["nose_wrinkle"]
        x = values["eye_distance"] * 1.03 - 0.05 * knit
        length = values["brow_length"] * head.narrowing(side)
        tilt = (outer - inner) * 0.5 / length
        frame = head.frame.child(*head.place(side * x, middle, 0.2), side=side)
        frame = Frame(frame.x, frame.y, *_turned(frame, tilt, side), side)
        half, thick = length * unit, values["brow_thickness"] * (1.0 + 0.25 * knit) * 0.8 * unit
        bend = (values["brow_arch"] + 0.03 * values["brow_outer"] - 0.02 * knit) * unit
        window = frame.window(half, thick + bend.abs(), canvas.size)
        u, v = frame.coordinates(window)
        canvas.paint("brow", window, arc(u / half, v + 0.5 * bend, bend, thick))
        _knit_crease(canvas, head, side, knit + 0.4 * values["nose_wrinkle"])
    _forehead_creases(canvas, head)


def _turned(frame: Frame, tilt: Tensor, side: float) -> tuple[Tensor, Tensor]:
    cos = (1.0 + tilt * tilt).rsqrt()
    sin = tilt * cos * side
    return frame.cos * cos - frame.sin * sin, frame.sin * cos + frame.cos * sin


def _knit_crease(canvas: Canvas, head: Head, side: float, strength: Tensor) -> None:
    values, unit = head.values, head.unit
    frame = head.frame.child(*head.place(side * 0.07 + 0.0 * unit, values["eye_height"] - 0.22, 0.25))
    half = 0.1 * unit
    window = frame.window(0.05 * unit, half, canvas.size)
    u, v = frame.coordinates(window)
    canvas.shade("crease", window, arc(v / half, u, 0.0, 0.015 * unit), (strength - 0.2).clamp(0.0, 1.0) * 0.9)


def _forehead_creases(canvas: Canvas, head: Head) -> None:
    values, unit = head.values, head.unit
    raised = 0.5 * (values["brow_inner"] + values["brow_outer"]).clamp(0.0, 2.0)
    strength = (0.6 * raised * (0.4 + values["age"]) - 0.15).clamp(0.0, 0.7)
    half = 0.38 * unit
    for height in (0.42, 0.54):
        place = head.place(0.0 * unit, values["eye_height"] - values["brow_height"] - height + 0.22, 0.2)
        frame = head.frame.child(*place)
        window = frame.window(half, 0.05 * unit, canvas.size)
        u, v = frame.coordinates(window)
        canvas.shade("crease", window, arc(u / half, v, 0.03 * unit, 0.008 * unit), strength)


def draw_eyes(canvas: Canvas, head: Head) -> None:
    """Draws both eyes: white, iris, lids, and the fold under a smiling eye."""
    values, unit = head.values, head.unit
    for side in (-1.0, 1.0):
        uneven = 1.0 + 0.5 * side * values["uneven_eye"]
        raise_, droop = values["lid_raise"] * uneven, values["lid_droop"] * uneven
        tight, cheek = values["lid_tighten"], values["cheek_raise"]
        size = values["eye_size"]
        above = (values["eye_open"] + 0.32 * raise_ - 0.35 * droop - 0.22 * tight - 0.14 * cheek).clamp(min=0.05)
        below = 0.62 * values["eye_open"] + 0.06 * raise_ - 0.22 * tight - 0.4 * cheek
        above, below = above * size * unit, torch.maximum(below * size, -0.7 * above * size) * unit
        place = head.place(side * values["eye_distance"], values["eye_height"] + 0.0 * size, 0.18)
        frame = head.frame.child(*place, values["eye_tilt"], side=side)
        half = size * head.narrowing(side) * unit
        reach = torch.maximum(above, below.abs()) + 0.14 * unit
        window = frame.window(half, reach, canvas.size)
        u, v = frame.coordinates(window)
        _draw_eye(canvas, head, (u, v), window, (half, above, below), side)


def _draw_eye(
    canvas: Canvas, head: Head, at: tuple[Tensor, Tensor], window: Window, shape: tuple[Tensor, ...], side: float
) -> None:
    values, unit = head.values, head.unit
    (u, v), (half, above, below) = at, shape
    along = u / half
    profile = along.square().neg_().add_(1.0)
    upper, lower = profile * above, profile.clamp(-1.0, 1.0) * below
    white = torch.maximum(lens(v, upper, lower), u.abs().sub_(half))
    canvas.paint("sclera", window, white)
    iris = ellipse(u - side * values["gaze"] * unit, v + 0.12 * above, *(2 * [values["iris_size"] * unit]))
    canvas.paint("iris", window, torch.maximum(iris, white))
    inside = profile.clamp(0.0, 1.0)
    lash = v.add(upper).abs_().sub_(0.02 * unit + 0.2 * canvas.pixel)
    canvas.shade("lid", window, lash.add_(_ends(inside)))
    bag = (v - lower - 0.07 * unit).abs_().sub_(0.012 * unit)
    strength = (0.55 * values["cheek_raise"] + 0.3 * values["lid_tighten"] + 0.25 * values["age"] - 0.1).clamp(0.0, 0.8)
    canvas.shade("crease", window, bag.add_(_ends(inside)), strength)


def _ends(inside: Tensor) -> Tensor:
    """Returns pixels that push a stroke away where its region ends (`inside` falls to 0)."""
    return inside.mul(3.0).clamp_(0.0, 1.0).neg_().add_(1.0).mul_(3.0)


def draw_nose(canvas: Canvas, head: Head) -> None:
    """Draws the nose's underside and wings, its wrinkles and the folds from the wings to the mouth's corners."""
    values, unit = head.values, head.unit
    wrinkle = values["nose_wrinkle"]
    bottom = values["eye_height"] + values["nose_length"] - 0.05 * wrinkle - 0.02 * values["lip_raise"]
    frame = head.frame.child(*head.place(0.0 * unit, bottom, 0.38))
    half = values["nose_width"] * (1.0 + 0.25 * wrinkle + 0.1 * values["corner_up"]) * unit
    window = frame.window(half, 0.1 * unit, canvas.size)
    u, v = frame.coordinates(window)
    canvas.shade("nose", window, arc(u / half, v, -0.05 * unit, 0.03 * unit))
    for side in (-1.0, 1.0):
        shadow = torch.full_like(unit, 0.35 if side < 0 else 0.2)
        bridge = head.frame.child(
            *head.place(side * 0.075 + 0.0 * unit, bottom - 0.2, 0.3), 0.15 + 0.0 * unit, side=side
        )
        long = 0.16 * unit
        window = bridge.window(0.05 * unit, long, canvas.size)
        u, v = bridge.coordinates(window)
        canvas.shade("nose", window, arc(v / long, u, 0.02 * unit, 0.008 * unit), shadow)
        _nose_wrinkles(canvas, head, side, wrinkle)
        _cheek_fold(canvas, head, side, bottom)


def _nose_wrinkles(canvas: Canvas, head: Head, side: float, wrinkle: Tensor) -> None:
    values, unit = head.values, head.unit
    for height in (0.06, 0.15):
        place = head.place(side * 0.08 + 0.0 * unit, values["eye_height"] + height, 0.32)
        frame = head.frame.child(*place, 0.5 + 0.0 * unit, side=side)
        half = 0.11 * unit
        window = frame.window(half, 0.05 * unit, canvas.size)
        u, v = frame.coordinates(window)
        canvas.shade("crease", window, arc(u / half, v, 0.0, 0.016 * unit), (1.1 * wrinkle - 0.15).clamp(0.0, 1.0))


def _cheek_fold(canvas: Canvas, head: Head, side: float, bottom: Tensor) -> None:
    values, unit = head.values, head.unit
    strength = 0.75 * values["nose_wrinkle"] + 0.6 * values["corner_up"] + 0.3 * values["lip_raise"]
    strength = (strength + 0.3 * values["age"] - 0.15).clamp(0.0, 0.9)
    out = values["mouth_width"] + 0.07 * values["corner_up"] + 0.03
    middle = 0.5 * (bottom + values["mouth_height"])
    frame = head.frame.child(
        *head.place(side * (out * 0.55 + 0.1), middle - 0.02, 0.22), -0.35 - 0.3 * values["corner_up"], side=side
    )
    half = 0.2 * unit
    window = frame.window(0.08 * unit, half, canvas.size)
    u, v = frame.coordinates(window)
    canvas.shade("crease", window, arc(v / half, u, -0.05 * unit, 0.014 * unit), strength)


def draw_mouth(canvas: Canvas, head: Head) -> None:
    """Draws lips, the mouth's opening with teeth, the line between closed lips and the shadow above a raised chin."""
    values, unit = head.values, head.unit
    jaw, part, up = values["jaw_drop"], values["lips_part"], values["corner_up"]
    raised, down, stretch = values["lip_raise"], values["corner_down"], values["lip_stretch"]
    width = values["mouth_width"] * (
        1.0 + 0.33 * up + 0.38 * stretch - 0.5 * values["pucker"] - 0.12 * jaw - 0.1 * down
    )
    height = values["mouth_height"] + 0.05 * jaw - 0.05 * values["chin_raise"] - 0.06 * raised
    half = width.clamp(min=0.1) * unit
    open_above = (0.03 * part + 0.07 * jaw + 0.14 * raised * part.clamp(max=0.6) + 0.05 * stretch * part) * unit
    open_below = (0.15 * part + 0.32 * jaw) * unit
    thin = (1.0 - 0.75 * values["lip_press"] - 0.25 * up - 0.2 * stretch).clamp(min=0.15)
    lip = values["lip_thickness"] * thin * unit
    corner = (0.15 * up - 0.15 * down - 0.06 * raised - 0.02 * stretch + values["mouth_rest"]) * unit
    sneer = (0.3 * values["uneven_mouth"] * (raised + up + down)) * 0.12 * unit
    frame = head.frame.child(*head.place(0.0 * unit, height, 0.28))
    reach = corner.abs() + sneer.abs() + lip * 1.6
    window = frame.window(half, torch.maximum(open_above, open_below) + reach + 0.1 * unit, canvas.size)
    u, v = frame.coordinates(window)
    along = u / half
    squared = along.square()
    v = v.add_(squared * corner).add_(along.mul_(sneer)).sub_(0.35 * corner)
    fullness = squared.square().neg_().add_(1.0).clamp_(min=-0.5)
    outer = lens(v, fullness * (open_above + lip + 0.02 * raised * unit), fullness * (open_below + 1.25 * lip))
    beyond = u.abs_().sub_(half)
    canvas.paint("lip", window, torch.maximum(outer, beyond))
    _draw_opening(canvas, head, window, (v, beyond), (fullness, open_above, open_below))
    closed = (1.0 - (open_above + open_below) / (0.1 * unit)).clamp(0.0, 1.0)
    seam = v.abs().sub_((0.016 + 0.012 * values["lip_press"]) * unit + 0.15 * canvas.pixel)
    canvas.shade("lid", window, seam.add_(_ends(fullness)), closed)
    _chin_crease(canvas, head, height)


def _draw_opening(
    canvas: Canvas, head: Head, window: Window, at: tuple[Tensor, Tensor], shape: tuple[Tensor, Tensor, Tensor]
) -> None:
    (v, beyond), (fullness, above, below) = at, shape
    unit, teeth = head.unit, head.values["teeth"]
    gap = above + below
    visible = (gap / (0.05 * unit)).clamp(0.0, 1.0)
    opening = torch.maximum(lens(v, fullness * above, fullness * below), beyond)
    canvas.paint("mouth", window, opening, visible)
    row = (gap * (0.35 + 0.65 * teeth)).clamp(max=0.17 * unit) - above
    upper = torch.maximum(opening, v - row).add_(0.02 * unit)
    canvas.paint("teeth", window, upper, visible * (2.0 * teeth - 0.3).clamp(0.0, 1.0))


def _chin_crease(canvas: Canvas, head: Head, height: Tensor) -> None:
    values, unit = head.values, head.unit
    strength = (0.8 * values["chin_raise"] + 0.3 * values["corner_down"] - 0.1).clamp(0.0, 0.7)
    frame = head.frame.child(*head.place(0.0 * unit, height + 0.17, 0.25))
    half = 0.17 * unit
    window = frame.window(half, 0.08 * unit, canvas.size)
    u, v = frame.coordinates(window)
    canvas.shade("crease", window, arc(u / half, v, 0.05 * unit, 0.018 * unit), strength)
