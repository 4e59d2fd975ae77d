"""The bench runs, and its figures are measured: they follow the size of the CT."""

import json

from medconv.bench import run_bench


def test_every_figure_is_there_and_plausible(only_untrained, tmp_path, capsys):
    assert run_bench(slices=90, repeats=1, out=tmp_path / "bench.json") == 0
    figures = json.loads((tmp_path / "bench.json").read_text())["figures"]
    assert all(value > 0 for f in figures.values() for key, value in f.items() if key == "median" and value is not None)
    total = figures["loaded CT and mask to result (s)"]["median"]
    assert total >= figures["network pass (s)"]["median"] * 0.5
    ct_mb = 512 * 512 * 90 * 2 / 1e6
    peak = figures["peak memory above start (MB)"]["median"]
    assert peak > ct_mb * 0.9  # the CT itself is in it, so the figure is not an empty reading
    printed = capsys.readouterr().out
    assert all(name in printed for name in figures)
