//! `convox.yml`: what an app is made of.
//!
//! Read as a rack reads it: `${NAME}` is replaced from the environment, short forms are taken for the long ones, and
//! what is not said gets the rack's default. A mistake is told with its line.

mod cron;
mod tree;

use std::collections::BTreeMap;

use boxrig_wire::ApiError;

pub(super) use cron::Schedule;
use tree::Node;

use super::records::Release;
use super::releases::parse_env;

/// What is wrong with a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ManifestError {
    /// Where, counted from 1.
    pub(super) line: Option<usize>,
    pub(super) message: String,
}

impl std::fmt::Display for ManifestError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.line {
            Some(line) => write!(f, "convox.yml:{line}: {}", self.message),
            None => write!(f, "convox.yml: {}", self.message),
        }
    }
}

type Result<T> = std::result::Result<T, ManifestError>;

/// A manifest with the defaults filled in.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Manifest {
    pub(super) services: Vec<Service>,
    pub(super) timers: Vec<Timer>,
    pub(super) resources: Vec<Resource>,
    /// What was passed over, in words.
    pub(super) warnings: Vec<String>,
}

/// A service.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Service {
    pub(super) name: String,
    /// What its image is built of; `None` when it has an image.
    pub(super) build: Option<Build>,
    pub(super) image: Option<String>,
    pub(super) command: Option<String>,
    /// Names, or names with a default behind `=`.
    pub(super) environment: Vec<String>,
    pub(super) port: Option<Port>,
    /// Ports for other services.
    pub(super) ports: Vec<u16>,
    pub(super) internal: bool,
    pub(super) min: u32,
    pub(super) max: u32,
    /// Thousandths of a processor; not limited when nothing is said.
    pub(super) cpu: Option<u32>,
    /// MiB; not limited when nothing is said.
    pub(super) memory: Option<u32>,
    pub(super) health: Health,
    /// Percent of the processes that stay, and that may be there, while they are replaced.
    pub(super) deployment: (u32, u32),
    /// The resource's name, and the variable for its URL if another than the usual one.
    pub(super) resources: Vec<(String, Option<String>)>,
    pub(super) agent: bool,
    /// Seconds between the word to end and the end.
    pub(super) grace: u32,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Build {
    /// The folder in the source.
    pub(super) path: String,
    /// The Dockerfile in that folder.
    pub(super) dockerfile: String,
    pub(super) args: BTreeMap<String, String>,
    pub(super) target: Option<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Port {
    pub(super) port: u16,
    pub(super) scheme: String,
}

/// How it is found out whether a process can serve; in seconds.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Health {
    pub(super) path: String,
    pub(super) interval: u32,
    pub(super) timeout: u32,
    pub(super) grace: u32,
    pub(super) disabled: bool,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            path: "/".into(),
            interval: 5,
            timeout: 4,
            grace: 5,
            disabled: false,
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Timer {
    pub(super) name: String,
    pub(super) schedule: Schedule,
    pub(super) command: Option<String>,
    pub(super) service: String,
    /// Whether a run may begin while the last one goes on.
    pub(super) concurrent: bool,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Resource {
    pub(super) name: String,
    pub(super) r#type: String,
    pub(super) options: BTreeMap<String, String>,
}

impl Resource {
    /// `my-db` gives `MY_DB_URL` for `URL`.
    pub(super) fn variable(name: &str, what: &str) -> String {
        format!("{}_{what}", name.to_uppercase().replace('-', "_"))
    }
}

/// The manifest of a release.
///
/// # Errors
///
/// 400 with the line and the reason.
pub(super) fn of(release: &Release) -> std::result::Result<Manifest, ApiError> {
    Manifest::parse(&release.manifest, &parse_env(&release.env))
        .and_then(|m| m.check_environment(&parse_env(&release.env)).map(|()| m))
        .map_err(|e| ApiError::invalid(e.to_string()))
}

const SERVICE: [&str; 46] = [
    "agent",
    "annotations",
    "build",
    "certificate",
    "command",
    "configMounts",
    "deployment",
    "dnsConfig",
    "domain",
    "drain",
    "disableHostUsers",
    "environment",
    "grpcHealthEnabled",
    "health",
    "liveness",
    "startupProbe",
    "image",
    "imagePullSecrets",
    "init",
    "initContainer",
    "internal",
    "internalRouter",
    "ingressAnnotations",
    "labels",
    "nodeAffinityLabels",
    "nodeSelectorLabels",
    "lifecycle",
    "port",
    "ports",
    "privileged",
    "resources",
    "securityContext",
    "scale",
    "singleton",
    "sticky",
    "termination",
    "test",
    "timeout",
    "tls",
    "volumes",
    "volumeOptions",
    "whitelist",
    "accessControl",
    "nlb",
    "links",
    "domains",
];
/// What a service can say and what is not done here: passing it over without a word would be a lie.
const PASSED_OVER: [&str; 20] = [
    "accessControl",
    "certificate",
    "configMounts",
    "dnsConfig",
    "grpcHealthEnabled",
    "liveness",
    "startupProbe",
    "imagePullSecrets",
    "initContainer",
    "internalRouter",
    "lifecycle",
    "links",
    "nlb",
    "privileged",
    "securityContext",
    "sticky",
    "tls",
    "volumes",
    "volumeOptions",
    "whitelist",
];
const TOP: [&str; 9] = [
    "appSettings",
    "balancers",
    "budget",
    "configs",
    "environment",
    "labels",
    "params",
    "resources",
    "services",
];

impl Manifest {
    /// Reads a manifest.
    pub(super) fn parse(text: &str, env: &BTreeMap<String, String>) -> Result<Self> {
        let text = interpolate(text, env);
        let root = tree::parse(&text)?;
        let mut m = Self::default();
        if root.is_null() {
            return Err(root.error("the manifest is empty"));
        }
        for (name, node) in root.map()? {
            if name != "timers" && !TOP.contains(&name.as_str()) {
                m.warnings
                    .push(node.error(format!("unknown: {name}")).to_string());
            } else if matches!(
                name.as_str(),
                "appSettings" | "balancers" | "budget" | "configs" | "labels"
            ) {
                m.warnings.push(
                    node.error(format!("not done on this rack: {name}"))
                        .to_string(),
                );
            }
        }
        let shared = root
            .get("environment")
            .map_or(Ok(Vec::new()), |n| n.texts())?;
        for (name, node) in root.get("resources").map_or(Ok(Vec::new()), |n| n.map())? {
            m.resources.push(resource(&name, &node)?);
        }
        let services = root
            .get("services")
            .ok_or_else(|| root.error("no services"))?;
        for (name, node) in services.map()? {
            let service = m.service(&name, &node, &shared)?;
            m.services.push(service);
        }
        if m.services.is_empty() {
            return Err(services.error("no services"));
        }
        for (name, node) in root.get("timers").map_or(Ok(Vec::new()), |n| n.map())? {
            let timer = m.timer(&name, &node)?;
            m.timers.push(timer);
        }
        Ok(m)
    }

    /// The service of a name.
    pub(super) fn named(&self, name: &str) -> Option<&Service> {
        self.services.iter().find(|s| s.name == name)
    }

    /// Whether every variable that a service needs is there.
    pub(super) fn check_environment(&self, env: &BTreeMap<String, String>) -> Result<()> {
        for service in &self.services {
            let needed = service
                .environment
                .iter()
                .filter(|e| !e.contains('=') && *e != "*");
            let mut missing: Vec<&str> = needed
                .map(String::as_str)
                .filter(|e| !env.contains_key(*e))
                .collect();
            missing.sort_unstable();
            if !missing.is_empty() {
                return Err(ManifestError {
                    line: None,
                    message: format!(
                        "service {}: required env: {}",
                        service.name,
                        missing.join(", ")
                    ),
                });
            }
        }
        Ok(())
    }

    fn service(&mut self, name: &str, node: &Node<'_>, shared: &[String]) -> Result<Service> {
        check_name("service", name, node)?;
        for (key, value) in node.map()? {
            if !SERVICE.contains(&key.as_str()) {
                self.warnings.push(
                    value
                        .error(format!("unknown: services.{name}.{key}"))
                        .to_string(),
                );
            } else if PASSED_OVER.contains(&key.as_str()) {
                self.warnings.push(
                    value
                        .error(format!("not done on this rack: services.{name}.{key}"))
                        .to_string(),
                );
            }
        }
        let text = |key: &str| node.get(key).map(|n| n.text()).transpose();
        let flag = |key: &str| node.get(key).map_or(Ok(false), |n| n.flag());
        let singleton = flag("singleton")?;
        let agent = match node.get("agent") {
            None => false,
            Some(n) if n.is_map() => n.get("enabled").map_or(Ok(true), |n| n.flag())?,
            Some(n) => n.flag()?,
        };
        let mut s = Service {
            name: name.to_owned(),
            image: text("image")?.filter(|i| !i.is_empty()),
            command: text("command")?.filter(|c| !c.is_empty()),
            environment: shared.to_vec(),
            internal: flag("internal")?,
            min: 1,
            max: 1,
            agent,
            grace: 30,
            ..Service::default()
        };
        if let Some(n) = node.get("environment") {
            s.environment.extend(n.texts()?);
        }
        if s.image.is_none() {
            s.build = Some(build(node.get("build"))?);
        }
        s.port = node.get("port").map(|n| port(&n)).transpose()?.flatten();
        for n in node.get("ports").map_or(Ok(Vec::new()), |n| n.list())? {
            s.ports.extend(port(&n)?.map(|p| p.port));
        }
        s.health = health(node.get("health"))?;
        if let Some(n) = node.get("scale") {
            scale(&mut s, &n)?;
        }
        let usual = if agent || singleton {
            (0, 100)
        } else {
            (50, 200)
        };
        s.deployment = usual;
        if let Some(n) = node.get("deployment") {
            let percent = |key: &str, usual: u32, from: u32, to: u32| match n.get(key) {
                None => Ok(usual),
                Some(n) => {
                    let value = n.number()?;
                    if !(from..=to).contains(&value) {
                        return Err(
                            n.error(format!("deployment {key} is {value}, not {from} to {to}"))
                        );
                    }
                    Ok(value)
                }
            };
            s.deployment = (
                percent("minimum", usual.0, 0, 100)?,
                percent("maximum", usual.1, 100, 200)?,
            );
        }
        if let Some(n) = node.get("termination").and_then(|n| n.get("grace")) {
            s.grace = n.number()?;
        }
        for n in node.get("resources").map_or(Ok(Vec::new()), |n| n.list())? {
            let text = n.text()?;
            let (resource, variable) = match text.split_once(':') {
                Some((name, variable)) => (name.to_owned(), Some(variable.trim().to_owned())),
                None => (text, None),
            };
            if !self.resources.iter().any(|r| r.name == resource) {
                return Err(n.error(format!(
                    "service {name} references a resource that does not exist: {resource}"
                )));
            }
            s.resources.push((resource, variable));
        }
        Ok(s)
    }

    fn timer(&self, name: &str, node: &Node<'_>) -> Result<Timer> {
        check_name("timer", name, node)?;
        let need = |key: &str| {
            let n = node
                .get(key)
                .ok_or_else(|| node.error(format!("timer {name} has no {key}")))?;
            Ok((n.text()?, n))
        };
        let (text, at) = need("schedule")?;
        let schedule =
            Schedule::parse(&text).map_err(|why| at.error(format!("timer {name}: {why}")))?;
        let (service, at) = need("service")?;
        if self.named(&service).is_none() {
            return Err(at.error(format!(
                "timer {name} references a service that does not exist: {service}"
            )));
        }
        let concurrency = node.get("concurrency").map(|n| n.text()).transpose()?;
        Ok(Timer {
            name: name.to_owned(),
            schedule,
            command: node
                .get("command")
                .map(|n| n.text())
                .transpose()?
                .filter(|c| !c.is_empty()),
            service,
            concurrent: !matches!(concurrency.as_deref(), Some("forbid" | "Forbid")),
        })
    }
}

fn interpolate(text: &str, env: &BTreeMap<String, String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        let Some(len) = rest[start..].find('}') else {
            break;
        };
        out.push_str(&rest[..start]);
        let name = &rest[start + 2..start + len];
        out.push_str(env.get(name).map_or("", String::as_str));
        rest = &rest[start + len + 1..];
    }
    out.push_str(rest);
    out
}

/// The longest name: with the app's it is a host name, and part of process ids.
const NAME_LIMIT: usize = 40;

fn check_name(what: &str, name: &str, node: &Node<'_>) -> Result<()> {
    let right = name.len() <= NAME_LIMIT
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && !name.ends_with('-')
        && name
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    if right {
        return Ok(());
    }
    Err(node.error(format!(
        "{what} name {name:?} invalid, must contain only lowercase alphanumeric and dashes, at most {NAME_LIMIT}"
    )))
}

fn build(node: Option<Node<'_>>) -> Result<Build> {
    let mut build = Build {
        path: ".".into(),
        dockerfile: "Dockerfile".into(),
        ..Build::default()
    };
    let Some(node) = node else { return Ok(build) };
    if !node.is_map() {
        build.path = node.text()?;
        return Ok(build);
    }
    if let Some(n) = node.get("path") {
        build.path = n.text()?;
    }
    for key in ["manifest", "dockerfile"] {
        if let Some(n) = node.get(key) {
            build.dockerfile = n.text()?;
        }
    }
    build.target = node.get("target").map(|n| n.text()).transpose()?;
    for text in node.get("args").map_or(Ok(Vec::new()), |n| n.texts())? {
        let (key, value) = text.split_once('=').unwrap_or((&text, ""));
        build.args.insert(key.to_owned(), value.to_owned());
    }
    Ok(build)
}

fn port(node: &Node<'_>) -> Result<Option<Port>> {
    if node.is_null() {
        return Ok(None);
    }
    let (text, scheme) = if node.is_map() {
        let n = node
            .get("port")
            .ok_or_else(|| node.error("could not parse port"))?;
        (n.text()?, node.get("scheme").map(|n| n.text()).transpose()?)
    } else {
        (node.text()?, None)
    };
    // `https:8443`, and `8443/tcp` among several.
    let (first, rest) = match text.split_once(':') {
        Some((scheme, port)) => (Some(scheme.to_owned()), port),
        None => (None, text.as_str()),
    };
    let number = rest.split('/').next().unwrap_or("");
    let port = number.trim().parse::<u16>().ok().filter(|p| *p > 0);
    let port = port.ok_or_else(|| node.error(format!("invalid port: {text:?}")))?;
    let scheme = first.or(scheme).unwrap_or_else(|| "http".into());
    Ok(Some(Port { port, scheme }))
}

fn health(node: Option<Node<'_>>) -> Result<Health> {
    let mut health = Health::default();
    let Some(node) = node else { return Ok(health) };
    if !node.is_map() {
        match node.as_flag() {
            Some(on) => health.disabled = !on,
            None => health.path = node.text()?,
        }
        return Ok(health);
    }
    if let Some(n) = node.get("path") {
        health.path = n.text()?;
    }
    let number = |key: &str| node.get(key).map(|n| n.number()).transpose();
    health.interval = number("interval")?.filter(|n| *n > 0).unwrap_or(5);
    health.grace = number("grace")?.unwrap_or(health.interval);
    health.timeout = number("timeout")?
        .filter(|n| *n > 0)
        .unwrap_or((health.interval - 1).max(1));
    health.disabled = node.get("disable").map_or(Ok(false), |n| n.flag())?;
    Ok(health)
}

fn scale(s: &mut Service, node: &Node<'_>) -> Result<()> {
    if !node.is_map() {
        (s.min, s.max) = count(node)?;
        return Ok(());
    }
    if let Some(n) = node.get("count") {
        (s.min, s.max) = count(&n)?;
    }
    let (min, max) = (node.get("min"), node.get("max"));
    if let Some(n) = &min {
        s.min = n.number()?;
        s.max = s.max.max(s.min);
    }
    if let Some(n) = &max {
        s.max = n.number()?;
        if min.is_none() {
            s.min = s.min.min(s.max);
        }
    }
    for (key, field) in [("cpu", &mut s.cpu), ("memory", &mut s.memory)] {
        if let Some(n) = node.get(key) {
            *field = Some(n.number()?);
        }
    }
    if s.max < s.min {
        return Err(node.error(format!("scale: {} to {} is no range", s.min, s.max)));
    }
    Ok(())
}

fn count(node: &Node<'_>) -> Result<(u32, u32)> {
    if node.is_map() {
        let number = |key: &str, usual| node.get(key).map_or(Ok(usual), |n| n.number());
        let min = number("min", 1)?;
        return Ok((min, number("max", min)?));
    }
    let text = node.text()?;
    let wrong = || node.error(format!("invalid scale: {text:?}"));
    let number = |s: &str| {
        s.trim()
            .trim_end_matches('+')
            .parse::<u32>()
            .map_err(|_| wrong())
    };
    let (min, max) = match text.split_once('-') {
        Some((min, max)) => (number(min)?, number(max)?),
        None => (number(&text)?, number(&text)?),
    };
    if max < min {
        return Err(wrong());
    }
    Ok((min, max))
}

fn resource(name: &str, node: &Node<'_>) -> Result<Resource> {
    check_name("resource", name, node)?;
    let blank = || node.error(format!("resource {name:?} has blank type"));
    let kind = node.get("type").ok_or_else(blank)?.text()?;
    if kind.trim().is_empty() {
        return Err(blank());
    }
    let mut options = BTreeMap::new();
    for (key, value) in node.get("options").map_or(Ok(Vec::new()), |n| n.map())? {
        options.insert(key, value.text()?);
    }
    Ok(Resource {
        name: name.to_owned(),
        r#type: kind,
        options,
    })
}

#[cfg(test)]
mod tests;
