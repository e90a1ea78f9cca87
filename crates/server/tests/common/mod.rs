//! A router on a real socket, and a caller for it.

use std::sync::Arc;

use boxrig_server::listen::{About, Stop, serve_connection, service};
use boxrig_server::router::{Peer, Router};
use boxrig_wire::{BaseUrl, Caller, Protocol};

/// Serves a router on a free port; gives its base URL.
pub(crate) async fn serve<P, S>(router: Router<P, S>, state: S) -> String
where
    P: Protocol,
    S: Clone + Send + Sync + 'static,
{
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let router = Arc::new(router);
    let service = service(move |info, request| {
        let (router, state) = (router.clone(), state.clone());
        async move { router.route(state, info, request).await }
    });
    tokio::spawn(async move {
        while let Ok((io, peer)) = listener.accept().await {
            let about = About::plain(Peer::Tcp(peer));
            tokio::spawn(serve_connection(
                io,
                about,
                service.clone(),
                Stop::default(),
            ));
        }
    });
    url
}

/// A caller with the usual transport.
pub(crate) fn caller(url: &str) -> Caller {
    let transport = boxrig_transport::Http::builder().build().unwrap();
    Caller::new(Arc::new(transport), BaseUrl::parse(url).unwrap())
}
