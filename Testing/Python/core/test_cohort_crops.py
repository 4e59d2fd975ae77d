"""The crop cache against the crop made directly, files that change, a run that is killed, and the authors' loader."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from core.cohort_writer import l1_case, write_case, write_cohort, write_image
from torch.utils.data import DataLoader

from medconv import attenuation, l1_mask, pipeline, volume_io
from medconv.bench import training_feed
from medconv.bench.settings import Settings, silent
from medconv.config import Preprocessing
from medconv.crop import standardised_crop
from medconv.simulate.cohort import CohortModel
from medconv.training.cohorts import crop_cache
from medconv.training.cohorts.authors_loader import ReadEachTime
from medconv.training.cohorts.cases import TRAIN, VALIDATION, Cohort
from medconv.training.cohorts.cohort_folder import read_cohort
from medconv.training.cohorts.crop_cache import cohort_crops, left_out, subset
from medconv.training.cohorts.crop_store import CropStore, case_key
from medconv.training.cohorts.loader_bench import ways_to_feed
from medconv.types import InputRefused, MissingRequirement

SMALL = Preprocessing(size_xyz=(24, 28, 20), spacing_mm=3.0)
NUMBERS = range(9)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Six cases to train, three to validate; treat as read-only."""
    return write_cohort(tmp_path_factory.mktemp("cohort"), {"train_data": range(6), "val_data": range(6, 9)})


@pytest.fixture(scope="module")
def cohort(folder: Path) -> Cohort:
    """Taken as simulated: the CTs show too little around L1 for the product's own look at the HU scale."""
    truth = {f"s{n:02}": {"signal": n / 10} for n in range(4)}
    return replace(read_cohort(folder), model=CohortModel(), truth=truth)


@pytest.fixture(scope="module")
def cache(cohort: Cohort, tmp_path_factory) -> Path:
    """A cache that holds both splits."""
    path = tmp_path_factory.mktemp("cache")
    for split in (TRAIN, VALIDATION):
        cohort_crops(cohort, split, SMALL, path, workers=1)
    return path


def made_files(cache: Path) -> dict[str, int]:
    files = [path for path in cache.glob("crops_*/cases/*.npz") if "partial" not in path.name]
    return {str(path.relative_to(cache)): path.stat().st_mtime_ns for path in files}


def test_cached_crops_are_those_made_directly_from_the_simulated_case(cohort: Cohort, cache: Path) -> None:
    crops = cohort_crops(cohort, TRAIN, SMALL, cache)
    assert crops.case_ids == ("s00", "s01", "s02", "s03", "s04", "s05")
    for number in range(6):
        case, t_score = l1_case(number)  # never written, never read
        expected = np.rint(standardised_crop(case, SMALL) * 255)
        assert np.abs(crops.crops[number] - expected).max() <= 1
        assert np.mean(crops.crops[number] != expected) < 0.01
        assert crops.median_hu[number] == attenuation.measure(case)[0].median_hu
        assert (crops.t_scores[number], crops.classes[number]) == (t_score, number % 3)
    assert crops.kvp.tolist() == [120.0] * 6
    assert crops.signals[:4].tolist() == [0.0, 0.1, 0.2, 0.3]
    assert np.isnan(crops.signals[4:]).all()


def test_training_reads_a_memory_map_and_no_nifti(cohort: Cohort, cache: Path, monkeypatch) -> None:
    def refuse(*_arguments):
        raise AssertionError("a CT was read")

    monkeypatch.setattr(volume_io, "read_ct", refuse)
    crops = cohort_crops(cohort, TRAIN, SMALL, cache)
    assert isinstance(crops.crops, np.memmap)
    assert crops.crops.shape == (6, 1, 20, 28, 24)
    assert not crops.crops.flags.writeable


