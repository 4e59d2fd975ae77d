"""Cohort folders in every layout, what is left out of them, and CTs that are L1 alone."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from core.cohort_writer import l1_case, write_case, write_cohort, write_csv, write_image
from core.dicom_writer import write_series
from core.phantom import Phantom, write

from medconv.config import Preprocessing
from medconv.crop import standardised_crop
from medconv.simulate.cohort import CohortModel
from medconv.training.cohorts.case_reading import l1_alone, mask_of_l1_alone, read_case
from medconv.training.cohorts.cases import TRAIN, VALIDATION, Cohort, LabelledCase
from medconv.training.cohorts.cohort_folder import read_cohort, summary
from medconv.types import CTVolume, InputRefused, TScoreClass

HEAD = ("SubjectID", "T-score")
SMALL = Preprocessing(size_xyz=(40, 48, 36), spacing_mm=2.0)


@pytest.fixture(scope="module")
def layout(tmp_path_factory) -> Path:
    """Three cases to train, three to validate; treat as read-only."""
    return write_cohort(tmp_path_factory.mktemp("cohort"), {"train_data": range(3), "val_data": range(3, 6)})


def refusal(folder: Path) -> InputRefused:
    with pytest.raises(InputRefused) as caught:
        read_cohort(folder)
    return caught.value


def copied(layout: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(layout, tmp_path / "cohort"))


def codes(cohort: Cohort) -> dict[str, str]:
    return {item.case_id: item.code for item in cohort.left_out}


def test_the_authors_layout_is_read(layout: Path) -> None:
    cohort = read_cohort(layout)
    assert [case.case_id for case in cohort.cases] == ["s00", "s01", "s02", "s03", "s04", "s05"]
    assert Counter(case.split for case in cohort.cases) == {TRAIN: 3, VALIDATION: 3}
    case = cohort.cases[5]
    assert (case.ct, case.mask) == (layout / "val_data/s05.nii.gz", layout / "masks/s05.nii.gz")
    assert (case.t_class, case.t_score, case.kvp) == (TScoreClass.OSTEOPOROSIS, -3.1, 120.0)
    assert (cohort.left_out, cohort.notes, cohort.model, cohort.reference) == ((), (), None, "DXA")


def test_what_has_no_partner_is_listed_and_counted(layout: Path, tmp_path: Path) -> None:
    folder = copied(layout, tmp_path)
    write_case(folder, "unknown", 0, "train_data")
    (folder / "train_data" / "s00.nii.gz").unlink()
    whole = (folder / "val_data" / "s03.nii.gz").read_bytes()
    (folder / "val_data" / "s03.nii.gz").write_bytes(whole[: len(whole) // 2])
    (folder / "masks" / "s04.nii.gz").unlink()
    for name in ("s10", "s13", "s14"):  # so that each class stays
        number = int(name[1:])
        write_case(folder, name, number, "train_data" if number in (10,) else "val_data")
    write_case(folder, "s15", 15, "train_data")
    write_case(folder, "s12", 12, "val_data")
    with (folder / "labels.csv").open("a") as stream:
        stream.writelines(f"s{n},{l1_case(n)[1]},\n" for n in (10, 12, 13, 14, 15))
        stream.write("absent,-1.4,\n")
    cohort = read_cohort(folder)
    assert codes(cohort) == {
        "s00": "no_ct", "absent": "no_ct", "unknown": "no_label", "s03": "file_cut_off", "s04": "no_mask",
    }  # fmt: skip
    assert summary(cohort.left_out) == (
        "Left out: 1 file_cut_off (s03); 2 no_ct (absent, s00); 1 no_label (unknown); 1 no_mask (s04)."
    )
    assert {case.case_id for case in cohort.cases} == {"s01", "s02", "s05", "s10", "s12", "s13", "s14", "s15"}


def test_ids_that_differ_in_leading_zeros_get_a_hint(tmp_path: Path) -> None:
    for number, name in enumerate(("017", "b", "c")):
        write_case(tmp_path, name, number)
    write_csv(tmp_path / "labels.csv", [HEAD, (17, 0.4), ("b", -1.7), ("c", -3.1)])
    (note,) = read_cohort(tmp_path).notes
    assert note.code == "leading_zeros"
    assert "'017' and the row '17' differ in leading zeros only" in note.message


def test_a_flat_folder_of_nifti_and_nrrd_has_no_splits_unless_the_sheet_has(tmp_path: Path) -> None:
    for number, ending in enumerate((".nii.gz", ".nrrd", ".nii")):
        write_case(tmp_path, f"c{number}", number, ending=ending)
    rows = [HEAD, ("c0.nii.gz", 0.4), ("c1", -1.7), ("c2", -3.1)]
    write_csv(tmp_path / "labels.csv", rows)
    assert [case.split for case in read_cohort(tmp_path).cases] == [None, None, None]
    write_csv(tmp_path / "labels.csv", [(*row, "Split" if row is HEAD else "training") for row in rows])
    assert [case.split for case in read_cohort(tmp_path).cases] == [TRAIN] * 3


def test_dicom_folders_are_cases_wherever_they_lie_in_a_tree(tmp_path: Path, vertebra: Phantom) -> None:
    places = {"a": "train_data/a", "b": "train_data/PAT2/2024/b", "c": "train_data/PAT3/c/series1"}
    for place in [*places.values(), "train_data/PAT9/2023"]:
        write_series(tmp_path / place, vertebra.ct)
    (tmp_path / "masks").mkdir()
    for name in "abc":
        _, labels = write(vertebra, tmp_path / "masks")
        labels.rename(tmp_path / "masks" / f"{name}.nii.gz")
    (tmp_path / "masks" / "ct.nii.gz").unlink()
    write_csv(tmp_path / "labels.csv", [HEAD, ("a", 0.4), ("b", -1.7), ("c", -3.1)])
    cohort = read_cohort(tmp_path)
    assert [case.ct.relative_to(tmp_path).as_posix() for case in cohort.cases] == [
        "train_data/a", "train_data/PAT2/2024/b", "train_data/PAT3/c",
    ]  # fmt: skip
    assert codes(cohort) == {"PAT9": "no_label"}
    case = read_case(replace(cohort.cases[2], label=31))
    assert case.ct.acquisition.kvp == 120.0
    assert case.volume_ml == pytest.approx(np.count_nonzero(vertebra.labels_zyx) / 1000, rel=1e-6)


def test_a_simulated_cohort_brings_its_population_and_its_truth(layout: Path, tmp_path: Path) -> None:
    folder = copied(layout, tmp_path)
    model = CohortModel(signal_correlation=0.63)
    (folder / "cohort.json").write_text(json.dumps({"model": asdict(model), "seed": 4}))
    write_csv(folder / "truth.csv", [("SubjectID", "signal", "scan_kernel"), ("s00", -0.5, "soft")])
    cohort = read_cohort(folder)
    assert (cohort.model, cohort.reference) == (model, "simulated")
    assert cohort.truth == {"s00": {"SubjectID": "s00", "signal": -0.5, "scan_kernel": "soft"}}
    (folder / "cohort.json").write_text('{"model": {"signal_correlation": 7}}')
    assert refusal(folder).code == "cohort_unreadable"


def test_contradictions_of_the_folder_are_errors(layout: Path, tmp_path: Path) -> None:
    assert refusal(tmp_path / "none").code == "cohort_missing"
    folder = copied(layout, tmp_path)
    shutil.copy(folder / "train_data/s00.nii.gz", folder / "val_data/s00.nii.gz")
    error = refusal(folder)
    assert error.code == "ct_twice"
    assert "'s00' has two CTs: train_data/s00.nii.gz and val_data/s00.nii.gz" in error.message
    (folder / "val_data/s00.nii.gz").unlink()
    rows = [(*HEAD, "Split"), *((f"s{n:02}", l1_case(n)[1], "train") for n in range(6))]
    write_csv(folder / "labels.csv", rows)
    assert "'s03' lies in val_data, but the label sheet puts it into train" in refusal(folder).message
    shutil.copy(folder / "labels.csv", folder / "labels.xlsx")
    assert refusal(folder).code == "labels_ambiguous"
    (folder / "labels.csv").unlink()
    (folder / "labels.xlsx").unlink()
    assert refusal(folder).code == "labels_missing"
    other = write_csv(tmp_path / "elsewhere.csv", [HEAD, *((f"s{n:02}", l1_case(n)[1]) for n in range(6))])
    assert len(read_cohort(folder, other).cases) == 6


def test_a_part_without_one_of_the_classes_is_refused(layout: Path, tmp_path: Path) -> None:
    folder = copied(layout, tmp_path)
    (folder / "val_data/s05.nii.gz").unlink()
    error = refusal(folder)
    assert error.code == "too_few"
    assert "The validation part of cohort has no case of osteoporosis" in error.message


def test_a_folder_with_no_labelled_ct_says_what_it_holds(tmp_path: Path) -> None:
    write_case(tmp_path, "x", 0)
    write_csv(tmp_path / "labels.csv", [HEAD, ("y", 0.4)])
    error = refusal(tmp_path)
    assert error.code == "cohort_empty"
    assert "Left out: 1 no_label (x); 1 no_ct (y)" in error.message.replace(
        "1 no_ct (y); 1 no_label (x)", "1 no_label (x); 1 no_ct (y)"
    )


# --- reading a case -------------------------------------------------------------------------------------------------


def labelled(ct: Path, mask: Path | None, **changes) -> LabelledCase:
    return LabelledCase("a", "a", ct, mask, TScoreClass.NORMAL, **changes)


def test_the_sheets_voltage_counts_where_the_file_tells_none_and_a_contradiction_is_refused(
    tmp_path: Path, vertebra: Phantom
) -> None:
    nifti, mask = write(vertebra, tmp_path)
    write_series(tmp_path / "dicom", vertebra.ct, kvp="100")
    assert read_case(labelled(nifti, mask, kvp=80.0)).ct.acquisition.kvp == 80.0
    assert read_case(labelled(nifti, mask)).ct.acquisition.kvp is None
    assert read_case(labelled(tmp_path / "dicom", mask, kvp=100.0)).ct.acquisition.kvp == 100.0
    with pytest.raises(InputRefused, match="100 kV by its file and with 120 kV by the label sheet"):
        read_case(labelled(tmp_path / "dicom", mask, kvp=120.0))


def test_a_label_map_of_several_labels_needs_the_column_label(tmp_path: Path, vertebra: Phantom) -> None:
    labels = vertebra.labels_zyx.copy()
    labels[:10, :10, :10] = 32
    ct, mask = write(replace(vertebra, labels_zyx=labels), tmp_path)
    with pytest.raises(InputRefused, match="column Label"):
        read_case(labelled(ct, mask))
    assert read_case(labelled(ct, mask, label=31)).volume_ml > 15


def test_a_whole_ct_is_judged_as_the_product_judges_it(tmp_path: Path, vertebra: Phantom) -> None:
    shifted = np.roll(vertebra.labels_zyx, 9, axis=0)
    ct, mask = write(replace(vertebra, labels_zyx=shifted), tmp_path)
    with pytest.raises(InputRefused) as caught:
        read_case(labelled(ct, mask))
    assert caught.value.code == "mask_displaced"
    mr = replace(vertebra, ct=replace(vertebra.ct, array_zyx=np.abs(vertebra.ct.array_zyx) % 200))
    ct, mask = write(mr, tmp_path)
    with pytest.raises(InputRefused) as caught:
        read_case(labelled(ct, mask))
    assert caught.value.code == "not_hu"


# --- L1 alone -------------------------------------------------------------------------------------------------------


def alone(background: float, tight: bool = False) -> tuple[CTVolume, np.ndarray]:
    """Simulated L1 with everything outside it one constant; tight: cut to L1's own box."""
    case, _ = l1_case(1)
    hu = np.where(case.mask_zyx, case.ct.array_zyx, background).astype(np.float32)
    mask = case.mask_zyx
    geometry = case.ct.geometry
    if tight:
        low, high = np.argwhere(mask).min(axis=0), np.argwhere(mask).max(axis=0) + 1
        box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        hu, mask = hu[box], mask[box]
        start, size = (tuple(int(v) for v in values[::-1]) for values in (low, high - low))
        geometry = geometry.cut(start, size)
    return replace(case.ct, array_zyx=hu, geometry=geometry, keep_alive=None), mask


