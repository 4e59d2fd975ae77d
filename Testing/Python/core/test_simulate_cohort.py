"""A simulated cohort as a folder: who is in it, what decides its bytes, and that a disturbed run ends as any other."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import openpyxl
import pytest
import SimpleITK as sitk

from medconv import tscore
from medconv.attenuation import measure
from medconv.cli import main
from medconv.config import CLASS_ORDER
from medconv.simulate import CohortModel, Scan, physics
from medconv.simulate.cohort_plan import PAPER_CLASSES, CohortPlan, class_of, members
from medconv.simulate.cohort_sheets import write_labels, write_truth
from medconv.simulate.l1_case import as_case, person_l1_case
from medconv.simulate.nifti import write_nifti
from medconv.simulate.person import Person, PersonSettings, draw_person
from medconv.simulate.person_ct import person_ct
from medconv.simulate.rendering import PixelGrid, render_ct
from medconv.simulate.scan import NOISE_SPREAD, noise_hu
from medconv.simulate.slabs import Layer, NoiseSource, render_slabs
from medconv.simulate.soft_tissue import sample_soft_tissue
from medconv.simulate.spine import CoarseGrid, sample_bone
from medconv.simulate.stopwatch import Stopwatch
from medconv.simulated_cohort import ImageSettings, open_cohort, run_job
from medconv.types import ImageGeometry, TScoreClass, UsageError
from medconv.volume_io import read_ct

QUIET = PersonSettings(3, slice_thickness_mm=3.0, kvp=120.0, kernel="soft", phase="native", dose=4.0)
FEW = ["--patients", "4", "--val-per-class", "0", "--test-per-class", "0", "--crops-only", "--seed", "7"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cohort of four crops, written by two processes in one go."""
    out = tmp_path_factory.mktemp("cohort") / "undisturbed"
    assert main(["simulate", str(out), *FEW, "--workers", "2"]) == 0
    return out


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# --- who is in it


def test_default_cohort_has_the_papers_classes_and_splits() -> None:
    everybody = members(CohortPlan(PersonSettings(0), classes=PAPER_CLASSES))
    found = Counter((m.split, tscore.classify(m.person.patient.t_score)) for m in everybody)
    normal, osteopenia, osteoporosis = CLASS_ORDER
    assert found == {
        ("train", osteoporosis): 20, ("train", osteopenia): 110, ("train", normal): 181,
        **{(split, name): 13 for split in ("validation", "test") for name in CLASS_ORDER},
    }  # fmt: skip
    assert all(m.t_class is tscore.classify(m.person.patient.t_score) for m in everybody)
    assert [m.subject_id for m in everybody] == sorted({m.subject_id for m in everybody})
    # Ids tell nothing: classes are spread over the whole list.
    places = [i for i, m in enumerate(everybody) if m.t_class is osteoporosis]
    assert min(places) < 60 < 330 < max(places)


def test_any_number_has_the_populations_frequencies_and_begins_as_a_smaller_one() -> None:
    plan = CohortPlan(PersonSettings(5), patients=3000, validation_per_class=0, test_per_class=0)
    everybody = members(plan)
    shares = Counter(m.t_class for m in everybody)
    for name, share in CohortModel().class_prior().items():
        assert shares[name] / 3000 == pytest.approx(share, abs=0.03)
    small = members(CohortPlan(PersonSettings(5), patients=20, validation_per_class=0, test_per_class=0))
    assert [m.person for m in small] == [m.person for m in everybody[:20]]


@pytest.mark.parametrize("t_score", [-4.0, -2.5, -2.499, -1.001, -1.0, 1.0])
def test_limits_belong_to_the_classes_as_the_who_has_it(t_score: float) -> None:
    assert class_of(t_score) is tscore.classify(t_score)


def test_a_class_too_small_for_its_splits_is_refused() -> None:
    counts = {TScoreClass.OSTEOPOROSIS: 25, TScoreClass.OSTEOPENIA: 40, TScoreClass.NORMAL: 40}
    with pytest.raises(UsageError, match=r"25 patients have osteoporosis; validation and test ask for 26"):
        members(CohortPlan(PersonSettings(0), classes=counts))


def test_a_fixed_scan_leaves_the_patient_alone() -> None:
    free = draw_person(PersonSettings(2), 11).truth()
    fixed = draw_person(PersonSettings(2, kvp=80.0, kernel="sharp", dose=1.0), 11).truth()
    changed = {name for name in free if free[name] != fixed[name]}
    allowed = {"scan_kvp", "scan_kernel", "scan_noise_hu", "relative_dose", "trabecular_hu"}
    assert {"scan_kvp", "relative_dose", "trabecular_hu"} <= changed <= allowed


