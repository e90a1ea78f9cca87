use boxrig_wire::{Json, NoBody, NoParams, Result, Secret};

use super::group;
use crate::ops;
use crate::types::*;

group! {
    /// HTTP services of a machine.
    Services
}

impl Services<'_> {
    /// Lists a machine's services, by name.
    ///
    /// # Errors
    ///
    /// The service's, or those of the way to it.
    pub async fn list(&self, vm_id: &str) -> Result<Vec<Service>> {
        self.client
            .json::<ops::ListServices>((vm_id.to_owned(),), NoParams, NoBody, &self.options)
            .await
    }
    /// Registers a service. The same once more gives the one that is there.
    ///
    /// ```no_run
    /// # async fn f(client: boxrig_fastvm::Client) -> boxrig_wire::Result<()> {
    /// use boxrig_fastvm::RegisterServiceRequest;
    /// let web = RegisterServiceRequest { name: "web".into(), port: 8080, ..Default::default() };
    /// client.vms().services().register("0b2e…", web).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Kind::Conflict`](boxrig_wire::Kind::Conflict) when the name has another port or protocol ([`update`](Self::update)
    /// changes it), [`Kind::Quota`](boxrig_wire::Kind::Quota) with code `vm_service_quota_exceeded` when the machine has as many as
    /// it may have.
    pub async fn register(&self, vm_id: &str, service: RegisterServiceRequest) -> Result<Service> {
        self.client
            .json::<ops::RegisterService>(
                (vm_id.to_owned(),),
                NoParams,
                Json(service),
                &self.options,
            )
            .await
    }
    /// Registers a service, or changes the one of this name.
    ///
    /// # Errors
    ///
    /// [`Kind::Quota`](boxrig_wire::Kind::Quota) as [`register`](Self::register).
    pub async fn update(
        &self,
        vm_id: &str,
        name: &str,
        service: UpdateServiceRequest,
    ) -> Result<Service> {
        let path = (vm_id.to_owned(), name.to_owned());
        self.client
            .json::<ops::UpdateService>(path, NoParams, Json(service), &self.options)
            .await
    }
    /// Removes a service; one that is not there is no error.
    ///
    /// # Errors
    ///
    /// The service's, or those of the way to it.
    pub async fn delete(&self, vm_id: &str, name: &str) -> Result<()> {
        let path = (vm_id.to_owned(), name.to_owned());
        self.client
            .call::<ops::DeleteService>(path, NoParams, NoParams, NoBody, &self.options)
            .await
            .map(|_| ())
    }
}

group! {
    /// Staging of files: what uploads and downloads are made of.
    Files
}

impl Files<'_> {
    /// Makes a staging object for a path: two signed URLs.
    ///
    /// # Errors
    ///
    /// The service's, or those of the way to it.
    pub async fn presign(&self, vm_id: &str, path: &str) -> Result<FilePresignResponse> {
        let request = FilePresignRequest {
            path: path.to_owned(),
            ..FilePresignRequest::default()
        };
        self.client
            .json::<ops::PresignFile>((vm_id.to_owned(),), NoParams, Json(request), &self.options)
            .await
    }
    /// Makes a machine fetch a staging object to a path of its own; `timeout_sec` bounds it there. The call's own deadline
    /// is never shorter than that.
    ///
    /// The answer is that of the command that fetched: look at its exit code.
    ///
    /// # Errors
    ///
    /// [`Kind::Invalid`](boxrig_wire::Kind::Invalid) for a URL that [`presign`](Self::presign) did not give.
    pub async fn fetch(
        &self,
        vm_id: &str,
        url: &Secret,
        path: &str,
        timeout_sec: Option<u64>,
    ) -> Result<ExecResponse> {
        let request = FileFetchRequest {
            url: url.clone(),
            path: path.to_owned(),
            timeout_sec,
            ..FileFetchRequest::default()
        };
        let mut options = self.options.clone();
        if let (boxrig_wire::Timeout::Default, Some(limit), Some(own)) =
            (options.timeout, timeout_sec, self.client.caller().timeout())
        {
            let needed = std::time::Duration::from_secs(limit.saturating_add(30));
            options.timeout = own.max(needed).into();
        }
        self.client
            .json::<ops::FetchFile>((vm_id.to_owned(),), NoParams, Json(request), &options)
            .await
    }
}

group! {
    /// Volumes of a machine.
    VmVolumes
}

