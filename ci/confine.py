#!/usr/bin/env python3
"""Run a command where the sandbox engine cannot work.

    confine.py MODE -- COMMAND...

Modes, each the imitation of a host that people really meet:

    no-namespaces   a container without extra rights: a seccomp filter answers EPERM to
                    new namespaces, setns and mounts, and ENOSYS to clone3 (Docker's default filter)
    no-userns       user namespaces switched off: `max_user_namespaces` is 0. Done in a user
                    namespace with the same ids, so that nothing of the host changes
    no-mount        namespaces are given and mounts are then refused with EACCES (Ubuntu's
                    AppArmor limit on unprivileged user namespaces)

The exit status is the command's own; 126 when the confinement cannot be set up.
Standard library only, x86-64 and aarch64 only.
"""

import ctypes
import errno
import os
import platform
import struct
import sys

# Linux system call numbers; those from 424 on are the same on both architectures.
CALLS = {
    "x86_64": {"clone": 56, "unshare": 272, "setns": 308, "mount": 165, "umount2": 166, "pivot_root": 155},
    "aarch64": {"clone": 220, "unshare": 97, "setns": 268, "mount": 40, "umount2": 39, "pivot_root": 41},
}
COMMON = {
    "open_tree": 428, "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433,
    "clone3": 435, "mount_setattr": 442,
}
AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
MOUNTING = ["mount", "umount2", "pivot_root", "open_tree", "move_mount", "fsopen", "fsconfig", "fsmount", "fspick",
            "mount_setattr"]
# CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET
NAMESPACE_FLAGS = 0x7E020000

PR_SET_SECCOMP, SECCOMP_MODE_FILTER, PR_SET_NO_NEW_PRIVS = 22, 2, 38
LOAD, JUMP_EQ, JUMP_ANY_BIT, RETURN = 0x20, 0x15, 0x45, 0x06
ALLOW, FAIL = 0x7FFF0000, 0x00050000
OFFSET_CALL, OFFSET_ARCH, OFFSET_FIRST_ARGUMENT = 0, 4, 16


def die(message):
    print(f"confine: {message}", file=sys.stderr)
    sys.exit(126)


def statement(code, value, if_true=0, if_false=0):
    return struct.pack("HBBI", code, if_true, if_false, value)


def filter_program(mode):
    """The seccomp filter of a mode, as packed instructions."""
    machine = platform.machine()
    if machine not in CALLS:
        die(f"no system call table for {machine}")
    number = {**CALLS[machine], **COMMON}
    program = [
        statement(LOAD, OFFSET_ARCH),
        statement(JUMP_EQ, AUDIT_ARCH[machine], 1, 0),
        statement(RETURN, ALLOW),  # another architecture's calls are not imitated
        statement(LOAD, OFFSET_CALL),
    ]

    def refuse(name, code):
        program.append(statement(JUMP_EQ, number[name], 0, 1))
        program.append(statement(RETURN, FAIL | code))

    if mode == "no-mount":
        for name in MOUNTING:
            refuse(name, errno.EACCES)
    else:
        refuse("clone3", errno.ENOSYS)
        for name in ["unshare", "setns", *MOUNTING]:
            refuse(name, errno.EPERM)
        program += [
            statement(JUMP_EQ, number["clone"], 0, 3),
            statement(LOAD, OFFSET_FIRST_ARGUMENT),
            statement(JUMP_ANY_BIT, NAMESPACE_FLAGS, 0, 1),
            statement(RETURN, FAIL | errno.EPERM),
        ]
    program.append(statement(RETURN, ALLOW))
    return program


def install_filter(mode):
    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]

    code = b"".join(filter_program(mode))
    buffer = ctypes.create_string_buffer(code, len(code))
    program = Program(len(code) // 8, ctypes.cast(buffer, ctypes.c_void_p).value)
    libc = ctypes.CDLL(None, use_errno=True)
    # Without CAP_SYS_ADMIN a filter needs no_new_privs; a container has it anyway.
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        die(f"prctl(NO_NEW_PRIVS): {os.strerror(ctypes.get_errno())}")
    if libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0) != 0:
        die(f"prctl(SECCOMP): {os.strerror(ctypes.get_errno())}")


def forbid_user_namespaces():
    """Goes into a user namespace where everybody keeps their ids and whose limit of further ones is 0.

    The limit belongs to the namespace that it is written in, so the host's is not touched. The
    parent stays behind to write the maps, which for all ids takes root outside.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    clone_newuser = 0x10000000
    uid, gid = os.geteuid(), os.getegid()
    parent = os.getpid()
    to_helper, to_us = os.pipe(), os.pipe()
    helper = os.fork()
    if helper == 0:
        os.read(to_helper[0], 1)
        count = 4294967295
        try:
            for name, first in (("uid_map", uid), ("gid_map", gid)):
                text = f"0 0 {count}" if uid == 0 else f"{first} {first} 1"
                if uid != 0 and name == "gid_map":
                    with open(f"/proc/{parent}/setgroups", "w") as file:
                        file.write("deny")
                with open(f"/proc/{parent}/{name}", "w") as file:
                    file.write(text)
            os.write(to_us[1], b"+")
        except OSError as error:
            print(f"confine: mapping ids: {error}", file=sys.stderr)
        os._exit(0)
    if libc.unshare(clone_newuser) != 0:
        die(f"unshare: {os.strerror(ctypes.get_errno())}")
    os.write(to_helper[1], b"+")
    os.close(to_us[1])
    mapped = os.read(to_us[0], 1) == b"+"
    os.waitpid(helper, 0)
    if not mapped:
        die("the ids could not be mapped")
    with open("/proc/sys/user/max_user_namespaces", "w") as limit:
        limit.write("0")


def main():
    if len(sys.argv) < 4 or sys.argv[2] != "--":
        die("usage: confine.py no-namespaces|no-userns|no-mount -- COMMAND...")
    mode, command = sys.argv[1], sys.argv[3:]
    if mode == "no-userns":
        forbid_user_namespaces()
    elif mode in ("no-namespaces", "no-mount"):
        install_filter(mode)
    else:
        die(f"unknown mode {mode}")
    try:
        os.execvp(command[0], command)
    except OSError as error:
        die(f"{command[0]}: {error.strerror}")


if __name__ == "__main__":
    main()