@pytest.mark.parametrize("background", [-1024.0, 0.0, 3071.0, float("nan")])
@pytest.mark.parametrize("tight", [False, True])
def test_the_mask_of_l1_alone_is_what_differs_from_the_corners(background: float, tight: bool) -> None:
    ct, mask = alone(background, tight)
    assert np.array_equal(mask_of_l1_alone(ct), mask)


def test_a_voxel_inside_l1_that_equals_the_background_is_l1() -> None:
    ct, mask = alone(0.0)
    z, y, x = (int(v) for v in np.argwhere(mask).mean(axis=0))
    inner = replace(ct, array_zyx=ct.array_zyx.copy())
    assert mask[z - 1 : z + 2, y - 9 : y - 6, x - 1 : x + 2].all()
    inner.array_zyx[z, y - 8, x] = 0.0
    assert np.array_equal(mask_of_l1_alone(inner), mask)


def test_a_ct_without_a_mask_that_is_not_l1_alone_is_refused(vertebra: Phantom) -> None:
    with pytest.raises(InputRefused, match=r"ml of it differ from the value in its corners \(-1000\)") as caught:
        mask_of_l1_alone(vertebra.ct)
    assert caught.value.code == "not_l1_alone"
    inside = replace(vertebra.ct, array_zyx=vertebra.ct.array_zyx + np.arange(160, dtype=np.int16))
    with pytest.raises(InputRefused, match="its corners hold -1000 to -841, not one constant value"):
        mask_of_l1_alone(inside)


def test_l1_alone_in_other_units_is_refused() -> None:
    ct, mask = alone(0.0)
    with pytest.raises(InputRefused) as caught:
        l1_alone(replace(ct, array_zyx=np.where(mask, np.clip(ct.array_zyx, 1, 800) / 800, 0)))
    assert caught.value.code == "not_hu"


@pytest.mark.parametrize("background", [-1024.0, 0.0])
def test_a_crop_of_l1_alone_is_nearly_that_of_the_whole_ct(tmp_path: Path, background: float) -> None:
    whole, _ = l1_case(1)
    ct, _ = alone(background, tight=True)
    path = tmp_path / "a.nii.gz"
    write_image(path, ct.array_zyx, replace(whole, ct=ct), mark="")
    from_alone = standardised_crop(read_case(labelled(path, None)), SMALL)
    from_whole = standardised_crop(whole, SMALL)
    bone = (from_alone > 0) | (from_whole > 0)
    apart_hu = np.abs(from_alone - from_whole)[bone] * 1000
    assert apart_hu.mean() < 15  # 25 to 40 if the constant stayed and bled into the edge
    assert np.corrcoef(from_alone[bone], from_whole[bone])[0, 1] > 0.95
