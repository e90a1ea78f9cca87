//! The guest agent: one static executable without a C library.
//!
//! The server runs it from a sealed memory file. It is first the *stage*, which carries out a plan of
//! namespace and mount operations ([`stage`]), then *process 1* of the instance, which starts commands and
//! opens files and sockets for the server ([`serve`]). Called as `curl` inside an instance it is a small
//! stand-in for that program ([`curl`]).
//!
//! It allocates nothing on a heap, never unwinds, and trusts the server but no process of the instance.

#![no_std]
#![no_main]
#![no_builtins]
#![deny(unsafe_op_in_unsafe_fn)]

#[allow(dead_code, unreachable_pub, unused_qualifications)] // shared with the engine
#[path = "../src/net/ack.rs"]
mod ack;
mod chan;
mod curl;
mod exec;
mod files;
mod http;
mod log;
mod mem;
mod proto;
mod serve;
mod stage;
mod sys;
mod wire;

use core::ffi::CStr;

/// A defect of ours; the instance ends, which the server reports.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    sys::exit(134)
}

/// Named by the unwind tables of the precompiled `core`; nothing here unwinds.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

#[cfg(target_arch = "x86_64")]
core::arch::global_asm!(
    ".globl _start",
    "_start:",
    "xor ebp, ebp",
    "mov rdi, rsp",
    "and rsp, -16",
    "call {entry}",
    "ud2",
    entry = sym entry,
);

#[cfg(target_arch = "aarch64")]
core::arch::global_asm!(
    ".globl _start",
    "_start:",
    "mov x29, xzr",
    "mov x30, xzr",
    "mov x0, sp",
    "bl {entry}",
    "brk #1",
    entry = sym entry,
);

/// The first Rust code: `stack` is the initial stack of the process (argc, argv…, 0).
extern "C" fn entry(stack: *const usize) -> ! {
    // SAFETY: the kernel lays out argc, then that many argument pointers, at the initial stack pointer.
    let (argc, argv) = unsafe { (*stack, stack.add(1).cast::<*const u8>()) };
    let args = Args { argc, argv };
    let name = args.get(0).unwrap_or(b"");
    let base = match name.iter().rposition(|&b| b == b'/') {
        Some(slash) => &name[slash + 1..],
        None => name,
    };
    if base == b"curl" {
        sys::exit(curl::main(args));
    }
    if base == proto::STAGE_NAME.as_bytes() {
        stage::main();
    }
    sys::exit(2)
}

/// The arguments the process was started with.
#[derive(Clone, Copy)]
pub(crate) struct Args {
    argc: usize,
    argv: *const *const u8,
}

impl Args {
    /// The argument at `index` without its NUL; 0 is the program's name.
    pub(crate) fn get(&self, index: usize) -> Option<&'static [u8]> {
        if index >= self.argc {
            return None;
        }
        // SAFETY: index < argc, and the kernel ends every argument with NUL; the strings live as long as the process.
        Some(unsafe { CStr::from_ptr((*self.argv.add(index)).cast()) }.to_bytes())
    }
}
