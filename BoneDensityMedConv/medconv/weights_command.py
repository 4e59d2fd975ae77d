"""`medconv weights export`: a trained run as one weight file."""

from __future__ import annotations

import argparse

from medconv import RESEARCH_USE_ONLY, console
from medconv.types import UsageError


def run_export(options: argparse.Namespace) -> int:
    """Pack, check and describe. Raises UsageError, InputRefused."""
    if options.out.suffix != ".npz":
        raise UsageError("weights_name", f"'{options.out.name}' does not end in .npz.", "Give --out NAME.npz.")
    from medconv.training.runs.export import export_run

    console.say("Packing, and checking on simulated vertebrae")
    try:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        with console.heartbeat():
            done = export_run(
                options.run_folder, options.out, name=options.name, precision=options.precision, licence=options.licence
            )
    finally:
        console.clear()
    card, figures = done.card, done.card.validation["validation"]
    print(f"{options.out}: '{card.name}', {options.out.stat().st_size / 1e6:.1f} MB, SHA-256 {card.sha256[:16]}…")
    print(f"  trained on  {card.trained_on}")
    print(
        f"  validation  balanced accuracy {figures['balanced_accuracy']:.3f}, osteoporosis AUC "
        f"{figures['osteoporosis_auc']:.3f} (n = {figures['cases']}; no test set was read)"
    )
    print(f"  checked     logits within {done.largest_difference:.2g} of the run's (allowed {done.tolerance:g})")
    print(f"  licence     {card.licence}")
    print(f"Install it with: medconv weights import {options.out}")
    print(RESEARCH_USE_ONLY)
    return 0
