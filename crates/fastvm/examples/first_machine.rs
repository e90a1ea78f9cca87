//! Launches a machine, runs a command in it, and removes it. Against the local server:
//!
//! ```console
//! $ boxrig up && eval "$(boxrig env)"
//! $ cargo run -p boxrig-fastvm --example first_machine
//! ```

#[tokio::main]
async fn main() -> boxrig_wire::Result<()> {
    let client = boxrig_fastvm::Client::from_env()?;
    let vm = client
        .vms()
        .launch(boxrig_fastvm::Launch::new("c1m2"))
        .await?
        .vm;
    let done = client.vms().run(&vm.id, "uname -a").await;
    client.vms().delete(&vm.id).await?;
    let done = done?;
    print!("{}", done.stdout);
    std::process::exit(done.exit_code);
}
