"""What the decoder's child may not do once it is ready: reach a network, start programs, write files, take the machine.

Linux alone (prctl, seccomp); the standard library alone, so that the decoder's image needs nothing more.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import signal
import struct

LIMITS = {
    resource.RLIMIT_AS: 6 * 2**30,
    resource.RLIMIT_FSIZE: 0,
    resource.RLIMIT_CORE: 0,
    resource.RLIMIT_NOFILE: 64,
}

PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 1, 38
SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC = 1, 1
LOAD, JUMP_IF_EQUAL, JUMP_IF_AT_LEAST, JUMP_IF_SET, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06  # classic BPF
KILL, ALLOW, NOT_PERMITTED, NOT_THERE = 0x80000000, 0x7FFF0000, 0x00050000 | 1, 0x00050000 | 38
NUMBER_AT, ARCHITECTURE_AT, FIRST_ARGUMENT_AT = 0, 4, 16  # in struct seccomp_data
CLONE_THREAD = 0x10000
CLONE3 = 435  # on every machine; its flags are in memory, out of a filter's reach
X32 = 0x40000000  # x86-64's second set of numbers

# machine: AUDIT_ARCH, the numbers of seccomp itself and of clone, the calls that are refused
CALLS: dict[str, tuple[int, int, int, dict[str, int]]] = {
    "x86_64": (
        0xC000003E,
        317,
        56,
        {"socket": 41, "fork": 57, "vfork": 58, "execve": 59, "execveat": 322, "ptrace": 101, "io_uring_setup": 425},
    ),
    "aarch64": (
        0xC00000B7,
        277,
        220,
        {"socket": 198, "execve": 221, "execveat": 281, "ptrace": 117, "io_uring_setup": 425},
    ),
}


def confine() -> None:
    """Die with the parent, write no files, open few, fail on memory instead of taking the machine's; no socket, no program.

    Raises OSError where the kernel refuses one of these: a child that isn't confined must not decode."""
    libc = ctypes.CDLL(None, use_errno=True)
    _succeeded(libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "prctl(PR_SET_PDEATHSIG)")
    for kind, most in LIMITS.items():
        allowed = resource.getrlimit(kind)[1]
        lower = most if allowed == resource.RLIM_INFINITY else min(most, allowed)
        resource.setrlimit(kind, (lower, lower))
    machine = platform.machine()
    if machine not in CALLS:
        raise OSError(f"no system call filter is known for {machine}; known: {', '.join(CALLS)}")
    architecture, seccomp, clone, refused = CALLS[machine]
    program = ctypes.create_string_buffer(refusing(architecture, clone, list(refused.values())))
    header = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(program) // 8, ctypes.addressof(program)))
    _succeeded(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl(PR_SET_NO_NEW_PRIVS)")
    # TSYNC: the threads that imported libraries have started are held by the filter too
    _succeeded(libc.syscall(seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, header), "seccomp")


def refusing(architecture: int, clone: int, numbers: list[int]) -> bytes:
    """A BPF program: the numbered calls fail with EPERM, and so does a clone that makes a process and not a thread (as fork
    does); clone3 is said not to exist, upon which C libraries use clone; all others pass, and a call of another architecture
    kills."""
    rest = 5 + len(numbers)  # index of the instruction behind the refused numbers
    allow_at, deny_at, missing_at = rest + 4, rest + 5, rest + 6
    program = [
        (LOAD, 0, 0, ARCHITECTURE_AT),
        (JUMP_IF_EQUAL, 1, 0, architecture),
        (RETURN, 0, 0, KILL),
        (LOAD, 0, 0, NUMBER_AT),
        (JUMP_IF_AT_LEAST, deny_at - 5, 0, X32),
        *((JUMP_IF_EQUAL, deny_at - at - 1, 0, number) for at, number in enumerate(numbers, start=5)),
        (JUMP_IF_EQUAL, missing_at - rest - 1, 0, CLONE3),
        (JUMP_IF_EQUAL, 0, allow_at - rest - 2, clone),
        (LOAD, 0, 0, FIRST_ARGUMENT_AT),
        (JUMP_IF_SET, 0, 1, CLONE_THREAD),
        (RETURN, 0, 0, ALLOW),
        (RETURN, 0, 0, NOT_PERMITTED),
        (RETURN, 0, 0, NOT_THERE),
    ]
    return b"".join(struct.pack("HBBI", *instruction) for instruction in program)


def _succeeded(result: int, call: str) -> None:
    if result != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{call}: {os.strerror(error)}; the decoder runs confined or not at all")
