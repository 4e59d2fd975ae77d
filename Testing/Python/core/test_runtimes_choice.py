"""The choice among runtimes, with made-up ones on a made-up clock: who is measured, who is refused, what is kept."""

from __future__ import annotations

import json
import multiprocessing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from medconv import runtimes
from medconv.config import Architecture
from medconv.inference import LoadedModel
from medconv.runtimes import choice, choice_file
from medconv.runtimes.choice_file import Remembered
from medconv.runtimes.runtime import CannotRun, Runtime, Subject
from medconv.types import MissingRequirement, UsageError

SHAPE = (1, 8, 8, 8)
WIDE = Architecture(width=64)
LOGITS = [1.0, 2.0, 3.0]


@dataclass
class Made:
    """A made-up runtime: seconds of a pass, what it adds to the logits, what it raises at opening or at a pass."""

    seconds: float
    off_by: float = 0.0
    at_opening: Exception | None = None
    at_pass: BaseException | None = None
    opening_seconds: float = 0.0


class World:
    """Made-up runtimes, a clock that only they move, and a record of which were opened."""

    def __init__(self, monkeypatch, **made: Made) -> None:
        self.made = {"eager": Made(0.2), **made}
        self.now, self.opened = 0.0, []
        monkeypatch.setattr(runtimes, "available", lambda device="cpu": list(self.made))
        monkeypatch.setattr(runtimes, "open_runtime", self.open)
        monkeypatch.setattr(choice, "perf_counter", lambda: self.now)

    def open(self, name, architecture, network, device, shape):
        self.opened.append(name)
        made = self.made[name]
        self.now += made.opening_seconds
        if made.at_opening is not None:
            raise made.at_opening

        def answer(crops):
            self.now += made.seconds
            if made.at_pass is not None:
                raise made.at_pass
            return torch.tensor([LOGITS], dtype=torch.float64).repeat(len(crops), 1).float() + made.off_by

        return Runtime(name, subject(), answer, is_half=name in runtimes.HALF_PRECISION)


