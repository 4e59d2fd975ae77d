"""The errors a person sees: each with a cause, a next step and an exit code. `types` offers them too."""

from __future__ import annotations

from typing import Any


class MedConvError(Exception):
    """An error with a cause and a next step, fit to be shown to a person as it is."""

    exit_code = 1

    def __init__(self, code: str, message: str, remedy: str, details: str = "") -> None:
        """`details` may name files or series: it is for the screen, and is never written into a result."""
        super().__init__(message)
        self.code = code
        self.message = message
        self.remedy = remedy
        self.details = details

    def __reduce__(self) -> tuple[Any, ...]:
        """For another process, whatever the arguments of the class."""
        return _restored, (type(self), self.args, dict(self.__dict__))

    def __str__(self) -> str:
        return " ".join(part for part in (self.message, self.remedy, self.details) if part)


def _restored(kind: type[MedConvError], arguments: tuple[Any, ...], fields: dict[str, Any]) -> MedConvError:
    error = kind.__new__(kind, *arguments)
    error.__dict__.update(fields)
    return error


class UsageError(MedConvError):
    """The request itself is wrong (unknown method, tau out of range)."""

    exit_code = 2


class InputRefused(MedConvError):
    """The image or mask can't carry an answer that could be trusted."""

    exit_code = 3


class MissingRequirement(MedConvError):
    """Weights, a package or a device that the request needs is not there."""

    exit_code = 4


class Cancelled(MedConvError):
    """The person stopped the work."""

    exit_code = 130

    def __init__(self) -> None:
        super().__init__("cancelled", "Cancelled.", "Nothing was changed; start again when ready.")
