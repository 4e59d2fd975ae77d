"""The paper's tables as data: the numbers agree with one another, and every row is something that can be run."""

from __future__ import annotations

import re
import statistics
from pathlib import Path

import pytest
import torch

from medconv.training.paper.paper_notes import NOTES, notes_of
from medconv.training.paper.paper_runs import (
    budget_of,
    find_pretrained,
    matches,
    plan_rows,
    run_name,
    settings_of,
    with_epochs,
)
from medconv.training.paper.paper_tables import CTSPINE1K, FIG4, FIGURES, TABLES, PaperRow, recipe_of
from medconv.training.paper.reproduce import distinct
from medconv.training.parts import assembly
from medconv.types import InputRefused, TScoreClass, UsageError

ALL = [(key, row) for key, table in TABLES.items() for row in table.rows]


def row_of(table: str, label: str) -> PaperRow:
    return next(row for row in TABLES[table].rows if row.label == label)


def test_the_tables_have_as_many_rows_as_are_printed() -> None:
    assert {key: len(table.rows) for key, table in TABLES.items()} == {
        "table2": 43, "table3": 12, "table4": 12, "table5": 18, "table6": 10,
    }  # fmt: skip
    assert all(len({row.label for row in table.rows}) == len(table.rows) for table in TABLES.values())


def test_the_numbers_are_those_of_the_paper(repository: Path) -> None:
    paper = repository.parent / "shared" / "paper" / "medconv.md"
    if not paper.exists():
        pytest.skip("the paper's text (../shared/paper/medconv.md) is not here")
    text = re.sub(r"</?b>|\([+-][\d.]+\)", "", paper.read_text("utf-8"))
    printed = [line.split("\t") for line in text.splitlines()]
    numbers = []
    for cells in printed:
        last = [cell.strip() for cell in cells[-5:]]
        if len(cells) >= 6 and all(re.fullmatch(r"\d+\.\d+", cell) for cell in last):
            values = [float(cell) for cell in last]
            numbers.append(tuple(round(100 * v if max(values) < 1 else v, 2) for v in values))
    ours = [tuple(getattr(row.figures, name) for name in FIGURES) for _, row in ALL]
    assert ours == numbers


def test_sensitivity_is_the_accuracy_and_specificity_follows_from_it() -> None:
    odd = []
    for key, row in ALL:
        f = row.figures
        assert f.sensitivity == f.accuracy
        if abs(f.specificity - (100 + f.accuracy) / 2) > 0.011:
            odd.append((key, row.label))
    assert odd == [("table2", "JointViT+pretrain")]  # has its footnote
    assert pytest.approx(76.92, abs=0.011) == (100 + 53.85) / 2  # its specificity goes with its "F1"


def test_every_accuracy_is_a_whole_number_of_78_patients_but_one() -> None:
    odd = [
        row.label for _, row in ALL if abs(row.figures.accuracy - 100 * round(0.78 * row.figures.accuracy) / 78) > 0.006
    ]
    assert odd == ["ViT+pretrain"]
    assert [round(100 * n / 78, 2) for n in (51, 50, 49)] == [65.38, 64.10, 62.82]


def test_rows_that_stand_in_two_tables_agree_but_for_one_auc() -> None:
    known = {row.recipe: row for row in TABLES["table2"].rows}
    apart = []
    for key in ("table3", "table4", "table5", "table6"):
        for row in TABLES[key].rows:
            twin = known.get(row.recipe)
            if twin and twin.figures != row.figures:
                apart.append((key, row.label, row.figures.auc, twin.figures.auc))
    assert apart == [("table4", "efficientnet w/", 74.14, 78.06)]
    assert row_of("table5", "0").figures == row_of("table2", "resnet50.a1_in1k+pretrain").figures
    assert row_of("table5", "1").figures == row_of("table6", "1.0").figures
    assert row_of("table6", "0.5").figures == row_of("table2", "MedConv (Ours)").figures


def test_the_rows_of_table_3_are_rows_of_table_2_for_one_segmenter_and_their_partners_for_the_other() -> None:
    recipes = {row.recipe for row in TABLES["table2"].rows}
    first, second = TABLES["table3"].rows[1::2], TABLES["table3"].rows[0::2]
    assert all(row.recipe in recipes for row in first)
    assert {row.recipe.segmenter for row in second} == {CTSPINE1K}
    assert [row.recipe.backbone for row in first] == [row.recipe.backbone for row in second]


