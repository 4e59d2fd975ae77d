"""The extension as Slicer's build and its index see it: CMake files, installed layout, catalogue entry."""

from __future__ import annotations

import json
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from panels.slicer_host.host import SlicerHost

SCRIPTED_MODULES = "lib/Slicer-5.13/qt-scripted-modules"
# As much of Slicer's build as the extension's files call: the same macros, which note what they are given.
SLICER_CONFIG = """
set(Slicer_USE_FILE "${CMAKE_CURRENT_LIST_DIR}/UseSlicer.cmake")
set(Slicer_EXTENSION_GENERATE_CONFIG "${CMAKE_CURRENT_LIST_DIR}/Nothing.cmake")
set(Slicer_EXTENSION_CPACK "${CMAKE_CURRENT_LIST_DIR}/Pack.cmake")
set(Slicer_QTSCRIPTEDMODULES_LIB_DIR "@FOLDER@")
""".replace("@FOLDER@", SCRIPTED_MODULES)
USE_SLICER = """
set(BUILD_TESTING ON)
macro(slicerMacroBuildScriptedModule)
  cmake_parse_arguments(MY "WITH_GENERIC_TESTS" "NAME" "SCRIPTS;RESOURCES" ${ARGN})
  if(MY_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "unknown: ${MY_UNPARSED_ARGUMENTS}")
  endif()
  if(NOT MY_WITH_GENERIC_TESTS)
    message(FATAL_ERROR "WITH_GENERIC_TESTS is missing")
  endif()
  foreach(file ${MY_SCRIPTS} ${MY_RESOURCES})
    if(NOT EXISTS ${CMAKE_CURRENT_SOURCE_DIR}/${file})
      message(FATAL_ERROR "not there: ${file}")
    endif()
    get_filename_component(folder ${file} DIRECTORY)
    file(COPY ${file} DESTINATION ${CMAKE_BINARY_DIR}/${Slicer_QTSCRIPTEDMODULES_LIB_DIR}/${folder})
  endforeach()
endmacro()
macro(slicer_add_python_unittest)
  cmake_parse_arguments(MY "" "TESTNAME_PREFIX;SCRIPT" "SLICER_ARGS" ${ARGN})
  if(NOT EXISTS ${CMAKE_CURRENT_SOURCE_DIR}/${MY_SCRIPT})
    message(FATAL_ERROR "no such test: ${MY_SCRIPT}")
  endif()
  file(APPEND ${CMAKE_BINARY_DIR}/tests.txt "${MY_SCRIPT}\\n")
endmacro()
"""
PACK = """
foreach(name HOMEPAGE CONTRIBUTORS DESCRIPTION ICONURL SCREENSHOTURLS DEPENDS KEYWORDS LICENSE_FILE README_FILE)
  if("${EXTENSION_${name}}" STREQUAL "")
    message(FATAL_ERROR "EXTENSION_${name} is not set")
  endif()
endforeach()
foreach(file ${EXTENSION_LICENSE_FILE} ${EXTENSION_README_FILE})
  if(NOT EXISTS ${file})
    message(FATAL_ERROR "not there: ${file}")
  endif()
endforeach()
"""


