"""Damage, interrupt and replace checkpoints; compare what comes back bit for bit."""

from __future__ import annotations

import hashlib
import io
import logging
import os
import pickle
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from vcrast.runs import checkpoint
from vcrast.runs.checkpoint import CheckpointError, find_latest, load, save, verify


def content(step: int) -> dict:
    return {
        "weight": torch.full((17, 3), float(step)),
        "moment": torch.arange(5) + step,
        "step": step,
        "lr": 0.1 * step,
    }


def save_steps(folder: Path, *steps: int, keep: int = 10) -> list[Path]:
    return [save(folder, step, content(step), keep=keep) for step in steps]


def steps(folder: Path) -> list[int]:
    """The steps of the checkpoints in a folder that holds nothing else."""
    assert all(re.fullmatch(r"step_\d{8}-[0-9a-f]{16}\.pt", path.name) for path in folder.iterdir())
    return sorted(int(path.name[5:13]) for path in folder.iterdir())


def bits(tensor: torch.Tensor) -> bytes:
    plain = tensor.detach().resolve_conj().resolve_neg().contiguous()
    return plain.flatten().view(torch.uint8).numpy().tobytes()


def assert_same(a, b) -> None:
    """Equal to the last bit, types of containers and keys included."""
    if isinstance(a, torch.Tensor):
        assert (a.dtype, a.shape, bits(a)) == (b.dtype, b.shape, bits(b))
    elif isinstance(a, dict):
        assert list(a) == list(b)
        assert [type(key) for key in a] == [type(key) for key in b]
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert type(a) is type(b)
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    else:
        assert type(a) is type(b)
        assert a == b or (a != a and b != b)


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (os.system, (f"touch {self.path}",))


# What comes back.


