"""The whole command with nothing replaced: simulated CT, worker process, nnU-Net, level check, network, report."""

from __future__ import annotations

import json

import jsonschema
import numpy as np
import pytest
import SimpleITK as sitk

from medconv.cli import main
from medconv.grid import geometry_of, to_image
from medconv.report import schema
from medconv.segmenters.demonstration import find_demonstration_folder
from medconv.simulate import simulate_lumbar_ct
from medconv.types import MissingRequirement
from medconv.volume_io import SIMULATED_MARK

SHOWN_MM = (-190.0, 120.0)  # from the sacrum to T10


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    """A simulated trunk as a file, in a folder with a space and letters beyond ASCII, and its true labels."""
    try:
        find_demonstration_folder()
    except MissingRequirement:
        pytest.skip("the demonstration network is not there")
    case = simulate_lumbar_ct(7, in_plane_spacing_mm=1.5, slice_thickness_mm=2.5, field_of_view_mm=SHOWN_MM)
    folder = tmp_path_factory.mktemp("Übung eins")
    image = to_image(case.ct.array_zyx, case.ct.geometry)
    image.SetMetaData("descrip", SIMULATED_MARK)
    sitk.WriteImage(image, str(folder / "ct.nii.gz"))
    sitk.WriteImage(to_image(case.labels_zyx, case.ct.geometry), str(folder / "truth.nii.gz"))
    return folder, case


@pytest.mark.timeout(900)  # a minute alone, minutes on a busy machine
def test_a_simulated_ct_gets_its_l1_its_answer_and_its_figure(simulated, tmp_path, capsys):
    folder, case = simulated
    out = tmp_path / "out"
    ct = str(folder / "ct.nii.gz")
    code = main(
        ["predict", ct, "--segmenter", "demonstration", "--confirm-level", "--device", "cpu", "--out", str(out)]
    )
    told = capsys.readouterr()
    assert (code, told.err) == (0, "")
    document = json.loads((out / "result.json").read_text())
    jsonschema.validate(document, schema())
    assert document["level"]["segmenter"] == "demonstration"
    assert document["level"]["demonstration"] is True
    assert document["level"]["identity"].startswith("medconv-sim-vertebrae")
    assert {"L1", "L2", "T12"} <= {row["name"] for row in document["level"]["levels"]}
    assert document["timing_s"]["segment"] > 0
    mask = sitk.ReadImage(str(out / "l1_mask.nii.gz"))
    assert geometry_of(mask).same_grid_as(case.ct.geometry)
    assert "demonstration network" in (out / "report.html").read_text()
    # The vertebra that was measured is the true L1, and its core has the HU that were put there.
    found, true = sitk.GetArrayFromImage(mask) > 0, case.labels_zyx == 31
    dice = 2 * np.count_nonzero(found & true) / (np.count_nonzero(found) + np.count_nonzero(true))
    assert dice > 0.75
    assert document["attenuation"]["mean_hu"] == pytest.approx(float(case.truth["trabecular_hu"]), abs=25)
    figure = tmp_path / "figure"
    truth, labels = f"{folder / 'truth.nii.gz'}:totalsegmentator", f"{out / 'labels.nii.gz'}:{out / 'labels.json'}"
    assert main(["compare", ct, "--a", truth, "--b", labels, "--out", str(figure)]) == 0
    compared = json.loads((figure / "comparison.json").read_text())
    row = next(row for row in compared["levels"] if row["name"] == "L1")
    assert row["dice"] == pytest.approx(dice, abs=0.02)  # labels.nii.gz also holds stray voxels of L1
    assert compared["b"]["demonstration"] is True
