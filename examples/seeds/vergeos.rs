//! Every example of the vendor's Python SDK document, in Rust, on the system of `VERGE_HOST`.
//!
//! `boxrig up --seed lab && eval "$(boxrig env)" && cargo run -p boxrig-examples --example vergeos`. As tests they run on a
//! stocked laboratory in the process. Where the document names what a system may not have ("Ubuntu Server"), the laboratory's
//! own name is used.

use std::time::{Duration, SystemTime};

use boxrig_vergeos::{Client, Filter, Key, RowType, Time};
use boxrig_wire::{Error, Kind, Result};
use serde_json::json;

/// Fails when an example does not hold.
fn holds(what: &str, so: bool) -> Result<()> {
    match so {
        true => Ok(()),
        false => Err(Error::new(Kind::Failed, format!("does not hold: {what}"))),
    }
}

/// What must be there.
fn some<T>(what: &str, found: Option<T>) -> Result<T> {
    found.ok_or_else(|| Error::new(Kind::Failed, format!("there is no {what}")))
}

#[tokio::main]
async fn main() -> Result<()> {
    // "Or from environment variables"
    let client = Client::from_env()?;
    client.connect().await?;
    class(&client).await?;
    auth_sources(&client).await?;
    auth_source_states(&client).await?;
    tenant_dashboard(&client).await?;
    billing(&client).await?;
    network_dashboard(&client).await?;
    tags(&client).await?;
    tag_categories(&client).await?;
    vm_imports(&client).await?;
    vm_import_logs(&client).await?;
    volume_vm_exports(&client).await?;
    volume_vm_export_stats(&client).await?;
    vm_recipes(&client).await?;
    tenant_recipes(&client).await?;
    recipe_questions_and_sections(&client).await?;
    task_schedules(&client).await?;
    task_schedule_triggers(&client).await?;
    task_events(&client).await?;
    task_scripts(&client).await?;
    catalog_repositories(&client).await?;
    catalogs(&client).await?;
    catalog_logs(&client).await?;
    catalog_repository_status(&client).await?;
    vgpu_profiles(&client).await?;
    oidc_applications(&client).await?;
    update_settings(&client).await?;
    update_sources_and_branches(&client).await?;
    update_packages(&client).await?;
    update_logs(&client).await?;
    update_dashboard(&client).await?;
    client.disconnect().await?;
    println!("all examples hold");
    Ok(())
}

/// The class's own example: list, and end the connection. In Rust a client is dropped; `disconnect` ends it before that.
async fn class(client: &Client) -> Result<()> {
    let vms = client.vms().list().await?;
    holds("vms.list", vms.iter().any(|vm| vm.key().is_some()))
}

async fn auth_sources(client: &Client) -> Result<()> {
    // Create a Google auth source
    let settings = json!({"client_id": "your-client-id", "client_secret": "your-secret"});
    let made = client
        .auth_sources()
        .create("Google", "google")
        .settings(settings)
        .await?;
    // List all auth sources
    let all = client.auth_sources().list().await?;
    for source in &all {
        println!("{:?} ({:?})", source.name(), source.driver());
    }
    holds(
        "auth_sources.list",
        all.iter().any(|s| s.key() == made.key()),
    )?;
    // Get one
    let google = client.auth_sources().get().name("Google").await?;
    holds("auth_sources.get", google.driver() == Some("google"))?;
    holds("is_google", google.is_google() == Some(true))?;
    client.auth_sources().delete(&google).await
}

async fn auth_source_states(client: &Client) -> Result<()> {
    let made = client.auth_sources().create("SSO", "okta").await?;
    let key = some("key", made.key())?;
    // A state is made when somebody begins to log in; this one is as old as the epoch.
    let state = json!({"auth_source": 1, "state": "abc", "timestamp": 1});
    let row = state.as_object().cloned().unwrap_or_default();
    let old = boxrig_vergeos::rows::AuthSourceState::from_map(row);
    holds("an old state is expired", old.is_expired() == Some(true))?;
    for state in client.auth_source_states().list().auth_source(&key).await? {
        println!("{:?}: expired={:?}", state.key(), state.is_expired());
    }
    client.auth_sources().delete(&made).await
}

async fn tenant_dashboard(client: &Client) -> Result<()> {
    let dashboard = client.tenant_dashboard().get().await?;
    let (online, all) = (dashboard.tenants_online(), dashboard.tenants_count());
    println!("Online: {online:?}/{all:?}");
    println!("Errors: {:?}", dashboard.tenants_error());
    holds("tenants are counted", online <= all && all > Some(0))?;
    holds("errors are counted", dashboard.tenants_error().is_some())
}

async fn billing(client: &Client) -> Result<()> {
    // Generate a new billing report
    let before = client.billing().list().await?.len();
    client.billing().generate().await?;
    // List billing records
    let records = client.billing().list().limit(100).await?;
    for record in &records {
        println!("{:?}: {:?} cores", record.created(), record.used_cores());
    }
    holds("a report was made", records.len() == before + 1)?;
    // Get the latest billing record
    let latest = client.billing().get_latest().await?;
    let share = some("cpu_utilization_pct", latest.cpu_utilization_pct())?;
    holds("a share is one", (0.0..=100.0).contains(&share))?;
    let newest = records.iter().filter_map(|r| r.created()).max();
    holds("the latest is the newest", latest.created() == newest)?;
    // Get summary over time
    let month = SystemTime::now().checked_sub(Duration::from_secs(30 * 86_400));
    let since = Time::from(month.unwrap_or(SystemTime::UNIX_EPOCH));
    let summary = client.billing().get_summary().since(since).await?;
    holds("a summary", summary.is_object() || summary.is_array())
}

