"""What a confined process may still do, by trying it."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import resource
import signal
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from mealrec.features import confinement
from mealrec.features.confinement import MISSING, NEWER, REFUSED, filtering, numbers_on

ATTEMPTS = """
import ctypes, fcntl, os, platform, resource, signal, sys, termios
from mealrec.features.confinement import JUDGED, MISSING, NEWER, REFUSED, confine, numbers_on

libc = ctypes.CDLL(None, use_errno=True)
numbers = {name: n for calls in (JUDGED, MISSING, REFUSED) for name, n in numbers_on(platform.machine(), calls).items()}

def call(function, *arguments):
    if function(*arguments) == -1:
        raise OSError(ctypes.get_errno(), "")

def try_all(attempts):
    for name, attempt in attempts.items():
        try:
            attempt()
            print(name, "succeeded")
        except OSError as error:
            print(name, error.errno)
"""
WRITING = """
folder = sys.argv[1]
kept, new, empty = (f"{folder}/{name}" for name in ("kept", "new", "empty"))
before = os.open(kept, os.O_RDWR)
confine()
try_all({
    "open to write": lambda: os.open(kept, os.O_WRONLY),
    "open for both": lambda: os.open(kept, os.O_RDWR),
    "open for neither": lambda: os.open(kept, os.O_WRONLY | os.O_RDWR),
    "open to create": lambda: os.open(new, os.O_RDONLY | os.O_CREAT),
    "open to empty": lambda: os.open(kept, os.O_RDONLY | os.O_TRUNC),
    "open to append": lambda: os.open(kept, os.O_RDONLY | os.O_APPEND),
    "open without a name": lambda: os.open(folder, os.O_TMPFILE | os.O_RDWR),
    "creat": lambda: call(libc.creat, new.encode(), 0o600),
    "truncate": lambda: os.truncate(kept, 0),
    "ftruncate": lambda: os.truncate(before, 0),
    "unlink": lambda: os.unlink(kept),
    "unlinkat": lambda: os.unlink("kept", dir_fd=os.open(folder, os.O_RDONLY)),
    "rename": lambda: os.rename(kept, new),
    "link": lambda: os.link(kept, new),
    "symlink": lambda: os.symlink(kept, new),
    "mkdir": lambda: os.mkdir(new),
    "rmdir": lambda: os.rmdir(empty),
    "mkfifo": lambda: os.mkfifo(new),
    "chmod": lambda: os.chmod(kept, 0o777),
    "fchmod": lambda: os.chmod(before, 0o777),
    "chown": lambda: os.chown(kept, os.getuid(), os.getgid()),
    "utime": lambda: os.utime(kept, (1, 1)),
    "setxattr": lambda: os.setxattr(kept, "user.a", b"b"),
    "removexattr": lambda: os.removexattr(kept, "user.a"),
    "memfd_create": lambda: os.memfd_create("new"),
    "ioctl": lambda: fcntl.ioctl(0, termios.TIOCSTI, b"x"),
})
if "open" in numbers:  # C libraries use openat
    try_all({"the old open": lambda: call(libc.syscall, numbers["open"], kept.encode(), os.O_RDWR)})
