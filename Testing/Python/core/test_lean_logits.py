"""nnU-Net's choice of labels with less memory: the same labels as numpy's argmax."""

from __future__ import annotations

import numpy as np
import pytest
from core.nnunet_writer import write_model

from medconv.segmenters.lean_logits import largest_output, lean_logits
from medconv.segmenters.nnunet_folder import read_model_folder
from medconv.segmenters.nnunet_loading import initialisation


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_the_largest_output_is_argmax_and_of_equal_ones_the_first(dtype: str) -> None:
    rng = np.random.default_rng(0)
    logits = rng.integers(-3, 3, (118, 5, 6, 7)).astype(dtype)  # many equal ones
    expected = logits.argmax(0)
    found = largest_output(logits)
    assert np.array_equal(found, expected)
    assert found.dtype == np.uint8
    assert np.array_equal(logits.argmax(0), expected), "the logits are left as they were"


@pytest.mark.parametrize("value", [1.0, np.inf, -np.inf])
def test_an_infinite_value_is_still_found(tmp_path, value: float) -> None:
    """nnU-Net's own check, on a network whose output is infinite where the CT is bright."""
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(device=torch.device("cpu"), use_mirroring=False, allow_tqdm=False)
    predictor.manual_initialization(*initialisation(read_model_folder(write_model(tmp_path))))
    with torch.no_grad():
        predictor.network.decoder.seg_layers[-1].bias[2] = value
    image = torch.zeros(1, 16, 24, 24)
    with lean_logits():
        if np.isinf(value):
            with pytest.raises(RuntimeError, match="Encountered inf"):
                predictor.predict_sliding_window_return_logits(image)
        else:
            assert predictor.predict_sliding_window_return_logits(image).shape == (5, 16, 24, 24)


def test_nnunet_chooses_labels_in_this_way_only_while_inside(tmp_path) -> None:
    import torch

    folder = read_model_folder(write_model(tmp_path))
    network, plans, configuration, weights, dataset, trainer, axes = initialisation(folder)
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(device=torch.device("cpu"), use_mirroring=False)
    predictor.manual_initialization(network, plans, configuration, weights, dataset, trainer, axes)
    labels = plans.get_label_manager(dataset)
    tile = torch.rand(1, 1, 16, 24, 24)
    plain = predictor._internal_maybe_mirror_and_predict(tile)
    assert plain.dtype == torch.float32
    chosen = labels.convert_probabilities_to_segmentation(plain[0].numpy())
    with lean_logits():
        half = predictor._internal_maybe_mirror_and_predict(tile)
        assert half.dtype == torch.float16
        assert torch.equal(half, plain.half())
        assert np.array_equal(labels.convert_probabilities_to_segmentation(plain[0].numpy()), chosen)
        with pytest.raises(AssertionError, match="number of channels"):
            labels.convert_probabilities_to_segmentation(plain[0, :2].numpy())
    assert predictor._internal_maybe_mirror_and_predict(tile).dtype == torch.float32
