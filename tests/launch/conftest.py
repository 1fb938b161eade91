"""Start a real Slurm once for the tests that ask for it."""

import pytest
from slurm_cluster import Cluster, why_not


@pytest.fixture(scope="session")
def slurm_cluster():
    reason = why_not()
    if reason:
        pytest.skip(reason)
    with Cluster() as cluster:
        yield cluster


@pytest.fixture
def cluster(slurm_cluster, monkeypatch):
    """The same, with its commands and its configuration in this process's environment."""
    for name in ("SLURM_CONF", "PATH"):
        monkeypatch.setenv(name, slurm_cluster.environment[name])
    return slurm_cluster