impl VmVolumes<'_> {
    /// Attaches a volume: at once when the machine runs, at its resume when it is paused.
    ///
    /// # Errors
    ///
    /// [`Kind::Conflict`](boxrig_wire::Kind::Conflict) with code `VOL_NOT_READY` while the volume is being made.
    pub async fn attach(
        &self,
        vm_id: &str,
        volume: VolumeAttachRequest,
    ) -> Result<VolumeAttachment> {
        self.client
            .keyed::<ops::AttachVolume>((vm_id.to_owned(),), Json(volume), &self.options)
            .await
    }
    /// Detaches a volume. It succeeds even if the machine did not confirm: look at the warnings.
    ///
    /// # Errors
    ///
    /// The service's, or those of the way to it.
    pub async fn detach(&self, vm_id: &str, volume_id: &str) -> Result<DetachVolumeResponse> {
        let path = (vm_id.to_owned(), volume_id.to_owned());
        self.client
            .json::<ops::DetachVolume>(path, NoParams, NoBody, &self.options)
            .await
    }
}

group! {
    /// Customers' buckets in a machine.
    BucketMounts
}

impl BucketMounts<'_> {
    /// Lists a machine's bucket mounts.
    ///
    /// # Errors
    ///
    /// The service's, or those of the way to it.
    pub async fn list(&self, vm_id: &str) -> Result<Vec<BucketMount>> {
        self.client
            .json::<ops::ListBucketMounts>((vm_id.to_owned(),), NoParams, NoBody, &self.options)
            .await
    }
    /// Mounts a bucket.
    ///
    /// # Errors
    ///
    /// The service's, or those of the way to it.
    pub async fn attach(
        &self,
        vm_id: &str,
        bucket: AttachBucketMountRequest,
    ) -> Result<BucketMount> {
        self.client
            .keyed::<ops::AttachBucketMount>((vm_id.to_owned(),), Json(bucket), &self.options)
            .await
    }
    /// Gets a bucket mount.
    ///
    /// # Errors
    ///
    /// The service's, or those of the way to it.
    pub async fn get(&self, vm_id: &str, id: &str) -> Result<BucketMount> {
        let path = (vm_id.to_owned(), id.to_owned());
        self.client
            .json::<ops::GetBucketMount>(path, NoParams, NoBody, &self.options)
            .await
    }
    /// Gives a bucket mount new credentials, in place.
    ///
    /// # Errors
    ///
    /// The service's, or those of the way to it.
    pub async fn rotate(
        &self,
        vm_id: &str,
        id: &str,
        credentials: BucketMountCredentials,
    ) -> Result<BucketMount> {
        let path = (vm_id.to_owned(), id.to_owned());
        let request = RotateBucketMountRequest {
            credentials,
            ..RotateBucketMountRequest::default()
        };
        self.client
            .json::<ops::RotateBucketMount>(path, NoParams, Json(request), &self.options)
            .await
    }
    /// Unmounts a bucket.
    ///
    /// # Errors
    ///
    /// The service's, or those of the way to it.
    pub async fn delete(&self, vm_id: &str, id: &str) -> Result<()> {
        let path = (vm_id.to_owned(), id.to_owned());
        self.client
            .call::<ops::DeleteBucketMount>(path, NoParams, NoParams, NoBody, &self.options)
            .await
            .map(|_| ())
    }
}

group! {
    /// Snapshots.
    Snapshots
}

impl Snapshots<'_> {
    /// Lists the snapshots.
    ///
    /// # Errors
    ///
    /// The service's, or those of the way to it.
    pub async fn list(&self) -> Result<Vec<Snapshot>> {
        self.client
            .json::<ops::ListSnapshots>((), NoParams, NoBody, &self.options)
            .await
    }
    /// Takes a snapshot of a machine that runs or is paused. Sent once (the default of retries is 0).
    ///
    /// # Errors
    ///
    /// [`Kind::Quota`](boxrig_wire::Kind::Quota), and [`Kind::OutcomeUnknown`](boxrig_wire::Kind::OutcomeUnknown) when the answer was
    /// lost: list the snapshots before taking another.
    pub async fn create(&self, vm_id: &str, name: Option<&str>) -> Result<Snapshot> {
        let request = CreateSnapshotRequest {
            vm_id: vm_id.to_owned(),
            name: name.map(str::to_owned),
            ..CreateSnapshotRequest::default()
        };
        self.client
            .keyed::<ops::CreateSnapshot>((), Json(request), &self.options)
            .await
    }
    /// Gets a snapshot.
    ///
    /// # Errors
    ///
    /// The service's, or those of the way to it.
    pub async fn get(&self, id: &str) -> Result<Snapshot> {
        self.client
            .json::<ops::GetSnapshot>((id.to_owned(),), NoParams, NoBody, &self.options)
            .await
    }
    /// Renames a snapshot (`update` in the vendor's SDK).
    ///
    /// # Errors
    ///
    /// The service's, or those of the way to it.
    pub async fn rename(&self, id: &str, name: &str) -> Result<Snapshot> {
        let change = UpdateSnapshotRequest {
            name: Some(name.to_owned()),
            ..UpdateSnapshotRequest::default()
        };
        self.client
            .json::<ops::UpdateSnapshot>((id.to_owned(),), NoParams, Json(change), &self.options)
            .await
    }
    /// Deletes a snapshot.
    ///
    /// # Errors
    ///
    /// The service's, or those of the way to it.
    pub async fn delete(&self, id: &str) -> Result<DeleteResponse> {
        self.client
            .json::<ops::DeleteSnapshot>((id.to_owned(),), NoParams, NoBody, &self.options)
            .await
    }
}

