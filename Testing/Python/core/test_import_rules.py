"""Who may import whom, read from the source.

`types`, `config` ← grid ← stages ← pipeline, report, training ← command line, worker, batch. Stages do not import each
other; the core never imports the panels; Slicer must start without torch. The tables below are the rules.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

CORE, LIB = "medconv", "BoneDensityMedConvLib"

# Layer → the layers it may import. A layer's groups (a stage with its helper files) may import within themselves.
MAY_IMPORT = {
    "nouns": {"nouns"},
    "geometry": {"nouns"},
    "stage": {"nouns", "geometry"},
    "simulation": {"nouns", "geometry"},
    "pipeline": {"nouns", "geometry", "stage"},
    "telling": {"nouns", "geometry", "stage"},
    "samples": {"nouns", "geometry", "stage", "simulation"},
    "training": {"nouns", "geometry", "stage", "simulation", "pipeline", "telling"},
    "front": {"nouns", "geometry", "stage", "simulation", "pipeline", "telling", "samples", "training", "front"},
}
# Layer → its groups. A name stands for the module of medconv, or for the package with all that is in it.
GROUPS: dict[str, tuple[set[str], ...]] = {
    "nouns": ({"", "types", "errors", "config", "population", "vertebrae", "packages"},),
    "geometry": (
        {"grid", "neighbourhood", "vertebral_body", "vertebra_parts"}, {"devices"}, {"mineral"}, {"input_paths"},
        {"user_folders"}, {"control_groups"},
    ),
    "stage": (
        {
            "volume_io", "block_file", "ct_source", "dicom_header", "dicom_series", "dicom_slices", "dicom_stack",
            "dicom_tags", "file_layout", "gzip_stream", "stored_voxels",
        },
        {"hounsfield", "hu_peaks", "hu_scale"},
        {"slices"},
        {"segmenter", "segmenters"},
        {"l1_mask"},
        {"attenuation", "vertebra_check"},
        {"mask_fit"},
        {"crop"},
        {"network", "weights", "inference", "runtimes"},
        {"tau_adjustment"},
        {"tscore"},
        {"prediction_set"},
        {"level_check", "level_doubts", "level_outliers", "level_structures"},
        {"segmentation_comparison"},
        {"case_file", "ct_file", "segmentation_file"},
    ),
    "simulation": ({"simulate"},),
    "pipeline": ({"pipeline"}, {"explanation", "explanation_cells", "explanation_file", "reference_vertebra"},),
    "telling": ({
        "report", "report_html", "level_report", "html_page", "planes", "dot_letters", "level_picture",
        "level_drawing", "comparison_picture", "comparison_report",
        "dicom_export", "dicom_source", "dicom_segment", "dicom_report", "dicom_codes",
    },),
    "samples": ({"sample_data", "sample_archive"},),
    "training": ({"training"},),
    "front": (
        {
            "cli", "cohort_command", "evaluate_command", "predict_command",
            "segment_command", "compare_command", "segmenters_command", "reproduce_command", "plugins",
        },
        {"case_reading", "command_line", "console", "result_files", "label_map_file", "label_numbering", "mask_source"},
        {"train_command", "train_options", "train_summary", "weights_command"},
        {"simulate_command", "simulate_options", "simulated_cohort", "simulation_processes", "simulation_realism"},
        {"explain_command", "explanation_picture", "explanation_report"},
        {"batch", "batch_command"},
        {"bench", "bench_command"},
        {
            "worker", "worker_client", "worker_commands", "worker_errors", "worker_events", "worker_interrupts",
            "worker_process", "processes", "process_tree",
        },
    ),
}  # fmt: skip

ALWAYS_THERE = set(sys.stdlib_module_names) | {"numpy", "SimpleITK"}
# May need torch (training: any of its tools) as soon as they are loaded; all others import them inside functions.
TORCH_AT_LOAD = {"network", "training"}
# May use more than numpy, SimpleITK and torch (inside functions).
MAY_NEED_MORE = {
    "gzip_stream",
    "training", "simulate", "segmenters", "explanation", "runtimes", "batch", "bench",
    "dicom_export", "dicom_source", "dicom_segment", "dicom_report", "dicom_codes",
}  # fmt: skip

IN_SLICER = {"slicer", "vtk", "vtkmodules", "scipy", "SampleData", "DICOMLib", "sitkUtils"}
# Who may know which window system.
USES_QT = {"qt_panel", "qt_binding", "qt_source_section", "waiting", "dependencies", "self_test"}
USES_TRAME = {"browser_panel"}
QT = {"qt", "ctk", "PySide6"}


@dataclass(frozen=True)
class Import:
    """`target` is imported by `module` (both dotted) at `line`; `at_load` unless inside a function or TYPE_CHECKING."""

    module: str
    target: str
    line: int
    at_load: bool

    @property
    def package(self) -> str:
        return self.target.split(".")[0]

    def says(self, what: str) -> str:
        return f"{self.module}:{self.line} imports {self.target}: {what}"


class _Collector(ast.NodeVisitor):
    def __init__(self, module: str, is_package: bool, modules: set[str]) -> None:
        self.module, self.is_package, self.modules, self.at_load = module, is_package, modules, True
        self.found: list[Import] = []

    def _deferred(self, node: ast.AST) -> None:
        before, self.at_load = self.at_load, False
        self.generic_visit(node)
        self.at_load = before

    visit_FunctionDef = visit_AsyncFunctionDef = visit_Lambda = _deferred

    def visit_If(self, node: ast.If) -> None:
        if "TYPE_CHECKING" in ast.unparse(node.test):
            self._deferred(node)
        else:
            self.generic_visit(node)

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self._add(alias.name, node.lineno)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        base = node.module or ""
        if node.level:
            inside = [*self.module.split("."), *(["__init__"] if self.is_package else [])]
            parents = inside[: -node.level]
            base = ".".join([*parents, *([base] if base else [])])
        for alias in node.names:
            # `from medconv import crop` imports the module; `from medconv import __version__` only the package.
            full = f"{base}.{alias.name}"
            self._add(full if full in self.modules else base, node.lineno)

    def _add(self, target: str, line: int) -> None:
        self.found.append(Import(self.module, target, line, self.at_load))


def imports_under(root: Path) -> Iterator[Import]:
    """Every import in every .py file of both packages under `root`."""
    files = {}
    for package in (CORE, LIB):
        for path in sorted((root / package).rglob("*.py")):
            parts = list(path.relative_to(root).with_suffix("").parts)
            files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    for module, path in files.items():
        collector = _Collector(module, path.stem == "__init__", set(files))
        collector.visit(ast.parse(path.read_text(encoding="utf-8"), str(path)))
        yield from collector.found


def first_part(module: str) -> str:
    """`medconv.simulate.spine` → `simulate`; `medconv` → ""."""
    return module.split(".")[1] if "." in module else ""


def group_of(part: str) -> tuple[str, set[str]] | None:
    """The layer and group of a part of medconv, or None if no table names it."""
    for layer, groups in GROUPS.items():
        for group in groups:
            if part in group:
                return layer, group
    return None


def core_violations(found: Import) -> Iterator[str]:
    part = first_part(found.module)
    place = group_of(part)
    if place is None:
        yield f"{found.module} is in no layer: add it to GROUPS in this file, where it belongs"
        return
    layer, group = place
    if found.package == CORE:
        target = group_of(first_part(found.target))
        if target is None:
            yield found.says("which is in no layer")
        elif first_part(found.target) not in group and target[0] not in MAY_IMPORT[layer]:
            yield found.says(f"a {layer} may not import a {target[0]} of another group")
        elif found.at_load and first_part(found.target) in TORCH_AT_LOAD and part not in TORCH_AT_LOAD:
            yield found.says("which loads torch; import it inside a function")
        return
    if found.package in ALWAYS_THERE:
        return
    allowed_at_load = part == "training" or (found.package == "torch" and part in TORCH_AT_LOAD)
    if found.at_load and not allowed_at_load:
        yield found.says("only inside a function, so that Slicer starts without it")
    if found.package in {LIB, *IN_SLICER - {"scipy"}, *QT} or found.package.startswith("trame"):
        yield found.says("the core knows no slicer, vtk, qt or trame")
    elif found.package != "torch" and part not in MAY_NEED_MORE:
        yield found.says("the core needs no more than numpy, SimpleITK and torch")


def lib_violations(found: Import) -> Iterator[str]:
    part = first_part(found.module)
    if found.package in QT:
        if part not in USES_QT:
            yield found.says(f"only {sorted(USES_QT)} may know Qt")
        return
    if found.package.startswith("trame") and part not in USES_TRAME:
        yield found.says(f"only {sorted(USES_TRAME)} may know trame")
    if found.package == CORE and found.at_load and first_part(found.target) in TORCH_AT_LOAD:
        yield found.says("which loads torch; import it inside a function")
    if found.at_load and found.package not in ALWAYS_THERE | IN_SLICER | {CORE, LIB}:
        yield found.says("only inside a function, so that Slicer starts without it")


def violations(root: Path) -> list[str]:
    """One sentence for every broken rule under `root`."""
    result = []
    for found in imports_under(root):
        check = core_violations if found.module.split(".")[0] == CORE else lib_violations
        result += check(found)
    return sorted(set(result))


def test_every_import_follows_the_rules(repository: Path) -> None:
    found = list(imports_under(repository / "BoneDensityMedConv"))
    assert len(found) > 100, "the source was not found"
    assert violations(repository / "BoneDensityMedConv") == []


def test_no_module_is_in_two_groups() -> None:
    names = [name for groups in GROUPS.values() for group in groups for name in group]
    assert len(names) == len(set(names))


BAD = {
    "medconv/crop.py": ("from medconv import attenuation", "a stage may not import a stage of another group"),
    "medconv/types.py": ("from medconv.crop import cut", "a nouns may not import a stage"),
    "medconv/pipeline.py": ("def f():\n    from medconv.cli import main", "a pipeline may not import a front"),
    "medconv/grid.py": ("import vtk", "the core knows no slicer, vtk, qt or trame"),
    "medconv/tscore.py": ("def f():\n    import slicer", "the core knows no slicer, vtk, qt or trame"),
    "medconv/worker.py": ("from BoneDensityMedConvLib import presenter", "the core knows no slicer"),
    "medconv/l1_mask.py": ("import torch", "only inside a function"),
    "medconv/slices.py": ("class A:\n    import scipy", "only inside a function"),
    "medconv/hounsfield.py": ("def f():\n    from scipy import ndimage", "no more than numpy, SimpleITK and torch"),
    "medconv/inference.py": ("from medconv.network import build_network", "which loads torch"),
    "medconv/report.py": ("try:\n    import highdicom\nexcept ImportError:\n    pass", "only inside a function"),
    "medconv/novelty.py": ("import json", "is in no layer"),
    "medconv/segmenters/nnunet.py": ("from ..crop import cut", "a stage may not import a stage of another group"),
    "BoneDensityMedConvLib/presenter.py": ("def f():\n    import qt", "may know Qt"),
    "BoneDensityMedConvLib/scene.py": ("def f():\n    import trame_slicer", "may know trame"),
    "BoneDensityMedConvLib/segments.py": ("from torch import nn", "only inside a function"),
    "BoneDensityMedConvLib/browser_panel/app.py": ("from trame.app import get_server", "only inside a function"),
    "BoneDensityMedConvLib/qt_panel.py": ("from medconv import network", "which loads torch"),
}
GOOD = {
    "medconv/attenuation.py": "import numpy as np\nfrom medconv.grid import canonical",
    "medconv/weights.py": "def f():\n    import torch\n    from medconv.network import build_network",
    "medconv/network.py": "import torch\nfrom medconv.config import Architecture",
    "medconv/dicom_series.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch",
    "medconv/simulate/cohort.py": "from . import physics\ndef f():\n    from scipy.special import ndtr",
    "medconv/simulate/physics.py": "",
    "medconv/cli.py": "from medconv import __version__, pipeline",
    "BoneDensityMedConvLib/qt_binding.py": "import qt, slicer",
    "BoneDensityMedConvLib/browser_panel/__init__.py": "def f():\n    from trame.app import get_server",
}


def write_tree(root: Path, sources: dict[str, str]) -> None:
    for name, source in sources.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source + "\n", encoding="utf-8")


@pytest.mark.parametrize("name", BAD)
def test_a_broken_rule_is_found(tmp_path: Path, name: str) -> None:
    source, sentence = BAD[name]
    others = {bad: "" for bad in BAD if bad not in (name, "medconv/novelty.py")}
    write_tree(tmp_path, {**others, **GOOD, name: source, "medconv/__init__.py": ""})
    told = violations(tmp_path)
    assert any(sentence in line for line in told), told
    assert all(line.startswith(name.removesuffix(".py").replace("/", ".")) for line in told), told


def test_what_the_rules_allow_is_not_reported(tmp_path: Path) -> None:
    write_tree(tmp_path, {**GOOD, "medconv/pipeline.py": "", "medconv/grid.py": "", "medconv/__init__.py": ""})
    assert violations(tmp_path) == []