async fn network_dashboard(client: &Client) -> Result<()> {
    let dashboard = client.network_dashboard().get().await?;
    println!(
        "Online: {:?}/{:?}",
        dashboard.vnets_online(),
        dashboard.vnets_count()
    );
    println!(
        "External: {:?}/{:?}",
        dashboard.ext_online(),
        dashboard.ext_count()
    );
    println!(
        "Internal: {:?}/{:?}",
        dashboard.int_online(),
        dashboard.int_count()
    );
    if dashboard.has_errors() == Some(true) {
        println!(
            "WARNING: {:?} networks in error state!",
            dashboard.vnets_error()
        );
    }
    let errors = some("vnets_error", dashboard.vnets_error())?;
    holds("has_errors", dashboard.has_errors() == Some(errors > 0))?;
    // Get health summary by type
    let health = dashboard.get_health_summary();
    for (kind, counts) in &health {
        println!("{kind}: {}/{}", counts.online, counts.count);
    }
    let total = some("total", health.get("total"))?;
    holds(
        "the summary counts",
        Some(total.count) == dashboard.vnets_count(),
    )?;
    let external = some("external", health.get("external"))?;
    holds("external", Some(external.online) == dashboard.ext_online())
}

async fn tags(client: &Client) -> Result<()> {
    // List all tags
    let all = client.tags().list().await?;
    for tag in &all {
        println!("{:?} (Category: {:?})", tag.name(), tag.category_name());
    }
    let first = some("tag", all.first())?;
    holds(
        "category_name",
        first.category_name() == Some("Environment"),
    )?;
    let category = some("category", first.category_key())?;
    // Create a tag
    let tag = client
        .tags()
        .create("Production", category)
        .description("Production resources")
        .await?;
    // Tag a VM
    let vm = client.vms().get().name("test").await?;
    let key = some("key", vm.key())?;
    client.tags().members(&tag).add_vm(&key).await?;
    let members = client.tags().members(&tag).list().await?;
    let found = members.iter().find(|m| m.resource_type() == Some("vms"));
    let found = some("member", found)?;
    holds(
        "the VM is tagged",
        found.resource_key().map(Key::Number) == Some(key),
    )?;
    client.tags().delete(&tag).await
}

async fn tag_categories(client: &Client) -> Result<()> {
    // Create a category
    let category = client
        .tag_categories()
        .create("Deployment")
        .description("Deployment environment")
        .taggable_vms(true)
        .taggable_networks(true)
        .single_tag_selection(true)
        .await?;
    // List all categories
    for category in client.tag_categories().list().await? {
        println!("{:?}: {:?}", category.name(), category.get_taggable_types());
    }
    let seen = client.tag_categories().get().name("Deployment").await?;
    holds(
        "get_taggable_types",
        seen.get_taggable_types() == ["vms", "vnets"],
    )?;
    holds(
        "one tag of it only",
        seen.is_single_tag_selection() == Some(true),
    )?;
    client.tag_categories().delete(&category).await
}

async fn vm_imports(client: &Client) -> Result<()> {
    // Create an import from a file
    let file = client.files().get().name("appliance.ova").await?;
    let made = client
        .vm_imports()
        .create("imported-vm")
        .file(&file)
        .preferred_tier("1")
        .await?;
    // List all imports
    let all = client.vm_imports().list().await?;
    for import in &all {
        println!("{:?}: {:?}", import.name(), import.status());
    }
    holds("vm_imports.list", all.iter().any(|i| i.key() == made.key()))?;
    // Start the import
    client.vm_imports().of(&made).start().await?;
    // Monitor import logs
    let logs = client.vm_imports().of(&made).logs().list().await?;
    for log in &logs {
        println!("{:?}: {:?}", log.level(), log.text());
    }
    holds("an import writes a log", !logs.is_empty())
}

async fn vm_import_logs(client: &Client) -> Result<()> {
    let all = client.vm_import_logs().list().await?;
    for log in &all {
        println!("{:?}: {:?}", log.level(), log.text());
    }
    holds(
        "vm_import_logs.list",
        all.iter().any(|l| l.level() == Some("message")),
    )?;
    // List errors only
    let errors = client.vm_import_logs().list().level("error").await?;
    holds(
        "only errors",
        errors.iter().all(|l| l.level() == Some("error")),
    )?;
    holds("fewer than all", errors.len() < all.len())
}

