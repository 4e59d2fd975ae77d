"""Which build of torch a machine gets: judged with a stand-in for pip that records what it is asked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from scripts import torch_build
from scripts.console import SetupError
from scripts.pip_step import PipFailure


@pytest.mark.parametrize(
    ("program", "found"),
    [
        ("echo 'GPU 0: Some Card (UUID: GPU-1)'", True),
        ("echo 'No devices were found'; exit 6", False),
        ("echo 'driver/library version mismatch' >&2; exit 18", False),
        (None, False),
    ],
)
def test_a_gpu_is_one_that_its_own_tool_lists(path_with: Callable[..., Path], program: str | None, found: bool) -> None:
    path_with(**({"nvidia_smi": program} if program else {}))
    assert torch_build.has_nvidia_gpu() is found
    assert torch_build.wants_cuda({}) is found
    assert torch_build.wants_cuda({"MEDCONV_TORCH": "cpu"}) is False
    assert torch_build.wants_cuda({"MEDCONV_TORCH": "CUDA"}) is True


def test_a_misspelt_choice_of_torch_is_refused() -> None:
    with pytest.raises(SetupError, match="gpu"):
        torch_build.wants_cuda({"MEDCONV_TORCH": "gpu"})


@pytest.mark.parametrize(
    ("installed", "without_gpu", "with_gpu"),
    [
        (None, False, False),
        ("2.13.0+cpu", True, False),
        ("2.13.0", True, True),
        ("2.13.0+cu130", True, True),
        ("2.13.1+cpu", False, False),
        ("2.12.0", False, False),
    ],
)
def test_an_installed_torch_stays_if_it_fits(installed: str | None, without_gpu: bool, with_gpu: bool) -> None:
    assert torch_build.acceptable(installed, cuda=False) is without_gpu
    assert torch_build.acceptable(installed, cuda=True) is with_gpu


class FakePip:
    """Records what pip would have been asked; fails for the requirements it is told to."""

    def __init__(self, **failures: PipFailure) -> None:
        self.calls: list[list[str]] = []
        self.failures = failures

    def __call__(self, arguments: list[str], _doing: str) -> None:
        self.calls.append(arguments)
        kind = "cpu" if arguments[-1].endswith("+cpu") else "plain"
        if kind in self.failures:
            raise self.failures[kind]


NO_CPU_BUILD = PipFailure("no build", "", missing="torch==2.13.0+cpu")
NO_NETWORK = PipFailure("the package index could not be reached", "try again")


def install_torch(pip: FakePip, cuda: bool = False, platform: str = "linux", free_gb: float = 99, **env: str) -> None:
    torch_build.install(pip, Path("requirements"), cuda, platform=platform, environment=env, free_gb=free_gb)


def test_without_a_gpu_the_cpu_build_comes_without_its_dependencies() -> None:
    pip = FakePip()
    install_torch(pip, free_gb=1)
    assert pip.calls == [["install", "--no-deps", "torch==2.13.0+cpu"]]


def test_with_a_gpu_the_cuda_build_comes_with_its_dependencies() -> None:
    pip = FakePip()
    install_torch(pip, cuda=True)
    core, libraries = str(Path("requirements/core.txt")), str(Path("requirements/cuda.txt"))
    assert pip.calls == [["install", "--constraint", core, "--constraint", libraries, "torch==2.13.0"]]


def test_the_large_build_is_announced_before_it_is_fetched(capsys: pytest.CaptureFixture[str]) -> None:
    said_before: list[str] = []

    class Watching(FakePip):
        def __call__(self, arguments: list[str], doing: str) -> None:
            if not arguments[-1].endswith("+cpu"):
                said_before.append(capsys.readouterr().out)
            super().__call__(arguments, doing)

    pip = Watching(cpu=NO_CPU_BUILD)
    install_torch(pip)
    assert [call[-1] for call in pip.calls] == ["torch==2.13.0+cpu", "torch==2.13.0"]
    assert "--no-deps" not in pip.calls[1]
    assert "5 GB on disk" in said_before[0]
    assert "MEDCONV_TORCH_INDEX" in said_before[0]


def test_the_large_build_is_not_begun_where_it_does_not_fit() -> None:
    pip = FakePip(cpu=NO_CPU_BUILD)
    with pytest.raises(SetupError, match=r"only 3\.0 GB are free"):
        install_torch(pip, free_gb=3.0)
    assert len(pip.calls) == 1


def test_whoever_asks_for_the_cpu_build_never_gets_the_large_one() -> None:
    pip = FakePip(cpu=NO_CPU_BUILD)
    with pytest.raises(SetupError, match="no CPU build") as caught:
        install_torch(pip, MEDCONV_TORCH="cpu")
    assert "MEDCONV_TORCH_INDEX" in caught.value.remedy
    assert len(pip.calls) == 1


def test_a_network_failure_is_no_reason_to_fetch_the_large_build() -> None:
    pip = FakePip(cpu=NO_NETWORK)
    with pytest.raises(SetupError, match="could not be reached"):
        install_torch(pip)
    assert len(pip.calls) == 1


@pytest.mark.parametrize("cuda", [False, True])
def test_the_person_s_own_index_is_passed_on(cuda: bool) -> None:
    pip = FakePip()
    install_torch(pip, cuda=cuda, MEDCONV_TORCH_INDEX="file:///wheels")
    position = pip.calls[0].index("--extra-index-url")
    assert pip.calls[0][position + 1] == "file:///wheels"


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_elsewhere_than_linux_the_plain_build_is_the_cpu_build(platform: str) -> None:
    pip = FakePip()
    install_torch(pip, platform=platform)
    assert pip.calls == [["install", "--no-deps", "torch==2.13.0"]]
