import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from ranks import in_ranks
from torch import distributed

from vcrast.runs.interrupt import Interrupt
from vcrast.training.dist import (
    PeerLostError,
    TorchrunRank,
    all_ranks,
    all_reduce_max,
    average,
    broadcast_object,
    gather_clips,
    gather_rows,
    is_rank_zero,
    of_this_start,
    process_group,
    rank,
    rank_slice,
    rank_zero_first,
    torchrun_rank,
    world_size,
)

pytestmark = pytest.mark.slow

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture(autouse=True)
def _alone(monkeypatch):
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


def test_alone():
    assert (rank(), world_size(), is_rank_zero(), torchrun_rank()) == (0, 1, True, TorchrunRank(0, 1, 0, 1))
    value = torch.randn(2, 3, 4)
    assert gather_clips(value) is value
    assert gather_rows(value) is value
    assert average(value) is value
    assert all_reduce_max(1, 2) == [1, 2]
    assert all_ranks(True)
    assert not all_ranks(False)
    assert broadcast_object("x") == "x"
    assert rank_slice(7) == range(7)
    with rank_zero_first(), process_group(torch.device("cpu"), timeout_s=1):
        assert not distributed.is_initialized()


def test_place_reads_torchruns_variables(monkeypatch):
    for name, value in zip(NAMES, ("5", "8", "1", "4", "host", "1234"), strict=True):
        monkeypatch.setenv(name, value)
    assert torchrun_rank() == TorchrunRank(5, 8, 1, 4)
    monkeypatch.setenv("RANK", "8")
    with pytest.raises(ValueError, match="RANK=8, WORLD_SIZE=8"):
        torchrun_rank()
    monkeypatch.delenv("MASTER_PORT")
    with pytest.raises(ValueError, match="MASTER_PORT not set"):
        torchrun_rank()


@pytest.mark.parametrize("given", [{"RANK": "0", "WORLD_SIZE": "1"}, {"WORLD_SIZE": "1"}, {"LOCAL_RANK": "0"}])
def test_what_says_that_a_process_is_alone_needs_no_address(monkeypatch, given):
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert torchrun_rank() == TorchrunRank(0, 1, 0, 1)


@pytest.mark.parametrize("given", [{"RANK": "0"}, {"LOCAL_RANK": "1"}, {"WORLD_SIZE": "2"}])
def test_half_a_place_is_refused(monkeypatch, given):
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=r"MASTER_ADDR, MASTER_PORT not set"):
        torchrun_rank()


def test_processes_that_are_started_again_share_nothing_with_those_before():
    store, names = distributed.HashStore(), []
    for _ in range(2):
        with ThreadPoolExecutor(3) as threads:
            places = [TorchrunRank(rank, 3, rank, 3) for rank in range(3)]
            stores = list(threads.map(lambda place: of_this_start(store, place, 20), places))
        stores[1].set("address", "1")
        names.append([each.check(["address"]) for each in stores])
        assert not store.check(["address"])
        before = stores
    assert names == [[True] * 3] * 2
    for missed in range(3):  # those that do not come again
        with pytest.raises(RuntimeError, match="waited in vain"):
            of_this_start(store, TorchrunRank(missed, 3, missed, 3), 0.2)
    assert before[0].check(["address"])


def test_processes_that_do_not_come_are_reported(monkeypatch):
    for name, value in zip(NAMES, ("0", "2", "0", "2", "127.0.0.1", "0"), strict=True):
        monkeypatch.setenv(name, value)
    with (
        pytest.raises(PeerLostError, match="the 2 processes did not find each other"),
        process_group(torch.device("cpu"), timeout_s=1),
    ):
        pass  # pragma: no cover


def exchanges(folder):
    """Every exchange once; what each rank saw."""
    me = rank()
    seen = {
        "place": (me, world_size(), is_rank_zero()),
        "highest": all_reduce_max(me, -me, 7),
        "everywhere": (all_ranks(True), all_ranks(me != 1)),
        "broadcast_object": broadcast_object({"rank": me, "path": folder} if is_rank_zero() else None),
        "rows": gather_rows(torch.full((me, 2), float(me))),  # rank 0 has none
        "average": average(torch.tensor(float(me))),
        "share": list(rank_slice(8)),
    }
    for turn in range(2):
        with rank_zero_first():
            began = time.monotonic()
            time.sleep(0.1)
            seen[f"turn {turn}"] = (began, time.monotonic())
    with Interrupt() as interrupt:
        interrupt.requested = "SIGTERM" if me == 1 else None
        seen["agreed"] = interrupt.agreed()
        interrupt.requested = None
        seen["not asked"] = interrupt.agreed()
    return seen


def test_exchanges(tmp_path):
    found = in_ranks(3, exchanges, str(tmp_path), folder=tmp_path)
    assert [seen["place"] for seen in found] == [(0, 3, True), (1, 3, False), (2, 3, False)]
    assert [seen["share"] for seen in found] == [[0, 1], [2, 3, 4], [5, 6, 7]]
    for seen in found:
        assert seen["highest"] == [2, 0, 7]
        assert seen["everywhere"] == (True, False)
        assert seen["broadcast_object"] == {"rank": 0, "path": str(tmp_path)}
        assert seen["rows"].tolist() == [[1.0, 1.0], [2.0, 2.0], [2.0, 2.0]]
        assert seen["average"] == 1.0
        assert (seen["agreed"], seen["not asked"]) == ("SIGTERM", None)
        for turn in ("turn 0", "turn 1"):
            assert seen[turn][0] >= found[0][turn][1] or seen is found[0]
    # Everyone has left the first turn before anyone begins the second.
    assert max(seen["turn 0"][1] for seen in found) <= found[0]["turn 1"][0]


def leave_early():
    if rank() == 1:
        return "left"
    try:
        for _ in range(3):
            all_reduce_max(1.0)
    except PeerLostError as error:
        return str(error)
    return "nothing noticed"


def test_a_process_that_is_gone_is_named_and_what_was_done(tmp_path):
    found = in_ranks(2, leave_early, folder=tmp_path, timeout_s=5.0)
    assert found[1] == "left"
    assert found[0].startswith("rank 0: another process is gone, or hangs, in an agreement")
