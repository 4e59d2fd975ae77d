"""What `WorkerClient.poll` reports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from medconv.explanation import Explanation
from medconv.types import Cancelled, InputRefused, MedConvError, MissingRequirement, SpineSegmentation, UsageError

_KINDS = (UsageError, InputRefused, MissingRequirement)


@dataclass(frozen=True)
class Progress:
    """What the worker is doing, and the fraction done, 0 to 1."""

    stage: str
    fraction: float


@dataclass(frozen=True)
class Result:
    """The document of result.json."""

    document: dict[str, Any]


@dataclass(frozen=True)
class Explained:
    """What moved the answer."""

    explanation: Explanation


@dataclass(frozen=True)
class Segmented:
    """What the segmenter found."""

    segmentation: SpineSegmentation


@dataclass(frozen=True)
class Done:
    """Weights were fetched or imported; `text` says which."""

    text: str


@dataclass(frozen=True)
class Failure:
    """Why there is no result, and what to do. `exit_code` is the error's own (see `types`)."""

    code: str
    message: str
    remedy: str
    details: str = ""
    exit_code: int = 1

    @staticmethod
    def of(error: MedConvError) -> Failure:
        """The failure that tells of an error."""
        return Failure(error.code, error.message, error.remedy, error.details, error.exit_code)

    def error(self) -> MedConvError:
        """The error again, to be raised: of the class that it had in the worker process."""
        if self.exit_code == Cancelled.exit_code:
            return Cancelled()
        kind = next((kind for kind in _KINDS if kind.exit_code == self.exit_code), MedConvError)
        return kind(self.code, self.message, self.remedy, self.details)


Outcome = Result | Explained | Segmented | Done | Failure
Event = Progress | Outcome
