//! Every operation through its method: what goes on the wire.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod common;

use std::collections::BTreeSet;
use std::time::Duration;

use boxrig_convox::ops;
use boxrig_convox::{CATALOG, CLASSIC, CONSOLE, FieldMap, Metrics, Pairs};
use boxrig_wire::{ReplyShape, Secret, WireBody};
use common::{End, Rack, Seen, json, says};

/// Headers that are not of the operation.
const USUAL: &[&str] = &[
    "accept",
    "authorization",
    "connection",
    "content-type",
    "host",
    "rack",
    "sec-websocket-key",
    "sec-websocket-version",
    "session",
    "upgrade",
    "user-agent",
    "x-convox-actor",
];

/// One line: method, target, the operation's headers, content type when there is a body, body.
fn shown(seen: &Seen) -> String {
    let mut out = format!("{} {}", seen.method, seen.target);
    for name in seen.headers.keys().filter(|n| !USUAL.contains(&n.as_str())) {
        out.push_str(&format!(
            " [{name}: {}]",
            seen.header(name.as_str()).unwrap()
        ));
    }
    if !seen.body.is_empty() {
        let kind = match seen.header("content-type").as_deref() {
            Some("application/x-www-form-urlencoded") => "form",
            Some("application/json") => "json",
            Some("application/octet-stream") => "bytes",
            other => panic!("{other:?}"),
        };
        out.push_str(&format!(" {kind} {}", seen.text()));
    }
    out
}

fn rack() -> Rack {
    Rack::new(|seen| match seen.is_socket() {
        true => says(Vec::new(), End::Mark),
        false => json(serde_json::Value::Null),
    })
}

macro_rules! wire {
    ($rack:ident; $($call:expr => $line:literal;)*) => {$({
        let before = $rack.seen().len();
        let _ = $call.await.unwrap_or_else(|e| panic!("{}: {e}", stringify!($call)));
        let seen = $rack.seen();
        assert_eq!(seen.len(), before + 1, "{}", stringify!($call));
        assert_eq!(shown(&seen[before]), $line, "{}", stringify!($call));
    })*};
}

/// Every described operation has been called.
fn all_called(rack: &Rack, catalog: boxrig_wire::Catalog) {
    let seen = rack.seen();
    let missing: BTreeSet<&str> = catalog
        .iter()
        .filter(|meta| {
            !seen
                .iter()
                .any(|s| s.method == meta.method.as_str() && meta.path.matches(s.path()).is_some())
        })
        .map(|meta| meta.id)
        .collect();
    assert!(missing.is_empty(), "not called: {missing:?}");
}

fn d<T: Default>() -> T {
    T::default()
}

fn fields() -> FieldMap {
    [("A", "1"), ("B", "x y&=é")].into_iter().collect()
}

fn figures() -> Metrics {
    Metrics::new()
        .start("2026-01-01T00:00:00Z".parse().unwrap())
        .end("2026-01-01T01:00:00.5Z".parse().unwrap())
        .period(Duration::from_secs(60))
        .names(["cpu", "mem"])
}