def test_noise_follows_dose_and_size_and_spreads_as_before() -> None:
    usual = noise_hu(120.0, 3.0, "soft", 1.0, 25.5)
    assert usual == pytest.approx(11.0)
    assert noise_hu(120.0, 3.0, "soft", 0.25, 25.5) == pytest.approx(2.0 * usual)
    # By hand: 4 cm more of water, half of it made good by the tube current: e^(0.5·0.5·0.19·4) = 1.209.
    assert noise_hu(120.0, 3.0, "soft", 1.0, 29.5) == pytest.approx(1.2092 * usual, rel=1e-4)
    fixed = PersonSettings(1, kvp=120.0, slice_thickness_mm=3.0, kernel="soft")
    logs = [np.log(draw_person(fixed, i).scan.noise_hu) for i in range(1500)]
    assert np.std(logs) == pytest.approx(NOISE_SPREAD, abs=0.02)


def test_ceiling_of_a_class_balanced_test_set_is_what_an_ideal_reader_scores_there() -> None:
    from sklearn.metrics import accuracy_score, roc_auc_score

    model, rng = CohortModel(), np.random.default_rng(4)
    drawn = [model.draw(rng) for _ in range(60_000)]
    truth = np.array([CLASS_ORDER.index(tscore.classify(p.t_score)) for p in drawn])
    z = np.array([p.signal for p in drawn])
    kept = np.concatenate([np.flatnonzero(truth == k)[:6500] for k in range(3)])
    even = dict.fromkeys(CLASS_ORDER, 1 / 3)
    ceiling = model.bayes_ceiling(prior=even)
    posterior = model.class_given_signal(z[kept]) / [model.class_prior()[c] for c in CLASS_ORDER]
    assert accuracy_score(truth[kept], posterior.argmax(axis=1)) == pytest.approx(ceiling.accuracy, abs=0.008)
    assert roc_auc_score(truth[kept] == 2, -z[kept]) == pytest.approx(ceiling.auc_osteoporosis, abs=0.006)
    assert ceiling.accuracy == pytest.approx(ceiling.balanced_accuracy)
    assert ceiling.balanced_accuracy == pytest.approx(model.bayes_ceiling().balanced_accuracy)
    assert ceiling.auc_osteoporosis < model.bayes_ceiling().auc_osteoporosis - 0.01  # fewer easy normals


def test_a_cohort_without_osteoporosis_has_no_auc() -> None:
    prior = {TScoreClass.NORMAL: 0.5, TScoreClass.OSTEOPENIA: 0.5, TScoreClass.OSTEOPOROSIS: 0.0}
    ceiling = CohortModel().bayes_ceiling(prior=prior)
    assert np.isnan(ceiling.auc_osteoporosis)
    assert 0.5 < ceiling.accuracy < 1.0


def test_only_core_leaves_everything_but_the_core_without_signal() -> None:
    shares = {"density": 1.0, "texture": 0.0, "cortex": 0.0, "size": 0.0}
    settings = PersonSettings(6, CohortModel(shares=shares), only_core=True)
    sheets = [draw_person(settings, i).truth() for i in range(1500)]
    t_score = np.array([float(s["t_score"]) for s in sheets])
    names = ("density_mg_ha", "texture_sd_hu", "shell_body_mm", "shape_width", "arch_density_mg_ha")
    r = {name: np.corrcoef(t_score, [float(s[name]) for s in sheets])[0, 1] for name in names}
    assert r.pop("density_mg_ha") == pytest.approx(0.77, abs=0.03)
    assert max(abs(v) for v in r.values()) < 0.08  # three standard errors


