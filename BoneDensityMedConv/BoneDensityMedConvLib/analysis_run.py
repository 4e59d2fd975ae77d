"""One analysis from the chosen nodes to the document of result.json: prepared here, computed in the worker."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from BoneDensityMedConvLib import adjustment_choice, dependencies, inputs
from medconv.worker_client import WorkerClient, Failure, Progress, Result
from medconv import pipeline, weights
from medconv.config import ModelCard
from medconv.types import L1Mask, MedConvError, MissingRequirement


@dataclass(frozen=True)
class Finished:
    """A result, what it was computed from, and the weights that gave it."""

    document: dict[str, Any]
    fingerprint: str
    card: ModelCard


class AnalysisRun:
    """At most one analysis at a time; `stage` and `fraction` tell how far it is."""

    def __init__(self, worker: WorkerClient) -> None:
        self._worker = worker
        self._started_on: tuple[str, ModelCard] | None = None
        self.stage = ""
        self.fraction = 0.0

    @property
    def busy(self) -> bool:
        return self._started_on is not None

    def start(self, chosen: Any) -> L1Mask:
        """Judge CT and mask, and hand them to the worker; returns the mask. Raises MedConvError with what is wrong."""
        dependencies.require()
        card = weights.find_model(chosen.weights or None)[0]
        try:
            ct, mask = inputs.read(chosen)
            case = pipeline.prepare(ct, mask, notes=inputs.level_notes(chosen))
            adjustment = adjustment_choice.current(chosen, card)
            changed = adjustment != card.default_adjustment
            self._worker.analyse(case, chosen.weights or None, chosen.device, adjustment if changed else None)
        except OSError as error:
            message = f"The analysis process can't be started ({error})."
            raise MissingRequirement("worker_not_started", message, "Free disk space, then try again.") from error
        except MemoryError as error:
            remedy = "Close other images or programs, then try again."
            raise MissingRequirement("out_of_memory", "The computer's memory is full.", remedy) from error
        self._started_on = (inputs.fingerprint(ct, mask), card)
        self.stage, self.fraction = "Starting the analysis", 0.0
        return mask

    def poll(self) -> tuple[bool, Finished | MedConvError | None]:
        """Whether anything happened since the last call, and the outcome if the analysis has ended."""
        if self._started_on is None:
            return False, None
        fingerprint, card = self._started_on
        events = self._worker.poll()
        for event in events:
            if isinstance(event, Progress):
                self.stage, self.fraction = event.stage, event.fraction
                continue
            self._started_on = None
            if isinstance(event, Failure):
                return True, MedConvError(event.code, event.message, event.remedy)
            if isinstance(event, Result):
                return True, Finished(event.document, fingerprint, card)
        return bool(events), None

    def stop(self) -> None:
        """End the analysis, if there is one, within two seconds."""
        if self._started_on is not None:
            self._started_on = None
            self._worker.cancel()

    def close(self) -> None:
        """End the worker as well."""
        self._started_on = None
        self._worker.close()
