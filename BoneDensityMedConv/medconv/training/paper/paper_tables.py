"""Tables II to VI and the figures 4 and 6 of the MedConv paper (arXiv 2502.00631) as data, each row with its recipe.

Percent, as printed; the tables' typesetting errors in names are undone, numbers are left as they are. What is odd about
them is told by `paper_notes`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from medconv.types import TScoreClass, UsageError

SOURCE = "arXiv 2502.00631"
PAPER_TEST_PATIENTS = 78  # the printed percentages are whole numbers of 78, 26 patients of each class
OUR_TEST_PATIENTS = 39  # 13 of each class: what the authors' repository describes as its test split
PAPER_TAU1, PAPER_TAU2 = 1.0, 0.5
TOTALSEGMENTATOR, CTSPINE1K = "TotalSegmentator", "CTSpine1K"
# Fig. 4 shows these; the numbers themselves stand in the authors' repository (the text has the sum only).
FIG4: Mapping[TScoreClass, int] = {
    TScoreClass.NORMAL: 207,
    TScoreClass.OSTEOPENIA: 136,
    TScoreClass.OSTEOPOROSIS: 46,
}
# The same split: 13 of each class for validation, 13 for test.
PAPER_PER_CLASS = 13


@dataclass(frozen=True)
class PaperFigures:
    """Percent. Sensitivity is the mean recall, specificity the mean over classes, F1 weighted, AUC one-versus-rest."""

    accuracy: float
    sensitivity: float
    specificity: float
    f1: float
    auc: float


FIGURES = tuple(field.name for field in fields(PaperFigures))
FIGURE_LABELS: Mapping[str, str] = {
    "accuracy": "Accuracy",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "f1": "F1",
    "auc": "ROC AUC",
}


@dataclass(frozen=True)
class Recipe:
    """What a row did, in the paper's words.

    tau1: of Bal-CE, CE(z + tau1·log π); 0 is plain cross-entropy. tau2: of an adjustment after training, None where the
    row is the network's raw logits. segmenter: whose L1 masks.
    """

    backbone: str
    pretrain: bool = False
    tau1: float = 0.0
    balaug: bool = False
    resample: bool = False
    windows: bool = False
    sam: bool = False
    schedule_free: bool = False
    train_params: bool = False
    segmenter: str = TOTALSEGMENTATOR
    tau2: float | None = None


@dataclass(frozen=True)
class PaperRow:
    """One printed row: its name, what was done, what came out."""

    label: str
    recipe: Recipe
    figures: PaperFigures


@dataclass(frozen=True)
class PaperTable:
    """key: the command line's name. x: heading of the first column. plotted: figures that a plot shows."""

    key: str
    title: str
    x: str
    rows: tuple[PaperRow, ...]


