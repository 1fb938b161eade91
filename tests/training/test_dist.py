from torch import distributed

from vcrast.training.dist import rank, world_size


def test_alone():
    assert (rank(), world_size()) == (0, 1)


def test_in_a_group_of_one(tmp_path):
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        assert (rank(), world_size()) == (0, 1)
    finally:
        distributed.destroy_process_group()