group! {
    /// Snapshots made from images and Dockerfiles. `Client::build` puts these together.
    SnapshotImports
}

impl SnapshotImports<'_> {
    /// Lists the organisation's imports.
    ///
    /// # Errors
    ///
    /// The service's, or those of the way to it.
    pub async fn list(&self) -> Result<Vec<SnapshotImport>> {
        self.client
            .json::<ops::ListSnapshotImports>((), NoParams, NoBody, &self.options)
            .await
    }
    /// Begins an import. Sent once (the default of retries is 0).
    ///
    /// # Errors
    ///
    /// [`Kind::Invalid`](boxrig_wire::Kind::Invalid) for a source that mixes both kinds.
    pub async fn create(&self, request: CreateSnapshotImportRequest) -> Result<SnapshotImport> {
        self.client
            .keyed::<ops::CreateSnapshotImport>((), Json(request), &self.options)
            .await
    }
    /// Makes a place for a build context of this size in bytes.
    ///
    /// # Errors
    ///
    /// [`Kind::Invalid`](boxrig_wire::Kind::Invalid) when the service takes no context as large.
    pub async fn presign_context(&self, size_bytes: Option<u64>) -> Result<ContextPresignResponse> {
        let request = ContextPresignRequest {
            size_bytes,
            ..ContextPresignRequest::default()
        };
        self.client
            .json::<ops::PresignImportContext>((), NoParams, Json(request), &self.options)
            .await
    }
    /// Gets an import.
    ///
    /// # Errors
    ///
    /// The service's, or those of the way to it.
    pub async fn get(&self, id: &str) -> Result<SnapshotImport> {
        self.client
            .json::<ops::GetSnapshotImport>((id.to_owned(),), NoParams, NoBody, &self.options)
            .await
    }
    /// Deletes an import that is over, **and its snapshot**.
    ///
    /// # Errors
    ///
    /// [`Kind::Conflict`](boxrig_wire::Kind::Conflict) while it is not over.
    pub async fn delete(&self, id: &str) -> Result<DeleteResponse> {
        self.client
            .json::<ops::DeleteSnapshotImport>((id.to_owned(),), NoParams, NoBody, &self.options)
            .await
    }
    /// Cancels an import.
    ///
    /// # Errors
    ///
    /// [`Kind::Conflict`](boxrig_wire::Kind::Conflict) when it is over.
    pub async fn cancel(&self, id: &str) -> Result<SnapshotImport> {
        self.client
            .json::<ops::CancelSnapshotImport>((id.to_owned(),), NoParams, NoBody, &self.options)
            .await
    }
}

group! {
    /// Managed volumes.
    Volumes
}

impl Volumes<'_> {
    /// Makes a volume.
    ///
    /// # Errors
    ///
    /// The service's, or those of the way to it.
    pub async fn create(&self, volume: CreateVolumeRequest) -> Result<Volume> {
        self.client
            .keyed::<ops::CreateVolume>((), Json(volume), &self.options)
            .await
    }
    /// Lists the volumes: an extension of boxrig's server.
    ///
    /// # Errors
    ///
    /// [`Kind::NotFound`](boxrig_wire::Kind::NotFound) or [`Kind::Invalid`](boxrig_wire::Kind::Invalid) from a service without it.
    pub async fn list(&self) -> Result<Vec<Volume>> {
        self.client
            .json::<ops::ListVolumes>((), NoParams, NoBody, &self.options)
            .await
    }
    /// Gets a volume.
    ///
    /// # Errors
    ///
    /// The service's, or those of the way to it.
    pub async fn get(&self, id: &str) -> Result<Volume> {
        self.client
            .json::<ops::GetVolume>((id.to_owned(),), NoParams, NoBody, &self.options)
            .await
    }
    /// Changes a volume's name, size or access. Until a new size is in force the volume shows it as pending.
    ///
    /// # Errors
    ///
    /// [`Kind::Conflict`](boxrig_wire::Kind::Conflict) when what is in use would not fit.
    pub async fn update(&self, id: &str, change: UpdateVolumeRequest) -> Result<Volume> {
        self.client
            .json::<ops::UpdateVolume>((id.to_owned(),), NoParams, Json(change), &self.options)
            .await
    }
    /// Deletes a volume.
    ///
    /// # Errors
    ///
    /// [`Kind::Conflict`](boxrig_wire::Kind::Conflict) while it is attached.
    pub async fn delete(&self, id: &str) -> Result<DeleteResponse> {
        self.client
            .json::<ops::DeleteVolume>((id.to_owned(),), NoParams, NoBody, &self.options)
            .await
    }
    /// Lists the machines that have a volume.
    ///
    /// # Errors
    ///
    /// The service's, or those of the way to it.
    pub async fn list_attachments(&self, id: &str) -> Result<Vec<VolumeAttachmentWithVm>> {
        self.client
            .json::<ops::ListVolumeAttachments>((id.to_owned(),), NoParams, NoBody, &self.options)
            .await
    }
}

