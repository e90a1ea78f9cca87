//! Every member of VergeOS' managers, from the client's table of members.
//!
//! A place is a command, such as `vms` or `networks.rules`; its members are the commands below it. Members of a row take the
//! row's key first: `boxrig vergeos vms power-on 36`, `boxrig vergeos vms.drives list 36`.

use boxrig_vergeos::member::{
    Invocation, Member, invoke, members, names, node_at, rows_on_the_way,
};
use boxrig_vergeos::{Client, Key};
use boxrig_wire::{Error, Kind, Result};
use clap::{Arg, ArgAction, ArgMatches, Command};
use serde_json::Value;

use crate::cli::exit::Outcome;
use crate::cli::session::Session;
use crate::cli::verbs::api;

/// `client.networks[Network].rules` is the command `networks.rules`.
fn place_command(place: &str) -> String {
    let mut out = String::new();
    let mut inside = false;
    for c in place.strip_prefix("client.").unwrap_or(place).chars() {
        match c {
            '[' => inside = true,
            ']' => inside = false,
            '_' if !inside => out.push('-'),
            c if !inside => out.push(c),
            _ => {}
        }
    }
    out
}

fn member_command(member: &str) -> String {
    member.replace('_', "-")
}

/// The flag of a parameter; those that mean something on every command get another name.
fn flag(name: &str) -> String {
    const TAKEN: &[&str] = &[
        "on",
        "all",
        "output",
        "columns",
        "sort",
        "color",
        "no-color",
        "quiet",
        "verbose",
        "yes",
        "dry-run",
        "read-only",
        "help",
        "version",
        "set",
    ];
    match name.replace('_', "-").as_str() {
        "timeout" => "wait-timeout".to_owned(),
        "filter" => "where".to_owned(),
        name if TAKEN.contains(&name) => format!("param-{name}"),
        name => name.to_owned(),
    }
}

/// The places, by their commands; a row's members are at the place of its manager.
fn commands() -> Vec<String> {
    let mut all: Vec<String> = names().map(|(place, _)| place_command(place)).collect();
    all.sort();
    all.dedup();
    all
}

/// The command that calls a member.
pub(crate) fn command_of(member: &Member) -> String {
    let place = place_command(&member.accessor);
    format!("boxrig vergeos {place} {}", member_command(&member.member))
}

/// The members of a place's command: the manager's own, then those of its rows that are called otherwise.
fn members_of(command: &str) -> Vec<Member> {
    let mut found: Vec<Member> = Vec::new();
    let mut here: Vec<Member> = members()
        .filter(|m| place_command(&m.accessor) == command)
        .collect();
    here.sort_by_key(|m| (m.accessor.len(), m.member.clone()));
    for member in here {
        let manager = member.returned.ends_with("Manager");
        if !manager && !found.iter().any(|m| m.member == member.member) {
            found.push(member);
        }
    }
    found
}

/// The commands of the platform.
pub(crate) fn tree(c: Command) -> Command {
    c.subcommand_required(true)
        .arg_required_else_help(true)
        .subcommands(commands().into_iter().map(|name| {
            let about = format!("Members of {name}");
            Command::new(name)
                .about(about)
                .subcommand_required(true)
                .arg_required_else_help(true)
                .defer(|c| {
                    let members = members_of(c.get_name());
                    c.subcommands(members.iter().map(command))
                })
        }))
}

fn command(member: &Member) -> Command {
    let requests: Vec<String> = member
        .requests()
        .iter()
        .map(|(method, table)| format!("{method} {table}"))
        .collect();
    let mut c = Command::new(member_command(&member.member)).about(format!(
        "{}: {}",
        member.id(),
        requests.join(", ")
    ));
    for (n, class) in rows_on_the_way(&member.accessor).enumerate() {
        c = c.arg(
            Arg::new(format!("row:{n}"))
                .value_name(class.to_uppercase())
                .help(format!("The key of the {class}"))
                .required(true),
        );
    }
    for param in &member.params {
        if param.ty == "**" {
            c = c.arg(
                Arg::new("set")
                    .long("set")
                    .value_name("COLUMN=VALUE")
                    .help("A column; of a list, what it must be")
                    .action(ArgAction::Append)
                    .value_parser(crate::cli::units::pair),
            );
            continue;
        }
        if param.ty.starts_with("Callable") {
            continue;
        }
        let mut help = param.ty.clone();
        if !param.one_of.is_empty() {
            let words: Vec<String> = param.one_of.iter().map(ToString::to_string).collect();
            help = format!("one of {}", words.join(", "));
        }
        c = c.arg(
            Arg::new(format!("param:{}", param.name))
                .long(flag(&param.name))
                .value_name("VALUE")
                .help(help)
                .required(param.required),
        );
    }
    c
}