def trained(make_optimizer):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(7, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))
    optimizer = make_optimizer(module.parameters())
    for _ in range(3):
        module(torch.randn(4, 7)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return module, optimizer


@pytest.mark.parametrize(
    "make_optimizer",
    [
        lambda parameters: torch.optim.AdamW(parameters, lr=1e-2),
        lambda parameters: torch.optim.SGD(parameters, lr=1e-2),  # its momentum buffers are None
        lambda parameters: torch.optim.SGD(parameters, lr=1e-2, momentum=0.9),
    ],
    ids=["adamw", "sgd", "momentum"],
)
def test_training_goes_on_bit_for_bit_from_disk(tmp_path, make_optimizer):
    module, optimizer = trained(make_optimizer)
    snapshot = {"module": module.state_dict(), "optimizer": optimizer.state_dict(), "generator": torch.get_rng_state()}
    restored = load(save(tmp_path, 1, snapshot, keep=1))
    assert_same(dict(snapshot["module"]), restored["module"])
    assert_same(snapshot["optimizer"], restored["optimizer"])
    assert_same(snapshot["generator"], restored["generator"])

    other, other_optimizer = trained(make_optimizer)
    for parameter in other.parameters():
        parameter.data.zero_()
    other.load_state_dict(restored["module"])
    other_optimizer.load_state_dict(restored["optimizer"])
    for one, its_optimizer in ((module, optimizer), (other, other_optimizer)):
        one(torch.linspace(-1, 1, 28).reshape(4, 7)).square().mean().backward()
        its_optimizer.step()
    assert_same(dict(module.state_dict()), dict(other.state_dict()))


def test_every_kind_of_tensor_and_value_comes_back(tmp_path):
    tied = torch.randn(4, 4)
    base = torch.randn(6, 8)
    state = {
        "half": torch.randn(3).half(),
        "bfloat16": torch.randn(3).bfloat16(),
        "float8": torch.randn(3).to(torch.float8_e4m3fn),
        "uint16": torch.arange(3).to(torch.uint16),
        "zero_d": torch.tensor(2.5),
        "zero_d_int": torch.tensor(7),
        "empty": torch.empty(0, 3),
        "bool": torch.tensor([True, False]),
        "complex": torch.randn(2, dtype=torch.complex64).conj(),
        "negated": torch._neg_view(torch.ones(3)),
        "tied": [tied, tied],
        "overlapping": (base[:4], base[2:], base.flatten()),
        "transposed": base.t(),
        "strided": base[::2, 1::3],
        "expanded": torch.tensor([1.0, 2.0]).expand(3, 2),
        "parameter": nn.Parameter(torch.randn(2)),
        "nan": torch.tensor([float("nan"), -0.0, float("inf")]),
        3: {"int key": 1, 4: None},
        "1": torch.ones(1),
        1: torch.zeros(1),
        "values": [True, 1, 1.5, float("nan"), float("-inf"), 1e-320, "text", None, (), [], {}, (0.9, 0.999), 2**70],
    }
    restored = load(save(tmp_path, 1, state, keep=1))
    assert_same(state, restored)
    # An optimiser updates in place: tensors that came back sharing memory would both change.
    restored["tied"][0].zero_()
    assert bits(restored["tied"][1]) == bits(tied)


def test_of_a_view_only_what_it_shows_is_written(tmp_path):
    path = save(tmp_path, 1, {"row": torch.zeros(1000, 1000)[3]}, keep=1)
    assert path.stat().st_size < 20_000


leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.builds(
    lambda size, dtype: torch.arange(size).to(dtype),
    st.integers(0, 4),
    st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8]),
)  # fmt: skip
nested = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=3) | st.integers(-3, 3), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(state=st.dictionaries(st.text(max_size=3), nested, max_size=4))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_anything_nested_comes_back(tmp_path, state):
    assert_same(state, load(save(tmp_path, 1, state, keep=1)))


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (np.float64(1.0), "float64"),
        (np.zeros(2), "ndarray"),
        (Path("x"), "Path"),
        (torch.float32, "dtype"),
        ({1, 2}, "set"),
        (torch.eye(2).to_sparse(), "sparse"),
        (torch.empty(2, device="meta"), "meta"),
        ({(1, 2): 3}, "tuple"),
    ],
)
def test_what_could_not_be_loaded_is_refused_by_name_and_nothing_written(tmp_path, value, kind):
    with pytest.raises(TypeError, match=rf"\['state'\]\[0\]\['odd'\].*{kind}"):
        save(tmp_path, 1, {"state": {0: {"odd": value}}}, keep=1)
    for step, keep in ((-1, 1), (1, 0)):
        with pytest.raises(ValueError, match="keep"):
            save(tmp_path, step, {}, keep=keep)
    assert steps(tmp_path) == []


# Which ones stay.


def test_only_the_newest_stay(tmp_path):
    *_, third, fourth = save_steps(tmp_path, 1, 2, 3, 4, keep=2)
    assert steps(tmp_path) == [3, 4]
    assert_same(load(third), content(3))
    assert find_latest(tmp_path) == fourth


def test_a_damaged_one_does_not_count_as_kept(tmp_path):
    third = save_steps(tmp_path, 1, 2, 3)[-1]
    truncate(third)
    save_steps(tmp_path, 4, keep=2)
    assert steps(tmp_path) == [2, 3, 4]


def test_nothing_to_find(tmp_path):
    assert find_latest(tmp_path / "missing") is None
    assert find_latest(tmp_path) is None


def test_checkpoints_of_another_version_are_refused_in_one_line(tmp_path):
    (tmp_path / "step_00000012").mkdir()
    with pytest.raises(CheckpointError, match=r"another version of this program; start anew in another run.dir$"):
        find_latest(tmp_path)


def test_the_same_step_is_replaced(tmp_path):
    for round_ in range(4):
        path = save(tmp_path, 7, {"x": torch.tensor([round_])}, keep=3)
        assert steps(tmp_path) == [7]
        assert load(path)["x"] == round_


def test_of_two_of_the_same_step_the_newer_is_found(tmp_path):
    old = save(tmp_path, 7, {"round": 0}, keep=1)
    kept = old.read_bytes()
    new = save(tmp_path, 7, {"round": 1}, keep=1)
    old.write_bytes(kept)  # as if a kill had come before it was removed
    os.utime(old, (1, 1))
    assert find_latest(tmp_path) == new
    save_steps(tmp_path, 8, keep=1)
    assert steps(tmp_path) == [8]


