"""Which system calls a sandboxed tool may make: a filter in the kernel's own words (BPF).

    arch ─ no ─▶ kill        one of DENIED ─▶ EPERM        clone, socket, ioctl, mmap ─▶ by argument
All others are allowed: namespaces and the read-only root hold what they can do. What is denied is
where such walls have had holes, or what no limit counts: tracing, mounting, new namespaces, file
handles, io_uring, BPF, keyrings (which no namespace parts), memory that is of no process.
"""

from __future__ import annotations

import errno
import platform
import struct

# Numbers on x86-64 and on arm64 (asm/unistd_64.h, asm-generic/unistd.h of Linux).
_DENIED = {
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "pidfd_getfd": (438, 438),
    "kcmp": (312, 272),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "unshare": (272, 97),
    "setns": (308, 268),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "syslog": (103, 116),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "adjtimex": (159, 171),
    "clock_adjtime": (305, 266),
    "vhangup": (153, 58),
    "personality": (135, 92),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
}
_ONLY_X86 = (134, 136, 154, 172, 173)  # uselib, ustat, modify_ldt, iopl, ioperm
_CLONE, _CLONE3, _SOCKET = (56, 220), (435, 435), (41, 198)
_IOCTL, _MMAP = (16, 29), (9, 222)
_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column, AUDIT_ARCH_…
_X32 = 0x40000000  # a second table of numbers, on x86-64

_NEW_NAMESPACES = 0x7E020000  # CLONE_NEWNS, …CGROUP, …UTS, …IPC, …USER, …PID, …NET
_TERMINAL = (0x5412, 0x541C)  # TIOCSTI and TIOCLINUX type for the user
_SHARED_ANONYMOUS = 0x21
_UNIX, _INET, _INET6 = 1, 2, 10

_NUMBER, _ARCH = 0, 4  # offsets in struct seccomp_data
_LOAD, _EQUAL, _AT_LEAST, _AND, _RETURN = 0x20, 0x15, 0x35, 0x54, 0x06
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000

Code = list[tuple[int, int, int, int]]


def seccomp_filter(network: bool) -> bytes:
    """`struct sock_filter`s. Where there is a network, it is the host's, and unix sockets would
    reach what listens there under abstract names. Raises OSError on an unknown processor."""
    if platform.machine() not in _MACHINES:
        raise OSError(errno.ENOSYS, f"there is no filter for {platform.machine()}")
    column, arch = _MACHINES[platform.machine()]
    code: Code = [(_LOAD, 0, 0, _ARCH), (_EQUAL, 1, 0, arch), _leave(_KILL), (_LOAD, 0, 0, _NUMBER)]
    if column == 0:
        code += [(_AT_LEAST, 0, 1, _X32), _refuse(errno.ENOSYS)]
    denied = [numbers[column] for numbers in _DENIED.values()]
    for number in (*denied, *(_ONLY_X86 if column == 0 else ())):
        code += _if(number, [_refuse(errno.EPERM)])
    # What it asks for lies in memory, which no filter sees: the C library falls back on clone.
    code += _if(_CLONE3[column], [_refuse(errno.ENOSYS)])
    code += _if(_CLONE[column], _unless_set(0, _NEW_NAMESPACES))
    code += _if(_MMAP[column], _unless_all_set(3, _SHARED_ANONYMOUS))
    code += _if(_IOCTL[column], [_argument(1), *_none_of(_TERMINAL)])
    families = (_INET, _INET6) if network else (_UNIX, _INET, _INET6)
    code += _if(_SOCKET[column], [_argument(0), *_one_of(families)])
    code.append(_leave(_ALLOW))
    return b"".join(struct.pack("=HBBI", *each) for each in code)


def _if(number: int, then: Code) -> Code:
    """`then` ends in a return."""
    return [(_EQUAL, 0, len(then), number), *then]


def _unless_set(argument: int, bits: int) -> Code:
    return [_argument(argument), (_AND, 0, 0, bits), *_one_of((0,), errno.EPERM)]


def _unless_all_set(argument: int, bits: int) -> Code:
    return [_argument(argument), (_AND, 0, 0, bits), *_none_of((bits,))]


def _none_of(values: tuple[int, ...]) -> Code:
    refused = [each for v in values for each in _if(v, [_refuse(errno.EPERM)])]
    return [*refused, _leave(_ALLOW)]


def _one_of(values: tuple[int, ...], otherwise: int = errno.EAFNOSUPPORT) -> Code:
    return [each for v in values for each in _if(v, [_leave(_ALLOW)])] + [_refuse(otherwise)]


def _argument(index: int) -> tuple[int, int, int, int]:
    """Its lower half: the kernel reads no more of these."""
    return (_LOAD, 0, 0, 16 + 8 * index)


def _refuse(number: int) -> tuple[int, int, int, int]:
    return _leave(_ERRNO | number)


def _leave(verdict: int) -> tuple[int, int, int, int]:
    return (_RETURN, 0, 0, verdict)
