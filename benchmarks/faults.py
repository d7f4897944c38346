"""Kills, stops and starves fine-tuning runs, resumes each, and compares its adapter with that of an undisturbed run.

    python benchmarks/faults.py [--runs 60] [--seed 0] [--append]

Every run is a process that is forked from this one, with the libraries imported, and goes through the command line:
loading, scoring the base, six steps with a checkpoint after each, saving, scoring, and the report. Full and read-only
disks need the right to mount a tmpfs. ``--append`` writes to ``benchmarks/results/faults.md``.
"""

import argparse
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # forked processes need a library without threads

import measure
import psutil

from lora_mm.artifact.files import WEIGHTS
from lora_mm.cli.main import run as run_command_line
from lora_mm.jobs import finetune as job

SETTINGS = (
    "data.pocket.size=200",
    "data.train_limit=24",
    "data.eval_limit=8",
    "training.max_steps=6",
    "training.save_steps=1",
    "training.per_device_train_batch_size=2",
    "base.dtype=float32",
)
ENVIRONMENT = {"KMP_WARNINGS": "0", "HF_HUB_OFFLINE": "1"}


@dataclass
class Child:
    """A run in a process of its own.

    Attributes:
        pid: the process.
        log: file with what it prints.
    """

    pid: int
    log: Path

    def wait(self) -> int:
        """Wait for the end; return the exit code, negative for the signal that killed the process."""
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def start(output: Path, *flags: str, before: Callable[[], None] = lambda: None) -> Child:
    """Start ``lora-mm finetune`` in a forked process.

    Args:
        output: the run's folder.
        flags: more of the command line.
        before: what the process does first.
    """
    log = _name_log(output)
    pid = os.fork()
    if pid:
        return Child(pid, log)
    with log.open("ab", buffering=0) as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # this process may run in the background, under nohup
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    os.environ |= ENVIRONMENT
    settings = [word for setting in SETTINGS for word in ("--set", setting)]
    sys.argv = ["lora-mm", "finetune", "--recipe", "scienceqa-pocket", "--output", str(output), *settings, *flags]
    code = 1
    job.format_estimate = lambda *_: ""  # two thirds of such a short run, and it writes nothing
    try:
        before()
        run_command_line()
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def count_file_operations(folder: Path, report: Callable[[int], None]) -> None:
    """Call ``report`` with a running number at each opening for writing, renaming, making and deleting below a folder.

    Libraries that write without Python are not seen; signals at random times find those.
    """
    number, root = 0, str(folder)

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal number
        writes = event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate")
        writes |= event == "open" and bool((arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR))
        if writes and str(arguments[0]).startswith(root):
            number += 1
            report(number)

    sys.addaudithook(watch)


@dataclass
class Tally:
    """What became of the runs of one kind.

    Attributes:
        codes: exit codes of the disturbed runs → their number.
        equal: number of runs whose adapter was bit-equal in the end.
        faults: what went wrong.
    """

    runs: int = 0
    equal: int = 0
    codes: dict[int, int] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)


