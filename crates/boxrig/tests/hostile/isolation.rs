//! What a command in an instance can find out and reach, through the program: as root, and as an ordinary user.

use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::scripted::{Answer, Scripted};
use crate::support::Home;

/// An ordinary user's id; it needs no account.
const USER: u32 = 1000;

#[test]
fn everything_again_as_an_ordinary_user() {
    if !rustix::process::geteuid().is_root() {
        return; // This is that run.
    }
    // The build folder may not be readable for everybody, so both programs are copied.
    let dir = tempfile::Builder::new().prefix("bxu").tempdir().unwrap();
    chown(dir.path(), Some(USER), Some(USER)).unwrap();
    for (from, to) in [
        (std::env::current_exe().unwrap(), "tests"),
        (env!("CARGO_BIN_EXE_boxrig").into(), "boxrig"),
    ] {
        let to = dir.path().join(to);
        std::fs::copy(from, &to).unwrap();
        std::fs::set_permissions(&to, PermissionsExt::from_mode(0o755)).unwrap();
    }
    let output = Command::new(dir.path().join("tests"))
        .args([
            "--nocapture",
            "--test-threads=2",
            "isolation::",
            "archives::",
            "secrets::",
        ])
        .uid(USER)
        .gid(USER)
        .current_dir(dir.path())
        .env("HOME", dir.path())
        .env("TMPDIR", dir.path())
        .env("BOXRIG_TEST_PROGRAM", dir.path().join("boxrig"))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    for line in text.lines().filter(|line| line.starts_with("skipped")) {
        println!("as user {USER}: {line}");
    }
}

fn sh(home: &Home, name: &str, script: &str) -> String {
    home.ok(&["exec", name, "--", "sh", "-c", script])
}

#[test]
fn an_instance_is_a_place_of_its_own() {
    let Some(home) = Home::with_sandbox() else {
        return;
    };
    home.ok(&["launch", "--name", "one"]);
    home.ok(&["launch", "--name", "two"]);
    let links = "for n in pid mnt user uts ipc net; do readlink /proc/self/ns/$n; done";
    let (one, two) = (sh(&home, "one", links), sh(&home, "two", links));
    for (n, kind) in ["pid", "mnt", "user", "uts", "ipc", "net"]
        .iter()
        .enumerate()
    {
        let host = std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
        let host = host.to_str().unwrap();
        let (a, b) = (one.lines().nth(n).unwrap(), two.lines().nth(n).unwrap());
        assert!(a.starts_with(&format!("{kind}:[")), "{a}");
        assert!(a != host && b != host && a != b, "{kind}: {host} {a} {b}");
    }
    assert_eq!(sh(&home, "one", "hostname; uname -n").trim(), "one\none");
    assert_eq!(sh(&home, "two", "hostname").trim(), "two");
    // Run without a name, it is the instance's all the same.
    let own = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let guest = home.ok(&["run", "--", "hostname"]);
    assert!(
        guest.trim() != own.trim() && !guest.trim().is_empty(),
        "{guest}"
    );

    // Who it is: root in there, nobody special out here.
    assert_eq!(
        sh(
            &home,
            "one",
            "id -u; echo $$ | grep -qv '^1$' && test -d /proc/1 && echo yes"
        )
        .trim(),
        "0\nyes"
    );
    let mut sleeper = home
        .command(&["exec", "one", "--", "sleep", "300"])
        .spawn()
        .unwrap();
    std::thread::sleep(std::time::Duration::from_millis(700));
    let list = "cat /proc/[0-9]*/cmdline | tr '\\0' ' '";
    let processes = sh(&home, "one", list);
    assert!(processes.contains("sleep 300"), "{processes}");
    let processes = sh(&home, "two", list);
    assert!(!processes.contains("sleep 300"), "{processes}");
    let count = sh(&home, "two", "ls -d /proc/[0-9]* | wc -l");
    assert!(count.trim().parse::<u32>().unwrap() < 12, "{count}");
    sleeper.kill().unwrap();
    sleeper.wait().unwrap();
}

