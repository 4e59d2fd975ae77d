"""Fracture, metal, sclerosis and lesions: heights against known ones, a note where one is due, else none."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from core.phantom import BODY_DEPTH_MM, BODY_HEIGHT_MM, Phantom, grid, phantom, reoriented

from medconv import attenuation, pipeline
from medconv.grid import to_image
from medconv.inference import LoadedModel
from medconv.simulate import simulate_l1_case
from medconv.simulate.l1_case import as_case
from medconv.simulate.scan import Scan
from medconv.types import InputRefused, L1Case, LevelChoice, Severity
from medconv.vertebra_check import ANTERIOR, MIDDLE, POSTERIOR, BodyHeights, body_heights, check_vertebra, mask_slice_mm
from medconv.vertebral_body import upright_body
from medconv.volume_io import read_ct, read_labels

QUICK = Scan(in_plane_spacing_mm=1.5, slice_thickness_mm=1.0, slice_increment_mm=1.0)
FRONT_MM, BACK_MM = -BODY_DEPTH_MM / 2, BODY_DEPTH_MM / 2


def case_of(one: Phantom) -> L1Case:
    return as_case(one.ct, one.labels_zyx > 0)


def notes_of(case: L1Case) -> list[str]:
    core, known = attenuation.measure(case)
    return [note.code for note in check_vertebra(case, core, known)]


def note_of(case: L1Case, code: str):
    core, known = attenuation.measure(case)
    (note,) = (note for note in check_vertebra(case, core, known) if note.code == code)
    return note


def heights_of(case: L1Case) -> BodyHeights:
    return body_heights(upright_body(case.mask_zyx, case.ct.geometry), case)


def places(one: Phantom) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x, y, z in mm of every voxel of the phantom's grid."""
    z, y, x = np.indices(one.labels_zyx.shape)
    points = one.ct.geometry.index_to_lps(np.stack([x, y, z], axis=-1))
    return points[..., 0], points[..., 1], points[..., 2]


def squeezed(one: Phantom, front: float = 0.0, middle: float = 0.0, back: float = 0.0) -> Phantom:
    """The body loses these shares of its height at its front edge, mid-depth and back edge, from its upper side."""
    _, y, z = places(one)
    share = np.interp(y, (FRONT_MM, 0.0, BACK_MM), (front, middle, back))
    lost = (z > BODY_HEIGHT_MM / 2 - share * BODY_HEIGHT_MM) & (y < BACK_MM + 0.5)
    return Phantom(one.ct, np.where(lost, 0, one.labels_zyx).astype(np.uint8))


def expected_height(share: tuple[float, float], front: float = 0.0, middle: float = 0.0, back: float = 0.0) -> float:
    """Of the same squeezed body, on average over that part of its depth."""
    y = FRONT_MM + np.linspace(*share, 50) * BODY_DEPTH_MM
    return BODY_HEIGHT_MM * (1 - float(np.interp(y, (FRONT_MM, 0.0, BACK_MM), (front, middle, back)).mean()))


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.8, 0.8, 1.5), (1.5, 1.5, 3.0)])
def test_a_healthy_body_has_its_height_everywhere(spacing):
    heights = heights_of(case_of(phantom(grid(spacing))))
    measured = (heights.anterior_mm, heights.middle_mm, heights.posterior_mm)
    assert measured == pytest.approx((BODY_HEIGHT_MM,) * 3, abs=0.5 + spacing[2] / 2)
    assert heights.depth_mm == pytest.approx(BODY_DEPTH_MM, abs=1.5)
    assert heights.loss == pytest.approx(0.0, abs=0.02)
    assert heights.slice_mm == pytest.approx(spacing[2], rel=0.25)


@pytest.mark.parametrize(
    "lost",
    [
        {"front": 0.15, "middle": 0.075},
        {"front": 0.30, "middle": 0.15},
        {"front": 0.45, "middle": 0.225},
        {"middle": 0.30},
        {"front": 0.4, "middle": 0.4, "back": 0.1},
    ],
)
def test_heights_of_a_squeezed_body_are_those_left(vertebra, lost):
    heights = heights_of(case_of(squeezed(vertebra, **lost)))
    expected = [expected_height(share, **lost) for share in (ANTERIOR, MIDDLE, POSTERIOR)]
    # The body's own axis turns with the wedge, by up to half of it; heights along it stay within a millimetre.
    assert [heights.anterior_mm, heights.middle_mm, heights.posterior_mm] == pytest.approx(expected, abs=1.0)
    assert heights.loss == pytest.approx(1 - min(expected[:2]) / expected[2], abs=0.04)


