"""A real Slurm of two nodes on this machine, for tests: Debian's slurmctld, two slurmd and munged, without cgroups.

`Cluster` starts this file as a process of its own, which starts the daemons, inherits whatever they leave running, and
ends all of it when its standard input closes: when the tests are done, failed, or killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NODES = ("n1", "n2")
HOSTS = Path("/etc/hosts")
PR_SET_CHILD_SUBREAPER = 36  # prctl: orphans among the descendants become this process's children
PROGRAMS = ("slurmctld", "slurmd", "munged", "runuser", "srun", "sbatch", "scontrol", "squeue", "scancel")
CONFIG = """\
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# A job that is queued again waits for cred_expire seconds, 120 unless said otherwise; 5 is the least.
AuthInfo=socket={folder}/munge/socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
MailProg=/bin/true
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerType=sched/builtin
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0
JobRequeue=1
KillWait=2
OverTimeLimit=0
MinJobAge=3600
ReturnToService=2
SlurmdTimeout=5
GresTypes=gpu
# As many processors as several jobs need: these are counted, not looked for.
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=8 Gres=gpu:2
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=8 Gres=gpu:2
PartitionName=all Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
"""
GPUS = "Name=gpu File=/dev/null\nName=gpu File=/dev/zero\n"  # Slurm counts them and looks no further


def why_not() -> str | None:
    """Why no Slurm can run here, or None."""
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    missing = [program for program in PROGRAMS if shutil.which(program, path=path) is None]
    if missing:
        return f"{', '.join(missing)} missing: apt-get install slurm-wlm munge"
    return "Slurm's daemons need root" if os.geteuid() != 0 else None


class Cluster:
    """The running Slurm as tests see it. A context manager."""

    def __enter__(self) -> Cluster:
        command = [sys.executable, str(Path(__file__).resolve())]
        self.keeper = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            self.config = Path(self._answer())
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: Any) -> None:
        """Ends every daemon, job and task."""
        assert self.keeper.stdin is not None
        self.keeper.stdin.close()
        self.keeper.wait()

    def _answer(self) -> str:
        assert self.keeper.stdout is not None
        line = self.keeper.stdout.readline().strip()
        if not line.startswith("ok "):
            raise RuntimeError(f"Slurm: {line or 'its keeper died'}")
        return line.removeprefix("ok ")

    def tell(self, command: str) -> None:
        """`kill n2`: kills that node's slurmd by SIGKILL. `crash n2`: its tasks too. `start n2`: starts it again."""
        assert self.keeper.stdin is not None
        self.keeper.stdin.write(command + "\n")
        self.keeper.stdin.flush()
        self._answer()

    def run(self, *command: str, cwd: Path | None = None, **settings: str) -> str:
        """What one of Slurm's commands says; `settings` are environment variables besides this process's."""
        done = subprocess.run(command, cwd=cwd, env=self.environment(**settings), capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr}")
        return done.stdout.strip()

    def environment(self, **settings: str) -> dict[str, str]:
        """This process's variables without a launcher's, and this Slurm's configuration."""
        launchers = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
        kept = {key: value for key, value in os.environ.items() if key not in launchers}
        return {**kept, "SLURM_CONF": str(self.config), **settings}

    def submit(self, *command: str, cwd: Path | None = None, **settings: str) -> str:
        """The id of a new job: `command` is what follows sbatch."""
        return self.run("sbatch", "--parsable", *command, cwd=cwd, **settings)

    def job(self, job: str) -> dict[str, str]:
        """A job's fields as `scontrol show job` has them: JobState, ExitCode, Restarts, ..."""
        text = self.run("scontrol", "show", "job", "--oneliner", job)
        return dict(field.split("=", 1) for field in text.split() if "=" in field)

    def wait(self, job: str, *states: str, timeout: float = 1200) -> dict[str, str]:
        """The job once it is in one of the states; without states, once it has ended.

        Raises:
            TimeoutError: with what the job has said so far.
        """
        deadline = time.monotonic() + timeout
        while True:
            fields = self.job(job)
            state = fields["JobState"]
            ended = state not in ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "REQUEUED", "SUSPENDED")
            if state in states or (not states and ended):
                return fields
            if time.monotonic() > deadline or (states and ended):
                raise TimeoutError(f"job {job} is {state}, wanted {states or 'ended'}: {self.output(job)[-3000:]}")
            time.sleep(0.1)

    def wait_for(self, job: str, text: str, *, file: Path | None = None, timeout: float = 1200) -> None:
        """Returns when a job, or a file that it writes, has said this."""
        deadline = time.monotonic() + timeout
        while text not in (self.output(job) if file is None else file.read_text() if file.is_file() else ""):
            if time.monotonic() > deadline:
                raise TimeoutError(f"job {job} never said {text!r}: {self.job(job)} {self.output(job)[-3000:]}")
            time.sleep(0.1)

    def output(self, job: str) -> str:
        """What a job has said so far."""
        file = Path(self.job(job)["StdOut"])
        return file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""


