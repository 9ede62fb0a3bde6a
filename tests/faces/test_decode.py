"""Every kind of image that people bring is read right, or skipped with a named reason."""

import io
import random
import struct
import zlib
from contextlib import suppress

import numpy as np
import pytest
from ferry.common.errors import UserError
from ferry.faces import Limits, SkippedImage, decode_image, face_pixels
from ferry.faces.decode import content_of, encode_png, prepare, prepare_pixels
from PIL import Image, ImageOps
from torchvision.transforms.functional import InterpolationMode, resize


def picture(mode="RGB", size=(20, 16), seed=0):
    shape = size[::-1] if mode == "L" else (*size[::-1], len(mode))
    array = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    return Image.fromarray(array, mode if mode in ("RGBA", "CMYK") else None)


def smooth(size=(64, 48), grey=False):
    y, x = np.mgrid[: size[1], : size[0]]
    array = np.stack([x * 3 % 256, y * 4 % 256, (x + y) % 256], axis=-1).astype(np.uint8)
    return Image.fromarray(array[..., 0] if grey else array)


def saved(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def with_orientation(image, value, kind="JPEG"):
    exif = Image.Exif()
    exif[0x0112] = value
    return saved(image, kind, exif=exif)


@pytest.mark.parametrize(
    ("image", "kind"),
    [
        (smooth(), "JPEG"),
        (smooth(grey=True), "JPEG"),
        (smooth(), "PNG"),
        (smooth(grey=True), "PNG"),
        (smooth(), "WEBP"),
    ],
)
def test_plain_8_bit_files_are_kept_byte_by_byte(image, kind):
    data = saved(image, kind)
    prepared = prepare(data)
    assert prepared.image is data
    assert prepared.changes == ()
    np.testing.assert_array_equal(decode_image(data), np.asarray(Image.open(io.BytesIO(data))))


@pytest.mark.parametrize("kind", ["BMP", "GIF", "TIFF", "PPM", "JPEG2000"])
def test_other_formats_become_png_with_the_same_pixels(kind):
    data = saved(smooth(), kind)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    prepared = prepare(data)
    assert prepared.image.startswith(b"\x89PNG")
    assert f"from {kind}" in prepared.changes
    np.testing.assert_array_equal(decode_image(prepared.image), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_exif_rotation_is_applied_once(orientation, kind):
    data = with_orientation(smooth(), orientation, kind)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    prepared = prepare(data)
    np.testing.assert_array_equal(decode_image(prepared.image), upright)
    assert upright.shape[:2] == ((48, 64) if orientation < 5 else (64, 48))
    if kind != "TIFF":
        assert (prepared.image is data) == (orientation == 1)
        assert ("rotated by EXIF" in prepared.changes) == (orientation > 1)
    assert not Image.open(io.BytesIO(prepared.image)).getexif().get(0x0112, 1) > 1


def test_sixteen_bit_grey_is_scaled_and_not_cut_off():
    values = np.linspace(0, 65535, 400).astype(np.uint16).reshape(20, 20)
    prepared = prepare(saved(Image.fromarray(values)))
    assert prepared.changes == ("16-bit",)
    np.testing.assert_array_equal(decode_image(prepared.image), np.round(values / 257).astype(np.uint8))


def deep_png(values):
    """A 16-bit RGB PNG, which Pillow cannot write."""
    height, width, _ = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    head = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_sixteen_bit_colour_becomes_eight_bit_png():
    values = np.random.default_rng(0).integers(0, 65536, (10, 12, 3)).astype(np.uint16)
    prepared = prepare(deep_png(values))
    assert prepared.changes == ("16-bit",)
    assert prepared.image[24] == 8
    assert np.abs(decode_image(prepared.image) - values / 257).max() <= 1


def test_cmyk_becomes_rgb():
    data = saved(smooth().convert("CMYK"), "JPEG", quality=95)
    prepared = prepare(data)
    assert prepared.changes == ("CMYK",)
    assert np.abs(decode_image(prepared.image).astype(int) - np.asarray(smooth())).mean() < 12


def test_palette_becomes_colour_or_grey():
    colours = prepare(saved(smooth().quantize(16)))
    assert colours.changes == ("palette",)
    assert decode_image(colours.image).shape == (48, 64, 3)
    greys = prepare(saved(smooth(grey=True).convert("P")))
    np.testing.assert_array_equal(decode_image(greys.image), np.asarray(smooth(grey=True)))
    bilevel = prepare(saved(smooth(grey=True).convert("1")))
    assert set(np.unique(decode_image(bilevel.image))) == {0, 255}


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_transparency_lies_on_mid_grey(kind):
    array = np.zeros((16, 16, 4), np.uint8)
    array[:, :8] = (200, 0, 0, 255)
    array[:, 8:12] = (200, 0, 0, 0)
    array[:, 12:] = (255, 255, 255, 128)
    prepared = prepare(saved(Image.fromarray(array), kind, lossless=True))
    pixels = decode_image(prepared.image).astype(int)
    assert "transparency" in prepared.changes
    assert pixels[0, 0].tolist() == [200, 0, 0]
    assert pixels[0, 9].tolist() == [128, 128, 128]
    assert abs(pixels[0, 14] - round(128 + (255 - 128) * 128 / 255)).max() <= 1


def test_transparency_of_grey_and_of_a_palette_entry():
    grey = Image.merge("LA", [smooth(grey=True), Image.new("L", (64, 48), 255)])
    np.testing.assert_array_equal(decode_image(prepare(saved(grey)).image), np.asarray(smooth(grey=True)))
    indexed = Image.new("P", (16, 16), 1)
    indexed.putpalette([10, 20, 30, 40, 50, 60])
    pixels = decode_image(prepare(saved(indexed, transparency=1)).image)
    assert np.unique(pixels).tolist() == [128]


def test_first_of_several_frames_counts():
    frames = [Image.new("RGB", (16, 16), (index * 100, 0, 0)) for index in range(3)]
    for kind in ("GIF", "TIFF", "PNG", "WEBP"):
        prepared = prepare(saved(frames[0], kind, save_all=True, append_images=frames[1:], lossless=True))
        assert "first frame" in prepared.changes, kind
        assert decode_image(prepared.image).max() == 0, kind
        assert prepared.blank


def test_phone_pictures_with_a_second_image_are_plain_jpegs():
    data = saved(smooth(), "MPO", save_all=True, append_images=[Image.new("RGB", (64, 48))])
    assert Image.open(io.BytesIO(data)).format == "MPO"
    assert prepare(data).image is data
    np.testing.assert_array_equal(decode_image(data), np.asarray(Image.open(io.BytesIO(data))))


def test_float_pixels_are_skipped_by_name():
    with pytest.raises(SkippedImage, match="unsupported pixels: mode F"):
        prepare(saved(Image.fromarray(np.ones((16, 16), np.float32)), "TIFF"))
    wide = Image.fromarray(np.full((16, 16), 1 << 20, np.int32))
    with pytest.raises(SkippedImage, match="unsupported pixels: mode I"):
        prepare(saved(wide, "TIFF"))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"hello, this is text", "not an image"),
        (b"%PDF-1.7 ...", "not an image: a PDF file"),
        (b"<svg xmlns='x'>", "not an image: an SVG drawing"),
        (b"\0\0\0\x18ftypheic" + b"\0" * 40, "not an image: a HEIC"),
        (b"version https://git-lfs.github.com/spec/v1", "not an image: a Git LFS pointer"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n", "not an image"),
        (saved(smooth(), "JPEG")[:-200], "broken image"),
        (saved(smooth(), "PNG")[:-60], "broken image"),
        (saved(smooth(), "JPEG")[:30], "(broken|not an) image"),
        (saved(picture(size=(7, 30))), "too small: 7x30"),
    ],
)
def test_unusable_files_are_named(data, reason):
    with pytest.raises(SkippedImage, match=reason):
        prepare(data)


