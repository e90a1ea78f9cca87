//! The numbers both sides of the agent's protocol share.
//!
//! Every message is one packet of a `SOCK_SEQPACKET` socket, written as in [`crate::wire`]; descriptors travel
//! beside it. Server and agent always come from one build *except* after an upgrade of a server whose
//! instances kept running, so every request carries [`VERSION`], and a newer server speaks the old one.

#![allow(dead_code)] // each side uses its part

/// Version of the protocol between the server and process 1.
pub const VERSION: u32 = 1;

/// `argv[0]` of the stage.
pub const STAGE_NAME: &str = "boxrig-init";

/// Largest packet sent in one piece; longer requests travel in a memory file.
pub const MAX_PACKET: usize = 32 * 1024;
/// Largest request at all.
pub const MAX_REQUEST: usize = 8 << 20;
/// Most descriptors with one packet.
pub const MAX_FDS: usize = 16;
/// Descriptor slots of a plan.
pub const MAX_SLOTS: usize = 160;

// What the stage tells the server.

/// Waiting for a packet of the server (id maps are written then); nothing follows.
pub const STAGE_SYNC: u32 = 1;
/// An operation failed: index u32, errno u32, detail u32 (a `WHERE_` of a main process, else 0).
pub const STAGE_FAILED: u32 = 2;
/// Process 1 exists: host pid u32, with a pidfd.
pub const STAGE_PID: u32 = 3;
/// A socket made in the instance: key u32, with the descriptor.
pub const STAGE_SOCKET: u32 = 4;
/// Process 1 serves.
pub const STAGE_READY: u32 = 5;

// Operations of a plan: number u32, then the fields named here.

/// flags u64.
pub const OP_UNSHARE: u32 = 1;
/// No fields: [`STAGE_SYNC`], then a packet whose descriptors fill the next slots.
pub const OP_SYNC: u32 = 2;
/// path, bytes: writes an existing file.
pub const OP_WRITE: u32 = 3;
/// path, flags u32: a detached copy of the mount, into the next slot.
pub const OP_OPEN_TREE: u32 = 4;
/// slot u32, recursive u32, set u64, clear u64, propagation u64.
pub const OP_SETATTR: u32 = 5;
/// slot u32, path.
pub const OP_MOVE_MOUNT: u32 = 6;
/// source, target, type, flags u64, data.
pub const OP_MOUNT: u32 = 7;
/// path, mode u32. An existing directory is no error.
pub const OP_MKDIR: u32 = 8;
/// target, path. An existing entry is no error.
pub const OP_SYMLINK: u32 = 9;
/// path, mode u32: an empty file to mount on. An existing file is no error.
pub const OP_TOUCH: u32 = 10;
/// path: makes it the root and lets go of the old one.
pub const OP_PIVOT: u32 = 11;
/// No fields: goes on in a child, which is process 1; the parent reports it and ends.
pub const OP_FORK: u32 = 12;
/// name.
pub const OP_HOSTNAME: u32 = 13;
/// No fields: sets the loopback interface up.
pub const OP_LO_UP: u32 = 14;
/// protocol u32, last sequence number u32, optional u32, blob: sends it on a netlink socket and reads the answer
/// (see the engine's `net::ack`). The failure of an optional one does not matter.
pub const OP_NETLINK: u32 = 15;
/// key u32, type u32 (1 stream, 2 datagram), family u32 (4 or 6), port u32, optional u32: a socket bound to the
/// loopback address, kept under the key and sent out. A stream socket listens.
pub const OP_SOCKET: u32 = 16;
/// No fields: own session, file mask 022, all signals at their defaults.
pub const OP_SESSION: u32 = 17;
/// clear groups u32: becomes user and group 0 of the instance.
pub const OP_IDS: u32 = 18;
/// mask u64 of capabilities that stay in the bounding set.
pub const OP_BOUND: u32 = 19;
/// BPF program bytes.
pub const OP_SECCOMP: u32 = 20;
/// No fields: no process of the instance may look into process 1.
pub const OP_UNDUMPABLE: u32 = 21;
/// slot u32: the log of the main process (see the agent's `log`).
pub const OP_LOG: u32 = 22;
/// An exec body: starts the main process.
pub const OP_MAIN: u32 = 23;
/// slot u32 of the bound socket: process 1 listens on it. The last operation.
pub const OP_SERVE: u32 = 24;
/// path.
pub const OP_CHDIR: u32 = 25;
/// resource u32, soft u64, hard u64; u64::MAX leaves the hard limit as it is.
pub const OP_RLIMIT: u32 = 26;
/// path, source slot u32: copies an executable there unless one of the paths (count u32, paths…) exists.
pub const OP_INSTALL: u32 = 27;
/// path, folder, file: covers a directory with the folder, or a file with the file, read-only; it may be absent.
pub const OP_MASK: u32 = 28;
/// path: makes a mount read-only over itself; may be absent.
pub const OP_READONLY: u32 = 29;
/// source, target: binds one device node; the target is made.
pub const OP_DEVICE: u32 = 30;

/// source, target, flags u64: binds a folder, with these mount flags.
pub const OP_BIND: u32 = 31;