async fn volume_vm_exports(client: &Client) -> Result<()> {
    // List all exports
    let all = client.volume_vm_exports().list().await?;
    for export in &all {
        println!("{:?}: {:?}", export.volume_name(), export.status());
    }
    let made = all.iter().find(|e| e.volume_name() == Some("vm-exports"));
    let export = some("export", made)?;
    holds("an export at rest", export.is_idle() == Some(true))?;
    // Create an export configuration: a volume has one, so this is another volume's.
    let volume = client.nas_volumes().get().name("projects").await?;
    let made = client
        .volume_vm_exports()
        .create(&volume)
        .max_exports(5)
        .quiesced(true)
        .await?;
    let seen = client.volume_vm_exports().get().key(&made).await?;
    holds("max_exports", seen.record().int("max_exports") == Some(5))?;
    // Start an export
    let handle = client.volume_vm_exports().of(export);
    let before = handle.stats().list().await?.len();
    handle.start().name("backup-2024").await?;
    // View export stats
    let stats = handle.stats().list().await?;
    for stat in &stats {
        println!("{:?}: {:?}GB", stat.file_name(), stat.size_gb());
    }
    holds(
        "an export leaves statistics",
        stats.len() >= before && !stats.is_empty(),
    )?;
    client.volume_vm_exports().delete(&made).await
}

async fn volume_vm_export_stats(client: &Client) -> Result<()> {
    let all = client.volume_vm_export_stats().list().await?;
    for stat in &all {
        println!("{:?}: {:?}GB", stat.file_name(), stat.size_gb());
    }
    let first = some("stat", all.first())?;
    holds("size_gb", first.size_gb() == Some(3.0))?;
    // List stats for a specific export
    let of = client
        .volume_vm_export_stats()
        .list()
        .volume_vm_exports(1)
        .await?;
    holds("none of another export", of.is_empty())?;
    let of = client
        .volume_vm_export_stats()
        .list()
        .volume_vm_exports(2)
        .await?;
    holds("those of this export", !of.is_empty())
}

async fn vm_recipes(client: &Client) -> Result<()> {
    // List all VM recipes
    for recipe in client.vm_recipes().list().await? {
        println!("{:?}: {:?}", recipe.name(), recipe.version());
    }
    // Get a specific recipe
    let recipe = client.vm_recipes().get().name("Web server").await?;
    holds("version", recipe.version() == Some("1.0.0"))?;
    // Deploy a recipe
    let instance = client
        .vm_recipes()
        .of(&recipe)
        .deploy("my-ubuntu")
        .answers(json!({"YB_RAM": 4096}))
        .await?;
    let vm = client.vms().get().name("my-ubuntu").await?;
    holds("the answer counts", vm.record().int("ram") == Some(4096))?;
    // List all VM recipe instances
    let all = client.vm_recipe_instances().list().await?;
    for one in &all {
        println!("{:?}: {:?}", one.name(), one.version());
    }
    holds("instances", all.iter().any(|i| i.key() == instance.key()))?;
    // List instances for a specific recipe
    let key = some("key", recipe.key())?.to_string();
    let of = client.vm_recipe_instances().list().recipe(key).await?;
    holds(
        "instances of it",
        of.iter().any(|i| i.name() == Some("my-ubuntu")),
    )?;
    let none = client
        .vm_recipe_instances()
        .list()
        .recipe("yottabyte-services-nas-1");
    holds("none of another", none.await?.is_empty())?;
    // List all recipe logs, then errors only
    let logs = client.vm_recipe_logs().list().await?;
    for log in &logs {
        println!("{:?}: {:?}", log.level(), log.text());
    }
    let errors = client.vm_recipe_logs().list_errors().await?;
    let bad = |level: Option<&str>| matches!(level, Some("error" | "critical"));
    holds("errors", errors.iter().all(|l| bad(l.level())))?;
    holds("logs", !logs.is_empty())
}

async fn tenant_recipes(client: &Client) -> Result<()> {
    for recipe in client.tenant_recipes().list().await? {
        println!("{:?}: {:?}", recipe.name(), recipe.version());
    }
    let recipe = client.tenant_recipes().get().name("Small tenant").await?;
    let instance = client
        .tenant_recipes()
        .of(&recipe)
        .deploy("my-tenant")
        .answers(json!({"storage_gb": 500}))
        .await?;
    let tenant = client.tenants().get().name("my-tenant").await?;
    holds("a tenant was made", tenant.key().is_some())?;
    let all = client.tenant_recipe_instances().list().await?;
    for one in &all {
        println!("{:?}: {:?}", one.name(), one.version());
    }
    holds("instances", all.iter().any(|i| i.key() == instance.key()))?;
    let key = some("key", recipe.key())?.to_string();
    let of = client.tenant_recipe_instances().list().recipe(key).await?;
    holds(
        "instances of it",
        of.iter().any(|i| i.name() == Some("my-tenant")),
    )?;
    let logs = client.tenant_recipe_logs().list().await?;
    for log in &logs {
        println!("{:?}: {:?}", log.level(), log.text());
    }
    let errors = client.tenant_recipe_logs().list_errors().await?;
    let bad = |level: Option<&str>| matches!(level, Some("error" | "critical"));
    holds(
        "errors",
        errors.iter().all(|l| bad(l.level())) && !logs.is_empty(),
    )
}

async fn recipe_questions_and_sections(client: &Client) -> Result<()> {
    let recipe = "vm_recipes/yottabyte-services-nas-1";
    // List all questions for a VM recipe
    let questions = client.recipe_questions().list().recipe_ref(recipe).await?;
    for question in &questions {
        println!("{:?}: {:?}", question.name(), question.question_type());
    }
    let ram = questions.iter().find(|q| q.name() == Some("YB_RAM"));
    holds(
        "question_type",
        some("YB_RAM", ram)?.question_type() == Some("ram"),
    )?;
    holds("only its own", questions.len() == 3)?;
    // List all sections for a VM recipe
    let sections = client.recipe_sections().list().recipe_ref(recipe).await?;
    for section in &sections {
        println!("{:?}: {:?}", section.name(), section.description());
    }
    holds("one section", sections.len() == 1)?;
    // Questions are organized into sections.
    let section = some("section", sections.first())?;
    let within = client.recipe_sections().questions(section).list().await?;
    holds("questions of the section", within.len() == questions.len())
}