def test_what_the_footnotes_claim_follows_from_the_numbers() -> None:
    near_one = [row.figures.accuracy for row in TABLES["table5"].rows if 0.75 <= float(row.label) <= 1.1]
    assert statistics.stdev(near_one) == pytest.approx(3.4, abs=0.05)
    medconv = row_of("table2", "MedConv (Ours)").figures
    others = [row.figures for row in TABLES["table2"].rows if row.figures != medconv]
    assert max(others, key=lambda f: f.auc) == row_of("table2", "resnet34.a1_in1k+pretrain").figures
    gains = [(round(medconv.accuracy - f.accuracy), round(medconv.auc - f.auc)) for f in others]
    assert (21, 20) not in gains
    assert (
        row_of("table3", "resnet50, CTSpine1K").figures.accuracy
        == row_of("table3", "resnet50, TotalSegmentator").figures.accuracy
    )
    assert sum(FIG4.values()) == 389
    assert FIG4[TScoreClass.OSTEOPOROSIS] == 46


def test_every_note_has_its_rows_and_every_undefined_word_its_note() -> None:
    for key, table in TABLES.items():
        carried = dict(notes_of(key, table.rows))
        expected = [note for note in NOTES if key in note.tables]
        assert list(carried) == expected, "a footnote has lost its row"
        for i, row in enumerate(table.rows):
            marks = {note.key for note, rows in carried.items() if i in rows}
            r = row.recipe
            wanted = {"windows": r.windows, "balaug": r.balaug, "resample": r.resample, "train_params": r.train_params}
            assert {word for word, there in wanted.items() if there} == marks & set(wanted)


@pytest.mark.parametrize("table", list(TABLES))
def test_every_row_names_parts_that_exist_in_every_budget(table: str) -> None:
    for budget in ("cpu", "full", "15"):
        for planned in plan_rows(TABLES[table], budget_of(budget), seeds=1):
            assembly.check_names(planned.runs[0].settings)


def test_every_row_of_every_table_maps_to_a_network_that_takes_its_crops() -> None:
    built = set()
    for table in TABLES.values():
        for planned in plan_rows(table, budget_of("cpu"), seeds=1):
            settings = planned.runs[0].settings
            if (kind := (settings.backbone, settings.windows, settings.head, settings.loss)) in built:
                continue
            built.add(kind)
            with torch.device("meta"):
                parts = assembly.build_parts(settings, (181, 110, 20))
            x, y, z = settings.preprocessing.size_xyz
            channels = 3 if settings.windows else settings.preprocessing.channels
            output = parts.network.eval()(torch.empty(2, channels, z, y, x, device="meta"))
            assert output.shape == (2, parts.head.outputs)
    assert {kind[0].split("_small")[0] for kind in built} == {row.recipe.backbone for _, row in ALL}


def test_words_become_settings() -> None:
    cpu = budget_of("cpu")
    plain = settings_of(recipe_of("resnet18.a1_in1k"), cpu, 3)
    assert (plain.backbone, plain.loss, plain.sampling, plain.seed) == ("resnet18", "ce", "natural", 3)
    assert not plain.augmentation.mirror
    adjusted = settings_of(recipe_of("resnet50.a1_in1k+balce+tau1:0.25"), cpu, 0)
    assert (adjusted.loss, adjusted.tau1) == ("balce", 0.25)
    zero = settings_of(recipe_of("resnet50.a1_in1k+balce+tau1:0"), cpu, 0)
    assert zero.loss == "ce"
    balaug = settings_of(recipe_of("resnet50.a1_in1k+balce+balaug"), cpu, 0)
    assert (balaug.sampling, balaug.augmentation.mirror) == ("balaug", True)
    assert settings_of(recipe_of("resnet50.a1_in1k+schdulefree"), cpu, 0).optimiser == "schedule_free"
    assert settings_of(recipe_of("resnet101.a1_in1k+sam"), cpu, 0).optimiser == "sam"
    windows = settings_of(recipe_of("resnet18.a1_in1k+windows"), cpu, 0)
    assert windows.windows
    assert windows.preprocessing.window_hu == (-500.0, 1300.0)
    assert settings_of(recipe_of("JointViT"), cpu, 0).head == "joint"
    with pytest.raises(UsageError):
        recipe_of("resnet18.a1_in1k+magic")