// Requests to process 1: version u32, kind u32, fields. The flag says that the fields are in a memory file.

/// Added to a kind whose fields are in the first descriptor instead.
pub const IN_MEMFD: u32 = 0x8000_0000;
/// No fields. Answer: [`REPLY_STATUS`].
pub const REQ_STATUS: u32 = 1;
/// No fields. Answer: [`REPLY_STATUS`], and one more when the main process ends. Stays open.
pub const REQ_WATCH: u32 = 2;
/// An exec body. Answer: [`REPLY_STARTED`], then [`REPLY_EXITED`]. Stays open.
pub const REQ_EXEC: u32 = 3;
/// On an exec connection: signal u32 to the process group. No answer.
pub const REQ_SIGNAL: u32 = 4;
/// port u32. Answer: [`REPLY_OK`] with a TCP socket, which may still be connecting.
pub const REQ_CONNECT: u32 = 5;
/// port u32. Answer: [`REPLY_OK`] port u32, asking u32, with a listening socket, kept by the agent too.
pub const REQ_LISTEN: u32 = 6;
/// port u32, asking u32: forgets a kept listener, unless it was asked for again since.
pub const REQ_UNLISTEN: u32 = 7;
/// key u32. Answer: [`REPLY_OK`] with the socket a plan made.
pub const REQ_SOCKET: u32 = 8;
/// signal u32 to every process but 1.
pub const REQ_KILL_ALL: u32 = 9;
/// No fields: stops every process by signal, again until none runs. Answer: [`REPLY_OK`].
pub const REQ_FREEZE: u32 = 10;
/// protocol u32, last sequence number u32, blob: as [`OP_NETLINK`].
pub const REQ_NETLINK: u32 = 11;

/// path, offset u64. Answer: [`REPLY_META`] with the file.
pub const REQ_READ: u32 = 20;
/// path, flags u32, mode u32 (or none), uid, gid, mtime i64 (or none). Answer: [`REPLY_OK`] with the file; the
/// server writes and sends [`REQ_COMMIT`].
pub const REQ_WRITE: u32 = 21;
/// On a write connection: puts the file in its place. Answer: [`REPLY_OK`].
pub const REQ_COMMIT: u32 = 22;
/// path, follow u32. Answer: [`REPLY_META`].
pub const REQ_STAT: u32 = 23;
/// path. Answers: [`REPLY_ENTRIES`]…, [`REPLY_OK`].
pub const REQ_LIST: u32 = 24;
/// path, mode u32, parents u32.
pub const REQ_MKDIR: u32 = 25;
/// path, target.
pub const REQ_SYMLINK: u32 = 26;
/// path, recursive u32.
pub const REQ_REMOVE: u32 = 27;
/// path, uid u32, gid u32, mode u32, mtime i64 (or none each), nanoseconds u32; a link is not followed.
pub const REQ_SETATTR: u32 = 28;

/// Done: whatever the request says.
pub const REPLY_OK: u32 = 100;
/// errno u32, where u32.
pub const REPLY_ERROR: u32 = 101;
/// version u32, other processes u32, main state u32 (0 none, 1 runs, 2 ended), wait status u32.
pub const REPLY_STATUS: u32 = 102;
/// pid u32, with the server's ends: \[stdin,\] stdout, stderr, or the terminal.
pub const REPLY_STARTED: u32 = 103;
/// wait status u32.
pub const REPLY_EXITED: u32 = 104;
/// mode u32, uid u32, gid u32, size u64, mtime seconds u64 (two's complement), nanoseconds u32, target bytes.
pub const REPLY_META: u32 = 105;
/// count u32, then per entry: name bytes and the fields of [`REPLY_META`].
pub const REPLY_ENTRIES: u32 = 106;

// An exec body: flags u32, uid u32, gid u32, rows u32, cols u32, cwd, argc u32, args…, envc u32, variables….

/// A terminal instead of pipes.
pub const EXEC_TTY: u32 = 1;
/// A pipe as standard input.
pub const EXEC_STDIN: u32 = 2;
/// The process group is killed when the connection closes.
pub const EXEC_KILL: u32 = 4;

/// "No value" of a mode or id field.
pub const NONE: u32 = u32::MAX;
/// "No value" of a time field.
pub const NO_TIME: u64 = 1 << 63;

/// Make missing parents.
pub const WRITE_PARENTS: u32 = 1;
/// Add to the end.
pub const WRITE_APPEND: u32 = 2;

// Where an exec failed.

/// Pipes or terminal.
pub const WHERE_STREAMS: u32 = 1;
/// A new process.
pub const WHERE_FORK: u32 = 2;
/// User or group id.
pub const WHERE_IDS: u32 = 3;
/// Working directory.
pub const WHERE_CWD: u32 = 4;
/// The command itself.
pub const WHERE_COMMAND: u32 = 5;
/// The request was malformed.
pub const WHERE_REQUEST: u32 = 6;

// The log file: a header, then a ring of the file's remaining size.

/// First bytes of a log file.
pub const LOG_MAGIC: u64 = 0x314c_4742_584f_4231;
/// Header: magic u64, ring size u64, bytes written since the beginning u64; the ring follows here.
pub const LOG_HEADER: u64 = 4096;
