//! The groups of calls.

mod apps;
mod builds;
mod classic;
mod console;
mod processes;
mod rack;
mod releases;
mod resources;
mod services;

pub use apps::{Apps, Budgets, Configs, Metrics};
pub use builds::{Builds, Objects};
pub use classic::Classic;
pub use console::Console;
pub use processes::{Files, Processes};
pub use rack::{Certificates, Events, Instances, LetsEncrypt, Registries, System};
pub use releases::Releases;
pub use resources::Resources;
pub use services::Services;

/// The path of one thing.
pub(crate) fn one(a: &str) -> (String,) {
    (a.to_owned(),)
}

/// The path of a thing of an app.
pub(crate) fn two(a: &str, b: &str) -> (String, String) {
    (a.to_owned(), b.to_owned())
}

/// The path of a thing of a thing of an app.
pub(crate) fn three(a: &str, b: &str, c: &str) -> (String, String, String) {
    (a.to_owned(), b.to_owned(), c.to_owned())
}
