//! What an operator asks for and may be refused: emptying a data node, and deletion after a restore.

use std::time::Instant;

use wmall_placement::{DrainPreview, preview_drain};
use wmall_proto::status::DrainView;
use wmall_proto::{DiskId, ErrorCode, NodeName, RpcError};

use crate::command::Command;
use crate::leader::new_epoch;
use crate::service::Service;

impl Service {
    /// A drain that can't end is refused: it would leave the node half empty for ever.
    pub(crate) async fn drain(&self, node: NodeName, draining: bool) -> Result<Command, RpcError> {
        let view = self.drain_view(&node).await?;
        if draining && view.stuck > 0 {
            let reason = format!(
                "{} of the {} slots on {node} have nowhere to go under the zone rule",
                view.stuck, view.slots
            );
            return Err(RpcError::new(ErrorCode::Unsafe, reason)
                .hint("add a node in that zone, or room to the others; `wmall node ls`"));
        }
        Ok(Command::SetDraining { node, disks: view.disks, draining })
    }

    /// After a restore the rows may be older than what is on the disks. While chunks can't be read, their pieces may be on
    /// disks that the rows do not lead to, and that would drop them.
    pub(crate) async fn allow_deletion(&self, force: bool) -> Result<Command, RpcError> {
        self.reads.wait().await?;
        let silent = self.liveness.silent(&self.state.topology(), Instant::now());
        let grades = self.state.grades(&silent).map_err(RpcError::internal)?;
        let unread = grades.unavailable + grades.lost;
        if unread > 0 && !force {
            let reason = format!(
                "{unread} chunks can't be read; what they are made of may be where it would be deleted"
            );
            return Err(RpcError::new(ErrorCode::Unsafe, reason).hint(
                "wait until the data nodes have looked through what they hold (`wmall status`); --force gives the rest up",
            ));
        }
        Ok(Command::AllowDeletion { epoch: new_epoch() })
    }

    pub(crate) async fn drain_view(&self, node: &NodeName) -> Result<DrainView, RpcError> {
        self.reads.wait().await?;
        let topology = self.state.topology();
        if !topology.nodes.contains_key(node) {
            let reason = format!("data node named {node}");
            return Err(RpcError::not_found(reason).hint("`wmall node ls` lists them"));
        }
        let disks: Vec<DiskId> = topology.disks.values().filter(|d| d.node == *node).map(|d| d.id).collect();
        let (repairer, map, drained) =
            (self.repairer.clone(), topology.clone(), disks.iter().copied().collect());
        let previewing = move || preview_drain(&repairer.snapshot(&map, Instant::now()), &drained);
        let preview = tokio::task::spawn_blocking(previewing).await.map_err(RpcError::internal)?;
        let DrainPreview { slots, bytes, stuck } = preview;
        let rows = topology.pools.values().flat_map(|t| &t.rows);
        let leaving = rows.flat_map(|r| r.sources.iter().flatten()).filter(|s| disks.contains(&s.disk));
        let draining = disks.iter().all(|d| topology.disks.get(d).is_some_and(|d| d.draining));
        let leaving = leaving.count() as u64;
        Ok(DrainView { node: node.clone(), disks, draining, slots, leaving, bytes, stuck })
    }
}
