//! Lays the program out so that what a command touches lies together.
//!
//! A command runs some 1,000 of the program's 66,000 functions. Where the linker leaves them they are spread over the
//! whole file, and the kernel maps 64 KiB of it around each. `layout.txt` names them, the most used first; `cargo xtask
//! layout` writes it. Names that this build does not have are passed over: a stale list costs memory, nothing else.

use std::env;
use std::path::Path;
use std::process::{Command, Stdio};

/// The list, beside this file.
const LAYOUT: &str = "layout.txt";
/// Whose functions it names.
const TARGET: &str = "x86_64-unknown-linux-gnu";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed={LAYOUT}");
    let is = |name: &str, value: &str| env::var(name).is_ok_and(|v| v == value);
    if !is("TARGET", TARGET) || !is("PROFILE", "release") {
        return;
    }
    let Ok(folder) = env::var("CARGO_MANIFEST_DIR") else {
        return;
    };
    let layout = Path::new(&folder).join(LAYOUT);
    let argument = format!(
        "-Wl,--symbol-ordering-file={},--no-warn-symbol-ordering",
        layout.display()
    );
    // A comma would end the linker's argument.
    if layout.to_string_lossy().contains(',') || !linker_takes(&argument) {
        return;
    }
    println!("cargo::rustc-link-arg-bins={argument}");
}

/// Whether this build's linker takes an argument: tried with a program that does nothing. LLVM's does, GNU's does not.
fn linker_takes(argument: &str) -> bool {
    let (Ok(rustc), Ok(out)) = (env::var("RUSTC"), env::var("OUT_DIR")) else {
        return false;
    };
    let source = Path::new(&out).join("nothing.rs");
    if std::fs::write(&source, "fn main() {}").is_err() {
        return false;
    }
    let mut command = Command::new(rustc);
    command.args(["--edition=2024", "--target", TARGET, "-C"]);
    command.arg(format!("link-arg={argument}"));
    if let Ok(linker) = env::var("RUSTC_LINKER") {
        command.args(["-C", &format!("linker={linker}")]);
    }
    let flags = env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
    command.args(flags.split('\x1f').filter(|flag| !flag.is_empty()));
    command.arg("-o").arg(Path::new(&out).join("nothing"));
    command
        .arg(&source)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
