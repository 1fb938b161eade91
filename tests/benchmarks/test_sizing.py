"""Check the cost model of docs/cluster.md by hand and against processes that count bytes."""

import argparse
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import scaling
from benchmarks.cost import A100, ALONE, DGX_A100, T4, Job, all_gather_bytes, all_reduce_bytes, step_cost
from benchmarks.sizing import BATCH, draw, num_steps, tables

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def job():
    return Job.of_recipe("recipe=audioset")


def ring_all_reduce(values):
    """W - 1 rounds add the pieces up, W - 1 rounds hand the sums on; also the numbers that each rank sends."""
    size = len(values)
    piece = len(values[0]) // size
    held = [list(row) for row in values]
    sent = [0] * size
    for shift, add in [(0, True), (1, False)]:
        for turn in range(size - 1):
            moving = []
            for rank in range(size):
                which = (rank + shift - turn) % size
                moving.append((rank, which, held[rank][which * piece : (which + 1) * piece]))
                sent[rank] += piece
            for rank, which, numbers in moving:
                there = held[(rank + 1) % size]
                for place, number in enumerate(numbers, which * piece):
                    there[place] = there[place] + number if add else number
    return held, sent


@given(st.integers(1, 6), st.integers(1, 4))
def test_all_reduce_sends_what_a_ring_sends(size, piece):
    values = [[rank * 10 + place for place in range(size * piece)] for rank in range(size)]
    held, sent = ring_all_reduce(values)
    assert held == [[sum(column) for column in zip(*values, strict=True)]] * size
    assert sent == pytest.approx([all_reduce_bytes(size, size * piece)] * size)


def test_gather_by_hand():
    # 4 processes with 25 bytes each: three parts of others arrive, three leave
    assert all_gather_bytes(4, 100) == 75
    assert all_gather_bytes(1, 100) == all_reduce_bytes(1, 100) == 0


def test_a_t4_by_hand(job):
    # 10 s are 998 windows of 25 ms, 62 x 8 patches, half of them dropped: 248 tokens a view
    assert (job.num_frames, job.num_tokens) == (998, 248)
    blocks = 12 * ((8 + 16) * 248 * 768**2 + 4 * 248**2 * 768)
    embed = 2 * 496 * 256 * 768
    clip = 2 * (3 * blocks + 2 * embed)
    assert job.encoder_flops(1) == pytest.approx(clip)
    step = step_cost(job, T4, ALONE, world_size=1, batch_size=1024)
    assert step.encoder_s == pytest.approx(1024 * clip * (1 + step.plan.extra_compute) / (0.35 * 65e12))
    assert 0.3 < step.plan.extra_compute < 1 / 3
    # Projector of two views, forward and backward; the clips' products, since 1024 are fewer than 4096 dimensions
    head = 3 * 2 * (1024 * 2 * (768 * 4096 + 2 * 4096**2) + 2 * 1024**2 * 4096)
    assert step.head_s == pytest.approx(head / (0.6 * 8.1e12))
    assert step.gradients_s == step.gather_s == step.agreements_s == 0
    assert step.seconds == pytest.approx(step.encoder_s + step.head_s)


def test_a_node_by_hand(job):
    step = step_cost(job, A100, DGX_A100, world_size=8, batch_size=1024)
    # 85.26 M weights in the encoder, 36.7 M in the projector, 4 bytes each
    assert step.gradient_bytes == pytest.approx(2 * 7 / 8 * 4 * (85.26e6 + 36.72e6), rel=2e-3)
    assert step.gather_bytes == 7 / 8 * 2 * 1024 * 768 * 4
    buckets = math.ceil(4 * job.num_parameters / 2**25)
    assert step.gradients_s == pytest.approx(step.gradient_bytes / (0.7 * 300e9) + 2 * 3 * 5e-6 * buckets)
    assert step.clips_per_s == pytest.approx(1024 / step.seconds)


def test_between_nodes_the_network_counts(job):
    one, two = (step_cost(job, A100, DGX_A100, world_size=number, batch_size=1024) for number in (8, 16))
    assert two.gradient_bytes / two.gradients_s < one.gradient_bytes / one.gradients_s
    assert two.encoder_s == pytest.approx(one.encoder_s / 2)
    assert two.head_s == one.head_s  # every process computes the whole batch's loss


def test_a_batch_must_be_shared_evenly(job):
    with pytest.raises(ValueError, match="batch_size=100: 8 processes cannot share it evenly"):
        step_cost(job, A100, DGX_A100, world_size=8, batch_size=100)


def test_ten_epochs_by_hand():
    assert num_steps() == 10 * ((2_042_985 + 22_176) // BATCH)


def test_the_document_shows_these_tables(job):
    shown = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8").splitlines()
    missing = [line for line in tables(job) if line and not line.startswith("| ---") and line not in shown]
    assert not missing, "run python benchmarks/sizing.py and paste the tables"


def test_the_curves_are_drawn(tmp_path, job):
    draw(tmp_path / "a" / "scaling.png", job)
    assert (tmp_path / "a" / "scaling.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_two_processes_receive_the_bytes_of_the_model(tmp_path):
    arguments = scaling.parse(["--small", "--steps", "2", "--frames", "64", "--out", str(tmp_path)])
    assert isinstance(arguments, argparse.Namespace)
    found = scaling.run(arguments, 2, 6, tmp_path / "two")
    assert len(found) == 2
    model = scaling.model_bytes(2, 6, found[0])
    # Headers of messages and three agreements come on top of some 300 kB
    for each in found:
        assert model < each.received < 1.02 * model