@pytest.fixture(scope="module")
def configured(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CMake run over the extension with a stand-in for Slicer's build; returns the build folder."""
    cmake = shutil.which("cmake")
    if cmake is None:
        pytest.skip("CMake is missing: the extension's CMake files were not run (its lists are checked elsewhere)")
    folder = tmp_path_factory.mktemp("extension")
    source, build, slicer = folder / "source", folder / "build", folder / "slicer"
    hidden = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info")
    shutil.copytree(repository, source, ignore=hidden, ignore_dangling_symlinks=True)
    root = source / "CMakeLists.txt"
    # The version that Slicer asks for is newer than many systems have, and no compiler is needed for scripts.
    text = root.read_text(encoding="utf-8").replace("3.28.0...3.28.0", "3.16")
    root.write_text(text.replace("project(BoneDensityMedConv)", "project(BoneDensityMedConv NONE)"), encoding="utf-8")
    slicer.mkdir()
    for name, content in (("SlicerConfig", SLICER_CONFIG), ("UseSlicer", USE_SLICER), ("Nothing", ""), ("Pack", PACK)):
        (slicer / f"{name}.cmake").write_text(content, encoding="utf-8")
    command = [cmake, "-S", source, "-B", build, f"-DSlicer_DIR={slicer}", "-Wno-dev"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    return build


def test_cmake_puts_resources_and_weights_beside_the_module(configured: Path, repository: Path) -> None:
    installed = configured / SCRIPTED_MODULES
    names = """BoneDensityMedConv.py Resources/UI/BoneDensityMedConv.ui Resources/Icons/BoneDensityMedConv.png
        model_weights/manifest.json medconv/worker.py medconv/result.schema.json"""
    for name in names.split():
        assert (installed / name).is_file(), name
    assert not (installed / "Resources" / "Screenshots").exists()
    # A .py beside the module would be taken for a module of its own.
    assert [path.name for path in installed.glob("*.py")] == ["BoneDensityMedConv.py"]


def test_both_kinds_of_self_test_are_registered(configured: Path) -> None:
    tests = (configured / "tests.txt").read_text(encoding="utf-8").split()
    assert sorted(tests) == ["BoneDensityMedConv.py", "BoneDensityMedConvInstallationTest.py"]


def test_the_installed_module_opens_and_finds_its_weights(
    configured: Path, slicer_host: SlicerHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the installed layout alone: nothing of the source checkout is on the path."""
    installed = configured / SCRIPTED_MODULES
    before = dict(sys.modules)
    for name in [n for n in sys.modules if n.split(".")[0] == "medconv"]:
        del sys.modules[name]
    monkeypatch.setattr(sys, "path", [p for p in sys.path if not p.endswith("BoneDensityMedConv")])
    monkeypatch.delenv("MEDCONV_WEIGHTS_DIR", raising=False)
    try:
        widget = slicer_host.open_module(slicer_host.load_module(installed / "BoneDensityMedConv.py"))
        from medconv import weights

        assert weights.list_models()[0][1].parent == installed / "model_weights"
        assert Path(weights.__file__).parent == installed / "medconv"
        assert widget.ui.hintLabel.text == "Choose a CT."
    finally:
        for name in [n for n in sys.modules if n.split(".")[0] == "medconv"]:
            del sys.modules[name]
        sys.modules.update({n: m for n, m in before.items() if n.split(".")[0] == "medconv"})


def test_the_index_can_read_icon_and_screenshots(repository: Path) -> None:
    text = (repository / "CMakeLists.txt").read_text(encoding="utf-8")
    assert "cmake_minimum_required(VERSION 3.28.0...3.28.0 FATAL_ERROR)" in text
    for key in ("EXTENSION_ICONURL", "EXTENSION_SCREENSHOTURLS"):
        (urls,) = re.findall(rf'set\({key} "([^"]+)"\)', text)
        for url in urls.split():
            name = url.partition("/SlicerBoneDensityMedConv/main/")[2]
            assert (repository / name).is_file(), url


def test_the_icon_is_a_png_of_128_pixels(repository: Path) -> None:
    head = (repository / "Resources/Icons/BoneDensityMedConv.png").read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", head[16:24]) == (128, 128)


def test_the_catalogue_entry_is_named_like_the_project_and_has_no_other_keys(repository: Path) -> None:
    path = repository / "docs/extensions-index/BoneDensityMedConv.json"
    raw = path.read_bytes()
    assert b"\r" not in raw
    entry = json.loads(raw)
    assert {"$schema", "category", "scm_url"} <= set(entry)
    assert set(entry) <= {"$schema", "category", "scm_url", "scm_revision", "scm_type", "build_dependencies",
                          "build_subdirectory", "dicom_support_rule", "enabled", "tier"}  # fmt: skip
    assert (entry["category"], entry["build_dependencies"]) == ("Quantification", ["PyTorch"])
    text = (repository / "CMakeLists.txt").read_text(encoding="utf-8")
    assert f"project({path.stem})" in text
    assert 'set(EXTENSION_DEPENDS "PyTorch")' in text


def test_the_module_file_imports_nothing_that_slicer_lacks(repository: Path) -> None:
    text = (repository / "BoneDensityMedConv/BoneDensityMedConv.py").read_text(encoding="utf-8")
    roots = set(re.findall(r"^(?:import|from) (\w+)", text, re.MULTILINE))
    assert roots <= {"slicer", "BoneDensityMedConvLib"}
    assert text.count("\n") < 150
