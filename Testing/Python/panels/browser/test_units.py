"""What the panel's parts do without a browser."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import vtk
from panel_process import PanelProcess

from BoneDensityMedConvLib.browser_panel import run_browser_panel
from BoneDensityMedConvLib.browser_panel.app import error_message
from BoneDensityMedConvLib.browser_panel.case_reading import (
    CaseRequest,
    path_as_typed,
    read_case,
    request_from_form,
)
from BoneDensityMedConvLib.browser_panel.image_views import edge_letters, patient_side
from BoneDensityMedConvLib.browser_panel.serving import is_local_request
from medconv.types import InputRefused, UsageError


@pytest.mark.parametrize(
    ("direction", "letter"),
    [
        ((1, 0, 0), "R"),
        ((-1, 0.2, 0), "L"),
        ((0, 1, 0), "A"),
        ((0.5, -0.8, 0), "P"),
        ((0, 0, 1), "S"),
        ((0, 0, -1), "I"),
    ],
)
def test_a_direction_in_ras_points_to_the_right_side_of_the_patient(direction, letter):
    assert patient_side(direction) == letter


@pytest.mark.parametrize(
    ("orientation", "letters"),
    [
        # Radiological convention, as Slicer shows it: the patient's right is on the left of the screen.
        ("Axial", {"left": "R", "right": "L", "top": "A", "bottom": "P"}),
        ("Coronal", {"left": "R", "right": "L", "top": "S", "bottom": "I"}),
        ("Sagittal", {"left": "A", "right": "P", "top": "S", "bottom": "I"}),
    ],
)
def test_the_edges_of_each_plane_have_the_letters_of_radiology(orientation, letters):
    import slicer

    scene = slicer.vtkMRMLScene()
    slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(scene, True)
    node = scene.AddNewNodeByClass("vtkMRMLSliceNode")
    node.SetOrientation(orientation)
    assert edge_letters(node.GetSliceToRAS()) == letters


def test_letters_follow_a_view_that_was_turned():
    to_ras = vtk.vtkMatrix4x4()  # x to the patient's right, y to anterior: seen from above
    assert edge_letters(to_ras) == {"left": "L", "right": "R", "top": "A", "bottom": "P"}


@pytest.mark.parametrize(
    ("host", "origin", "allowed"),
    [
        ("127.0.0.1:8080", None, True),
        ("localhost:8080", "http://localhost:8080", True),
        ("127.0.0.1:8080", "http://127.0.0.1:8080", True),
        ("panel.attacker.example:8080", None, False),
        ("127.0.0.1:8080", "http://attacker.example", False),
        ("127.0.0.1:8080", "http://127.0.0.1:9999", False),
        ("127.0.0.1:8080", "null", False),
        ("127.0.0.1:9999", None, False),
        ("", None, False),
    ],
)
def test_only_this_server_s_own_pages_are_answered(host, origin, allowed):
    assert is_local_request(host, origin, 8080) is allowed


def test_another_machine_s_address_is_refused():
    with pytest.raises(UsageError, match=r"can't be served at '0\.0\.0\.0'"):
        run_browser_panel(None, None, None, host="0.0.0.0", open_browser=False)


def test_a_path_is_understood_with_quotes_spaces_and_a_home_folder():
    assert path_as_typed('  "/data/my ct.nii.gz" ') == Path("/data/my ct.nii.gz")
    assert path_as_typed("~/ct.nii.gz") == Path.home() / "ct.nii.gz"


def test_the_form_gives_the_label_of_the_chosen_numbering():
    for numbering, label in (("totalsegmentator", 31), ("verse", 20)):
        asked = request_from_form("/ct", "/mask", numbering, 7, "")
        assert (asked.label, asked.label_map) == (label, numbering)
    assert request_from_form("/ct", "/mask", "other", 7, "") == CaseRequest(Path("/ct"), Path("/mask"), 7)


@pytest.mark.parametrize("number", ["", None, 0, -1, 2.5, True])
def test_the_form_refuses_a_label_that_is_no_whole_number(number):
    with pytest.raises(UsageError, match="L1's number"):
        request_from_form("/ct", "/mask", "other", number, "")


def test_the_form_refuses_to_go_on_without_a_ct():
    with pytest.raises(UsageError, match="No CT was given"):
        request_from_form("  ", "", "totalsegmentator", 31, "")


def test_a_foreseen_error_shows_cause_and_remedy_and_an_unforeseen_one_no_traceback(caplog):
    foreseen = error_message(InputRefused("code", "The cause.", "The remedy."))
    assert foreseen == {"severity": "error", "text": "The cause.", "remedy": "The remedy."}
    unforeseen = error_message(RuntimeError("boom"))
    assert unforeseen["text"] == "Something unforeseen went wrong: boom"
    assert "Traceback" not in str(unforeseen)
    assert "boom" in caplog.text


def test_a_mask_on_another_grid_is_resampled_and_that_is_told(phantom_files, tmp_path):
    import SimpleITK as sitk

    ct, mask = phantom_files
    coarse = sitk.Resample(
        sitk.ReadImage(str(mask)),
        [80, 80, 55],
        sitk.Transform(),
        sitk.sitkNearestNeighbor,
        (-79.0, -79.0, -54.0),
        (2, 2, 2),
    )
    sitk.WriteImage(coarse, str(tmp_path / "coarse.nii.gz"))
    assert "resampled" in read_case(CaseRequest(ct, tmp_path / "coarse.nii.gz", 31)).note
    assert read_case(CaseRequest(ct, mask, 31)).note == ""


def test_a_second_case_leaves_nothing_of_the_first_in_the_scene(phantom_files):
    # In a process of its own: render windows want one loop and one thread for all their life.
    script = str(Path(__file__).with_name("load_three_times.py"))
    done = subprocess.run(
        [sys.executable, script, *map(str, phantom_files)],
        env=PanelProcess.environment({}),
        capture_output=True,
        text=True,
        timeout=180,
        check=True,
    )
    counts = json.loads(done.stdout)
    assert counts[0][:4] == [1, 1, 1, 1]
    assert counts[1] == counts[0] == counts[2]


@pytest.fixture
def spine_files(tmp_path):
    """T11 to L5 with the last ribs and the sacrum, in TotalSegmentator's numbers."""
    from core.phantom import write
    from core.spine_phantom import spine_phantom

    return write(spine_phantom(), tmp_path)