def test_a_changed_file_is_made_anew_and_the_others_are_kept(folder: Path, tmp_path: Path) -> None:
    mine = Path(shutil.copytree(folder, tmp_path / "cohort"))
    cohort = replace(read_cohort(mine), model=CohortModel())
    before = cohort_crops(cohort, VALIDATION, SMALL, tmp_path / "cache", workers=1)
    kept = made_files(tmp_path / "cache")
    old = np.array(before.crops)
    case, _ = l1_case(7)
    write_image(mine / "val_data/s07.nii.gz", case.ct.array_zyx + np.int16(40), case)
    after = cohort_crops(cohort, VALIDATION, SMALL, tmp_path / "cache", workers=1)
    now = made_files(tmp_path / "cache")
    assert {name: now[name] for name in kept} == kept
    assert len(now) == len(kept) + 1
    assert np.array_equal(after.crops[0], old[0])
    assert after.median_hu[1] == before.median_hu[1] + 40
    assert np.array_equal(before.crops, old), "a map that is in use keeps what it had"


def test_other_settings_have_crops_of_their_own_and_other_splits_do_not(cohort: Cohort, cache: Path) -> None:
    count = len(made_files(cache))
    swapped = replace(
        cohort, cases=tuple(replace(c, split=VALIDATION if c.case_id < "s03" else TRAIN) for c in cohort.cases)
    )
    assert cohort_crops(swapped, VALIDATION, SMALL, cache).case_ids == ("s00", "s01", "s02")
    everyone = cohort_crops(cohort, None, SMALL, cache)
    assert len(everyone) == 9
    assert len(made_files(cache)) == count == 9
    other = cohort_crops(cohort, VALIDATION, replace(SMALL, spacing_mm=4.0), cache, workers=1)
    assert len(made_files(cache)) == 12
    assert not np.array_equal(other.crops, cohort_crops(cohort, VALIDATION, SMALL, cache).crops)


def test_a_subset_is_in_the_order_asked_for(cohort: Cohort, cache: Path) -> None:
    everyone = cohort_crops(cohort, None, SMALL, cache)
    chosen = subset(everyone, ["s04", "gone", "s01"])
    assert chosen.case_ids == ("s04", "s01")
    assert np.array_equal(chosen.crops, everyone.crops[[4, 1]])
    assert chosen.median_hu.tolist() == everyone.median_hu[[4, 1]].tolist()


def test_what_the_product_refuses_is_left_out_with_its_code_or_stops_a_strict_run(folder: Path, tmp_path: Path) -> None:
    mine = Path(shutil.copytree(folder, tmp_path / "cohort"))
    for name, number in (("metal", 9), ("shifted", 10)):
        write_case(mine, name, number, "val_data")
        with (mine / "labels.csv").open("a") as stream:
            stream.write(f"{name},{l1_case(number)[1]},120\n")
    case, _ = l1_case(9)
    write_image(mine / "val_data/metal.nii.gz", np.where(case.mask_zyx, np.int16(2500), case.ct.array_zyx), case)
    case, _ = l1_case(10)
    write_image(mine / "masks/shifted.nii.gz", case.mask_zyx[::-1, ::-1].astype(np.uint8) * 0 + 1, case)
    cohort = replace(read_cohort(mine), model=CohortModel())
    crops = cohort_crops(cohort, VALIDATION, SMALL, tmp_path / "cache", workers=1)
    assert crops.case_ids == ("s06", "s07", "s08")
    refused = left_out(cohort, VALIDATION, SMALL, tmp_path / "cache")
    assert {item.case_id: item.code for item in refused} == {"metal": "metal_or_cement", "shifted": "l1_touches_border"}
    (listing,) = (tmp_path / "cache").glob("crops_*/validation_left_out.csv")
    rows = list(csv.DictReader(listing.open()))
    assert [(row["SubjectID"], row["code"]) for row in rows] == [(i.case_id, i.code) for i in refused]
    with pytest.raises(InputRefused) as caught:
        cohort_crops(cohort, VALIDATION, SMALL, tmp_path / "cache", workers=1, strict=True)
    assert caught.value.code == "cases_refused"
    assert "2 of 5 cases can't be measured. Left out: 1 l1_touches_border (shifted); 1 metal_or_cement (metal)." in (
        caught.value.message
    )