print(open(kept).read(), *sorted(os.listdir(folder)))
"""
REACHING = """
parent, other, address = os.getppid(), int(sys.argv[1]), int(sys.argv[2])
handle = os.pidfd_open(other)
reading, writing = os.pipe()
mine = ctypes.create_string_buffer(b"changed")
local = (ctypes.c_size_t * 2)(ctypes.addressof(mine), 7)
remote = (ctypes.c_size_t * 2)(address, 7)
confine()
try_all({
    "process_vm_writev": lambda: call(libc.process_vm_writev, parent, local, 1, remote, 1, 0),
    "process_vm_readv": lambda: call(libc.process_vm_readv, parent, local, 1, remote, 1, 0),
    "its memory": lambda: os.open(f"/proc/{parent}/mem", os.O_RDWR),
    "kill": lambda: os.kill(other, signal.SIGKILL),
    "tkill": lambda: call(libc.syscall, numbers["tkill"], other, signal.SIGKILL),
    "tgkill": lambda: call(libc.syscall, numbers["tgkill"], other, other, signal.SIGKILL),
    "sigqueue": lambda: call(libc.sigqueue, other, signal.SIGKILL, None),
    "pidfd_open": lambda: os.pidfd_open(other),
    "pidfd_getfd": lambda: call(libc.syscall, numbers["pidfd_getfd"], handle, 0, 0),
    "pidfd_send_signal": lambda: signal.pidfd_send_signal(handle, signal.SIGKILL),
    "F_SETOWN": lambda: fcntl.fcntl(reading, fcntl.F_SETOWN, other),
    "F_SETOWN_EX": lambda: fcntl.fcntl(reading, 15, (1).to_bytes(4, "little") + other.to_bytes(4, "little")),
    "F_SETSIG": lambda: fcntl.fcntl(reading, fcntl.F_SETSIG, signal.SIGKILL),
    "prlimit": lambda: resource.prlimit(other, resource.RLIMIT_NOFILE, (7, 7)),
    "PR_SET_PDEATHSIG": lambda: call(libc.prctl, 1, 0, 0, 0, 0),
})
"""
USING = """
import threading
confine()
read, write = os.pipe()
os.set_blocking(read, False)
os.dup2(write, 10)
made = threading.Thread(target=os.write, args=[10, b"thread"])
made.start()
made.join()
print(os.read(read, 10).decode(), *resource.getrlimit(resource.RLIMIT_NOFILE), len(bytearray(2**26)), flush=True)
resource.prlimit(os.getpid(), resource.RLIMIT_NOFILE)
os.abort()
"""
CALLING = """
confine()
for name, number in numbers_on(platform.machine(), REFUSED).items():
    print(name, libc.syscall(number, 0, 0, 0, 0, 0), ctypes.get_errno())
for number in (*numbers_on(platform.machine(), MISSING).values(), NEWER, 2**30 + 1):
    print("missing", libc.syscall(number, 0, 0, 0, 0, 0), ctypes.get_errno())
