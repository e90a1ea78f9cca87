//! Launching a machine exactly once, and waiting for it.

use std::time::Duration;

use boxrig_wire::{
    CallOptions, Error, Idempotency, Json, Kind, NoParams, Result, Timeout, Untrusted,
};
use tokio::time::{Instant, sleep};

use super::vms::{ListVms, Vms};
use crate::ops::{self, GetVmQuery};
use crate::reply::Waitable;
use crate::types::*;

/// The metadata key under which a launch leaves its token.
pub const TOKEN_KEY: &str = "boxrig.token";

/// The longest single long poll; the service may answer sooner.
const LONG_POLL: Duration = Duration::from_secs(25);
/// How much longer than a long poll its call may take.
const SLACK: Duration = Duration::from_secs(10);
const FIRST_PAUSE: Duration = Duration::from_millis(25);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// How to wait for a machine.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Wait {
    /// How long; 300 s by default.
    pub timeout: Duration,
    /// A fixed pause between two questions, instead of the growing one and of the long poll.
    pub poll_interval: Option<Duration>,
}

impl Default for Wait {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(300),
            poll_interval: None,
        }
    }
}

impl Wait {
    /// As long as this.
    pub fn timeout(timeout: Duration) -> Self {
        Self {
            timeout,
            ..Self::default()
        }
    }
    /// With a fixed pause between two questions.
    pub fn poll_interval(mut self, interval: Duration) -> Self {
        self.poll_interval = Some(interval);
        self
    }
}

/// A launch: what the machine is to be, and how it is waited for.
///
/// ```
/// use boxrig_fastvm::{Launch, Ttl, Wait};
/// use std::time::Duration;
/// let launch = Launch::new("c1m2")
///     .name("dev")
///     .metadata("team", "web")
///     .env("LANG", "C.UTF-8")
///     .ttl(Ttl::delete(3600))
///     .wait(Some(Wait::timeout(Duration::from_secs(30))));
/// assert_eq!(launch.request.name.as_deref(), Some("dev"));
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Launch {
    /// What is sent, for members that have no method here.
    pub request: CreateVmRequest,
    wait: Option<Wait>,
    token: bool,
}

impl Launch {
    /// A fresh machine of this size.
    pub fn new(machine_type: impl Into<MachineType>) -> Self {
        Self::with_request(CreateVmRequest {
            machine_type: Some(machine_type.into()),
            ..CreateVmRequest::default()
        })
    }
    /// A machine restored from a snapshot.
    pub fn from_snapshot(snapshot_id: impl Into<String>) -> Self {
        Self::with_request(CreateVmRequest {
            snapshot_id: Some(snapshot_id.into()),
            ..CreateVmRequest::default()
        })
    }
    /// Whatever the request says.
    pub fn with_request(request: CreateVmRequest) -> Self {
        Self {
            request,
            wait: Some(Wait::default()),
            token: true,
        }
    }
    /// With a name.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.request.name = Some(name.into());
        self
    }
    /// With a metadata value more.
    pub fn metadata(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.request
            .metadata
            .get_or_insert_default()
            .insert(key.into(), value.into());
        self
    }
    /// With an environment variable more.
    pub fn env(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.request
            .env_vars
            .get_or_insert_default()
            .0
            .insert(key.into(), value.into());
        self
    }
    /// With this much disk.
    pub fn disk_gib(mut self, gib: u64) -> Self {
        self.request.disk_gib = Some(gib);
        self
    }
    /// With a firewall.
    pub fn firewall(mut self, policy: impl Into<Firewall>) -> Self {
        self.request.firewall = Some(policy.into());
        self
    }
    /// With a time to live.
    pub fn ttl(mut self, ttl: Ttl) -> Self {
        self.request.ttl = Some(ttl);
        self
    }
    /// How to wait until it runs; `None` gives the answer of the launch as it is, which may be of a machine that is queued.
    pub fn wait(mut self, wait: Option<Wait>) -> Self {
        self.wait = wait;
        self
    }
    /// Whether the launch leaves a token in the machine's metadata, under [`TOKEN_KEY`], by which it is found again when the
    /// answer was lost. It does by default, except where that would change what the machine gets: a restore without metadata
    /// of its own inherits those of the snapshot, and 256 keys is the most.
    pub fn token(mut self, leave: bool) -> Self {
        self.token = leave;
        self
    }

    fn put_token(&mut self, key: &str) -> Option<String> {
        let inherits = self.request.snapshot_id.is_some() && self.request.metadata.is_none();
        let metadata = self.request.metadata.as_ref();
        let full = metadata.is_some_and(|m| m.len() >= 256);
        if let Some(own) = metadata.and_then(|m| m.get(TOKEN_KEY)) {
            // The caller's own token: a launch begun in an earlier life.
            return Some(own.clone());
        }
        if !self.token || inherits || full {
            return None;
        }
        let metadata = self.request.metadata.get_or_insert_default();
        metadata.insert(TOKEN_KEY.to_owned(), key.to_owned());
        Some(key.to_owned())
    }
}

