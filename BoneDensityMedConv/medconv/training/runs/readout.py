"""What a network says of a set of crops, in evaluation mode and float32; and the figure that chooses an epoch."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from medconv.config import Architecture
from medconv.runtimes import memory, threads
from medconv.training.cohorts.crops import LEVELS, CropSet
from medconv.training.figures.predictions import Predictions
from medconv.training.parts.assembly import reading_input
from medconv.training.parts.heads import Head
from medconv.training.runs.distributed import Processes
from medconv.training.runs.run_settings import RunSettings
from medconv.types import FloatArray

BATCH = 32


def network_logits(network: nn.Module, crops: CropSet, batch_size: int = BATCH) -> FloatArray:
    """Unadjusted logits of every crop, shape (n, classes), of a network whose outputs are logits, on its device."""
    network.eval()
    batch_size = min(batch_size, crops_at_once(network, crops))
    device = next(network.parameters()).device
    found = []
    with torch.inference_mode(), _threads_for(network, device.type):
        for first in range(0, len(crops), batch_size):
            batch = torch.from_numpy(np.array(crops.crops[first : first + batch_size])).float().div_(LEVELS)
            found.append(network(batch.to(device, memory_format=torch.channels_last_3d)).cpu().numpy())
    return np.concatenate(found).astype(np.float64)


def read_out(
    head: Head, network: nn.Module, cases: CropSet, settings: RunSettings, device: str,
    processes: Processes | None = None,
) -> tuple[FloatArray, FloatArray]:  # fmt: skip
    """Class logits (n, 3) as `Predictions` defines them and predicted T-scores (n,), of all cases in every process.

    head: told which epoch the network's weights are of. Each process reads every W-th case.
    """
    processes = processes or Processes()
    own = np.arange(processes.rank, len(cases), processes.count)
    network.eval()
    at_once = crops_at_once(network, cases)
    found: list[Tensor] = []
    with torch.inference_mode(), _threads_for(network, device):
        for first in range(0, len(own), at_once):
            outputs = network(reading_input(settings, cases, own[first : first + at_once], device))
            logits, t_scores = head.to_logits(outputs)
            if t_scores is None:
                t_scores = torch.full_like(logits[:, 0], torch.nan)
            found.append(torch.cat([logits, t_scores[:, None]], dim=1).cpu().double())
    mine = torch.cat(found).numpy() if found else np.zeros((0, 4))
    whole = np.empty((len(cases), mine.shape[1]))
    for rank, part in enumerate(processes.gather(mine)):
        whole[rank :: processes.count] = part
    return whole[:, :3], whole[:, 3]


def crops_at_once(network: nn.Module, crops: CropSet) -> int:
    """How many crops to read at once: BATCH, or fewer where wide layers of large crops would fill the memory."""
    channels, *space = crops.crops.shape[1:]
    return min(BATCH, memory.crops_at_once(_architecture(network), (channels, space[0], space[1], space[2])))


def _threads_for(network: nn.Module, device: str) -> AbstractContextManager[None]:
    """A slim network loses by a second thread: 6 crops took 4.2 s instead of 0.17 s on a busy computer."""
    return threads.limited_to(threads.thread_count(_architecture(network), device.partition(":")[0]))


def _architecture(network: nn.Module) -> Architecture:
    first = next((module for module in network.modules() if isinstance(module, nn.Conv3d)), None)
    return Architecture() if first is None else Architecture(width=first.out_channels)


def as_predictions(
    split: str, cases: CropSet, logits: FloatArray, t_scores: FloatArray, class_prior: Sequence[float], tau1: float
) -> Predictions:
    """One row a case; cases without ids are numbered."""
    ids = cases.case_ids or tuple(f"{split}_{i:05d}" for i in range(len(cases)))
    return Predictions(
        split,
        ids,
        cases.classes,
        cases.t_scores,
        logits,
        cases.median_hu,
        cases.kvp,
        cases.signals,
        t_scores,
        tuple(class_prior),
        tau1,
    )


def class_balanced(logits: FloatArray, class_prior: Sequence[float], tau1_train: float) -> FloatArray:
    """Logits of the posterior with all classes equally frequent: z + (tau1_train − 1)·log π."""
    return logits + (tau1_train - 1.0) * np.log(class_prior)


def softmax(logits: FloatArray) -> FloatArray:
    """Probabilities of every row."""
    return np.asarray(torch.softmax(torch.from_numpy(logits), dim=1).numpy())


def balanced_nll(logits: FloatArray, classes: NDArray[np.int64]) -> float:
    """Mean over the classes of the mean −log p of the right class: likelihood with every class equally frequent."""
    per_case = F.cross_entropy(torch.tensor(logits), torch.tensor(classes), reduction="none").numpy()
    return float(np.mean([per_case[classes == c].mean() for c in np.unique(classes)]))
