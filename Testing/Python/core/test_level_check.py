"""The level check: silent on spines that are as they should be, a sentence for every way in which they are not.

The oracle is the phantom: hand-made vertebrae whose centres, ribs and sacrum are known, and edits of their labels.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from core.phantom import BODY_DEPTH_MM, BODY_HEIGHT_MM, BODY_WIDTH_MM
from core.spine_phantom import CENTRES_MM, segmentation_of, spine_phantom

from medconv.level_check import check_levels, choose
from medconv.simulate import simulate_lumbar_ct
from medconv.types import InputRefused, QualityNote, Severity, SpineSegmentation, UsageError
from medconv.vertebrae import TOTALSEGMENTATOR as LABEL
from medconv.volume_io import read_ct, read_labels

RIBS = (LABEL["rib_left_12"], LABEL["rib_right_12"])
DOWNWARDS = ("T11", "T12", "L1", "L2", "L3", "L4", "L5")


@pytest.fixture(scope="module")
def usual():
    """T11 to L5 with the twelfth ribs and the sacrum; treat as read-only."""
    return spine_phantom()


@pytest.fixture
def edited(usual) -> Callable[..., SpineSegmentation]:
    """`edited(change, **fields)`: a segmentation of the phantom after `change` has edited its label array in place."""

    def make(change: Callable[[np.ndarray], np.ndarray | None] = lambda labels: None, **fields) -> SpineSegmentation:
        labels = usual.labels_zyx.copy()
        replaced = change(labels)
        return segmentation_of(replace(usual, labels_zyx=labels if replaced is None else replaced), **fields)

    return make


def renamed(**names: str) -> Callable[[np.ndarray], None]:
    """Give structures other names, all at once; "" takes one away."""

    def change(labels: np.ndarray) -> None:
        before = labels.copy()
        for old, new in names.items():
            labels[before == LABEL[old]] = LABEL[new] if new else 0

    return change


def without_landmarks(labels: np.ndarray) -> None:
    labels[np.isin(labels, (*RIBS, LABEL["sacrum"]))] = 0


def slices_of(labels: np.ndarray, name: str) -> tuple[int, int]:
    held = np.flatnonzero((labels == LABEL[name]).any(axis=(1, 2)))
    return int(held[0]), int(held[-1])


def codes(segmentation: SpineSegmentation) -> list[str]:
    return [doubt.code for doubt in check_levels(segmentation).doubts]


def only_doubt(segmentation: SpineSegmentation) -> QualityNote:
    (doubt,) = check_levels(segmentation).doubts
    return doubt


def refused(action: Callable[[], object], error: type = InputRefused) -> InputRefused:
    with pytest.raises(error) as caught:
        action()
    return caught.value


def test_a_spine_as_it_should_be_is_certain_and_counted_from_both_ends(edited):
    found = check_levels(edited())
    assert found.is_certain
    assert found.doubts == ()
    assert found.statement == "L1, counted from rib 12 and sacrum"
    assert [level.name for level in found.levels] == list(DOWNWARDS)
    assert found.target == "L1"
    assert found.alternatives == ("T12", "L2")
    assert found.doubtful == ()


def test_centres_and_volumes_are_the_phantoms_own(edited, usual):
    body_ml = np.pi / 4 * BODY_WIDTH_MM * BODY_DEPTH_MM * BODY_HEIGHT_MM / 1000
    for level in check_levels(edited()).levels:
        assert level.body_center_lps_mm == pytest.approx(CENTRES_MM[level.name], abs=1.5)
        voxels = np.count_nonzero(usual.labels_zyx == LABEL[level.name])
        assert level.volume_ml == pytest.approx(voxels * usual.ct.geometry.voxel_volume_ml)
        assert level.volume_ml > body_ml
        assert level.center_lps_mm[1] > level.body_center_lps_mm[1] + 5  # the arch lies behind the body
        assert not level.touches_border


@pytest.mark.parametrize("axes", [(0, 1), (0, 2), (1, 2)])
def test_the_order_of_storage_changes_nothing(edited, axes):
    """The same voxels stored from the other end along two axes, with a grid that says so."""
    straight = edited()
    g = straight.ct_geometry
    direction = np.eye(3)
    last = [0, 0, 0]
    for axis in axes:
        direction[2 - axis, 2 - axis] = -1
        last[2 - axis] = g.size_xyz[2 - axis] - 1
    grid = replace(g, origin_lps_mm=tuple(g.index_to_lps(last).tolist()), direction=tuple(direction.ravel().tolist()))
    turned = check_levels(replace(straight, labels_zyx=np.flip(straight.labels_zyx, axes), ct_geometry=grid))
    assert turned.is_certain
    for one, other in zip(turned.levels, check_levels(straight).levels, strict=True):
        assert one.body_center_lps_mm == pytest.approx(other.body_center_lps_mm, abs=0.01)


def test_thin_slices_are_thinned_without_a_shift(edited):
    """Every voxel split in eight: 1 mm, measured on every second voxel."""
    coarse = edited()
    g = coarse.ct_geometry
    half = tuple(s / 2 for s in g.spacing_mm_xyz)
    grid = replace(
        g,
        size_xyz=tuple(2 * n for n in g.size_xyz),
        spacing_mm_xyz=half,
        origin_lps_mm=tuple(o - s / 2 for o, s in zip(g.origin_lps_mm, half, strict=True)),
    )
    labels = coarse.labels_zyx.repeat(2, axis=0).repeat(2, axis=1).repeat(2, axis=2)
    fine = check_levels(replace(coarse, labels_zyx=labels, ct_geometry=grid))
    assert fine.is_certain
    for one, other in zip(fine.levels, check_levels(coarse).levels, strict=True):
        assert one.body_center_lps_mm == pytest.approx(other.body_center_lps_mm, abs=1.0)
        assert one.volume_ml == pytest.approx(other.volume_ml, rel=0.01)


def test_stray_specks_do_not_matter(edited):
    def sprinkle(labels):
        labels[0, 0, 0:3] = LABEL["L1"]  # at the border, far from L1
        labels[60, 5, 5:8] = LABEL["S1"]

    found = check_levels(edited(sprinkle))
    assert found.is_certain
    assert not found.level("L1").touches_border
    mask, _ = choose(edited(sprinkle), found)
    assert mask.start_xyz != (0, 0, 0)
    assert mask.block_zyx.sum() == np.count_nonzero(edited().labels_zyx == LABEL["L1"])


# Failure mode 3: the level is uncertain.


def test_without_ribs_and_sacrum_nothing_tells_the_level(edited):
    doubt = only_doubt(edited(without_landmarks, names={n: k for k, n in LABEL.items() if "rib" not in k}))
    assert doubt.code == "no_landmark"
    assert "Neither the twelfth rib nor the sacrum" in doubt.message


@pytest.mark.parametrize(
    ("lost", "statement"), [("sacrum", "L1, counted from rib 12"), ("rib", "L1, counted from sacrum")]
)
def test_one_landmark_is_enough(edited, lost, statement):
    def change(labels):
        labels[np.isin(labels, [n for k, n in LABEL.items() if lost in k])] = 0

    names = {n: k for k, n in LABEL.items() if lost not in k}
    found = check_levels(edited(change, names=names))
    assert found.is_certain
    assert found.statement == statement


def test_s1_serves_as_the_sacrum(edited):
    def top_of_sacrum(labels):
        low, high = slices_of(labels, "sacrum")
        upper = labels[low + 1 : high + 1]
        upper[upper == LABEL["sacrum"]] = LABEL["S1"]

    assert codes(edited(top_of_sacrum)) == []


def test_six_lumbar_vertebrae_that_the_network_can_name(edited):
    """The same seven bones are T12 and L1 to L6, as a network with VerSe's names would have it."""
    names = {label: name for name, label in LABEL.items() if "rib" not in name} | {118: "L6"}

    def one_more(labels):
        labels[labels == LABEL["L5"]] = 118
        renamed(T11="T12", T12="L1", L1="L2", L2="L3", L3="L4", L4="L5")(labels)

    doubt = only_doubt(edited(one_more, names=names))
    assert doubt.code == "lumbar_count"
    assert doubt.message.startswith("Six lumbar vertebrae were found (to L6), expected five")