@pytest.mark.parametrize("degrees", [-25, 15, 30])
def test_a_tilted_body_keeps_its_heights(vertebra, degrees):
    """Turned about the left–right axis, as lordosis and kyphosis do."""
    bent = squeezed(vertebra, front=0.3, middle=0.15)
    turn = sitk.Euler3DTransform((0.0, 0.0, 0.0), float(np.radians(degrees)), 0.0, 0.0)
    labels = sitk.Resample(to_image(bent.labels_zyx, bent.ct.geometry), turn, sitk.sitkNearestNeighbor)
    straight, tilted = (
        heights_of(case_of(Phantom(bent.ct, a))) for a in (bent.labels_zyx, sitk.GetArrayFromImage(labels))
    )
    assert tilted.loss == pytest.approx(straight.loss, abs=0.04)
    assert tilted.posterior_mm == pytest.approx(straight.posterior_mm, abs=1.2)


@pytest.mark.parametrize("code", ["RAS", "PIR", "SAL"])
def test_storage_order_changes_no_height(code):
    one = squeezed(phantom(grid((1.0, 1.2, 1.5))), front=0.3)
    assert heights_of(case_of(reoriented(one, code))).loss == pytest.approx(heights_of(case_of(one)).loss, abs=0.005)


# Failure mode 9: height loss, sclerosis.


@pytest.mark.parametrize(
    ("front", "grade"), [(0.34, "mild"), (0.45, "moderate"), (0.70, "severe")]
)  # losses 0.23, 0.32 and 0.5 where the front height is taken
def test_a_wedge_is_graded_after_genant(vertebra, front, grade):
    note = note_of(case_of(squeezed(vertebra, front=front, middle=front / 2)), "height_loss")
    assert note.severity is Severity.WARNING
    assert f"{grade} by Genant's grades" in note.message
    assert "the fracture itself may indicate osteoporosis" in note.message


def test_a_dented_endplate_is_a_height_loss(vertebra):
    assert "height_loss" in notes_of(case_of(squeezed(vertebra, middle=0.4)))


@pytest.mark.parametrize("front", [0.0, 0.15, 0.2])
def test_a_slight_wedge_is_no_fracture(vertebra, front):
    """0.2 at the front edge is a loss of 13 % where the front height is taken."""
    assert notes_of(case_of(squeezed(vertebra, front=front, middle=front / 2))) == []


def test_a_loss_at_the_limit_is_told_as_such(vertebra):
    note = note_of(case_of(squeezed(vertebra, front=0.31, middle=0.155)), "height_loss_borderline")
    assert note.severity is Severity.INFO
    assert "± 2%" in note.message


def test_a_body_crushed_as_a_whole_is_too_low_for_its_depth(vertebra):
    assert "low_body" in notes_of(case_of(squeezed(vertebra, front=0.45, middle=0.45, back=0.45)))


@pytest.mark.parametrize(
    ("factors_xyz", "code", "said"),
    [
        ((1, 1, 0.7), "low_body", "slice spacing in the header"),
        ((1, 1, 1.4), "size_unusual", "check the slice spacing"),
        ((0.7, 0.7, 1), "size_unusual", "wide.* check the pixel spacing"),
        ((1.35, 1.35, 1), "size_unusual", "check the pixel spacing"),
    ],
)
def test_a_wrong_spacing_in_the_header_is_named_as_a_cause(vertebra, factors_xyz, code, said):
    wrong = replace(vertebra.ct, geometry=replace(vertebra.ct.geometry, spacing_mm_xyz=tuple(map(float, factors_xyz))))
    assert re.search(said, note_of(case_of(Phantom(wrong, vertebra.labels_zyx)), code).message)


@pytest.mark.parametrize("code", ["LPS", "RAS", "PIR"])
def test_an_arch_in_front_of_the_body_is_refused_in_any_storage_order(vertebra, code):
    turned = reoriented(Phantom(vertebra.ct, vertebra.labels_zyx), code)
    assert "orientation_impossible" not in notes_of(case_of(turned))  # prone and feet first: the header is right
    wrong = Phantom(vertebra.ct, vertebra.labels_zyx)
    wrong = Phantom(replace(wrong.ct, array_zyx=wrong.ct.array_zyx[:, ::-1].copy()), wrong.labels_zyx[:, ::-1].copy())
    wrong = reoriented(wrong, code)
    with pytest.raises(InputRefused) as caught:
        notes_of(case_of(wrong))
    assert caught.value.code == "orientation_impossible"


def test_a_body_without_its_arch_is_no_impossible_orientation(vertebra):
    x, y, z = places(vertebra)
    body = ((x / 22) ** 2 + (y / 16) ** 2 <= 1) & (abs(z) <= 13)
    for flipped in (body, body[:, ::-1]):
        check_vertebra(as_case(vertebra.ct, flipped), attenuation.measure(as_case(vertebra.ct, body))[0])


