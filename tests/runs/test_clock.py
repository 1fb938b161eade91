import time

import pytest
import torch

from vcrast.runs.clock import Clock, overall_speed, peak_memory_bytes


def test_time_is_split_into_data_and_compute():
    clock = Clock()
    time.sleep(0.05)  # logging, say: neither
    clock.begin_step()
    time.sleep(0.02)
    clock.data_ready()
    time.sleep(0.04)
    clock.step_done(8)
    found = clock.read(torch.tensor(1.0))
    assert found["data_s"] >= 0.02
    assert found["compute_s"] >= 0.04
    assert found["data_s"] + found["compute_s"] == pytest.approx(8 / found["samples_per_s"])
    assert clock.clips == 0


def test_overall_speed_by_hand():
    lines = [
        {"samples_per_s": 10.0, "data_s": 1.0, "compute_s": 1.0},
        {"test_accuracy": 0.5},
        {"samples_per_s": 40.0, "data_s": 0.0, "compute_s": 2.0},
    ]
    assert overall_speed(lines) == {"samples_per_s": 25.0, "data_s": 1.0, "compute_s": 3.0}


def test_peak_memory_is_that_of_the_process():
    before = peak_memory_bytes(torch.device("cpu"))
    held = torch.ones(30_000_000)
    assert peak_memory_bytes(torch.device("cpu")) >= before
    assert peak_memory_bytes(torch.device("cpu")) > held.nbytes
