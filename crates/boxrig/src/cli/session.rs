//! What every command works with: the common flags, the configuration, connections.

use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::time::Duration;

use boxrig::{Compute, ComputeExt, Connect, Connection, Instance, Platform};
use boxrig_wire::{CallOptions, Error, Kind, Result, Timeout, Untrusted};
use clap::ArgMatches;

use super::background;
use super::contexts::{Config, Context, LOCAL};
use super::exit::{Failure, Outcome};
use super::output::{Filter, Format, Style};
use super::paths::Paths;

/// A command's surroundings.
pub(crate) struct Session {
    pub(crate) paths: Paths,
    pub(crate) config: Config,
    pub(crate) style: Style,
    on: Vec<String>,
    all: bool,
    pub(crate) verbose: u8,
    pub(crate) timeout: Option<Duration>,
    yes: bool,
    dry_run: bool,
    read_only: bool,
}

impl Session {
    /// Reads the common flags and the configuration.
    pub(crate) fn new(matches: &ArgMatches) -> Result<Self> {
        let many = |id: &str| -> Vec<String> {
            matches
                .get_many::<String>(id)
                .into_iter()
                .flatten()
                .cloned()
                .collect()
        };
        let format = matches
            .get_one::<String>("output")
            .map_or(Format::Table, |name| Format::parse(name));
        let no_color = matches.get_flag("no-color")
            || std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
        let paths = Paths::new()?;
        let session = Self {
            config: Config::load(&paths)?,
            paths,
            style: Style {
                format,
                columns: many("columns"),
                filters: many("filter")
                    .iter()
                    .map(|f| Filter::parse(f))
                    .collect::<Result<_>>()?,
                sort: many("sort"),
                color: !no_color && std::io::stdout().is_terminal(),
                quiet: matches.get_flag("quiet"),
            },
            on: many("on"),
            all: matches.get_flag("all"),
            verbose: matches.get_count("verbose"),
            timeout: matches.get_one::<Duration>("timeout").copied(),
            yes: matches.get_flag("yes"),
            dry_run: matches.get_flag("dry-run"),
            read_only: matches.get_flag("read-only"),
        };
        session.log();
        Ok(session)
    }

    /// `-v` shows what the clients do; secrets are never part of it.
    fn log(&self) {
        let level = match self.verbose {
            0 => return,
            1 => "boxrig=info,boxrig_transport=debug",
            _ => "boxrig=debug,boxrig_transport=trace",
        };
        let _ = tracing_subscriber::fmt()
            .with_writer(std::io::stderr)
            .with_env_filter(level)
            .without_time()
            .with_ansi(false)
            .try_init();
    }

    /// The contexts of a list.
    pub(crate) fn contexts(&self) -> Vec<(String, Result<Context>)> {
        let names = if self.all {
            self.config.names()
        } else if self.on.is_empty() {
            vec![self.config.current().to_owned()]
        } else {
            self.on.clone()
        };
        names
            .into_iter()
            .map(|name| {
                let context = self.config.context(&name);
                (name, context)
            })
            .collect()
    }

    /// The one context of a command that is about one thing.
    pub(crate) fn context(&self) -> Result<Context> {
        match self.on.as_slice() {
            [] if self.all => Err(Error::new(
                Kind::Invalid,
                "--all is for lists; this command works on one context",
            )),
            [] => self.config.context(self.config.current()),
            [one] => self.config.context(one),
            _ => Err(Error::new(
                Kind::Invalid,
                "several --on are for lists; this command works on one context",
            )),
        }
    }

