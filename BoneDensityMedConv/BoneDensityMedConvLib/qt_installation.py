"""Asks the person before a missing package is installed."""

from __future__ import annotations

import slicer

from BoneDensityMedConvLib import dependencies


def everything_installed(segmenter: str) -> bool:
    """Ask for what this source of the mask needs and install it. False if the person declines.

    Raises MissingRequirement if something can't be installed or that did not work.
    """
    return all(_is_installed_now(problem) for problem in dependencies.missing(segmenter))


def _is_installed_now(problem: dependencies.Missing) -> bool:
    if problem.installable:
        question = f"{problem.message} This needs it.\n\nDownload and install it now? This takes some minutes."
        if not slicer.util.confirmOkCancelDisplay(question):
            return False
    dependencies.install(problem.kind)
    return True
