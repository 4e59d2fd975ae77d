"""The lumbar region is found from the lungs' lower end, in any orientation, and never at the price of L1.

Oracles: trunks drawn by formula, whose lungs end at a known height, and the simulator's own labels.
"""

from __future__ import annotations

import numpy as np
import pytest
from core.phantom import Phantom, reoriented

from medconv.segmenters.region import locate_lumbar_region, misses_l1
from medconv.simulate.lumbar_ct import simulate_lumbar_ct
from medconv.types import CTVolume, ImageGeometry
from medconv.volume_io import read_ct, read_labels

LUNGS_END_MM = 520.0  # above the trunk's lowest slice
HEIGHT_MM = 800.0
SPACING = (4.0, 4.0, 4.0)


def ellipse(x, y, center, half_axes) -> np.ndarray:
    return ((x - center[0]) / half_axes[0]) ** 2 + ((y - center[1]) / half_axes[1]) ** 2 <= 1


def trunk(
    height_mm: float = HEIGHT_MM,
    *,
    lungs_end_mm: float | None = LUNGS_END_MM,
    table: bool = True,
    arms: bool = True,
    gas: bool = False,
    noise_hu: float = 25.0,
) -> CTVolume:
    """A trunk of 360 x 230 mm in a field of view of 500 mm, along z: its lungs reach up to 20 mm below the top."""
    width, depth = round(500 / SPACING[0]), round(height_mm / SPACING[2])
    place = (np.arange(width) - width / 2) * SPACING[0]
    x, y = np.meshgrid(place, place)
    z = np.arange(depth) * SPACING[2]
    hu = np.full((depth, width, width), -1000, np.float32)
    hu[:, ellipse(x, y, (0, 0), (180, 115))] = 40
    if arms:
        hu[:, ellipse(x, y, (-215, 0), (25, 30)) | ellipse(x, y, (215, 0), (25, 30))] = 40
    if table:
        hu[:, (np.abs(y - 135) < 8) & (np.abs(x) < 210)] = -150
    if lungs_end_mm is not None:
        lungs = ellipse(x, y, (-80, 0), (60, 80)) | ellipse(x, y, (80, 0), (60, 80))
        hu[np.ix_((z >= lungs_end_mm) & (z < height_mm - 20), np.arange(width), np.arange(width))[0][:, 0, 0]] = (
            np.where(lungs, -830, hu[-1])
        )
    if gas:  # a colon full of gas below the diaphragm, as before a virtual colonoscopy
        loops = (
            ellipse(x, y, (-90, -30), (45, 45)) | ellipse(x, y, (90, -30), (45, 45)) | ellipse(x, y, (0, -60), (80, 30))
        )
        hu[(z > 60) & (z < lungs_end_mm - 12)] = np.where(loops, -1000, hu[len(z) // 8])
    hu[:, ellipse(x, y, (0, 60), (20, 18))] = 250
    hu += np.random.default_rng(0).normal(0, noise_hu, hu.shape).astype(np.float32)
    geometry = ImageGeometry((width, width, depth), SPACING, (-250.0, -250.0, -900.0))
    return CTVolume(np.maximum(hu, -1024).round().astype(np.int16), geometry)


def heights_mm(region, ct: CTVolume) -> tuple[float, float]:
    """Lowest and highest voxel of a region above the CT's lowest slice, for a CT whose z axis runs to the head."""
    start, size = region
    spacing = ct.geometry.spacing_mm_xyz[2]
    return start[2] * spacing, (start[2] + size[2] - 1) * spacing


def test_window_runs_from_120_mm_above_the_lungs_end_to_330_mm_below_it() -> None:
    ct = trunk()
    low, high = heights_mm(locate_lumbar_region(ct), ct)
    assert low == pytest.approx(LUNGS_END_MM - 330, abs=10)
    assert high == pytest.approx(LUNGS_END_MM + 120, abs=10)


def test_region_holds_the_trunk_and_leaves_out_air_in_plane() -> None:
    ct = trunk(arms=False)
    start, size = locate_lumbar_region(ct)
    left, right = start[0] * 4.0 - 250, (start[0] + size[0]) * 4.0 - 250
    assert left == pytest.approx(-180 - 15, abs=10)
    assert right == pytest.approx(180 + 15, abs=10)
    front = start[1] * 4.0 - 250
    assert front == pytest.approx(-115 - 15, abs=10)


@pytest.mark.parametrize("options", [{"table": False}, {"arms": False}, {"noise_hu": 90.0}, {"gas": True}])
def test_table_arms_noise_and_gas_do_not_move_the_window(options) -> None:
    ct = trunk(**options)
    low, high = heights_mm(locate_lumbar_region(ct), ct)
    assert low == pytest.approx(LUNGS_END_MM - 330, abs=15)
    assert high == pytest.approx(LUNGS_END_MM + 120, abs=15)


@pytest.mark.parametrize("code", ["RAS", "PIR", "LAI", "SRP", "ILA"])
def test_region_is_the_same_block_of_the_patient_in_every_orientation(code: str) -> None:
    ct = trunk()
    other = reoriented(Phantom(ct, np.zeros(ct.array_zyx.shape, np.uint8)), code).ct
    first, second = (c.geometry.cut(*locate_lumbar_region(c)) for c in (ct, other))
    corners = [np.sort(grid.index_to_lps([(0, 0, 0), np.array(grid.size_xyz) - 1]), axis=0) for grid in (first, second)]
    assert np.abs(corners[0] - corners[1]).max() <= 8.0, "a coarse voxel's width: the grid may start elsewhere"


def test_oblique_axes_give_the_same_window_along_the_body() -> None:
    angle = np.deg2rad(20)
    turn = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    straight, oblique = trunk(), trunk()
    oblique = CTVolume(
        oblique.array_zyx,
        ImageGeometry(oblique.geometry.size_xyz, SPACING, (-250.0, -250.0, -900.0), tuple(turn.ravel().tolist())),
    )
    assert locate_lumbar_region(oblique) == locate_lumbar_region(straight)


def test_short_ct_keeps_its_whole_length() -> None:
    ct = trunk(440.0, lungs_end_mm=400.0)
    start, size = locate_lumbar_region(ct)
    assert (start[2], size[2]) == (0, ct.geometry.size_xyz[2])


def test_ct_without_lungs_keeps_its_whole_length() -> None:
    ct = trunk(700.0, lungs_end_mm=None)
    start, size = locate_lumbar_region(ct)
    assert (start[2], size[2]) == (0, ct.geometry.size_xyz[2])


def test_ct_that_is_filled_by_the_body_is_taken_whole() -> None:
    ct = CTVolume(np.full((60, 40, 40), 40, np.int16), ImageGeometry((40, 40, 60), (4.0, 4.0, 4.0), (0, 0, 0)))
    assert locate_lumbar_region(ct) is None


def test_ct_with_nothing_in_it_is_taken_whole() -> None:
    ct = CTVolume(np.full((200, 40, 40), -1000, np.int16), ImageGeometry((40, 40, 200), (4.0, 4.0, 4.0), (0, 0, 0)))
    assert locate_lumbar_region(ct) is None


def test_body_without_air_around_it_does_not_lose_its_lungs_or_its_spine() -> None:
    """A field of view inside the body, lungs cut at its edges: the region may be whole, but L1's place stays in it."""
    whole = trunk(arms=False, table=False)
    tight = CTVolume(
        whole.array_zyx[:, 45:95, 30:95].copy(), whole.geometry.cut((30, 45, 0), (65, 50, whole.geometry.size_xyz[2]))
    )
    region = locate_lumbar_region(tight)
    low, high = (0.0, HEIGHT_MM) if region is None else heights_mm(region, tight)
    assert low < LUNGS_END_MM - 250
    assert high > LUNGS_END_MM + 60


@pytest.mark.parametrize("seed", [1])
def test_simulated_person_has_all_from_t10_to_the_sacrum_in_the_region(seed: int) -> None:
    case = simulate_lumbar_ct(seed, in_plane_spacing_mm=3.0, slice_thickness_mm=5.0, field_of_view_mm=(-330.0, 235.0))
    region = locate_lumbar_region(case.ct)
    assert region is not None, "565 mm are long enough to be cut"
    (x, y, z), (width, height, depth) = region
    inside = np.zeros(case.labels_zyx.shape, bool)
    inside[z : z + depth, y : y + height, x : x + width] = True
    for label in (25, 26, 27, 28, 29, 30, 31, 32, 33, 34):  # sacrum, S1, L5 … T10 in TotalSegmentator's numbers
        found = case.labels_zyx == label
        assert found.any()
        assert inside[found].all(), f"label {label} is cut"


def test_large_ct_is_read_on_a_coarse_grid_only() -> None:
    """A trunk of 262 MB: what is taken from it is less than a tenth of its size."""
    import tracemalloc

    geometry = ImageGeometry((512, 512, 500), (0.8, 0.8, 2.0), (0.0, 0.0, 0.0))
    hu = np.full(geometry.shape_zyx, -1000, np.int16)
    hu[:, 150:380, 60:450] = 40
    hu[250:400, 180:320, 90:220] = -830
    hu[250:400, 180:320, 290:420] = -830
    ct = CTVolume(hu, geometry)
    tracemalloc.start()
    try:
        start, size = locate_lumbar_region(ct)
        assert tracemalloc.get_traced_memory()[1] < hu.nbytes / 10
    finally:
        tracemalloc.stop()
    assert start[2] * 2.0 == pytest.approx(500 - 330, abs=10)
    assert (start[2] + size[2]) * 2.0 == pytest.approx(500 + 120, abs=10)


@pytest.mark.real_ct
@pytest.mark.parametrize(
    ("case", "file", "mask"),
    [
        ("abdomen_3mm_l1_complete", "example_ct.nii.gz", "totalseg.nii.gz"),
        ("aorta_1.5mm_l1_truncated", "ct_cropped.nii.gz", "vertebrae_T12.nii.gz"),
        ("dicom_thorax_l1_absent", "example_ct_dicom", "example_seg_dicom.nii.gz"),
    ],
)
def test_real_cts_that_are_short_keep_their_length_and_their_organs(real_case, case: str, file: str, mask: str) -> None:
    folder = real_case(case)
    ct = read_ct(folder / file)
    labels, grid, _keep = read_labels(folder / mask)
    start, size = locate_lumbar_region(ct) or ((0, 0, 0), ct.geometry.size_xyz)
    assert (start[2], size[2]) == (0, ct.geometry.size_xyz[2])
    labelled = grid.index_to_lps(np.argwhere(labels)[:, ::-1])
    index = ct.geometry.lps_to_index(labelled)
    assert len(index) > 1000
    assert (index >= np.array(start) - 0.5).all()
    assert (index <= np.array(start) + size - 0.5).all()


@pytest.mark.real_ct
def test_lungs_of_a_real_thorax_end_where_they_do(real_case) -> None:
    """The aorta case prolonged to a long CT: its lungs' lower end, seen at slice 132 of 164, sets the window."""
    ct = read_ct(real_case("aorta_1.5mm_l1_truncated") / "ct_cropped.nii.gz")
    below = np.repeat(ct.array_zyx[:1], 250, axis=0)
    long = CTVolume(
        np.concatenate([below, ct.array_zyx]),
        ImageGeometry((120, 126, 164 + 250), ct.geometry.spacing_mm_xyz, (0.0, 0.0, 0.0), ct.geometry.direction),
    )
    region = locate_lumbar_region(long)
    assert region is not None
    low, high = heights_mm(region, long)
    assert low == pytest.approx((250 + 132) * 1.5 - 330, abs=15)
    assert high == pytest.approx((250 + 164) * 1.5, abs=3), "less than 120 mm are left above"


# --- was L1 in what was cut? ----------------------------------------------------------------------------------------

GRID = ImageGeometry((60, 60, 100), (3.0, 3.0, 3.0), (0.0, 0.0, 0.0))
REGION = ((5, 5, 20), (50, 50, 60))
L1_BLOCK = np.ones((10, 15, 15), bool)  # 61 ml


@pytest.mark.parametrize(
    ("start", "missed"),
    [
        ((20, 20, 40), False),
        ((20, 20, 20), True),  # reaches the lower face
        ((20, 20, 70), True),  # reaches the upper face: slice 79 is the last
        ((20, 20, 69), False),
        ((5, 20, 40), True),
        ((20, 40, 40), True),
    ],
)
def test_l1_is_missed_where_it_reaches_a_face_at_which_the_ct_goes_on(start, missed: bool) -> None:
    assert misses_l1(L1_BLOCK, start, REGION, GRID) is missed


def test_l1_at_the_cts_own_border_is_not_missed() -> None:
    assert not misses_l1(L1_BLOCK, (20, 20, 0), ((5, 5, 0), (50, 50, 60)), GRID)


def test_specks_and_nothing_are_missed_if_the_ct_goes_on_above_or_below() -> None:
    speck, nothing = np.ones((2, 2, 2), bool), np.zeros((1, 1, 1), bool)
    assert misses_l1(speck, (20, 20, 40), REGION, GRID)
    assert misses_l1(nothing, (0, 0, 0), REGION, GRID)
    whole_length = ((5, 5, 0), (50, 50, 100))
    assert not misses_l1(nothing, (0, 0, 0), whole_length, GRID)
    assert not misses_l1(nothing, (0, 0, 0), None, GRID)
