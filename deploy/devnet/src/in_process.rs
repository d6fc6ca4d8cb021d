//! The whole cluster as tasks of the calling process: quick to start, easy to debug, and ended with it.

use std::path::Path;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use wmall_client::{ClientConfig, Store};
use wmall_runtime::Shutdown;

use crate::cluster::{UpOptions, init_node, make_first_pool, plan, wait_for_nodes};
use crate::error::DevnetError;
use crate::layout::{Layout, NodeKind, NodePlan, write_cluster};

/// How long it may take to come up.
const READY: Duration = Duration::from_secs(60);

/// A running cluster.
pub struct InProcess {
    layout: Layout,
    shutdown: Shutdown,
    nodes: JoinSet<Result<(), String>>,
}

impl InProcess {
    /// Makes a cluster in this folder and runs it.
    pub async fn up(folder: &Path, options: &UpOptions) -> Result<Self, DevnetError> {
        let plans = plan(options)?;
        let layout = write_cluster(folder, &plans, &options.settings())?;
        let shutdown = Shutdown::new();
        let mut nodes = JoinSet::new();
        for plan in &plans {
            init_node(&layout, plan)?;
            run_node(&layout, plan, &shutdown, &mut nodes)?;
        }
        let mut cluster = Self { layout, shutdown, nodes };
        let ready = cluster.wait_ready(options.data as usize).await;
        match ready {
            Ok(()) => Ok(cluster),
            Err(error) => {
                cluster.down().await;
                Err(error)
            }
        }
    }

    async fn wait_ready(&mut self, data: usize) -> Result<(), DevnetError> {
        let deadline = Instant::now() + READY;
        let store = loop {
            if let Some(Ok(Err(why))) = self.nodes.try_join_next() {
                return Err(DevnetError::Node(why));
            }
            match self.connect().await {
                Ok(store) => break store,
                Err(error) if Instant::now() >= deadline => return Err(error),
                Err(_) => {}
            }
        };
        wait_for_nodes(&store, data, deadline).await.map_err(DevnetError::Node)?;
        make_first_pool(&store).await?;
        store.close().await;
        Ok(())
    }

    /// Where its files are.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// A client of it.
    pub async fn connect(&self) -> Result<Store, DevnetError> {
        let config = ClientConfig::load(&self.layout.client());
        Ok(Store::connect(&config.map_err(|e| DevnetError::Plan(e.to_string()))?).await?)
    }

    /// Stops every node and waits for them.
    pub async fn down(mut self) {
        self.shutdown.request();
        while self.nodes.join_next().await.is_some() {}
    }
}

fn run_node(
    layout: &Layout,
    plan: &NodePlan,
    shutdown: &Shutdown,
    nodes: &mut JoinSet<Result<(), String>>,
) -> Result<(), DevnetError> {
    let (path, shutdown, name) = (layout.config(&plan.name, &plan.kind), shutdown.clone(), plan.name.clone());
    match plan.kind {
        NodeKind::MetadataNode { .. } => {
            let config = wmall_metadata_node::Config::load(&path);
            let config = config.map_err(|e| DevnetError::Node(e.to_string()))?;
            nodes.spawn(async move {
                let ran = wmall_metadata_node::run(config, shutdown).await;
                ran.map_err(|e| format!("{name}: {e}"))
            });
        }
        NodeKind::DataNode { .. } => {
            let config = wmall_data_node::Config::load(&path);
            let config = config.map_err(|e| DevnetError::Node(e.to_string()))?;
            nodes.spawn(async move {
                let ran = wmall_data_node::run(config, shutdown).await;
                ran.map_err(|e| format!("{name}: {e}"))
            });
        }
    }
    Ok(())
}