pub(super) async fn launch(vms: &Vms<'_>, mut launch: Launch) -> Result<LaunchedVm> {
    let key = super::random_hex()?;
    let token = launch.put_token(&key);
    let wait = launch.wait;
    let reply = launch_once(vms, launch.request, key, token).await?;
    let mut launched = reply.value;
    if let Some(wait) = wait {
        let id = launched.vm.id.clone();
        let first = Some(launched.vm);
        launched.vm = wait_ready(vms, &id, first, reply.can_wait, wait).await?;
    }
    Ok(launched)
}

/// Sends a launch, and looks for its machine before it is sent again or given up.
async fn launch_once(
    vms: &Vms<'_>,
    request: CreateVmRequest,
    key: String,
    token: Option<String>,
) -> Result<Waitable<LaunchedVm>> {
    let policy = vms.client.caller().retry().clone();
    let retries = vms.options.retries.unwrap_or(0);
    let deadline = deadline(vms);
    for attempt in 0.. {
        let mut options = vms.options.clone().retries(0);
        options.idempotency = Some(Idempotency::Never);
        if let Some(deadline) = deadline {
            options.timeout = Timeout::After(deadline.saturating_duration_since(Instant::now()));
        }
        let headers = ops::IdempotencyHeaders {
            key: Some(key.clone()),
        };
        let body = Json(request.clone());
        let sent = vms
            .client
            .call::<ops::LaunchVm>((), NoParams, headers, body, &options)
            .await;
        let error = match sent {
            Ok(reply) => return Ok(reply),
            Err(e) => e.with_attempts(attempt + 1),
        };
        let unknown = error.kind() == Kind::OutcomeUnknown;
        if unknown && let Some(token) = &token {
            match find(vms, token).await {
                Ok(Some(vm)) => {
                    return Ok(Waitable {
                        value: vm.into(),
                        status: http::StatusCode::ACCEPTED,
                        can_wait: false,
                    });
                }
                Ok(None) => {}
                Err(_) => return Err(not_found_by(error, token)),
            }
        }
        // Without a token there is no way to ask whether a lost launch took effect.
        let again = if unknown {
            token.is_some()
        } else {
            error.is_retryable()
        };
        let pause = error
            .retry_after()
            .unwrap_or_else(|| policy.backoff(attempt, unit()));
        let late = deadline.is_some_and(|d| Instant::now() + pause >= d)
            || pause > policy.longest_retry_after;
        if !again || late || attempt >= retries {
            return Err(match &token {
                Some(token) if unknown => not_found_by(error, token),
                _ => error,
            });
        }
        sleep(pause).await;
    }
    unreachable!("the loop ends by returning")
}

fn deadline(vms: &Vms<'_>) -> Option<Instant> {
    let after = match vms.options.timeout {
        Timeout::After(d) => Some(d),
        Timeout::Never => None,
        Timeout::Default => vms.client.caller().timeout(),
    };
    after.map(|d| Instant::now() + d)
}

fn not_found_by(error: Error, token: &str) -> Error {
    error.with_hint(format!(
        "it may have happened: list the machines with metadata {TOKEN_KEY}={token} before launching again"
    ))
}

