"""What a picture depends on, what it shows, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ferry.common.errors import UserError
from ferry.faces.rendering import EXPRESSIONS, STYLES, draw_faces, get_style, render, sample_faces
from ferry.faces.rendering.streams import bell, gather_uniforms, uniforms

ALL_STYLES = tuple(STYLES)


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def labels_of(count):
    return np.arange(count, dtype=np.int64) % len(EXPRESSIONS)


@pytest.mark.parametrize("style", ALL_STYLES)
def test_same_arguments_give_the_same_bytes_and_another_seed_gives_others(style):
    first, again, other = (render(labels_of(14), style, seed) for seed in (3, 3, 4))
    assert first.dtype == np.uint8
    assert first.shape == (14, 48, 48)
    np.testing.assert_array_equal(first, again)
    assert all((a != b).mean() > 0.2 for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("style", ALL_STYLES)
def test_a_face_does_not_depend_on_the_batch_it_is_drawn_in(style):
    labels = labels_of(150)  # two chunks, the second one shorter and filled up
    whole = render(labels, style, 5)
    for first, last in ((0, 1), (100, 131), (127, 150), (149, 150)):
        np.testing.assert_array_equal(render(labels[first:last], style, 5, start=first), whole[first:last])


def test_a_face_does_not_depend_on_its_neighbours_parameters():
    parameters = sample_faces(labels_of(64), "shaded", 0)
    lone = draw_faces(parameters.part(20, 21))
    wild = draw_faces(parameters.changed(shift_x=np.where(np.arange(64) == 20, parameters["shift_x"], 0.6)))
    np.testing.assert_array_equal(lone[0], wild[20])


def test_thread_count_does_not_change_the_bytes():
    one = render(labels_of(40), "low_light", 2)
    torch.set_num_threads(2)
    np.testing.assert_array_equal(render(labels_of(40), "low_light", 2), one)


@pytest.mark.parametrize("style", ALL_STYLES)
@pytest.mark.parametrize(("size", "channels"), [(16, 1), (50, 3), (97, 1)])
def test_any_size_and_both_channel_counts_give_pictures_with_content(style, size, channels):
    pictures = render(labels_of(7), style, 1, size, channels)
    assert pictures.shape == ((7, size, size) if channels == 1 else (7, size, size, 3))
    assert all(picture.std() > 2 for picture in pictures)


@pytest.mark.parametrize("style", ALL_STYLES)
def test_parameters_are_finite_float32_and_labels_are_kept(style):
    parameters = sample_faces(labels_of(70), style, 9)
    for name, values in parameters.values.items():
        assert values.dtype == np.float32, name
        assert np.isfinite(values).all(), name
    np.testing.assert_array_equal(parameters.labels, labels_of(70))


def test_the_same_person_keeps_traits_but_changes_expression_and_pose():
    parameters = sample_faces(labels_of(24), "shaded", 1, images_per_identity=8)
    np.testing.assert_array_equal(parameters.identities, np.repeat([0, 1, 2], 8))
    for trait in ("face_width", "skin", "has_glasses", "tone_hair"):
        assert len(set(parameters[trait][:8])) == 1, trait
    assert parameters["face_width"][0] != parameters["face_width"][8]
    assert len(set(parameters["roll"][:8])) == 8


def test_no_faces_give_an_empty_array():
    none = np.zeros(0, dtype=np.int64)
    assert render(none, "line", 0).shape == (0, 48, 48)
    assert render(none, "line", 0, channels=3).shape == (0, 48, 48, 3)
    assert sample_faces(none, "line", 0).action_units.shape[0] == 0


def test_unknown_style_names_the_closest_one():
    with pytest.raises(UserError, match=r"`style`.*'shadet'.*Did you mean 'shaded'\?"):
        render(labels_of(1), "shadet", 0)


@pytest.mark.parametrize("wrong", [-1, 7])
def test_label_out_of_range_says_which_and_names_the_order(wrong):
    with pytest.raises(UserError, match=rf"`labels`.*between 0 and 6.*{wrong}.*anger, disgust"):
        sample_faces(np.array([0, wrong]), "line", 0)


@pytest.mark.parametrize("labels", [np.array([0.0, 1.0]), np.zeros((2, 2), dtype=np.int64)])
def test_labels_must_be_a_row_of_whole_numbers(labels):
    with pytest.raises(UserError, match=r"`labels`.*whole numbers"):
        sample_faces(labels, "line", 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 15}, r"`size`.*at least 16.*15"),
        ({"channels": 2}, r"`channels`.*1 or 3.*2"),
        ({"start": -1}, r"`start`.*not negative"),
        ({"images_per_identity": 0}, r"`images_per_identity`.*at least 1"),
    ],
)
def test_wrong_numbers_are_refused_even_without_faces(arguments, message):
    with pytest.raises(UserError, match=message):
        render(np.zeros(0, dtype=np.int64), "shaded", 0, **arguments)


def test_styles_check_their_ranges_shares_inks_and_traits():
    style = get_style("shaded")
    with pytest.raises(UserError, match=r"`noise`.*low <= high"):
        style.with_(noise=(0.2, 0.1))
    with pytest.raises(UserError, match=r"`glasses`.*between 0 and 1"):
        style.with_(glasses=1.5)
    with pytest.raises(UserError, match=r"`inks`.*every part"):
        style.with_(inks={"skin": style.inks["skin"]})
    with pytest.raises(UserError, match=r"`traits`.*Did you mean 'iris_size'"):
        style.with_(traits={"iris_siz": (0.1, 0.1)})
    with pytest.raises(UserError, match=r"`changed`.*Did you mean 'jaw_drop'"):
        sample_faces(labels_of(1), style, 0).changed(jaw_dropp=1.0)


def test_rows_of_a_stream_do_not_depend_on_how_they_are_asked_for():
    whole = uniforms(7, "people", 0, 50, 6)
    np.testing.assert_array_equal(uniforms(7, "people", 17, 5, 6), whole[17:22])
    np.testing.assert_array_equal(gather_uniforms(7, "people", np.array([30, 2, 2]), 6), whole[[30, 2, 2]])
    assert not np.array_equal(uniforms(8, "people", 0, 50, 6), whole)
    assert not np.array_equal(uniforms(7, "scenes", 0, 50, 6), whole)


def test_streams_are_uniform_and_bells_have_the_promised_spread():
    columns = uniforms(1, "test", 0, 20_000, 3)
    np.testing.assert_allclose(columns.mean(axis=0), 0.5, atol=0.01)
    np.testing.assert_allclose(np.corrcoef(columns.T), np.eye(3), atol=0.03)
    bells = bell(*columns.T)
    assert np.abs(bells).max() <= 1.0
    assert bells.std() == pytest.approx(1 / 3, abs=0.01)
