use std::collections::BTreeMap;

use super::exec::{Exec, ExecStream};
use super::launch::{Launch, Wait};
use super::{BucketMounts, Files, Services, VmVolumes, group};
use crate::types::*;
use crate::{ops, ops::GetVmQuery};
use boxrig_wire::{Json, NoBody, NoParams, Result};

group! {
    /// Machines.
    Vms
}

/// Which machines to list.
///
/// ```
/// use boxrig_fastvm::{ListVms, VmStatus};
/// let which = ListVms::new().status(VmStatus::Running).metadata("team", "web");
/// ```
#[derive(Clone, Debug, Default)]
pub struct ListVms {
    status: Option<String>,
    metadata: BTreeMap<String, String>,
}

impl ListVms {
    /// All that are not deleted.
    pub fn new() -> Self {
        Self::default()
    }
    /// Only those in this status. A status that the service does not know gives none.
    pub fn status(mut self, status: VmStatus) -> Self {
        self.status = Some(status.as_str().to_owned());
        self
    }
    /// Only those with this metadata value; several must all hold.
    pub fn metadata(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.metadata.insert(key.into(), value.into());
        self
    }
}

impl<'a> Vms<'a> {
    /// A machine's HTTP services.
    pub fn services(&self) -> Services<'a> {
        Services::new(self.client, self.options.clone())
    }
    /// Staging of files, the parts that uploads and downloads are made of.
    pub fn files(&self) -> Files<'a> {
        Files::new(self.client, self.options.clone())
    }
    /// Volumes of a machine.
    pub fn volumes(&self) -> VmVolumes<'a> {
        VmVolumes::new(self.client, self.options.clone())
    }
    /// Customers' buckets in a machine.
    pub fn bucket_mounts(&self) -> BucketMounts<'a> {
        BucketMounts::new(self.client, self.options.clone())
    }

    /// Lists machines; the service has no pages.
    ///
    /// # Errors
    ///
    /// The service's, or those of the way to it.
    pub async fn list(&self, which: ListVms) -> Result<Vec<Vm>> {
        let query = ops::ListVmsQuery {
            status: which.status,
            metadata: which.metadata,
        };
        self.client
            .json::<ops::ListVms>((), query, NoBody, &self.options)
            .await
    }

    /// Launches a machine and, unless told otherwise, waits until it runs.
    ///
    /// ```no_run
    /// # async fn f(client: boxrig_fastvm::Client) -> boxrig_wire::Result<()> {
    /// use boxrig_fastvm::Launch;
    /// let vm = client.vms().launch(Launch::new("c1m2").name("dev")).await?.vm;
    /// println!("{} {}", vm.id, vm.status);
    /// let copy = client.vms().launch(Launch::from_snapshot("snp_1").wait(None)).await?.vm;
    /// # Ok(()) }
    /// ```
    ///
    /// A launch is sent once (the default of retries is 0). When its answer is lost, the machine is looked for by a token in
    /// its metadata before anything else is done; see [`Launch::token`].
    ///
    /// # Errors
    ///
    /// * [`Kind::Failed`](boxrig_wire::Kind::Failed), code `vm_launch_failed`: it ended as `error`, `stopped` or `deleting`; the
    ///   error's body is the machine.
    /// * [`Kind::Timeout`](boxrig_wire::Kind::Timeout), code `vm_not_ready`: it did not run in time.
    /// * [`Kind::OutcomeUnknown`](boxrig_wire::Kind::OutcomeUnknown): the answer was lost and the machine could not be found.
    /// * Further the service's own: quota, invalid input.
    pub async fn launch(&self, launch: Launch) -> Result<LaunchedVm> {
        super::launch::launch(self, launch).await
    }

    /// Gets a machine (`retrieve` in the vendor's SDK).
    ///
    /// # Errors
    ///
    /// [`Kind::NotFound`](boxrig_wire::Kind::NotFound) for an id that the organisation does not have.
    pub async fn get(&self, id: &str) -> Result<Vm> {
        let reply = self.get_waitable(id, GetVmQuery::default()).await?;
        Ok(reply.value)
    }

    pub(crate) async fn get_waitable(
        &self,
        id: &str,
        query: GetVmQuery,
    ) -> Result<crate::Waitable<Vm>> {
        self.client
            .call::<ops::GetVm>((id.to_owned(),), query, NoParams, NoBody, &self.options)
            .await
    }

    /// Waits until a machine runs. Where the service offers it the wait is a long poll, else it asks with growing pauses
    /// (25 ms to 1 s), or at the interval of [`Wait::poll_interval`].
    ///
    /// Statuses that this version does not know count as on the way. A paused machine is waited for like the others: somebody
    /// may resume it.
    ///
    /// # Errors
    ///
    /// As [`launch`](Self::launch).
    pub async fn wait_ready(&self, id: &str, wait: Wait) -> Result<Vm> {
        super::launch::wait_ready(self, id, None, false, wait).await
    }

    /// Changes a machine's name, metadata or time to live.
    ///
    /// ```no_run
    /// # async fn f(client: boxrig_fastvm::Client) -> boxrig_wire::Result<()> {
    /// use boxrig_fastvm::{Ttl, UpdateVmRequest};
    /// use boxrig_wire::Patch;
    /// let change = UpdateVmRequest { name: Some("web".into()), ttl: Patch::Set(Ttl::pause(3600)), ..Default::default() };
    /// client.vms().update("0b2e…", change).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// The service's, or those of the way to it.
    pub async fn update(&self, id: &str, change: UpdateVmRequest) -> Result<Vm> {
        self.client
            .json::<ops::UpdateVm>((id.to_owned(),), NoParams, Json(change), &self.options)
            .await
    }

    /// Gives a machine a time to live, which starts a new cycle; `None` takes it away.
    ///
    /// # Errors
    ///
    /// The service's, or those of the way to it.
    pub async fn set_ttl(&self, id: &str, ttl: Option<Ttl>) -> Result<Vm> {
        let change = UpdateVmRequest {
            ttl: ttl.map_or(boxrig_wire::Patch::Clear, boxrig_wire::Patch::Set),
            ..UpdateVmRequest::default()
        };
        self.update(id, change).await
    }

    /// Begins a machine's time to live again.
    ///
    /// # Errors
    ///
    /// [`Kind::Conflict`](boxrig_wire::Kind::Conflict) when it has none.
    pub async fn refresh_ttl(&self, id: &str) -> Result<Vm> {
        self.client
            .json::<ops::RefreshVmTtl>((id.to_owned(),), NoParams, NoBody, &self.options)
            .await
    }

    /// Deletes a machine.
    ///
    /// # Errors
    ///
    /// The service's, or those of the way to it.
    pub async fn delete(&self, id: &str) -> Result<DeleteResponse> {
        self.client
            .json::<ops::DeleteVm>((id.to_owned(),), NoParams, NoBody, &self.options)
            .await
    }

    /// Pauses a machine: memory and disk are kept, its quota is free. One that is paused stays so.
    ///
    /// # Errors
    ///
    /// The service's, or those of the way to it.
    pub async fn pause(&self, id: &str) -> Result<Vm> {
        self.client
            .json::<ops::PauseVm>((id.to_owned(),), NoParams, NoBody, &self.options)
            .await
    }

    /// Resumes a paused machine. The answer may be of one that is still queued: follow with
    /// [`wait_ready`](Self::wait_ready).
    ///
    /// # Errors
    ///
    /// [`Kind::Quota`](boxrig_wire::Kind::Quota) when its quota is used by others by now.
    pub async fn resume(&self, id: &str) -> Result<Vm> {
        self.client
            .json::<ops::ResumeVm>((id.to_owned(),), NoParams, NoBody, &self.options)
            .await
    }

    /// Replaces a machine's firewall policy, in either of its two forms.
    ///
    /// # Errors
    ///
    /// [`Kind::Invalid`](boxrig_wire::Kind::Invalid) for a rule that is wrong or could never match.
    pub async fn set_firewall(&self, id: &str, policy: impl Into<Firewall>) -> Result<Vm> {
        self.client
            .json::<ops::SetVmFirewall>(
                (id.to_owned(),),
                NoParams,
                Json(policy.into()),
                &self.options,
            )
            .await
    }

    /// Changes parts of a machine's firewall policy: what is given replaces what is stored.
    ///
    /// # Errors
    ///
    /// As [`set_firewall`](Self::set_firewall).
    pub async fn patch_firewall(&self, id: &str, change: impl Into<FirewallPatch>) -> Result<Vm> {
        self.client
            .json::<ops::PatchVmFirewall>(
                (id.to_owned(),),
                NoParams,
                Json(change.into()),
                &self.options,
            )
            .await
    }

    /// Makes a token that opens the console once; `console` does both.
    ///
    /// # Errors
    ///
    /// The service's, or those of the way to it.
    pub async fn console_token(&self, id: &str) -> Result<ConsoleTokenResponse> {
        self.client
            .json::<ops::CreateConsoleToken>((id.to_owned(),), NoParams, NoBody, &self.options)
            .await
    }

    /// Runs a command to its end and gives what it wrote.
    ///
    /// ```no_run
    /// # async fn f(client: boxrig_fastvm::Client) -> boxrig_wire::Result<()> {
    /// use boxrig_fastvm::Exec;
    /// use std::time::Duration;
    /// let out = client.vms().run("0b2e…", "ls -la /root").await?;          // through sh -c
    /// let out = client.vms().run("0b2e…", ["python3", "main.py"]).await?;  // as it is
    /// println!("{} {}", out.exit_code, out.stdout);
    /// let exec = Exec::new("make").stdin("y\n").timeout(Duration::from_secs(600));
    /// let out = client.vms().run("0b2e…", exec).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// It is sent once (the default of retries is 0). Each stream is cut at 4 MiB by the service. A command that runs out of
    /// [`Exec::timeout`] or [`Exec::deadline`] is a result with `timed_out` and what it wrote until then, no error.
    ///
    /// The call's own deadline is that of the client (60 s by default), or the command's timeout and some slack where that is
    /// longer: a call never gives up on a command that may still run.
    ///
    /// # Errors
    ///
    /// * [`Kind::Conflict`](boxrig_wire::Kind::Conflict): the machine does not run.
    /// * [`Kind::OutcomeUnknown`](boxrig_wire::Kind::OutcomeUnknown): the connection broke after the command was sent.
    pub async fn run(&self, id: &str, exec: impl Into<Exec>) -> Result<ExecResponse> {
        super::exec::run(self, id, exec.into()).await
    }

    /// Runs a command and gives what happens as it happens. There is no limit to its output.
    ///
    /// ```no_run
    /// # async fn f(client: boxrig_fastvm::Client) -> boxrig_wire::Result<()> {
    /// use boxrig_fastvm::ExecEvent;
    /// use futures_util::StreamExt;
    /// let mut events = client.vms().stream("0b2e…", "make -j8").await?;
    /// while let Some(event) = events.next().await {
    ///     match event? {
    ///         ExecEvent::Stdout(bytes) => print!("{}", String::from_utf8_lossy(&bytes)),
    ///         ExecEvent::Stderr(bytes) => eprint!("{}", String::from_utf8_lossy(&bytes)),
    ///         ExecEvent::Exit(exit) => println!("exit {}", exit.code),
    ///         _ => {}
    ///     }
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// Those until the command started; the stream has those that come later.
    pub async fn stream(&self, id: &str, exec: impl Into<Exec>) -> Result<ExecStream> {
        super::exec::stream(self, id, exec.into()).await
    }
}
