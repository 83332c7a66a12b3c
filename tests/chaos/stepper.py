"""Kills a process just before its Nth step: a syscall that makes something durable, or visible to somebody else.

A program of its own, standard library only, run as root (ptrace(2), x86-64):

    stepper.py attach N WORDS PID             a process that runs, until our own standard input ends
    stepper.py start  N WORDS FILE COMMAND... one from its beginning; it and its children have standard input and output

Only steps whose description matches the regular expression WORDS are counted: "rename .*generation", "netlink", or an
empty one for all. `attach` prints `ready` as soon as every thread is watched. What was seen is printed at the end, or
written to FILE, as JSON: `killed`, and `steps`, the description of each. N of 0 never kills.
strace(1) cannot do it: its `when=` counts each thread and each syscall by itself.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import platform
import re
import signal
import struct
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path

SEIZE, INTERRUPT, LISTEN, SYSCALL, SYSCALL_INFO = 0x4206, 0x4207, 0x4208, 24, 0x420E  # linux/ptrace.h
OPTIONS = 0x1 | 0x2 | 0x4 | 0x8  # TRACESYSGOOD, TRACEFORK, TRACEVFORK, TRACECLONE
EVENT_STOP = 128
ENTRY = 1
WALL = 0x40000000

# asm/unistd_64.h
NAMES = {
    1: "write",
    2: "open",
    18: "pwrite64",
    20: "writev",
    44: "sendto",
    46: "sendmsg",
    74: "fsync",
    75: "fdatasync",
    77: "ftruncate",
    82: "rename",
    83: "mkdir",
    84: "rmdir",
    85: "creat",
    86: "link",
    87: "unlink",
    92: "chown",
    93: "fchown",
    257: "openat",
    258: "mkdirat",
    260: "fchownat",
    263: "unlinkat",
    264: "renameat",
    265: "linkat",
    296: "pwritev",
    316: "renameat2",
}
PATHS = {
    "open": (0,),
    "rename": (0, 1),
    "mkdir": (0,),
    "rmdir": (0,),
    "creat": (0,),
    "link": (0, 1),
    "unlink": (0,),
    "chown": (0,),
    "openat": (1,),
    "mkdirat": (1,),
    "fchownat": (1,),
    "unlinkat": (1,),
    "renameat": (1, 3),
    "linkat": (1, 3),
    "renameat2": (1, 3),
}
"""Which arguments are names of files."""
WRITES = {"write", "pwrite64", "writev", "pwritev", "fsync", "fdatasync", "ftruncate", "fchown"}
DUMP, BATCH_BEGIN = 0x300, 0x10  # linux/netlink.h, linux/netfilter/nfnetlink.h
STATE = "/var/lib/segctl-"
CREATES = os.O_CREAT

libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
libc.ptrace.restype = ctypes.c_long


def ptrace(request: int, tid: int, address: int = 0, data: int = 0) -> int:
    """Raises ProcessLookupError for a thread that is gone or not stopped."""
    done = libc.ptrace(request, tid, address, data)
    if done < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"ptrace {request:#x} of {tid}: {os.strerror(number)}")
    return int(done)


class SyscallInfo(ctypes.Structure):
    """struct ptrace_syscall_info, as far as its entry goes."""

    _fields_ = (
        ("op", ctypes.c_uint8),
        ("arch", ctypes.c_uint32),
        ("instruction", ctypes.c_uint64),
        ("stack", ctypes.c_uint64),
        ("nr", ctypes.c_uint64),
        ("args", ctypes.c_uint64 * 6),
        ("more", ctypes.c_uint64 * 4),
    )


def text_at(tid: int, address: int) -> str:
    with open(f"/proc/{tid}/mem", "rb", buffering=0) as memory:  # noqa: PTH123
        memory.seek(address)
        return memory.read(256).split(b"\0", 1)[0].decode(errors="replace")


def target_of(tid: int, descriptor: int) -> str:
    try:
        return os.readlink(f"/proc/{tid}/fd/{descriptor}")  # noqa: PTH115
    except OSError:
        return "?"


def sent(tid: int, address: int, length: int) -> str:
    """What is sent by sendto(2) is netlink; a byte is how a thread wakes another one, and a dump changes nothing."""
    if length < 16:
        return ""
    with open(f"/proc/{tid}/mem", "rb", buffering=0) as memory:  # noqa: PTH123
        memory.seek(address)
        kind, flags = struct.unpack("=HH", memory.read(8)[4:])
    if kind == BATCH_BEGIN:
        return "sendto netlink: a transaction"
    return "" if flags & DUMP == DUMP else f"sendto netlink: message {kind:#x}"


def step_of(tid: int, name: str, args: list[int]) -> str:
    """The step in words; empty when the syscall is none: a look, a log line, the reading of a file."""
    if name == "sendmsg":
        return f"{name} to the network"  # by gRPC
    if name == "sendto":
        return sent(tid, args[1], args[2])
    if name in WRITES:
        where = target_of(tid, args[0])
        return f"{name} {where}" if where.startswith(STATE) else ""
    flags = args[2] if name == "openat" else args[1] if name == "open" else CREATES
    if name in ("open", "openat") and not flags & CREATES:
        return ""
    paths = [text_at(tid, args[i]) for i in PATHS[name]]
    return f"{name} {' '.join(paths)}"


class EnoughError(Exception):
    """Standard input has ended. What is traced goes on without us when we end (ptrace(2))."""


def enough(_number: int, _frame: object) -> None:
    raise EnoughError


def wait_for_the_end_of_input() -> None:
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGUSR1)


@dataclass
class Stepper:
    """Every thread of one process, and of its children when it started it."""

    kill_at: int
    words: re.Pattern[str]
    killed: bool = False
    steps: list[str] = field(default_factory=list)

    def attach(self, pid: int) -> None:
        """New threads appear while one looks: until a look finds no other."""
        known: set[int] = set()
        while found := {int(t) for t in os.listdir(f"/proc/{pid}/task")} - known:  # noqa: PTH208
            for tid in found:
                known.add(tid)
                try:
                    ptrace(SEIZE, tid, 0, OPTIONS)
                    ptrace(INTERRUPT, tid)
                except OSError:
                    continue  # gone, or seized by TRACECLONE already

    def run(self) -> None:
        """Until everything that is traced has ended, the process was killed, or standard input ends."""
        while True:
            try:
                tid, status = os.waitpid(-1, WALL)
            except (ChildProcessError, EnoughError):
                return
            if os.WIFSTOPPED(status):
                self.stopped(tid, status)

    def stopped(self, tid: int, status: int) -> None:
        number, event = os.WSTOPSIG(status), status >> 16
        try:
            if number == signal.SIGTRAP | 0x80:
                if not self.killed:
                    self.at_syscall(tid)
                ptrace(SYSCALL, tid)
            elif event == EVENT_STOP and number in (signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU):
                ptrace(LISTEN, tid)
            elif event:
                ptrace(SYSCALL, tid)
            else:
                ptrace(SYSCALL, tid, 0, number)
        except ProcessLookupError:
            return  # killed meanwhile

    def at_syscall(self, tid: int) -> None:
        info = SyscallInfo()
        ptrace(SYSCALL_INFO, tid, ctypes.sizeof(info), ctypes.addressof(info))
        name = NAMES.get(info.nr) if info.op == ENTRY else None
        if name is None:
            return
        step = step_of(tid, name, list(info.args))
        if not step or not self.words.search(step):
            return
        self.steps.append(step)
        if len(self.steps) == self.kill_at:
            self.killed = True
            os.kill(process_of(tid), signal.SIGKILL)


def process_of(tid: int) -> int:
    with open(f"/proc/{tid}/status") as status:  # noqa: PTH123
        return next(int(line.split()[1]) for line in status if line.startswith("Tgid:"))


def start(stepper: Stepper, command: list[str]) -> None:
    """The child waits until it is traced."""
    out, into = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(into)
        os.read(out, 1)
        os.execvp(command[0], command)
    os.close(out)
    stepper.attach(child)
    os.close(into)


def main() -> int:
    if platform.machine() != "x86_64":
        sys.stderr.write(f"stepper: knows the syscalls of x86_64, not of {platform.machine()}\n")
        return 2
    action, stepper = sys.argv[1], Stepper(int(sys.argv[2]), re.compile(sys.argv[3]))
    if action == "attach":
        stepper.attach(int(sys.argv[4]))
        signal.signal(signal.SIGUSR1, enough)
        threading.Thread(target=wait_for_the_end_of_input, daemon=True).start()
        print("ready", flush=True)
    else:
        start(stepper, sys.argv[5:])
    with contextlib.suppress(EnoughError):
        stepper.run()
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    told = json.dumps({"killed": stepper.killed, "steps": stepper.steps})
    if action == "attach":
        print(told, flush=True)
    else:
        Path(sys.argv[4]).write_text(told)
    return 0


if __name__ == "__main__":
    sys.exit(main())
