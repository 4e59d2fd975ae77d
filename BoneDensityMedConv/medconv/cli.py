"""The `medconv` command.

Exit codes: 0 done, 2 usage, 3 input refused, 4 something missing (weights, package, device), 130 cancelled.
Every failure is one line on standard error that says what is wrong and what to do.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from medconv import RESEARCH_USE_ONLY, __version__, console
from medconv.batch_command import add_batch
from medconv.bench_command import add_bench
from medconv.cohort_command import add_cohort
from medconv.command_line import Commands, add_compare, add_predict, add_segment, add_segmenters
from medconv.evaluate_command import add_evaluate
from medconv.explain_command import add_explain
from medconv.reproduce_command import add_reproduce
from medconv.simulate_command import add_simulate
from medconv.train_command import add_train
from medconv.types import MedConvError
from medconv.vertebrae import LABEL_MAPS


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    options = _parser().parse_args(arguments)
    console.show_warnings()
    if os.environ.get("MEDCONV_DEBUG"):
        logging.basicConfig(level=logging.DEBUG)
    try:
        return int(options.run(options))
    except MedConvError as error:
        _complain(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        _complain("Cancelled.")
        return 130
    except OSError as error:
        _complain(f"{error.strerror or error}: {error.filename or ''}. Check the path, its permissions and free space.")
        return 1
    except Exception as error:
        logging.getLogger(__name__).debug("unexpected", exc_info=True)
        _complain(
            f"Unexpected failure ({type(error).__name__}: {error}). Please report it; with MEDCONV_DEBUG=1 the details "
            "are shown."
        )
        return 1


def _complain(text: str) -> None:
    print("medconv: " + " ".join(text.split()), file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="medconv", description=f"WHO T-score class of L1 from a CT. {RESEARCH_USE_ONLY}"
    )
    parser.add_argument("--version", action="version", version=f"medconv {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    add_predict(commands)
    add_batch(commands)
    add_explain(commands)
    add_segment(commands)
    add_compare(commands)
    add_segmenters(commands)
    add_simulate(commands)
    add_train(commands)
    add_evaluate(commands)
    add_reproduce(commands)
    add_cohort(commands)
    _add_panel(commands)
    _add_weights(commands)
    add_bench(commands)
    return parser


def _add_panel(commands: Commands) -> None:
    p = commands.add_parser("panel", help="the panel in a browser, on this computer only")
    p.add_argument("--ct", type=Path, metavar="FILE|DIR")
    p.add_argument("--series", metavar="UID", help="which DICOM series, if the folder holds several")
    p.add_argument("--mask", type=Path, metavar="FILE", help="label map that holds L1")
    numbering = p.add_mutually_exclusive_group()
    numbering.add_argument("--label", type=int, metavar="N", help="L1's label; its neighbours are then not read")
    numbering.add_argument(
        "--label-map", choices=list(LABEL_MAPS), help="the mask's numbering: L1's neighbours are read"
    )
    p.add_argument("--port", type=int, default=0, help="default: any free port")
    p.add_argument("--no-open", action="store_true", help="do not open the browser")
    p.set_defaults(run=_panel)


def _panel(options: argparse.Namespace) -> int:
    from medconv.plugins import load_browser_panel

    run_browser_panel = load_browser_panel()
    return run_browser_panel(
        options.ct,
        options.mask,
        options.label,
        label_map=options.label_map or "",
        series=options.series,
        port=options.port,
        open_browser=not options.no_open,
    )


def _add_weights(commands: Commands) -> None:
    p = commands.add_parser("weights", help="list, verify, import or export weights")
    actions = p.add_subparsers(required=True, metavar="ACTION")
    actions.add_parser("list", help="installed weights").set_defaults(run=_weights_list)
    verify = actions.add_parser("verify", help="check the files against their published SHA-256")
    verify.add_argument("name", nargs="?", metavar="NAME")
    verify.set_defaults(run=_weights_verify)
    importing = actions.add_parser("import", help="check a weight file and install it for this user")
    importing.add_argument("file", type=Path, metavar="FILE")
    importing.set_defaults(run=_weights_import)

    export = actions.add_parser("export", help="pack a trained run as one weight file for Slicer")
    export.add_argument("run_folder", type=Path, metavar="RUN")
    export.add_argument("--out", type=Path, metavar="FILE", required=True, help="the weight file, .npz")
    export.add_argument("--name", metavar="NAME", help="default: the run folder's")
    export.add_argument("--precision", choices=("half", "full"), default="half", help="half (default) halves the size")
    export.add_argument("--licence", default="not stated", metavar="TEXT", help="under which others may use them")
    export.set_defaults(run=_weights_export)


def _weights_list(_: argparse.Namespace) -> int:
    from medconv.weights import list_models

    for card, path in list_models():
        a = card.default_adjustment
        print(f"{card.name}\n  file        {path}\n  trained on  {card.trained_on}\n  use         {card.intended_use}")
        print(f"  adjustment  {a.method}, tau1 {a.tau1:g}, tau2 {a.tau2:g}\n  licence     {card.licence}")
    return 0


def _weights_verify(options: argparse.Namespace) -> int:
    from medconv.weights import find_model, list_models, verify

    models = [find_model(options.name)] if options.name else list_models()
    for card, path in models:
        verify(card, path)
        print(f"{card.name}: as published (SHA-256 {card.sha256[:16]}…)")
    return 0


def _weights_import(options: argparse.Namespace) -> int:
    from medconv.weights import import_file

    card = import_file(options.file)
    print(f"Imported '{card.name}'. Use it with: medconv predict … --weights {card.name}")
    return 0


def _weights_export(options: argparse.Namespace) -> int:
    from medconv.weights_command import run_export

    return run_export(options)


if __name__ == "__main__":
    sys.exit(main())
