//! Faults on purpose.
//!
//! # Crash points
//!
//! `BOXRIG_CRASH_AT=<point>:<n>` ends the process with `SIGKILL`, without any cleanup, at the `n`-th pass of a point,
//! counted from the moment the server is ready (not during recovery). The points:
//!
//! | point | where |
//! | --- | --- |
//! | `state.begin` | before a transaction is applied in memory |
//! | `state.write` | before a write to the state file: within a commit |
//! | `state.sync` | before the state file is synchronised |
//! | `state.before_commit` | a batch of transactions is put together, not committed |
//! | `state.after_commit` | a batch is committed, nobody has been answered |
//! | `engine.create` | an instance was made by the engine, its record is not final |
//! | `engine.snapshot` | a snapshot was made by the engine, its record is not final |
//! | `upload.chunk` | a chunk of an upload was written to the staging file |
//! | `delete.engine` | before the engine removes an instance |
//! | `delete.state` | the engine has removed it, the record is still there |
//!
//! `BOXRIG_FAULT_NO_COMMIT=1` acknowledges changes of the state without saving them, so that a crash test can show
//! that it would find a loss. `GET /boxrig/v1/faults` tells how often each point was passed.
//!
//! # Fault scripts
//!
//! A script is a list of rules, as TOML (`--faults FILE`, `[[fault]]` tables) or JSON (`PUT /boxrig/v1/faults`,
//! `{"fault": […]}`). Each rule counts the requests it matches; the same requests in the same order meet the same faults.
//!
//! ```toml
//! [[fault]]                 # the reply of the third POST is lost after the work was done
//! operation = "fastvm.launchVm"
//! nth = 3
//! action = "drop_reply"
//!
//! [[fault]]                 # the next two lists are told to come back
//! method = "GET"
//! times = 2
//! action = "status"
//! status = 429
//! retry_after = 2
//!
//! [[fault]]
//! operation = "fastvm.launchVm"
//! action = "slow_state"     # on the server's clock
//! state = "provisioning"
//! delay_ms = 5000
//! ```
//!
//! | action | what happens |
//! | --- | --- |
//! | `drop_reply` | the operation is carried out, its reply is not sent and the connection ends |
//! | `drop` | the connection ends before anything is done |
//! | `status` | nothing is done; `status` is answered, with `retry_after` seconds when given |
//! | `cut` | the reply's body breaks off after `bytes` bytes |
//! | `delay` | the operation starts `delay_ms` later (real time) |
//! | `slow_state` | an instance stays in `state` for `delay_ms` more (server's clock) |

mod crash;
mod script;

pub use crash::{CRASH_POINTS, arm, crash_point, passes};
pub use script::{Action, DropConnection, Faults, Rule, Script};
