//! The operations of the control API.

use boxrig_wire::{
    ByteBody, ByteReply, Catalog, Endpoint, Json, JsonReply, Socket, endpoint, params,
};
use serde_json::Value;

use super::protocol::Control;
use super::types::{
    ClockView, Done, FaultsView, FileView, Info, InstanceView, RestoreRequest, StatsView, StepClock,
};
use crate::env::Env;

endpoint! {
    /// Who the server is: version, engine, addresses.
    pub GetInfo = "getInfo": Control, GET "/boxrig/v1/info" { reply: JsonReply<Info>, }
}
endpoint! {
    /// The environment that lets vendors' programs find it, credentials included.
    pub GetEnv = "getEnv": Control, GET "/boxrig/v1/env" { reply: JsonReply<Env>, }
}
endpoint! {
    /// Ends the server. Instances of engines that outlive it go on.
    pub Shutdown = "shutdown": Control, POST "/boxrig/v1/shutdown" { reply: JsonReply<Done>, }
}
endpoint! {
    /// Deletes every instance, snapshot and record of every platform.
    pub Reset = "reset": Control, POST "/boxrig/v1/reset" { reply: JsonReply<Done>, }
}
endpoint! {
    /// The state as one JSON document. Refused while there are instances or snapshots whose files it could not hold.
    pub SaveState = "saveState": Control, GET "/boxrig/v1/state" { reply: JsonReply<Value>, }
}
endpoint! {
    /// Replaces the state by a saved one. Refused while there are instances or snapshots.
    pub LoadState = "loadState": Control, PUT "/boxrig/v1/state" {
        body: Json<Value>,
        reply: JsonReply<Done>,
    }
}
endpoint! {
    /// The fault script in force and the passes of crash points.
    pub GetFaults = "getFaults": Control, GET "/boxrig/v1/faults" { reply: JsonReply<FaultsView>, }
}
endpoint! {
    /// Replaces the fault script; an empty one ends all faults.
    pub PutFaults = "putFaults": Control, PUT "/boxrig/v1/faults" {
        body: Json<Value>,
        reply: JsonReply<FaultsView>,
    }
}
endpoint! {
    /// The server's clock.
    pub GetClock = "getClock": Control, GET "/boxrig/v1/clock" { reply: JsonReply<ClockView>, }
}
endpoint! {
    /// Moves a virtual clock forward.
    pub AdvanceClock = "advanceClock": Control, POST "/boxrig/v1/clock" {
        body: Json<StepClock>,
        reply: JsonReply<ClockView>,
    }
}
endpoint! {
    /// Starts a trial instance and tells step by step what worked.
    pub GetDoctor = "getDoctor": Control, GET "/boxrig/v1/doctor" { reply: JsonReply<Value>, }
}
endpoint! {
    /// All instances as the engine sees them.
    pub ListInstances = "listInstances": Control, GET "/boxrig/v1/instances" {
        reply: JsonReply<Vec<InstanceView>>,
    }
}
endpoint! {
    /// One instance as the engine sees it.
    pub GetInstance = "getInstance": Control, GET "/boxrig/v1/instances/{id}" {
        path: (String,),
        reply: JsonReply<InstanceView>,
    }
}
endpoint! {
    /// What an instance uses now.
    pub GetInstanceStats = "getInstanceStats": Control, GET "/boxrig/v1/instances/{id}/stats" {
        path: (String,),
        reply: JsonReply<StatsView>,
    }
}
endpoint! {
    /// Puts an instance's files back to a snapshot's, in place.
    pub Restore = "restore": Control, POST "/boxrig/v1/instances/{id}/restore" {
        path: (String,),
        body: Json<RestoreRequest>,
        reply: JsonReply<InstanceView>,
    }
}
endpoint! {
    /// Runs a command with its input, output, terminal and signals over a websocket.
    pub Exec = "exec": Control, GET "/boxrig/v1/instances/{id}/exec" {
        path: (String,),
        reply: Socket,
    }
}