def test_leaks_are_found_while_crops_are_made(folder: Path, tmp_path: Path) -> None:
    mine = Path(shutil.copytree(folder, tmp_path / "cohort"))
    shutil.copy(mine / "train_data/s04.nii.gz", mine / "val_data/s07.nii.gz")
    shutil.copy(mine / "masks/s04.nii.gz", mine / "masks/s07.nii.gz")
    cohort = replace(read_cohort(mine), model=CohortModel())
    cohort_crops(cohort, VALIDATION, SMALL, tmp_path / "cache", workers=1)
    for _ in range(2):  # also when all crops are there
        with pytest.raises(InputRefused, match="'s04' = 's07'"):
            cohort_crops(cohort, TRAIN, SMALL, tmp_path / "cache", workers=1)
    same = tuple(replace(case, patient_id="p") for case in cohort.cases)
    with pytest.raises(InputRefused, match="'p' \\(train and validation\\)"):
        cohort_crops(replace(cohort, cases=same), TRAIN, SMALL, tmp_path / "cache")


def test_a_class_that_is_gone_with_what_was_refused_stops_the_run(folder: Path, tmp_path: Path) -> None:
    mine = Path(shutil.copytree(folder, tmp_path / "cohort"))
    case, _ = l1_case(8)
    write_image(mine / "val_data/s08.nii.gz", np.full_like(case.ct.array_zyx, 40), case)
    cohort = replace(read_cohort(mine), model=CohortModel())
    with pytest.raises(InputRefused, match="The validation part of cohort has no case of osteoporosis"):
        cohort_crops(cohort, VALIDATION, SMALL, tmp_path / "cache", workers=1)


def test_a_split_that_is_not_there_is_refused(cohort: Cohort, tmp_path: Path) -> None:
    with pytest.raises(InputRefused, match="has no test cases \\(there are: train, validation\\)"):
        cohort_crops(cohort, "test", SMALL, tmp_path)


def test_a_folder_that_was_moved_keeps_its_cache(cohort: Cohort, folder: Path, tmp_path: Path) -> None:
    moved = read_cohort(Path(shutil.copytree(folder, tmp_path / "moved")))  # copytree keeps dates
    keys = [[case_key(case, True) for case in c.cases] for c in (cohort, moved)]
    assert keys[0] == keys[1]
    os.utime(moved.cases[0].ct, ns=(0, 0))
    assert case_key(moved.cases[0], True) != keys[0][0]


