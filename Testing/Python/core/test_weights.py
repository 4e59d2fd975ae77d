"""Weights: only the file that was published is loaded, and loading never runs code."""

import json
import pickle
import zipfile

import numpy as np
import pytest
from core.conftest import untrained_card

from medconv import weights
from medconv.config import Architecture, ModelCard
from medconv.types import MissingRequirement


def code_of(action):
    with pytest.raises(MissingRequirement) as caught:
        action()
    return caught.value.code


def test_a_card_survives_json():
    card = untrained_card()
    assert ModelCard.from_json(json.loads(json.dumps(card.to_json()))) == card


def test_a_prior_that_does_not_sum_to_one_is_refused():
    entry = untrained_card().to_json()
    entry["class_prior"] = {"normal": 0.5, "osteopenia": 0.5, "osteoporosis": 0.5}
    with pytest.raises(ValueError, match="sum to 1"):
        ModelCard.from_json(entry)


def test_models_are_found_by_name_by_file_and_by_default(only_untrained):
    assert weights.find_model("untrained")[1] == only_untrained / "untrained.npz"
    assert weights.find_model(None)[0].name == "untrained"
    assert weights.default_model().name == "untrained"
    by_file, path = weights.find_model(only_untrained / "untrained.npz")
    assert by_file == weights.find_model("untrained")[0]
    assert path == only_untrained / "untrained.npz"
    assert code_of(lambda: weights.find_model("nobody")) == "weights_missing"


def test_loading_restores_every_array(only_untrained):
    card, path = weights.find_model("untrained")
    network = weights.load_network(card, path)
    arrays = weights.load_arrays(card, path)
    state = network.state_dict()
    assert set(state) == set(arrays)
    assert all(np.array_equal(state[name].numpy(), array) for name, array in arrays.items())
    assert not network.training


def test_a_changed_byte_is_noticed_before_loading(only_untrained, tmp_path):
    card, path = weights.find_model("untrained")
    changed = bytearray(path.read_bytes())
    changed[len(changed) // 2] ^= 1
    (tmp_path / "changed.npz").write_bytes(changed)
    assert code_of(lambda: weights.load_arrays(card, tmp_path / "changed.npz")) == "weights_changed"
    assert code_of(lambda: weights.verify(card, tmp_path / "gone.npz")) == "weights_missing"


def test_a_pickle_inside_is_never_unpickled(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "executed"), "w"))

    array = np.array([Trap()], dtype=object)
    path = tmp_path / "trap.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(weights.CARD_MEMBER, json.dumps(untrained_card().to_json()))
        with archive.open("fc.weight.npy", "w") as stream:
            np.lib.format.write_array(stream, array, allow_pickle=True)
    card = weights.read_card(path)
    assert code_of(lambda: weights.load_arrays(card, path)) == "weights_unreadable"
    assert not (tmp_path / "executed").exists()
    (tmp_path / "pure.npz").write_bytes(pickle.dumps(Trap()))
    assert code_of(lambda: weights.read_card(tmp_path / "pure.npz")) == "weights_unreadable"
    assert not (tmp_path / "executed").exists()


def test_weights_of_another_architecture_do_not_fit(only_untrained):
    card, path = weights.find_model("untrained")
    from dataclasses import replace

    wide = replace(card, architecture=Architecture(width=8))
    assert code_of(lambda: weights.load_network(wide, path)) == "weights_do_not_fit"


def test_import_copies_checks_and_lists(only_untrained, tmp_path, monkeypatch):
    source = only_untrained / "untrained.npz"
    monkeypatch.setenv("MEDCONV_WEIGHTS_DIR", str(tmp_path / "nowhere"))
    card = weights.import_file(source)
    assert (weights.user_folder() / "weights" / card.file).read_bytes() == source.read_bytes()
    assert [c.name for c, _ in weights.list_models() if c.name == "untrained"] == ["untrained"]
    weights.import_file(source)
    manifest = json.loads((weights.user_folder() / "weights" / "manifest.json").read_text())
    assert len(manifest["models"]) == 1
    (tmp_path / "other.npz").write_bytes(b"PK nothing")
    assert code_of(lambda: weights.import_file(tmp_path / "other.npz")) == "weights_unreadable"


def test_a_damaged_manifest_is_named(tmp_path, monkeypatch):
    (tmp_path / "manifest.json").write_text('{"models": [{"name": "x"}]}')
    monkeypatch.setenv("MEDCONV_WEIGHTS_DIR", str(tmp_path))
    assert code_of(weights.list_models) == "manifest_damaged"


def test_the_same_weights_give_the_same_file(tmp_path):
    state = {"a": np.arange(5, dtype=np.float16)}
    first = weights.save_weights(tmp_path / "one.npz", state, untrained_card())
    second = weights.save_weights(tmp_path / "two.npz", state, untrained_card())
    assert first.sha256 == second.sha256