params! {
    /// Which part of which log.
    pub struct LogQuery {
        /// `main` (default) or `console`.
        pub source: Option<String> = "source",
        /// Start at this offset in bytes.
        pub since: Option<u64> = "since",
        /// Start this many lines before the end.
        pub tail: Option<u64> = "tail",
        /// Go on as long as the instance runs.
        pub follow: Option<bool> = "follow",
    }
}
endpoint! {
    /// A log of an instance; `x-boxrig-offset` is the offset of its first byte.
    pub GetInstanceLogs = "getInstanceLogs": Control, GET "/boxrig/v1/instances/{id}/logs" {
        path: (String,),
        query: LogQuery,
        reply: ByteReply,
    }
}

params! {
    /// A path in an instance.
    pub struct PathQuery {
        /// The absolute path.
        pub path: String = "path",
        /// Follow a symbolic link (default), or remove a tree (default not).
        pub deep: Option<bool> = "deep",
    }
}
params! {
    /// How to write a file.
    pub struct WriteQuery {
        /// The absolute path.
        pub path: String = "path",
        /// Permission bits, decimal.
        pub mode: Option<u32> = "mode",
        /// Owner.
        pub uid: Option<u32> = "uid",
        /// Group.
        pub gid: Option<u32> = "gid",
        /// Last change, in milliseconds since 1970.
        pub mtime_ms: Option<u64> = "mtimeMs",
        /// Make missing folders.
        pub parents: Option<bool> = "parents",
        /// Add to the end.
        pub append: Option<bool> = "append",
    }
}
endpoint! {
    /// The content of a file.
    pub GetInstanceFile = "getInstanceFile": Control, GET "/boxrig/v1/instances/{id}/file" {
        path: (String,),
        query: PathQuery,
        reply: ByteReply,
    }
}
endpoint! {
    /// Writes a file, whole or not at all.
    pub PutInstanceFile = "putInstanceFile": Control, PUT "/boxrig/v1/instances/{id}/file" {
        path: (String,),
        query: WriteQuery,
        body: ByteBody,
        reply: JsonReply<FileView>,
    }
}
endpoint! {
    /// Removes a file or a folder.
    pub DeleteInstanceFile = "deleteInstanceFile": Control, DELETE "/boxrig/v1/instances/{id}/file" {
        path: (String,),
        query: PathQuery,
        reply: JsonReply<Done>,
    }
}
endpoint! {
    /// What a path names.
    pub StatInstanceFile = "statInstanceFile": Control, GET "/boxrig/v1/instances/{id}/stat" {
        path: (String,),
        query: PathQuery,
        reply: JsonReply<FileView>,
    }
}
endpoint! {
    /// The entries of a folder.
    pub ListInstanceFiles = "listInstanceFiles": Control, GET "/boxrig/v1/instances/{id}/folder" {
        path: (String,),
        query: PathQuery,
        reply: JsonReply<Vec<FileView>>,
    }
}
endpoint! {
    /// Makes a folder and those above it.
    pub MakeInstanceDir = "makeInstanceDir": Control, PUT "/boxrig/v1/instances/{id}/folder" {
        path: (String,),
        query: WriteQuery,
        reply: JsonReply<Done>,
    }
}

/// All operations of the control API.
pub const CATALOG: Catalog = &[
    GetInfo::META,
    GetEnv::META,
    Shutdown::META,
    Reset::META,
    SaveState::META,
    LoadState::META,
    GetFaults::META,
    PutFaults::META,
    GetClock::META,
    AdvanceClock::META,
    GetDoctor::META,
    ListInstances::META,
    GetInstance::META,
    GetInstanceStats::META,
    Restore::META,
    Exec::META,
    GetInstanceLogs::META,
    GetInstanceFile::META,
    PutInstanceFile::META,
    DeleteInstanceFile::META,
    StatInstanceFile::META,
    ListInstanceFiles::META,
    MakeInstanceDir::META,
];