/// A text as the parameter's type has it.
fn value(ty: &str, name: &str, text: &str) -> Result<Value> {
    let wrong = |what: &str| Error::new(Kind::Invalid, format!("--{}: {what}", flag(name)));
    let kinds: Vec<&str> = ty.split('|').map(str::trim).collect();
    if kinds.contains(&"bool") {
        return match text {
            "true" | "yes" | "1" => Ok(true.into()),
            "false" | "no" | "0" => Ok(false.into()),
            _ => Err(wrong("true or false is expected")),
        };
    }
    let number = ["int", "float", "datetime", "timedelta"]
        .iter()
        .any(|t| kinds.iter().any(|k| k.starts_with(t)));
    if number {
        if let Ok(n) = text.parse::<i64>() {
            return Ok(n.into());
        }
        if let Ok(n) = text.parse::<f64>()
            && n.is_finite()
        {
            return Ok(n.into());
        }
        if !kinds.contains(&"str") {
            return Err(wrong("a number is expected"));
        }
    }
    let document = kinds
        .iter()
        .any(|k| k.starts_with("dict") || k.starts_with("list[dict"));
    if document || text.starts_with(['{', '[']) {
        return match serde_json::from_str(text) {
            Ok(value) => Ok(value),
            Err(_) if kinds.contains(&"str") => Ok(text.into()),
            Err(e) => Err(wrong(&format!("JSON is expected: {e}"))),
        };
    }
    Ok(text.into())
}

/// Calls the member that was asked for.
pub(crate) async fn run(s: &Session, m: &ArgMatches) -> Outcome {
    let none = || Error::new(Kind::Invalid, "no member is named");
    let (place, m) = m.subcommand().ok_or_else(none)?;
    let (name, m) = m.subcommand().ok_or_else(none)?;
    let member = members_of(place)
        .into_iter()
        .find(|member| member_command(&member.member) == name)
        .ok_or_else(none)?;
    let text = |id: &str| m.get_one::<String>(id).cloned();
    let keys: Vec<Key> = rows_on_the_way(&member.accessor)
        .enumerate()
        .filter_map(|(n, _)| text(&format!("row:{n}")).map(Key::from))
        .collect();
    let context = s.context()?;
    let platform = context.target.platform().as_str();
    if platform != "vergeos" {
        return Err(Error::new(
            Kind::Invalid,
            format!(
                "the context {} speaks {platform}, not vergeos",
                context.name
            ),
        )
        .with_hint("choose another with --on")
        .into());
    }
    let safe = member.requests().iter().all(|(method, _)| *method == "GET");
    let what = format!("call {} on {}", member.id(), context.name);
    if !safe && !s.may_change(&context, &what)? {
        return Ok(());
    }
    let connection = s.connect(&context).await?;
    let client = connection
        .compute
        .native()
        .downcast_ref::<Client>()
        .cloned()
        .ok_or_else(|| Error::new(Kind::Failed, "the context has no VergeOS client"))?;
    let mut invocation =
        Invocation::new(node_at(&client, &member.accessor, &keys)?, &member.member);
    for param in member.params.iter().filter(|p| p.ty != "**") {
        if let Ok(Some(given)) = m.try_get_one::<String>(&format!("param:{}", param.name)) {
            invocation = invocation.arg(&param.name, value(&param.ty, &param.name, given)?);
        }
    }
    if let Ok(Some(pairs)) = m.try_get_many::<(String, String)>("set") {
        for (column, given) in pairs {
            let value = serde_json::from_str::<Value>(given)
                .unwrap_or_else(|_| Value::String(given.clone()));
            invocation = invocation.column(column, value);
        }
    }
    match invoke(invocation).await? {
        Value::Null => Ok(()),
        value => Ok(api::show(&s.style, value)?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_is_sound() {
        tree(Command::new("vergeos")).debug_assert();
    }

    #[test]
    fn every_member_has_a_command() {
        let mut by_place: std::collections::BTreeMap<String, Vec<String>> = Default::default();
        for member in members() {
            if member.returned.ends_with("Manager") {
                continue;
            }
            let place = place_command(&member.accessor);
            let names = by_place.entry(place.clone()).or_insert_with(|| {
                members_of(&place)
                    .iter()
                    .map(|m| m.member.clone())
                    .collect()
            });
            assert!(names.contains(&member.member), "{}", member.id());
        }
        assert!(by_place.len() > 150);
    }

    #[test]
    fn values_by_type() {
        let v = |ty: &str, text: &str| value(ty, "p", text).unwrap();
        assert_eq!(v("bool | None", "false"), Value::Bool(false));
        assert_eq!(v("int | str", "web"), "web");
        assert_eq!(v("int | None", "7"), 7);
        assert_eq!(
            v("dict[str, Any] | None", "{\"a\":1}"),
            serde_json::json!({"a": 1})
        );
        assert_eq!(v("str | None", "007"), "007");
        assert!(value("int", "p", "seven").is_err());
        assert_eq!(flag("timeout"), "wait-timeout");
        assert_eq!(
            place_command("client.vms[VM].cloudinit_files"),
            "vms.cloudinit-files"
        );
    }
}
