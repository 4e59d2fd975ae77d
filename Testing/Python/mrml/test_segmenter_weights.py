"""TotalSegmentator's weights in the panel: what is told, and fetching, importing and removing them."""

from __future__ import annotations

import pytest
from core.test_weights_store import write_dataset

from medconv.segmenters.weights_store import TOTAL_3MM, VERTEBRAE_1_5MM

WEIGHTS_KEYS = {"text", "complete", "can_fetch", "fetch_question", "can_import", "can_remove", "remove_question"}
OPTION_KEYS = {
    "quality", "qualities", "quality_enabled", "nnunet_folder", "nnunet_label_map", "nnunet_label_maps",
    "nnunet_enabled", "insist", "insist_enabled", "second_insist_enabled", "insist_label", "demonstration_note",
}  # fmt: skip


@pytest.fixture
def store(tmp_path, monkeypatch):
    """An empty folder that is where TotalSegmentator keeps its weights."""
    folder = tmp_path / "weights of Ü"
    monkeypatch.setenv("TOTALSEG_WEIGHTS_PATH", str(folder))
    return folder


@pytest.fixture
def ready(presenter, spine_ct, store):
    presenter.set_ct(spine_ct)
    return presenter


def weights(presenter):
    return presenter.view_model()["segmenter_weights"]


def test_missing_weights_keep_analyse_from_starting_and_are_offered(ready, store, worker):
    told = weights(ready)
    assert set(told) == WEIGHTS_KEYS
    assert (told["complete"], told["can_fetch"], told["can_import"], told["can_remove"]) == (False, True, True, False)
    assert "2 networks" in told["fetch_question"]
    assert str(store) in told["fetch_question"]
    model = ready.view_model()
    assert not model["can_analyse"]
    assert "not on this computer" in model["hint"]
    ready.analyse()
    assert worker.segmentations == []
    assert ready.view_model()["message"]["remedy"] == model["hint"]


def test_with_the_weights_analyse_can_start_for_the_quality_that_they_serve(ready, store, worker):
    write_dataset(store, TOTAL_3MM)
    assert not ready.view_model()["can_analyse"]
    assert "one network" in weights(ready)["fetch_question"]
    ready.set_quality("fast")
    assert ready.view_model()["can_analyse"]
    assert weights(ready)["complete"]
    assert weights(ready)["can_remove"]
    ready.set_quality("full")
    write_dataset(store, VERTEBRAE_1_5MM)
    assert ready.view_model()["can_analyse"]
    ready.analyse()
    request = worker.segmentations[0]["request"]
    assert (request.kind, request.quality) == ("totalsegmentator", "full")


def test_damaged_weights_are_told(ready, store):
    write_dataset(store, TOTAL_3MM)
    write_dataset(store, VERTEBRAE_1_5MM)
    (TOTAL_3MM.model_folder(store) / "fold_0" / "checkpoint_final.pth").write_bytes(b"PK cut off")
    assert "damaged" in weights(ready)["text"]
    assert not ready.view_model()["can_analyse"]


def test_only_totalsegmentator_has_weights_to_fetch(ready):
    for source in ("existing", "nnunet", "demonstration"):
        ready.set_segmenter(source)
        assert weights(ready) is None


def test_fetching_shows_progress_and_ends_in_a_message(ready, store, worker):
    ready.set_quality("fast")
    ready.fetch_weights()
    assert worker.weights_jobs == [("fetch", "fast")]
    assert ready.view_model()["busy"]
    worker.progresses("Fetching weights 1 of 1", 0.4)
    ready.poll()
    assert ready.view_model()["stage"] == "Fetching weights 1 of 1"
    assert ready.view_model()["fraction"] == pytest.approx(0.4)
    write_dataset(store, TOTAL_3MM)
    worker.is_done("Fetched.")
    assert ready.poll() is False
    assert ready.view_model()["message"] == {"severity": "info", "text": "Fetched.", "remedy": "Press Analyse."}
    assert ready.view_model()["can_analyse"]