def test_a_mask_whose_numbering_is_known_is_read_with_all_its_vertebrae_as_the_command_line_reads_it(spine_files):
    from medconv.mask_source import read_named_mask

    ct, mask = spine_files
    case = read_case(request_from_form(str(ct), str(mask), "totalsegmentator", 0, None))
    expected = read_named_mask(mask, "totalsegmentator", case.ct)[0]
    assert np.array_equal(case.spine.labels_zyx, expected.labels_zyx)
    assert case.spine.names == expected.names
    by_number = read_case(request_from_form(str(ct), str(mask), "other", 31, None))
    assert by_number.spine is None, "a number names no neighbour"
    assert np.array_equal(case.l1.full_array_zyx(), by_number.l1.full_array_zyx())


def test_a_named_mask_without_l1_or_its_neighbours(phantom_files, spine_files):
    ct, mask = map(str, phantom_files)
    alone = read_case(request_from_form(ct, mask, "totalsegmentator", 0, None))
    assert alone.spine is None
    assert alone.l1 is not None
    with pytest.raises(InputRefused, match=r"Label 20 \(L1\) is not in the mask; it holds 31"):
        read_case(request_from_form(ct, mask, "verse", 0, None))
    # L4 of TotalSegmentator's numbers is S1's neighbour in VerSe's: what it calls L1 (20) is not there either.
    with pytest.raises(InputRefused, match=r"Label 20 \(L1\) is not in the mask"):
        read_case(request_from_form(*map(str, spine_files), "verse", 0, None))


def test_a_spine_from_a_file_has_its_level_checked_is_compared_in_whole_and_replaced_without_a_complaint(spine_files):
    # In a process of its own, as above.
    script = str(Path(__file__).with_name("load_spine.py"))
    done = subprocess.run(
        [sys.executable, script, *map(str, spine_files)],
        env=PanelProcess.environment({}),
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    first, second = map(json.loads, done.stdout.splitlines())
    names = ["T11", "T12", "L1", "L2", "L3", "L4", "L5"]
    assert first["message"] is None
    assert first["found"] == names
    assert first["statement"] == "L1, counted from rib 12 and sacrum"
    assert first["decided_by"] == "segment"
    assert first["has_result"]
    assert first["compared"] == dict.fromkeys([*names, "sacrum"], 1.0)
    assert first["title"].startswith("given mask and ")
    assert second == first
    assert "ERR" not in done.stderr, done.stderr