#[tokio::test]
async fn apps_and_what_belongs_to_them() {
    let rack = rack();
    let c = rack.client();
    wire! { rack;
        c.apps().list() => "GET /apps";
        c.apps().get("../x y") => "GET /apps/..%2Fx%20y";
        c.apps().create("a") => "POST /apps form name=a";
        c.apps().create_with(ops::apps::AppCreateForm { name: "a".into(), generation: Some("3".into()), timeout: Some(60) }) => "POST /apps form name=a&generation=3&timeout=60";
        c.apps().delete("a") => "DELETE /apps/a";
        c.apps().cancel("a") => "POST /apps/a/cancel";
        c.apps().lock("a", true) => "PUT /apps/a form lock=true";
        c.apps().set_parameters("a", [("A", "1"), ("B", "x y")]) => "PUT /apps/a form parameters=A%3D1%26B%3Dx%2520y";
        c.apps().diagnose("a", ops::diagnose::AppDiagnoseQuery { all: Some(true), age: Some(60), ..d() }) => "GET /apps/a/diagnose?age=60&all=true";
        c.apps().balancers("a") => "GET /apps/a/balancers";
        c.apps().manifest_service("a", "web") => "GET /apps/a/manifest/services/web";
        c.apps().metrics("a", figures()) => "GET /apps/a/metrics?end=20260101.010000.500000000&metrics=cpu%2Cmem&start=20260101.000000.000000000&period=60";
        c.apps().metrics_by_service("a", &["web", "api"], Metrics::new()) => "GET /apps/a/metrics-by-service?services=web%2Capi";
        c.configs().list("a") => "GET /apps/a/configs";
        c.configs().get("a", "c") => "GET /apps/a/configs/c";
        c.configs().set("a", "c", b"two\nlines") => "PUT /apps/a/configs/c form value=dHdvCmxpbmVz";
        c.budgets().get("a") => "GET /apps/a/budget";
        c.budgets().set("a", ops::budget::AppBudgetSetForm { monthly_cap_usd: Some("10.50".into()), alert_threshold_percent: Some(80), ..d() }) => "POST /apps/a/budget form monthly-cap-usd=10.50&alert-threshold-percent=80";
        c.budgets().clear("a") => "DELETE /apps/a/budget";
        c.budgets().reset("a", ops::budget::AppBudgetResetForm { reset_period: Some(true), ..d() }) => "POST /apps/a/budget/reset form reset_period=true";
        c.budgets().shutdown_state("a") => "GET /apps/a/budget/shutdown-state";
        c.budgets().simulate_shutdown("a") => "POST /apps/a/budget/simulate-shutdown";
        c.budgets().dismiss_recovery("a") => "POST /apps/a/budget/dismiss-recovery";
        c.budgets().cost("a") => "GET /apps/a/cost";
        c.builds().list("a", None) => "GET /apps/a/builds";
        c.builds().list("a", Some(3)) => "GET /apps/a/builds?limit=3";
        c.builds().get("a", "B1") => "GET /apps/a/builds/B1";
        c.builds().create("a", "object://a/tmp/x.tgz", ops::builds::BuildCreateForm { build_args: boxrig_convox::Csv::new(["A=1", "B=2"]).unwrap(), description: Some("v2".into()), no_cache: Some(true), ..d() }) => "POST /apps/a/builds form url=object%3A%2F%2Fa%2Ftmp%2Fx.tgz&build-args=A%3D1%2CB%3D2&description=v2&no-cache=true";
        c.builds().update("a", "B1", ops::builds::BuildUpdateForm { status: Some("failed".into()), ended: Some(boxrig_convox::format_time("2026-01-01T00:00:00Z".parse().unwrap())), ..d() }) => "PUT /apps/a/builds/B1 form ended=20260101.000000.000000000&status=failed";
        c.builds().export("a", "B1") => "GET /apps/a/builds/B1.tgz";
        c.builds().import_build("a", WireBody::full("tgz")) => "POST /apps/a/builds/import bytes tgz";
        c.builds().import_image("a", "B1", "nginx", Some(("u", Secret::new("p")))) => "POST /apps/a/builds/B1/image form image=nginx&src-creds-user=u&src-creds-pass=p";
        c.objects().fetch("a", "tmp/a b") => "GET /apps/a/objects/tmp/a%20b";
        c.objects().delete("a", "tmp/x") => "DELETE /apps/a/objects/tmp/x";
        c.objects().exists("a", "tmp/x") => "HEAD /apps/a/objects/tmp/x";
        c.objects().list("a", "tmp/") => "GET /apps/a/objects?prefix=tmp%2F";
        c.objects().store("a", "tmp/x", WireBody::full("a=b")) => "POST /apps/a/objects/tmp/x bytes a=b";
        c.releases().list("a", Some(1)) => "GET /apps/a/releases?limit=1";
        c.releases().get("a", "R1") => "GET /apps/a/releases/R1";
        c.releases().create("a", ops::releases::ReleaseCreateForm { env: Some("A=1".into()), parent_release: Some("R1".into()), ..d() }) => "POST /apps/a/releases form env=A%3D1&parent-release=R1";
        c.releases().promote("a", "R1") => "POST /apps/a/releases/R1/promote";
        c.releases().promote_with("a", "R1", ops::releases::ReleasePromoteForm { force: Some(true), min: Some(50), ..d() }) => "POST /apps/a/releases/R1/promote form force=true&min=50";
        c.services().list("a") => "GET /apps/a/services";
        c.services().scale("a", "web", 3) => "PUT /apps/a/services/web form count=3";
        c.services().update("a", "web", ops::services::ServiceUpdateForm { cpu: Some(256), memory: Some(1024), ..d() }) => "PUT /apps/a/services/web form cpu=256&memory=1024";
        c.services().restart("a", "web") => "POST /apps/a/services/web/restart";
        c.services().metrics("a", "web", Metrics::new()) => "GET /apps/a/services/web/metrics";
        c.services().override_scale("a", "web", false) => "POST /apps/a/services/web/scale-override form active=false";
        c.services().disable_triggers("a", "web") => "POST /apps/a/services/web/triggers/disable";
        c.services().enable_triggers("a", "web", &d()) => "POST /apps/a/services/web/triggers/enable form opts=%7B%22max%22%3A0%2C%22min%22%3A0%2C%22triggers%22%3A%5B%5D%7D";
        c.services().trigger_threshold("a", "web", "cpu", 0.5) => "POST /apps/a/services/web/triggers/threshold form type=cpu&threshold=0.5";
        c.processes().list("a") => "GET /apps/a/processes";
        c.processes().list_where("a", ops::processes::ProcessListQuery { service: Some("web".into()), ..d() }) => "GET /apps/a/processes?service=web";
        c.processes().get("a", "p") => "GET /apps/a/processes/p";
        c.processes().stop("a", "p") => "DELETE /apps/a/processes/p";
        c.processes().run("a", "web", ops::processes::ProcessRunHeaders { command: Some("é x".into()), memory: Some(64), environment: fields(), ..d() }) => "POST /apps/a/services/web/processes [command: é x] [environment: A=1&B=x%20y%26%3D%C3%A9] [memory: 64]";
        c.files().download("a", "p", "/etc/x") => "GET /apps/a/processes/p/files?file=%2Fetc%2Fx";
        c.files().upload("a", "p", WireBody::full("tar")) => "POST /apps/a/processes/p/files bytes tar";
        c.files().delete("a", "p", &["/x", "/y"]) => "DELETE /apps/a/processes/p/files?files=%2Fx%2C%2Fy";
        c.resources().list("a") => "GET /apps/a/resources";
        c.resources().get("a", "db") => "GET /apps/a/resources/db";
        c.resources().export("a", "db") => "GET /apps/a/resources/db/data";
        c.resources().import("a", "db", WireBody::full("dump")) => "PUT /apps/a/resources/db/data bytes dump";
        c.certificates().apply("a", "web", 443, "cert") => "PUT /apps/a/ssl/web/443 form id=cert";
    }
}

