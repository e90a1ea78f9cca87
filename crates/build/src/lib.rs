//! Images from Dockerfiles, built by instances of the engine.
//!
//! A step that changes files runs in an instance of its own, made from what the steps before have given; what it changed
//! is the instance's upper directory, which becomes a layer as it is. Images are the layers of a snapshot with a word on how to
//! run them ([`boxrig_engine::ImageConfig`]). Nothing is fetched: a stage starts from `boxrig/base`, `scratch`, an earlier stage
//! or an image of the local store.
//!
//! ```no_run
//! use std::sync::Arc;
//! use boxrig_build::{BuildSpec, Builder, LogLine};
//!
//! # async fn example(engine: Arc<dyn boxrig_engine::Engine>) -> Result<(), Box<dyn std::error::Error>> {
//! let builder = Builder::new(engine);
//! let mut spec = BuildSpec::new("app/web");
//! spec.context = Some("/home/me/web".into());
//! let (log, mut lines) = tokio::sync::mpsc::channel::<LogLine>(64);
//! let printing = tokio::spawn(async move {
//!     while let Some(line) = lines.recv().await {
//!         println!("{}", line.text.escape_debug());
//!     }
//! });
//! let built = builder.build(spec, log).await?;
//! printing.await?;
//! println!("{} {:?}", built.image.name, built.image.config.argv(None));
//! # Ok(()) }
//! ```
//!
//! | instruction | what it does here |
//! | --- | --- |
//! | FROM | `boxrig/base`, `scratch`, a stage, an image of the local store; `--platform` of this machine |
//! | RUN | both forms, here-documents; `--network=none`; as the stage's user |
//! | COPY, ADD | files, folders, wildcards, here-documents; `--chown --chmod --from`; ADD unpacks tar and gzip |
//! | ENV, ARG, WORKDIR, USER, CMD, ENTRYPOINT, EXPOSE, LABEL, VOLUME, STOPSIGNAL, SHELL, HEALTHCHECK | kept in the image's settings |
//! | ADD of an address, `RUN --mount`, ONBUILD | refused, with the line |

mod build;
mod cache;
mod copy;
mod error;
mod expand;
mod instruction;
mod lines;
mod run;
mod stage;
mod tree;
mod users;

pub use build::{BuildSpec, Builder, Built, LogLine, Stream};
pub use error::{BuildError, Cause, Result};