async fn task_schedules(client: &Client) -> Result<()> {
    // List all schedules
    for schedule in client.task_schedules().list().await? {
        println!(
            "{:?}: {:?}",
            schedule.name(),
            schedule.repeat_every_display()
        );
    }
    // Create a daily schedule
    let schedule = client
        .task_schedules()
        .create("Nightly Backup")
        .repeat_every("day")
        .start_time_of_day(7200) // 2 AM
        .await?;
    holds(
        "every day",
        schedule.repeat_every_display() == Some("Day(s)"),
    )?;
    // Get upcoming execution times
    let handle = client.task_schedules().of(&schedule);
    let times = handle.get_schedule().max_results(10).await?;
    holds("ten times", times.len() == 10)?;
    // Every interval is one.
    for (every, shown) in [
        ("minute", "Minute(s)"),
        ("hour", "Hour(s)"),
        ("week", "Week(s)"),
        ("month", "Month(s)"),
        ("year", "Year(s)"),
    ] {
        let made = client
            .task_schedules()
            .create(format!("every {every}"))
            .repeat_every(every)
            .await?;
        holds(every, made.repeat_every_display() == Some(shown))?;
        client.task_schedules().delete(&made).await?;
    }
    client.task_schedules().delete(&schedule).await
}

async fn task_schedule_triggers(client: &Client) -> Result<()> {
    // List all triggers
    for trigger in client.task_schedule_triggers().list().await? {
        println!(
            "{:?} -> {:?}",
            trigger.task_display(),
            trigger.schedule_display()
        );
    }
    // Link a task to a schedule
    let task = client.tasks().get().name("Run Cleanup").await?;
    let schedule = client.task_schedules().get().name("Weekly").await?;
    let trigger = client
        .task_schedule_triggers()
        .create(&task, &schedule)
        .await?;
    // List triggers for a specific task
    let of = client.task_schedule_triggers().list().task(&task).await?;
    let found = some("trigger", of.first().filter(|_| of.len() == 1))?;
    holds("of the task", found.task_display() == Some("Run Cleanup"))?;
    holds(
        "to the schedule",
        found.schedule_display() == Some("Weekly"),
    )?;
    client.task_schedule_triggers().delete(&trigger).await
}

async fn task_events(client: &Client) -> Result<()> {
    // List all task events
    let all = client.task_events().list().await?;
    for event in &all {
        println!(
            "{:?}: {:?}",
            event.event_name_display(),
            event.task_display()
        );
    }
    let event = some("event", all.first())?;
    holds("its name", event.event_name_display() == Some("Power Off"))?;
    // List events for a specific task
    let task = some("task", event.task_key())?;
    let of = client.task_events().list().task(task).await?;
    holds("events of a task", of.len() == 1)?;
    holds(
        "none of another",
        client.task_events().list().task(task + 1).await?.is_empty(),
    )?;
    // List events for VMs only
    let vms = client.task_events().list().table("vms").await?;
    holds(
        "events of VMs",
        vms.iter().all(|e| e.owner_table() == Some("vms")),
    )?;
    // Manually trigger an event
    let context = json!({"key": "value"});
    client.task_events().trigger(event).context(context).await?;
    let ran = client.tasks().get().key(task).await?;
    holds("the linked task ran", ran.key() == Some(Key::Number(task)))
}

async fn task_scripts(client: &Client) -> Result<()> {
    // List all scripts
    for script in client.task_scripts().list().await? {
        println!("{:?}: {:?} tasks", script.name(), script.task_count());
    }
    // Create a script
    let script = client
        .task_scripts()
        .create("Cleanup Script", "log('Cleanup started')")
        .task_settings(json!({"questions": []}))
        .await?;
    holds(
        "its text",
        script.script_code() == Some("log('Cleanup started')"),
    )?;
    // Run a script
    client.task_scripts().of(&script).run().await?;
    client.task_scripts().delete(&script).await
}