def test_only_core_shows_the_density_in_the_body_and_not_in_the_arch() -> None:
    from dataclasses import replace

    settings = PersonSettings(6, CohortModel(shares={"density": 1.0, "texture": 0.0, "cortex": 0.0, "size": 0.0}),
                              slice_thickness_mm=2.0, only_core=True)  # fmt: skip
    person = draw_person(settings, 1)
    denser = replace(person, patient=replace(person.patient, density_mg_ha=person.patient.density_mg_ha + 60.0))
    fields = []
    for one in (person, denser):
        spine = one.spine(("T12", "L1", "L2"))
        grid = CoarseGrid.covering((-30.0, -22.0, -20.0), (30.0, 75.0, 20.0), 2.0)
        fields.append(sample_bone(grid, spine, one.patient, one.scan, np.random.default_rng(0)))
    inside = fields[0].l1_distance_mm < -2.0
    gained = fields[1].trabecular_hu - fields[0].trabecular_hu
    y = np.broadcast_to(fields[0].grid.y_mm[None, :, None], gained.shape)
    slope = 60.0 * physics.hu_per_mg_ha(person.scan.kvp)
    assert gained[inside & (np.abs(y) < 8.0)].mean() == pytest.approx(slope, rel=0.1)
    assert np.abs(gained[inside & (y > 38.0)]).max() < 0.02 * slope  # laminae and spinous process


# --- what it looks like


def test_slabs_give_the_same_ct_as_the_plain_renderer() -> None:
    person = draw_person(QUIET, 4)
    scan = Scan(slice_thickness_mm=3.0, slice_increment_mm=2.0, in_plane_spacing_mm=1.1, noise_hu=0.0)
    spine = person.spine(("T12", "L1", "L2"))
    grid = CoarseGrid.covering((-60.0, -45.0, -40.0), (60.0, 85.0, 40.0), 2.0)
    bone = sample_bone(grid, spine, person.patient, scan, np.random.default_rng(0))
    soft = sample_soft_tissue(grid, spine, scan, np.random.default_rng(1), with_organs=False)
    pixels = PixelGrid.covering(np.array([-55.0, -40.0, -35.0]), np.array([55.0, 80.0, 35.0]), scan)
    plain = render_ct(bone, soft, pixels, scan, np.random.default_rng(2))
    slabs, labels = render_slabs((grid, soft), [Layer(bone)], pixels, scan, np.random.default_rng(2), Stopwatch())
    difference = np.abs(slabs.astype(float) - plain)
    assert difference.mean() < 0.1
    assert np.quantile(difference, 0.999) < 4.0  # soft tissue is averaged over the slice before bone covers it
    assert {30, 31, 32} == set(np.unique(labels).tolist()) - {0}


def test_noise_made_in_the_frequency_domain_is_that_of_the_plain_renderer() -> None:
    scan = Scan(in_plane_spacing_mm=0.8, kernel="soft", noise_hu=20.0)
    shaped = NoiseSource(np.random.default_rng(0), (96, 110), scan).slices(60)
    plain = physics.correlated_noise(np.random.default_rng(1), (60, 96, 110), 0.8, 0.64, 20.0)
    for noise in (shaped, plain):
        assert noise.std() == pytest.approx(20.0, rel=0.02)
    for axis, lag in ((1, 1), (2, 1), (2, 2), (0, 1)):
        first, second = (_lagged(noise, axis, lag) for noise in (shaped, plain))
        assert first == pytest.approx(second, abs=0.015)


def _lagged(noise: np.ndarray, axis: int, lag: int) -> float:
    moved = np.moveaxis(noise, axis, 0)
    return float(np.corrcoef(moved[lag:].ravel(), moved[:-lag].ravel())[0, 1])


def test_crop_and_whole_ct_show_the_same_person() -> None:
    person = draw_person(QUIET, 2)
    crop, whole = person_l1_case(person, perfect_mask=True), person_ct(person, (-45.0, 45.0), perfect_masks=True)
    case = as_case(whole.ct, whole.labels_zyx == 31)
    assert case.ct.geometry.spacing_mm_xyz == crop.ct.geometry.spacing_mm_xyz
    assert case.volume_ml == pytest.approx(crop.volume_ml, rel=0.04)
    for shown in (crop, case):
        assert measure(shown)[0].mean_hu == pytest.approx(float(person.truth()["trabecular_hu"]), abs=16.0)
    np.testing.assert_array_equal(person_l1_case(person).ct.array_zyx, crop.ct.array_zyx)  # the mask's errors are apart


def test_whole_ct_has_its_ribs_and_ends_where_the_scanners_matrix_ends() -> None:
    person = draw_person(QUIET, 5)
    narrow = person_ct(_with_pixels(person, 0.35), (-20.0, 60.0))
    assert max(narrow.ct.geometry.size_xyz[:2]) <= 512
    assert narrow.ct.geometry.size_xyz[0] * 0.35 == pytest.approx(512 * 0.35, abs=1.0)
    wide = person_ct(_with_pixels(person, 2.0), (-40.0, 85.0))
    assert {30, 31, 32, 33, 103, 115} <= set(np.unique(wide.labels_zyx).tolist())
    assert wide.ct.array_zyx[:, :4, :4].mean() == pytest.approx(-1000.0, abs=15.0)