# Damage.


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def grow(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def rename(path: Path) -> None:
    path.rename(path.with_name("step_00000002-0123456789abcdef.pt"))


@pytest.mark.parametrize("damage", [truncate, empty, grow, rename])
def test_damage_is_reported_and_the_one_before_used(tmp_path, caplog, damage):
    first, second = save_steps(tmp_path, 1, 2)
    damage(second)
    with caplog.at_level(logging.WARNING):
        assert find_latest(tmp_path) == first
    assert re.search(r"passed over: .*step_00000002-.*damaged", caplog.text)
    with pytest.raises(CheckpointError, match=r"damaged|missing"):
        load(second)
    assert_same(load(first), content(1))


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    return save_steps(tmp_path_factory.mktemp("whole"), 2)[0]


@given(data=st.data())
@settings(max_examples=100, deadline=None)
def test_any_flipped_bit_is_detected(whole, data):
    flipped = bytearray(whole.read_bytes())
    position = data.draw(st.integers(0, len(flipped) - 1))
    flipped[position] ^= 1 << data.draw(st.integers(0, 7))
    copy = whole.parent / "copy" / whole.name
    copy.parent.mkdir(exist_ok=True)
    copy.write_bytes(flipped)
    for reader in (verify, load):
        with pytest.raises(CheckpointError, match="step_00000002"):
            reader(copy)


def torch_bytes(state) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("make", [lambda bomb: pickle.dumps(bomb, protocol=2), lambda bomb: torch_bytes({"x": bomb})])
def test_code_is_never_run(tmp_path, make):
    """Not even of a file whose name has the hash of what is in it."""
    made = tmp_path / "made by the bomb"
    hostile = make(Bomb(made))
    path = tmp_path / f"step_00000002-{hashlib.sha256(hostile).hexdigest()[:16]}.pt"
    path.write_bytes(hostile)
    assert verify(path) == 2
    with pytest.raises(CheckpointError, match="more than data"):
        load(path)
    assert not made.exists()


# Kills.


def save_for_ever(folder: Path, first: int, report: int) -> None:
    os.write(report, (first - 1).to_bytes(4, "big"))
    for step in range(first, 10**6):
        save(folder, step, content(step), keep=2)
        os.write(report, step.to_bytes(4, "big"))


def kill_many(folder: Path) -> None:
    """Kill 60 forked writers at random moments, check after each; prints how often one had got further."""
    torch.set_num_threads(1)
    chance = random.Random(0)
    save_steps(folder, 1, keep=2)
    began = time.monotonic()
    save_steps(folder, 2, 3, keep=2)
    interval_s = (time.monotonic() - began) / 2
    step, advanced = 3, 0
    for _ in range(60):
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                save_for_ever(folder, step + 1, write)
            finally:
                os._exit(1)
        os.close(write)
        with os.fdopen(read, "rb") as file:
            seen = file.read(4 * chance.choice([1, 1, 2, 3]))
            time.sleep(chance.uniform(0.0, 1.5 * interval_s))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            done = int.from_bytes((seen + file.read())[-4:], "big")
        # Not only the newest: whatever bears a checkpoint's name is whole, also while another is being removed.
        for path in folder.glob("step_*"):
            checkpoint.verify(path)
        found = find_latest(folder)
        assert found is not None
        reached = verify(found)
        # The kill may fall between the rename and the report, hence one more.
        assert done <= reached <= done + 1, (done, reached)
        assert_same(load(found), content(reached))
        advanced += reached > step
        step = reached
    save_steps(folder, step + 1, keep=1)
    assert steps(folder) == [step + 1]
    print(advanced)


def test_kill_at_any_moment_loses_at_most_one_interval(tmp_path):
    # In a fresh interpreter: a child forked beside other threads may inherit a lock that nobody will release.
    done = subprocess.run([sys.executable, __file__, str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 10  # otherwise the children were killed before they did anything


if __name__ == "__main__":
    kill_many(Path(sys.argv[1]))