def test_with_five_millimetre_slices_nothing_is_guessed():
    flat = squeezed(phantom(grid((1.0, 1.0, 5.0))), front=0.3, middle=0.15)
    note = note_of(case_of(flat), "height_not_measured")
    assert "slices of 5.0 mm are too thick" in note.message
    assert "height_loss" not in notes_of(case_of(flat))


def test_a_coarse_mask_on_thin_slices_is_no_better_than_coarse():
    """Made with 4 mm slices and repeated onto 1 mm slices: the CT's slices do not tell how good the mask is."""
    case, _ = simulate_l1_case(1, scan=QUICK)
    coarse = case.mask_zyx[::4].repeat(4, axis=0)[: len(case.mask_zyx)]
    assert mask_slice_mm(case) == 1.0
    assert mask_slice_mm(replace(case, mask_zyx=coarse)) == 4.0
    assert "height_not_measured" in notes_of(replace(case, mask_zyx=coarse))


def with_hu(one: Phantom, where, hu: int) -> L1Case:
    array = one.ct.array_zyx.copy()
    array[where] = hu
    return as_case(replace(one.ct, array_zyx=array), one.labels_zyx > 0)


def test_bone_denser_than_any_healthy_marrow_is_sclerosis():
    note = note_of(case_of(phantom(trabecular_hu=480)), "sclerosis")
    assert "480 HU" in note.message
    assert "sclerosis" not in notes_of(case_of(phantom(trabecular_hu=300)))


# Failure mode 8: metal and cement.


def test_cement_beside_the_measured_region_is_refused_and_the_neighbours_are_named(vertebra):
    x, y, z = places(vertebra)
    cement = (abs(x) < 10) & (abs(y) < 8) & (z > 5) & (z < 10)  # above the region, which ends at 3.75 mm
    case = with_hu(vertebra, cement, 1800)
    core, known = attenuation.measure(case)
    assert core.mean_hu == 150.0
    with pytest.raises(InputRefused) as caught:
        check_vertebra(case, core, known)
    assert caught.value.code == "metal_or_cement"
    assert "measure T12 or L2 instead" in caught.value.remedy


def test_in_a_stand_in_the_other_neighbour_is_named(vertebra):
    x, y, z = places(vertebra)
    case = with_hu(vertebra, (abs(x) < 6) & (abs(y) < 6) & (abs(z) < 6), 3000)
    stand_in = replace(case, level=LevelChoice("T12", "T12", "person", "totalsegmentator"))
    with pytest.raises(InputRefused) as caught:
        attenuation.measure(stand_in)
    assert caught.value.message.endswith("T12's trabecular bone is above 1000 HU: metal or bone cement.")
    assert "measure L2 instead" in caught.value.remedy


def test_a_screw_in_a_pedicle_is_noted(vertebra):
    x, y, z = places(vertebra)
    screw = (np.hypot(x - 13, z - 5) < 2.5) & (y > 18) & (y < 30)
    case = with_hu(vertebra, screw, 3071)
    assert notes_of(case) == ["metal_in_vertebra"]


# Failure mode 10: focal lesions.


@pytest.mark.parametrize(
    ("half", "hu", "denser"),
    [("left", 230, "left"), ("right", 230, "right"), ("upper", 60, "lower"), ("left", 60, "right")],
)
def test_a_lesion_of_one_half_is_noted_with_its_side(vertebra, half, hu, denser):
    x, _, z = places(vertebra)
    side = {"left": x > 0, "right": x < 0, "upper": z > 0}[half]
    case = with_hu(vertebra, side & (vertebra.ct.array_zyx == 150), hu)
    core, _ = attenuation.measure(case)
    (note,) = check_vertebra(case, core)
    assert note.code == "uneven_halves"
    before, number, _rest = re.split("([0-9]+) HU denser", note.message)
    assert before == f"The {denser} half of L1's body is "
    # The roots of the pedicles, which are cortex in the phantom, take some of it away in the upper half.
    assert abs(hu - 150) - 22 <= int(number) <= abs(hu - 150)


def test_what_the_measurement_has_noted_is_not_said_twice(vertebra):
    x, _, _ = places(vertebra)
    case = with_hu(vertebra, (x > 0) & (vertebra.ct.array_zyx == 150), 600)
    core, known = attenuation.measure(case)
    assert "heterogeneous_core" in {note.code for note in known}
    assert check_vertebra(case, core, known) == []
    assert [note.code for note in check_vertebra(case, core)] == ["uneven_halves"]


# Failure mode 15: nothing left to measure.


def test_a_shell_leaves_no_region_to_measure(vertebra):
    x, y, z = places(vertebra)
    hollow = np.where((np.hypot(x / 19, y / 13) < 1) & (abs(z) < 10), 0, vertebra.labels_zyx)
    with pytest.raises(InputRefused) as caught:
        attenuation.measure(as_case(vertebra.ct, hollow > 0))
    assert caught.value.code in ("roi_too_small", "vertebral_body_not_found")


