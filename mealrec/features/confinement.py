"""What the decoder's child may not do once it is ready: reach a network, start programs, change files or other processes, take
the machine.

Linux alone (prctl, seccomp); the standard library alone, so that the decoder's image needs nothing more.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import platform
import resource
import signal
import struct
import termios
from dataclasses import dataclass

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
NUMBER_AT, ARCHITECTURE_AT, ARGUMENTS_AT = 0, 4, 16  # in struct seccomp_data

CLONE_THREAD = 0x10000
F_SETOWN_EX = 15
CHANGING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_TMPFILE & ~os.O_DIRECTORY
# the ioctls that C and Python ask of any descriptor; others type into a terminal or change a file that is open for reading
HARMLESS = (termios.TCGETS, termios.FIONBIO, termios.FIONREAD, termios.FIOCLEX, termios.FIONCLEX)
NEWER = 463  # setxattrat, of Linux 6.13: calls since then are not judged here; x86-64's second set begins at 2**30

# AUDIT_ARCH, the number of seccomp itself; in the order of the columns below
MACHINES = {"x86_64": (0xC000003E, 317), "aarch64": (0xC00000B7, 277)}

# of x86_64 (unistd_64.h), of aarch64 (asm-generic/unistd.h); None: there is no such call
Numbers = dict[str, tuple[int, int | None]]

REFUSED: Numbers = {
    "socket": (41, 198),
    "socketpair": (53, 199),
    # programs and processes
    "fork": (57, None),
    "vfork": (58, None),
    "execve": (59, 221),
    "execveat": (322, 281),
    # other processes: their memory, their descriptors, signals to them, what is shared with them
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
    "pidfd_send_signal": (424, 424),
    "kill": (62, 129),
    "tkill": (200, 130),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "shmget": (29, 194),
    "shmat": (30, 196),
    "shmctl": (31, 195),
    "semget": (64, 190),
    "semop": (65, 193),
    "semtimedop": (220, 192),
    "semctl": (66, 191),
    "msgget": (68, 186),
    "msgsnd": (69, 189),
    "msgrcv": (70, 188),
    "msgctl": (71, 187),
    "mq_open": (240, 180),
    "mq_unlink": (241, 181),
    # files: their names, contents and attributes
    "creat": (85, None),
    "truncate": (76, 45),
    "ftruncate": (77, 46),
    "unlink": (87, None),
    "unlinkat": (263, 35),
    "rename": (82, None),
    "renameat": (264, 38),
    "renameat2": (316, 276),
    "link": (86, None),
    "linkat": (265, 37),
    "symlink": (88, None),
    "symlinkat": (266, 36),
    "mkdir": (83, None),
    "mkdirat": (258, 34),
    "rmdir": (84, None),
    "mknod": (133, None),
    "mknodat": (259, 33),
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "chown": (92, None),
    "fchown": (93, 55),
    "lchown": (94, None),
    "fchownat": (260, 54),
    "utime": (132, None),
    "utimes": (235, None),
    "futimesat": (261, None),
    "utimensat": (280, 88),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    # descriptors that open and openat have not judged
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "fanotify_init": (300, 262),
    "memfd_create": (319, 279),
    # ways round a filter, and what has had most of the kernel's holes
    "io_uring_setup": (425, 425),
    "bpf": (321, 280),
    "userfaultfd": (323, 282),
    "perf_event_open": (298, 241),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    # ways out for a child that is root
    "unshare": (272, 97),
    "setns": (308, 268),
    "chroot": (161, 51),
    "pivot_root": (155, 41),
    "mount": (165, 40),
    "umount2": (166, 39),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "reboot": (169, 142),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "iopl": (172, None),
    "ioperm": (173, None),
}
# their flags are in memory, out of a filter's reach; without them C libraries use clone and openat
MISSING: Numbers = {"clone3": (435, 435), "openat2": (437, 437)}
JUDGED: Numbers = {
    "clone": (56, 220),
    "tgkill": (234, 131),
    "prlimit64": (302, 261),
    "open": (2, None),
    "openat": (257, 56),
    "fcntl": (72, 25),
    "ioctl": (16, 29),
    "prctl": (157, 167),
}

Instruction = tuple[int, int, int, int]  # what to do, instructions to skip if true and if false, an operand


@dataclass(frozen=True)
class Condition:
    """Of one argument, which the kernel takes as 32 bits in each call that is judged: `met` where it equals one of the values
    (JUMP_IF_EQUAL) or has a bit of one of them (JUMP_IF_SET), `otherwise` where not."""

    argument: int
    test: int
    values: tuple[int, ...]
    met: int
    otherwise: int


def confine() -> None:
    """Die with the parent, fail on memory instead of taking the machine's, open few files and those for reading alone; no
    socket, no program, no signal to another process and nothing of its memory, descriptors or limits changed.

    What is open already stays as it is. Raises OSError where the kernel refuses one of these: a child that isn't confined must
    not decode."""
    libc = ctypes.CDLL(None, use_errno=True)
    _succeeded(libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "prctl(PR_SET_PDEATHSIG)")
    for kind, most in LIMITS.items():
        allowed = resource.getrlimit(kind)[1]
        lower = most if allowed == resource.RLIM_INFINITY else min(most, allowed)
        resource.setrlimit(kind, (lower, lower))
    machine = platform.machine()
    if machine not in MACHINES:
        raise OSError(f"no system call filter is known for {machine}; known: {', '.join(MACHINES)}")
    program = ctypes.create_string_buffer(filtering(machine, os.getpid()))
    header = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(program) // 8, ctypes.addressof(program)))
    _succeeded(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl(PR_SET_NO_NEW_PRIVS)")
    # TSYNC: the threads that imported libraries have started are held by the filter too
    seccomp = MACHINES[machine][1]
    _succeeded(libc.syscall(seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, header), "seccomp")


def numbers_on(machine: str, calls: Numbers) -> dict[str, int]:
    """The calls that there are on a machine."""
    column = list(MACHINES).index(machine)
    return {name: number for name, both in calls.items() if (number := both[column]) is not None}


def conditions(pid: int) -> dict[str, Condition]:
    """On the calls in JUDGED, for the process `pid`, which stays the only one to ask: it can't fork."""
    signalling = (fcntl.F_SETOWN, F_SETOWN_EX, fcntl.F_SETSIG)  # by which the kernel sends an owner any signal
    return {
        "clone": Condition(0, JUMP_IF_SET, (CLONE_THREAD,), met=ALLOW, otherwise=NOT_PERMITTED),
        "tgkill": Condition(0, JUMP_IF_EQUAL, (pid,), met=ALLOW, otherwise=NOT_PERMITTED),  # abort() does it
        "prlimit64": Condition(0, JUMP_IF_EQUAL, (0, pid), met=ALLOW, otherwise=NOT_PERMITTED),
        "open": Condition(1, JUMP_IF_SET, (CHANGING,), met=NOT_PERMITTED, otherwise=ALLOW),
        "openat": Condition(2, JUMP_IF_SET, (CHANGING,), met=NOT_PERMITTED, otherwise=ALLOW),
        "fcntl": Condition(1, JUMP_IF_EQUAL, signalling, met=NOT_PERMITTED, otherwise=ALLOW),
        "ioctl": Condition(1, JUMP_IF_EQUAL, HARMLESS, met=ALLOW, otherwise=NOT_PERMITTED),
        "prctl": Condition(0, JUMP_IF_EQUAL, (PR_SET_PDEATHSIG,), met=NOT_PERMITTED, otherwise=ALLOW),
    }


