"""Start a real Slurm of two nodes on this machine: munged, slurmctld, two slurmd.

python tests/slurm_cluster.py        # starts one, prints how to use it, ends it on Ctrl-C
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol", "srun")
# Addresses as names: they resolve everywhere, and the first one becomes MASTER_ADDR of a job.
NODES = ("127.0.0.1", "127.0.0.2")
SIZE = "CPUs=4 RealMemory=8000"
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY")

CONFIG = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ctld_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# A requeued job waits until its old credential has expired: 2 minutes by default.
AuthInfo=socket={root}/munge/socket,cred_expire=5
StateSaveLocation={root}/state
SlurmctldPidFile={root}/slurmctld.pid
SlurmctldLogFile={root}/slurmctld.log
SlurmdSpoolDir={root}/spool.%n
SlurmdPidFile={root}/slurmd.%n.pid
SlurmdLogFile={root}/slurmd.%n.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
ReturnToService=2
MinJobAge=3600
KillWait=20
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=60 PriorityTier=1 GraceTime=60
PartitionName=urgent Nodes=ALL MaxTime=60 PriorityTier=9 PreemptMode=OFF
"""


def why_not():
    """Why a cluster cannot be started here, or None."""
    missing = [name for name in PROGRAMS if shutil.which(name, path=search_path()) is None]
    if missing:
        return f"needs Slurm: {', '.join(missing)} not found (apt-get install slurm-wlm munge)"
    if os.geteuid() != 0:
        return "needs root: the daemons start jobs as their owner"
    return None


def search_path():
    """PATH with the folders of daemons."""
    return os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])


def free_ports(count):
    """Ports that nobody listens on now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("", 0))
        return [one.getsockname()[1] for one in sockets]


class Cluster:
    """Context manager around the daemons."""

    def __init__(self):
        self.root = Path(tempfile.mkdtemp(prefix="vcrast-slurm-"))
        self.environment = {**os.environ, "SLURM_CONF": str(self.root / "slurm.conf"), "PATH": search_path()}
        self.daemons, self.nodes = [], {}

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *error):
        self.stop()

    def start(self):
        self.root.chmod(0o755)
        self._start_munge()
        ctld_port, *ports = free_ports(1 + len(NODES))
        nodes = "\n".join(
            f"NodeName={name} NodeHostname={socket.gethostname()} NodeAddr={name} Port={port} {SIZE}"
            for name, port in zip(NODES, ports, strict=True)
        )
        text = CONFIG.format(host=socket.gethostname(), ctld_port=ctld_port, root=self.root, nodes=nodes)
        (self.root / "slurm.conf").write_text(text)
        (self.root / "state").mkdir()
        self._daemon("slurmctld", "-D")
        for name in NODES:
            (self.root / f"spool.{name}").mkdir()
            self.nodes[name] = self._daemon("slurmd", "-D", "-N", name)
        self._wait_until(self._is_up, 60, "the nodes are idle")

    def _start_munge(self):
        folder = self.root / "munge"
        folder.mkdir(mode=0o755)
        key = folder / "key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        options = {"socket": "socket", "key-file": "key", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        self._daemon(
            "munged", "--foreground", "--force", *(f"--{key}={folder / name}" for key, name in options.items())
        )
        self._wait_until((folder / "socket").exists, 20, "munged listens")

    def _daemon(self, *command):
        output = (self.root / f"{command[0]}.{len(self.daemons)}.out").open("wb")
        program = shutil.which(command[0], path=search_path())
        daemon = subprocess.Popen(
            [program, *command[1:]], env=self.environment, stdout=output, stderr=subprocess.STDOUT
        )
        self.daemons.append(daemon)
        return daemon

    def _is_up(self):
        return (
            self.run("sinfo", "--noheader", "--format=%t %D", "--partition=main", check=False) == f"idle {len(NODES)}"
        )

    def _wait_until(self, reached, seconds, what):
        deadline = time.monotonic() + seconds
        while not reached():
            ended = [daemon.args[0] for daemon in self.daemons if daemon.poll() is not None]
            if ended or time.monotonic() > deadline:
                outputs = [path.read_text(errors="replace")[-2000:] for path in sorted(self.root.glob("*.out"))]
                raise RuntimeError(f"Slurm: not so after {seconds} s: {what}; ended: {ended}\n" + "\n".join(outputs))
            time.sleep(0.1)

    def stop(self):
        with contextlib.suppress(Exception):
            subprocess.run(
                ["scancel", "--user=root", "--state=RUNNING", "--signal=KILL", "--full"],
                env=self.environment, timeout=10, check=False,
            )  # fmt: skip
            self.run("scancel", "--user=root", check=False)
            time.sleep(1)
        for daemon in reversed(self.daemons):
            daemon.send_signal(signal.SIGTERM)
        for daemon in reversed(self.daemons):
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        shutil.rmtree(self.root, ignore_errors=True)

    def run(self, *command, check=True):
        """Output of a Slurm command."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60, check=False)
        if check and done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
        return done.stdout.strip()

    def processes(self, job_id):
        """Of a job: process number -> environment; those of this cluster only, found by what Slurm put there."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                items = (folder / "environ").read_bytes().decode(errors="replace").split("\0")
            except OSError:
                continue
            variables = dict(item.split("=", 1) for item in items if "=" in item)
            if (
                variables.get("SLURM_CONF") == self.environment["SLURM_CONF"]
                and variables.get("SLURM_JOB_ID") == job_id
            ):
                found[int(folder.name)] = variables
        return found

    def kill_node(self, name, job_id):
        """End a node at once, with the only job that it has, as a power cut would; and let Slurm know."""
        daemon = self.nodes.pop(name)
        self.daemons.remove(daemon)
        daemon.kill()
        daemon.wait()
        steps = f"slurmstepd: [{job_id}.".encode()
        commands = {folder: (folder / "cmdline") for folder in Path("/proc").glob("[0-9]*")}
        for folder, command in commands.items():
            with contextlib.suppress(OSError):
                if command.read_bytes().startswith(steps) and self._is_ours(folder):
                    os.kill(int(folder.name), signal.SIGKILL)
        for number in self.processes(job_id):
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        self.run("scontrol", "update", f"NodeName={name}", "State=DOWN", "Reason=killed")

    def _is_ours(self, folder):
        return f"SLURM_CONF={self.environment['SLURM_CONF']}".encode() in (folder / "environ").read_bytes()

    def start_node(self, name):
        """Bring a killed node back."""
        self.nodes[name] = self._daemon("slurmd", "-D", "-N", name)
        self.run("scontrol", "update", f"NodeName={name}", "State=RESUME")
        self._wait_until(self._is_up, 60, "the nodes are idle again")

    def job(self, job_id):
        """What `scontrol show job` says, as a dictionary."""
        words = self.run("scontrol", "show", "job", str(job_id), "--oneliner").split()
        return dict(word.partition("=")[::2] for word in words if "=" in word)

    def wait(self, job_id, *states, seconds=400):
        """The job's record once it is in one of the states, by default those of a job that has ended."""
        record = {}

        def reached():
            record.update(self.job(job_id))
            return record["JobState"] in (states or ENDED)

        self._wait_until(reached, seconds, f"job {job_id} is {' or '.join(states or ENDED)}, but {record}")
        return record


if __name__ == "__main__":
    if why_not():
        raise SystemExit(why_not())
    with Cluster() as cluster, contextlib.suppress(KeyboardInterrupt):
        print(f"export SLURM_CONF={cluster.environment['SLURM_CONF']}", flush=True)
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        signal.pause()
