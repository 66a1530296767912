"""A real SLURM cluster of one node, with invented GPUs, for tests and benchmarks.

``python -m tests.slurm_cluster`` keeps one until its input ends, so it never outlives who started
it, however that ends. This matters: a configured controller that does not answer makes every call
of Snakemake on the machine nine seconds slower.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

CONFIGURATION = Path("/etc/slurm")
STATE = Path("/run/klmap-slurm")
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue")
OURS = "# Made by klmap's tests"
NODE = "klmapnode"

SETTINGS = """\
{ours}; gone when they end.
ClusterName=klmap
SlurmctldHost={host}
SlurmUser=root
AuthType=auth/munge
StateSaveLocation={state}/ctld
SlurmdSpoolDir={state}/slurmd
SlurmctldPidFile={state}/slurmctld.pid
SlurmdPidFile={state}/slurmd.pid
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
ProctrackType=proctrack/pgid
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0,bf_interval=1
MinJobAge=3600
MaxJobCount=20000
JobRequeue=1
KillWait=5
InactiveLimit=0
ReturnToService=2
GresTypes=gpu
NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 CPUs=64 RealMemory=4000000 Gres=gpu:{gpus}
PartitionName=main Nodes={node} Default=YES MaxTime=INFINITE
"""


def why_not() -> str | None:
    """Why no cluster can be started on this machine, or None where one can."""
    search = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"])
    missing = [name for name in PROGRAMS if shutil.which(name, path=search) is None]
    if missing:
        return f"no {', '.join(missing)}; Debian and Ubuntu: apt-get install slurm-wlm munge"
    if os.geteuid() != 0:
        return "SLURM's daemons are started as root"
    found = CONFIGURATION / "slurm.conf"
    if found.exists() and not found.read_text(errors="replace").startswith(OURS):
        return f"{found} belongs to another cluster"
    return None


def wait_until(
    happened: Callable[[], object], what: str, seconds: float = 120, every: float = 0.2
) -> None:
    """Wait for something to be true; fail loudly where it never is."""
    end = time.monotonic() + seconds
    while not happened():
        if time.monotonic() > end:
            raise AssertionError(f"waited {seconds:.0f} s in vain for: {what}")
        time.sleep(every)


def said(*command: str, check: bool = True) -> str:
    """What one of SLURM's commands prints."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if check and done.returncode != 0:
        raise AssertionError(f"{' '.join(command)}: {done.stderr}")
    return done.stdout


class Cluster:
    """A cluster in a process of its own, which cleans up when this one ends.

    Args:
        gpus: how many the node claims to have.
    """

    def __init__(self, gpus: int = 2) -> None:
        command = [sys.executable, "-m", __name__, "--gpus", str(gpus)]
        self.keeper = subprocess.Popen(
            command,
            cwd=Path(__file__).parents[1],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        assert self.keeper.stdout is not None
        words = self.keeper.stdout.readline()
        if words.strip() != "ready":
            rest = self.keeper.stdout.read()
            self.stop()
            raise AssertionError(f"no SLURM cluster: {words}{rest}")

    def stop(self) -> None:
        """End every job and daemon, and remove their configuration."""
        self.keeper.communicate(timeout=120)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def controller(self, *, stopped: bool) -> None:
        """Stop the controller in its tracks, as in a maintenance, or let it go on."""
        number = int((STATE / "slurmctld.pid").read_text())
        os.kill(number, signal.SIGSTOP if stopped else signal.SIGCONT)


def serve(gpus: int) -> None:
    """Start the daemons, say so, and clean up at the end of the input."""
    reason = why_not()
    if reason:
        raise SystemExit(reason)
    STATE.mkdir(parents=True, exist_ok=True)
    with STATE.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        daemons: list[subprocess.Popen[bytes]] = []
        try:
            configure(gpus)
            daemons = start()
            print("ready", flush=True)
            sys.stdin.read()
        finally:
            stop(daemons)


def configure(gpus: int) -> None:
    """Write SLURM's configuration where its commands look, and make the GPUs' device files."""
    shutil.rmtree(STATE, ignore_errors=True)
    for folder in ("ctld", "slurmd"):
        (STATE / folder).mkdir(parents=True)
    for number in range(gpus):
        os.mknod(STATE / f"gpu{number}", 0o20666, os.makedev(1, 3))
    devices = f"{STATE}/gpu" + (f"[0-{gpus - 1}]" if gpus > 1 else "0")
    names = {"ours": OURS, "state": STATE, "node": NODE, "gpus": gpus}
    host = socket.gethostname().split(".")[0]
    (CONFIGURATION / "slurm.conf").write_text(SETTINGS.format(host=host, **names))
    (CONFIGURATION / "gres.conf").write_text(f"{OURS}\nNodeName={NODE} Name=gpu File={devices}\n")


def start() -> list[subprocess.Popen[bytes]]:
    """Start what is not running yet, and wait until the node takes jobs."""
    os.environ["PATH"] += os.pathsep + "/usr/sbin"
    daemons = []
    if subprocess.run(["munge", "-n"], capture_output=True).returncode != 0:
        for folder in ("/run/munge", "/var/log/munge", "/var/lib/munge"):
            Path(folder).mkdir(parents=True, exist_ok=True)
            shutil.chown(folder, "munge", "munge")
        daemons.append(launch("munged", "--foreground", user="munge"))
        wait_until(lambda: not failing("munge", "-n"), "munge", 20)
    daemons.append(launch("slurmctld", "-D", "-i"))
    wait_until(lambda: not failing("scontrol", "ping"), "the controller", 60)
    daemons.append(launch("slurmd", "-D", "-N", NODE))
    wait_until(
        lambda: said("sinfo", "--noheader", "--format=%t", check=False).startswith("idle"),
        f"an idle node; {STATE}/*.log say more",
        60,
    )
    return daemons


def launch(name: str, *options: str, user: str | None = None) -> subprocess.Popen[bytes]:
    """Start one daemon with a log of its own."""
    with (STATE / f"{name}.log").open("wb") as log:
        return subprocess.Popen(
            [name, *options],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            user=user,
            group=user,
            extra_groups=[] if user else None,
        )


def failing(*command: str) -> bool:
    """Whether a command ends badly, or does not end soon."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=15)
    except subprocess.TimeoutExpired:
        return True
    return done.returncode != 0 or "DOWN" in done.stdout


def stop(daemons: list[subprocess.Popen[bytes]]) -> None:
    """Cancel what runs, end the daemons and take the configuration away."""
    for daemon in daemons:
        daemon.send_signal(signal.SIGCONT)
    try:
        said("scancel", "--full", "--signal=KILL", "--user=root", check=False)
        said("scancel", "--user=root", check=False)
        busy = ("squeue", "--noheader", "--states=R,CG")
        wait_until(lambda: not said(*busy, check=False).strip(), "the end of all jobs", 20)
    except (AssertionError, subprocess.TimeoutExpired) as error:
        print(error)
    for daemon in reversed(daemons):
        daemon.terminate()
        try:
            daemon.wait(20)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()
    for name in ("slurm.conf", "gres.conf"):
        (CONFIGURATION / name).unlink(missing_ok=True)
    shutil.rmtree(STATE, ignore_errors=True)


def main() -> None:
    """Keep a cluster until the input ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gpus", type=int, default=2, help="how many the node claims to have")
    serve(parser.parse_args().gpus)


if __name__ == "__main__":
    main()
