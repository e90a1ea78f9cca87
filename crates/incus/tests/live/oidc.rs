//! Logging in by OIDC: a daemon of its own that trusts a small issuer of the test's.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use boxrig_incus::{Client, ClientBuilder, DeviceLogin, OidcSession};
use boxrig_wire::{Kind, Secret};
use serde_json::{Value, json};

use super::support::{Daemon, live};

/// An issuer that confirms the second time it is asked. Its first token is over when it is given out, those for a refresh
/// token are good for an hour.
struct Issuer {
    url: String,
    key: PathBuf,
    modulus: String,
    /// Paths and forms, as they came.
    asked: Mutex<Vec<String>>,
}

fn openssl(args: &[&str], input: &[u8]) -> Vec<u8> {
    let mut child = Command::new("openssl")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    let out = child.wait_with_output().unwrap();
    assert!(out.status.success(), "openssl {args:?}");
    out.stdout
}

impl Issuer {
    fn start(folder: &Path) -> Arc<Self> {
        let key = folder.join("issuer.key");
        let file = key.to_str().unwrap();
        openssl(&["genrsa", "-out", file, "2048"], b"");
        let modulus = openssl(&["rsa", "-in", file, "-noout", "-modulus"], b"");
        let modulus = String::from_utf8(modulus).unwrap();
        let hex = modulus.trim().trim_start_matches("Modulus=").as_bytes();
        let byte =
            |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        let bytes: Vec<u8> = hex.chunks(2).map(byte).collect();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let issuer = Arc::new(Self {
            url: format!("http://{}", listener.local_addr().unwrap()),
            key,
            modulus: URL_SAFE_NO_PAD.encode(bytes),
            asked: Mutex::default(),
        });
        let serving = issuer.clone();
        // It ends with the process of the tests.
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                // A caller that goes away is no matter.
                let _ = serving.serve(stream);
            }
        });
        issuer
    }

    fn serve(&self, stream: TcpStream) -> std::io::Result<()> {
        let mut reader = BufReader::new(stream);
        let (mut first, mut length) = (String::new(), 0);
        reader.read_line(&mut first)?;
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let line = line.trim().to_ascii_lowercase();
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap_or(0);
            }
            if line.is_empty() {
                break;
            }
        }
        let mut form = vec![0; length];
        reader.read_exact(&mut form)?;
        let form = String::from_utf8_lossy(&form).into_owned();
        let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
        let answer = self.answer(&path, &form);
        self.asked.lock().unwrap().push(format!("{path} {form}"));
        let (status, body) = match answer {
            Some(body) if body.get("error").is_some() => ("400 Bad Request", body.to_string()),
            Some(body) => ("200 OK", body.to_string()),
            None => ("404 Not Found", String::new()),
        };
        let length = body.len();
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
        );
        reader.get_mut().write_all(head.as_bytes())?;
        reader.get_mut().write_all(body.as_bytes())
    }

    fn answer(&self, path: &str, form: &str) -> Option<Value> {
        let at = |name: &str| format!("{}/{name}", self.url);
        let asked = self.asked.lock().unwrap();
        let before = asked.iter().filter(|a| a.contains("device_code=d")).count();
        drop(asked);
        let tokens = |seconds| {
            json!({"access_token": self.token(&self.url, seconds), "refresh_token": "again",
                "token_type": "Bearer", "expires_in": 60})
        };
        Some(match path {
            "/.well-known/openid-configuration" => json!({
                "issuer": self.url, "authorization_endpoint": at("authorize"), "token_endpoint": at("token"),
                "jwks_uri": at("keys"), "userinfo_endpoint": at("user"),
                "device_authorization_endpoint": at("device"), "response_types_supported": ["code"],
                "subject_types_supported": ["public"], "id_token_signing_alg_values_supported": ["RS256"],
            }),
            "/keys" => json!({"keys": [{"kty": "RSA", "use": "sig", "alg": "RS256", "kid": "one",
                "n": self.modulus, "e": "AQAB"}]}),
            "/device" => json!({"device_code": "d", "user_code": "AB-CD",
                "verification_uri": at("go"), "expires_in": 60, "interval": 1}),
            "/token" if form.contains("refresh_token=again") => tokens(3600),
            "/token" if before == 0 => json!({"error": "authorization_pending"}),
            "/token" => tokens(-60),
            _ => return None,
        })
    }

    /// A token that is good for so long from now.
    fn token(&self, issuer: &str, seconds: i64) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let now = i64::try_from(now.as_secs()).unwrap();
        let head = json!({"alg": "RS256", "typ": "JWT", "kid": "one"});
        let claims = json!({
            "iss": issuer, "sub": "somebody@example.org", "aud": ["the-tool", "the-server"],
            "client_id": "the-tool", "iat": now - 120, "exp": now + seconds,
        });
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&head), part(&claims));
        let key = self.key.to_str().unwrap();
        let signature = openssl(&["dgst", "-sha256", "-sign", key], signed.as_bytes());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