RUN = """
import sys
from dataclasses import replace
from pathlib import Path
from medconv.config import Preprocessing
from medconv.simulate.cohort import CohortModel
from medconv.training.cohorts.cohort_folder import read_cohort
from medconv.training.cohorts.crop_cache import cohort_crops

if __name__ == "__main__":
    cohort = replace(read_cohort(Path(sys.argv[1])), model=CohortModel())
    crops = cohort_crops(cohort, "train", Preprocessing(size_xyz=(24, 28, 20), spacing_mm=3.0), Path(sys.argv[2]),
                         workers=2)
    print(crops.case_ids)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_a_run_that_is_killed_goes_on_in_parallel_to_the_same_crops(
    folder: Path, cohort: Cohort, cache: Path, tmp_path: Path, repository: Path
) -> None:
    script = tmp_path / "run.py"
    script.write_text(RUN)
    command = [sys.executable, str(script), str(folder), str(tmp_path / "cache")]
    environment = os.environ | {"PYTHONPATH": str(repository / "BoneDensityMedConv")}
    process = subprocess.Popen(command, env=environment)
    while not made_files(tmp_path / "cache"):
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = made_files(tmp_path / "cache")
    subprocess.run(command, env=environment, check=True)
    now = made_files(tmp_path / "cache")
    assert len(now) == 6
    assert {name: now[name] for name in kept} == kept
    mine, theirs = (cohort_crops(cohort, TRAIN, SMALL, path) for path in (tmp_path / "cache", cache))
    assert np.array_equal(mine.crops, theirs.crops)
    assert mine.median_hu.tolist() == theirs.median_hu.tolist()


def test_a_worker_that_is_killed_from_outside_is_told_as_such(cohort: Cohort, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(crop_cache, "_start_worker", _die)
    with pytest.raises(MissingRequirement) as caught:
        cohort_crops(cohort, TRAIN, SMALL, tmp_path, workers=2)
    assert caught.value.code == "worker_died"
    assert "--workers 1" in caught.value.remedy


def _die() -> None:
    os._exit(9)


def test_half_written_files_of_a_killed_run_are_cleared_when_they_are_old(tmp_path: Path) -> None:
    store = CropStore.open(tmp_path, SMALL)
    old, new = (store.cases / f"k.{name}.partial.npz" for name in ("1", "2"))
    for path in (old, new):
        path.write_bytes(b"")
    os.utime(old, (0, 0))
    CropStore.open(tmp_path, SMALL)
    assert (old.exists(), new.exists()) == (False, True)


# --- the authors' way of feeding ------------------------------------------------------------------------------------


def test_the_authors_way_feeds_the_same_input_as_the_cache(cohort: Cohort, cache: Path) -> None:
    crops = cohort_crops(cohort, TRAIN, SMALL, cache)
    batches = list(DataLoader(ReadEachTime(cohort.part(TRAIN), SMALL), batch_size=4))
    assert [tuple(batch.shape) for batch, _ in batches] == [(4, 1, 20, 28, 24), (2, 1, 20, 28, 24)]
    fed = np.concatenate([batch.numpy() for batch, _ in batches])
    assert np.abs(fed - crops.crops / 255.0).max() <= 0.5 / 255 + 1e-6
    assert np.concatenate([classes.numpy() for _, classes in batches]).tolist() == crops.classes.tolist()


def test_the_bench_feeds_the_same_cases_both_ways(folder: Path, tmp_path: Path) -> None:
    mine = Path(shutil.copytree(folder, tmp_path / "cohort"))
    shutil.rmtree(mine / "val_data")
    (mine / "cohort.json").write_text(json.dumps({"name": "bench", "model": {}}))
    for number in (3, 4, 5):
        (mine / f"train_data/s{number:02}.nii.gz").unlink()
    fed, read = read_cohort(mine), cohort_crops(read_cohort(mine), TRAIN, SMALL, tmp_path / "crops")
    assert [epoch() for epoch in ways_to_feed(fed, read, SMALL)] == [3, 3]
    settings = Settings(repeats=2, loader=str(mine), folder=str(tmp_path))
    making, authors, cached = training_feed.measure(settings, silent)
    assert making.note.startswith("3 cases")
    assert (authors.repeats, cached.repeats) == (2, 2)
    assert (cached.baseline, cached.aim) == (training_feed.AUTHORS, 0.1)
    assert cached.ratio > 0


@pytest.mark.real_ct
def test_a_real_ct_is_cut_out_as_predict_does_it(real_case, tmp_path: Path) -> None:
    source = real_case("abdomen_3mm_l1_complete")
    (tmp_path / "test_data").mkdir()
    (tmp_path / "masks").mkdir()
    shutil.copy(source / "example_ct.nii.gz", tmp_path / "test_data" / "real.nii.gz")
    shutil.copy(source / "totalseg.nii.gz", tmp_path / "masks" / "real.nii.gz")
    (tmp_path / "labels.csv").write_text("SubjectID,T-score,Label\nreal,-2.0,31\n")
    crops = cohort_crops(read_cohort(tmp_path), "test", SMALL, tmp_path / "cache")
    ct = volume_io.read_ct(source / "example_ct.nii.gz")
    labels, geometry, _owner = volume_io.read_labels(source / "totalseg.nii.gz")
    case = pipeline.prepare(ct, l1_mask.from_labels(labels, geometry, 31, ct.geometry)[0])
    assert np.array_equal(crops.crops[0], np.rint(standardised_crop(case, SMALL) * 255))
    assert crops.median_hu[0] == attenuation.measure(case)[0].median_hu
    assert np.isnan(crops.kvp[0])
    assert np.isnan(crops.signals[0])