def test_six_lumbar_vertebrae_called_t12_to_l5(edited):
    """TotalSegmentator has no L6: with six, counted from below, the first is called T12 and the ribs begin at "T11"."""
    shifted = edited(renamed(T11="T10", T12="T11", L1="T12", L2="L1", L3="L2", L4="L3", L5="L4"))
    assert set(codes(shifted)) == {"rib_at_wrong_level", "lumbar_count"}
    assert any("Rib 12 begins at T11" in d.message for d in check_levels(shifted).doubts)


def test_a_rib_on_what_is_called_l1(edited):
    doubts = check_levels(edited(renamed(T11="T12", T12="L1", L1="L2", L2="L3", L3="L4", L4="L5", L5=""))).doubts
    assert "rib_at_wrong_level" in [d.code for d in doubts]
    (doubt,) = (d for d in doubts if d.code == "rib_at_wrong_level")
    assert doubt.message.startswith("Rib 12 begins at L1, where no rib was expected")
    assert "lumbar_count" in [d.code for d in doubts]  # 36 mm of room between "L5" and the sacrum


def test_four_lumbar_vertebrae(edited):
    doubts = check_levels(edited(renamed(L5="L4", L4="L3", L3="L2", L2="L1", L1="T12", T12="T11", T11=""))).doubts
    assert any(d.message.startswith("L4 lies directly on the sacrum, expected L5") for d in doubts)


