//! Convox' 99 operations of a rack, those of a console and of generation 1, and the commands that are several of them.

use boxrig_convox::ops::apps::*;
use boxrig_convox::ops::auth::*;
use boxrig_convox::ops::balancers::*;
use boxrig_convox::ops::budget::*;
use boxrig_convox::ops::builds::*;
use boxrig_convox::ops::certificates::*;
use boxrig_convox::ops::configs::*;
use boxrig_convox::ops::cost::AppCost;
use boxrig_convox::ops::diagnose::*;
use boxrig_convox::ops::events::*;
use boxrig_convox::ops::files::*;
use boxrig_convox::ops::instances::*;
use boxrig_convox::ops::letsencrypt::*;
use boxrig_convox::ops::manifest::*;
use boxrig_convox::ops::metrics::*;
use boxrig_convox::ops::objects::*;
use boxrig_convox::ops::processes::*;
use boxrig_convox::ops::proxy::*;
use boxrig_convox::ops::registries::*;
use boxrig_convox::ops::releases::*;
use boxrig_convox::ops::resources::*;
use boxrig_convox::ops::services::*;
use boxrig_convox::ops::system::*;
use boxrig_convox::ops::system_resources::*;
use boxrig_convox::ops::{console, v2_classic as v2};
use clap::{Arg, ArgAction, Command};

use super::{Native, Natives};

/// The platform.
pub(crate) struct Convox;

macro_rules! operations {
    ($($name:path),* $(,)?) => { &[$(Native::as_answered::<$name>()),*] };
}

impl Natives for Convox {
    const PLATFORM: &'static str = "convox";

    const OPERATIONS: &'static [Native] = operations![
        AppCancel,
        AppCreate,
        AppDelete,
        AppGet,
        AppList,
        AppLogs,
        AppMetrics,
        AppUpdate,
        Auth,
        BalancerList,
        AppBudgetGet,
        AppBudgetSet,
        AppBudgetClear,
        AppBudgetReset,
        AppBudgetShutdownStateGet,
        AppBudgetSimulate,
        AppBudgetDismissRecovery,
        BuildCreate,
        BuildExport,
        BuildGet,
        BuildImport,
        BuildImportImage,
        BuildList,
        BuildLogs,
        BuildUpdate,
        CertificateApply,
        CertificateCreate,
        CertificateDelete,
        CertificateRenew,
        CertificateGenerate,
        CertificateList,
        AppConfigList,
        AppConfigGet,
        AppConfigSet,
        AppCost,
        AppDiagnose,
        EventSend,
        FilesDelete,
        FilesDownload,
        FilesUpload,
        InstanceKeyroll,
        InstanceList,
        InstanceShell,
        InstanceTerminate,
        LetsEncryptConfigGet,
        LetsEncryptConfigApply,
        AppManifestService,
        MetricsByService,
        ObjectDelete,
        ObjectExists,
        ObjectFetch,
        ObjectList,
        ObjectStore,
        ProcessExec,
        ProcessGet,
        ProcessList,
        ProcessLogs,
        ProcessRun,
        ProcessStop,
        Proxy,
        RegistryAdd,
        RegistryList,
        RegistryRemove,
        ReleaseCreate,
        ReleaseGet,
        ReleaseList,
        ReleasePromote,
        ResourceConsole,
        ResourceExport,
        ResourceGet,
        ResourceImport,
        ResourceList,
        ServiceLogs,
        ServiceList,
        ServiceMetrics,
        ServiceRestart,
        ServiceScaleOverrideSet,
        ServiceTriggersDisable,
        ServiceTriggersEnable,
        ServiceTriggersThresholdSet,
        ServiceUpdate,
        CapacityGet,
        SystemGet,
        SystemLogs,
        SystemMetrics,
        SystemJwtSignKeyRotate,
        SystemJwtToken,
        SystemProcesses,
        SystemReleases,
        SystemUpdate,
        KarpenterCleanup,
        SystemResourceCreate,
        SystemResourceDelete,
        SystemResourceGet,
        SystemResourceLink,
        SystemResourceList,
        SystemResourceTypes,
        SystemResourceUnlink,
        SystemResourceUpdate,
        console::RackList,
        console::RackCreate,
        console::RackGet,
        console::RackUpdate,
        console::RackDelete,
        console::RackInstall,
        console::RackSync,
        console::RackHost,
        console::Runtimes,
        console::RuntimeAttach,
        console::WorkflowList,
        console::WorkflowCustomRun,
        console::OrganizationRuntimes,
        console::MachineList,
        v2::AppParametersGet,
        v2::AppParametersSet,
        v2::BuildCreateUpload,
        v2::BuildImportMultipart,
        v2::BuildImportUrl,
        v2::CertificateCreateClassic,
        v2::EnvironmentSet,
        v2::EnvironmentUnset,
        v2::FormationGet,
        v2::FormationUpdate,
        v2::SslList,
        v2::InstanceShellClassic,
        v2::ProcessRunAttached,
        v2::ProcessRunDetached,
        v2::RegistryRemoveClassic,
        v2::ResourceCreateClassic,
        v2::ResourceUpdateClassic,
    ];

    fn more() -> Vec<Command> {
        let app = || Arg::new("app").value_name("APP").required(true);
        let promote = || {
            Arg::new("promote")
                .long("promote")
                .action(ArgAction::SetTrue)
                .help("Make the new release the active one, and wait for it")
        };
        vec![
            Command::new("env")
                .about("The variables of the newest release")
                .arg(app()),
            Command::new("env-set")
                .about("Sets variables: a new release on top of the newest")
                .arg(app())
                .arg(
                    Arg::new("variable")
                        .value_name("NAME=VALUE")
                        .required(true)
                        .action(ArgAction::Append)
                        .value_parser(crate::cli::units::pair),
                )
                .arg(
                    Arg::new("replace")
                        .long("replace")
                        .action(ArgAction::SetTrue)
                        .help("Take all other variables away"),
                )
                .arg(promote()),
            Command::new("env-unset")
                .about("Takes variables away: a new release on top of the newest")
                .arg(app())
                .arg(Arg::new("variable").value_name("NAME").required(true).action(ArgAction::Append))
                .arg(promote()),
            Command::new("rollback")
                .about("Goes back to an earlier release: a new one of its build and variables, promoted")
                .arg(app())
                .arg(Arg::new("release").value_name("RELEASE").required(true)),
        ]
    }
}

/// Whether an operation's socket ends with an exit code.
pub(crate) fn has_exit_code(operation: &str) -> bool {
    matches!(
        operation,
        "ProcessExec" | "InstanceShell" | "v2.InstanceShellClassic" | "v2.ProcessRunAttached"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_has_a_command() {
        let ours: Vec<_> = Convox::OPERATIONS.iter().map(|n| n.meta.id).collect();
        let catalogs = [
            boxrig_convox::CATALOG,
            boxrig_convox::CONSOLE,
            boxrig_convox::CLASSIC,
        ];
        let described: Vec<_> = catalogs
            .iter()
            .flat_map(|c| c.iter())
            .map(|m| m.id)
            .collect();
        assert_eq!(ours, described);
    }

    #[test]
    fn the_tree_is_sound() {
        super::super::tree::<Convox>(clap::Command::new("convox")).debug_assert();
    }
}