def subject(**changes) -> Subject:
    return replace(Subject(WIDE, torch.nn.Identity(), "cpu", SHAPE), **changes)


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path) -> Path:
    monkeypatch.setenv("MEDCONV_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "runtimes"


def name_of(chosen: choice.Choice) -> str:
    return chosen.runtime.name if chosen.runtime else "eager"


def test_the_fastest_runtime_that_agrees_is_chosen(monkeypatch):
    world = World(monkeypatch, openvino=Made(0.08), onednn=Made(0.06), channels_last=Made(0.07))
    chosen = choice.choose(subject(), "a" * 64)
    assert name_of(chosen) == "onednn"
    assert chosen.seconds == pytest.approx({"eager": 0.2, "openvino": 0.08, "onednn": 0.06, "channels_last": 0.07})
    assert chosen.notes == ()
    assert world.opened == ["eager", "openvino", "onednn", "channels_last"]


@pytest.mark.parametrize(("seconds", "expected"), [(0.181, "eager"), (0.179, "onednn"), (0.3, "eager")])
def test_a_runtime_must_save_a_tenth(monkeypatch, seconds, expected):
    World(monkeypatch, onednn=Made(seconds))
    assert name_of(choice.choose(subject(), "")) == expected


@pytest.mark.parametrize(("seconds", "expected"), [(0.091, "openvino"), (0.089, "bfloat16")])
def test_half_precision_must_save_another_tenth(monkeypatch, seconds, expected):
    World(monkeypatch, openvino=Made(0.1), bfloat16=Made(seconds))
    assert name_of(choice.choose(subject(), "")) == expected


@pytest.mark.parametrize("off_by", [3e-3, -1.0, float("nan"), float("inf")])
def test_a_runtime_whose_answers_are_off_is_refused_with_a_notice(monkeypatch, off_by):
    World(monkeypatch, openvino=Made(0.01, off_by=off_by), onednn=Made(0.1))
    for _ in range(2):  # measured, and remembered
        chosen = choice.choose(subject(), "")
        assert name_of(chosen) == "onednn"
        assert [(n.code, str(n.severity)) for n in chosen.notes] == [("runtime_refused", "info")]
        assert "'openvino'" in chosen.notes[0].message


def test_half_precision_has_a_tolerance_of_its_own(monkeypatch):
    # 0.02 · (1 + 1) at the smallest logit; float32 gets 1e-4 of it.
    World(monkeypatch, bfloat16=Made(0.01, off_by=0.039))
    assert name_of(choice.choose(subject(), "")) == "bfloat16"
    World(monkeypatch, bfloat16=Made(0.01, off_by=0.041))
    assert name_of(choice.choose(subject(), "other")) == "eager"


@pytest.mark.parametrize(
    "fails", [Made(0.01, at_opening=CannotRun("ImportError: half installed")), Made(0.01, at_pass=ValueError("no"))]
)
def test_a_runtime_that_raises_while_it_is_tried_is_not_chosen(monkeypatch, fails):
    World(monkeypatch, openvino=fails, onednn=Made(0.1))
    chosen = choice.choose(subject(), "")
    assert name_of(chosen) == "onednn"
    assert len(chosen.notes) == 1
    assert "'openvino'" in chosen.notes[0].message


def test_short_passes_are_not_worth_a_measurement(monkeypatch):
    world = World(monkeypatch, eager=Made(0.049), onednn=Made(0.001))
    assert name_of(choice.choose(subject(), "")) == "eager"
    assert world.opened == ["eager"]


@pytest.mark.parametrize(("usual", "expected"), [(0.006, "cuda_graph"), (0.004, "eager")])
def test_on_a_gpu_shorter_passes_are_worth_it(monkeypatch, usual, expected):
    monkeypatch.setattr(choice_file, "_device_name", lambda device: device)
    World(monkeypatch, eager=Made(usual), cuda_amp=Made(0.004), cuda_graph=Made(0.001))
    assert name_of(choice.choose(subject(device="cuda:1"), "")) == expected


FULL = torch.OutOfMemoryError("CUDA out of memory")


def wrapped(error: Exception) -> CannotRun:
    """As `open_runtime` hands over what a runtime's own code raised."""
    refused = CannotRun("OutOfMemoryError")
    refused.__cause__ = error
    return refused


@pytest.mark.parametrize(
    "made", [{"eager": Made(0.2, at_pass=FULL)}, {"onednn": Made(0.1, at_opening=wrapped(FULL))},
             {"onednn": Made(0.1, at_pass=RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED"))}],
)  # fmt: skip
def test_what_a_full_memory_decided_is_not_kept(monkeypatch, cache, made):
    world = World(monkeypatch, **{"onednn": Made(0.1), **made})
    assert name_of(choice.choose(subject(), "")) == "eager", "no error: the engine does with less memory"
    assert not cache.exists()
    for name in made:
        world.made[name] = Made(0.2 if name == "eager" else 0.1)
    assert name_of(choice.choose(subject(), "")) == "onednn"


@pytest.mark.parametrize("fails", [Made(0.1, at_pass=FULL), Made(0.1, at_pass=ValueError("no"))])
def test_a_named_runtime_that_fails_leaves_the_answer_to_the_reference(monkeypatch, fails):
    World(monkeypatch, onednn=fails)
    chosen = choice.choose(subject(), "", "onednn")
    assert (name_of(chosen), [n.code for n in chosen.notes]) == ("eager", ["runtime_failed"])


def test_a_slim_network_on_the_cpu_is_not_even_timed(monkeypatch):
    world = World(monkeypatch, onednn=Made(0.001))
    assert name_of(choice.choose(subject(architecture=Architecture(width=16)), "")) == "eager"
    assert world.opened == []


def test_the_measurement_ends_when_its_time_is_spent(monkeypatch):
    world = World(monkeypatch, openvino=Made(0.1, opening_seconds=7.0), onednn=Made(0.01))
    assert name_of(choice.choose(subject(), "")) == "openvino"
    assert world.opened == ["eager", "openvino"]


def test_a_busy_computer_tries_one_and_keeps_only_what_was_good(monkeypatch, cache):
    world = World(monkeypatch, eager=Made(5.0), openvino=Made(1.0, off_by=1.0), onednn=Made(0.01))
    chosen = choice.choose(subject(), "")
    assert (name_of(chosen), [n.code for n in chosen.notes]) == ("eager", ["runtime_refused"])
    assert world.opened == ["eager", "openvino"]
    assert not cache.exists(), "the others were not tried: next time they are"
    world.made["openvino"].off_by = 0.0
    assert name_of(choice.choose(subject(), "")) == "openvino"
    assert len(list(cache.iterdir())) == 1


def test_a_busy_computer_runs_the_reference_no_more_than_twice(monkeypatch):
    world = World(monkeypatch, eager=Made(9.0), openvino=Made(1.0), onednn=Made(0.5))
    chosen = choice.choose(subject(), "")
    assert (name_of(chosen), chosen.seconds) == ("openvino", pytest.approx({"eager": 9.0, "openvino": 1.0}))
    assert world.now == pytest.approx(2 * 9.0 + 3 * 1.0), "its answers, a pass to warm up, one on the clock"


def test_a_compiler_is_only_used_when_asked_for(monkeypatch):
    world = World(monkeypatch, compiled=Made(0.001), onednn=Made(0.1), jit=Made(0.001))
    assert name_of(choice.choose(subject(), "")) == "onednn"
    assert {"compiled", "jit"}.isdisjoint(world.opened), "TorchScript is oneDNN with more in between"
    assert name_of(choice.choose(subject(), "", "compiled")) == "compiled"


def test_a_choice_is_remembered_until_anything_it_depends_on_changes(monkeypatch):
    world = World(monkeypatch, onednn=Made(0.1))
    choice.choose(subject(), "a")
    world.opened.clear()
    assert name_of(choice.choose(subject(), "a")) == "onednn"
    assert world.opened == ["onednn"], "opened, not measured"

    def measured(weights="a", **changes):
        world.opened.clear()
        choice.choose(subject(**changes), weights)
        return "eager" in world.opened

    assert measured("b")
    assert measured(input_shape=(1, 8, 8, 16))
    assert measured(architecture=Architecture("resnet18"))
    monkeypatch.setenv("MEDCONV_THREADS", "3")
    assert measured()
    assert not measured()
    monkeypatch.setattr(choice_file, "_version", lambda package: "9.9")
    assert measured()
    monkeypatch.setattr(choice_file, "processor_name", lambda: "another processor")
    assert measured()


def test_a_choice_made_on_a_bad_day_is_measured_again_on_request(monkeypatch):
    world = World(monkeypatch, openvino=Made(0.1), onednn=Made(0.09))
    assert name_of(choice.choose(subject(), "")) == "onednn"
    world.made |= {"openvino": Made(0.05), "onednn": Made(0.3)}
    assert name_of(choice.choose(subject(), "")) == "onednn", "kept"
    assert name_of(choice.choose(subject(), "", "measure")) == "openvino"
    assert name_of(choice.choose(subject(), "")) == "openvino", "kept in its place"


def test_a_person_is_told_before_a_measurement_and_only_then(monkeypatch):
    world, told = World(monkeypatch, onednn=Made(0.1)), []

    def say(what):
        told.append((what, list(world.opened)))

    choice.choose(subject(), "", say=say)
    assert told == [(choice.MEASURING, [])]
    choice.choose(subject(), "", say=say)
    choice.choose(subject(), "", "onednn", say)
    choice.choose(subject(architecture=Architecture(width=16)), "", "measure", say)
    assert len(told) == 1


def test_a_measurement_that_is_interrupted_leaves_nothing(monkeypatch, cache):
    world = World(monkeypatch, onednn=Made(0.1), openvino=Made(0.1, at_pass=KeyboardInterrupt()))
    threads = torch.get_num_threads()
    with pytest.raises(KeyboardInterrupt):
        choice.choose(subject(), "")
    assert (cache.exists(), torch.get_num_threads()) == (False, threads)
    world.made["openvino"] = Made(0.05)
    assert name_of(choice.choose(subject(), "")) == "openvino"


def test_trial_crops_go_one_by_one_where_memory_holds_no_two(monkeypatch):
    World(monkeypatch, onednn=Made(0.1))
    passes, run = [], Runtime.__call__
    monkeypatch.setattr(Runtime, "__call__", lambda self, crops: passes.append(len(crops)) or run(self, crops))
    choice.choose(subject(), "")
    assert max(passes) == 2, "several at once are tried, too"
    monkeypatch.setattr(choice.memory, "crops_at_once", lambda *args: 1)
    for wanted in ("measure", "onednn"):
        passes.clear()
        choice.choose(subject(), "", wanted)
        assert set(passes) == {1}


def test_the_file_names_no_person_and_no_computer(monkeypatch, cache):
    World(monkeypatch, onednn=Made(0.1))
    choice.choose(subject(), "a" * 64)
    (file,) = cache.iterdir()
    document = json.loads(file.read_text())
    assert set(document) == {"key", "runtime", "notes", "seconds"}
    assert set(document["key"]) == {
        "format", "processor", "cores", "threads", "versions", "weights", "architecture", "device", "input",
    }  # fmt: skip


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[: len(text) // 2],
        lambda text: "[]",
        lambda text: "null",
        lambda text: text.replace("onednn", "warp"),
        lambda text: text.replace('"notes": []', '"notes": 7'),
        lambda text: text.replace('"threads"', '"thread"'),
        lambda text: "\udcff",
        lambda text: "[" * 100_000,
        lambda text: text.replace('"eager": 0.2', f'"eager": 1{"0" * 400}'),
    ],
)
def test_a_damaged_file_is_as_if_there_were_none(monkeypatch, cache, damage):
    world = World(monkeypatch, onednn=Made(0.1))
    choice.choose(subject(), "")
    (file,) = cache.iterdir()
    file.write_bytes(damage(file.read_text()).encode("utf-8", "surrogateescape"))
    world.opened.clear()
    assert name_of(choice.choose(subject(), "")) == "onednn"
    assert "eager" in world.opened, "measured again"
    world.opened.clear()
    choice.choose(subject(), "")
    assert world.opened == ["onednn"], "and kept again"


def test_a_remembered_runtime_that_is_gone_is_replaced(monkeypatch):
    world = World(monkeypatch, openvino=Made(0.05), onednn=Made(0.1))
    assert name_of(choice.choose(subject(), "")) == "openvino"
    world.made["openvino"].at_opening = CannotRun("ImportError")
    assert name_of(choice.choose(subject(), "")) == "onednn"
    world.made.clear()
    world.made["eager"] = Made(0.2)
    assert name_of(choice.choose(subject(), "")) == "eager"


def test_a_home_that_can_not_be_written_costs_only_a_measurement(monkeypatch, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("no folder can be made here")
    monkeypatch.setenv("MEDCONV_CACHE", str(blocked / "cache"))
    world = World(monkeypatch, onednn=Made(0.1))
    for _ in range(2):
        world.opened.clear()
        assert name_of(choice.choose(subject(), "")) == "onednn"
        assert world.opened[0] == "eager"


def _write_often(folder: str, name: str) -> None:
    import os

    os.environ["MEDCONV_CACHE"] = folder
    for _ in range(200):
        choice_file.write({"key": "same"}, Remembered(name, (), {name: 1.0}))


def test_two_processes_that_write_at_once_leave_a_whole_file(monkeypatch, cache):
    key = {"key": "same"}
    choice_file.write(key, Remembered("onednn"))
    context = multiprocessing.get_context("fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn")
    writers = [context.Process(target=_write_often, args=(str(cache.parent), name)) for name in ("onednn", "openvino")]  # type: ignore[attr-defined]
    for writer in writers:
        writer.start()
    seen = set()
    while any(writer.is_alive() for writer in writers):
        found = choice_file.read(key)
        assert found is not None, "a file that was half written"
        seen.add(found.name)
    for writer in writers:
        writer.join()
    assert seen <= {"onednn", "openvino"}
    assert [path.suffix for path in cache.iterdir()] == [".json"], "nothing partial is left"


def test_a_named_runtime_is_checked_too(monkeypatch):
    World(monkeypatch, openvino=Made(0.01, off_by=1.0), onednn=Made(9.0))
    assert name_of(choice.choose(subject(), "", "onednn")) == "onednn", "slow, but asked for"
    chosen = choice.choose(subject(), "", "openvino")
    assert name_of(chosen) == "eager"
    assert [n.code for n in chosen.notes] == ["runtime_refused"]


def test_a_name_that_is_not_there_is_an_error_not_a_notice():
    with pytest.raises(UsageError):
        choice.choose(subject(), "", "warp")
    with pytest.raises(MissingRequirement) as caught:
        choice.choose(subject(), "", "cuda_graph")
    assert caught.value.code == "runtime_missing"


def test_every_answer_tells_of_a_refused_runtime(only_untrained, monkeypatch):
    from medconv.runtimes import torch_onednn

    opened = torch_onednn.open_runtime

    def perturbed(name, made_for):
        runtime = opened(name, made_for)
        right = runtime._answer
        runtime._answer = lambda crops: right(crops) + 0.01
        return runtime

    monkeypatch.setattr(torch_onednn, "open_runtime", perturbed)
    model = LoadedModel.load("untrained", "cpu", "onednn")
    reference = LoadedModel.load("untrained", "cpu", "eager")
    crop = np.random.default_rng(0).random((1, 32, 32, 32), np.float32)
    for _ in range(2):
        logits, notes = model.run(crop)
        assert logits == reference.run(crop)[0]
        assert [n.code for n in notes] == ["runtime_refused"]
    assert model.runtime == "eager"
