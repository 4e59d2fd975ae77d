"""`medconv compare`: the figure and the table of two segmentations of one CT."""

from __future__ import annotations

import base64
import csv
import json
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
import SimpleITK as sitk
from core import fake_client
from core.phantom import write
from core.spine_phantom import GEOMETRY, NAMES, segmentation_of, spine_phantom

from medconv.cli import main
from medconv.comparison_picture import GAP_PX, HEADING_PX
from medconv.grid import to_image
from medconv.planes import FIELD_OF_VIEW_MM, OUTLINE_RGB, PIXEL_MM
from medconv.vertebrae import TOTALSEGMENTATOR, VERSE

FILES = {f"comparison.{ending}" for ending in ("json", "csv", "html", "svg", "png")}
SIDE = round(FIELD_OF_VIEW_MM / PIXEL_MM)
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def spine():
    """Treat as read-only."""
    return spine_phantom()


@pytest.fixture(scope="module")
def files(spine, tmp_path_factory):
    """The CT, its labels, and the same bones in VerSe's numbers moved up by one slice of 2.5 mm."""
    folder = tmp_path_factory.mktemp("spine")
    ct, labels = write(spine, folder)
    moved = np.zeros_like(spine.labels_zyx)
    for name in (*NAMES, "sacrum"):
        moved[1:][spine.labels_zyx[:-1] == TOTALSEGMENTATOR[name]] = VERSE[name]
    sitk.WriteImage(to_image(moved, GEOMETRY), str(folder / "moved.nii.gz"))
    return ct, labels, folder / "moved.nii.gz"


@pytest.fixture
def run(files, capsys, tmp_path):
    """Run `medconv compare CT …`; returns exit code, files, standard output and error."""

    def compare(*arguments):
        out = tmp_path / "out"
        code = main(["compare", str(files[0]), *map(str, arguments), "--out", str(out)])
        captured = capsys.readouterr()
        found = {path.name for path in out.iterdir()} if out.is_dir() else set()
        return code, found, captured.out, captured.err

    return compare


def document_in(tmp_path):
    return json.loads((tmp_path / "out" / "comparison.json").read_text())


def test_two_files_give_figure_and_table(run, files, spine, tmp_path):
    code, found, out, err = run("--a", f"{files[1]}:totalsegmentator", "--b", f"{files[2]}:verse")
    assert (code, err) == (0, "")
    assert found == FILES
    document = document_in(tmp_path)
    assert [row["name"] for row in document["levels"]] == [*NAMES, "sacrum"]
    row = next(row for row in document["levels"] if row["name"] == "L1")
    mask = spine.labels_zyx == 31
    shared = np.count_nonzero(mask[1:] & mask[:-1])
    assert row["dice"] == pytest.approx(shared / np.count_nonzero(mask))
    assert row["volume_a_ml"] == row["volume_b_ml"] == pytest.approx(np.count_nonzero(mask) * 0.01)
    assert row["centre_distance_mm"] == pytest.approx(2.5)
    assert row["hausdorff95_mm"] == pytest.approx(2.5)
    assert (row["only_in"], row["a_in_b"]) == (None, "L1")
    assert "Research use only" in document["research_use"]
    with (tmp_path / "out" / "comparison.csv").open() as stream:
        lines = list(csv.DictReader(stream))
    assert [line["name"] for line in lines] == [row["name"] for row in document["levels"]]
    assert float(lines[2]["mean_surface_mm"]) == row["mean_surface_mm"]
    page = (tmp_path / "out" / "comparison.html").read_text()
    assert f"<td>{row['dice']:.3f}</td><td>{row['mean_surface_mm']:.2f}</td>" in page
    assert f"L1      Dice {row['dice']:.3f}" in out
    assert str(tmp_path) not in page


def test_the_figure_has_planes_as_rows_and_ct_a_b_as_columns(run, files, tmp_path):
    run("--a", f"{files[1]}:totalsegmentator", "--b", f"{files[2]}:verse")
    picture = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "out" / "comparison.png")))
    assert picture.shape == (HEADING_PX + 3 * SIDE + 2 * GAP_PX, 3 * SIDE + 2 * GAP_PX, 3)

    def cell(row, column):
        y, x = HEADING_PX + row * (SIDE + GAP_PX), column * (SIDE + GAP_PX)
        return picture[y : y + SIDE, x : x + SIDE]

    def outline(row, column):
        return (cell(row, column) == OUTLINE_RGB).all(axis=2)

    for row in range(3):
        assert not outline(row, 0).any()  # the CT alone
        assert outline(row, 1).sum() > 100
    # In the sagittal and coronal plane B's top end is one slice of 2.5 mm higher than A's.
    for row in (0, 2):
        higher = np.nonzero(outline(row, 1))[0].min() - np.nonzero(outline(row, 2))[0].min()
        assert higher * PIXEL_MM == pytest.approx(2.5, abs=0.5)
    # The anatomy under the outlines is the same in all columns: compare where no column draws.
    for row in range(3):
        grey = [(c[..., 0] == c[..., 1]) & (c[..., 1] == c[..., 2]) for c in (cell(row, 0), cell(row, 1))]
        both = grey[0] & grey[1]
        assert np.array_equal(cell(row, 0)[both], cell(row, 1)[both])


def test_the_svg_names_its_columns(run, files, tmp_path):
    run("--a", f"{files[1]}:totalsegmentator", "--b", f"{files[2]}:verse")
    root = ElementTree.parse(tmp_path / "out" / "comparison.svg").getroot()
    assert [t.text for t in root.iter(f"{SVG}text")] == ["CT", "A: the given mask", "B: the given mask"]
    images = list(root.iter(f"{SVG}image"))
    assert len(images) == 9
    assert all(base64.b64decode(i.attrib["href"].partition(",")[2]).startswith(b"\x89PNG") for i in images)