def descendants() -> list[int]:
    """Every process that this one or its descendants started and that has not been waited for."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):  # ended meanwhile
                parents[int(entry.name)] = parent_of(int(entry.name))
    found = [os.getpid()]
    for process in found:
        found.extend(child for child, parent in parents.items() if parent == process)
    return found[1:]


def parent_of(process: int) -> int:
    """The id of a process's parent."""
    return int(Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[1])


def end_all() -> None:
    """Kills and reaps every descendant; what a dying one leaves comes here too."""
    while processes := descendants():
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.02)


@contextlib.contextmanager
def host_names() -> Iterator[None]:
    """n1 and n2 mean this machine; /etc/hosts is written in place, since in containers it is a mount."""
    line = f"127.0.0.1 {' '.join(NODES)} # slurm_cluster.py, process {os.getpid()}\n"
    before = HOSTS.read_text()
    with HOSTS.open("a") as file:
        file.write(line if before.endswith("\n") else "\n" + line)
    try:
        yield
    finally:
        HOSTS.write_text(HOSTS.read_text().replace(line, ""))


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, all different."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def start_daemons(folder: Path) -> None:
    """munged, slurmctld and both slurmd, each in the background."""
    folder.chmod(0o711)  # munge's user goes through
    munge = folder / "munge"
    munge.mkdir(mode=0o755)
    (munge / "key").write_bytes(os.urandom(128))
    (munge / "key").chmod(0o600)
    user = pwd.getpwnam("munge")
    for path in (munge, munge / "key"):
        os.chown(path, user.pw_uid, user.pw_gid)
    names = {"socket": "socket", "key-file": "key", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
    options = [f"--{option}={munge / name}" for option, name in names.items()]
    run(["runuser", "-u", "munge", "--", "munged", "--force", *options])
    (folder / "state").mkdir()
    config = CONFIG.format(folder=folder, host=socket.gethostname().split(".")[0], ports=free_ports(3))
    (folder / "slurm.conf").write_text(config)
    (folder / "gres.conf").write_text(GPUS)
    os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
    run(["slurmctld", "-c"])
    for node in NODES:
        run(["slurmd", "-N", node])
    await_nodes(folder)


def await_nodes(folder: Path) -> None:
    """Returns when every node takes jobs."""
    deadline = time.monotonic() + 300
    while run(["sinfo", "--noheader", "--format=%T"]).split() != ["idle"]:
        if time.monotonic() > deadline:
            logs = "".join(path.read_text()[-1500:] for path in sorted(folder.glob("*.log")))
            raise RuntimeError(f"the nodes do not come up: {run(['sinfo', '--list-reasons'])} {logs}")
        time.sleep(0.05)


def run(command: list[str]) -> str:
    """A command's output. Its input is none, so that the daemon does not hold ours, and its errors go to ours."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise RuntimeError(f"{command[0]} ended with status {done.returncode}")
    return done.stdout


def obey(command: str, folder: Path) -> None:
    """Does what `Cluster.tell` says."""
    verb, node = command.split()
    if verb == "start":
        run(["slurmd", "-N", node])
        return
    os.kill(int((folder / f"slurmd.{node}.pid").read_text()), signal.SIGKILL)
    if verb == "crash":
        for process in processes_on(node):
            os.kill(process, signal.SIGKILL)


def processes_on(node: str) -> list[int]:
    """The processes of jobs on a node and, first, the slurmstepd that would tell the others of their end."""
    found: list[int] = []
    for process in descendants():
        with contextlib.suppress(OSError):  # ended meanwhile
            if f"SLURMD_NODENAME={node}".encode() in Path(f"/proc/{process}/environ").read_bytes().split(b"\0"):
                found.append(process)
    parents = {parent_of(process) for process in found} - set(found)
    keepers = [
        process for process in parents if Path(f"/proc/{process}/cmdline").read_bytes().startswith(b"slurmstepd")
    ]
    return [*keepers, *found]


def main() -> None:
    """Starts the daemons, answers with the configuration's path, obeys commands until the input closes, ends all."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for pytest, which then closes the input
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    answer = sys.stdout
    try:
        with tempfile.TemporaryDirectory(prefix="slurm-", ignore_cleanup_errors=True) as name, host_names():
            folder = Path(name)
            try:
                start_daemons(folder)
                answer.write(f"ok {folder / 'slurm.conf'}\n")
                answer.flush()
                for command in sys.stdin:
                    obey(command, folder)
                    answer.write("ok done\n")
                    answer.flush()
            finally:
                end_all()
    except (OSError, RuntimeError, KeyError, subprocess.TimeoutExpired) as error:
        answer.write(f"error: {' '.join(str(error).split())}\n")
        sys.exit(1)


if __name__ == "__main__":
    main()
