"""Give every test the same seed, one thread and its own cache."""

import logging
import os

# Before torch is imported, here and in every process that a test starts.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("WANDB_MODE", "offline")

import hypothesis
import pytest
import torch

torch.set_num_threads(1)
# A busy machine is no failure.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")


@pytest.fixture(autouse=True)
def _same_seed():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _no_log_left():
    """Take a run's handlers away after its test: they write to the test's own stderr, which is closed by then."""
    yield
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if getattr(handler, "is_ours", False)]:
        root.removeHandler(handler)
        handler.close()


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    os.environ["VCRAST_CACHE"] = str(tmp_path_factory.mktemp("vcrast-cache"))


@pytest.fixture(scope="session")
def esc10_root():
    """A folder with the real ESC-10, or a skip that says how to give one."""
    root = os.environ.get("VCRAST_ESC10")
    if not root:
        pytest.skip("needs real audio: set VCRAST_ESC10 to a folder with ESC-10")
    return root


def pytest_collection_modifyitems(items):
    """Skip what needs a GPU where there is none."""
    if torch.cuda.is_available():
        return
    for item in items:
        # These run kernels of CUDA, or read its memory: there is nothing to imitate them with. `make gpu` runs them.
        # Not item.keywords: those hold the names of the folders above, too, and a clone may lie in one called gpu.
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