def test_a_file_with_one_label_needs_no_label_map(run, files, spine, tmp_path):
    only = tmp_path / "l1.nrrd"
    sitk.WriteImage(to_image((spine.labels_zyx == 31).astype(np.uint8), GEOMETRY), str(only))
    assert run("--a", only, "--b", f"{files[1]}:totalsegmentator")[0] == 0
    rows = {row["name"]: row for row in document_in(tmp_path)["levels"]}
    assert rows["L1"]["dice"] == 1.0
    assert rows["L2"]["only_in"] == "b"
    assert rows["L2"]["dice"] is None
    assert "only in B" in (tmp_path / "out" / "comparison.html").read_text()


def test_a_segmenter_is_run_and_compared_with_a_file(run, files, spine, monkeypatch, tmp_path):
    found = segmentation_of(spine, segmenter="demonstration", is_demonstration=True)
    client = fake_client.install(monkeypatch, found)
    code, _, out, _ = run("--a", f"{files[1]}:totalsegmentator", "--b", "demonstration", "--insist")
    assert code == 0
    assert [(r.kind, r.insist) for r in client.requests] == [("demonstration", True)]
    assert (client.open_clients, len(client.limits)) == (0, 1)
    document = document_in(tmp_path)
    assert document["b"]["segmenter"] == "demonstration"
    assert all(row["dice"] == 1.0 for row in document["levels"])
    assert "demonstration network" in (tmp_path / "out" / "comparison.html").read_text()
    assert "B: the demonstration network (test weights)" in out


def test_two_segmenters_share_one_worker(run, spine, monkeypatch):
    client = fake_client.install(monkeypatch, segmentation_of(spine))
    assert run("--a", "totalsegmentator", "--b", "demonstration")[0] == 0
    assert [request.kind for request in client.requests] == ["totalsegmentator", "demonstration"]
    assert len(client.limits) == 1


def test_two_that_count_differently_are_told(run, files, monkeypatch, tmp_path):
    low = spine_phantom(("T10", "T11", "T12", "L1", "L2", "L3", "L4"))
    fake_client.install(monkeypatch, replace(segmentation_of(low), segmenter="nnunet"))
    code, _, out, _ = run("--a", f"{files[1]}:totalsegmentator", "--b", f"nnunet:{tmp_path}")
    assert code == 0
    sentence = "The two count differently: what A calls L1 is T12 in B."
    assert sentence in out
    assert sentence in (tmp_path / "out" / "comparison.html").read_text()


def test_another_vertebra_can_be_shown(run, files, tmp_path):
    both = ("--a", f"{files[1]}:totalsegmentator", "--b", f"{files[2]}:verse")
    assert run(*both, "--vertebra", "l4")[0] == 0
    assert document_in(tmp_path)["vertebra"] == "L4"
    code, found, _, err = run(*both, "--vertebra", "C3")
    assert (code, found) == (3, set())
    assert "Neither segmentation holds C3" in err


@pytest.mark.parametrize(
    ("source", "code", "words"),
    [
        ("nothing.nii.gz", 2, "neither a segmenter nor a mask file"),
        ("{labels}:numbers", 2, "neither a segmenter nor a mask file"),
        ("{labels}", 2, "10 labels"),
        ("{labels}", 2, "Write FILE:totalsegmentator"),
        ("nnunet", 2, "nnunet:FOLDER"),
    ],
)
def test_a_wrong_source_is_told_before_anything_runs(run, files, monkeypatch, source, code, words):
    client = fake_client.install(monkeypatch, None)
    found, names, _, err = run("--a", "totalsegmentator", "--b", source.format(labels=files[1]))
    assert (found, names) == (code, set())
    assert words in err
    assert client.requests == []


def test_a_cancelled_comparison_leaves_nothing(run, files, monkeypatch):
    client = fake_client.install(monkeypatch, KeyboardInterrupt())
    assert run("--a", "totalsegmentator", "--b", files[2])[0] == 2  # several labels: the file is told first
    code, names, _, err = run("--a", "totalsegmentator", "--b", f"{files[2]}:verse")
    assert (code, names, err) == (130, set(), "medconv: Cancelled.\n")
    assert client.open_clients == 0


def test_specks_are_no_vertebrae_here_either(run, files, spine, tmp_path):
    labels = spine.labels_zyx.copy()
    labels[labels == TOTALSEGMENTATOR["T11"]] = 0
    labels[2:8, 2:8, 2:8] = TOTALSEGMENTATOR["T11"]  # 2.2 ml
    labels[-4:-2, 2:8, 2:8] = TOTALSEGMENTATOR["C7"]
    sitk.WriteImage(to_image(labels, GEOMETRY), str(tmp_path / "specks.nii.gz"))
    code, _, out, _ = run(
        "--a", f"{files[1]}:totalsegmentator", "--b", f"{tmp_path / 'specks.nii.gz'}:totalsegmentator"
    )
    assert code == 0
    rows = {row["name"]: row["only_in"] for row in document_in(tmp_path)["levels"]}
    assert rows == {name: "a" if name == "T11" else None for name in (*NAMES, "sacrum")}
    assert "T11     only in A" in out
    code, _, _, err = run(
        "--a",
        f"{tmp_path / 'specks.nii.gz'}:totalsegmentator",
        "--b",
        f"{tmp_path / 'specks.nii.gz'}:totalsegmentator",
        "--vertebra",
        "T11",
    )
    assert code == 3
    assert "Neither segmentation holds T11." in err