/// Looks for the machine of a launch whose answer was lost. It may still be on its way, so a few times.
async fn find(vms: &Vms<'_>, token: &str) -> Result<Option<Vm>> {
    let again = Vms::new(vms.client, CallOptions::new().timeout(SLACK));
    for pause in [0, 200, 800] {
        sleep(Duration::from_millis(pause)).await;
        let which = ListVms::new().metadata(TOKEN_KEY, token);
        let found = again.list(which).await?;
        // A server that does not know the filter answers with all machines.
        let ours = |vm: &Vm| {
            let left = vm.metadata.as_ref().and_then(|m| m.get(TOKEN_KEY));
            left.is_some_and(|t| t == token)
        };
        if let Some(vm) = found.into_iter().find(ours) {
            return Ok(Some(vm));
        }
    }
    Ok(None)
}

/// A number in `0.0..1.0` for jitter.
fn unit() -> f64 {
    let mut b = [0; 4];
    match getrandom::fill(&mut b) {
        Ok(()) => f64::from(u32::from_le_bytes(b)) / (f64::from(u32::MAX) + 1.0),
        Err(_) => 0.5,
    }
}

fn failed(vm: &Vm) -> Error {
    let mut error = Error::new(
        Kind::Failed,
        format!("the machine is {} and will not run", vm.status),
    )
    .with_operation("getVm")
    .with_code("vm_launch_failed");
    if let Ok(body) = serde_json::to_vec(vm) {
        error = error.with_body(&body);
    }
    // Older servers say why in a member that no schema has.
    if let Some(reason) = vm.extra.get("reason").and_then(|r| r.as_str()) {
        error = error.with_server_message(Untrusted::new(reason));
    }
    error
}

fn not_ready(id: &str, vm: Option<&Vm>, wait: &Wait, cause: Option<Error>) -> Error {
    let status = vm.map_or_else(|| "not known".to_owned(), |vm| vm.status.to_string());
    let mut error = Error::new(
        Kind::Timeout,
        format!(
            "the machine {} did not run within {:?}; its status is {status}",
            boxrig_wire::escape_line(id),
            wait.timeout
        ),
    )
    .with_operation("getVm")
    .with_code("vm_not_ready");
    if vm.is_some_and(|vm| vm.status == VmStatus::Paused) {
        error = error.with_hint("it is paused: resume it");
    }
    if let Some(cause) = cause {
        error = error.with_source(cause);
    }
    error
}

pub(super) async fn wait_ready(
    vms: &Vms<'_>,
    id: &str,
    mut seen: Option<Vm>,
    mut can_wait: bool,
    wait: Wait,
) -> Result<Vm> {
    let end = Instant::now() + wait.timeout;
    let mut pause = FIRST_PAUSE;
    let mut last_error = None;
    loop {
        if let Some(vm) = &seen {
            match &vm.status {
                VmStatus::Running => return Ok(vm.clone()),
                status if status.is_terminal() => return Err(failed(vm)),
                _ => {}
            }
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(not_ready(id, seen.as_ref(), &wait, last_error));
        }
        let long = can_wait && wait.poll_interval.is_none() && last_error.is_none();
        let mut asked = vms.clone();
        let query = if long {
            let poll = left.min(LONG_POLL);
            asked.options.timeout = Timeout::After(poll + SLACK);
            GetVmQuery {
                wait: Some("running".to_owned()),
                timeout: Some(poll.as_secs_f64()),
            }
        } else {
            GetVmQuery::default()
        };
        match asked.get_waitable(id, query).await {
            Ok(reply) => {
                can_wait = reply.can_wait;
                last_error = None;
                seen = Some(reply.value);
            }
            // The machine goes its way while the service is away for a moment.
            Err(e) if e.is_retryable() => last_error = Some(e),
            Err(e) => return Err(e),
        }
        let answered = seen
            .as_ref()
            .is_some_and(|vm| vm.status == VmStatus::Running || vm.status.is_terminal());
        if answered || (long && last_error.is_none()) {
            // A server that answers a long poll too soon is not asked in a tight loop.
            if !answered {
                sleep(FIRST_PAUSE).await;
            }
            continue;
        }
        let next = wait.poll_interval.unwrap_or(pause);
        pause = pause.mul_f64(1.6).min(LONGEST_PAUSE);
        let left = end.saturating_duration_since(Instant::now());
        sleep(next.min(left)).await;
    }
}
