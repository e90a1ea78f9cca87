//! Compiles the guest agent (`agent/`) for the target and leaves it in `OUT_DIR/agent`.
//!
//! The agent is `no_std` without dependencies, so the compiler at hand and a linker are enough: no second target,
//! no C library. Where there is no sandbox (another system or processor) the file is empty.

use std::env;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=agent");
    println!("cargo::rerun-if-changed=src/net/ack.rs");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-check-cfg=cfg(agent)");
    let out = PathBuf::from(env::var("OUT_DIR")?).join("agent");
    let system = env::var("CARGO_CFG_TARGET_OS")?;
    let processor = env::var("CARGO_CFG_TARGET_ARCH")?;
    if system != "linux" || !matches!(processor.as_str(), "x86_64" | "aarch64") {
        fs::write(&out, [])?;
        return Ok(());
    }
    println!("cargo::rustc-cfg=agent");
    compile(&out)
}

fn compile(out: &Path) -> Result<(), Box<dyn Error>> {
    let mut rustc = Command::new(env::var("RUSTC")?);
    rustc.args([
        "--edition",
        "2024",
        "--crate-type",
        "bin",
        "--crate-name",
        "boxrig_agent",
    ]);
    let target = env::var("TARGET")?;
    if target != env::var("HOST")? {
        rustc.args(["--target", &target]);
    }
    if let Ok(linker) = env::var("RUSTC_LINKER") {
        rustc.arg(format!("-Clinker={linker}"));
    }
    rustc.args([
        "-Cpanic=abort",
        "-Copt-level=s",
        "-Ccodegen-units=1",
        "-Crelocation-model=static",
        "-Ctarget-feature=+crt-static",
        "-Cstrip=symbols",
        "-Clink-arg=-nostartfiles",
        "-Clink-arg=-nostdlib",
        "-Clink-arg=-static",
        "-Clink-arg=-Wl,--build-id=none",
    ]);
    if env::var("CARGO_CFG_TARGET_ENV").is_ok_and(|library| library == "musl") {
        // Else rustc adds the C library's start files by itself.
        rustc.arg("-Clink-self-contained=no");
    }
    // Flags for the workspace (coverage, sanitizers, a C library's features) are not for this program.
    rustc
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS");
    let status = rustc.arg("-o").arg(out).arg("agent/main.rs").status()?;
    if !status.success() {
        return Err(format!("compiling the guest agent failed: {status}").into());
    }
    Ok(())
}