_TABLE_2 = """
resnet10t.c3_in1k+pretrain 58.97 58.97 79.49 59.46 67.90
resnet14t.c3_in1k+pretrain 56.41 56.41 78.21 56.53 70.12
resnet18.a1_in1k 48.72 48.72 74.36 44.87 65.06
resnet18.a1_in1k+windows 47.44 47.44 73.72 44.81 63.63
resnet18.a1_in1k+balaug 47.44 47.44 73.72 42.75 64.67
resnet18.a1_in1k+pretrain 62.82 62.82 81.41 62.34 74.51
resnet18.a1_in1k+pretrain+balce 62.82 62.82 81.41 62.28 75.79
resnet18.a1_in1k+pretrain+balaug 57.69 57.69 78.85 55.47 75.02
resnet18.a1_in1k+pretrain+windows 56.41 56.41 78.21 54.92 69.53
resnet18.a1_in1k+pretrain+balaug+windows 58.97 58.97 79.49 58.64 77.71
resnet34.a1_in1k 48.72 48.72 74.36 46.77 64.47
resnet34.a1_in1k+balaug 46.15 46.15 73.08 46.41 66.15
resnet34.a1_in1k+windows 48.72 48.72 74.36 47.33 63.93
resnet34.a1_in1k+pretrain 58.97 58.97 79.49 57.45 83.01
resnet34.a1_in1k+pretrain+balce 57.69 57.69 78.85 56.54 74.51
resnet34.a1_in1k+pretrain+balaug 56.41 56.41 78.21 56.34 73.69
resnet50.a1_in1k 44.87 44.87 72.44 41.66 59.94
resnet50.a1_in1k+pretrain 57.69 57.69 78.85 55.89 76.87
resnet50.a1_in1k+pretrain+balaug 55.13 55.13 77.56 53.52 70.81
resnet50.a1_in1k+pretrain+balce 64.10 64.10 82.05 65.14 78.43
resnet50.a1_in1k+pretrain+balce+schdulefree 57.69 57.69 78.85 57.40 71.40
resnet50.a1_in1k+pretrain+balce+balaug 62.82 62.82 81.41 61.13 76.53
resnet50.a1_in1k+pretrain+balce+resample 61.54 61.54 80.77 60.61 73.25
resnet50.a1_in1k+pretrain+sam 55.13 55.13 77.56 54.36 73.10
resnet50.a1_in1k+pretrain+balce+sam 56.41 56.41 78.21 55.82 73.22
resnet50.a1_in1k+trainParams+balaug 53.85 53.85 76.92 53.13 74.58
mobilenetv2_100.ra_in1k+pretrain 52.56 52.56 76.28 51.89 69.26
mobilenetv2_100.ra_in1k+pretrain+balce 56.41 56.41 78.21 55.45 71.52
efficientnet_b0.ra_in1k+pretrain 57.69 57.69 78.85 56.02 74.14
efficientnet_b0.ra_in1k+pretrain+balce 60.26 60.26 80.13 58.73 78.06
resnext50_32x4d.a1h_in1k+pretrain 60.26 60.26 80.13 60.77 76.06
resnext50_32x4d.a1h_in1k+pretrain+balce 55.13 55.13 77.56 52.64 71.28
resnext50_32x4d.a1h_in1k+pretrain+balaug 50.00 50.00 75.00 46.06 62.15
resnet101.a1_in1k+pretrain 55.13 55.13 77.56 54.78 73.30
resnet101.a1_in1k+pretrain+balce 58.97 58.97 79.49 55.27 73.30
resnet101.a1_in1k+pretrain+balce+sam 55.13 55.13 77.56 47.70 71.06
resnet152.tv_in1k+pretrain 50.00 50.00 75.00 47.91 69.06
resnet152.tv_in1k+pretrain+balce 57.69 57.69 78.85 58.30 70.76
resnet152.tv_in1k+pretrain+balce+sam 52.56 52.56 76.28 48.72 69.82
ViT+pretrain 33.54 33.54 66.77 17.93 58.35
JointViT+pretrain 41.03 41.03 76.92 53.85 60.78
JointViT+pretrain+balce 43.59 43.59 71.79 34.60 56.81
MedConv (Ours) = resnet50.a1_in1k+pretrain+balce+tau2:0.5 65.38 65.38 82.69 66.37 79.34
"""
# The recipes are those of the rows of Table II with the same figures; CTSpine1K's rows are read as their partners'.
_TABLE_3 = """
mobilenetv2, CTSpine1K = mobilenetv2_100.ra_in1k+pretrain+CTSpine1K 39.74 39.74 69.87 47.71 36.03
mobilenetv2, TotalSegmentator = mobilenetv2_100.ra_in1k+pretrain 52.56 52.56 76.28 51.89 69.26
resnet18, CTSpine1K = resnet18.a1_in1k+CTSpine1K 46.15 46.15 73.08 41.30 53.43
resnet18, TotalSegmentator = resnet18.a1_in1k 48.72 48.72 74.36 44.87 65.06
resnet34, CTSpine1K = resnet34.a1_in1k+CTSpine1K 42.31 42.31 71.15 36.01 53.60
resnet34, TotalSegmentator = resnet34.a1_in1k 48.72 48.72 74.36 46.77 64.47
resnet50, CTSpine1K = resnet50.a1_in1k+CTSpine1K 44.87 44.87 72.44 37.97 59.32
resnet50, TotalSegmentator = resnet50.a1_in1k 44.87 44.87 72.44 41.66 59.94
resnet101, CTSpine1K = resnet101.a1_in1k+pretrain+CTSpine1K 43.59 43.59 71.79 34.97 57.91
resnet101, TotalSegmentator = resnet101.a1_in1k+pretrain 55.13 55.13 77.56 54.78 73.30
resnet152, CTSpine1K = resnet152.tv_in1k+pretrain+CTSpine1K 42.31 42.31 71.15 36.10 54.29
resnet152, TotalSegmentator = resnet152.tv_in1k+pretrain 50.00 50.00 75.00 47.91 69.06
"""
_TABLE_4 = """
mobilenetv2 w/o = mobilenetv2_100.ra_in1k+pretrain 52.56 52.56 76.28 51.89 69.26
mobilenetv2 w/ = mobilenetv2_100.ra_in1k+pretrain+balce 56.41 56.41 78.21 55.45 71.52
efficientnet w/o = efficientnet_b0.ra_in1k+pretrain 57.69 57.69 78.85 56.02 74.14
efficientnet w/ = efficientnet_b0.ra_in1k+pretrain+balce 60.26 60.26 80.13 58.73 74.14
resnet34 w/o = resnet34.a1_in1k+pretrain 58.97 58.97 79.49 57.45 83.01
resnet34 w/ = resnet34.a1_in1k+pretrain+balce 57.69 57.69 78.85 56.54 74.51
resnet50 w/o = resnet50.a1_in1k+pretrain 57.69 57.69 78.85 55.89 76.87
resnet50 w/ = resnet50.a1_in1k+pretrain+balce 64.10 64.10 82.05 65.14 78.43
resnet101 w/o = resnet101.a1_in1k+pretrain 55.13 55.13 77.56 54.78 73.30
resnet101 w/ = resnet101.a1_in1k+pretrain+balce 58.97 58.97 79.49 55.27 73.30
resnet152 w/o = resnet152.tv_in1k+pretrain 50.00 50.00 75.00 47.91 69.06
resnet152 w/ = resnet152.tv_in1k+pretrain+balce 57.69 57.69 78.85 58.30 70.76
"""
_TABLE_5 = """
0 57.69 57.69 78.85 55.89 76.87
0.25 58.97 58.97 79.49 59.25 75.42
0.5 57.69 57.69 78.85 57.77 78.33
0.65 58.97 58.97 79.49 58.07 70.69
0.75 61.54 61.54 80.77 61.61 77.12
0.85 61.54 61.54 80.77 60.12 74.11
0.9 58.97 58.97 79.49 57.83 74.38
0.92 52.56 52.56 76.28 50.29 70.88
0.95 61.54 61.54 80.77 60.66 74.46
0.96 56.41 56.41 78.21 57.12 73.40
0.97 57.69 57.69 78.85 56.52 69.30
0.99 53.85 53.85 76.92 50.72 70.09
0.995 58.97 58.97 79.49 59.49 72.61
0.999 60.26 60.26 80.13 59.36 78.43
1 64.10 64.10 82.05 65.14 78.43
1.1 57.69 57.69 78.85 57.88 74.98
1.5 56.41 56.41 78.21 56.45 75.76
2 52.56 52.56 76.28 45.26 74.73
"""
_TABLE_6 = """
1.0 64.10 64.10 82.05 65.14 78.43
0.9 64.10 64.10 82.05 65.14 78.70
0.8 64.10 64.10 82.05 65.14 78.77
0.7 64.10 64.10 82.05 65.14 78.94
0.6 65.38 65.38 82.69 66.37 79.19
0.5 65.38 65.38 82.69 66.37 79.34
0.4 64.10 64.10 82.05 64.93 79.51
0.3 64.10 64.10 82.05 64.93 79.61
0.2 62.82 62.82 81.41 63.59 79.71
0.1 62.82 62.82 81.41 63.37 79.86
"""
_FLAGS = {name: name for name in ("pretrain", "balaug", "resample", "windows", "sam")} | {
    "schdulefree": "schedule_free",  # as Table II spells it
    "trainParams": "train_params",
}


