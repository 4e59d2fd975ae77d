"""What run.py says to a person, and how it stops."""

from __future__ import annotations

import sys


class SetupError(Exception):
    """A step failed: `cause` is what happened, `remedy` is what to do now. Shown without a traceback."""

    def __init__(self, cause: str, remedy: str, exit_code: int = 1) -> None:
        super().__init__(cause)
        self.cause = cause
        self.remedy = remedy
        self.exit_code = exit_code


def say(text: str) -> None:
    """One progress line, seen at once even when the output goes to a file."""
    print(text, flush=True)


def complain(error: SetupError) -> None:
    """The cause and the next step, on standard error."""
    sys.stdout.flush()
    print(f"Error: {error.cause}\n  {error.remedy}", file=sys.stderr, flush=True)
