"""Decodes the images that people bring, and says by name why one cannot be used.

Every image becomes upright, 8-bit, grey or RGB, by these rules:

* 8-bit grey or RGB JPEG, PNG and WebP files are stored byte by byte as they came; nothing is re-encoded with loss.
* Everything else that can be read is stored as PNG: pictures that EXIF rotates (the rotation is applied), CMYK,
  palettes, 16-bit grey (divided by 257), other formats, and faces that a box cuts out of a picture.
* Transparent pixels lie on mid-grey (128), which is near zero once a network normalises its input; white would not be.
* Of several frames (GIF, APNG, TIFF pages, the depth image of a phone) the first counts.
* Colour profiles are ignored. Floating-point and 32-bit pixels have no agreed range and are skipped.
"""

from __future__ import annotations

import hashlib
import io
import struct
import zlib
from dataclasses import dataclass

import numpy as np
from PIL import Image, UnidentifiedImageError

from ..common.errors import expected

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000")
"""Formats that are read; a fixed list, because Pillow also knows formats that start other programs."""

BACKGROUND = 128
ORIENTATION = 0x0112
CONTENT_BYTES = 16

_AS_THEY_CAME = ("JPEG", "PNG", "WEBP", "MPO")  # MPO: a JPEG with further pictures behind it, from phones

# What Pillow's decoders were seen to raise on damaged files; anything else is a fault of ours and must be seen.
_DECODER_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    EOFError,
    RuntimeError,
    struct.error,
    zlib.error,
)


class SkippedImage(Exception):
    """An image that cannot be used.

    Args:
        reason: One of a few short names, under which skipped images are counted.
        detail: What exactly was found.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class Limits:
    """What is still taken for the picture of a face.

    Attributes:
        max_bytes: Largest file, in bytes.
        max_pixels: Most pixels of the picture as it came, before a box is cut out: guards against bombs.
        min_side: Shortest side of the face, in pixels.
    """

    max_bytes: int = 64 << 20
    max_pixels: int = 50_000_000
    min_side: int = 8

    def __post_init__(self) -> None:
        for name in ("max_bytes", "max_pixels", "min_side"):
            if getattr(self, name) < 1:
                raise expected(name, "at least 1", getattr(self, name), "Pass a larger number.")


@dataclass(frozen=True)
class Prepared:
    """An image that is ready to be stored.

    Attributes:
        image: Encoded bytes, 8-bit grey or RGB.
        content: 16 bytes that are equal where the decoded pixels are equal, whatever the file format.
        changes: What was done to the pixels: "rotated by EXIF", "16-bit", "transparency", "cut out", ...
        blank: Whether all pixels are the same.
    """

    image: bytes
    content: bytes
    changes: tuple[str, ...] = ()
    blank: bool = False


def prepare(data: bytes, box: tuple[int, int, int, int] | None = None, limits: Limits | None = None) -> Prepared:
    """Checks and decodes one image completely, and encodes it anew only where it must.

    Args:
        data: The file as it came.
        box: Left, top, right, bottom in pixels of the upright picture; cut at the borders of the picture.
        limits: What is still accepted.

    Raises:
        SkippedImage: The image cannot be used, with the reason.
    """
    limits = limits or Limits()
    image, changes = _decode(data, limits)
    if box is not None:
        image = _cut(image, box)
        changes.append("cut out")
    _check_side(image, limits)
    pixels = np.asarray(image)
    encoded = data if not changes else encode_png(pixels)
    return Prepared(encoded, content_of(pixels), tuple(changes), bool(pixels.min() == pixels.max()))


def prepare_pixels(
    pixels: np.ndarray, box: tuple[int, int, int, int] | None = None, limits: Limits | None = None
) -> Prepared:
    """As :func:`prepare`, for a data set that gives raw pixels: uint8 [H, W] or [H, W, 3]."""
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] != 3):
        raise SkippedImage("unsupported pixels", f"{pixels.dtype} {list(pixels.shape)}, not uint8 [H, W] or [H, W, 3]")
    if pixels.size == 0:
        raise SkippedImage("too small", f"{pixels.shape[1]}x{pixels.shape[0]} pixels")
    image = Image.fromarray(np.ascontiguousarray(pixels))
    if box is not None:
        image = _cut(image, box)
    _check_side(image, limits or Limits())
    pixels = np.asarray(image)
    return Prepared(encode_png(pixels), content_of(pixels), (), bool(pixels.min() == pixels.max()))


def decode_image(data: bytes, limits: Limits | None = None) -> np.ndarray:
    """Decodes one image by the rules of this module.

    Returns:
        uint8 [H, W] or [H, W, 3].

    Raises:
        SkippedImage: The image cannot be used, with the reason.
    """
    return np.asarray(_decode(data, limits or Limits())[0])


def face_pixels(data: bytes, size: int, channels: int, limits: Limits | None = None) -> np.ndarray:
    """Decodes one image to the square that networks see.

    The largest central square is kept, so the aspect does not change; it is resized bilinearly with antialiasing.
    Grey images are repeated over three channels; colour becomes luma (ITU-R 601) for one channel.

    Args:
        data: An encoded image.
        size: Side of the square, in pixels.
        channels: 1 or 3.
        limits: What is still accepted.

    Returns:
        uint8 [channels, size, size].

    Raises:
        SkippedImage: The image cannot be used, with the reason.
    """
    image, _ = _decode(data, limits or Limits(), draft=4 * size)
    if channels == 1 and image.mode != "L":
        image = image.convert("L")
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    image = image.crop((left, top, left + side, top + side)) if image.width != image.height else image
    square = np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))
    if square.ndim == 2:
        return np.broadcast_to(square, (channels, size, size))
    return square.transpose(2, 0, 1)


def encode_png(pixels: np.ndarray) -> bytes:
    """Encodes uint8 [H, W] or [H, W, 3] without loss."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def content_of(pixels: np.ndarray) -> bytes:
    """Returns 16 bytes (BLAKE2b) that identify what is seen; a grey picture saved as RGB is the same picture."""
    if pixels.ndim == 3 and _is_grey(pixels):
        pixels = pixels[..., 0]
    shape = struct.pack("<III", *pixels.shape[:2], 1 if pixels.ndim == 2 else 3)
    digest = hashlib.blake2b(shape, digest_size=CONTENT_BYTES)
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.digest()


