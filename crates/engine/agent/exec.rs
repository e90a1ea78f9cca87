//! Starting commands.

use crate::proto::*;
use crate::serve::Agent;
use crate::sys::{self, EACCES, EINVAL, ENOENT, ENOTDIR, Errno, Fd};
use crate::wire::{Malformed, Reader};

/// Where commands are looked up when their environment has no `PATH`.
const DEFAULT_PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Longest path of a command, with its NUL (the kernel's PATH_MAX).
const PATH_MAX: usize = 4096;

/// Why a command did not start.
pub(crate) struct Failed {
    pub(crate) errno: Errno,
    pub(crate) place: u32,
}

fn at(place: u32) -> impl Fn(Errno) -> Failed {
    move |errno| Failed { errno, place }
}

impl From<Malformed> for Failed {
    fn from(_: Malformed) -> Self {
        Failed {
            errno: EINVAL,
            place: WHERE_REQUEST,
        }
    }
}

/// A started command.
pub(crate) struct Started {
    pub(crate) pid: u32,
    pub(crate) flags: u32,
    /// What the server keeps: \[stdin,\] stdout, stderr; or the terminal.
    pub(crate) ends: [Option<Fd>; 3],
}

/// The fixed part of an exec body.
struct Head<'a> {
    flags: u32,
    uid: u32,
    gid: u32,
    size: [u8; 8],
    cwd: &'a [u8],
}

impl<'a> Head<'a> {
    fn read(body: &mut Reader<'a>) -> Result<Self, Malformed> {
        let (flags, uid, gid) = (body.u32()?, body.u32()?, body.u32()?);
        let (rows, cols) = (body.u32()? as u16, body.u32()? as u16);
        let mut size = [0; 8]; // struct winsize: rows, columns, two unused
        size[..2].copy_from_slice(&rows.to_le_bytes());
        size[2..4].copy_from_slice(&cols.to_le_bytes());
        Ok(Self {
            flags,
            uid,
            gid,
            size,
            cwd: body.cstr()?,
        })
    }
}

/// The child's side of the streams.
enum Streams {
    Pipes([i32; 3]),
    Terminal(i32),
}

/// Starts a command for a connection.
pub(crate) fn start(agent: &Agent, body: &[u8]) -> Result<Started, Failed> {
    let mut reader = Reader::new(body);
    let head = Head::read(&mut reader)?;
    if head.flags & EXEC_TTY != 0 {
        let master = terminal(agent, &head).map_err(at(WHERE_STREAMS))?;
        let pid = fork_exec(&head, &Streams::Terminal(master.0), reader)?;
        return Ok(Started {
            pid,
            flags: head.flags,
            ends: [Some(master), None, None],
        });
    }
    let pipe = || sys::pipe(0).map_err(at(WHERE_STREAMS));
    let (input, input_end) = if head.flags & EXEC_STDIN != 0 {
        let (read, write) = pipe()?;
        (Some(read), Some(write))
    } else {
        (None, None)
    };
    let (out_end, out) = pipe()?;
    let (err_end, err) = pipe()?;
    if head.uid != 0 {
        // So that the command may open /dev/stdout and its like again.
        for fd in [input.as_ref(), Some(&out), Some(&err)]
            .into_iter()
            .flatten()
        {
            sys::fchown(fd.0, head.uid, head.gid).map_err(at(WHERE_IDS))?;
        }
    }
    let child = [input.as_ref().map_or(0, |fd| fd.0), out.0, err.0];
    let pid = fork_exec(&head, &Streams::Pipes(child), reader)?;
    Ok(Started {
        pid,
        flags: head.flags,
        ends: [input_end, Some(out_end), Some(err_end)],
    })
}

/// Starts the main process, whose output goes to the log.
pub(crate) fn start_main(agent: &mut Agent, body: &[u8]) -> Result<(), Failed> {
    let mut reader = Reader::new(body);
    let head = Head::read(&mut reader)?;
    let (end, out) = sys::pipe(0).map_err(at(WHERE_STREAMS))?;
    agent.main_pid = fork_exec(&head, &Streams::Pipes([0, out.0, out.0]), reader)?;
    agent.main_output = Some(end);
    Ok(())
}

/// The master of a new terminal of the instance.
fn terminal(agent: &Agent, head: &Head<'_>) -> Result<Fd, Errno> {
    const TIOCSPTLCK: u32 = 0x4004_5431;
    const TIOCSWINSZ: u32 = 0x5414;
    let devpts = agent.devpts.as_ref().ok_or(ENOENT)?;
    let master = sys::openat(devpts.0, b"ptmx\0", sys::O_RDWR | sys::O_NOCTTY, 0)?;
    sys::ioctl_buf(master.0, TIOCSPTLCK, &mut [0; 4])?;
    let mut size = head.size;
    sys::ioctl_buf(master.0, TIOCSWINSZ, &mut size)?;
    Ok(master)
}