#[tokio::test]
async fn a_login_is_made_and_refreshed() {
    let live = live!("oidc.rs::a_login_is_made_and_refreshed");
    let Some(daemon) = Daemon::start(&live).await else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let issuer = Issuer::start(folder.path());
    let server = daemon.client();
    let without = https(&daemon, &server).await.build().unwrap();
    assert_eq!(without.oidc_settings().await.unwrap(), None);
    let settings = [
        ("oidc.issuer", &*issuer.url),
        ("oidc.client.id", "the-tool"),
        ("oidc.audience", "the-server"),
    ];
    server.server().set(settings).await.unwrap();

    // A stranger is told where to log in.
    let stranger = https(&daemon, &server).await.build().unwrap();
    let wanted = stranger.oidc_settings().await.unwrap().unwrap();
    assert_eq!(
        (&*wanted.issuer, &*wanted.client_id),
        (&*issuer.url, "the-tool")
    );
    assert_eq!(wanted.audience.as_deref(), Some("the-server"));
    let login = DeviceLogin::start(wanted).await.unwrap();
    assert_eq!(login.user_code.raw(), "AB-CD");
    let session = login.wait().await.unwrap();

    // The first token is over: a new one is fetched, once, and the call is made with that.
    let client = https(&daemon, &server)
        .await
        .oidc(&session)
        .build()
        .unwrap();
    assert!(client.instances().list().await.unwrap().is_empty());
    let info = client.info().await.unwrap();
    assert_eq!(info.auth, "trusted");
    assert_eq!(info.auth_user_name, "somebody@example.org");
    client.profiles().get("default").await.unwrap();
    let asked = issuer.asked.lock().unwrap().join("\n");
    assert_eq!(asked.matches("refresh_token=again").count(), 1, "{asked}");

    // It is kept as the standard tool keeps it, and read again.
    let file = folder.path().join("tokens.json");
    session.save(&file).unwrap();
    let again = OidcSession::from_file(&file).unwrap();
    let client = https(&daemon, &server).await.oidc(&again).build().unwrap();
    assert_eq!(client.info().await.unwrap().auth, "trusted");

    // Another issuer's token, and one that is over and cannot be refreshed.
    for token in [
        issuer.token("http://127.0.0.1:1", 3600),
        issuer.token(&issuer.url, -60),
    ] {
        let session = OidcSession::from_access_token(&Secret::new(token));
        let client = https(&daemon, &server)
            .await
            .oidc(&session)
            .build()
            .unwrap();
        let e = client.instances().list().await.unwrap_err();
        assert!(
            matches!(e.kind(), Kind::Unauthenticated | Kind::Denied),
            "{e}"
        );
    }
}

/// Settings of a client of the daemon by HTTPS, without any certificate of its own.
async fn https(daemon: &Daemon, server: &Client) -> ClientBuilder {
    daemon.listen().await;
    let certificate = server.info().await.unwrap().environment.certificate;
    Client::https(&format!("https://{}", daemon.https))
        .unwrap()
        .pin_certificate(certificate.as_bytes())
}
