//! The retry budget: total failure is not made worse.

use boxrig_wire::Transport;

use crate::support::{Conn, client, get, quick, serve};

/// 100 tasks with one client, 10 calls each, nothing but 503.
#[tokio::test]
async fn a_tenth_more_at_most_when_everything_fails() {
    let server = serve(|mut conn: Conn| async move {
        while conn.request().await.is_some() {
            conn.reply(503, "", "").await;
        }
    })
    .await;
    let http = client();
    let url = server.url("/");
    let tasks: Vec<_> = (0..100)
        .map(|_| {
            let (http, url) = (http.clone(), url.clone());
            tokio::spawn(async move {
                for _ in 0..10 {
                    let mut out = get(&url);
                    out.retry = quick(5);
                    assert_eq!(http.send(out).await.unwrap().status(), 503);
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let requests = server.counts.requests();
    assert!(requests > 1000, "some are sent again: {requests}");
    assert!(requests <= 1100, "more than a tenth: {requests}");
}
