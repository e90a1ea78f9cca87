use super::*;
use serde_json::Value;

#[derive(Debug)]
struct Named(&'static str);

impl Platform for Named {
    fn route(
        &self,
        _: RequestInfo,
        _: http::Request<WireBody>,
    ) -> BoxFuture<'_, Response<WireBody>> {
        Box::pin(async { Response::new(WireBody::full(self.0)) })
    }
}

fn front() -> Front {
    let hosts = AllowedHosts::new(["box.example.com".to_owned()]);
    Front::new(hosts, Arc::new(Named("control")), Arc::new(Named("fastvm")))
}

fn tcp() -> Peer {
    Peer::Tcp(([127, 0, 0, 1], 9).into())
}

async fn ask(peer: Peer, path: &str, headers: &[(&str, &str)]) -> (u16, String) {
    let mut request = http::Request::get(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(WireBody::empty()).unwrap();
    let (parts, body) = request.into_parts();
    let mut info = RequestInfo::new(peer, &parts);
    info.client_cert = info.header("test-cert").map(str::to_owned);
    let request = http::Request::from_parts(parts, body);
    let response = front().answer(info, request).await;
    let status = response.status().as_u16();
    let body = response.into_body().collect(1 << 20).await.unwrap();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

const HERE: (&str, &str) = ("host", "127.0.0.1:7979");

#[tokio::test]
async fn paths_go_to_their_protocols() {
    for path in ["/v1", "/v1/vms", "/healthz"] {
        assert_eq!(ask(tcp(), path, &[HERE]).await, (200, "fastvm".into()));
    }
    for (path, platform) in [
        ("/api/v4/vms", "vergeos"),
        ("/files", "vergeos"),
        ("/", "incus"),
        ("/1.0", "incus"),
        ("/1.0/instances", "incus"),
        ("/apps", "convox"),
        ("/healthz/x", "convox"),
        ("/v10", "convox"),
    ] {
        let (status, body) = ask(tcp(), path, &[HERE]).await;
        assert_eq!(status, 501, "{path}");
        assert!(body.contains(platform), "{path}: {body}");
    }
    // In the platform's own form.
    let (_, body) = ask(tcp(), "/1.0", &[HERE]).await;
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(body["error_code"], 501);
    assert_eq!(ask(tcp(), "/os/1.0", &[HERE]).await.0, 404);
}

#[tokio::test]
async fn unknown_paths_by_who_asks() {
    let root = Peer::Unix { uid: 0, pid: None };
    for (peer, headers) in [
        (root.clone(), &[][..]),
        (tcp(), &[HERE, ("test-cert", "ab")][..]),
    ] {
        let (status, body) = ask(peer, "/nowhere", headers).await;
        assert_eq!(status, 404);
        assert!(body.contains("error_code"), "{body}");
    }
    // The control API is on the unix socket only.
    assert_eq!(ask(root, "/boxrig/v1/info", &[]).await.1, "control");
    for headers in [&[HERE][..], &[HERE, ("test-cert", "ab")]] {
        let (status, body) = ask(tcp(), "/boxrig/v1/info", headers).await;
        assert_eq!(status, 404);
        assert!(!body.contains("control"));
    }
    let guest = Peer::Guest("x".into());
    assert_eq!(ask(guest, "/boxrig/v1/info", &[HERE]).await.0, 404);
}

#[tokio::test]
async fn foreign_hosts_and_origins_are_refused() {
    for (host, status) in [
        ("localhost", 200),
        ("LOCALHOST.:7979", 200),
        ("127.9.9.9", 200),
        ("[::1]:7979", 200),
        ("box.example.com", 200),
        ("evil.example.com", 403),
        ("box.example.com.evil.com", 403),
        ("192.168.1.1", 403),
        ("x.localhost", 403),
        ("a b", 400),
        ("", 400),
        ("web.app.localhost:7979", 404),
        ("api--0123456789abcdef0123456789abcdef.proxy.localhost", 404),
    ] {
        let (got, body) = ask(tcp(), "/healthz", &[("host", host)]).await;
        assert_eq!(got, status, "{host}: {body}");
    }
    assert_eq!(ask(tcp(), "/healthz", &[]).await.0, 400);
    // HTTP/2 and absolute forms carry the host in the target.
    assert_eq!(ask(tcp(), "http://evil.com/healthz", &[HERE]).await.0, 403);
    for (header, value, status) in [
        ("origin", "http://127.0.0.1:7979", 200),
        ("origin", "http://127.0.0.1:3000", 403),
        ("origin", "https://127.0.0.1:7979", 403),
        ("origin", "http://evil.com", 403),
        ("origin", "null", 403),
        ("sec-fetch-site", "cross-site", 403),
        ("sec-fetch-site", "none", 200),
    ] {
        let (got, _) = ask(tcp(), "/healthz", &[HERE, (header, value)]).await;
        assert_eq!(got, status, "{header}: {value}");
    }
    // Whoever may open the socket may say what they like.
    let root = Peer::Unix { uid: 0, pid: None };
    assert_eq!(ask(root, "/healthz", &[("host", "incus")]).await.0, 200);
}
