"""Run a function in processes that train as one; return what each returned."""

import os
import pickle
import socket
import traceback

import torch

from vcrast.training.dist import process_group


def in_ranks(world_size, function, *arguments, folder, timeout_s=60.0):
    """What `function(*arguments)` returned on each rank; a failure on any of them is raised here."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = torch.multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=_rank, args=(rank, world_size, port, timeout_s, folder, function, arguments))
        for rank in range(world_size)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    results = [pickle.loads((folder / f"rank_{rank}").read_bytes()) for rank in range(world_size)]
    failed = [text for text, _ in results if text]
    assert not failed, "\n".join(failed)
    return [value for _, value in results]


def _rank(rank, world_size, port, timeout_s, folder, function, arguments):
    torch.set_num_threads(1)
    os.environ.update(
        RANK=str(rank), WORLD_SIZE=str(world_size), LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE=str(world_size),
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
    )  # fmt: skip
    try:
        with process_group(torch.device("cpu"), timeout_s=timeout_s):
            result = ("", function(*arguments))
    except BaseException:
        result = (f"rank {rank}: {traceback.format_exc()}", None)
    (folder / f"rank_{rank}").write_bytes(pickle.dumps(result))