#[tokio::test]
async fn the_rack_and_its_parts() {
    let rack = rack();
    let c = rack.client();
    wire! { rack;
        c.system().get() => "GET /system";
        c.system().update(ops::system::SystemUpdateForm { count: Some(3), parameters: fields(), ..d() }) => "PUT /system form count=3&parameters=A%3D1%26B%3Dx%2520y%2526%253D%25C3%25A9";
        c.system().capacity() => "GET /system/capacity";
        c.system().metrics(Metrics::new().names(["cpu"])) => "GET /system/metrics?metrics=cpu";
        c.system().processes(true) => "GET /system/processes?all=true";
        c.system().processes(false) => "GET /system/processes";
        c.system().releases() => "GET /system/releases";
        c.system().jwt_token("read", 24) => "POST /system/jwt/token form role=read&durationInHour=24";
        c.system().jwt_rotate() => "PUT /system/jwt/rotate";
        c.system().karpenter_cleanup() => "POST /system/karpenter/cleanup";
        c.system().auth() => "GET /auth";
        c.instances().list() => "GET /instances";
        c.instances().terminate("i") => "DELETE /instances/i";
        c.instances().keyroll() => "POST /instances/keyroll";
        c.registries().list() => "GET /registries";
        c.registries().add("reg.example.com/x", "u", Secret::new("p")) => "POST /registries form server=reg.example.com%2Fx&username=u&password=p";
        c.registries().remove("h/x?y") => "DELETE /registries/h/x%3Fy";
        c.certificates().list() => "GET /certificates";
        c.certificates().list_generated(true) => "GET /certificates?generated=true";
        c.certificates().create("PUB", Secret::new("KEY"), Some("CHAIN")) => "POST /certificates form pub=PUB&key=KEY&chain=CHAIN";
        c.certificates().generate(&["a.test", "b.test"], None, Some(Duration::from_secs(3600))) => "POST /certificates/generate form domains=a.test%2Cb.test&duration=1h0m0s";
        c.certificates().renew("c") => "POST /certificates/c/renew";
        c.certificates().delete("c") => "DELETE /certificates/c";
        c.letsencrypt().get() => "GET /letsencrypt/config";
        c.letsencrypt().apply(d()) => "PUT /letsencrypt/config json {\"role\":\"\",\"solvers\":[]}";
        c.events().send("app:create", fields(), Some("success"), None) => "POST /events form action=app%3Acreate&data=A%3D1%26B%3Dx%2520y%2526%253D%25C3%25A9&status=success";
        c.resources().system_list() => "GET /resources";
        c.resources().system_create("postgres", Some("db"), fields()) => "POST /resources form kind=postgres&name=db&parameters=A%3D1%26B%3Dx%2520y%2526%253D%25C3%25A9";
        c.resources().system_get("db") => "GET /resources/db";
        c.resources().system_update("db", fields()) => "PUT /resources/db form parameters=A%3D1%26B%3Dx%2520y%2526%253D%25C3%25A9";
        c.resources().system_delete("db") => "DELETE /resources/db";
        c.resources().system_types() => "OPTIONS /resources";
        c.resources().system_link("db", "a") => "POST /resources/db/links form app=a";
        c.resources().system_unlink("db", "a") => "DELETE /resources/db/links/a";
    }
}

