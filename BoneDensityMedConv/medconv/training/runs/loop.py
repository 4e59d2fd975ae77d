"""The training loop: one epoch after another, with a checkpoint between them from which a killed run goes on.

All that the next epoch needs is in one checkpoint that is replaced as a whole, and every random number belongs to
(seed, epoch, place): a run that was killed at any point goes on to the same bytes as one that was left alone (on the
CPU; on GPUs as far as their kernels are deterministic).
"""

from __future__ import annotations

import math
import random
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from medconv.training.figures.metrics import balanced_accuracy
from medconv.training.parts import assembly
from medconv.training.parts.heads import Targets
from medconv.training.parts.optimisers import refresh_batch_norm, weight_average
from medconv.training.parts.sampling import EpochPlan, plan_epoch
from medconv.training.runs import precision, run_folder
from medconv.training.runs.distributed import Processes
from medconv.training.runs.readout import balanced_nll, class_balanced, read_out
from medconv.training.runs.run_log import EpochRow, Listener, Pace, TensorBoardLog, duration, write_sheets
from medconv.training.runs.run_settings import RunSettings
from medconv.training.runs.training_data import TrainingData
from medconv.types import MedConvError

REFRESH_STEPS = 32  # batches that schedule-free training gathers batch norm's figures from


@dataclass(frozen=True)
class Job:
    """What is to be trained, and where."""

    settings: RunSettings
    data: TrainingData
    run: Path
    device: str
    processes: Processes
    listener: Listener


