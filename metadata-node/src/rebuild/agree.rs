//! Which of the maps that data nodes have kept is believed: the newest one that two of them have alike. One
//! node alone could have anything in its map, by a fault or by intent, and all of a rebuild goes by it.

use std::collections::BTreeMap;

use serde::Serialize;
use wmall_proto::{NodeName, Topology, codec};

/// Data nodes that have to have the same map, where so many have told theirs.
const AGREEING: usize = 2;

/// A data node whose map is another one than the rebuild goes by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OtherMap {
    /// The node.
    pub node: NodeName,
    /// Version of its map.
    pub version: u64,
}

/// The map to go by.
#[derive(Debug)]
pub(super) struct Agreed {
    pub(super) map: Topology,
    /// Who has it.
    pub(super) by: Vec<NodeName>,
    pub(super) others: Vec<OtherMap>,
}

/// Chooses among the maps that were told: the operator's choice, else the newest one that two nodes have
/// alike, or the only one. If there is none, all that were told.
pub(super) fn agree(
    mut told: BTreeMap<NodeName, Topology>,
    choice: Option<&NodeName>,
) -> Result<Agreed, Vec<OtherMap>> {
    let mut alike: BTreeMap<(u64, [u8; 32]), Vec<NodeName>> = BTreeMap::new();
    for (node, map) in &told {
        let digest = *blake3::hash(&codec::encode(map)).as_bytes();
        alike.entry((map.version, digest)).or_default().push(node.clone());
    }
    let enough = AGREEING.min(told.len());
    let mut newest_first = alike.iter().rev();
    let by = match choice {
        Some(node) => newest_first.find(|(_, nodes)| nodes.contains(node)),
        None => newest_first.find(|(_, nodes)| nodes.len() >= enough),
    };
    let by = by.map_or_else(Vec::new, |(_, nodes)| nodes.clone());
    let others = told.iter().filter(|(node, _)| !by.contains(node));
    let others = others.map(|(node, map)| OtherMap { node: node.clone(), version: map.version }).collect();
    match by.first().and_then(|node| told.remove(node)) {
        Some(map) => Ok(Agreed { map, by, others }),
        None => Err(others),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wmall_proto::Role;
    use wmall_proto::identity::{Actor, Revocation};

    fn name(n: u8) -> NodeName {
        NodeName::new(format!("data-{n}")).unwrap()
    }

    /// Maps of these versions; those of another kind have another content.
    fn told(maps: &[(u8, u64, u8)]) -> BTreeMap<NodeName, Topology> {
        let map = |&(node, version, kind): &(u8, u64, u8)| {
            let mut map = Topology { version, ..Topology::empty() };
            let actor = Actor { role: Role::Client, name: name(kind) };
            map.revoked.push(Revocation { actor, before: 0, at_ms: 0 });
            (name(node), map)
        };
        maps.iter().map(map).collect()
    }

    fn outcome(maps: &[(u8, u64, u8)], choice: Option<u8>) -> Option<(u64, Vec<NodeName>, Vec<NodeName>)> {
        let choice = choice.map(name);
        let agreed = agree(told(maps), choice.as_ref()).ok()?;
        Some((agreed.map.version, agreed.by, agreed.others.into_iter().map(|o| o.node).collect()))
    }

    #[test]
    fn the_newest_that_two_have_alike_counts() {
        let nodes = |numbers: &[u8]| numbers.iter().map(|&n| name(n)).collect::<Vec<_>>();
        let all = [(1, 7, 0), (2, 9, 0), (3, 9, 0), (4, 12, 0)];
        assert_eq!(outcome(&all, None), Some((9, nodes(&[2, 3]), nodes(&[1, 4]))), "a newer one of one node");
        let liar = [(1, 9, 0), (2, 9, 1), (3, 9, 0)];
        assert_eq!(
            outcome(&liar, None),
            Some((9, nodes(&[1, 3]), nodes(&[2]))),
            "another one of that version"
        );
        assert_eq!(outcome(&[(1, 7, 0)], None), Some((7, nodes(&[1]), vec![])), "nobody else has told");
        let older = [(1, 7, 0), (2, 7, 0), (3, 6, 0), (4, 6, 0), (5, 6, 0)];
        assert_eq!(outcome(&older, None).map(|o| o.0), Some(7), "newer, though fewer have it");
    }

    #[test]
    fn without_agreement_an_operator_chooses() {
        let all = [(1, 7, 0), (2, 8, 0), (3, 9, 1)];
        assert_eq!(outcome(&all, None), None);
        assert_eq!(agree(told(&all), None).unwrap_err().len(), 3, "all are named");
        assert_eq!(outcome(&all, Some(2)).map(|o| o.0), Some(8));
        assert_eq!(outcome(&all, Some(9)), None, "one that has not told its map");
        assert_eq!(outcome(&[], None), None);
    }
}