def filtering(machine: str, pid: int) -> bytes:
    """A BPF program: calls in REFUSED fail with EPERM, those in MISSING and newer ones are said not to exist, those in JUDGED
    are as their conditions say, all others pass, and a call of another architecture kills."""
    judged = numbers_on(machine, JUDGED)
    program = [
        (LOAD, 0, 0, ARCHITECTURE_AT),
        (JUMP_IF_EQUAL, 1, 0, MACHINES[machine][0]),
        (RETURN, 0, 0, KILL),
        (LOAD, 0, 0, NUMBER_AT),
        *_where(JUMP_IF_AT_LEAST, NEWER, [(RETURN, 0, 0, NOT_THERE)]),
    ]
    for number in numbers_on(machine, MISSING).values():
        program += _where(JUMP_IF_EQUAL, number, [(RETURN, 0, 0, NOT_THERE)])
    for number in numbers_on(machine, REFUSED).values():
        program += _where(JUMP_IF_EQUAL, number, [(RETURN, 0, 0, NOT_PERMITTED)])
    for name, condition in conditions(pid).items():
        if name in judged:
            program += _where(JUMP_IF_EQUAL, judged[name], _judging(condition))
    program.append((RETURN, 0, 0, ALLOW))
    return b"".join(struct.pack("HBBI", *instruction) for instruction in program)


def _where(test: int, value: int, then: list[Instruction]) -> list[Instruction]:
    """`then`, which must end in a RETURN, is skipped where the test of what was loaded fails."""
    return [(test, 0, len(then), value), *then]


def _judging(condition: Condition) -> list[Instruction]:
    program: list[Instruction] = [(LOAD, 0, 0, ARGUMENTS_AT + 8 * condition.argument)]  # its lower half: little-endian
    for value in condition.values:
        program += _where(condition.test, value, [(RETURN, 0, 0, condition.met)])
    return [*program, (RETURN, 0, 0, condition.otherwise)]


def _succeeded(result: int, call: str) -> None:
    if result != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{call}: {os.strerror(error)}; the decoder runs confined or not at all")
