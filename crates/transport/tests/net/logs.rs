//! What is logged of a call, and what never is.

use std::io::Write;
use std::sync::{Arc, Mutex};

use boxrig_wire::{Transport, WireBody};
use http::HeaderValue;

use crate::support::{Conn, call, client, nobody, quick, serve};

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(text);
        Ok(text.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// At the highest level, with a retry and a failure: the operation, the host, the status, and no secret.
#[test]
fn calls_are_logged_without_secrets() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    tracing::subscriber::with_default(subscriber, || {
        runtime.block_on(async {
            let server = serve(|mut conn: Conn| async move {
                while conn.request().await.is_some() {
                    let status = if conn.counts.requests() == 1 {
                        503
                    } else {
                        404
                    };
                    conn.reply(status, "set-cookie: canary4\r\n", "canary5")
                        .await;
                }
            })
            .await;
            let url = server.url("/path?token=canary1");
            let mut out = call(
                http::Method::PUT,
                &url,
                boxrig_wire::Idempotency::Idempotent,
            );
            let mut value = HeaderValue::from_static("canary2");
            value.set_sensitive(true);
            out.request.headers_mut().insert("authorization", value);
            *out.request.body_mut() = WireBody::full("canary3");
            out.retry = quick(1);
            let http = client();
            assert_eq!(http.send(out).await.unwrap().status(), 404);
            let url = format!("http://{}/path?token=canary1", nobody().await);
            let mut out = call(
                http::Method::PUT,
                &url,
                boxrig_wire::Idempotency::Idempotent,
            );
            out.retry = quick(1);
            http.send(out).await.unwrap_err();
        });
    });
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    for expected in [
        "operation=\"testOperation\"",
        "method=PUT",
        "host=\"127.0.0.1\"",
        "status=503",
        "status=404",
        "latency_ms=",
        "failed",
    ] {
        assert!(text.contains(expected), "{expected} in\n{text}");
    }
    assert!(!text.contains("canary"), "{text}");
}