#[test]
fn the_hosts_files_are_not_there() {
    let Some(home) = Home::with_sandbox() else {
        return;
    };
    let word = format!("host-canary-{}", std::process::id());
    let mut places = vec![
        home.path().to_owned(),
        std::env::temp_dir(),
        "/var/tmp".into(),
        "/dev/shm".into(),
    ];
    if rustix::process::geteuid().is_root() {
        places.extend([
            "/root".into(),
            "/etc".into(),
            "/opt".into(),
            "/srv".into(),
            "/usr/local".into(),
            "/usr/src".into(),
        ]);
    }
    let mut files = Vec::new();
    for place in places {
        let file = place.join(&word);
        if std::fs::write(&file, &word).is_ok() {
            std::fs::set_permissions(&file, PermissionsExt::from_mode(0o666)).unwrap();
            files.push(file);
        }
    }
    let made = files.len();
    home.ok(&["launch", "--name", "web"]);
    let socket = home.path().join("run/boxrig/server.socket");
    assert!(socket.exists());
    let key = home
        .path()
        .join(".local/share/boxrig/server/credentials/api-key");
    let key_text = std::fs::read_to_string(&key).unwrap();
    let mut hidden = files.clone();
    hidden.extend([socket, key, home.config()]);
    for file in &hidden {
        let file = file.to_str().unwrap();
        for prefix in [
            "",
            "/proc/1/root",
            "/proc/self/root",
            "/proc/1/cwd/..",
            "/..",
        ] {
            let out = home.run(&["exec", "web", "--", "cat", &format!("{prefix}{file}")]);
            assert!(!out.status.success(), "{prefix}{file}");
            assert!(
                !String::from_utf8_lossy(&out.stdout).contains(&word),
                "{prefix}{file}"
            );
        }
    }
    let found = sh(
        &home,
        "web",
        &format!("find / -name '{word}' 2>/dev/null; true"),
    );
    assert_eq!(found, "");
    // No name of the host's folders in what it can read of its own mounts.
    let mounts = sh(&home, "web", "cat /proc/self/mountinfo /proc/mounts");
    assert!(!mounts.contains(key_text.trim()), "{mounts}");
    // And what it writes there is not here.
    let first = files[0].to_str().unwrap();
    let folder = files[0].parent().unwrap().to_str().unwrap();
    sh(
        &home,
        "web",
        &format!("mkdir -p {folder}; echo guest >{first}; chmod 777 {first}"),
    );
    assert_eq!(std::fs::read_to_string(&files[0]).unwrap(), word);
    for file in &files {
        std::fs::remove_file(file).unwrap();
    }
    assert!(made >= 2, "{made} canaries");
}

/// Ways from the guest to what listens here. `{port}` is the server's.
const WAYS: &[&str] = &[
    "http://127.0.0.1:{port}",
    "http://localhost:{port}",
    "http://[::1]:{port}",
    "http://0.0.0.0:{port}",
    "http://127.1:{port}",
    "http://2130706433:{port}",
    "http://0x7f000001:{port}",
    "http://[::ffff:127.0.0.1]:{port}",
    "http://[::]:{port}",
    "http://127.0.0.2:{port}",
    "https://127.0.0.1:{port}",
    "http://{own}:{port}",
    "http://{gateway}:{port}",
];

/// What is asked for there.
const PATHS: &[&str] = &[
    "/healthz",
    "/v1/vms",
    "/v1/org/quotas",
    "/v1/vms/{id}",
    "/boxrig/v1/info",
    "/boxrig/v1/env",
    "/boxrig/v1/instances/{id}/stats",
    "/1.0",
    "/1.0/instances",
    "/api/v4/vms",
    "/apps",
    "/",
    "//v1/vms",
    "/./v1/vms",
    "/%2e/v1/vms",
    "/x/../v1/vms",
    "/v1/vms?x=/objects/",
];

/// A first address of this machine that is not loopback, as a guest would try it.
fn own_address() -> String {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    let local = socket
        .connect("192.0.2.1:9")
        .and_then(|()| socket.local_addr());
    local.map_or("127.0.0.1".to_owned(), |a| a.ip().to_string())
}