def test_huge_pictures_are_refused_before_they_are_decoded():
    head = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + head + struct.pack(">I", zlib.crc32(b"IHDR" + head))
    with pytest.raises(SkippedImage, match="too large"):
        prepare(bomb + b"\0\0\0\0IDAT")
    with pytest.raises(SkippedImage, match=r"too large: 64x48 pixels, more than 3,000"):
        prepare(saved(smooth()), limits=Limits(max_pixels=3000))
    with pytest.raises(SkippedImage, match=r"too large: .* bytes, more than 100"):
        prepare(saved(smooth()), limits=Limits(max_bytes=100))
    with pytest.raises(UserError, match="`max_pixels` to be at least 1"):
        Limits(max_pixels=0)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "TIFF", "BMP", "WEBP", "PPM", "JPEG2000"])
def test_damaged_files_never_raise_anything_else(kind):
    whole = saved(smooth((24, 24)), kind)
    chance = random.Random(kind)
    for _ in range(60):
        data = bytearray(whole)
        for _ in range(chance.randint(1, 12)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        data = data[: chance.randint(1, len(data))] if chance.random() < 0.3 else data
        with suppress(SkippedImage):
            prepare(bytes(data), limits=Limits(max_pixels=100_000))


def test_box_cuts_the_upright_picture_and_is_clipped():
    data = with_orientation(smooth(), 6)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    prepared = prepare(data, box=(10, 20, 40, 60))
    np.testing.assert_array_equal(decode_image(prepared.image), upright[20:60, 10:40])
    assert prepared.changes == ("rotated by EXIF", "cut out")
    clipped = prepare(saved(smooth()), box=(-5, -5, 20, 900))
    assert decode_image(clipped.image).shape == (48, 20, 3)
    for box in ((70, 0, 90, 20), (20, 20, 20, 40), (30, 30, 10, 10)):
        with pytest.raises(SkippedImage, match="box outside the picture"):
            prepare(saved(smooth()), box=box)


def test_raw_pixels_are_kept_without_loss():
    for image in (smooth(), smooth(grey=True)):
        pixels = np.asarray(image)
        np.testing.assert_array_equal(decode_image(prepare_pixels(pixels).image), pixels)
        assert prepare_pixels(pixels).content == prepare(saved(image)).content
    with pytest.raises(SkippedImage, match="unsupported pixels"):
        prepare_pixels(np.zeros((8, 8, 4), np.uint8))
    with pytest.raises(SkippedImage, match="unsupported pixels: float64"):
        prepare_pixels(np.zeros((8, 8)))
    with pytest.raises(SkippedImage, match="too small"):
        prepare_pixels(np.zeros((0, 8), np.uint8))


def test_content_is_equal_exactly_where_pixels_are():
    grey = smooth(grey=True)
    same = [saved(grey), saved(grey, compress_level=0), saved(grey, "BMP"), saved(grey.convert("RGB"))]
    assert len({prepare(data).content for data in same}) == 1
    other = np.asarray(grey).copy()
    other[5, 5] ^= 1
    tall = np.asarray(grey).reshape(64, 48)
    assert len({content_of(np.asarray(grey)), content_of(other), content_of(tall)}) == 3
    coloured = np.stack([np.asarray(grey)] * 3, axis=-1)
    coloured[0, 0, 2] ^= 1
    assert content_of(coloured) != content_of(np.asarray(grey))


def test_blank_pictures_are_noticed():
    assert prepare(encode_png(np.full((10, 10), 7, np.uint8))).blank
    assert not prepare(saved(smooth())).blank


@pytest.mark.parametrize("size", [16, 48, 100])
@pytest.mark.parametrize("channels", [1, 3])
def test_resizing_agrees_with_torchvision_antialiased_bilinear(size, channels):
    import torch

    image = smooth((90, 64))
    square = image.crop((13, 0, 77, 64))
    source = np.asarray(square.convert("L") if channels == 1 else square)
    tensor = torch.from_numpy(source.reshape(64, 64, channels).transpose(2, 0, 1).copy())
    oracle = resize(tensor, [size, size], InterpolationMode.BILINEAR, antialias=True).numpy()
    ours = face_pixels(saved(image), size, channels)
    assert ours.shape == (channels, size, size)
    assert ours.dtype == np.uint8
    assert np.abs(ours.astype(int) - oracle).max() <= 1


def test_centre_square_keeps_the_aspect():
    array = np.zeros((40, 100), np.uint8)
    array[:, 30:70] = 255
    assert face_pixels(encode_png(array), 20, 1).min() == 255
    assert face_pixels(encode_png(array.T.copy()), 20, 1).min() == 255


def test_same_size_is_not_resampled_and_grey_is_repeated():
    pixels = np.asarray(picture("L", (24, 24)))
    three = face_pixels(encode_png(pixels), 24, 3)
    for channel in three:
        np.testing.assert_array_equal(channel, pixels)


def test_large_jpeg_shortcut_stays_close_to_full_decoding():
    image = smooth((96, 96)).resize((1600, 1200), Image.Resampling.BICUBIC)
    data = saved(image, "JPEG", quality=95)
    full = Image.open(io.BytesIO(data)).crop((200, 0, 1400, 1200)).resize((48, 48), Image.Resampling.BILINEAR)
    short = face_pixels(data, 48, 3).transpose(1, 2, 0)
    assert np.abs(short.astype(int) - np.asarray(full)).mean() < 2
