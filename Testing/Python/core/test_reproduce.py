"""Running the paper's rows on a cohort: resumed, read once, with figures that other libraries agree with."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from medconv import volume_io
from medconv.config import CLASS_ORDER, Preprocessing
from medconv.simulate.cohort import CohortModel
from medconv.training.cohorts.cases import SPLIT_NAMES, TEST, TRAIN, VALIDATION, Cohort, LabelledCase
from medconv.training.cohorts.crops import CropSet
from medconv.training.figures.predictions import Predictions
from medconv.training.figures.test_readings import readings_of
from medconv.training.paper import reproduce
from medconv.training.paper.paper_runs import Budget, PlannedRow, budget_of, plan_rows
from medconv.training.paper.paper_tables import CTSPINE1K, TABLES, TOTALSEGMENTATOR
from medconv.training.paper.reproduce import EXTRA, Clock, Data, complete, distinct, load_answers, settle_budget
from medconv.training.paper.reproduce_document import class_document, table_document
from medconv.training.paper.reproduce_figures import (
    Patients,
    adjusted,
    disagreement,
    raw,
    row_figures,
    smallest_significant_difference,
    smallest_unpaired_difference,
)
from medconv.training.paper.reproduce_masks import dice, spoil, with_masks, worse_masks
from medconv.training.paper.reproduce_plots import plot
from medconv.training.paper.reproduce_report import footnotes, markdown, page, sheet_csv
from medconv.types import ImageGeometry, InputRefused, UsageError

SMALL = Preprocessing(size_xyz=(10, 10, 8), spacing_mm=8.0)
BUDGET = Budget("tiny", epochs=2, width=2, preprocessing=SMALL, small_vit=True)
COUNTS = {TRAIN: (10, 8, 6), VALIDATION: (3, 3, 3), TEST: (4, 4, 4), EXTRA: (9, 7, 5)}


def silent(text: str, fraction: float | None = None) -> None:
    pass


def case(case_id: str, t_class: int, split: str) -> LabelledCase:
    return LabelledCase(case_id, case_id, Path("none"), None, CLASS_ORDER[t_class], -0.5 - 1.2 * t_class, split=split)


def crop_set(split: str, segmenter: str) -> CropSet:
    """Crops whose brightness tells the class, with noise."""
    classes = np.repeat([0, 1, 2], COUNTS[split])
    rng = np.random.default_rng([*split.encode(), *segmenter.encode()])
    crops = rng.normal(160 - 30 * classes[:, None, None, None, None], 25, (len(classes), 1, 8, 10, 10))
    t_scores = -0.5 - 1.2 * classes
    ids = tuple(f"{split}{i:02d}" for i in range(len(classes)))
    hu = 180.0 - 30 * classes + rng.normal(0, 20, len(classes))
    signals = 1.0 - classes + rng.normal(0, 0.5, len(classes))
    return CropSet(
        np.clip(crops, 0, 255).astype(np.uint8), classes, t_scores, signals, hu, np.full(len(hu), 120.0), ids
    )


def data_in(folder: Path, extra: bool = False) -> Data:
    """A cohort whose crops need no CT."""

    def cohort(splits: tuple[str, ...]) -> Cohort:
        sets = {split: crop_set(split, "") for split in splits}
        cases = [
            case(case_id, int(c), TEST if split == EXTRA else split)
            for split, crops in sets.items()
            for case_id, c in zip(crops.case_ids, crops.classes, strict=True)
        ]
        return Cohort("small", tuple(cases), "simulated", model=CohortModel())

    whole, further = cohort(SPLIT_NAMES), cohort((EXTRA,))
    names = (TOTALSEGMENTATOR, CTSPINE1K)
    made = {
        (name, split, grey): crop_set(split, name)
        for name in names
        for split in COUNTS
        for grey in (SMALL, Preprocessing(SMALL.size_xyz, 8.0, (-500.0, 1300.0)))
    }
    extras = dict.fromkeys(names, further) if extra else {}
    return Data(dict.fromkeys(names, whole), extras, folder, silent, 1, made)


def rows_of(table: str, pattern: str, seeds: int = 1) -> tuple[PlannedRow, ...]:
    return plan_rows(TABLES[table], BUDGET, seeds, pattern)


def run_all(rows: tuple[PlannedRow, ...], data: Data, out: Path) -> list[float | None]:
    runs = distinct(rows)
    clock = Clock({run.name: 1.0 for run in runs}, silent)
    return [complete(run, data, out, "cpu", clock, "") for run in runs]


def answers(rng: np.random.Generator, n: int = 60, tau1: float = 1.0) -> Predictions:
    nan, classes = np.full(n, np.nan), np.repeat([0, 1, 2], n // 3)
    logits = rng.normal(size=(n, 3)) + np.eye(3)[classes]
    ids = tuple(str(i) for i in range(n))
    return Predictions(TEST, ids, classes, nan, logits, nan, nan, nan, nan, (0.5, 0.4, 0.1), tau1)


def test_the_five_figures_are_those_of_scikit_learn() -> None:
    found = answers(np.random.default_rng(3))
    p, y = raw(found), found.classes
    crops = CropSet(np.zeros((60, 1, 1, 1, 1), np.uint8), y, y * 1.0, y * 1.0, y * 1.0, y * 1.0, found.case_ids)
    patients = Patients.of(crops, {i: i for i in found.case_ids})
    figures = row_figures(patients, [p])
    told = p.argmax(axis=1)
    expected = {
        "accuracy": sklearn_metrics.accuracy_score(y, told),
        "sensitivity": sklearn_metrics.recall_score(y, told, average="macro"),
        "specificity": (1 + sklearn_metrics.accuracy_score(y, told)) / 2,  # as many of each class
        "f1": sklearn_metrics.f1_score(y, told, average="weighted"),
        "auc": sklearn_metrics.roc_auc_score(y, p, multi_class="ovr", average="macro"),
    }
    assert {name: f["value"] for name, f in figures.items()} == pytest.approx({k: 100 * v for k, v in expected.items()})
    for name, figure in figures.items():
        assert figure["low"] < figure["value"] < figure["high"], name
        assert figure["sd"] is None
    # Wilson by hand: centre (p + z²/2n) / (1 + z²/n), half width z·sqrt(p(1−p)/n + z²/4n²) / (1 + z²/n)
    share, n, z = expected["accuracy"], 60, 1.959964
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    assert (figures["accuracy"]["low"], figures["accuracy"]["high"]) == pytest.approx(
        (100 * (centre - half), 100 * (centre + half)), abs=1e-3
    )


def test_over_seeds_the_mean_and_its_spread_are_told() -> None:
    rng = np.random.default_rng(4)
    runs = [answers(rng) for _ in range(3)]
    crops = CropSet(np.zeros((60, 1, 1, 1, 1), np.uint8), *(runs[0].classes * 1 for _ in range(5)), runs[0].case_ids)
    patients = Patients.of(crops, {i: i for i in runs[0].case_ids})
    figure = row_figures(patients, [raw(run) for run in runs])["accuracy"]
    each = [100 * float(np.mean(raw(run).argmax(axis=1) == run.classes)) for run in runs]
    assert figure["by_seed"] == pytest.approx(each)
    assert figure["value"] == pytest.approx(np.mean(each))
    assert figure["sd"] == pytest.approx(np.std(each, ddof=1))


def test_the_forms_of_table_6_leave_the_raw_logits_at_tau2_1_and_agree_where_they_should() -> None:
    found = answers(np.random.default_rng(5))
    assert adjusted(found, "log_prior", 1.0) == pytest.approx(raw(found))
    assert adjusted(found, "temperature", 1.0) == pytest.approx(raw(found))
    # At the published 0.5 the log prior and the authors' test script are the same.
    assert adjusted(found, "log_prior", 0.5) == pytest.approx(adjusted(found, "legacy_test", 0.5))
    assert not np.allclose(adjusted(found, "log_prior", 0.8), adjusted(found, "legacy_test", 0.8))
    # By hand: z + 0.5·log π = (0.653426, −0.458145, −1.151293).
    one = Predictions(
        TEST, ("a",), np.array([0]), *(np.zeros(1),), np.array([[1.0, 0, 0]]), *(np.zeros(1),) * 4, (0.5, 0.4, 0.1), 1.0
    )
    assert adjusted(one, "log_prior", 0.5)[0] == pytest.approx([0.669540, 0.220306, 0.110153], abs=1e-6)


def test_the_smallest_significant_difference_is_that_of_the_exact_test() -> None:
    # 10 patients on whom one is right: 8 against 2 has p = 2·56/1024 = 0.109, 9 against 1 has 2·11/1024 = 0.021.
    assert smallest_significant_difference(100, 0.1) == pytest.approx(8.0)
    # 5 patients: even 5 against 0 has p = 2/32.
    assert smallest_significant_difference(50, 0.1) == math.inf
    # 6 against 0 has p = 2/64.
    assert smallest_significant_difference(60, 0.1) == pytest.approx(10.0)
    assert smallest_unpaired_difference(100, 100, 0.5) == pytest.approx(1.959964 * 100 * math.sqrt(0.25 * 0.02))


def test_disagreement_is_the_share_of_patients_on_whom_just_one_is_right() -> None:
    y = np.array([0, 1, 2, 0])
    patients = Patients(("a", "b", "c", "d"), y, np.ones((1, 4)), True)
    first, second = np.eye(3)[[0, 1, 2, 1]], np.eye(3)[[0, 2, 1, 2]]
    assert disagreement(patients, [first, second]) == 0.5  # b and c; both are wrong on d
    assert disagreement(patients, [first]) is None


def test_a_killed_table_goes_on_and_reads_the_test_set_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, rows = data_in(tmp_path / "crops"), rows_of("table4", "resnet34*", seeds=2)
    expected_out, out = tmp_path / "whole", tmp_path / "killed"
    run_all(rows, data, expected_out)

    def killed_at(step: int) -> None:
        heard = []

        def stop(self: Clock, text: str, fraction: float) -> None:
            heard.append(text)
            if len(heard) == step:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(Clock, "step", stop)
            with pytest.raises(KeyboardInterrupt):
                run_all(rows, data, out)

    for step in (2, 5, 7):  # within an epoch, in the next, in the next run
        killed_at(step)
    taken = run_all(rows, data, out)
    assert any(seconds is not None for seconds in taken)
    for run in distinct(rows):
        whole, resumed = (load_answers(run, data, folder, TEST) for folder in (expected_out, out))
        assert np.array_equal(whole.logits, resumed.logits), run.name
        assert len(readings_of(out / "runs" / run.name)) == 1
    monkeypatch.setattr(reproduce, "train_run", None)
    assert run_all(rows, data, out) == [None] * 4, "a finished run must not be touched again"


def test_a_further_test_set_is_read_later_from_the_same_weights(tmp_path: Path) -> None:
    rows = rows_of("table4", "resnet34 w/o")
    run_all(rows, data_in(tmp_path), tmp_path)
    run = distinct(rows)[0]
    weights = (tmp_path / "runs" / run.name / "best.npz").read_bytes()
    data = data_in(tmp_path, extra=True)
    run_all(rows, data, tmp_path)
    assert (tmp_path / "runs" / run.name / "best.npz").read_bytes() == weights
    assert len(load_answers(run, data, tmp_path, EXTRA)) == sum(COUNTS[EXTRA])
    assert [reading.cases for reading in readings_of(tmp_path / "runs" / run.name)] == [12, 21]


def test_a_test_case_that_was_trained_on_is_refused(tmp_path: Path) -> None:
    data = data_in(tmp_path)
    key = (TOTALSEGMENTATOR, TEST, SMALL)
    data._made[key].crops[3] = data._made[(TOTALSEGMENTATOR, TRAIN, SMALL)].crops[0]
    with pytest.raises(InputRefused, match="1 of the 12 cases of the test test set also train"):
        run_all(rows_of("table4", "resnet34 w/o"), data, tmp_path)


def test_a_folder_of_other_data_is_refused(tmp_path: Path) -> None:
    rows = rows_of("table4", "resnet34 w/o")
    run_all(rows, data_in(tmp_path), tmp_path)
    other = data_in(tmp_path)
    other._made[(TOTALSEGMENTATOR, TRAIN, SMALL)].crops[0, 0, 0, 0, 0] ^= 1
    with pytest.raises(UsageError, match="data_sha256"):
        run_all(rows, other, tmp_path)


def test_the_budget_of_a_folder_is_kept(tmp_path: Path) -> None:
    first = settle_budget(tmp_path, budget_of("10"), "table4", lambda: 60.0)
    assert first.epochs == 10
    assert settle_budget(tmp_path, budget_of("10"), "table4", lambda: 6000.0) == first, (
        "timed anew, the plan would move"
    )
    with pytest.raises(UsageError, match="with --budget 10, asked for cpu"):
        settle_budget(tmp_path, budget_of("cpu"), "table4", lambda: 60.0)
    assert settle_budget(tmp_path, budget_of("cpu"), "table5", lambda: 60.0).epochs == 20


@pytest.mark.parametrize(
    ("table", "pattern", "seeds", "extra"),
    [
        ("table4", "resnet34*", 2, False),
        ("table3", "resnet18*", 1, True),
        ("table6", "*", 1, True),
        ("table5", "2", 1, False),
    ],
)
def test_the_report_has_both_figures_of_every_row(
    table: str, pattern: str, seeds: int, extra: bool, tmp_path: Path
) -> None:
    data, rows = data_in(tmp_path, extra), rows_of(table, pattern, seeds)
    run_all(rows, data, tmp_path)
    document = table_document(TABLES[table], rows, data, tmp_path, BUDGET, ["Said."], silent)
    text, png = markdown(document), plot(document)
    assert json.loads(json.dumps(document, allow_nan=False))["rows"][0]["label"] == rows[0].row.label
    first = next(line for line in text.splitlines() if line.startswith(f"| {rows[0].row.label}"))
    assert f"{rows[0].row.figures.accuracy:.2f}" in first
    assert f"{document['rows'][0]['ours']['test']['accuracy']['value']:.1f}" in first
    assert all(f"| {row.row.label}" in text for row in rows)
    assert "Research use only" in text
    assert "with 39 patients, and from" in text
    assert all(note in text for note in footnotes(document))
    assert ("not pretrained here" in text) == any(row.not_pretrained for row in rows)
    assert ("the further test set" in text) == extra
    html = page(document, png)
    assert "data:image/png" in html
    assert "Research use only" in html
    lines = sheet_csv(document).splitlines()
    per_row = 5 * (2 if extra else 1) * (5 if table == "table6" else 2)
    assert len(lines) == 1 + per_row * len(rows)
    assert png.startswith(b"\x89PNG")
    readers = document["references"]["test"]
    assert set(readers) == {"hu", "ideal"}


def test_fig_4_counts_the_cohort_and_the_paper(tmp_path: Path) -> None:
    document = class_document(data_in(tmp_path))
    assert document["classes"]["ours"]["train"] == {"normal": 10, "osteopenia": 8, "osteoporosis": 6}
    assert document["classes"]["paper"]["train"] == {"normal": 181, "osteopenia": 110, "osteoporosis": 20}
    assert "| paper | all | 207 (53.2%) | 136 (35.0%) | 46 (11.8%) |" in markdown(document)
    assert plot(document).startswith(b"\x89PNG")
    assert "footnote" not in page(document, plot(document))


def test_the_worse_mask_is_one_piece_off_the_border_and_the_same_every_time() -> None:
    z, y, x = np.indices((30, 50, 60))
    ball = ((z - 15) * 1.5) ** 2 + (y - 25) ** 2 + (x - 30) ** 2 < 15**2
    worse = [spoil(ball, (1.5, 1.0, 1.0), np.random.default_rng(seed)) for seed in (1, 1, 2)]
    assert np.array_equal(worse[0], worse[1])
    assert not np.array_equal(worse[0], worse[2])
    overlap = [dice(ball, mask) for mask in worse]
    assert 0.75 < min(overlap) <= max(overlap) < 0.97
    from scipy import ndimage

    for mask in worse:
        assert ndimage.label(mask)[1] == 1
        assert not mask[[0, -1]].any()


def test_masks_of_a_second_segmenter(tmp_path: Path) -> None:
    mask = np.zeros((12, 14, 16), np.uint8)
    mask[3:9, 4:10, 4:12] = 31
    geometry = ImageGeometry((16, 14, 12), (2.0, 2.0, 2.0), (0.0, 0.0, 0.0))
    volume_io.write_image(tmp_path / "a.nii.gz", mask, geometry)
    one = LabelledCase("a", "a", Path("none"), tmp_path / "a.nii.gz", CLASS_ORDER[0], label=31)
    simulated = Cohort("s", (one,), model=CohortModel())
    worse = worse_masks(simulated, tmp_path / "b", silent)
    assert worse.cases[0].mask == tmp_path / "b" / "a.nii.gz"
    assert worse.cases[0].label is None
    labels, _, owner = volume_io.read_labels(worse.cases[0].mask)
    assert set(np.unique(labels)) == {0, 1}
    del owner
    with pytest.raises(InputRefused, match="two segmenters"):
        worse_masks(Cohort("hospital", (one,)), tmp_path / "c", silent)
    assert with_masks(simulated, tmp_path / "b").cases[0].mask == tmp_path / "b" / "a.nii.gz"
    with pytest.raises(InputRefused, match=r"lacks the masks of 1 of 1 cases \(a\)"):
        with_masks(simulated, tmp_path / "nowhere")