/// Forks and waits until the child runs the command or says why not.
fn fork_exec(head: &Head<'_>, streams: &Streams, strings: Reader<'_>) -> Result<u32, Failed> {
    let (report, reporter) = sys::pipe(0).map_err(at(WHERE_STREAMS))?;
    let pid = sys::fork(0, &mut 0).map_err(at(WHERE_FORK))?;
    if pid == 0 {
        let failed = match child(head, streams, strings) {
            Ok(never) => match never {},
            Err(failed) => failed,
        };
        let mut words = [0; 8];
        words[..4].copy_from_slice(&failed.errno.0.to_le_bytes());
        words[4..].copy_from_slice(&failed.place.to_le_bytes());
        let _ = sys::write_all(reporter.0, &words);
        sys::exit(127);
    }
    drop(reporter);
    let mut words = [0; 8];
    match sys::read(report.0, &mut words) {
        Ok(8) => {
            let _ = sys::wait_for(pid);
            let word = |at: usize| {
                u32::from_le_bytes([words[at], words[at + 1], words[at + 2], words[at + 3]])
            };
            Err(Failed {
                errno: Errno(word(0)),
                place: word(4),
            })
        }
        // Closed by the exec (or the child was killed, which its status will tell).
        _ => Ok(pid),
    }
}

enum Never {}

/// Becomes the command.
fn child(head: &Head<'_>, streams: &Streams, mut strings: Reader<'_>) -> Result<Never, Failed> {
    sys::setsid().map_err(at(WHERE_FORK))?;
    streams_in_place(head, streams).map_err(at(WHERE_STREAMS))?;
    if head.uid != 0 || head.gid != 0 {
        let ids = || {
            sys::setgroups(&[])?;
            sys::setresgid(head.gid)?;
            sys::setresuid(head.uid)
        };
        ids().map_err(at(WHERE_IDS))?;
    }
    sys::chdir(head.cwd).map_err(at(WHERE_CWD))?;
    sys::set_signal_mask(0);
    let argv = pointers(&mut strings)?;
    let envp = pointers(&mut strings)?;
    let command = first(argv).ok_or(Failed {
        errno: EINVAL,
        place: WHERE_REQUEST,
    })?;
    Err(Failed {
        errno: run(command, argv, envp),
        place: WHERE_COMMAND,
    })
}

fn streams_in_place(head: &Head<'_>, streams: &Streams) -> Result<(), Errno> {
    const TIOCGPTPEER: u32 = 0x5441;
    const TIOCSCTTY: u32 = 0x540e;
    match *streams {
        Streams::Pipes(ends) => {
            for (to, from) in ends.into_iter().enumerate() {
                sys::dup_to(from, to as i32)?;
            }
        }
        Streams::Terminal(master) => {
            let flags = (sys::O_RDWR | sys::O_NOCTTY) as usize;
            let slave = sys::ioctl_value(master, TIOCGPTPEER, flags)? as i32;
            sys::ioctl_value(slave, TIOCSCTTY, 0)?;
            if head.uid != 0 {
                sys::fchown(slave, head.uid, u32::MAX)?;
            }
            for to in 0..3 {
                sys::dup_to(slave, to)?;
            }
            sys::close(slave);
        }
    }
    Ok(())
}

/// A null-ended array of the next counted strings.
fn pointers(strings: &mut Reader<'_>) -> Result<&'static [*const u8], Failed> {
    let count = strings.u32()? as usize;
    if count > MAX_REQUEST / 5 {
        return Err(Malformed.into());
    }
    let block = sys::pages((count + 1) * size_of::<*const u8>()).map_err(at(WHERE_FORK))?;
    // SAFETY: pages are zeroed, aligned to more than a pointer and hold count + 1 of them.
    let array = unsafe {
        core::slice::from_raw_parts_mut(block.as_mut_ptr().cast::<*const u8>(), count + 1)
    };
    for slot in &mut array[..count] {
        *slot = strings.cstr()?.as_ptr();
    }
    Ok(array)
}

fn text(pointer: *const u8) -> Option<&'static [u8]> {
    if pointer.is_null() {
        return None;
    }
    // SAFETY: only made by `pointers` of checked C strings, which live until the exec.
    Some(unsafe { core::ffi::CStr::from_ptr(pointer.cast()) }.to_bytes_with_nul())
}

fn first(argv: &[*const u8]) -> Option<&'static [u8]> {
    text(*argv.first()?)
}

/// Runs `command`, looked up in `PATH` unless it has a slash. Returns why that failed.
fn run(command: &[u8], argv: &[*const u8], envp: &[*const u8]) -> Errno {
    if command.len() <= 1 {
        return ENOENT;
    }
    if command.contains(&b'/') {
        // SAFETY: both arrays are null-ended, made by `pointers`.
        return unsafe { sys::execve(command, argv.as_ptr(), envp.as_ptr()) };
    }
    let path = envp
        .iter()
        .filter_map(|&variable| text(variable)?.strip_prefix(b"PATH="))
        .map(|value| &value[..value.len() - 1])
        .next_back()
        .unwrap_or(DEFAULT_PATH);
    let mut worst = ENOENT;
    for folder in path.split(|&b| b == b':') {
        let mut file = [0; PATH_MAX];
        let length = folder.len() + 1 + command.len();
        if folder.is_empty() || length > PATH_MAX {
            continue;
        }
        file[..folder.len()].copy_from_slice(folder);
        file[folder.len()] = b'/';
        file[folder.len() + 1..length].copy_from_slice(command);
        // SAFETY: both arrays are null-ended, made by `pointers`.
        match unsafe { sys::execve(&file[..length], argv.as_ptr(), envp.as_ptr()) } {
            ENOENT | ENOTDIR => {}
            EACCES => worst = EACCES,
            other => return other,
        }
    }
    worst
}