def recipe_of(words: str) -> Recipe:
    """A recipe from Table II's words: "resnet18.a1_in1k+pretrain+balce". Raises UsageError for an unknown word."""
    backbone, *rest = words.split("+")
    values: dict[str, str | bool | float] = {"backbone": backbone.split(".")[0].lower()}
    for word in rest:
        name, _, number = word.partition(":")
        if name in _FLAGS:
            values[_FLAGS[name]] = True
        elif name == "balce":
            values["tau1"] = PAPER_TAU1
        elif name in ("tau1", "tau2"):
            values[name] = float(number)
        elif name == CTSPINE1K:
            values["segmenter"] = CTSPINE1K
        else:
            raise UsageError("unknown_word", f"'{word}' is no word of the paper's Table II.", "See docs/decisions.")
    return Recipe(**values)  # type: ignore[arg-type]


def _rows(text: str, recipe: str = "") -> tuple[PaperRow, ...]:
    """Rows of "label[ = words] five figures"; `recipe`: words with {} for the label."""
    rows = []
    for line in text.strip().splitlines():
        name, *figures = line.rsplit(maxsplit=len(FIGURES))
        label, _, words = name.partition(" = ")
        words = recipe.format(label) if recipe else words or label
        rows.append(PaperRow(label, recipe_of(words), PaperFigures(*map(float, figures))))
    return tuple(rows)


_MEDCONV = "resnet50.a1_in1k+pretrain+balce"
_ALL = (
    PaperTable("table2", "Table II: networks and how they were trained", "Model", _rows(_TABLE_2)),
    PaperTable("table3", "Table III: two segmenters", "Model, masks", _rows(_TABLE_3)),
    PaperTable("table4", "Table IV: without and with Bal-CE", "Model", _rows(_TABLE_4)),
    PaperTable("table5", "Table V: τ1 of the training", "τ1", _rows(_TABLE_5, _MEDCONV + "+tau1:{}")),
    PaperTable("table6", "Table VI: τ2 after the training", "τ2", _rows(_TABLE_6, _MEDCONV + "+tau2:{}")),
)
TABLES: Mapping[str, PaperTable] = {table.key: table for table in _ALL}