group! {
    /// The calling user.
    Me
}

impl<'a> Me<'a> {
    /// SSH keys.
    pub fn ssh_keys(&self) -> SshKeys<'a> {
        SshKeys::new(self.client, self.options.clone())
    }
}

group! {
    /// SSH keys of the calling user. With one in place, `ssh <machine's id>@ssh.<domain>` logs in.
    SshKeys
}

impl SshKeys<'_> {
    /// Lists the keys.
    ///
    /// # Errors
    ///
    /// The service's, or those of the way to it.
    pub async fn list(&self) -> Result<Vec<SshKey>> {
        let list = self
            .client
            .json::<ops::ListSshKeys>((), NoParams, NoBody, &self.options)
            .await?;
        Ok(list.keys)
    }
    /// Adds a key: the text of a `.pub` file.
    ///
    /// # Errors
    ///
    /// [`Kind::Invalid`](boxrig_wire::Kind::Invalid), before anything is sent, for text that is not one line of a public key.
    pub async fn add(&self, public_key: &str, name: Option<&str>) -> Result<SshKey> {
        crate::ssh_fingerprint(public_key).map_err(|e| e.with_operation("addSshKey"))?;
        let request = AddSshKeyRequest {
            public_key: public_key.trim().to_owned(),
            name: name.map(str::to_owned),
            ..AddSshKeyRequest::default()
        };
        self.client
            .keyed::<ops::AddSshKey>((), Json(request), &self.options)
            .await
    }
    /// Removes a key by its fingerprint, `SHA256:…`; [`ssh_fingerprint`](crate::ssh_fingerprint) computes it.
    ///
    /// # Errors
    ///
    /// The service's, or those of the way to it.
    pub async fn delete(&self, fingerprint: &str) -> Result<DeleteResponse> {
        self.client
            .json::<ops::DeleteSshKey>((fingerprint.to_owned(),), NoParams, NoBody, &self.options)
            .await
    }
}

group! {
    /// What the organisation may use.
    Quotas
}

impl Quotas<'_> {
    /// Gets the limits and what is used of them (`retrieve` in the vendor's SDK).
    ///
    /// # Errors
    ///
    /// The service's, or those of the way to it.
    pub async fn get(&self) -> Result<OrgQuotaUsage> {
        self.client
            .json::<ops::GetOrgQuotas>((), NoParams, NoBody, &self.options)
            .await
    }
}

group! {
    /// Builds of the older API, which the snapshot imports replaced.
    Builds
}

impl Builds<'_> {
    /// Begins a build. Sent once (the default of retries is 0).
    ///
    /// # Errors
    ///
    /// The service's, or those of the way to it.
    pub async fn create(&self, request: BuildCreateRequest) -> Result<BuildResponse> {
        self.client
            .keyed::<ops::CreateBuild>((), Json(request), &self.options)
            .await
    }
    /// Gets a build.
    ///
    /// # Errors
    ///
    /// The service's, or those of the way to it.
    pub async fn get(&self, id: &str) -> Result<BuildResponse> {
        self.client
            .json::<ops::GetBuild>((id.to_owned(),), NoParams, NoBody, &self.options)
            .await
    }
    /// Makes a place for a build context, a `tar.gz`.
    ///
    /// # Errors
    ///
    /// The service's, or those of the way to it.
    pub async fn presign_context(&self) -> Result<FilePresignResponse> {
        self.client
            .json::<ops::PresignBuildContext>((), NoParams, NoBody, &self.options)
            .await
    }
}