def image_size(data: bytes) -> tuple[int, int, int]:
    """Returns width, height and channels from the header alone.

    Raises:
        SkippedImage: The image cannot be opened.
    """
    image = _open(data, Limits())
    return image.width, image.height, 1 if image.mode in ("1", "L", "I;16") else 3


def _decode(data: bytes, limits: Limits, draft: int = 0) -> tuple[Image.Image, list[str]]:
    image = _open(data, limits)
    try:
        if draft and image.format == "JPEG" and min(image.size) >= 2 * draft:
            image.draft(None, (draft, draft))  # type: ignore[arg-type]
        changes = [] if image.format in _AS_THEY_CAME else [f"from {image.format}"]
        if getattr(image, "is_animated", False) and image.format != "MPO":
            changes.append("first frame")
        deep = _is_deep(image, data)
        image.load()
        if deep:
            changes.append("16-bit")
        turned = _upright(_eight_bit(image, changes), image, changes)
    except SkippedImage:
        raise
    except MemoryError:
        raise SkippedImage("too large", f"{image.width}x{image.height} pixels do not fit into memory") from None
    except Image.DecompressionBombError as error:
        raise SkippedImage("too large", str(error)) from None
    except _DECODER_ERRORS as error:
        raise SkippedImage("broken image", str(error) or type(error).__name__) from None
    return turned, changes


def _open(data: bytes, limits: Limits) -> Image.Image:
    if not data:
        raise SkippedImage("empty file")
    if len(data) > limits.max_bytes:
        raise SkippedImage("too large", f"{len(data):,} bytes, more than {limits.max_bytes:,}")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise SkippedImage("too large", str(error)) from None
    except UnidentifiedImageError:
        raise SkippedImage("not an image", _guess(data)) from None
    except _DECODER_ERRORS as error:
        raise SkippedImage("broken image", str(error) or type(error).__name__) from None
    if image.width * image.height > limits.max_pixels:
        raise SkippedImage("too large", f"{image.width}x{image.height} pixels, more than {limits.max_pixels:,}")
    return image


