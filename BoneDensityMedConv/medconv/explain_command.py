"""`medconv explain`: predict, and which part of the vertebra moved the answer."""

from __future__ import annotations

import argparse

from medconv.command_line import Commands, add_prediction_options


def add_explain(commands: Commands) -> None:
    """The command's arguments: those of predict, and what is to be explained."""
    p = commands.add_parser("explain", help="predict, with a map of which part of the vertebra moved the answer")
    add_prediction_options(p)
    p.add_argument(
        "--target",
        default="osteoporosis_against_normal",
        metavar="NAME",
        help="osteoporosis_against_normal (default) or osteoporosis (against the rest)",
    )
    p.set_defaults(run=_explain)


def _explain(options: argparse.Namespace) -> int:
    from medconv.explanation import check_target, require_captum
    from medconv.predict_command import run_predict

    # Both are told before minutes go into a segmentation.
    check_target(options.target)
    require_captum()
    return run_predict(options, options.target)