class Trial:
    """Disturbs runs in a folder and resumes them.

    Args:
        folder: for the runs.
        seed: of the random times.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.random = folder, random.Random(seed)
        self.tallies: dict[str, Tally] = {}
        started = time.monotonic()
        whole = folder / "whole"
        assert start(whole).wait() == 0, _name_log(whole).read_text()
        self.seconds = time.monotonic() - started
        self.adapter = (whole / WEIGHTS).read_bytes()
        counted = folder / "operations"
        count = start(
            folder / "counted",
            before=lambda: count_file_operations(folder / "counted", lambda number: _write_number(counted, number)),
        )
        assert count.wait() == 0
        self.operations = int(counted.read_text())
        print(f"an undisturbed run: {self.seconds:.1f} s, {self.operations} operations on files", file=sys.stderr)

    def finish(self, kind: str, output: Path, codes: set[int], code: int, *flags: str) -> None:
        """Resume a disturbed run, and note whether it ends as an undisturbed one.

        Args:
            kind: row of the table.
            output: folder of the run.
            codes: exit codes that the disturbed run may have.
            code: the one that it had.
            flags: more of the command line of both runs.
        """
        tally = self.tallies.setdefault(kind, Tally())
        tally.runs += 1
        tally.codes[code] = tally.codes.get(code, 0) + 1
        log = _name_log(output)
        faults = [f"exit code {code}"] if code not in codes else []
        if (output / WEIGHTS).is_file() and (output / WEIGHTS).read_bytes() != self.adapter:
            faults.append("left a half adapter")
        resumed = start(output, "--resume", *flags).wait()
        if resumed:
            faults.append(f"--resume: exit code {resumed}")
        elif (output / WEIGHTS).read_bytes() != self.adapter:
            faults.append("another adapter")
        left = [path.name for path in output.rglob(".*")] if output.is_dir() else []
        faults += [f"left behind: {', '.join(left)}"] if left else []
        if "Traceback" in log.read_text(errors="replace"):
            faults.append("a traceback")
        if faults:
            print(f"{kind}, {output.name}: {'; '.join(faults)}, see {log}", file=sys.stderr, flush=True)
            tally.faults += faults
        else:
            tally.equal += 1
            log.unlink()
        shutil.rmtree(output, ignore_errors=True)

    def kill_at_random_times(self, runs: int) -> None:
        """Kill runs at random times from their first to their last moment."""
        for number in range(runs):
            self._signal_once("killed at a random time", f"time{number}", signal.SIGKILL, {-9, 0})

    def kill_at_file_operations(self, runs: int) -> None:
        """Kill runs just before operations on files, evenly from the first to the last."""
        for number in range(runs):
            last = 1 + number * (self.operations - 1) // max(runs - 1, 1)
            output = self.folder / f"operation{last}"

            def kill(operation: int, last: int = last) -> None:
                if operation == last:
                    os.kill(os.getpid(), signal.SIGKILL)

            child = start(output, before=lambda output=output, kill=kill: count_file_operations(output, kill))
            self.finish("killed before an operation on a file", output, {-9, 0}, child.wait())

    def stop(self, runs: int) -> None:
        """Send the signals that end a job at random times."""
        for number in range(runs):
            for stop, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)):
                self._signal_once(stop.name, f"{stop.name}{number}", stop, {code, 0})

    def _signal_once(self, kind: str, name: str, number: int, codes: set[int]) -> None:
        output = self.folder / name
        child = start(output)
        time.sleep(0.2 + self.random.random() * self.seconds)  # the handlers are set within 0.2 s
        os.killpg(child.pid, number)
        self.finish(kind, output, codes, child.wait())

    def kill_workers(self, runs: int) -> None:
        """Kill the process that prepares examples, as the system does when memory runs out."""
        flags = ("--set", "training.dataloader_num_workers=1")
        for number in range(runs):
            output = self.folder / f"worker{number}"
            child = start(output, *flags)
            process = psutil.Process(child.pid)
            time.sleep(self.random.random() * self.seconds / 4)
            while process.status() != psutil.STATUS_ZOMBIE:
                workers = process.children()
                if workers:
                    workers[0].kill()
                    break
                time.sleep(0.001)
            self.finish("data worker killed", output, {1, 0}, child.wait(), *flags)

    def run_twice_at_once(self, runs: int) -> None:
        """Start two runs into one folder."""
        for number in range(runs):
            output = self.folder / f"twice{number}"
            first = start(output)
            time.sleep(self.random.random() * 0.2)
            second = start(output)
            codes = sorted([first.wait(), second.wait()])
            code = 0 if codes == [0, 2] else max(codes)
            self.finish("two runs into one folder (0 and 2 together: 0)", output, {0}, code)

    def fill_disk(self, runs: int) -> None:
        """Run on disks that fill up at random sizes; then give them space and resume."""
        need = sum(file.stat().st_size for file in (self.folder / "whole").rglob("*"))
        with _Tmpfs(self.folder / "disk") as disk:
            for number in range(runs):
                disk.mount(f"size={self.random.randrange(8192, need)}")
                code = start(disk.folder / f"full{number}").wait()
                disk.mount("size=100%")
                self.finish("full disk", disk.folder / f"full{number}", {1, 0}, code)

    def write_protect(self, runs: int) -> None:
        """Start runs on a read-only disk; then let them write and resume."""
        with _Tmpfs(self.folder / "disk") as disk:
            for number in range(runs):
                output = disk.folder / f"readonly{number}"
                disk.mount("ro")
                code = start(output).wait()
                disk.mount("rw")
                self.finish("read-only disk", output, {1}, code)

    def tabulate(self) -> str:
        """Tabulate all kinds."""
        rows = [
            [
                kind,
                str(tally.runs),
                ", ".join(f"{code} ({count})" for code, count in sorted(tally.codes.items())),
                f"{tally.equal} of {tally.runs}",
            ]
            for kind, tally in self.tallies.items()
        ]
        return measure.table(["disturbance", "runs", "exit codes (runs)", "bit-equal after --resume"], rows)


class _Tmpfs:
    """A small disk in memory, mounted inside the block."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __enter__(self) -> "_Tmpfs":
        self.folder.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", self.folder], check=True)
        return self

    def __exit__(self, *error: object) -> None:
        subprocess.run(["umount", "-l", self.folder], check=True)
        self.folder.rmdir()

    def mount(self, option: str) -> None:
        """Mount it again with an option."""
        subprocess.run(["mount", "-o", f"remount,{option}", self.folder], check=True)


def _name_log(output: Path) -> Path:
    """Name the file for what a run prints: not beside the run, where the disk may be full."""
    return Path(tempfile.gettempdir()) / f"faults-{output.name}.log"


def _write_number(file: Path, number: int) -> None:
    descriptor = os.open(file, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    os.write(descriptor, str(number).encode())
    os.close(descriptor)


def main() -> None:
    """Disturb runs of every kind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=60, help="runs of the two kinds of kill; others have fewer")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", default=[], help="method names; by default, all")
    parser.add_argument("--append", action="store_true", help="append the table to the results")
    arguments = parser.parse_args()
    few = max(1, arguments.runs // 10)
    kinds = {
        "kill_at_random_times": arguments.runs,
        "kill_at_file_operations": arguments.runs,
        "stop": few,
        "kill_workers": few,
        "run_twice_at_once": few,
        "fill_disk": few,
        "write_protect": few,
    }
    with tempfile.TemporaryDirectory() as folder:
        trial = Trial(Path(folder), arguments.seed)
        for kind, runs in kinds.items():
            if not arguments.kinds or kind in arguments.kinds:
                getattr(trial, kind)(runs)
        text = trial.tabulate()
    if arguments.append:
        command = f"python benchmarks/faults.py {shlex.join(sys.argv[1:])}"
        measure.append("faults", "Runs that were disturbed, then resumed", command, text)
    else:
        print(text)
    sys.exit(any(tally.faults for tally in trial.tallies.values()))


if __name__ == "__main__":
    main()
