"""What a reader of the repository relies on: links lead somewhere, every file is installed, nothing is out of place."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from pathlib import Path
from urllib.parse import unquote

import pytest

from medconv import __version__

TEXT = {".py", ".md", ".txt", ".toml", ".yaml", ".yml", ".cfg", ".cff", ".json", ".ui", ".html", ".css", ".js", ".svg"}
MEGABYTE = 1_000_000

# Patterns, with a "~" somewhere in the middle so that this file itself is clean.
FORBIDDEN = {
    "a path of someone's machine": (r"(?<![\w.])/wo~rk/", r"(?<!\w)/ro~ot/", r"/\.py~env/"),
    "a package registry's host": (
        r"py~pi\.org",
        r"pythonho~sted\.org",
        r"download\.pyt~orch\.org",
        r"registry\.np~mjs\.org",
        r"deb\.deb~ian\.org",
        r"repo\.ana~conda\.com",
    ),
    "how the work was organised": (
        r"\bissue\s+#?~\d+\b",
        r"\bsub-?age~nts?\b",
        r"/tmp/br~ief",
        r"\bC~EO\b",
        r"\bClau~de\b",
        r"\bAnth~ropic\b",
    ),
}
LINK = re.compile(r"!?\[[^\]]*\]\(\s*<?([^)\s>]+)>?[^)]*\)|<(?:img|a)\b[^>]*\b(?:src|href)=\"([^\"]+)\"")


def tracked(repository: Path) -> list[Path]:
    """Every file that git knows or would add; without git, every file outside hidden folders."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        answer = subprocess.run(command, cwd=repository, capture_output=True, check=True)
        names = answer.stdout.decode().split("\0")
        return [repository / name for name in names if name and (repository / name).is_file()]
    except (OSError, subprocess.CalledProcessError):
        inside = [p.relative_to(repository) for p in repository.rglob("*") if p.is_file()]
        return [repository / p for p in inside if not any(part.startswith(".") for part in p.parts[:-1])]


@pytest.fixture(scope="module")
def files(repository: Path) -> list[Path]:
    found = tracked(repository)
    assert len(found) > 50, "the repository's files were not found"
    return found


def forbidden_in(text: str) -> list[str]:
    """One entry for each forbidden text, with its line."""
    return [
        f"line {text.count(chr(10), 0, match.start()) + 1}: {what}: {match[0]!r}"
        for what, patterns in FORBIDDEN.items()
        for match in re.finditer("|".join(patterns).replace("~", ""), text, re.IGNORECASE)
    ]


def broken_links(document: Path) -> list[str]:
    """Relative links of a Markdown file that lead nowhere."""
    text = re.sub(r"```.*?```|`[^`\n]*`", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)
    targets = [match[1] or match[2] for match in LINK.finditer(text)]
    inside = [t.split("#")[0] for t in targets if not re.match(r"[a-z][a-z0-9+.-]*:|#", t, re.IGNORECASE)]
    return [target for target in inside if not (document.parent / unquote(target)).exists()]


def test_no_file_names_a_machine_a_registry_or_how_the_work_was_organised(files: list[Path], repository: Path) -> None:
    found = []
    for path in files:
        if path.suffix in TEXT or path.name in ("CMakeLists.txt", "run", "LICENSE", ".gitignore"):
            text = path.read_text(encoding="utf-8")
            found += [f"{path.relative_to(repository)}, {entry}" for entry in forbidden_in(text)]
    assert found == []


@pytest.mark.parametrize(
    "text",
    ["see /wo~rk/main/x", "cd /ro~ot/x", "from py~pi.org", "as iss~ue 2 asks", "for the C~EO"],
)
def test_a_forbidden_text_is_found_with_its_line(text: str) -> None:
    (entry,) = forbidden_in("fine\n" + text.replace("~", ""))
    assert entry.startswith("line 2:")


@pytest.mark.parametrize("text", ["../shared/data/real_ct", "framework/x", "TotalSegmentator#462", "tissue 3 mm"])
def test_an_innocent_text_is_not(text: str) -> None:
    assert forbidden_in(text) == []


def test_every_link_in_the_documents_leads_to_a_file(files: list[Path], repository: Path) -> None:
    documents = [path for path in files if path.suffix == ".md"]
    assert repository / "README.md" in documents
    assert {str(d.relative_to(repository)): b for d in documents if (b := broken_links(d))} == {}


def test_a_link_that_leads_nowhere_is_found(tmp_path: Path) -> None:
    (tmp_path / "a b.md").touch()
    document = tmp_path / "x.md"
    document.write_text(
        '[1](a%20b.md#part) ![2](gone.png "title") [3](https://example.org/gone) [4](#here) `[5](code)`\n'
        '<img src="also-gone.png" width="3">\n```\n[6](in-code.md)\n```\n'
    )
    assert broken_links(document) == ["gone.png", "also-gone.png"]


def test_cmake_installs_every_file_of_the_module(files: list[Path], repository: Path) -> None:
    module = repository / "BoneDensityMedConv"
    text = (module / "CMakeLists.txt").read_text(encoding="utf-8")
    text = text.replace("${MODULE_NAME}", "BoneDensityMedConv")
    text = re.sub(r"#.*", "", text)
    listed = set(re.findall(r"[\w./-]+\.\w+", text))
    inside = [p.relative_to(module) for p in files if module in p.parents]
    present = {p.as_posix() for p in inside if p.name not in ("CMakeLists.txt", ".gitkeep")}
    assert len(present) > 30
    assert present - listed == set(), "not installed in Slicer"
    assert {name for name in listed if name.endswith(".py")} - present == set(), "listed, but not there"


def test_a_module_can_be_read_in_one_sitting(files: list[Path], repository: Path) -> None:
    shipped = (repository / "BoneDensityMedConv", repository / "scripts")
    modules = [p for p in files if p.suffix == ".py" and any(folder in p.parents for folder in shipped)]
    sizes = {p.relative_to(repository): (p.read_text("utf-8").count("\n"), p.stat().st_size) for p in modules}
    assert {str(p): size for p, size in sizes.items() if size[0] > 300 or size[1] >= 14 * 1024} == {}


def test_no_file_is_too_large_for_the_extensions_index(files: list[Path], repository: Path) -> None:
    large = {str(p.relative_to(repository)): p.stat().st_size for p in files if p.stat().st_size > 12 * MEGABYTE}
    assert large == {}
    assert sum(p.stat().st_size for p in files) < 50 * MEGABYTE


def test_every_python_file_reads_on_the_oldest_supported_python(files: list[Path]) -> None:
    for path in files:
        if path.suffix == ".py":
            ast.parse(path.read_text(encoding="utf-8"), str(path), feature_version=(3, 11))


def test_licence_version_and_citation_agree(repository: Path) -> None:
    project = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    licence = (repository / "LICENSE").read_text(encoding="utf-8")
    citation = (repository / "CITATION.cff").read_text(encoding="utf-8")
    assert project["license"] == "Apache-2.0"
    assert "Apache License" in licence
    assert "END OF TERMS AND CONDITIONS" in licence
    assert f"\nversion: {__version__}\n" in citation
    assert "\nlicense: Apache-2.0\n" in citation
