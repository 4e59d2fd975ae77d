"""What a reader of the paper's tables must know: their oddities, and where a row is our reading of a word."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from medconv.training.paper.paper_tables import CTSPINE1K, PaperRow


@dataclass(frozen=True)
class Note:
    """A footnote of some tables. rows: which of their rows carry its mark; None: it stands for the table as a whole."""

    key: str
    text: str
    tables: tuple[str, ...]
    rows: Callable[[PaperRow], bool] | None = None


def _named(*labels: str) -> Callable[[PaperRow], bool]:
    return lambda row: row.label in labels


_COMPARED = ("table2", "table3", "table4", "table5", "table6", "fig6")
NOTES: tuple[Note, ...] = (
    Note(
        "identity",
        "With as many patients of each class, sensitivity is the accuracy and specificity is (1 + accuracy) / 2: of "
        "the paper's five figures three are one. The printed percentages are whole numbers of 78 patients (26 of each "
        "class); 65.38 % is 51 of 78, 64.10 % is 50.",
        _COMPARED,
    ),
    Note(
        "no_held_out",
        "The paper tells of no held-out set: the 78 patients that give its figures also chose τ1, τ2 and the model. "
        "Here everything is chosen on validation, and the test set is read once for each run.",
        _COMPARED,
    ),
    Note(
        "input",
        "Size, spacing and window of the authors' input are not published: the crop here is ours.",
        _COMPARED,
    ),
    Note(
        "windows",
        "'windows' is not defined in the paper. Our reading: three channels, brain, soft-tissue and bone window.",
        ("table2",),
        lambda row: row.recipe.windows,
    ),
    Note(
        "balaug",
        "'balaug' is not defined in full. Our reading: cases of the smaller classes are shown again, mirrored and "
        "shifted, until all classes are equally frequent; raw logits are then class-balanced already.",
        ("table2",),
        lambda row: row.recipe.balaug,
    ),
    Note(
        "resample",
        "'resample' is not defined in full. Our reading: cases are drawn with replacement, classes equally likely.",
        ("table2",),
        lambda row: row.recipe.resample,
    ),
    Note(
        "train_params",
        "'trainParams' is not defined anywhere. Our reading: other training parameters after timm's recipes, namely a "
        "warm-up of an epoch, weight decay 0.05 and a running mean of the weights.",
        ("table2",),
        lambda row: row.recipe.train_params,
    ),
    Note(
        "schedule_free",
        "'schdulefree' (so spelt) is Defazio's schedule-free AdamW (2024); the paper's text credits it to others.",
        ("table2",),
        lambda row: row.recipe.schedule_free,
    ),
    Note(
        "vit_share",
        "33.54 % is no whole number of 78 patients (26 of 78 is 33.33 %).",
        ("table2",),
        _named("ViT+pretrain"),
    ),
    Note(
        "jointvit",
        "Accuracy 41.03 % and specificity 76.92 % can't both be right: the specificity would be 70.51 %. 76.92 % goes "
        "with an accuracy of 53.85 %, the number printed as F1.",
        ("table2",),
        _named("JointViT+pretrain"),
    ),
    Note(
        "joint_head",
        "JointViT learns class and T-score; its own class loss is weighted already. Our reading of 'balce' here: "
        "Bal-CE on three logits in its place, without the T-score.",
        ("table2",),
        lambda row: row.recipe.backbone == "jointvit",
    ),
    Note(
        "best_auc",
        "The highest AUC of the table (83.01 %) is not MedConv's (79.34 %).",
        ("table2",),
        _named("resnet34.a1_in1k+pretrain"),
    ),
    Note(
        "one_patient",
        "MedConv is the network of 'resnet50.a1_in1k+pretrain+balce', its logits adjusted with τ2 = 0.5: one more of "
        "78 patients is right (51 against 50).",
        ("table2",),
        _named("MedConv (Ours)"),
    ),
    Note(
        "gains",
        "The abstract's 21 % (accuracy) and 20 % (AUC) compare with different baselines: no one row of Table II lies "
        "both 21 and 20 points below MedConv.",
        ("table2",),
        _named("MedConv (Ours)"),
    ),
    Note(
        "same_auc",
        "The AUC with and without Bal-CE is the same to four digits.",
        ("table2", "table4"),
        lambda row: row.recipe.backbone == "resnet101" and row.figures.auc == 73.30,
    ),
    Note(
        "efficientnet_auc",
        "Table II has an AUC of 78.06 % for this row; Table IV repeats that of the row without Bal-CE.",
        ("table4",),
        _named("efficientnet w/"),
    ),
    Note(
        "our_masks",
        "The two segmenters are our reading. On a simulated cohort 'TotalSegmentator' are the cohort's own masks with "
        "a segmenter's usual errors, 'CTSpine1K' the same masks with larger errors (see the header); on a hospital's "
        "cohort the two are mask folders. Neither segmenter is run here.",
        ("table3",),
        lambda row: row.recipe.segmenter == CTSPINE1K,
    ),
    Note(
        "mixed_pretraining",
        "The TotalSegmentator rows have the figures of Table II's pretrained networks for mobilenetv2, resnet101 and "
        "resnet152, and of those from scratch for resnet18, 34 and 50. Whether CTSpine1K's rows were pretrained is not "
        "told: they are run like their partners.",
        ("table3",),
    ),
    Note(
        "same_accuracy",
        "Both segmenters have the same accuracy for ResNet-50 (35 of 78).",
        ("table3",),
        lambda row: row.recipe.backbone == "resnet50",
    ),
    Note(
        "swapped",
        "F1 (47.71) and AUC (36.03) look swapped: an AUC below 50 % would be worse than guessing.",
        ("table3",),
        _named("mobilenetv2, CTSpine1K"),
    ),
    Note(
        "tau1_form",
        "τ1 is that of CE(z + τ1·log π), one network for each: only so τ1 = 0 means plain cross-entropy. In the "
        "paper's temperature form it would divide by zero.",
        ("table5",),
    ),
    Note(
        "tau1_noise",
        "Accuracy over τ1 from 0.75 to 1.1 scatters with an SD of 3.4 points in the paper. No effect of τ1 jumps by "
        "7 points between 0.92 and 0.95: it is the scatter between trainings and patients.",
        ("table5",),
    ),
    Note(
        "same_auc_tau1",
        "τ1 = 0.999 and τ1 = 1 have the same AUC to four digits, and accuracies that differ by three patients.",
        ("table5",),
        _named("0.999", "1"),
    ),
    Note(
        "tau2_form",
        "One trained network (Bal-CE, τ1 = 1). Main figures: log prior, z + (τ1 − τ2)·log π, in which τ2 = 1 leaves "
        "the raw logits: it fits what the authors left (their row 1.0 is the plain Bal-CE row, and their test script's "
        "z + 0.5·log π is its τ2 = 0.5). Beside it the paper's Eq. III-C (temperature: osteoporosis' logit divided by "
        "τ2), in which τ2 = 1 leaves the raw logits too, and the test script's own sign, z + τ2·log π.",
        ("table6", "fig6"),
    ),
    Note(
        "tau2_patients",
        "From best to worst row the paper's table differs by two of 78 patients (51 and 49).",
        ("table6", "fig6"),
    ),
    Note(
        "fig4_source",
        "The paper's figure has no numbers; these stand in the authors' repository (389 is also in the text). The "
        "paper's Table I leaves open where T = −1.0 and T = −2.5 belong; here they are normal and osteoporosis (WHO).",
        ("fig4",),
    ),
)


def notes_of(table: str, rows: tuple[PaperRow, ...]) -> list[tuple[Note, tuple[int, ...]]]:
    """The notes of a table with the numbers of the rows that carry them; a note whose rows are all absent is left out.

    A note on the whole table has no rows.
    """
    found = []
    for note in NOTES:
        if table not in note.tables:
            continue
        marked = tuple(i for i, row in enumerate(rows) if note.rows is not None and note.rows(row))
        if note.rows is None or marked:
            found.append((note, marked))
    return found
