//! The filter on system calls in an instance: a list of what is refused.
//!
//! Namespaces and capabilities already make most of these fail; refusing them before the kernel looks at their
//! arguments keeps its rarely used parts out of reach.

use libc::{BPF_ABS, BPF_JEQ, BPF_JGE, BPF_JMP, BPF_JSET, BPF_K, BPF_LD, BPF_RET, BPF_W};

/// Offsets in `struct seccomp_data`.
const NR: u32 = 0;
const ARCH: u32 = 4;
const ARG0: u32 = 16;

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;

/// `AUDIT_ARCH_` of the processor this is compiled for.
#[cfg(target_arch = "x86_64")]
const NATIVE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const NATIVE: u32 = 0xc000_00b7;

const fn refuse(errno: i32) -> u32 {
    libc::SECCOMP_RET_ERRNO | errno as u32
}

/// Refused with `EPERM`.
const DENIED: &[libc::c_long] = &[
    // Mounts: the instance's are made.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_setns,
    // The kernel's own code and memory.
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    // Keys are not divided by namespaces in all kernels.
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    // The machine.
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_syslog,
    libc::SYS_vhangup,
    libc::SYS_fanotify_init,
    libc::SYS_open_by_handle_at,
    libc::SYS_kcmp,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_kexec_file_load,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
];

/// The only families of sockets. Others are rare, and some (vsock) know nothing of network namespaces.
const FAMILIES: &[i32] = &[
    libc::AF_UNIX,
    libc::AF_INET,
    libc::AF_INET6,
    libc::AF_NETLINK,
];

/// Flags of clone and unshare that make namespaces (`CLONE_NEWTIME` cannot be told from a signal in clone).
const NAMESPACES: u32 = 0x7e02_0000;

struct Program(Vec<u8>);

impl Program {
    fn op(&mut self, code: u32, jt: u8, jf: u8, k: u32) {
        self.0.extend_from_slice(&(code as u16).to_ne_bytes());
        self.0.extend_from_slice(&[jt, jf]);
        self.0.extend_from_slice(&k.to_ne_bytes());
    }

    fn load(&mut self, at: u32) {
        self.op(BPF_LD | BPF_W | BPF_ABS, 0, 0, at);
    }

    fn ret(&mut self, what: u32) {
        self.op(BPF_RET | BPF_K, 0, 0, what);
    }

    /// Goes on with the next operation if equal, else skips `other` of them.
    fn unless_equal_skip(&mut self, value: u32, other: u8) {
        self.op(BPF_JMP | BPF_JEQ | BPF_K, 0, other, value);
    }
}