def test_equal_trainings_are_one_run_and_different_ones_are_not() -> None:
    cpu = budget_of("cpu")
    table2 = plan_rows(TABLES["table2"], cpu, seeds=2)
    runs = distinct(table2)
    by_label = {planned.row.label: planned for planned in table2}
    assert by_label["resnet18.a1_in1k"].runs == by_label["resnet18.a1_in1k+pretrain"].runs
    assert by_label["MedConv (Ours)"].runs == by_label["resnet50.a1_in1k+pretrain+balce"].runs
    assert len({run.name for run in runs}) == len(runs) == len({run.settings for run in runs})
    assert [run.name.endswith("seed0") for run in runs] == sorted(
        (r.name.endswith("seed0") for r in runs), reverse=True
    )
    assert len(distinct(plan_rows(TABLES["table6"], cpu, seeds=1))) == 1
    assert len(distinct(plan_rows(TABLES["table5"], cpu, seeds=1))) == 18
    shared = {run.name for run in distinct(plan_rows(TABLES["table4"], cpu, seeds=1))}
    assert shared < {run.name for run in runs}


def test_a_pretrained_row_keeps_its_full_size_and_others_are_marked(tmp_path: Path) -> None:
    weights = tmp_path / "resnet50.a1_in1k.safetensors"
    weights.touch()
    (tmp_path / "readme.txt").touch()
    files = find_pretrained(tmp_path)
    assert files == {"resnet50": weights} == find_pretrained(weights)
    rows = {p.row.label: p for p in plan_rows(TABLES["table4"], budget_of("cpu"), 1, pretrained=files)}
    assert rows["resnet50 w/"].runs[0].settings.pretrained == str(weights)
    assert rows["resnet50 w/"].runs[0].settings.width == 64
    assert rows["resnet50 w/"].runs[0].name == "resnet50-tau1-pretrained-seed0"
    assert (rows["resnet50 w/"].not_pretrained, rows["resnet34 w/"].not_pretrained) == (False, True)
    with pytest.raises(InputRefused, match="holds none"):
        find_pretrained(tmp_path / "readme.txt")


def test_rows_are_chosen_by_pattern_and_a_pattern_without_rows_is_refused() -> None:
    assert matches("resnet50.a1_in1k+pretrain", "RESNET50*pretrain")
    assert not matches("resnet18.a1_in1k", "resnet34|vit")
    labels = [p.row.label for p in plan_rows(TABLES["table2"], budget_of("cpu"), 1, "jointvit|resnet10t")]
    assert labels == ["resnet10t.c3_in1k+pretrain", "JointViT+pretrain", "JointViT+pretrain+balce"]
    assert [p.row.label for p in plan_rows(TABLES["table5"], budget_of("cpu"), 1, "0.5|1")] == ["0.5", "1"]
    with pytest.raises(UsageError, match="No row"):
        plan_rows(TABLES["table2"], budget_of("cpu"), 1, "alexnet")


def test_minutes_become_epochs() -> None:
    budget = budget_of("30")
    assert with_epochs(budget, seconds_an_epoch=60.0).epochs == 30
    assert with_epochs(budget, seconds_an_epoch=1e4).epochs == 2
    assert with_epochs(budget, seconds_an_epoch=1.0).epochs == 60
    assert with_epochs(budget_of("cpu"), 1e9) == budget_of("cpu")
    with pytest.raises(UsageError, match="no budget"):
        budget_of("much")
    assert any("20 epochs instead of 200" in said for said in budget_of("cpu").told())


def test_a_run_is_named_after_what_was_done() -> None:
    recipe = recipe_of("resnet50.a1_in1k+pretrain+balce+schdulefree")
    assert run_name(recipe, budget_of("cpu"), 2, pretrained=False) == "resnet50-tau1-schedulefree-seed2"
    other = recipe_of("resnet18.a1_in1k+CTSpine1K")
    names = [run_name(other, budget_of(name), 0, pretrained=False) for name in ("cpu", "full", "5")]
    assert names == ["resnet18-ce-masksb-seed0", "resnet18-ce-masksb-full-seed0", "resnet18-ce-masksb-epochs20-seed0"]
