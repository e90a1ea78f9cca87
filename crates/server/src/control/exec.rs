//! The frames of the exec socket.

use std::collections::BTreeMap;

use boxrig_wire::Kind;
use serde::{Deserialize, Serialize};

/// First byte of a frame with standard input.
pub const CHANNEL_STDIN: u8 = 0;
/// First byte of a frame with standard output.
pub const CHANNEL_STDOUT: u8 = 1;
/// First byte of a frame with standard error.
pub const CHANNEL_STDERR: u8 = 2;

/// A terminal's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    /// Lines.
    pub rows: u16,
    /// Columns.
    pub cols: u16,
}

/// What to run; the first frame of the client.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ExecStart {
    /// Command and arguments, not given to a shell. Empty with a terminal: a login shell (the console).
    pub argv: Vec<String>,
    /// Variables on top of the instance's.
    pub env: BTreeMap<String, String>,
    /// Working directory; `/` when absent.
    pub cwd: Option<String>,
    /// User id inside; root when absent.
    pub uid: Option<u32>,
    /// Group id inside; root when absent.
    pub gid: Option<u32>,
    /// A terminal of this size instead of pipes.
    pub tty: Option<Size>,
    /// Standard input will be sent; else it is empty. A terminal always has it.
    pub stdin: bool,
}

/// What the client says in text frames after the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExecControl {
    /// The terminal's size.
    Resize(Size),
    /// A signal, by its Linux number.
    Signal(i32),
}

/// What the server says in text frames.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExecEvent {
    /// The command runs.
    Started {
        /// Its process id inside.
        pid: u32,
    },
    /// It could not be started, or its end is not known.
    Error(ExecFailure),
    /// Its end.
    Exit {
        /// Its exit code.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        code: Option<i32>,
        /// The signal that ended it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        signal: Option<i32>,
    },
}

/// Why a command did not start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecFailure {
    /// The meaning.
    pub kind: Kind,
    /// In words.
    pub message: String,
    /// 127 when there is no such command, 126 when it cannot be run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shell_code: Option<i32>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_as_documented() {
        let text = |v: &ExecEvent| serde_json::to_string(v).unwrap();
        assert_eq!(
            text(&ExecEvent::Started { pid: 12 }),
            r#"{"started":{"pid":12}}"#
        );
        assert_eq!(
            text(&ExecEvent::Exit {
                code: Some(0),
                signal: None
            }),
            r#"{"exit":{"code":0}}"#
        );
        for (control, json) in [
            (
                ExecControl::Resize(Size { rows: 24, cols: 80 }),
                r#"{"resize":{"rows":24,"cols":80}}"#,
            ),
            (ExecControl::Signal(15), r#"{"signal":15}"#),
        ] {
            assert_eq!(serde_json::to_string(&control).unwrap(), json);
            assert_eq!(serde_json::from_str::<ExecControl>(json).unwrap(), control);
        }
        let start: ExecStart = serde_json::from_str(r#"{"argv":["ls"],"new":1}"#).unwrap();
        assert_eq!(start.argv, ["ls"]);
    }
}
