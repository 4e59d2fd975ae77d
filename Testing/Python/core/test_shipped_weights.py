"""The weights that come with the project: as published, slim, and steady however the same CT is stored."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from medconv import l1_mask, pipeline, weights
from medconv.grid import geometry_of, to_image
from medconv.inference import LoadedModel
from medconv.simulate import simulate_lumbar_ct
from medconv.tscore import classify
from medconv.types import CTVolume
from medconv.volume_io import read_ct, read_labels

FOLDER = Path(__file__).parents[3] / "model_weights"
PROBABILITY_TOLERANCE = 0.15  # of resampling: interpolation takes noise and texture away
HU_TOLERANCE = 5.0


@pytest.fixture(scope="module")
def model():
    card, path = next((c, FOLDER / c.file) for c in weights.read_manifest(FOLDER / "manifest.json"))
    weights.verify(card, path)
    return LoadedModel(card, weights.load_network(card, path))


@pytest.fixture(scope="module", params=[-4.5, 1.5], ids=["dense as in osteoporosis", "dense as in health"])
def simulated(request):
    """A patient far from every limit, so that the class is not a matter of the third decimal."""
    return simulate_lumbar_ct(seed=11, t_score=request.param)


def predict(model, ct_image, label_image, like: CTVolume):
    g = geometry_of(ct_image)
    ct = CTVolume(sitk.GetArrayFromImage(ct_image), g, like.acquisition, is_simulated=like.is_simulated)
    mask, _ = l1_mask.from_labels(sitk.GetArrayFromImage(label_image), geometry_of(label_image), 31, g)
    return pipeline.predict(ct, mask, model)


def images(ct: CTVolume, labels):
    return to_image(np.asarray(ct.array_zyx), ct.geometry), to_image(np.asarray(labels), ct.geometry)


def resampled(image, spacing, interpolator, outside):
    size = [int(np.ceil(n * s / t)) for n, s, t in zip(image.GetSize(), image.GetSpacing(), spacing, strict=True)]
    return sitk.Resample(
        image, size, sitk.Transform(), interpolator, image.GetOrigin(), spacing, image.GetDirection(), outside
    )


def test_the_manifest_is_complete_and_the_files_are_slim():
    cards = weights.read_manifest(FOLDER / "manifest.json")
    assert cards
    for card in cards:
        path = FOLDER / card.file
        weights.verify(card, path)
        assert path.stat().st_size <= 12e6
        inside = weights.read_card(path)
        assert (inside.name, inside.sha256, inside.class_prior) == (card.name, card.sha256, card.class_prior)
        assert "simulated" in card.trained_on.lower()
        assert card.simulated_only
        assert "research" in card.intended_use.lower()


def check_steady(model, ct, labels, like):
    straight = predict(model, ct, labels, like)
    z = np.array(list(straight.logits.values()))
    for code in ("RAS", "LPS", "PIR"):
        turned = predict(model, sitk.DICOMOrient(ct, code), sitk.DICOMOrient(labels, code), like)
        assert turned.t_score_class is straight.t_score_class
        assert turned.attenuation == straight.attenuation
        assert np.array(list(turned.logits.values())) == pytest.approx(z, abs=0.02)
    flipped = predict(model, sitk.Flip(ct, (False, False, True)), sitk.Flip(labels, (False, False, True)), like)
    assert flipped.t_score_class is straight.t_score_class
    assert flipped.attenuation == straight.attenuation
    spacing = tuple(s * f for s, f in zip(ct.GetSpacing(), (1.15, 1.15, 0.9), strict=True))
    other = predict(
        model,
        resampled(ct, spacing, sitk.sitkLinear, -1000),
        resampled(labels, spacing, sitk.sitkNearestNeighbor, 0),
        like,
    )
    assert other.attenuation.median_hu == pytest.approx(straight.attenuation.median_hu, abs=HU_TOLERANCE)
    for c, p in straight.probabilities.items():
        assert other.probabilities[c] == pytest.approx(p, abs=PROBABILITY_TOLERANCE)
    return straight, other


def test_a_simulated_ct_gives_its_class_turned_flipped_and_resampled(model, simulated):
    straight, other = check_steady(model, *images(simulated.ct, simulated.labels_zyx), simulated.ct)
    assert straight.t_score_class is classify(simulated.t_score)
    assert other.t_score_class is straight.t_score_class


@pytest.mark.real_ct
def test_a_real_ct_turned_flipped_and_resampled_keeps_its_answer(model, real_ct_dir):
    folder = real_ct_dir / "abdomen_3mm_l1_complete"
    ct = read_ct(folder / "example_ct.nii.gz")
    labels, _, _owner = read_labels(folder / "totalseg.nii.gz")
    straight, _ = check_steady(model, *images(ct, labels), ct)
    assert "trained_on_simulated_ct" in {n.code for n in straight.quality}