    /// The context and the plain name of a `NAME` or `CONTEXT:NAME`.
    pub(crate) fn place<'a>(&self, text: &'a str) -> Result<(Context, &'a str)> {
        let (context, name) = self.config.split(text);
        if name.is_empty() {
            return Err(Error::new(Kind::Invalid, "the name is empty"));
        }
        match context {
            None => Ok((self.context()?, name)),
            Some(context) => {
                if self.on.iter().any(|on| on != context) {
                    return Err(Error::new(
                        Kind::Invalid,
                        format!(
                            "{} names one context and --on another",
                            Untrusted::new(text)
                        ),
                    ));
                }
                Ok((self.config.context(context)?, name))
            }
        }
    }

    /// Connects; the local server is started when it does not run.
    pub(crate) async fn connect(&self, context: &Context) -> Result<Connection> {
        if *context.target.platform() == Platform::Local {
            let info = background::ensure(&self.paths).await?;
            return Connect::local(self.paths.socket())
                .name(LOCAL)
                .info(info)
                .open()
                .await;
        }
        let mut connect = Connect::new(context.target.clone()).name(context.name.as_str());
        if let Some(secret) = &context.secret {
            connect =
                connect.secret(secret.read().map_err(|e| {
                    e.context(format!("context {}", Untrusted::new(&*context.name)))
                })?);
        }
        if let Some(user) = &context.user {
            connect = connect.user(user.as_str());
        }
        if let Some(file) = &context.ca_file {
            connect = connect.ca_file(file.clone());
        }
        if let Some(pin) = &context.pin {
            connect = connect.pin(pin.as_str());
        }
        if let (Some(cert), Some(key)) = (&context.cert_file, &context.key_file) {
            super::secret::private(key)?;
            connect = connect.certificate(cert, key);
        }
        if let Some(project) = &context.project {
            connect = connect.project(project.as_str());
        }
        if let Some(image) = &context.image {
            connect = connect.image(image.as_str());
        }
        connect.open().await
    }

    /// The instance that a `NAME` or `CONTEXT:NAME` means, connected.
    pub(crate) async fn find(&self, text: &str) -> Result<Found> {
        let (context, name) = self.place(text)?;
        let connection = self.connect(&context).await?;
        let instance = connection.compute.find(name).await?;
        Ok(Found {
            context,
            compute: connection.compute,
            instance,
        })
    }

    /// Whether a change is to be made. `what` completes "would …" and "may not …".
    ///
    /// # Errors
    ///
    /// [`Kind::Denied`] when only reading is allowed.
    pub(crate) fn may_change(&self, context: &Context, what: &str) -> Result<bool> {
        if self.read_only || context.read_only {
            let why = if self.read_only {
                "--read-only".to_owned()
            } else {
                format!("the context {} is for reading only", context.name)
            };
            return Err(Error::new(Kind::Denied, format!("may not {what}: {why}")));
        }
        if self.dry_run {
            let _ = writeln!(std::io::stdout(), "would {what}");
            return Ok(false);
        }
        Ok(true)
    }

    /// Whether [`may_change`](Self::may_change) would refuse nothing, without saying anything.
    pub(crate) fn may_change_quietly(&self, context: &Context) -> bool {
        !self.read_only && !context.read_only
    }

    /// Whether nothing is to be changed.
    pub(crate) fn dry_run(&self) -> bool {
        self.dry_run || self.read_only
    }

    /// Asks before something is lost, where there is somebody to ask.
    ///
    /// # Errors
    ///
    /// [`Kind::Cancelled`] when the answer is no.
    pub(crate) fn confirm(&self, question: &str) -> Result<()> {
        if self.yes || !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
            return Ok(());
        }
        let _ = write!(std::io::stderr(), "{question} [y/N] ");
        let mut answer = String::new();
        let _ = std::io::stdin().read_line(&mut answer);
        if matches!(answer.trim(), "y" | "Y" | "yes") {
            Ok(())
        } else {
            Err(Error::new(Kind::Cancelled, "not done"))
        }
    }

    /// A note for people, on stderr.
    pub(crate) fn say(&self, text: &str) {
        if !self.style.quiet && !self.style.format.is_json() {
            let _ = writeln!(std::io::stderr(), "{text}");
        }
    }

    /// Whether progress is shown.
    pub(crate) fn shows_progress(&self) -> bool {
        !self.style.quiet && std::io::stderr().is_terminal()
    }

    /// Settings of a single call.
    pub(crate) fn call_options(&self) -> CallOptions {
        let mut options = CallOptions::new();
        if let Some(limit) = self.timeout {
            options = options.timeout(Timeout::After(limit));
        }
        options
    }

    /// Reports a failure of one of several things and goes on.
    pub(crate) fn report(&self, e: Error, worst: &mut u8) {
        let failure = Failure::Error(e);
        *worst = (*worst).max(failure.exit_code());
        failure.report(self.style.format.is_json());
    }
}

/// How several things ended.
pub(crate) fn worst(code: u8) -> Outcome {
    if code == 0 {
        Ok(())
    } else {
        Err(Failure::Code(code))
    }
}

/// An instance and how to reach it.
pub(crate) struct Found {
    pub(crate) context: Context,
    pub(crate) compute: Arc<dyn Compute>,
    pub(crate) instance: Instance,
}

impl Found {
    /// `context:name`, printable.
    pub(crate) fn shown(&self) -> String {
        shown(&self.instance)
    }
}

/// `context:name`, printable.
pub(crate) fn shown(instance: &Instance) -> String {
    let name = if instance.name.is_empty() {
        Untrusted::new(&*instance.id)
    } else {
        instance.name.clone()
    };
    format!("{}:{name}", Untrusted::new(&*instance.context))
}
