"""The demonstration network answers for simulated CTs, says what it is, and refuses patients unless made to."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from core.nnunet_writer import write_model
from core.test_nnunet_segmenter import PATCH, on_whole_ct, painted_ct, silent

import medconv.segmenters.domain as domain_module
from medconv.segmenter import SegmenterRequest, make_segmenter
from medconv.segmenters import demonstration
from medconv.types import InputRefused, MissingRequirement, Severity

DOMAIN = {"noise_hu": [5, 40], "note": "of a test"}
DOUBT = "its noise is finer than any simulated CT's."


@pytest.fixture(scope="module")
def shipped(tmp_path_factory) -> Path:
    """A folder of weights with a demonstration network in it, laid out as the product ships it."""
    weights = tmp_path_factory.mktemp("model weights")
    model = write_model(tmp_path_factory.mktemp("nnunet"), dataset_name="Dataset900_Simulated", patch_zyx=PATCH)
    shutil.copytree(model, weights / demonstration.FOLDER)
    (weights / demonstration.FOLDER / demonstration.DOMAIN_FILE).write_text(json.dumps(DOMAIN))
    return weights


@pytest.fixture
def installed(shipped: Path, monkeypatch) -> Path:
    monkeypatch.setenv("MEDCONV_WEIGHTS_DIR", str(shipped))
    return shipped / demonstration.FOLDER


@pytest.fixture
def looks_real(monkeypatch) -> list:
    """Every CT fails the domain check; what the check was asked is kept."""
    asked: list = []
    monkeypatch.setattr(domain_module, "check_domain", lambda ct, domain: asked.append((ct, domain)) or DOUBT)
    return asked


@pytest.fixture
def looks_simulated(monkeypatch) -> None:
    monkeypatch.setattr(domain_module, "check_domain", lambda ct, domain: "")


def request(**options) -> SegmenterRequest:
    return SegmenterRequest("demonstration", device="cpu", **options)


def test_simulated_ct_is_segmented_and_the_result_is_labelled(installed, looks_simulated) -> None:
    case = painted_ct()
    found = make_segmenter(request()).segment(case.ct, silent)
    assert np.array_equal(on_whole_ct(found), case.labels_zyx)
    assert (found.segmenter, found.is_demonstration) == ("demonstration", True)
    assert found.identity.startswith("Dataset900_Simulated ")
    assert [(note.code, note.severity) for note in found.notes] == [("demonstration_segmenter", Severity.INFO)]
    assert "simulated" in found.notes[0].message


def test_ct_that_does_not_look_simulated_is_refused_before_the_network_runs(installed, looks_real) -> None:
    case, stages = painted_ct(), []
    with pytest.raises(InputRefused) as refused:
        make_segmenter(request()).segment(case.ct, lambda stage, _: stages.append(stage))
    assert refused.value.code == "demonstration_on_real_ct"
    assert DOUBT in refused.value.message
    assert "insist" in refused.value.remedy
    assert stages == ["Checking that the CT is a simulated one"]
    assert looks_real == [(case.ct, DOMAIN)]


def test_person_who_insists_gets_a_mask_and_a_warning(installed, looks_real) -> None:
    case = painted_ct()
    found = make_segmenter(request(insist=True)).segment(case.ct, silent)
    assert np.array_equal(on_whole_ct(found), case.labels_zyx)
    assert found.is_demonstration
    warning = next(note for note in found.notes if note.code == "demonstration_on_real_ct")
    assert warning.severity is Severity.WARNING
    assert "mean nothing for this patient" in warning.message
    assert DOUBT.rstrip(".") in warning.message


def test_label_map_of_another_segmenter_is_not_used(installed, looks_simulated) -> None:
    found = make_segmenter(request(label_map="verse")).segment(painted_ct().ct, silent)
    assert found.label_of("L1") == 2


@pytest.mark.parametrize("levels_up", [0, 1, 2])
def test_network_is_found_in_a_package_in_slicer_and_in_a_checkout(tmp_path, monkeypatch, levels_up: int) -> None:
    """model_weights inside the package, beside it, and beside its parent."""
    monkeypatch.delenv("MEDCONV_WEIGHTS_DIR", raising=False)
    package = tmp_path / "a" / "medconv"
    expected = [package, package.parent, package.parents[1]][levels_up] / "model_weights" / demonstration.FOLDER
    expected.mkdir(parents=True)
    monkeypatch.setattr(demonstration, "__file__", str(package / "segmenters" / "demonstration.py"))
    assert demonstration.find_demonstration_folder() == expected


def test_missing_network_and_missing_domain_say_what_to_do(tmp_path, monkeypatch, shipped: Path) -> None:
    monkeypatch.setattr(demonstration, "__file__", str(tmp_path / "medconv" / "segmenters" / "demonstration.py"))
    monkeypatch.setenv("MEDCONV_WEIGHTS_DIR", str(tmp_path))
    with pytest.raises(MissingRequirement, match="not installed") as refused:
        make_segmenter(request())
    assert refused.value.code == "demonstration_missing"
    shutil.copytree(shipped / demonstration.FOLDER, tmp_path / demonstration.FOLDER)
    (tmp_path / demonstration.FOLDER / demonstration.DOMAIN_FILE).write_text("[")
    with pytest.raises(MissingRequirement, match=r"domain\.json") as refused:
        make_segmenter(request())
    assert refused.value.code == "demonstration_incomplete"