#[tokio::test]
async fn a_console_and_generation_1() {
    let rack = rack();
    let c = rack.client();
    wire! { rack;
        c.console().racks() => "GET /racks";
        c.console().create_rack(ops::console::RackCreateForm { name: Some("r".into()), params: Some("{}".into()), ..d() }) => "POST /racks form name=r&params=%7B%7D";
        c.console().rack("o", "r") => "GET /racks/o/r";
        c.console().update_rack("o", "r", ops::console::RackUpdateForm { version: Some("3".into()), force: Some(true), ..d() }) => "PUT /racks/o/r form version=3&force=true";
        c.console().delete_rack("o", "r") => "DELETE /racks/o/r";
        c.console().install_rack("o", "r", d()) => "POST /racks/o/r/install";
        c.console().sync_rack("o", "r") => "POST /racks/o/r/sync";
        c.console().rack_host("o", "r") => "GET /racks/o/r/host";
        c.console().rack_runtimes("o", "r") => "GET /racks/o/r/runtimes";
        c.console().attach_runtime("o", "r", "t") => "PUT /racks/o/r/runtimes form runtime=t";
        c.console().workflows("o", "r") => "GET /racks/o/r/workflows";
        c.console().run_workflow("o", "r", "w", ops::console::WorkflowCustomRunForm { branch: Some("main".into()), ..d() }) => "POST /racks/o/r/workflows/w/run form branch=main";
        c.console().runtimes("o") => "GET /organizations/o/runtimes";
        c.console().machines() => "GET /machines";
    }
    all_called(&rack, CONSOLE);
    wire! { rack;
        c.classic().parameters("a") => "GET /apps/a/parameters";
        c.classic().set_parameters("a", Pairs(vec![("K".into(), "v".into())])) => "POST /apps/a/parameters form K=v";
        c.classic().import_build_url("a", "object://x") => "POST /apps/a/builds/import form url=object%3A%2F%2Fx";
        c.classic().create_certificate("P", Secret::new("K"), None) => "POST /certificates form public=P&private=K";
        c.classic().unset_environment("a", "K") => "DELETE /apps/a/environment/K";
        c.classic().formation("a") => "GET /apps/a/formation";
        c.classic().update_formation("a", "web", ops::v2_classic::FormationUpdateForm { count: Some(2), ..d() }) => "POST /apps/a/formation/web form count=2";
        c.classic().ssl("a") => "GET /apps/a/ssl";
        c.classic().shell("i", d()) => "GET /instances/i/ssh";
        c.classic().run_attached("a", "web", ops::v2_classic::ProcessRunAttachedHeaders { command: Some("ls".into()), ..d() }) => "GET /apps/a/processes/web/run [command: ls]";
        c.classic().run_detached("a", "web", d(), ops::v2_classic::ProcessRunDetachedForm { command: Some("ls".into()), release: None }) => "POST /apps/a/processes/web/run form command=ls";
        c.classic().remove_registry("h") => "DELETE /registries?server=h";
        c.classic().create_resource("postgres", "db", Pairs(vec![("size".into(), "1".into())])) => "POST /resources form type=postgres&name=db&size=1";
        c.classic().update_resource("db", Pairs(vec![("size".into(), "2".into())])) => "PUT /resources/db form size=2";
    }
    let text = c
        .classic()
        .set_environment("a", &Secret::new("A=1\n"))
        .await
        .unwrap();
    assert!(text.headers.contains_key("request-id"));
    let last = rack.seen().pop().unwrap();
    assert_eq!(
        (last.line(), last.text()),
        ("POST /apps/a/environment".into(), "A=1\n".into())
    );
    let form = ops::v2_classic::BuildCreateUploadForm {
        description: Some("x".into()),
        ..d()
    };
    c.classic().build_source("a", b"tgz", form).await.unwrap();
    c.classic().import_build_image("a", b"img").await.unwrap();
    for (seen, part) in rack.seen().iter().rev().zip(["name=\"image\"; filename=\"image.tgz\"\r\nContent-Type: application/octet-stream\r\n\r\nimg\r\n", "name=\"description\"\r\n\r\nx\r\n"]) {
        assert!(seen.header("content-type").unwrap().starts_with("multipart/form-data; boundary=boxrig"));
        assert!(seen.text().contains(part), "{}", seen.text());
    }
    all_called(&rack, CLASSIC);
}

/// Every described operation has a method. Sockets are called in `sockets.rs`.
#[test]
fn every_operation_is_called() {
    let text = include_str!("calls.rs");
    let lines: Vec<(&str, &str)> = text
        .lines()
        .filter_map(|l| l.split(" => \"").nth(1))
        .filter_map(|l| {
            l.split([' ', '"'])
                .next()
                .zip(l.split([' ', '"', ';']).nth(1))
        })
        .collect();
    let missing: Vec<&str> = CATALOG
        .iter()
        .filter(|meta| meta.reply != ReplyShape::Socket)
        .filter(|meta| {
            !lines.iter().any(|(method, target)| {
                let path = target.split('?').next().unwrap();
                *method == meta.method.as_str() && meta.path.matches(path).is_some()
            })
        })
        .map(|m| m.id)
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}