def test_t12_without_ribs(edited):
    def no_ribs(labels):
        labels[np.isin(labels, RIBS)] = 0

    doubt = only_doubt(edited(no_ribs))
    assert doubt.code == "t12_without_ribs"
    # A mask that a person made without labelling ribs says nothing about them.
    assert codes(edited(no_ribs, segmenter="existing")) == []


def test_one_rib_of_the_pair_is_enough(edited):
    assert codes(edited(renamed(rib_left_12=""))) == []


def test_ribs_of_both_sides_must_agree(edited):
    doubt = only_doubt(edited(renamed(rib_left_12="rib_left_11")))
    assert doubt.message.startswith("Rib 11 begins at T12, where rib 12 was expected")


def test_a_level_left_out_between_two(edited):
    doubt = only_doubt(edited(renamed(L3="")))
    assert (doubt.code, doubt.message) == (
        "level_missing",
        "L3 was not found between L2 and L4, which are 72 mm apart.",
    )
    assert check_levels(edited(renamed(L3=""))).doubtful == ("L2", "L4")


def test_a_name_skipped_without_room_for_it(edited):
    doubts = check_levels(edited(renamed(L2="L3", L3="L4", L4="L5", L5=""))).doubts
    (doubt,) = (d for d in doubts if d.code == "level_missing")
    assert doubt.message.startswith("L1 and L3 are only 37 mm apart, without room for L2")


def test_t12_missing_where_the_ct_shows_it(edited):
    doubts = check_levels(edited(renamed(T12="", T11="", rib_left_12="", rib_right_12=""))).doubts
    assert [d.code for d in doubts] == ["level_missing"]
    assert doubts[0].message.startswith("T12 was not found above L1")


def test_uneven_spacing_names_the_pair(edited):
    """17.5 mm are cut out between L2 and L3: the disc, and 4 mm of each body, whose middle moves by half of that."""

    def squeeze(labels):
        middle = (slices_of(labels, "L2")[0] + slices_of(labels, "L3")[1]) // 2
        return np.concatenate([np.delete(labels, np.arange(middle, middle + 7), axis=0), np.zeros_like(labels[:7])])

    found = check_levels(edited(squeeze))
    spacing = [d for d in found.doubts if d.code == "level_spacing"]
    assert len(spacing) == 1
    assert spacing[0].message.startswith("L2 and L3 are 23 mm apart, expected about 36 mm")


def test_two_vertebrae_under_one_name(edited):
    doubts = check_levels(edited(renamed(L3="L4"))).doubts
    assert "level_missing" in [d.code for d in doubts]
    (spread,) = (d for d in doubts if d.code == "level_spread")
    assert spread.message == "L4 is in 2 pieces, 36 mm apart along the spine: one name on two vertebrae?"