/// The filter as `struct sock_filter`s in memory order.
pub(super) fn program() -> Vec<u8> {
    let mut p = Program(Vec::new());
    // Another calling convention (32-bit) has other numbers: none of its calls.
    p.load(ARCH);
    p.op(BPF_JMP | BPF_JEQ | BPF_K, 1, 0, NATIVE);
    p.ret(refuse(libc::ENOSYS));
    p.load(NR);
    // x32 numbers.
    p.op(BPF_JMP | BPF_JGE | BPF_K, 0, 1, 0x4000_0000);
    p.ret(refuse(libc::ENOSYS));
    for &number in DENIED {
        p.unless_equal_skip(number as u32, 1);
        p.ret(refuse(libc::EPERM));
    }
    // Its flags are in memory, where a filter cannot look; C libraries fall back to clone.
    p.unless_equal_skip(libc::SYS_clone3 as u32, 1);
    p.ret(refuse(libc::ENOSYS));
    for number in [libc::SYS_clone, libc::SYS_unshare] {
        p.unless_equal_skip(number as u32, 4);
        p.load(ARG0);
        p.op(BPF_JMP | BPF_JSET | BPF_K, 0, 1, NAMESPACES);
        p.ret(refuse(libc::EPERM));
        p.ret(ALLOW);
    }
    for number in [libc::SYS_socket, libc::SYS_socketpair] {
        let families = FAMILIES.len() as u8;
        p.unless_equal_skip(number as u32, families + 3);
        p.load(ARG0);
        for (index, &family) in FAMILIES.iter().enumerate() {
            // To the "allow" behind the refusal.
            p.op(
                BPF_JMP | BPF_JEQ | BPF_K,
                families - index as u8,
                0,
                family as u32,
            );
        }
        p.ret(refuse(libc::EAFNOSUPPORT));
        p.ret(ALLOW);
    }
    p.ret(ALLOW);
    p.0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the filter on one call.
    fn judge(arch: u32, nr: libc::c_long, arg0: u32) -> u32 {
        let program = program();
        let mut accumulator = 0;
        let mut at = 0;
        loop {
            let op = &program[at * 8..at * 8 + 8];
            let code = u32::from(u16::from_ne_bytes([op[0], op[1]]));
            let (jt, jf) = (usize::from(op[2]), usize::from(op[3]));
            let k = u32::from_ne_bytes([op[4], op[5], op[6], op[7]]);
            at += 1;
            let branch = |taken: bool| if taken { jt } else { jf };
            match code {
                c if c == BPF_LD | BPF_W | BPF_ABS => {
                    accumulator = match k {
                        NR => nr as u32,
                        ARCH => arch,
                        _ => arg0,
                    }
                }
                c if c == BPF_RET | BPF_K => return k,
                c if c == BPF_JMP | BPF_JEQ | BPF_K => at += branch(accumulator == k),
                c if c == BPF_JMP | BPF_JGE | BPF_K => at += branch(accumulator >= k),
                c if c == BPF_JMP | BPF_JSET | BPF_K => at += branch(accumulator & k != 0),
                other => panic!("unknown operation {other}"),
            }
        }
    }

    #[test]
    fn refuses_the_list_and_nothing_else() {
        let judge_native = |nr, arg0| judge(NATIVE, nr, arg0);
        for &number in DENIED {
            assert_eq!(judge_native(number, 0), refuse(libc::EPERM), "{number}");
        }
        for number in [
            libc::SYS_read,
            libc::SYS_execve,
            libc::SYS_ptrace,
            libc::SYS_chroot,
        ] {
            assert_eq!(judge_native(number, 0), ALLOW, "{number}");
        }
        assert_eq!(judge_native(libc::SYS_clone3, 0), refuse(libc::ENOSYS));
        assert_eq!(judge_native(libc::SYS_clone, libc::SIGCHLD as u32), ALLOW);
        // What glibc's pthread_create asks for.
        assert_eq!(judge_native(libc::SYS_clone, 0x003d_0f00), ALLOW);
        for flag in [
            libc::CLONE_NEWUSER,
            libc::CLONE_NEWNS,
            libc::CLONE_NEWNET,
            libc::CLONE_NEWCGROUP,
        ] {
            assert_eq!(
                judge_native(libc::SYS_clone, flag as u32 | 17),
                refuse(libc::EPERM)
            );
            assert_eq!(
                judge_native(libc::SYS_unshare, flag as u32),
                refuse(libc::EPERM)
            );
        }
        assert_eq!(
            judge_native(libc::SYS_unshare, libc::CLONE_FILES as u32),
            ALLOW
        );
        for &family in FAMILIES {
            assert_eq!(judge_native(libc::SYS_socket, family as u32), ALLOW);
            assert_eq!(judge_native(libc::SYS_socketpair, family as u32), ALLOW);
        }
        for family in [
            libc::AF_VSOCK,
            libc::AF_PACKET,
            libc::AF_ALG,
            libc::AF_BLUETOOTH,
        ] {
            assert_eq!(
                judge_native(libc::SYS_socket, family as u32),
                refuse(libc::EAFNOSUPPORT)
            );
        }
        assert_eq!(judge(0x4000_0003, libc::SYS_read, 0), refuse(libc::ENOSYS));
        assert_eq!(
            judge_native(0x4000_0000 | libc::SYS_read, 0),
            refuse(libc::ENOSYS)
        );
    }
}