def test_importing_hands_the_path_over(ready, worker, tmp_path):
    ready.import_weights(tmp_path / "Dataset297.zip")
    assert worker.weights_jobs == [("import", str(tmp_path / "Dataset297.zip"))]
    worker.fails("weights_damaged", "The file is not whole.", "Copy it again.")
    ready.poll()
    assert ready.view_model()["message"]["text"] == "The file is not whole."
    assert not ready.view_model()["busy"]


def test_fetching_can_be_cancelled(ready, worker):
    ready.fetch_weights()
    ready.cancel()
    assert worker.cancelled == 1
    assert not ready.view_model()["busy"]
    assert not weights(ready)["complete"]


def test_removing_frees_the_space_and_says_how_much(ready, store):
    write_dataset(store, TOTAL_3MM)
    write_dataset(store, VERTEBRAE_1_5MM)
    other = store / "Dataset999_of_someone_else"
    other.mkdir()
    ready.remove_weights()
    assert [path.name for path in store.iterdir()] == [other.name]
    assert "were removed" in ready.view_model()["message"]["text"]
    assert not weights(ready)["can_remove"]


def test_nothing_is_fetched_or_removed_while_work_is_under_way(ready, store, worker):
    write_dataset(store, TOTAL_3MM)
    ready.set_quality("fast")
    ready.analyse()
    ready.fetch_weights()
    ready.remove_weights()
    assert worker.weights_jobs == []
    assert weights(ready)["complete"]


# The other options


def test_the_options_act_only_where_they_belong(ready):
    def enabled():
        options = ready.view_model()["segmenter_options"]
        assert set(options) == OPTION_KEYS
        return options["quality_enabled"], options["nnunet_enabled"], options["insist_enabled"]

    seen = {}
    for source in ("existing", "totalsegmentator", "nnunet", "demonstration"):
        ready.set_segmenter(source)
        seen[source] = enabled()
    assert seen == {
        "existing": (False, False, False),
        "totalsegmentator": (True, False, False),
        "nnunet": (False, True, False),
        "demonstration": (False, False, True),
    }
    assert "Demonstration" in ready.view_model()["segmenter_options"]["demonstration_note"]


def test_an_unknown_quality_is_not_taken(ready):
    ready.set_quality("best")
    assert ready.view_model()["segmenter_options"]["quality"] == "full"


def test_a_label_map_file_of_ones_own_is_listed_by_its_name(ready, tmp_path):
    ready.set_nnunet_label_map(tmp_path / "our labels.json")
    listed = ready.view_model()["segmenter_options"]["nnunet_label_maps"]
    assert [entry["label"] for entry in listed][-1] == "our labels.json"
    ready.set_nnunet_label_map("verse")
    assert len(ready.view_model()["segmenter_options"]["nnunet_label_maps"]) == 3


def test_an_nnunet_folder_that_is_gone_is_a_hint(ready, tmp_path):
    ready.set_segmenter("nnunet")
    ready.set_nnunet_folder(tmp_path / "gone")
    assert "not there" in ready.view_model()["hint"]
    (tmp_path / "gone").mkdir()
    assert ready.view_model()["hint"] == ""


def test_a_package_that_cannot_be_installed_from_the_panel_makes_a_source_unavailable(ready, store, monkeypatch):
    from BoneDensityMedConvLib import dependencies

    write_dataset(store, TOTAL_3MM)
    ready.set_quality("fast")
    lacking = dependencies.Missing("totalsegmentator", "TotalSegmentator is not installed.", "pip install it.", False)
    monkeypatch.setattr(dependencies, "missing", lambda kind: [lacking] if kind == "totalsegmentator" else [])
    listed = {entry["id"]: entry for entry in ready.view_model()["segmenters"]}
    assert not listed["totalsegmentator"]["available"]
    assert listed["totalsegmentator"]["reason"] == "TotalSegmentator is not installed. pip install it."
    assert listed["existing"]["available"]
    assert ready.view_model()["hint"] == listed["totalsegmentator"]["reason"]
