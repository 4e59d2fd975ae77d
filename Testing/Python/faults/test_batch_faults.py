"""A small archive with every kind of fault, killed and started again: every case one row, the one it must have.

`batch_rehearsal.py` is the same with a thousand cases (docs/developer-guide.md).
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from core import phantom as phantoms
from core.conftest import untrained_weights  # noqa: F401
from faults import batch_rehearsal as rehearsal

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")

# Each end of a process costs the start of another; the crash in C stands for the process that ends itself.
KINDS = [kind for kind in rehearsal.FAULTS if kind != "process ends itself"]
SPACING_MM, CASES, TIME_LIMIT_S = (2.0, 2.0, 2.0), 24, 3.0


def write_pairs(folder: Path, count: int) -> list[tuple[Path, Path]]:
    """CTs and masks of vertebrae that differ in their density."""
    pairs = []
    for number in range(count):
        place = folder / str(number)
        place.mkdir(parents=True)
        case = phantoms.phantom(phantoms.grid(SPACING_MM), trabecular_hu=80 + 3 * number, noise_sd=10.0)
        pairs.append(phantoms.write(case, place))
    return pairs


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> rehearsal.Archive:
    folder = tmp_path_factory.mktemp("archive")
    return rehearsal.build_archive(
        folder / "a", write_pairs(folder / "pairs", 12), CASES, len(KINDS), seed=1, kinds=KINDS
    )


@pytest.mark.timeout(900)
def test_kills_and_faults_change_no_row(archive, untrained_weights, tmp_path) -> None:  # noqa: F811
    batches = [
        rehearsal.Batch(archive, tmp_path / name, 2, TIME_LIMIT_S, str(untrained_weights / "untrained.npz"))
        for name in ("alone", "disturbed")
    ]
    alone, disturbed = batches
    how = rehearsal.Disturbance(workers=1, batches=2, seed=2)
    assert rehearsal.run_alone(alone, how) == 0, alone.log()
    assert rehearsal.run_disturbed(disturbed, how, CASES) == 0, disturbed.log()
    answers = rehearsal.answers_of(list(archive.sources.values()), alone.weights, 1)
    assert {answer.status for answer in answers.values()} == {"ok"}
    assert rehearsal.differences(archive, disturbed, alone, answers) == []
    assert how.refused_second, "a second batch in the folder must be refused"
    assert how.killed_batches == 2
    assert how.killed_workers == 1
    assert set(archive.cases.values()) == {"", *KINDS}, "every kind was there"


def test_the_judge_sees_a_lost_case_and_a_wrong_code(archive, tmp_path) -> None:
    """The comparison above can fail: two tables with a case less, and a healthy case that was refused."""
    healthy = [case for case, kind in archive.cases.items() if not kind]
    for name in ("alone", "disturbed"):
        (tmp_path / name).mkdir()
        rows = [f"{case},refused,unreadable,," for case in healthy[1:]]
        (tmp_path / name / "table.csv").write_text(
            "\n".join(["case_id,status,code,t_score_class,hu_mean", *rows]) + "\n"
        )
        (tmp_path / name / "table.parquet").write_bytes(name.encode())
        (tmp_path / name / "ledger.jsonl").write_text("")
    batches = [rehearsal.Batch(archive, tmp_path / name, 1, 1.0) for name in ("disturbed", "alone")]
    answers = {ct: rehearsal.Answer("ok") for ct, _ in archive.sources.values()}
    told = rehearsal.differences(archive, *batches, answers)
    assert f"{healthy[0]}: 0 rows" in told
    assert any(line.startswith(f"{healthy[1]} (healthy): refused unreadable") for line in told)
    assert "table.parquet differs from the undisturbed run's" in told
