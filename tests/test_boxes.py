"""Boxes: areas, and the frames that models speak in."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

from visual_rft.boxes import area, from_resized, giou, iou, match_optimal, resized_size, to_resized, to_thousandths

LIMITS = [
    dict(factor=28, min_pixels=56 * 56, max_pixels=28 * 28 * 1280),
    dict(factor=32, min_pixels=65_536, max_pixels=1 << 20),
    dict(factor=16, min_pixels=32 * 32, max_pixels=224 * 224),
]


def test_areas_by_hand() -> None:
    assert area([(0, 0, 4, 3), (4, 3, 0, 0), (2, 2, 2, 9), (3, 0, 0, 4)]).tolist() == [12, 0, 0, 0]
    assert area([]).shape == (0,)


def test_boxes_without_area_agree_on_nothing() -> None:
    line, swapped, whole = (1, 1, 1, 9), (9, 9, 0, 0), (0, 0, 9, 9)
    assert iou([line, swapped, whole], [line, swapped, whole]).tolist() == [[0, 0, 0], [0, 0, 0], [0, 0, 1]]
    assert np.isfinite(giou([line, swapped, whole], [line, swapped, whole])).all()
    assert iou([], [whole]).shape == (0, 1)


@settings(max_examples=400, deadline=None)
@given(st.integers(1, 6000), st.integers(1, 6000), st.sampled_from(LIMITS))
def test_sizes_are_those_of_the_processor(width: int, height: int, limits: dict) -> None:
    if max(width, height) > 200 * min(width, height):
        with pytest.raises(ValueError, match=f"{width} x {height}"):
            resized_size(width, height, **limits)
    else:
        assert resized_size(width, height, **limits) == smart_resize(height, width, **limits)[::-1]


@settings(max_examples=200, deadline=None)
@given(st.integers(40, 4000), st.integers(40, 4000), st.sampled_from(LIMITS), st.integers(0, 10_000))
def test_resized_pixels_come_back_within_half_a_unit(width: int, height: int, limits: dict, seed: int) -> None:
    random = np.random.default_rng(seed)
    corners = np.sort(random.uniform(0, 1, (5, 2, 2)), axis=1).reshape(5, 4)
    boxes = corners * ([width, height] * 2)
    written = to_resized(boxes, width, height, **limits)
    size = np.array(resized_size(width, height, **limits) * 2)
    assert written.dtype == np.int64 and (written >= 0).all() and (written <= size).all()
    back = from_resized(written, width, height, **limits)
    assert (np.abs(back - boxes) * size / np.array([width, height] * 2) <= 0.5 + 1e-6).all()


def test_a_box_outside_the_picture_is_cut_off() -> None:
    width, height = resized_size(640, 480)
    assert to_resized([(-50, -50, 9000, 9000)], 640, 480).tolist() == [[0, 0, width, height]]


def test_thousandths_stay_within_the_picture_and_are_whole() -> None:
    written = to_thousandths([(-5, -5, 640, 480), (639, 479, 9000, 9000)], 640, 480)
    assert written.dtype == np.int64 and written.tolist() == [[0, 0, 1000, 1000], [998, 998, 1000, 1000]]


def test_only_boxes_that_overlap_are_matched() -> None:
    assert match_optimal(np.zeros((1, 2))) == match_optimal(np.zeros((3, 2))) == []
    assert match_optimal(np.array([[0.0, 0.5, 0.0], [0.0, 0.9, 0.0]])) == [(1, 1)]


def test_a_side_may_be_two_hundred_times_the_other_and_no_more() -> None:
    assert resized_size(2000, 10, 28) == smart_resize(10, 2000, 28)[::-1]
    with pytest.raises(ValueError, match="2001 x 10"):
        resized_size(2001, 10)
    assert [side % 28 for side in resized_size(1234, 777)] == [0, 0]


def test_lists_of_whole_numbers_divide_as_fractions_do() -> None:
    assert iou([(0, 0, 2, 2)], [(0, 0, 2, 3)]).dtype == np.float64
    assert iou([("0", "0", "2", "2")], [(0, 0, 2, 3)])[0, 0] == pytest.approx(2 / 3)
