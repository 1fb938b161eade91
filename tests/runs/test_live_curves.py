"""Curves read from a metrics.jsonl that grows, is rewound, is damaged."""

import json
import math
import os

import pytest

from vcrast.runs.live.curves import CHUNK_BYTES, MAX_POINTS, Curve, Curves


def line(step, *, loss=1.0, stage="pretrain", fold="1", **more):
    return json.dumps({"stage": stage, "fold": fold, "step": step, "loss": loss, **more}) + "\n"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "metrics.jsonl"


def curve(curves, name="loss"):
    (found,) = [each for each in curves.plain() if each["name"] == name]
    return found


def test_a_long_curve_is_short_and_hides_no_spike():
    long = Curve()
    for step in range(1, 50_001):
        long.add(step, 100.0 if step == 31_234 else 1.0)
    found = long.plain()
    assert MAX_POINTS / 2 <= len(found["x"]) <= MAX_POINTS
    assert max(found["high"]) == 100
    assert found["x"][-1] == 50_000
    assert found["x"] == sorted(found["x"])
    assert found["y"][0] == 1
    spike = max(range(len(found["y"])), key=lambda n: found["y"][n])
    assert found["y"][spike] == pytest.approx(1 + 99 / long.width, rel=1e-4)


def test_only_what_is_new_is_read_and_half_a_line_waits(path):
    curves = Curves(path)
    curves.read()
    assert curves.plain() == []
    path.write_text(line(10) + line(20)[:30])
    curves.read()
    assert curve(curves)["x"] == [10]
    before = curves.version
    curves.read()
    assert (curves.version, curves.share) == (before, 1.0)
    with path.open("a") as file:
        file.write(line(20)[30:] + line(30, loss=0.5))
    curves.read()
    assert (curve(curves)["x"], curve(curves)["y"]) == ([10, 20, 30], [1, 1, 0.5])


def test_a_resumed_run_shows_no_step_twice(path):
    path.write_text("".join(line(step) for step in (10, 20, 30, 40)))
    curves = Curves(path)
    curves.read()
    aside = path.with_suffix(".new")  # as a run goes back before it goes on
    aside.write_text(line(10) + line(20) + line(30, loss=0.2) + line(40, loss=0.2) + line(50))
    os.replace(aside, path)
    curves.read()
    assert (curve(curves)["x"], curve(curves)["y"][2]) == ([10, 20, 30, 40, 50], 0.2)
    with path.open("a") as file:  # an older one appends
        file.write(line(40, loss=0.1) + line(50, loss=0.1))
    curves.read()
    assert (curve(curves)["x"], curve(curves)["y"][2:]) == ([10, 20, 30, 40, 50], [0.2, 0.1, 0.1])
    path.unlink()
    curves.read()
    assert curves.plain() == []


def test_numbers_that_are_none_break_the_curve_and_are_counted(path):
    path.write_text(line(10) + line(20, loss=None) + line(30, loss=math.nan) + line(40, loss=-math.inf) + line(50))
    with path.open("a") as file:
        file.write(line(60, loss=10**400) + line(math.inf) + line(math.nan))
    curves = Curves(path)
    curves.read()
    found = curve(curves)
    assert found["y"] == [1, None, None, None, 1, None]
    assert (found["lost"], found["lost_at"]) == (4, 60)
    json.dumps(curves.plain(), allow_nan=False)


def test_what_is_no_line_of_a_run_is_passed_over(path):
    path.write_bytes(
        b'\xff\xfe\n[1]\n{"step": 1}\n\n' + line(10, note="text", done=True, data_s=1.0, compute_s=3.0).encode()
    )
    curves = Curves(path)
    curves.read()
    assert {each["name"]: each["y"] for each in curves.plain()} == {"loss": [1], "data_share": [0.25]}


def test_a_large_file_is_read_in_parts(path):
    with path.open("w") as file:
        steps = 0
        while file.tell() < 2.5 * CHUNK_BYTES:
            steps += 10
            file.write(line(steps, text="x" * 900))
    curves = Curves(path)
    shares = []
    while not shares or shares[-1] < 1:
        curves.read(within_s=0)
        shares.append(curves.share)
    assert len(shares) == 3
    assert 0.3 < shares[0] < 0.5
    assert curve(curves)["x"][-1] == steps