def _with_pixels(person: Person, spacing_mm: float) -> Person:
    from dataclasses import replace

    return replace(person, scan=replace(person.scan, in_plane_spacing_mm=spacing_mm, slice_thickness_mm=4.0,
                                        slice_increment_mm=4.0))  # fmt: skip


# --- the files


def test_nifti_is_read_back_by_simpleitk_where_it_was_and_has_the_same_bytes_every_time(tmp_path: Path) -> None:
    hu = np.random.default_rng(0).integers(-1024, 3071, (5, 6, 7)).astype(np.int16)
    geometry = ImageGeometry((7, 6, 5), (0.7, 0.8, 2.5), (-12.5, 30.25, -400.0))
    write_nifti(tmp_path / "a.nii.gz", hu, geometry, "medconv simulated CT")
    write_nifti(tmp_path / "b.nii.gz", hu, geometry, "medconv simulated CT")
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()
    image = sitk.ReadImage(str(tmp_path / "a.nii.gz"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), hu)
    assert image.GetSpacing() == pytest.approx(geometry.spacing_mm_xyz)
    assert image.GetOrigin() == pytest.approx(geometry.origin_lps_mm)
    assert image.GetDirection() == pytest.approx(geometry.direction)
    assert read_ct(tmp_path / "a.nii.gz").is_simulated
    with pytest.raises(ValueError, match="can't write float32"):
        write_nifti(tmp_path / "c.nii.gz", hu.astype(np.float32), geometry)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.nii.gz", "b.nii.gz"]


def test_sheets_hold_every_patient_and_no_time_of_day(tmp_path: Path) -> None:
    everybody = members(CohortPlan(PersonSettings(9), patients=30, validation_per_class=1, test_per_class=1))
    write_labels(tmp_path / "labels.xlsx", everybody, 31)
    rows = list(openpyxl.load_workbook(tmp_path / "labels.xlsx").active.iter_rows(values_only=True))
    assert rows[0] == ("SubjectID", "T-score", "Class", "PatientID", "kVp", "Scanner", "Label")
    assert len(rows) == 31
    for row, member in zip(rows[1:], everybody, strict=True):
        assert row[0] == row[3] == member.subject_id
        assert row[1] == pytest.approx(member.person.patient.t_score, abs=1e-12)
        assert row[2] == tscore.classify(row[1]).value
        assert (row[4], row[5], row[6]) == (member.person.scan.kvp, member.person.scanner, 31)
    with zipfile.ZipFile(tmp_path / "labels.xlsx") as book:
        assert {entry.date_time[0] for entry in book.infolist()} == {1980}
        assert set(re.findall(rb"\d{4}-\d\d-\d\dT", book.read("docProps/core.xml"))) == {b"1980-01-01T"}
    write_truth(tmp_path / "truth.csv", everybody)
    with (tmp_path / "truth.csv").open(encoding="utf-8") as stream:
        truth = list(csv.DictReader(stream))
    assert [row["SubjectID"] for row in truth] == [m.subject_id for m in everybody]
    assert [float(row["signal"]) for row in truth] == [m.person.patient.signal for m in everybody]


def test_folder_has_the_authors_layout_with_its_ceiling(undisturbed: Path) -> None:
    names = set(contents(undisturbed))
    ids = [f"sim7-{i:05d}" for i in (1, 2, 3, 4)]
    files = {f"{part}/{name}.nii.gz" for part in ("train_data", "masks") for name in ids}
    assert names == files | {"cohort.json", "labels.xlsx", "truth.csv"}
    document = json.loads((undisturbed / "cohort.json").read_text())
    assert CohortModel(**document["model"]) == CohortModel()
    assert document["bayes_ceiling"]["population"]["balanced_accuracy"] == pytest.approx(0.653, abs=0.001)
    assert document["bayes_ceiling"]["class_balanced"]["accuracy"] == pytest.approx(0.653, abs=0.001)
    mask = sitk.ReadImage(str(undisturbed / "masks" / f"{ids[0]}.nii.gz"))
    ct = sitk.ReadImage(str(undisturbed / "train_data" / f"{ids[0]}.nii.gz"))
    assert mask.GetSize() == ct.GetSize()
    assert set(np.unique(sitk.GetArrayFromImage(mask))) == {0, 31}


