//! Services reach each other by name, inside the rack.

use crate::deploy::sandbox;
use crate::http::Rack;

/// Answers its release on `PORT` and on 6000; `web` asks `api` before it says that it is healthy.
const SERVER: &str = r#"
import http.server, os, threading, urllib.request
class H(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        text = os.environ['SERVICE'] + ' ' + os.environ['RELEASE']
        if self.path == '/health' and os.environ['SERVICE'] == 'web':
            try: text = urllib.request.urlopen('http://api:5000/', timeout=5).read().decode()
            except Exception as e: return self.send_error(503, str(e))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(text.encode())
    def log_message(self, *a): pass
def serve(port): http.server.ThreadingHTTPServer(('127.0.0.1', port), H).serve_forever()
for extra in (6000, 7000): threading.Thread(target=serve, args=[extra], daemon=True).start()
serve(int(os.environ['PORT']))
"#;

const MANIFEST: &str = "
services:
  api:
    build: .
    internal: true
    port: 5000
    ports: [6000]
    health: /
    termination: {grace: 1}
  web:
    build: .
    port: 3000
    health: /health
    termination: {grace: 1}
";

const DOCKERFILE: &str = "FROM boxrig/base\nCOPY *.py /\nCMD [\"python3\", \"/server.py\"]\n";

const FILES: [(&str, &str); 4] = [
    ("convox.yml", MANIFEST),
    ("Dockerfile", DOCKERFILE),
    ("server.py", SERVER),
    ("ask.py", ASK),
];

/// Prints what is answered at an address.
const ASK: &str = "
import sys, urllib.request
try: print(urllib.request.urlopen(sys.argv[1], timeout=5).read().decode(), end='')
except Exception as e: print('no:', e, end='')
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_reach_each_other_by_name() {
    let Some(mut rack) = sandbox().await else {
        return;
    };
    let mut releases = Vec::new();
    for app in ["shop", "other"] {
        rack.form("POST", "/apps", &format!("name={app}"))
            .await
            .with(200);
        let build = rack.build(app, &FILES).await;
        assert_eq!(build["status"], "complete", "{build}");
        let release = build["release"].as_str().unwrap().to_owned();
        // The first promotion already needs the name: `web` is healthy only when `api` of the same release answers.
        let now = rack.promote(app, &release).await;
        assert_eq!(now["release"], *release, "{now}");
        releases.push(release);
    }
    let api = format!("api {}", releases[0]);
    for host in [
        "api",
        "api.shop",
        "API.shop.boxrig.local",
        "api.shop.convox.local",
        "api.boxrig-shop.svc.cluster.local",
    ] {
        assert_eq!(
            ask(&rack, "web", &format!("http://{host}:5000/")).await,
            api,
            "{host}"
        );
    }
    assert_eq!(ask(&rack, "web", "http://api:6000/").await, api);
    assert_eq!(
        ask(&rack, "api", "http://web:3000/").await,
        format!("web {}", releases[0])
    );
    // Another app's, too.
    assert_eq!(
        ask(&rack, "web", "http://api.other:5000/").await,
        format!("api {}", releases[1])
    );
    // What is no port of the service is not reached, though it listens; nor is an unknown service.
    assert_eq!(ask(&rack, "api", "http://127.0.0.1:7000/").await, api);
    assert!(
        ask(&rack, "web", "http://api:7000/")
            .await
            .starts_with("no: ")
    );
    assert!(
        ask(&rack, "web", "http://nobody.shop:5000/")
            .await
            .starts_with("no: ")
    );
    // Internal is internal.
    let host = [("Host", "api.shop.localhost")];
    let answer = rack.ask("GET", "/", &host, bytes::Bytes::new()).await;
    assert_eq!(answer.status, 404);
    let host = [("Host", "web.shop.localhost")];
    rack.ask("GET", "/", &host, bytes::Bytes::new())
        .await
        .with(200);

    // After an exchange of the processes the same name leads to the new ones.
    let changed = rack
        .form("POST", "/apps/shop/releases", "env=A%3D1")
        .await
        .with(200)
        .json();
    let next = changed["id"].as_str().unwrap();
    let now = rack.promote("shop", next).await;
    assert_eq!(now["release"], next, "{now}");
    assert_eq!(
        ask(&rack, "web", "http://api:5000/").await,
        format!("api {next}")
    );

    // A server that begins anew finds the processes as they run, and they each other.
    rack.server
        .restart(|config| config.engine(boxrig_engine::Selection::Sandbox))
        .await
        .unwrap();
    assert_eq!(
        ask(&rack, "web", "http://api:5000/").await,
        format!("api {next}")
    );
}

/// What a service of `shop` is answered at an address.
async fn ask(rack: &Rack, service: &str, url: &str) -> String {
    let command = format!("python3 /ask.py {url}");
    rack.exec("shop", service, &command, None).await.0
}