#[test]
fn a_guest_reaches_no_control_api_and_no_other_guests_objects() {
    let Some(home) = Home::with_sandbox() else {
        return;
    };
    let env = home.env();
    let key = env["FASTVM_API_KEY"].as_str().unwrap();
    let origin = env["FASTVM_BASE_URL"].as_str().unwrap();
    let port = origin.rsplit(':').next().unwrap();
    // Something else that listens on this machine, as a developer's own services do.
    let neighbour = Scripted::at("0.0.0.0:0", |_| {
        Answer::new("200 OK", "text/plain", "neighbour")
    });
    let neighbour_port = neighbour.origin.rsplit(':').next().unwrap().to_owned();
    let mut urls = Vec::new();
    let mut ids = Vec::new();
    for name in ["one", "two"] {
        let id = home.json(&["launch", "--name", name])["id"]
            .as_str()
            .unwrap()
            .to_owned();
        // This opens the guest's own listener.
        let staging = home.json(&["fastvm", "presign-file", &id, "--body", "path=/root/x"]);
        urls.push(staging["uploadUrl"].as_str().unwrap().to_owned());
        ids.push(id);
    }
    let put = |name: &str, url: &str, content: &str| {
        let script = format!(
            "printf {content} >/tmp/c; curl -s -f -m 10 -X PUT -H 'Content-Type: application/octet-stream' -T /tmp/c '{url}'"
        );
        home.run(&["exec", name, "--", "sh", "-c", &script])
            .status
            .success()
    };
    // The guests' own objects work, so the listeners are there.
    assert!(put("one", &urls[0], "mine") && put("two", &urls[1], "yours"));
    assert_eq!(
        sh(&home, "two", &format!("curl -s -f '{}'", urls[1])),
        "yours"
    );

    // One script for all ways: a line for each answer that was a success.
    let own = own_address();
    let mut script = String::from(
        "gateway=$(awk '$2==\"00000000\"{print $3; exit}' /proc/net/route | sed 's/\\(..\\)\\(..\\)\\(..\\)\\(..\\)/0x\\4\\3\\2\\1/')\n\
         try() { c=$(curl -k -s --path-as-is -m 3 -o /tmp/body -w '%{http_code}' \"$@\" 2>/dev/null); n=$((n+1))\n\
         case $c in 2*|101) echo \"$c $*\"; cat /tmp/body;; esac; }\n",
    );
    let mut tries = 0;
    for way in WAYS {
        let way = way
            .replace("{port}", port)
            .replace("{own}", &own)
            .replace("{gateway}", "${gateway:-10.0.0.1}");
        // All paths where something may listen, few where nothing should.
        let first = way.contains("127.0.0.1:") && way.starts_with("http:");
        for path in if first { PATHS } else { &PATHS[..5] } {
            let path = path.replace("{id}", &ids[1]);
            script.push_str(&format!("try -H 'X-API-Key: {key}' \"{way}{path}\"\n"));
            tries += 1;
            if first {
                for more in [
                    "-H 'Host: localhost'",
                    "-H 'Host: boxrig'",
                    "-H 'Host: evil.example'",
                    "-H 'Host: x--1234.proxy.localhost'",
                    "--http2-prior-knowledge",
                    "-X OPTIONS",
                    "-X POST -d '{}' -H 'Content-Type: application/json'",
                    "-X DELETE",
                    "-H 'Connection: Upgrade' -H 'Upgrade: h2c' -H 'HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA'",
                    "-H 'Connection: Upgrade' -H 'Upgrade: websocket' -H 'Sec-WebSocket-Version: 13' -H 'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=='",
                ] {
                    script.push_str(&format!(
                        "try {more} -H 'X-API-Key: {key}' \"{way}{path}\"\n"
                    ));
                    tries += 1;
                }
            }
        }
    }
    for host in [
        "127.0.0.1",
        "localhost",
        &own,
        "${gateway:-10.0.0.1}",
        "[::ffff:127.0.0.1]",
    ] {
        script.push_str(&format!("try \"http://{host}:{neighbour_port}/\"\n"));
        tries += 1;
    }
    // Another guest's object, by every spelling of its address.
    let path = urls[1].strip_prefix(origin).unwrap();
    let (mine, _) = urls[0]
        .strip_prefix(origin)
        .unwrap()
        .split_once('?')
        .unwrap_or((&urls[0][origin.len()..], ""));
    for form in [
        path.to_owned(),
        format!("/.{path}"),
        format!("/{path}"),
        format!("{mine}/../..{path}"),
        format!("{mine}/%2e%2e/%2e%2e{path}"),
        path.replacen("/v1", "/%76%31", 1),
        format!("{path}&x=1"),
        format!("{path}#x"),
        path.to_uppercase(),
    ] {
        for method in [
            "GET",
            "HEAD",
            "PUT -d stolen -H 'Content-Type: application/octet-stream'",
            "DELETE",
            "POST -d x",
        ] {
            let head = if method == "HEAD" { "-I" } else { "-X" };
            let method = if method == "HEAD" { "" } else { method };
            script.push_str(&format!("try {head} {method} '{origin}{form}'\n"));
            tries += 1;
        }
    }
    script.push_str("echo tried $n\n");
    std::fs::write(home.path().join("ways"), &script).unwrap();
    home.ok(&["cp", "ways", "one:/root/ways"]);
    let out = home.ok(&["exec", "one", "--", "sh", "/root/ways"]);
    assert_eq!(out.trim(), format!("tried {tries}"), "{out}");
    assert!(tries >= 200, "{tries}");
    assert_eq!(
        neighbour.seen().len(),
        0,
        "a service of the host was reached"
    );
    assert_eq!(
        sh(&home, "two", &format!("curl -s -f '{}'", urls[1])),
        "yours"
    );
    println!("{tries} tries from the guest, none got through");
}
