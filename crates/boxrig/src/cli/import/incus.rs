//! Incus: the remotes of the standard tool, and the daemon of this machine.

use boxrig_incus::{Address, Folders, Remote, RemoteProtocol, Remotes, fingerprint_of_pem};
use boxrig_wire::{Error, Kind, Result, Untrusted};

use super::{Found, ImportEnv};
use crate::cli::contexts::Entry;

/// What the standard tool calls the daemon of this machine.
const LOCAL: &str = "local";

/// Every remote that is a server of instances, and the local daemon when it is there.
pub(crate) fn find(env: &ImportEnv) -> Vec<Found> {
    let source = match Folders::find(|name| env.var(name)).user {
        Some(folder) => folder.join("config.yml").display().to_string(),
        None => "/etc/incus/config.yml".to_owned(),
    };
    let remotes = match Remotes::load_in(|name| env.var(name)) {
        Ok(remotes) => remotes,
        Err(e) => return vec![Found::unusable("incus", "incus", source, e.to_string())],
    };
    let instances = |r: &&Remote| r.protocol == RemoteProtocol::Incus;
    remotes
        .iter()
        .filter(instances)
        .filter_map(|remote| {
            let entry = entry(env, remote);
            if remote.name != LOCAL {
                let entry = entry.map_err(|e| e.to_string());
                return Some(Found {
                    platform: "incus",
                    name: remote.name.clone(),
                    source: source.clone(),
                    entry,
                });
            }
            // Known to every configuration: worth a context only where a daemon is.
            let entry = entry.ok()?;
            let socket = entry.url.strip_prefix("incus+unix://")?.to_owned();
            std::path::Path::new(&socket)
                .exists()
                .then(|| Found::new("incus", "incus", socket, entry))
        })
        .collect()
}

/// What `env:incus` means: what the standard tool would work on without being told more.
///
/// # Errors
///
/// [`Kind::NotFound`] for a remote that is not known.
pub(crate) fn from_variables(env: &ImportEnv) -> Result<Entry> {
    let remotes = Remotes::load_in(|name| env.var(name))?;
    // A socket says which daemon is meant; the tool's own choice of a remote does not count then.
    let local = env.var("INCUS_REMOTE").is_none() && env.var("INCUS_SOCKET").is_some();
    entry(env, &remotes.get(local.then_some(LOCAL))?)
}

/// A remote as a context. The key stays in its file; of the server's certificate the fingerprint is taken over.
fn entry(env: &ImportEnv, remote: &Remote) -> Result<Entry> {
    let first = remote.addresses.first().map_or("", String::as_str);
    let address = match Address::parse(first)? {
        Address::Unix(_) if first == "unix://" || first == "unix:" => {
            Address::local_in(|name| env.var(name))
        }
        other => other,
    };
    let url = match address {
        Address::Unix(path) => {
            return Ok(Entry {
                project: remote.project.clone(),
                ..Entry::new(format!("incus+unix://{}", path.display()))
            });
        }
        Address::Https(url) => url,
        _ => return Err(Error::new(Kind::Unsupported, "an address of another kind")),
    };
    if remote.oidc {
        return Err(Error::new(
            Kind::Unsupported,
            "it is entered by OIDC, which a context cannot say yet",
        ));
    }
    let mut entry = Entry {
        project: remote.project.clone(),
        ..Entry::new(url.replacen("https://", "incus://", 1))
    };
    if let (false, Some((cert, key))) = (remote.public, &remote.client_certificate) {
        entry.cert_file = Some(cert.clone());
        entry.key_file = Some(key.clone());
    }
    if let Some(file) = &remote.server_certificate {
        let named = |why: String| Error::new(Kind::Invalid, why);
        let pem = env.read(file).map_err(named)?.unwrap_or_default();
        let pin = fingerprint_of_pem(pem.as_bytes())
            .map_err(|e| e.context(Untrusted::new(file.display().to_string())))?;
        entry.pin = Some(pin);
    }
    Ok(entry)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn remotes_become_contexts_and_keys_stay_where_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path();
        fs::create_dir(folder.join("servercerts")).unwrap();
        fs::write(
            folder.join("config.yml"),
            "default-remote: lab\nremotes:\n  lab: {addr: 'https://lab:8443', project: web}\n  \
             images: {addr: 'https://i', protocol: simplestreams}\n  sso: {addr: 'https://s', auth_type: oidc}\n",
        )
        .unwrap();
        let pem = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        fs::write(folder.join("client.crt"), pem).unwrap();
        fs::write(folder.join("client.key"), "canary").unwrap();
        fs::write(folder.join("servercerts/lab.crt"), pem).unwrap();
        let conf = folder.to_str().unwrap();
        let env = ImportEnv::of(&[("INCUS_CONF", conf), ("INCUS_SOCKET", "/no/such/socket")]);
        let found = find(&env);
        assert!(!format!("{found:?}").contains("canary"));
        let names: Vec<&str> = found.iter().map(|f| f.name.as_str()).collect();
        assert_eq!(names, ["lab", "sso"]);
        let lab = found[0].entry.as_ref().unwrap();
        assert_eq!(lab.url, "incus://lab:8443");
        assert_eq!(lab.project.as_deref(), Some("web"));
        assert_eq!(
            lab.pin.as_deref(),
            Some(&*fingerprint_of_pem(pem.as_bytes()).unwrap())
        );
        assert!(lab.key_file.as_ref().unwrap().ends_with("client.key"));
        lab.context("lab").unwrap();
        assert!(found[1].entry.as_ref().unwrap_err().contains("OIDC"));
    }

    #[test]
    fn variables_choose_as_the_standard_tool_does() {
        let dir = tempfile::tempdir().unwrap();
        let conf = dir.path().to_str().unwrap();
        fs::write(
            dir.path().join("config.yml"),
            "default-remote: lab\nremotes:\n  lab: {addr: 'https://lab:8443'}\n",
        )
        .unwrap();
        let conf = ("INCUS_CONF", conf);
        let url = |pairs: &[(&str, &str)]| from_variables(&ImportEnv::of(pairs)).map(|e| e.url);
        assert_eq!(url(&[conf]).unwrap(), "incus://lab:8443");
        let socket = ("INCUS_SOCKET", "/s");
        assert_eq!(url(&[conf, socket]).unwrap(), "incus+unix:///s");
        let named = ("INCUS_REMOTE", "lab");
        assert_eq!(url(&[conf, socket, named]).unwrap(), "incus://lab:8443");
        let e = url(&[conf, ("INCUS_REMOTE", "none")]).unwrap_err();
        assert_eq!(e.kind(), Kind::NotFound);
        let env = ImportEnv::of(&[conf, ("INCUS_PROJECT", "p")]);
        assert_eq!(from_variables(&env).unwrap().project.as_deref(), Some("p"));
    }
}
