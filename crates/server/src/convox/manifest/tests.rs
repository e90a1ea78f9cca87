use super::*;

fn parse(text: &str) -> Result<Manifest> {
    Manifest::parse(text, &BTreeMap::new())
}

#[test]
fn defaults_and_short_forms() {
    let m = parse("services:\n  web:\n    port: 3000\n  worker:\n    build: ./w\n    scale: 2\n")
        .unwrap();
    let web = m.named("web").unwrap();
    assert_eq!(web.build.as_ref().unwrap().path, ".");
    assert_eq!(
        web.port,
        Some(Port {
            port: 3000,
            scheme: "http".into()
        })
    );
    assert_eq!((web.min, web.max, web.cpu, web.memory), (1, 1, None, None));
    assert_eq!((web.deployment, web.grace), ((50, 200), 30));
    assert_eq!(web.health, Health::default());
    let worker = m.named("worker").unwrap();
    assert_eq!(
        (
            worker.min,
            worker.max,
            &*worker.build.as_ref().unwrap().path
        ),
        (2, 2, "./w")
    );
    assert_eq!(m.warnings, Vec::<String>::new());
}

#[test]
fn everything_said() {
    let text = "
environment:
  - SHARED=1
resources:
  main-db:
    type: postgres
    options:
      storage: 10
services:
  web:
    build:
      path: web
      manifest: Dockerfile.prod
      args: [A=1]
    command: bin/web --port ${PORT_OF_IT}
    environment: [KEY, OTHER=x]
    port: https:8443
    health: {path: /check, interval: 10}
    scale: {count: 1-3, cpu: 128, memory: 64}
    deployment: {minimum: 0, maximum: 150}
    resources: [main-db, 'main-db:OTHER_URL']
    singleton: true
    termination: {grace: 5}
    volumes: [/data]
    tea: green
  off:
    image: boxrig/base
    health: false
timers:
  nightly:
    schedule: 0 3 * * ?
    command: bin/clean
    service: web
    concurrency: forbid
";
    let env = BTreeMap::from([("PORT_OF_IT".to_owned(), "8443".to_owned())]);
    let m = Manifest::parse(text, &env).unwrap();
    let web = m.named("web").unwrap();
    assert_eq!(web.command.as_deref(), Some("bin/web --port 8443"));
    assert_eq!(web.environment, ["SHARED=1", "KEY", "OTHER=x"]);
    assert_eq!(
        web.port,
        Some(Port {
            port: 8443,
            scheme: "https".into()
        })
    );
    assert_eq!(
        web.health,
        Health {
            path: "/check".into(),
            interval: 10,
            timeout: 9,
            grace: 10,
            disabled: false
        }
    );
    assert_eq!(
        (web.min, web.max, web.cpu, web.memory, web.grace),
        (1, 3, Some(128), Some(64), 5)
    );
    assert_eq!(web.deployment, (0, 150));
    assert_eq!(
        web.resources,
        [
            ("main-db".to_owned(), None),
            ("main-db".to_owned(), Some("OTHER_URL".to_owned()))
        ]
    );
    assert_eq!(Resource::variable("main-db", "URL"), "MAIN_DB_URL");
    assert!(m.named("off").unwrap().health.disabled);
    assert!(!m.timers[0].concurrent);
    let warned = m.warnings.join("\n");
    assert!(
        warned.contains("convox.yml:24: not done on this rack: services.web.volumes"),
        "{warned}"
    );
    assert!(warned.contains("unknown: services.web.tea"), "{warned}");
    assert!(
        m.check_environment(&env)
            .unwrap_err()
            .message
            .contains("required env: KEY")
    );
}

#[test]
fn mistakes_have_a_line() {
    for (text, line, words) in [
        ("services:\n  web:\n    port: x\n", 3, "invalid port"),
        (
            "services:\n  web:\n    scale: {count: 3-1}\n",
            3,
            "invalid scale",
        ),
        ("services:\n  Web: {}\n", 2, "service name"),
        (
            "services:\n  web:\n    deployment:\n      minimum: 101\n",
            4,
            "deployment minimum",
        ),
        (
            "services:\n  web:\n    resources: [db]\n",
            3,
            "does not exist: db",
        ),
        (
            "services:\n  web: {}\ntimers:\n  t:\n    schedule: 61 * * * *\n    service: web\n",
            5,
            "minute",
        ),
        (
            "services:\n  web: {}\ntimers:\n  t:\n    schedule: '* * * * *'\n    service: nope\n",
            6,
            "does not exist: nope",
        ),
        ("services: [a]\n", 1, "not a map"),
        ("services:\n  web:\n\tport: 1\n", 3, ""),
        ("services:\n  web: {a: 1\n", 2, ""),
    ] {
        let e = parse(text).unwrap_err();
        assert!(e.message.contains(words), "{text}: {e}");
        // A document that breaks off is noticed at its end.
        assert!(
            e.line
                .is_some_and(|l| l == line || (words.is_empty() && l >= line)),
            "{text}: {e}"
        );
    }
    for text in ["", "services: {}\n", "a: 1\n", "services:\n"] {
        assert!(parse(text).is_err(), "{text:?}");
    }
}

#[test]
fn schedules() {
    let at = |text: &str| {
        text.parse::<jiff::Timestamp>()
            .unwrap()
            .as_second()
            .unsigned_abs()
    };
    for (schedule, after, next) in [
        ("* * * * *", "2026-01-01T00:00:00Z", "2026-01-01T00:01:00Z"),
        (
            "*/15 * * * ?",
            "2026-01-01T00:15:01Z",
            "2026-01-01T00:30:00Z",
        ),
        ("0 3 * * ?", "2026-01-01T03:00:00Z", "2026-01-02T03:00:00Z"),
        (
            "30 12 1 jan *",
            "2026-01-01T12:30:00Z",
            "2027-01-01T12:30:00Z",
        ),
        ("0 0 29 2 *", "2026-03-01T00:00:00Z", "2028-02-29T00:00:00Z"),
        (
            "0 9 * * mon-fri",
            "2026-01-02T09:00:00Z",
            "2026-01-05T09:00:00Z",
        ),
        ("0 0 13 * 5", "2026-02-13T00:00:00Z", "2026-02-20T00:00:00Z"),
        ("0 0 * * 7", "2026-01-01T00:00:00Z", "2026-01-04T00:00:00Z"),
        ("@daily", "2026-12-31T23:59:59Z", "2027-01-01T00:00:00Z"),
        (
            "5,10-12/2 0 * * *",
            "2026-01-01T00:05:00Z",
            "2026-01-01T00:10:00Z",
        ),
    ] {
        let s = Schedule::parse(schedule).unwrap();
        assert_eq!(
            s.next_after(at(after)),
            Some(at(next)),
            "{schedule} after {after}"
        );
    }
    for bad in [
        "",
        "* * * *",
        "60 * * * *",
        "a * * * *",
        "*/0 * * * *",
        "5-1 * * * *",
        "0 0 30 2 *",
        "0 0 * * 8",
    ] {
        assert!(Schedule::parse(bad).is_err(), "{bad}");
    }
}