class Training:
    """The state of a run between two epochs, and how one epoch leads to the next."""

    def __init__(self, job: Job, accumulate: int) -> None:
        """Fresh, or as the run's checkpoint has it."""
        self.job, self.settings, self.accumulate = job, job.settings, accumulate
        torch.manual_seed(self.settings.seed)
        parts = assembly.build_parts(self.settings, job.data.class_counts)
        self.own, self.head = parts.network, parts.head.to(job.device)
        self.head.check(torch.from_numpy(job.data.training.t_scores))
        checkpoint = job.processes.from_first(lambda: run_folder.load_checkpoint(job.run))
        if checkpoint is None and (told := assembly.start_from_pretrained(self.settings, self.own)):
            job.listener.told(told)
        self.own.to(job.device, memory_format=torch.channels_last_3d)
        self.average = weight_average(self.own, self.settings.ema_decay) if self.settings.ema_decay else None
        self.network = job.processes.wrap(self.own)
        self.steps = len(self._plan(0)) // self.settings.batch_size
        self.amp, scaler = precision.autocast_and_scaler(self.settings, job.device)
        self.optimiser = assembly.build_optimiser(self.settings, self.own, self.steps, scaler)
        self.rows: list[EpochRow] = []
        self.finished = False
        if checkpoint is not None:
            self._resume(checkpoint)
        self.part = precision.part_size(self.settings.batch_size, self.accumulate, job.processes.count)

    def run(self) -> None:
        """All epochs that are still to be done."""
        job = self.job
        if job.processes.first:
            write_sheets(job.run, self.rows)
        if self._ended():
            return
        board = TensorBoardLog(job.run, len(self.rows)) if job.processes.first else None
        pace = Pace(self.steps * self.settings.epochs, self.steps * len(self.rows))
        while not self._ended():
            self._epoch(len(self.rows), pace)
            if board is not None:
                board.add(self.rows[-1])
            job.listener.told(self.rows[-1].sentence(self.settings.epochs))
        if board is not None:
            board.close()

    def _epoch(self, epoch: int, pace: Pace) -> None:
        started = time.perf_counter()
        self.head.start_epoch(epoch, self.settings.epochs)
        train_loss, rate = self._pass(epoch, pace)
        cases = len(self.job.data.validation)
        self._say(f"Epoch {epoch + 1} of {self.settings.epochs}, validation on {cases} cases", pace)
        network = self._evaluated(epoch)
        data, processes = self.job.data, self.job.processes
        logits, _ = read_out(self.head, network, data.validation, self.settings, self.job.device, processes)
        balanced = class_balanced(logits, data.class_prior, self.head.tau1_train)
        nll = balanced_nll(balanced, data.validation.classes)
        if not math.isfinite(nll):
            raise self._not_finite(f"the validation after epoch {epoch + 1}")
        accuracy = balanced_accuracy(data.validation.classes, balanced)
        row = EpochRow(epoch, train_loss, nll, accuracy, rate, False, time.perf_counter() - started)
        row = replace(row, chosen=self._better(row))
        self.rows.append(row)
        if processes.first:
            if row.chosen:
                run_folder.save_weights(self.job.run / run_folder.BEST, network.state_dict())
            run_folder.save_checkpoint(self.job.run, self._checkpoint())
            write_sheets(self.job.run, self.rows)

    def _pass(self, epoch: int, pace: Pace) -> tuple[float, float]:
        """One pass over the training set: the mean loss, and the last learning rate."""
        settings, job = self.settings, self.job
        seed_generators(settings.seed, epoch, job.processes.rank)
        self.optimiser.train_mode()
        self.network.train()
        plan = self._plan(epoch)
        total, rate = 0.0, settings.learning_rate
        self._say(f"Epoch {epoch + 1} of {settings.epochs}, step 1 of {self.steps}", pace)
        for step in range(self.steps):
            rate = self.optimiser.learning_rate
            batch = [self._part(plan, epoch, step, part) for part in range(self.accumulate)]
            value = self.optimiser.step(partial(self._backward, batch))
            if not math.isfinite(value):
                raise self._not_finite(f"epoch {epoch + 1}, step {step + 1}")
            if self.average is not None:
                self.average.update_parameters(self.own)
            total += value
            done, left = pace.step()
            job.listener.step(
                f"Epoch {epoch + 1} of {settings.epochs}, step {step + 1} of {self.steps}, loss {value:.4f}, "
                f"rate {rate:.1e}, {duration(left)} left",
                done,
            )
        return total / self.steps, rate

    def _say(self, text: str, pace: Pace) -> None:
        self.job.listener.step(text, pace.done / pace.total)

    def _plan(self, epoch: int) -> EpochPlan:
        return plan_epoch(self.settings.sampling, self.job.data.training.classes, self.settings.seed, epoch)

    def _part(self, plan: EpochPlan, epoch: int, step: int, part: int) -> tuple[Tensor, Targets]:
        """One part of a batch: this process's share of the inputs, and the whole part's truth."""
        data, device = self.job.data, self.job.device
        first = step * self.settings.batch_size + part * self.part
        positions = np.arange(first, first + self.part)
        own = positions[self.job.processes.own(self.part)]
        crops = assembly.training_input(self.settings, data.training, plan, own, epoch, device)
        return crops, assembly.targets_of(data.training, data.soft, plan.indices[positions], device)

    def _backward(self, batch: list[tuple[Tensor, Targets]]) -> float:
        """Gradients of one batch, summed over its parts; returns the loss."""
        processes, total = self.job.processes, 0.0
        for place, (crops, targets) in enumerate(batch):
            with self._gradients_later(place + 1 < len(batch)):
                with self.amp():
                    outputs = self.network(crops)
                loss = self.head.loss(processes.whole_batch(outputs.float()), targets) / len(batch)
                # Each process has its share of the gradient; DistributedDataParallel takes the mean of the shares.
                self.optimiser.backward(loss * processes.count)
            total += loss.item()
        return total

    def _gradients_later(self, later: bool) -> AbstractContextManager[Any]:
        if later and isinstance(self.network, DistributedDataParallel):
            return self.network.no_sync()
        return nullcontext()

    def _evaluated(self, epoch: int) -> nn.Module:
        """The network that is evaluated and kept: with the optimiser's own average, the running mean, or as it is."""
        self.optimiser.eval_mode()
        if self.optimiser.needs_batch_norm_refresh:
            plan, some = self._plan(epoch), range(min(self.steps, REFRESH_STEPS))
            parts = ((step, part) for step in some for part in range(self.accumulate))
            refresh_batch_norm(self.own, (self._part(plan, epoch, step, part)[0] for step, part in parts))
        return self.own if self.average is None else self.average.module

    def _better(self, row: EpochRow) -> bool:
        best = next((known for known in reversed(self.rows) if known.chosen), None)
        if best is None or self.settings.select == "last":
            return True
        if self.settings.select == "accuracy":
            return row.validation_balanced_accuracy > best.validation_balanced_accuracy
        return row.validation_nll < best.validation_nll

    def _ended(self) -> bool:
        since_best = next((i for i, row in enumerate(reversed(self.rows)) if row.chosen), 0)
        patience = self.settings.patience
        return self.finished or len(self.rows) >= self.settings.epochs or (patience > 0 and since_best >= patience)

    def _checkpoint(self) -> dict[str, Any]:
        return {
            "rows": [asdict(row) for row in self.rows],
            "accumulate": self.accumulate,
            "network": self.own.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
        }

    def _resume(self, checkpoint: dict[str, Any]) -> None:
        self.rows = [EpochRow(**row) for row in checkpoint["rows"]]
        self.accumulate = max(self.accumulate, checkpoint["accumulate"])
        if "network" not in checkpoint:
            self.finished = True
            return
        self.own.load_state_dict(checkpoint["network"])
        self.optimiser.load_state_dict(checkpoint["optimiser"])
        if self.average is not None:
            self.average.load_state_dict(checkpoint["average"])

    def _not_finite(self, where: str) -> MedConvError:
        kept = f"The weights up to epoch {len(self.rows)} are kept in {self.job.run}. " if self.rows else ""
        amp = "" if self.settings.amp == "off" else ", or with --amp off"
        return MedConvError(
            "loss_not_finite",
            f"The loss is no number any more in {where}: the training diverged.",
            f"{kept}Train in another folder with --lr {self.settings.learning_rate / 3:.1g}{amp}; the same settings "
            "would diverge again.",
        )


def seed_generators(seed: int, epoch: int, rank: int) -> None:
    """Torch's, numpy's and Python's own generators, for what draws from them (dropout): of this epoch and process."""
    mixed = np.random.SeedSequence([seed, epoch, rank]).generate_state(3, np.uint32)
    torch.manual_seed(int(mixed[0]))  # seeds every device
    np.random.seed(int(mixed[1]))  # noqa: NPY002 - libraries may draw from the global generator
    random.seed(int(mixed[2]))
