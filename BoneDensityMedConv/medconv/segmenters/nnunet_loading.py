"""From a checked nnU-Net model folder to the network in memory."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medconv.segmenters.memory import is_memory
from medconv.segmenters.nnunet_folder import ModelFolder
from medconv.segmenters.safe_checkpoint import load_checkpoint
from medconv.types import MissingRequirement

# What nnUNetPredictor.manual_initialization takes, by weight files with their times and sizes.
WarmModels = dict[tuple[Any, ...], tuple[Any, ...]]


def initialisation(folder: ModelFolder, warm: WarmModels | None = None) -> tuple[Any, ...]:
    """The arguments of nnUNetPredictor.manual_initialization, made or from `warm`."""
    files = [(str(path), path.stat().st_mtime_ns, path.stat().st_size) for path in folder.checkpoints]
    key = (str(folder.path), *files)
    if warm is None:
        return _load(folder)
    if key not in warm:
        warm[key] = _load(folder)
    return warm[key]


def _load(folder: ModelFolder) -> tuple[Any, ...]:
    """The network with its first fold's weights, and what nnU-Net wants to know about it."""
    from nnunetv2.inference import predict_from_raw_data as nnunet

    checkpoints = [load_checkpoint(path) for path in folder.checkpoints]
    trainer = checkpoints[0]["trainer_name"]
    plans, dataset = nnunet.PlansManager(dict(folder.plans)), dict(folder.dataset)
    configuration = plans.get_configuration(folder.configuration)
    weights = [checkpoint["network_weights"] for checkpoint in checkpoints]
    try:
        network = _build(nnunet, plans, configuration, dataset, trainer)
        for one in reversed(weights):  # all are checked; the first is the one that the network starts with
            network.load_state_dict(one)
    except (RuntimeError, KeyError, TypeError, ValueError, AttributeError) as error:
        if is_memory(error):
            raise
        raise MissingRequirement(
            "weights_do_not_fit",
            f"The weights of '{folder.dataset_name}' do not fit its plans.json and dataset.json.",
            "Copy or unpack the model folder again, whole; its files belong together.",
            f"{folder.path}: {str(error)[:300]}",
        ) from error
    return network, plans, configuration, weights, dataset, trainer, None


def _build(nnunet: Any, plans: Any, configuration: Any, dataset: dict[str, Any], trainer: str) -> Any:
    """The untrained network; both signatures that trainers have had."""
    try:
        build = nnunet.recursive_find_trainer_class_by_name(trainer).build_network_architecture
    except RuntimeError as error:
        raise MissingRequirement(
            "nnunet_trainer_unknown",
            f"The model was trained with '{trainer}', which is no part of the installed nnU-Net.",
            "Install the nnU-Net version or extension that the model's publisher names.",
        ) from error
    channels = (
        nnunet.determine_num_input_channels(plans, configuration, dataset),
        plans.get_label_manager(dataset).num_segmentation_heads,
    )
    if "plans_manager" in inspect.signature(build).parameters:
        return build(plans, configuration, *channels, enable_deep_supervision=False)
    return build(
        configuration.network_arch_class_name,
        configuration.network_arch_init_kwargs,
        configuration.network_arch_init_kwargs_req_import,
        *channels,
        enable_deep_supervision=False,
    )


def sha256_of(paths: Sequence[Path]) -> str:
    """SHA-256 of the weight file; of several folds, that of their hashes in a row."""
    digests = []
    for path in paths:
        with path.open("rb") as stream:
            digests.append(hashlib.file_digest(stream, "sha256").hexdigest())
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