def _guess(data: bytes) -> str:
    start = data[:256].lstrip().lower()
    known = {
        b"%pdf": "a PDF file",
        b"<svg": "an SVG drawing",
        b"<!doctype": "an HTML page",
        b"<html": "an HTML page",
        b"<?xml": "an XML file",
        b"pk\x03\x04": "a ZIP archive",
        b"\x1f\x8b": "a gzip archive",
        b"\x89png": "a PNG file with a damaged header",
        b"\xff\xd8\xff": "a JPEG file with a damaged header",
        b"version https://git-lfs": "a Git LFS pointer: fetch the real file",
    }
    for magic, name in known.items():
        if start.startswith(magic):
            return name
    if data[4:8] == b"ftyp":
        return "a HEIC, AVIF or video file: convert it to JPEG or PNG"
    return "none of the formats " + ", ".join(FORMATS)


def _is_deep(image: Image.Image, data: bytes) -> bool:
    """Tells whether the file has more than 8 bits per sample, which Pillow may have cut off for RGB."""
    if image.format == "PNG":
        return len(data) > 24 and data[24] == 16
    return image.mode.startswith("I;16")


def _eight_bit(image: Image.Image, changes: list[str]) -> Image.Image:
    mode = image.mode
    if mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info:
        changes.append("transparency")
        return _on_grey(image.convert("RGBA"))
    if mode in ("L", "RGB"):
        return image
    if mode == "I" or mode.startswith("I;16"):
        return _from_sixteen(image, changes)
    if mode in ("1", "P", "CMYK", "YCbCr"):
        changes.append({"1": "1-bit", "P": "palette"}.get(mode, mode))
        return _grey_where_grey(image.convert("L" if mode == "1" else "RGB"))
    raise SkippedImage("unsupported pixels", f"mode {mode}")


def _from_sixteen(image: Image.Image, changes: list[str]) -> Image.Image:
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise SkippedImage("unsupported pixels", f"mode {image.mode} with values {values.min()} to {values.max()}")
    if "16-bit" not in changes:
        changes.append("16-bit")
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))


def _on_grey(image: Image.Image) -> Image.Image:
    ground = Image.new("RGBA", image.size, (BACKGROUND, BACKGROUND, BACKGROUND, 255))
    ground.alpha_composite(image)
    return _grey_where_grey(ground.convert("RGB"))


def _grey_where_grey(image: Image.Image) -> Image.Image:
    return image.getchannel(0) if image.mode == "RGB" and _is_grey(np.asarray(image)) else image


def _is_grey(pixels: np.ndarray) -> bool:
    middle = pixels[len(pixels) // 2]  # nearly every colour picture is told by one row
    if (middle != middle[:, :1]).any():
        return False
    return bool((pixels == pixels[..., :1]).all())


def _upright(image: Image.Image, original: Image.Image, changes: list[str]) -> Image.Image:
    try:
        orientation = original.getexif().get(ORIENTATION, 1)
    except _DECODER_ERRORS:  # damaged EXIF data says nothing about the pixels
        return image
    method = _TURNS.get(orientation)
    if method is None:
        return image
    changes.append("rotated by EXIF")
    return image.transpose(method)


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _cut(image: Image.Image, box: tuple[int, int, int, int]) -> Image.Image:
    left, top, right, bottom = box
    inside = (max(left, 0), max(top, 0), min(right, image.width), min(bottom, image.height))
    if inside[0] >= inside[2] or inside[1] >= inside[3]:
        raise SkippedImage("box outside the picture", f"box {box}, picture {image.width}x{image.height}")
    return image.crop(inside)


def _check_side(image: Image.Image, limits: Limits) -> None:
    if min(image.size) < limits.min_side:
        raise SkippedImage("too small", f"{image.width}x{image.height} pixels, side below {limits.min_side}")
