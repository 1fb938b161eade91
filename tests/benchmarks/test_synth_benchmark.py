import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import synth
from benchmarks.synth import COLUMNS, Tally, audible, main, parse
from vcrast.data.synth.pairs import Doppelgangers

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def output():
    words = "benchmarks/synth.py --device cpu --precision fp32 --tiny --batch 6 --seconds 0.5 1.0 --steps 1 --warmup 1"
    return subprocess.run(
        [sys.executable, *words.split(), "--draws", "900", "source.distance=0.3"],
        cwd=ROOT, capture_output=True, text=True, check=True, timeout=300,
    ).stdout  # fmt: skip


def test_rows_agree_with_themselves(output):
    lines = [line.strip("| ").split(" | ") for line in output.splitlines() if line.startswith("| ")]
    assert lines[0] == list(COLUMNS)
    rows = [dict(zip(COLUMNS, line, strict=True)) for line in lines[2:]]
    assert [(row["clip"], row["batch"], row["layers"]) for row in rows] == [("0.5 s", "6", "2"), ("1 s", "6", "2")]
    for row, seconds in zip(rows, (0.5, 1.0), strict=True):
        rate, pairs, training = (float(row[name].replace(",", "")) for name in ("pairs/s", "pairs ms", "training ms"))
        assert pairs == pytest.approx(6000 / rate, rel=0.02)
        assert float(row["x real time"].replace(",", "")) == pytest.approx(2 * rate * seconds, rel=0.02, abs=1)
        assert float(row["share of the step"].rstrip("%")) == pytest.approx(100 * pairs / (pairs + training), abs=0.2)


def test_the_check_over_many_draws_finds_none(output):
    assert "\n900 sounds: 0 not finite, clipped or silent; peaks from 0.1" in output


def test_the_header_says_where_it_ran(output):
    for word in ("# hardware: ", "precision fp32", f"torch {torch.__version__}", "# commit: ", "source.distance=0.3"):
        assert word in output


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--batch", "0"], "--batch 0: must be at least 1"),
        (["--draws", "-2"], "--draws -2 --first 0: must not be negative"),
        (["--draws", "8", "--first", "3"], "--first 3: sounds come in pairs, give an even number"),
        (["--first", "4"], "--first 4: of a check only; say with --draws how many sounds"),
    ],
)
def test_wrong_sizes_are_refused(capsys, words, said):
    with pytest.raises(SystemExit):
        parse(words)
    assert said in capsys.readouterr().err


def test_speed_is_measured_unless_only_a_check_is_wanted():
    assert parse([]).seconds == [2.0, 5.0]
    assert parse(["--draws", "4"]).seconds == []
    assert parse(["--draws", "4", "--seconds", "3"]).seconds == [3.0]


WINDOW = 400


def test_what_is_audible():
    time = torch.arange(4000) / 16000
    good = 0.5 * torch.sin(2 * torch.pi * 440 * time)
    late = torch.where(time > 0.2, good, 0.0)
    broken = [good.clone() for _ in range(3)]
    for wav, value in zip(broken, (float("nan"), float("inf"), -1.5), strict=True):
        wav[1234] = value
    still = [torch.zeros(4000), torch.full((4000,), 0.3)]
    peaks, fine = audible(torch.stack([good, late, *broken, *still]), WINDOW)
    assert fine.tolist() == [True, True, False, False, False, False, False]
    assert peaks[1] == late.abs().max()


def test_a_tally_names_the_bad_sounds():
    wavs = torch.sin(torch.arange(2400).float()).expand(14, -1) / torch.arange(2, 16).unsqueeze(1)
    bad = wavs.clone()
    bad[1:] = 0
    found = Tally().plus(wavs, 20, WINDOW).plus(bad, 34, WINDOW)
    assert found.sounds == 28
    assert found.bad == tuple(range(35, 48))
    assert "28 sounds: 13 not finite, clipped or silent (numbers 35, 36, 37, 38, 39, 40, 41, 42, 43, 44, ...)" in str(
        found
    )
    assert str(found).endswith("peaks from 0.0000 to 0.5000")


@pytest.fixture
def blocks(monkeypatch):
    """Small blocks; what was asked of the stream."""
    asked = []
    batch = Doppelgangers.batch

    def spy(self, step, batch_size, *, start=0, stop=None):
        asked.append((start, stop))
        return batch(self, step, batch_size, start=start, stop=stop)

    monkeypatch.setattr(synth, "BLOCK_S", 8.0)  # 16 pairs of half a second
    monkeypatch.setattr(Doppelgangers, "batch", spy)
    return asked


def check(capsys, *words):
    """(exit code, last lines of standard output, standard error)"""
    code = main(["--device", "cpu", "--layers", "1", *words])
    printed = capsys.readouterr()
    return code, [line for line in printed.out.splitlines() if line and not line.startswith("#")], printed.err


def test_a_check_can_be_split_over_processes(capsys, blocks):
    code, whole, progress = check(capsys, "--draws", "100")
    assert (code, len(whole), blocks) == (0, 1, [(0, 16), (16, 32), (32, 48), (48, 50)])
    assert "100 of 100 sounds, " in progress
    assert progress.endswith("sounds/s, 0 bad\n")
    blocks.clear()
    parts = [check(capsys, "--draws", draws, "--first", first)[1][0] for first, draws in (("0", "43"), ("44", "56"))]
    assert blocks == [(0, 16), (16, 22), (22, 32), (32, 48), (48, 50)]
    found, (first, second) = whole[0].partition("peaks ")[2], (part.partition("peaks ")[2].split() for part in parts)
    extremes = (min(first[1], second[1]), max(first[3], second[3]))
    assert found == "from {} to {}".format(*extremes)


def test_another_length_is_rendered(capsys, blocks):
    assert check(capsys, "--draws", "30", "--draw-seconds", "1")[0] == 0
    assert blocks == [(0, 8), (8, 15)]


def test_an_interrupt_shows_the_result_so_far_and_how_to_go_on(capsys, blocks, monkeypatch):
    render = Doppelgangers.render

    def interrupted(self, numbers, distances):
        if numbers[0] >= 24:
            raise KeyboardInterrupt
        return render(self, numbers, distances)

    monkeypatch.setattr(Doppelgangers, "render", interrupted)
    code, lines, _ = check(capsys, "--draws", "100", "--first", "4")
    assert code == 130
    assert lines[0].startswith("28 sounds: 0 not finite, clipped or silent; peaks from 0.")
    assert lines[1] == "interrupted; the rest: --first 32 --draws 72"
    assert blocks == [(2, 16), (16, 32)]


def test_progress_is_shown_now_and_then(capsys, blocks, monkeypatch):
    monkeypatch.setattr(synth, "REPORT_S", 0.0)
    progress = check(capsys, "--draws", "100")[2].splitlines()
    assert [line.partition(" sounds, ")[0] for line in progress] == [f"{n} of 100" for n in (32, 64, 96, 100)]


def test_bad_sounds_are_told_by_the_exit_code(capsys, blocks, monkeypatch):
    render = Doppelgangers.render

    def silent(self, numbers, distances):
        pairs = render(self, numbers, distances)
        pairs.wavs[numbers == 21, 1] = 0
        return pairs

    monkeypatch.setattr(Doppelgangers, "render", silent)
    code, lines, progress = check(capsys, "--draws", "50")
    assert code == 1
    assert lines[0].startswith("50 sounds: 1 not finite, clipped or silent (numbers 43); peaks from 0.0000 to 0.")
    assert progress.endswith("1 bad\n")
