//! The program `boxrig`.

mod cli;

fn main() -> std::process::ExitCode {
    cli::main()
}
