"""Trainings in processes that can be killed. One start of Python; every training is a fork of it.

python train_driver.py killed FOLDER       one run left alone, others killed at each write and at random moments
python train_driver.py processes FOLDER    one process and two (gloo) in double precision; and one that dies
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorboardX  # noqa: F401 - loaded before the forks
import torch
from core.train_toys import toy_set, toy_settings

from medconv.training.parts import assembly
from medconv.training.runs import distributed, loop, run, run_folder, run_log
from medconv.types import MedConvError

WRITES = 12  # files that a run of three epochs writes: settings, sheets, weights, checkpoints
RESULTS = ("best.npz", "log.csv", "predictions_validation.npz", "choice.json", "settings.json")


def fork(work: Callable[[], None]) -> int:
    """Run `work` in a child; returns its id. A MedConvError's code is printed and 7 is the exit code."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        torch.set_num_threads(1)
        work()
        code = 0
    except MedConvError as error:
        print(error.code, flush=True)
        code = 7
    finally:
        os._exit(code)


def wait(child: int) -> int:
    """Exit code; negative: the signal that killed it."""
    status = os.waitpid(child, 0)[1]
    return os.waitstatus_to_exitcode(status)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


# --- killed ---------------------------------------------------------------------------------------------------------


def killed(folder: Path) -> dict[str, Any]:
    # Dropout-free, but with everything else that has a state: running mean, balanced sampling, turned crops.
    settings = toy_settings(
        epochs=3,
        ema_decay=0.9,
        sampling="balaug",
        accumulate=2,
        patience=2,
        augmentation=assembly.sampling.Augmentation(rotation_degrees=5.0),
    )
    sets = toy_set(20, 0), toy_set(12, 1)

    def train(name: str, fatal: tuple[int, str] | None = None) -> Callable[[], None]:
        def work() -> None:
            if fatal is not None:
                kill_at_write(*fatal)
            run.train_run(settings, *sets, folder / name, device="cpu")

        return work

    started = time.monotonic()
    assert wait(fork(train("alone"))) == 0
    seconds = time.monotonic() - started
    deaths, kept = 0, []
    chosen = [(index, how) for index in range(WRITES) for how in ("before", "midway", "after")]
    random.Random(0).shuffle(chosen)
    for number, fatal in enumerate(chosen[:6]):
        name = f"write{number}"
        died = wait(fork(train(name, fatal))) == -signal.SIGKILL
        deaths += died
        assert wait(fork(train(name))) == 0
        kept.append(name)
    moments = random.Random(1)
    child, name = fork(train("moments")), "moments"
    for _ in range(2):
        time.sleep(moments.uniform(0.05, 0.6) * seconds)
        os.kill(child, signal.SIGKILL)
        deaths += wait(child) == -signal.SIGKILL
        child = fork(train(name))
    assert wait(child) == 0
    kept.append(name)
    return {"deaths": deaths, "alone": hashes(folder / "alone"), "others": {n: hashes(folder / n) for n in kept}}


def kill_at_write(index: int, how: str) -> None:
    """Die at the index-th file that the run writes: before it, when half of it is on disk, or just after it."""
    whole, count = run_folder.write_whole, [0]

    def write(path: Path, content: bytes) -> None:
        count[0] += 1
        if count[0] - 1 != index:
            whole(path, content)
            return
        if how == "midway":
            path.with_name(path.name + ".partial").write_bytes(bytes(content)[: len(content) // 2])
        if how == "after":
            whole(path, content)
        die()

    run_folder.write_whole = write
    run_log.write_whole = write


def hashes(path: Path) -> dict[str, str]:
    return {name: hashlib.sha256((path / name).read_bytes()).hexdigest() for name in RESULTS}


# --- processes ------------------------------------------------------------------------------------------------------


def processes(folder: Path) -> dict[str, Any]:
    settings = toy_settings(
        loss="class_balanced",
        batch_size=8,
        accumulate=2,
        learning_rate=1e-3,
        augmentation=assembly.sampling.NO_AUGMENTATION,
    )
    sets = toy_set(24, 0), toy_set(11, 1)

    def train(name: str, rank: int = 0, count: int = 1, port: int = 0, before: Callable[[], None] | None = None) -> int:
        def work() -> None:
            os.environ |= {
                "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
            }  # fmt: skip
            in_double_precision()
            if before is not None:
                before()
            trained = run.train_run(settings, *sets, folder / name, device="cpu")
            rows = [[row.train_loss, row.validation_nll] for row in trained.rows]
            (folder / f"{name}_{rank}.json").write_text(json.dumps({"rows": rows}))

        return fork(work)

    def together(name: str, before: Callable[[], None] | None = None) -> list[int]:
        port = free_port()
        return [wait(child) for child in [train(name, rank, 2, port, before) for rank in range(2)]]

    def own_batch_norm() -> None:
        distributed.share_batch_norm = lambda network: None

    def one_dies() -> None:
        step = loop.Training._pass

        def dying(self: Any, epoch: int, pace: Any) -> Any:
            if epoch == 1 and self.job.processes.rank == 1:
                die()
            return step(self, epoch, pace)

        loop.Training._pass = dying

    codes = {"one": [wait(train("one"))], "two": together("two"), "own": together("own", own_batch_norm)}
    codes["dies"] = together("dies", one_dies)
    codes["goes_on"] = together("dies")
    told = {path.stem: json.loads(path.read_text())["rows"] for path in folder.glob("*.json")}
    return {"codes": codes, "rows": told, "files": sorted(path.name for path in (folder / "two").iterdir())}


def in_double_precision() -> None:
    """Rounding grows along a training: in double precision only other arithmetic shows."""
    build, make = assembly.build_parts, assembly._to_network

    def doubled(*arguments: Any) -> assembly.Parts:
        parts = build(*arguments)
        return assembly.Parts(parts.network.double(), parts.head.double())

    assembly.build_parts = doubled
    assembly._to_network = lambda crops, settings, device: make(crops, settings, device).double()
    torch.Tensor.float = lambda self: self  # type: ignore[method-assign]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


if __name__ == "__main__":
    torch.set_num_threads(1)
    np.seterr(all="raise", under="ignore")
    print(json.dumps({"killed": killed, "processes": processes}[sys.argv[1]](Path(sys.argv[2]))))
