//! Asking a process whether it is well.

use std::time::Duration;

use boxrig_engine::{Engine, InstanceId};
use boxrig_wire::WireBody;
use http::{StatusCode, header};
use hyper_util::rt::TokioIo;

/// What a health check saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probed {
    /// The process answered with this status.
    Answered(StatusCode),
    /// It did not, for this reason.
    Failed(String),
}

impl Probed {
    /// Whether a process with this answer is well: a status below 400, as Kubernetes takes it.
    pub fn is_well(&self) -> bool {
        matches!(self, Self::Answered(status) if status.as_u16() < 400)
    }
}

impl std::fmt::Display for Probed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Answered(status) => write!(f, "status {}", status.as_u16()),
            Self::Failed(why) => f.write_str(why),
        }
    }
}

/// Asks a port of an instance for a path by HTTP/1.1, within `patience`. With `path` `None` it is enough that the port takes a
/// connection, and the answer is a 200.
pub async fn probe(
    engine: &dyn Engine,
    instance: &InstanceId,
    port: u16,
    path: Option<&str>,
    patience: Duration,
) -> Probed {
    let asked = async {
        let io = engine
            .connect(instance, port)
            .await
            .map_err(|e| e.to_string())?;
        let Some(path) = path else {
            return Ok(StatusCode::OK);
        };
        let path = if path.starts_with('/') {
            path.to_owned()
        } else {
            format!("/{path}")
        };
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake::<_, WireBody>(TokioIo::new(io))
                .await
                .map_err(|e| e.to_string())?;
        let request = http::Request::get(path)
            .header(header::HOST, format!("{instance}:{port}"))
            .header(header::USER_AGENT, "boxrig-health")
            .header(header::CONNECTION, "close")
            .body(WireBody::empty())
            .map_err(|e| e.to_string())?;
        let mut answer = std::pin::pin!(sender.send_request(request));
        let answer = tokio::select! {
            biased;
            answer = &mut answer => answer,
            // It may have ended because the answer is there.
            _ = connection => answer.await,
        };
        answer.map(|r| r.status()).map_err(|e| e.to_string())
    };
    match tokio::time::timeout(patience, asked).await {
        Ok(Ok(status)) => Probed::Answered(status),
        Ok(Err(why)) => Probed::Failed(why),
        Err(_) => Probed::Failed(format!("no answer within {} s", patience.as_secs_f32())),
    }
}