def test_a_region_of_too_few_voxels_is_refused(vertebra, monkeypatch):
    """The rule's limit, met by a body whose region is smaller than it."""
    monkeypatch.setattr(attenuation, "MINIMUM_VOLUME_ML", 6.0)
    with pytest.raises(InputRefused) as caught:
        attenuation.measure(case_of(vertebra))
    assert caught.value.code == "roi_too_small"


# No false alarm.


@pytest.mark.parametrize(("seed", "slice_mm"), [(0, 1.5), (2, 3.0)])
def test_healthy_simulated_vertebrae_raise_no_warning(seed, slice_mm):
    scan = replace(QUICK, slice_thickness_mm=slice_mm, slice_increment_mm=slice_mm)
    case, _ = simulate_l1_case(seed, scan=scan)
    core, known = attenuation.measure(case)
    assert [n for n in check_vertebra(case, core, known) if n.severity is Severity.WARNING] == []


@pytest.mark.parametrize(("share", "expected"), [(0.0, False), (0.45, True)])
def test_a_simulated_vertebra_squeezed_in_front_is_noticed(share, expected):
    case, truth = simulate_l1_case(1, scan=QUICK)
    body = upright_body(case.mask_zyx, case.ct.geometry)
    z, y, x = np.indices(case.mask_zyx.shape)
    own = body.geometry.lps_to_index(case.ct.geometry.index_to_lps(np.stack([x, y, z], -1))) - body.middle_xyz
    half = float(truth["shape_depth"]) / 2
    lost = np.interp(own[..., 1], (-half, half), (share, 0.0)) * float(truth["shape_height"])
    mask = case.mask_zyx & ~((own[..., 2] > float(truth["shape_height"]) / 2 - lost) & (own[..., 1] < half))
    assert ("height_loss" in notes_of(as_case(case.ct, mask))) is expected


@pytest.mark.real_ct
def test_heights_of_real_vertebrae_agree_with_their_independent_report(real_case):
    """TotalSegmentator's spine report measured the bodies that another network drew; 3 mm voxels."""
    folder = real_case("abdomen_3mm_l1_complete")
    report = json.loads((folder / "spine_report.json").read_text())["results"]
    ct = read_ct(folder / "example_ct.nii.gz")
    bodies, _, _owner = read_labels(folder / "totalseg_vertebrae_pp_refined.nii.gz")
    apart = []
    for label, name in zip(range(20, 25), ("L1", "L2", "L3", "L4", "L5"), strict=True):
        ours = heights_of(as_case(ct, np.asarray(bodies) == label))
        for where in ("anterior", "middle", "posterior"):
            apart.append(getattr(ours, f"{where}_mm") - report[f"vertebrae_{name}_height_{where}_mm"])
        if name == "L1":
            assert ours.loss == pytest.approx(report["vertebrae_L1_height_difference"], abs=0.05)
    assert np.abs(apart).max() < 4.5  # one and a half voxels
    assert np.abs(apart).mean() < 2.0


@pytest.mark.real_ct
def test_the_real_case_raises_no_warning_and_its_wedge_is_told_as_borderline(real_case):
    """Its own report gives L1 a height difference of 0.22; with 3 mm slices that is no more than a question."""
    folder = real_case("abdomen_3mm_l1_complete")
    ct = read_ct(folder / "example_ct.nii.gz")
    labels, _, _owner = read_labels(folder / "totalseg.nii.gz")
    told = {}
    for label, name in ((31, "L1"), (30, "L2"), (29, "L3"), (28, "L4"), (27, "L5")):
        case = as_case(ct, np.asarray(labels) == label)
        core, known = attenuation.measure(case)
        told[name] = check_vertebra(case, core, known)
    assert [note.code for note in told["L1"]] == ["height_loss_borderline"]
    assert told["L1"][0].severity is Severity.INFO
    assert [told[name] for name in ("L2", "L3", "L4", "L5")] == [[], [], [], []]


def test_the_whole_analysis_tells_of_a_fracture_and_stops_at_metal(vertebra, only_untrained):
    model = LoadedModel.load("untrained", "cpu")
    wedge = squeezed(vertebra, front=0.45, middle=0.225)
    prediction = pipeline.predict(wedge.ct, wedge.mask, model)
    assert "height_loss" in {note.code for note in prediction.quality}
    x, y, z = places(vertebra)
    cement = with_hu(vertebra, (abs(x) < 10) & (abs(y) < 8) & (z > 5) & (z < 10), 1800)
    with pytest.raises(InputRefused) as caught:
        pipeline.predict(cement.ct, vertebra.mask, model)
    assert caught.value.code == "metal_or_cement"
