//! The operations' HTTP endpoint of every role: `/metrics /healthz /livez /readyz /version`.
//!
//! Liveness answers as long as the process can answer at all and never looks at a peer: a supervisor
//! that restarts nodes because *others* are down makes an outage out of a hiccup.
//!
//! Bounds: [`CONNECTIONS`] at once, the oldest of which make room for new ones, and none for longer than
//! [`LIFE`].

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus::{Encoder, TextEncoder};
use serde::{Deserialize, Serialize};

use crate::bounded::Bounded;
use crate::metrics::Metrics;
use crate::shutdown::Shutdown;

/// Connections at once.
const CONNECTIONS: usize = 64;
/// The longest life of a connection, idle or not.
const LIFE: Duration = Duration::from_secs(10);

/// The `[ops]` section.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpsConfig {
    /// Where to listen for HTTP. Keep it inside: it tells without asking who wants to know.
    pub listen: SocketAddr,
}

/// Whether a process is ready to serve, and why not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    /// It serves.
    Ready,
    /// It serves, and something needs attention.
    Degraded(String),
    /// It does not serve yet, or not any more.
    NotReady(String),
}

/// What the endpoint asks the role for.
pub trait Ops: Send + Sync + 'static {
    /// `metadata-node`, `data-node`.
    fn role(&self) -> &'static str;
    /// How it is, now.
    fn readiness(&self) -> Readiness;
    /// Brings gauges up to date before they are read.
    fn refresh(&self) {}
}

struct Context {
    ops: Arc<dyn Ops>,
    metrics: Metrics,
}

/// Binds and serves until shutdown. The error is that of the bind.
pub async fn serve(
    config: OpsConfig,
    ops: Arc<dyn Ops>,
    metrics: Metrics,
    shutdown: Shutdown,
) -> std::io::Result<tokio::task::JoinHandle<()>> {
    let listener = tokio::net::TcpListener::bind(config.listen).await?;
    let listener = Bounded::new(listener, CONNECTIONS, LIFE);
    let context = Arc::new(Context { ops, metrics });
    let app = axum::Router::new()
        .route("/livez", get(|| async { "live\n" }))
        .route("/readyz", get(readyz))
        .route("/healthz", get(healthz))
        .route("/metrics", get(metrics_text))
        .route("/version", get(version))
        .with_state(context);
    Ok(tokio::spawn(async move {
        let stop = async move { shutdown.requested().await };
        if let Err(error) = axum::serve(listener, app).with_graceful_shutdown(stop).await {
            tracing::warn!(%error, "the operations endpoint stopped");
        }
    }))
}

async fn readyz(State(context): State<Arc<Context>>) -> Response {
    match context.ops.readiness() {
        Readiness::Ready | Readiness::Degraded(_) => "ready\n".into_response(),
        Readiness::NotReady(why) => {
            (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n")).into_response()
        }
    }
}

async fn healthz(State(context): State<Arc<Context>>) -> Response {
    match context.ops.readiness() {
        Readiness::Ready => "ok\n".into_response(),
        Readiness::Degraded(why) => format!("degraded: {why}\n").into_response(),
        Readiness::NotReady(why) => {
            (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n")).into_response()
        }
    }
}

async fn metrics_text(State(context): State<Arc<Context>>) -> Response {
    context.ops.refresh();
    let encoder = TextEncoder::new();
    let mut text = Vec::new();
    match encoder.encode(&context.metrics.registry().gather(), &mut text) {
        Ok(()) => ([(header::CONTENT_TYPE, encoder.format_type().to_string())], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

async fn version(State(context): State<Arc<Context>>) -> Response {
    let text = format!(
        "{{\"role\":\"{}\",\"version\":\"{}\",\"protocol\":{}}}\n",
        context.ops.role(),
        env!("CARGO_PKG_VERSION"),
        wmall_proto::PROTOCOL_VERSION
    );
    ([(header::CONTENT_TYPE, "application/json")], text).into_response()
}
