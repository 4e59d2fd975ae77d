"""The level picture: its plane follows the spine, every found level is named where it lies, doubts are marked."""

from __future__ import annotations

import base64
import re
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
import SimpleITK as sitk
from core.phantom import reoriented
from core.spine_phantom import CENTRES_MM, NAMES, segmentation_of, spine_phantom

from medconv.dot_letters import draw_text
from medconv.level_drawing import GAP_PX, levels_png, levels_svg
from medconv.level_picture import NAME_HEIGHT_PX, LevelPicture, Mark, NamedLevel, render_levels, shown_levels
from medconv.planes import OUTLINE_RGB
from medconv.types import SpineSegmentation

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def spine():
    """Treat as read-only."""
    return spine_phantom()


def picture_with_target(spine, name: str, plane: str = "sagittal") -> LevelPicture:
    levels = {name: NamedLevel(name, name, is_target=True)}
    return render_levels(spine.ct, segmentation_of(spine), levels)[plane]


def mark_of(picture: LevelPicture, name: str) -> Mark:
    return next(mark for mark in picture.marks if mark.level.name == name)


@pytest.mark.parametrize("name", NAMES)
def test_the_plane_cuts_body_and_spinous_process_of_every_vertebra_of_a_bent_spine(spine, name) -> None:
    # The spinous process is 8 mm wide and the spine leans by 12 mm: no straight sagittal plane meets them all.
    picture = picture_with_target(spine, name)
    rows, columns = np.nonzero((picture.pixels == OUTLINE_RGB).all(axis=2))
    mm = picture.pixel_mm
    # From 13 mm above the body's centre to the process's end 26 mm below, from 16 mm before it to 60 mm behind.
    middle = mark_of(picture, name).y
    assert (middle - rows.min()) * mm == pytest.approx(13.0, abs=2.5)
    assert (rows.max() - middle) * mm == pytest.approx(26.0, abs=2.5)
    assert (columns.max() - columns.min()) * mm == pytest.approx(76.0, abs=3.0)


def test_names_stand_at_the_height_of_the_bodies_and_left_of_them(spine) -> None:
    for plane in ("sagittal", "coronal"):
        picture = picture_with_target(spine, "L1", plane)
        assert [mark.level.name for mark in picture.marks] == [*NAMES, "sacrum"]
        y = np.array([mark.to_y for mark in picture.marks[:-1]])
        z = np.array([CENTRES_MM[name][2] for name in NAMES])
        assert (y - y[0]) * picture.pixel_mm == pytest.approx(z[0] - z, abs=2.0)
        rows, columns = np.nonzero((picture.pixels == OUTLINE_RGB).all(axis=2))
        mark = mark_of(picture, "L1")
        at_its_height = columns[abs(rows - mark.y) < 4]
        assert mark.x < mark.to_x < at_its_height.min()
        assert at_its_height.min() - mark.x < 20


def test_a_coronal_picture_has_the_patients_right_on_the_left(spine) -> None:
    # The lean to the left (LPS +x) is to the right in the picture; the ribs are on both sides.
    picture = picture_with_target(spine, "L1", "coronal")
    t12, l4 = mark_of(picture, "T12"), mark_of(picture, "L4")
    expected = (CENTRES_MM["L4"][0] - CENTRES_MM["T12"][0]) / picture.pixel_mm
    assert l4.to_x - t12.to_x == pytest.approx(expected, abs=3.0)


@pytest.mark.parametrize("code", ["RAS", "PIR"])
def test_the_picture_does_not_depend_on_storage(spine, code) -> None:
    turned = reoriented(spine, code)
    straight = render_levels(spine.ct, segmentation_of(spine), {})
    other = render_levels(turned.ct, segmentation_of(turned), {})
    for plane, picture in straight.items():
        assert picture.pixels.shape == other[plane].pixels.shape
        assert np.mean(picture.pixels != other[plane].pixels) < 0.005


def test_a_block_of_labels_is_shown_where_it_lies_on_the_ct(spine) -> None:
    whole = segmentation_of(spine)
    block = replace(whole, labels_zyx=whole.labels_zyx[4:, 10:, 5:], start_xyz=(5, 10, 4))
    one, other = (render_levels(spine.ct, s, {})["sagittal"] for s in (whole, block))
    assert np.array_equal(one.pixels, other.pixels)


def test_a_fragment_at_the_border_is_named_but_does_not_bend_the_plane(spine) -> None:
    without, fragment = spine.labels_zyx.copy(), spine.labels_zyx.copy()
    z, y, x = np.nonzero(spine.labels_zyx == 33)
    without[z, y, x] = fragment[z, y, x] = 0
    fragment[z.max() - 2 : z.max(), y.max() - 14 : y.max(), x.min() : x.min() + 16] = 33  # to the side and behind
    t12 = {"T12": NamedLevel("T12", "T12", is_target=True)}
    pictures = [
        render_levels(spine.ct, replace(segmentation_of(spine), labels_zyx=labels), t12)["sagittal"]
        for labels in (without, fragment)
    ]
    assert [picture.marks[0].level.name for picture in pictures] == ["T12", "T11"]
    # The picture that names the fragment is higher, so its pixels are a little larger; T12 itself is cut as before.
    areas = [(p.pixels == OUTLINE_RGB).all(axis=2).sum() * p.pixel_mm for p in pictures]
    assert areas[0] == pytest.approx(areas[1], rel=0.03)