def test_a_folder_with_holes_is_finished_to_the_same_bytes(undisturbed: Path, tmp_path: Path) -> None:
    # As a kill leaves it: two patients done, one mask without its CT, one file half written, no sheets.
    out = tmp_path / "killed"
    plan = CohortPlan(PersonSettings(7), patients=4, validation_per_class=0, test_per_class=0)
    jobs = open_cohort(out, plan, ImageSettings(crops_only=True))
    for job in (jobs[3], jobs[1], jobs[0]):
        run_job(job)
    jobs[0].ct.unlink()
    (out / "train_data" / ".unfinished-sim7-00003.nii.gz").write_bytes(b"half")
    assert main(["simulate", str(out), *FEW, "--workers", "1"]) == 0
    assert contents(out) == contents(undisturbed)


def started(out: Path) -> subprocess.Popen[str]:
    """The command in a process of its own, at work on its second CT or later."""
    command = [sys.executable, "-m", "medconv.cli", "simulate", str(out), *FEW, "--workers", "1"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3] / "BoneDensityMedConv")}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    for _ in range(4800):
        if any((out / "train_data").glob("sim7-*")) or process.poll() is not None:
            break
        time.sleep(0.025)
    return process


def test_ctrl_c_ends_quietly_and_the_same_command_goes_on(undisturbed: Path, tmp_path: Path) -> None:
    out = tmp_path / "stopped"
    process = started(out)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    if process.returncode != 0:  # it may have been done before the signal came
        assert process.returncode == 130
        assert said.strip().splitlines()[-1] == "medconv: Cancelled."
        assert not (out / "labels.xlsx").exists()
    assert "Traceback" not in said
    assert not list(out.rglob(".unfinished*"))
    assert main(["simulate", str(out), *FEW, "--workers", "1"]) == 0
    assert contents(out) == contents(undisturbed)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc to see a process's children")
def test_a_killed_command_takes_its_workers_with_it(tmp_path: Path) -> None:
    process = started(tmp_path / "killed")
    task = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    children = task.read_text().split() if task.exists() else []
    assert children or process.poll() == 0  # it may have been done already
    process.kill()
    process.communicate(timeout=60)
    left = children
    for _ in range(1200):
        left = [pid for pid in children if Path(f"/proc/{pid}/status").exists() and "zombie" not in _status(pid)]
        if not left:
            break
        time.sleep(0.05)
    assert not left


def _status(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/status").read_text()
    except OSError:  # gone since
        return "zombie"


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (["--kvp", "100"], "plan.persons.kvp None (asked for: 100.0)"),
        (["--correlation", "0.35"], "plan.persons.model.signal_correlation 0.77 (asked for: 0.35)"),
        (["--findings", "metal=0.5"], "plan.persons.finding_shares.metal None (asked for: 0.5)"),
    ],
)
def test_a_folder_of_other_settings_is_refused(
    undisturbed: Path, capsys: pytest.CaptureFixture[str], changed: list[str], told: str
) -> None:
    before = contents(undisturbed)
    assert main(["simulate", str(undisturbed), *FEW, *changed]) == 2
    assert told in capsys.readouterr().err
    assert contents(undisturbed) == before


def test_a_folder_of_something_else_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    assert main(["simulate", str(tmp_path), *FEW]) == 2
    assert "holds files, but no cohort" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--correlation", "1.2"], "--correlation must lie in 0..1"),
        (["--slice-thickness", "9"], "--slice-thickness must lie in 0.6..5"),
        (["--kvp", "seventy"], "--kvp must lie in 80..140"),
        (["--classes", "1,2"], "--classes needs three whole numbers"),
        (["--classes", "1,2,3", "--patients", "6"], "Both --patients and --classes"),
        (["--findings", "gout"], "'gout' is no finding"),
        (["--findings", "metal=2"], "--findings metal must lie in 0..1"),
        (["--workers", "0"], "--workers must be 1 or more"),
        (["--field-of-view", "0", "900"], "field of view"),
        (["--templates", "nowhere"], "holds no label maps"),
    ],
)
def test_wrong_requests_are_told_in_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], told: str
) -> None:
    assert main(["simulate", str(tmp_path / "out"), *arguments]) in (2, 3)
    said = capsys.readouterr().err
    assert told in said
    assert "Unexpected" not in said
    assert not (tmp_path / "out").exists()
