//! What only a console has.

use boxrig_wire::Form;

use super::{one, three, two};
use crate::client::{calls, group};
use crate::models::{
    ConsoleRack, Machine, RackData, RackResponse, Runtime, WorkflowCustomRunResp, WorkflowListResp,
};
use crate::ops::console as ops;
use crate::ops::console::{
    RackCreateForm, RackInstallForm, RackUpdateForm, RuntimeAttachForm, WorkflowCustomRunForm,
};

group! {
    /// What only a console has: racks of organisations, runtimes, workflows, machines.
    Console by console,
}

calls! { Console {
    /// The racks that the caller can reach.
    racks() -> Vec<ConsoleRack> = ops::RackList {};
    /// One rack.
    rack(org: &str, rack: &str) -> ConsoleRack = ops::RackGet { path: two(org, rack) };
    /// Registers a rack. Never sent twice.
    create_rack(form: RackCreateForm) -> ConsoleRack = ops::RackCreate { body: Form(form) };
    /// Changes a rack's version or parameters.
    update_rack(org: &str, rack: &str, form: RackUpdateForm) -> () = ops::RackUpdate { path: two(org, rack), body: Form(form) };
    /// Takes a rack off the console.
    delete_rack(org: &str, rack: &str) -> () = ops::RackDelete { path: two(org, rack) };
    /// Installs a rack. Never sent twice.
    install_rack(org: &str, rack: &str, form: RackInstallForm) -> RackResponse = ops::RackInstall { path: two(org, rack), body: Form(form) };
    /// Has the console look at a rack again. Never sent twice.
    sync_rack(org: &str, rack: &str) -> () = ops::RackSync { path: two(org, rack) };
    /// The address of a rack.
    rack_host(org: &str, rack: &str) -> RackData = ops::RackHost { path: two(org, rack) };
    /// The runtimes that a rack can have.
    rack_runtimes(org: &str, rack: &str) -> Vec<Runtime> = ops::Runtimes { path: two(org, rack) };
    /// Gives a rack a runtime.
    attach_runtime(org: &str, rack: &str, runtime: &str) -> () = ops::RuntimeAttach { path: two(org, rack), body: Form(RuntimeAttachForm { runtime: Some(runtime.to_owned()) }) };
    /// The workflows of a rack.
    workflows(org: &str, rack: &str) -> WorkflowListResp = ops::WorkflowList { path: two(org, rack) };
    /// Runs a workflow. Never sent twice.
    run_workflow(org: &str, rack: &str, workflow: &str, form: WorkflowCustomRunForm) -> WorkflowCustomRunResp = ops::WorkflowCustomRun { path: three(org, rack, workflow), body: Form(form) };
    /// The runtimes of an organisation.
    runtimes(org: &str) -> Vec<Runtime> = ops::OrganizationRuntimes { path: one(org) };
    /// The machines of the caller.
    machines() -> Vec<Machine> = ops::MachineList {};
} }