def test_stray_voxels_far_away_do_not_stretch_the_picture(spine) -> None:
    found = segmentation_of(spine)
    lumbar = np.where(spine.labels_zyx > 31, 0, spine.labels_zyx)  # without T12 and T11
    stray = lumbar.copy()
    stray[-3:-1, 40:42, 40:42] = 28
    clean, with_stray = (
        render_levels(spine.ct, replace(found, labels_zyx=labels), {})["sagittal"] for labels in (lumbar, stray)
    )
    assert abs(clean.pixels.shape[0] - with_stray.pixels.shape[0]) <= 2
    highest = min(mark.y for mark in clean.marks)
    assert highest * clean.pixel_mm < 45  # L1 begins 15 mm below the upper edge


def test_names_never_cover_each_other(spine) -> None:
    labels = spine.labels_zyx.copy()
    l2 = labels == 30
    labels[l2 & (np.indices(labels.shape)[0] % 2 == 0)] = 20  # a second name at the same height
    names = {**segmentation_of(spine).names, 20: "L6"}
    found = replace(segmentation_of(spine), labels_zyx=labels, names=names)
    for picture in render_levels(spine.ct, found, {}).values():
        y = sorted(mark.y for mark in picture.marks)
        assert np.diff(y).min() >= NAME_HEIGHT_PX - 0.5
        assert y[0] >= NAME_HEIGHT_PX / 2
        assert y[-1] <= picture.pixels.shape[0] - NAME_HEIGHT_PX / 2


def test_nothing_found_gives_no_picture(spine) -> None:
    empty = SpineSegmentation(np.zeros((1, 1, 1), np.uint8), (0, 0, 0), spine.ct.geometry, {31: "L1"}, "test")
    assert render_levels(spine.ct, empty, {}) == {}
    assert shown_levels(empty) == []


def test_the_svg_says_every_name_and_which_are_in_doubt(spine) -> None:
    levels = {
        "L1": NamedLevel("L1", "T12 (was L1)", is_doubtful=True),
        "L2": NamedLevel("L2", "L1 (was L2)", is_target=True),
    }
    pictures = render_levels(spine.ct, segmentation_of(spine), levels)
    root = ElementTree.fromstring(levels_svg(pictures.values(), 'Levels of <A> & "B"'))
    assert root.attrib["aria-label"] == 'Levels of <A> & "B"'
    texts = [element.text for element in root.iter(f"{SVG}text")]
    sagittal = ["T11", "T12", "T12 (was L1) ?", "L1 (was L2)", "L3", "L4", "L5", "sacrum"]
    assert texts == [*"APSI", *sagittal, *"RLSI", *sagittal]
    images = list(root.iter(f"{SVG}image"))
    shapes = [p.pixels.shape for p in pictures.values()]
    assert [(int(i.attrib["height"]), int(i.attrib["width"]), 3) for i in images] == shapes
    assert all(base64.b64decode(i.attrib["href"].partition(",")[2]).startswith(b"\x89PNG") for i in images)
    assert int(root.attrib["width"]) == shapes[0][1] + GAP_PX + shapes[1][1]
    # No name sticks out of its picture: 14 px letters are at most 9 px wide on average.
    for picture in pictures.values():
        for mark in picture.marks:
            assert mark.x - 9 * len(mark.level.text) > 0


def test_the_png_shows_the_same_with_names_in_dots(spine, tmp_path) -> None:
    levels = {"L1": NamedLevel("L1", "L1", is_target=True)}
    pictures = render_levels(spine.ct, segmentation_of(spine), levels)
    (tmp_path / "levels.png").write_bytes(levels_png(pictures.values()))
    shown = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "levels.png")))
    rows, columns, _ = pictures["sagittal"].pixels.shape
    assert shown.shape == (rows, columns + GAP_PX + pictures["coronal"].pixels.shape[1], 3)
    mark = mark_of(pictures["sagittal"], "L1")
    name = (shown[:, :columns] == OUTLINE_RGB).all(axis=2)[round(mark.y) - 7 : round(mark.y) + 7, : round(mark.x)]
    expected = np.zeros((14, 22, 3), np.uint8)
    draw_text(expected, "L1", 0, 0, (1, 1, 1))
    assert np.array_equal(name[:, -22:], expected[..., 0] > 0)


def test_dot_letters_are_the_letters() -> None:
    picture = np.zeros((7, 11, 3), np.uint8)
    draw_text(picture, "L1", 0, 0, (255, 0, 0), scale=1)
    drawn = ["".join("#" if p else "." for p in row) for row in picture[..., 0]]
    assert drawn == [
        "#.......#..",
        "#......##..",
        "#.......#..",
        "#.......#..",
        "#.......#..",
        "#.......#..",
        "#####..###.",
    ]
    draw_text(picture, "T", -3, 9, (0, 255, 0), scale=2)  # sticks out on two sides: cut, not wrapped
    assert not picture[:, :9, 1].any()
    assert re.fullmatch("[#.]+", drawn[0])
