//! Running commands.

use std::time::Duration;

use boxrig_engine::{ExecSpec, ExitStatus, Kind, WinSize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{collect, id, rig};

#[tokio::test(flavor = "multi_thread")]
async fn output_exit_codes_and_signals() {
    let Some(rig) = rig().await else { return };
    let vm = rig.instance("codes").await;
    let output = rig.sh(&vm, "echo out; echo err >&2; exit 7").await;
    assert_eq!(
        (
            output.status,
            output.stdout.as_str(),
            output.stderr.as_str()
        ),
        (ExitStatus::Code(7), "out\n", "err\n")
    );
    let output = rig.sh(&vm, "kill -9 $$").await;
    assert_eq!(output.status, ExitStatus::Signal(9));
    assert_eq!(output.status.shell_code(), 137);
    let error = rig
        .run(&vm, ExecSpec::new(["no-such-command"]))
        .await
        .unwrap_err();
    assert_eq!(
        (error.kind(), error.shell_code()),
        (Kind::CommandNotFound, Some(127))
    );
    let error = rig
        .run(&vm, ExecSpec::new(["/etc/passwd"]))
        .await
        .unwrap_err();
    assert_eq!(
        (error.kind(), error.shell_code()),
        (Kind::CannotExecute, Some(126))
    );
    let error = rig
        .run(&id("other"), ExecSpec::new(["true"]))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    rig.engine.delete(&vm).await.unwrap();
}