async fn catalog_repositories(client: &Client) -> Result<()> {
    // List all repositories
    let all = client.catalog_repositories().list().await?;
    for repository in &all {
        println!("{:?} ({:?})", repository.name(), repository.r#type());
    }
    let local = all.iter().find(|r| r.name() == Some("Local"));
    holds(
        "a local one",
        some("Local", local)?.is_local() == Some(true),
    )?;
    // Get the Verge.io marketplace
    let marketplace = client
        .catalog_repositories()
        .get()
        .name("Verge.io Recipes")
        .await?;
    // Refresh a repository
    client.catalog_repositories().refresh(&marketplace).await?;
    // List catalogs in a repository
    let catalogs = client
        .catalog_repositories()
        .of(&marketplace)
        .catalogs()
        .list();
    for catalog in &catalogs.await? {
        println!("  {:?}", catalog.name());
    }
    // The history of repositories, then errors only
    let logs = client.catalog_repository_logs().list().await?;
    for log in &logs {
        println!("{:?}: {:?}", log.level(), log.text());
    }
    let errors = client.catalog_repository_logs().list_errors().await?;
    let bad = |level: Option<&str>| matches!(level, Some("error" | "critical"));
    holds(
        "errors",
        errors.iter().all(|l| bad(l.level())) && logs.len() > errors.len(),
    )
}

async fn catalogs(client: &Client) -> Result<()> {
    // List all catalogs
    let all = client.catalogs().list().await?;
    for catalog in &all {
        println!("{:?}: {:?}", catalog.name(), catalog.description());
    }
    holds("catalogs", all.len() >= 2)?;
    // List catalogs in a specific repository
    let of = client.catalogs().list().repository(1).await?;
    for catalog in &of {
        println!("{:?}", catalog.name());
    }
    holds("fewer than all", of.len() < all.len())?;
    // Get a specific catalog
    let one = client.catalogs().get().name("Own recipes").await?;
    holds("catalogs.get", one.name() == Some("Own recipes"))
}

async fn catalog_logs(client: &Client) -> Result<()> {
    let logs = client.catalog_logs().list().await?;
    for log in &logs {
        println!("{:?}: {:?}", log.level(), log.text());
    }
    // List errors only
    let errors = client.catalog_logs().list_errors().await?;
    let found = some("error", errors.first())?;
    holds(
        "an error",
        found.level() == Some("error") && found.text().is_some(),
    )?;
    holds("fewer than all", errors.len() < logs.len())
}

async fn catalog_repository_status(client: &Client) -> Result<()> {
    for status in client.catalog_repository_status().list().await? {
        let state = status.status();
        println!("{:?}: {state:?}", status.repository_key());
    }
    // Get status for a specific repository
    let status = client
        .catalog_repository_status()
        .get_for_repository(1)
        .await?;
    holds("of this repository", status.repository_key() == Some(1))
}

async fn vgpu_profiles(client: &Client) -> Result<()> {
    let all = client.vgpu_profiles().list().await?;
    for profile in &all {
        println!("{:?}: {:?}", profile.name(), profile.framebuffer());
    }
    // List AI/ML profiles only
    let kind = boxrig_vergeos::words::ProfileTypeWord::C;
    let learning = client.vgpu_profiles().list().profile_type(kind).await?;
    holds("one for learning", learning.len() == 1 && all.len() > 1)?;
    // Get a specific profile
    let profile = client.vgpu_profiles().get().name("NVIDIA L40S-12C").await?;
    holds("framebuffer", profile.framebuffer() == Some("12288M"))
}

async fn oidc_applications(client: &Client) -> Result<()> {
    // Create an OIDC application
    let app = client
        .oidc_applications()
        .create("Tenant Portal")
        .redirect_uri("https://tenant.example.com/callback")
        .description("OIDC for tenant authentication")
        .await?;
    holds(
        "a client id",
        app.client_id().is_some_and(|id| !id.is_empty()),
    )?;
    holds(
        "a secret",
        app.client_secret().is_some_and(|s| !s.is_empty()),
    )?;
    // List all OIDC applications
    let all = client.oidc_applications().list().await?;
    for app in &all {
        println!("{:?}: {:?}", app.name(), app.client_id());
    }
    let key = some("key", app.key())?;
    // Restrict access to specific users
    let app = client
        .oidc_applications()
        .update(&key)
        .restrict_access(true)
        .await?;
    holds("restricted", app.is_access_restricted() == Some(true))?;
    let user = client.users().get().name("alice").await?;
    let allowed = client.oidc_applications().of(&app).allowed_users();
    allowed.add(&user).await?;
    // List all user ACL entries
    let users = client
        .oidc_application_users()
        .list()
        .oidc_application(&key)
        .await?;
    for entry in &users {
        println!("{:?}", entry.user_display());
    }
    let entry = some("entry", users.first())?;
    holds("alice may", entry.user_display() == Some("alice"))?;
    // List all group ACL entries
    let groups = client
        .oidc_application_groups()
        .list()
        .oidc_application(&key)
        .await?;
    for entry in &groups {
        println!("{:?}", entry.group_display());
    }
    holds("no group", groups.is_empty())?;
    // List logs for an application
    let logs = client
        .oidc_application_logs()
        .list()
        .oidc_application(&key)
        .await?;
    for log in &logs {
        println!("{:?}: {:?}", log.level(), log.text());
    }
    // List errors only
    let wanted = Filter::raw("(level eq 'error') or (level eq 'critical')");
    let errors = client.oidc_application_logs().list().filter(wanted).await?;
    let bad = |level: Option<&str>| matches!(level, Some("error" | "critical"));
    holds("errors", errors.iter().all(|l| bad(l.level())))?;
    client.oidc_applications().delete(&key).await
}

async fn update_settings(client: &Client) -> Result<()> {
    // Get current settings
    let settings = client.update_settings().get().await?;
    println!("Branch: {:?}", settings.branch_name());
    println!("Auto-refresh: {:?}", settings.is_auto_refresh());
    holds("a branch", settings.branch_name() == Some("stable-26.1"))?;
    // Check for updates
    client.update_settings().check().await?;
    // Download and install updates
    client.update_settings().download().await?;
    client.update_settings().install().await?;
    // Or do everything at once
    client.update_settings().update_all().await?;
    // Update settings
    let settings = client
        .update_settings()
        .update()
        .auto_refresh(false)
        .update_time("02:00")
        .snapshot_cloud_on_update(true)
        .await?;
    holds("auto_refresh", settings.is_auto_refresh() == Some(false))
}

async fn update_sources_and_branches(client: &Client) -> Result<()> {
    // List available sources
    for source in client.update_sources().list().await? {
        println!("{:?}: {:?}", source.name(), source.url());
    }
    // Get the active source
    let settings = client.update_settings().get().await?;
    let key = some("source", settings.source_key())?;
    let source = client.update_sources().get().key(key).await?;
    holds("the active source", source.key() == Some(Key::Number(key)))?;
    // Check source status
    let status = client.update_sources().of(&source).get_status().await?;
    println!("Status: {:?}", status.status());
    let same = client.update_source_status().get_for_source(key).await?;
    holds(
        "of this source",
        same.source_key() == Some(key) && same.key() == status.key(),
    )?;
    // Check if update is in progress
    if same.is_busy() == Some(true) {
        println!("Update in progress...");
    }
    let states = [
        "idle",
        "refreshing",
        "downloading",
        "installing",
        "applying",
        "error",
    ];
    let state = some("status", same.status())?;
    holds("a state of the document", states.contains(&state))?;
    // List available branches
    for branch in client.update_branches().list().await? {
        println!("{:?}: {:?}", branch.name(), branch.description());
    }
    // Get current branch
    let key = some("branch", settings.branch_key())?;
    let branch = client.update_branches().get().key(key).await?;
    holds(
        "the current branch",
        branch.name() == settings.branch_name(),
    )
}

async fn update_packages(client: &Client) -> Result<()> {
    // List all packages
    for package in client.update_packages().list().await? {
        let name = package.name();
        println!("{name:?}: {:?}", package.version());
    }
    // Get a specific package: its key is its name
    let package = client.update_packages().get().key("yb-kernel").await?;
    holds("its name", package.name() == Some("yb-kernel"))?;
    // List all available packages
    let all = client.update_source_packages().list().await?;
    for package in &all {
        let there = package.is_downloaded() == Some(true);
        let status = if there { "Downloaded" } else { "Available" };
        println!("{:?} ({:?}): {status}", package.name(), package.version());
    }
    // List packages not yet downloaded
    let pending = client.update_source_packages().list_pending().await?;
    let missing = all.iter().filter(|p| p.is_downloaded() == Some(false));
    holds("those that are missing", pending.len() == missing.count())
}

async fn update_logs(client: &Client) -> Result<()> {
    // List recent update logs
    let logs = client.update_logs().list().limit(20).await?;
    for log in &logs {
        println!("{:?}: {:?}", log.level(), log.text());
    }
    holds("twenty at most", !logs.is_empty() && logs.len() <= 20)?;
    // List errors only
    let errors = client.update_logs().list_errors().await?;
    let bad = |level: Option<&str>| matches!(level, Some("error" | "critical"));
    holds("errors", errors.iter().all(|l| bad(l.level())))
}

async fn update_dashboard(client: &Client) -> Result<()> {
    // Get the dashboard
    let dashboard = client.update_dashboard().get().await?;
    // Check node count
    println!("Nodes: {:?}", dashboard.node_count());
    let nodes = client.nodes().list().await?.len();
    holds(
        "node_count",
        dashboard.node_count() == i64::try_from(nodes).ok(),
    )?;
    // Get settings summary
    let settings = dashboard.get_settings();
    println!("Branch: {:?}", settings.get("branch#name"));
    holds("settings", settings.get("branch").is_some())?;
    // List packages
    let packages = dashboard.get_packages();
    for package in &packages {
        println!("{:?}: {:?}", package.get("name"), package.get("version"));
    }
    holds(
        "packages",
        packages.iter().any(|p| p["name"] == "yb-kernel"),
    )
}

#[cfg(test)]
mod tests {
    use boxrig_server::testing::Server;

    use super::*;

    /// A stocked laboratory of the test's own.
    struct Lab {
        server: Server,
        password: String,
    }

    impl Lab {
        async fn start() -> Self {
            let lab = |config: boxrig_server::config::ServerConfig| {
                let mut config = config.engine(boxrig_engine::Selection::Memory);
                config.lab = Some(boxrig_server::vergeos::Lab::default());
                config
            };
            let server = Server::with(lab).await.unwrap();
            let env = server.running().unwrap().env();
            let password = env.get("VERGE_PASSWORD").unwrap().to_owned();
            Self { server, password }
        }

        fn client(&self) -> Client {
            Client::builder()
                .host(self.server.url())
                .username("admin")
                .password(&*self.password)
                .build()
                .unwrap()
        }
    }

    /// Runs one example on a laboratory of its own.
    macro_rules! on_a_lab {
        ($example:path) => {{
            let lab = Lab::start().await;
            let client = lab.client();
            client.connect().await.unwrap();
            $example(&client).await.unwrap();
            lab.server.stop().await;
        }};
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn class() {
        on_a_lab!(super::class);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn auth_sources() {
        on_a_lab!(super::auth_sources);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn auth_source_states() {
        on_a_lab!(super::auth_source_states);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn tenant_dashboard() {
        on_a_lab!(super::tenant_dashboard);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn billing() {
        on_a_lab!(super::billing);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn network_dashboard() {
        on_a_lab!(super::network_dashboard);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn tags() {
        on_a_lab!(super::tags);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn tag_categories() {
        on_a_lab!(super::tag_categories);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn vm_imports() {
        on_a_lab!(super::vm_imports);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn vm_import_logs() {
        on_a_lab!(super::vm_import_logs);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn volume_vm_exports() {
        on_a_lab!(super::volume_vm_exports);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn volume_vm_export_stats() {
        on_a_lab!(super::volume_vm_export_stats);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn vm_recipes() {
        on_a_lab!(super::vm_recipes);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn tenant_recipes() {
        on_a_lab!(super::tenant_recipes);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn recipe_questions_and_sections() {
        on_a_lab!(super::recipe_questions_and_sections);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn task_schedules() {
        on_a_lab!(super::task_schedules);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn task_schedule_triggers() {
        on_a_lab!(super::task_schedule_triggers);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn task_events() {
        on_a_lab!(super::task_events);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn task_scripts() {
        on_a_lab!(super::task_scripts);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn catalog_repositories() {
        on_a_lab!(super::catalog_repositories);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn catalogs() {
        on_a_lab!(super::catalogs);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn catalog_logs() {
        on_a_lab!(super::catalog_logs);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn catalog_repository_status() {
        on_a_lab!(super::catalog_repository_status);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn vgpu_profiles() {
        on_a_lab!(super::vgpu_profiles);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn oidc_applications() {
        on_a_lab!(super::oidc_applications);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn update_settings() {
        on_a_lab!(super::update_settings);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn update_sources_and_branches() {
        on_a_lab!(super::update_sources_and_branches);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn update_packages() {
        on_a_lab!(super::update_packages);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn update_logs() {
        on_a_lab!(super::update_logs);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn update_dashboard() {
        on_a_lab!(super::update_dashboard);
    }

    /// The three ways to a client: its parts, a scope that ends, the environment.
    #[tokio::test(flavor = "multi_thread")]
    async fn three_ways_to_a_client() {
        let lab = Lab::start().await;
        let client = lab.client();
        let connection = client.connect().await.unwrap();
        assert!(connection.is_connected && client.is_connected());
        assert!(!client.vms().list().await.unwrap().is_empty());
        client.disconnect().await.unwrap();
        let refused = client.vms().list().await.unwrap_err();
        assert_eq!(refused.kind(), Kind::Unavailable);
        // The same client connects again.
        client.connect().await.unwrap();
        assert!(!client.vms().list().await.unwrap().is_empty());
        let url = lab.server.url();
        let variable = |name: &str| match name {
            "VERGE_HOST" => Some(url.clone()),
            "VERGE_USERNAME" => Some("admin".to_owned()),
            "VERGE_PASSWORD" => Some(lab.password.clone()),
            _ => None,
        };
        let client = Client::builder().env_from(variable).build().unwrap();
        client.connect().await.unwrap();
        assert_eq!(client.connection().username, "admin");
        lab.server.stop().await;
    }

    /// Every manager of the document is there and reads its table.
    #[tokio::test(flavor = "multi_thread")]
    async fn every_manager_of_the_document() {
        let lab = Lab::start().await;
        let c = lab.client();
        macro_rules! lists {
            ($($manager:ident)*) => {$(
                let found = c.$manager().list().await;
                assert!(found.is_ok(), "{}: {:?}", stringify!($manager), found.err());
            )*};
        }
        lists! {
            vms alarms auth_sources auth_source_states logs networks tenants billing users api_keys groups permissions
            clusters nodes tasks files storage_tiers nas_services nas_volumes nas_volume_snapshots cifs_shares nfs_shares
            nas_users volume_syncs shared_objects sites site_syncs site_syncs_incoming site_sync_schedules
            snapshot_profiles cloud_snapshots resource_groups webhooks cloudinit_files certificates tags tag_categories
            vm_imports vm_import_logs volume_vm_exports volume_vm_export_stats vm_recipes vm_recipe_instances
            vm_recipe_logs tenant_recipes tenant_recipe_instances tenant_recipe_logs recipe_questions recipe_sections
            task_schedules task_schedule_triggers task_events task_scripts catalog_repositories catalogs catalog_logs
            catalog_repository_logs catalog_repository_status vgpu_profiles oidc_applications oidc_application_users
            oidc_application_groups oidc_application_logs update_settings update_sources update_branches update_packages
            update_source_packages update_source_status update_logs
        }
        assert!(c.tenant_dashboard().get().await.is_ok());
        assert!(c.network_dashboard().get().await.is_ok());
        assert!(c.update_dashboard().get().await.is_ok());
        assert!(c.system().statistics().await.is_ok());
        assert!(!c.system().settings().list().await.unwrap().is_empty());
        lab.server.stop().await;
    }

    /// What the document calls read-only cannot be changed.
    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_only_read() {
        let lab = Lab::start().await;
        let c = lab.client();
        let refused = c.vgpu_profiles().update(1).set("name", "x").await;
        assert_eq!(refused.unwrap_err().kind(), Kind::Invalid);
        let refused = c.update_branches().update(1).set("name", "x").await;
        assert_eq!(refused.unwrap_err().kind(), Kind::Invalid);
        // There is one row of settings.
        assert_eq!(c.update_settings().list().await.unwrap().len(), 1);
        lab.server.stop().await;
    }

    /// Every kind that the document names is taken, and told back.
    #[tokio::test(flavor = "multi_thread")]
    async fn kinds_of_the_document() {
        let lab = Lab::start().await;
        let c = lab.client();
        for driver in ["azure", "google", "gitlab", "okta", "openid"] {
            let made = c.auth_sources().create(driver, driver).await.unwrap();
            assert_eq!(made.driver(), Some(driver));
        }
        for kind in ["local", "remote", "git", "provider"] {
            let made = c.catalog_repositories().create(kind).r#type(kind).await;
            let made = made.unwrap();
            assert_eq!(made.r#type(), Some(kind));
            assert_eq!(made.is_local(), Some(kind == "local"));
        }
        let own = c
            .certificates()
            .create("own.example")
            .cert_type("SelfSigned".into());
        let own = own.await.unwrap();
        assert_eq!(own.cert_type_display(), Some("Self-Signed"));
        let acme = c.certificates().create("acme.example");
        let acme = acme
            .cert_type("LetsEncrypt".into())
            .agree_tos(true)
            .await
            .unwrap();
        assert_eq!(acme.cert_type_display(), Some("Let's Encrypt"));
        let public = c
            .certificates()
            .get()
            .key(&own)
            .include_keys(true)
            .await
            .unwrap();
        let uploaded = c
            .certificates()
            .create("mine.example")
            .cert_type("Manual".into());
        let uploaded = uploaded
            .public_key(public.public_key().unwrap())
            .private_key(public.private_key().unwrap())
            .await
            .unwrap();
        assert_eq!(uploaded.cert_type_display(), Some("Manual"));
        let groups = c.resource_groups();
        let types = [
            groups.create_host_gpu("gpu").await.unwrap(),
            groups.create_pci("pci").await.unwrap(),
            groups.create_usb("usb").await.unwrap(),
            groups.create_sriov_nic("nic").await.unwrap(),
            groups.create_nvidia_vgpu("vgpu", 6).await.unwrap(),
        ];
        let types = types.map(|g| g.record().text("type").unwrap_or("").to_owned());
        let wanted = [
            "node_host_gpu_devices",
            "node_pci_devices",
            "node_usb_devices",
            "node_sriov_nic_devices",
            "node_nvidia_vgpu_devices",
        ];
        assert_eq!(types, wanted);
        for (kind, label) in [
            ("vmdk", "VMDK (VMware)"),
            ("qcow2", "QCOW2 (QEMU, Xen)"),
            ("ova", "OVA (VMware, VirtualBox)"),
            ("ovf", "OVF (VMware, VirtualBox)"),
        ] {
            let row = json!({"type": kind}).as_object().unwrap().clone();
            let file = boxrig_vergeos::rows::File::from_map(row);
            assert_eq!(file.type_display(), Some(label));
        }
        for (state, busy) in [
            ("idle", false),
            ("refreshing", true),
            ("downloading", true),
            ("installing", true),
            ("applying", true),
            ("error", false),
        ] {
            let row = json!({"status": state}).as_object().unwrap().clone();
            let status = boxrig_vergeos::rows::UpdateSourceStatus::from_map(row);
            let set = [
                (status.is_idle(), "idle"),
                (status.is_refreshing(), "refreshing"),
                (status.is_downloading(), "downloading"),
                (status.is_installing(), "installing"),
                (status.is_applying(), "applying"),
                (status.is_error(), "error"),
            ];
            for (is, name) in set {
                assert_eq!(is, Some(name == state), "{state} {name}");
            }
            assert_eq!(status.is_busy(), Some(busy), "{state}");
        }
        lab.server.stop().await;
    }

    /// A script's questions and a category's rule are kept as they were said.
    #[tokio::test(flavor = "multi_thread")]
    async fn questions_and_rules_are_kept() {
        let lab = Lab::start().await;
        let c = lab.client();
        let questions = json!({"questions": [{"name": "age", "type": "number"}]});
        let script = c.task_scripts().create("Ask", "log(age)");
        let script = script.task_settings(questions.clone()).await.unwrap();
        let seen = c.task_scripts().get().key(&script).await.unwrap();
        assert_eq!(seen.settings(), Some(questions));
        // A tag belongs to a category, which says what can carry it and whether several can be on one thing.
        let category = c.tag_categories().create("One").taggable_vms(true);
        let category = category.single_tag_selection(true).await.unwrap();
        let tag = c.tags().create("one", &category).await.unwrap();
        let seen = c.tags().get().key(&tag).await.unwrap();
        assert_eq!(seen.category_name(), Some("One"));
        let seen = c.tag_categories().get().key(&category).await.unwrap();
        assert_eq!(seen.is_single_tag_selection(), Some(true));
        assert_eq!(seen.get_taggable_types(), ["vms"]);
        lab.server.stop().await;
    }

    /// The document's own filter: words, `or`, parentheses.
    #[test]
    fn the_documents_filter_is_read() {
        let text = "(level eq 'error') or (level eq 'critical')";
        let filter = Filter::parse(text).unwrap();
        let own = Filter::eq("level", "error").or(Filter::eq("level", "critical"));
        let again = Filter::parse(&own.encode().unwrap()).unwrap();
        // The same conditions, with or without the document's parentheses.
        let bare = |f: &Filter| f.encode().unwrap().replace(['(', ')'], "");
        assert_eq!(bare(&filter), bare(&again));
        assert_eq!(bare(&filter), "level eq 'error' or level eq 'critical'");
    }
}
