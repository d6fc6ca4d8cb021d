//! What tests read out of `wmall -o json status`.

use serde_json::Value;

/// A data node.
pub fn node<'a>(status: &'a Value, name: &str) -> &'a Value {
    let nodes = status["nodes"].as_array().expect("nodes");
    nodes.iter().find(|n| n["name"] == name).unwrap_or_else(|| panic!("no {name} in {status}"))
}

/// Its disks.
pub fn disks<'a>(status: &'a Value, name: &str) -> &'a Vec<Value> {
    node(status, name)["disks"].as_array().expect("disks")
}

/// One of them.
pub fn disk<'a>(status: &'a Value, node: &str, name: &str) -> &'a Value {
    disks(status, node).iter().find(|d| d["name"] == name).unwrap_or_else(|| panic!("no {node}/{name}"))
}

/// Slots that a data node has.
pub fn slots(status: &Value, name: &str) -> u64 {
    sum(disks(status, name), "slots")
}

/// Pieces that a data node holds, as of its last heartbeat.
pub fn pieces(status: &Value, name: &str) -> u64 {
    sum(disks(status, name), "pieces")
}

fn sum(disks: &[Value], field: &str) -> u64 {
    disks.iter().map(|d| d[field].as_u64().expect("a number")).sum()
}

/// Chunks of these grades.
pub fn chunks(status: &Value, grades: &[&str]) -> u64 {
    grades.iter().map(|g| status["chunks"][g].as_u64().expect("a number")).sum()
}

/// There is something, all of it is stable, and nothing is on its way.
pub fn all_stable(status: &Value) -> bool {
    status["chunks"]["stable"] != 0 && is_at_rest(status)
}

/// Every chunk has all its pieces, and nothing moves, waits to, or is noted as missing.
pub fn is_at_rest(status: &Value) -> bool {
    chunks(status, &["warning", "danger", "unavailable", "lost"]) == 0
        && ["moving", "waiting"].iter().all(|what| status["repair"][what] == 0)
        && status["tickets"] == 0
}