def test_two_vertebrae_grown_together_under_one_name_have_twice_the_volume(edited):
    def bridged(labels):
        renamed(L3="L4")(labels)
        z = (slices_of(labels, "L4")[0] + slices_of(labels, "L4")[1]) // 2
        y, x = (round(v) for v in np.argwhere(labels[z + 7] == LABEL["L4"]).mean(axis=0))
        labels[z - 8 : z + 9, y - 3 : y + 3, x - 3 : x + 3] = LABEL["L4"]

    (doubt,) = (d for d in check_levels(edited(bridged)).doubts if d.code == "level_volume")
    assert doubt.message.startswith("L4 has ")
    assert doubt.message.endswith("two vertebrae under one name?")


def test_two_names_in_one_vertebra(edited):
    """The upper half of L2's body is called L1: it touches L2 over the whole section of a body."""

    def split(labels):
        low, high = slices_of(labels, "L2")
        upper = labels[(low + high) // 2 : high + 1]
        upper[upper == LABEL["L2"]] = LABEL["L1"]

    found = check_levels(edited(split))
    (doubt,) = (d for d in found.doubts if d.code == "levels_touch")
    section_mm2 = np.pi / 4 * BODY_WIDTH_MM * BODY_DEPTH_MM
    told = float(doubt.message.split(" over ")[1].split(" mm²")[0])
    assert 0.9 * section_mm2 < told < 1.6 * section_mm2  # body, and what of the arch lies in that plane
    assert {"L1", "L2"} <= set(found.doubtful)


def test_names_out_of_order(edited):
    doubts = check_levels(edited(renamed(L3="L4", L4="L3"))).doubts
    (doubt,) = (d for d in doubts if d.code == "levels_out_of_order")
    assert doubt.message == "L3 lies below L4, expected above it."


def test_two_passes_that_disagree_are_a_doubt(edited):
    note = QualityNote("level_passes_disagree", Severity.WARNING, "The 3 mm pass calls this vertebra T12.")
    other = QualityNote("segmented_on_cpu", Severity.INFO, "The graphics card was too small.")
    assert only_doubt(edited(notes=(note, other))) == note


def test_a_single_vertebra_that_a_person_named_has_nothing_to_be_counted_against(edited):
    def alone(labels):
        labels[labels != LABEL["L1"]] = 0

    found = check_levels(edited(alone, segmenter="existing"))
    assert found.is_certain
    assert found.statement == "L1, by its name"
    assert not check_levels(edited(alone)).is_certain


# Failure mode 12: orientation wrong or mirrored.


def test_an_image_upside_down(edited):
    assert "spine_upside_down" in codes(edited(lambda labels: labels[::-1].copy()))


def test_arches_in_front_of_the_bodies(edited):
    assert codes(edited(lambda labels: labels[:, ::-1].copy())) == ["spine_back_to_front"]


@pytest.mark.parametrize(
    ("turned", "said"),
    [(np.s_[::-1], "lies above"), (np.s_[:, ::-1], "in front of their bodies"), (np.s_[::-1, ::-1], "lies above")],
)
def test_an_impossible_orientation_is_refused_whoever_confirms(edited, turned, said):
    found = edited(lambda labels: labels[turned].copy(), segmenter="existing")
    with pytest.raises(InputRefused, match=said) as caught:
        choose(found, check_levels(found), confirmed=True, decided_by="label")
    assert caught.value.code == "orientation_impossible"


def test_two_names_exchanged_are_no_impossible_orientation(edited):
    def only_two(labels):
        keep = np.isin(labels, [LABEL["L1"], LABEL["L2"]])
        labels[~keep] = 0
        one = labels == LABEL["L1"]
        labels[labels == LABEL["L2"]] = LABEL["L1"]
        labels[one] = LABEL["L2"]

    found = edited(only_two, segmenter="existing")
    check = check_levels(found)
    assert "spine_upside_down" in [d.code for d in check.doubts]
    assert choose(found, check, decided_by="label")[1].found_as == "L1"


@pytest.mark.parametrize(("side", "expected"), [("right", []), ("left", ["liver_on_the_left"])])
def test_the_liver_tells_a_mirrored_image(edited, side, expected):
    def with_liver(labels):
        columns = slice(2, 25) if side == "right" else slice(-25, -2)  # x rises to the patient's left
        part = labels[80:120, 10:60, columns]
        part[part == 0] = LABEL["liver"]

    assert codes(edited(with_liver)) == expected


# Failure modes 1, 2 and 4: L1 absent, cut, in pieces or of an implausible size.


def test_l1_absent_offers_its_neighbours(edited):
    absent = edited(renamed(L1=""))
    found = check_levels(absent)
    assert [d.code for d in found.doubts] == ["l1_absent"]
    assert (found.target, found.is_certain) == (None, False)
    assert found.alternatives == ("T12", "L2")
    error = refused(lambda: choose(absent, found))
    assert error.code == "l1_absent"
    assert "T12 or L2 instead, named as such" in error.remedy


def test_l1_at_the_border_is_refused_and_only_whole_neighbours_are_offered(edited):
    """The CT ends above the middle of L1: T12 and T11 are whole, L2 is not there."""
    spine = edited()
    middle = sum(slices_of(spine.labels_zyx, "L1")) // 2
    g = spine.ct_geometry
    cut = replace(
        spine,
        labels_zyx=spine.labels_zyx[middle:],
        ct_geometry=g.cut((0, 0, middle), (g.size_xyz[0], g.size_xyz[1], g.size_xyz[2] - middle)),
    )
    found = check_levels(cut)
    assert [d.code for d in found.doubts] == ["l1_touches_border"]
    assert found.alternatives == ("T12",)
    assert refused(lambda: choose(cut, found)).code == "l1_touches_border"
    mask, choice = choose(cut, found, used_as="T12")
    assert (choice.found_as, choice.used_as, choice.doubts) == ("T12", "T12", ())
    assert mask.block_zyx.sum() == np.count_nonzero(spine.labels_zyx == LABEL["T12"])


def test_a_mask_that_stops_one_thin_slice_short_of_the_border_was_cut_by_it(edited):
    spine = edited()
    low, _ = slices_of(spine.labels_zyx, "L1")
    labels = spine.labels_zyx[low + 4 :].copy()
    g = spine.ct_geometry
    size = (g.size_xyz[0], g.size_xyz[1], len(labels))
    grid = replace(g.cut((0, 0, low + 4), size), spacing_mm_xyz=(2.0, 2.0, 0.75))
    labels[0] = 0
    assert check_levels(replace(spine, labels_zyx=labels, ct_geometry=grid)).level("L1").touches_border


def test_l1_in_pieces_is_refused_even_if_confirmed(edited):
    def halve(labels):
        low, high = slices_of(labels, "L1")
        labels[(low + high) // 2 + 1][labels[(low + high) // 2 + 1] == LABEL["L1"]] = 0

    broken = edited(halve)
    found = check_levels(broken)
    assert "l1_in_pieces" in [d.code for d in found.doubts]
    assert refused(lambda: choose(broken, found, confirmed=True)).code == "l1_in_pieces"


def test_a_fragment_called_l1_is_refused(edited):
    def fragment(labels):
        z, y, x = (round(v) for v in np.argwhere(labels == LABEL["L1"]).mean(axis=0))
        labels[labels == LABEL["L1"]] = 0
        labels[z - 4 : z + 5, y - 12 : y + 2, x - 3 : x + 4] = LABEL["L1"]  # 22 x 28 x 14 mm

    found = check_levels(edited(fragment))
    assert "l1_volume_implausible" in [d.code for d in found.doubts]
    assert refused(lambda: choose(edited(fragment), found, confirmed=True)).code == "l1_volume_implausible"


def test_no_vertebra_at_all(edited):
    def empty(labels):
        labels[:] = 0

    found = check_levels(edited(empty))
    assert (found.levels, found.target, found.alternatives) == ((), None, ())
    assert found.statement == "No vertebra was found."
    assert refused(lambda: choose(edited(empty), found)).code == "l1_absent"


def test_a_vertebra_with_a_screw_is_not_offered(edited, usual):
    hu = usual.ct.array_zyx.copy()
    z, y, x = (round(v) for v in np.argwhere(usual.labels_zyx == LABEL["T12"]).mean(axis=0))
    hu[z - 2 : z + 2, y - 8 : y + 8, x - 2 : x + 2] = 3000
    assert check_levels(edited(), replace(usual.ct, array_zyx=hu)).alternatives == ("L2",)
    assert check_levels(edited(), usual.ct).alternatives == ("T12", "L2")


# Who decides.


def test_the_mask_holds_exactly_the_voxels_of_the_vertebra_on_the_cts_grid(edited, usual):
    whole = edited()
    mask, choice = choose(whole, check_levels(whole))
    assert np.array_equal(mask.full_array_zyx() == 1, usual.labels_zyx == LABEL["L1"])
    assert all(mask.block_zyx.any(axis=axes).all() for axes in ((1, 2), (0, 2), (0, 1)))  # a tight block
    assert (choice.found_as, choice.used_as, choice.decided_by, choice.segmenter) == (
        "L1", "L1", "segmenter", "totalsegmentator",
    )  # fmt: skip


def test_a_block_of_labels_lands_in_its_place(edited, usual):
    """The same labels kept as the block that holds them, as segmenters hand them over."""
    held = np.argwhere(usual.labels_zyx)
    low, high = held.min(axis=0), held.max(axis=0) + 1
    block = usual.labels_zyx[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
    part = edited(labels_zyx=block, start_xyz=tuple(int(v) for v in low[::-1]))
    found = check_levels(part)
    assert found.is_certain
    assert np.array_equal(choose(part, found)[0].full_array_zyx() == 1, usual.labels_zyx == LABEL["L1"])


def test_in_doubt_the_segmenter_alone_may_not_decide(edited):
    doubtful = edited(renamed(L3=""))
    found = check_levels(doubtful)
    error = refused(lambda: choose(doubtful, found))
    assert error.code == "level_in_doubt"
    assert "72 mm apart" in error.message
    _, choice = choose(doubtful, found, confirmed=True)
    assert (choice.decided_by, choice.doubts) == ("person", found.doubts)
    assert refused(lambda: choose(doubtful, found, used_as="T12")).code == "level_in_doubt"
    assert choose(doubtful, found, used_as="T12", confirmed=True)[1].found_as == "T12"


@pytest.mark.parametrize("who", ["segment", "label", "person"])
def test_who_named_the_vertebra_is_warned_but_not_stopped(edited, who):
    doubtful = edited(renamed(L3=""), segmenter="existing")
    found = check_levels(doubtful)
    _, choice = choose(doubtful, found, decided_by=who)
    assert (choice.decided_by, choice.doubts) == (who, found.doubts)


def test_a_relabel_measures_another_vertebra_as_l1(edited, usual):
    spine = edited()
    mask, choice = choose(spine, check_levels(spine), take="L2")
    assert np.array_equal(mask.full_array_zyx() == 1, usual.labels_zyx == LABEL["L2"])
    assert (choice.found_as, choice.used_as, choice.decided_by) == ("L2", "L1", "person")


def test_what_was_not_found_or_makes_no_sense_is_refused_by_name(edited):
    spine = edited()
    found = check_levels(spine)
    assert refused(lambda: choose(spine, found, take="T4")).code == "vertebra_absent"
    assert refused(lambda: choose(spine, found, take="sacrum")).code == "vertebra_absent"
    assert refused(lambda: choose(spine, found, used_as="L4"), UsageError).code == "level_unknown"


# Simulated people.


def simulated(variant: str, shown_mm: tuple[float, float]) -> SpineSegmentation:
    """Thick slices and large pixels: quick, and enough for the level."""
    made = simulate_lumbar_ct(
        5, variant=variant, field_of_view_mm=shown_mm, in_plane_spacing_mm=2.0, slice_thickness_mm=5.0
    )
    names = {label: name for name, label in LABEL.items()} | {118: "L6"}
    return SpineSegmentation(made.labels_zyx, (0, 0, 0), made.ct.geometry, names, "totalsegmentator")


def test_a_simulated_person_is_certain():
    found = check_levels(simulated("usual", (-180.0, 70.0)))
    assert found.doubts == ()
    assert found.statement == "L1, counted from rib 12 and sacrum"


def test_a_simulated_person_with_six_lumbar_vertebrae_is_doubtful_under_any_names():
    six = simulated("six_lumbar", (-215.0, 45.0))
    assert [d.code for d in check_levels(six).doubts] == ["lumbar_count"]
    # As a network without a name for L6 counts from below: the ribs then begin at "T11".
    labels = np.where(six.labels_zyx == 118, 26, six.labels_zyx)  # 26 (S1) … 33 (T11) become 27 … 34
    counted = np.where((labels >= LABEL["S1"]) & (labels <= LABEL["T11"]), labels + 1, labels)
    counted[six.labels_zyx == LABEL["S1"]] = LABEL["sacrum"]
    doubts = check_levels(replace(six, labels_zyx=counted.astype(np.uint8))).doubts
    assert [d.code for d in doubts] == ["rib_at_wrong_level"]
    assert doubts[0].message.startswith("Rib 12 begins at T11")


# Real label maps.


def real_segmentation(folder, name: str, **changes) -> SpineSegmentation:
    labels, geometry, _owner = read_labels(folder / name)
    names = {label: known for known, label in LABEL.items()}
    return replace(SpineSegmentation(np.array(labels), (0, 0, 0), geometry, names, "totalsegmentator"), **changes)


@pytest.mark.real_ct
def test_the_real_abdomen_is_certain(real_case):
    """L1 to S1 whole, T12 cut by the top, no ribs: counted from S1."""
    folder = real_case("abdomen_3mm_l1_complete")
    real = real_segmentation(folder, "totalseg.nii.gz")
    found = check_levels(real, read_ct(folder / "example_ct.nii.gz"))
    assert found.doubts == ()
    assert found.statement == "L1, counted from S1"
    assert found.level("T12").touches_border
    assert found.alternatives == ("L2",)
    # The body's centre against the body that another network drew.
    bodies, grid, _owner = read_labels(folder / "totalseg_vertebrae_pp_refined.nii.gz")
    for label, name in zip(range(20, 25), ("L1", "L2", "L3", "L4", "L5"), strict=True):
        centre = grid.index_to_lps(np.argwhere(np.asarray(bodies) == label).mean(axis=0)[::-1])
        assert found.level(name).body_center_lps_mm == pytest.approx(centre, abs=4.0)
    report = json.loads((folder / "spine_report.json").read_text())["results"]
    assert found.level("L1").volume_ml > report["vertebrae_L1_volume_ml"]  # theirs is of the body alone


@pytest.mark.real_ct
@pytest.mark.parametrize(
    ("edits", "expected"),
    [
        ({"L3": ""}, {"level_missing"}),
        ({"S1": ""}, {"no_landmark"}),
        ({"L5": ""}, {"level_missing"}),
        ({"L1": ""}, {"l1_absent"}),
        ({"L2": "L3"}, {"level_missing", "level_spread", "level_volume", "level_spacing"}),
        ({"L4": "L5", "L5": "L4"}, {"levels_out_of_order"}),
    ],
)
def test_edits_of_the_real_abdomen_are_noticed(real_case, edits, expected):
    real = real_segmentation(real_case("abdomen_3mm_l1_complete"), "totalseg.nii.gz")
    labels = real.labels_zyx.copy()
    renamed(**edits)(labels)
    found = {doubt.code for doubt in check_levels(replace(real, labels_zyx=labels)).doubts}
    assert found
    assert found <= expected
    assert expected & {"level_missing", "no_landmark", "l1_absent", "levels_out_of_order"} <= found


@pytest.mark.real_ct
def test_a_real_case_of_two_names_in_one_vertebra(real_case):
    """In TotalSegmentator's own DICOM sample parts of T12's body are called T11, and there is no L1."""
    real = real_segmentation(real_case("dicom_thorax_l1_absent"), "example_seg_dicom.nii.gz")
    found = check_levels(real)
    assert {d.code for d in found.doubts} == {"levels_touch", "no_landmark", "l1_absent"}
    assert found.alternatives == ()