"""


def trying(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", ATTEMPTS + program, *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def not_permitted(lines: list[str]) -> bool:
    return all(line.rpartition(" ")[2] == str(errno.EPERM) for line in lines)


def test_files_can_be_read_and_not_changed(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.write_text("content")
    (tmp_path / "empty").mkdir()
    before = kept.stat()
    done = trying(WRITING, str(tmp_path))
    *attempts, last = done.stdout.splitlines()
    assert len(attempts) >= 26 and not_permitted(attempts), done.stdout + done.stderr
    assert last == "content empty kept"
    after = kept.stat()
    assert (after.st_mode, after.st_mtime, after.st_nlink) == (before.st_mode, before.st_mtime, before.st_nlink)


def test_other_processes_are_neither_changed_nor_signalled() -> None:
    held = ctypes.create_string_buffer(b"untouched")
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as other:
        limits = resource.prlimit(other.pid, resource.RLIMIT_NOFILE)
        done = trying(REACHING, str(other.pid), str(ctypes.addressof(held)))
        attempts = done.stdout.splitlines()
        assert len(attempts) == 15 and not_permitted(attempts), done.stdout + done.stderr
        assert resource.prlimit(other.pid, resource.RLIMIT_NOFILE) == limits
        other.terminate()
    assert other.returncode == -signal.SIGTERM, "it was there until then"
    assert held.value == b"untouched"


def test_threads_pipes_memory_and_an_abort_work_as_before() -> None:
    done = trying(USING)
    assert done.stdout.split() == ["thread", "64", "64", str(2**26)], done.stderr
    assert done.returncode == -signal.SIGABRT


def test_calls_that_a_library_does_not_make_are_refused_by_their_numbers() -> None:
    lines = trying(CALLING).stdout.splitlines()
    refused = numbers_on(os.uname().machine, REFUSED)
    assert lines[: len(refused)] == [f"{name} -1 {errno.EPERM}" for name in refused]
    assert lines[len(refused) :] == [f"missing -1 {errno.ENOSYS}"] * 4
    assert {"socket", "socketpair", "execve", "execveat", "ptrace", "io_uring_setup"} <= refused.keys()
    assert {"open_by_handle_at", "fanotify_init", "mount", "unshare", "shmat", "mq_open", "bpf"} <= refused.keys()
    assert os.uname().machine != "x86_64" or {"fork", "vfork"} <= refused.keys()


@pytest.mark.parametrize("machine", confinement.MACHINES)
def test_each_call_is_answered_as_it_should_be_on_every_machine(machine: str) -> None:
    architecture = confinement.MACHINES[machine][0]
    judged = numbers_on(machine, confinement.JUDGED)
    program = filtering(machine, 1234)

    def answer(number: int, *arguments: int, machine: int = architecture) -> int:
        return answered(program, struct.pack("<iIQ6Q", number, machine, 0, *arguments, *[0] * (6 - len(arguments))))

    assert {answer(n) for n in numbers_on(machine, REFUSED).values()} == {confinement.NOT_PERMITTED}
    missing = (*numbers_on(machine, MISSING).values(), NEWER, 2**30 + 2)
    assert {answer(n) for n in missing} == {confinement.NOT_THERE}
    known = {*numbers_on(machine, REFUSED).values(), *missing, *judged.values()}
    assert {answer(n) for n in range(NEWER) if n not in known} == {confinement.ALLOW}
    assert answer(0, machine=0x40000003) == confinement.KILL
    for name, arguments, allowed in (
        ("openat", (0, 0, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY | os.O_NONBLOCK), True),
        ("openat", (0, 0, os.O_RDWR), False),
        ("openat", (0, 0, 2**32 + os.O_CREAT), False),
        ("tgkill", (1234, 1), True),
        ("tgkill", (1235, 1234), False),
        ("prlimit64", (0,), True),
        ("prlimit64", (1,), False),
        ("clone", (0x3D0F00,), True),
        ("clone", (signal.SIGCHLD,), False),
    ):
        wanted = confinement.ALLOW if allowed else confinement.NOT_PERMITTED
        assert answer(judged[name], *arguments) == wanted, (name, arguments)


def answered(program: bytes, call: bytes) -> int:
    """What a BPF program returns for a struct seccomp_data."""
    instructions = list(struct.iter_unpack("HBBI", program))
    loaded = at = 0
    while True:
        code, if_true, if_false, operand = instructions[at]
        at += 1
        if code == confinement.RETURN:
            return int(operand)
        if code == confinement.LOAD:
            loaded = struct.unpack_from("<I", call, operand)[0]
        else:
            holds = {
                confinement.JUMP_IF_EQUAL: loaded == operand,
                confinement.JUMP_IF_AT_LEAST: loaded >= operand,
                confinement.JUMP_IF_SET: bool(loaded & operand),
            }[code]
            at += if_true if holds else if_false


@pytest.mark.parametrize(
    ("machine", "headers"),
    [
        ("x86_64", ["x86_64-linux-gnu/asm/unistd_64.h", "asm/unistd_64.h"]),
        ("aarch64", ["asm-generic/unistd.h"]),
    ],
)
def test_the_numbers_are_those_of_the_kernels_headers(machine: str, headers: list[str]) -> None:
    there = [path for name in headers if (path := Path("/usr/include") / name).exists()]
    if not there:
        pytest.skip("no kernel headers are installed")
    text = there[0].read_text()
    kernel = {name: int(n) for name, n in re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)\b", text)}
    for calls in (REFUSED, MISSING, confinement.JUDGED):
        ours = numbers_on(machine, calls)
        assert {name: kernel[name] for name in calls if name in kernel} == {
            name: number for name, number in ours.items() if name in kernel
        }
