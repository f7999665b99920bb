//! Leaders and replicas of a clustered server's streams and consumers.

use std::{collections::BTreeMap, time::Duration};

use async_nats::jetstream::stream::{ClusterInfo, PeerInfo};

/// Nodes of a cluster hear of each other every second.
const SILENCE: Duration = Duration::from_secs(5);

/// A busy stream's replicas are always some messages behind.
const BEHIND: u64 = 1000;

/// Where a stream or consumer is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replicas {
    /// Number of nodes that have it, the leader among them.
    pub nodes: usize,
    /// Nodes that would lose messages now if they had to lead, and why.
    pub weak: BTreeMap<String, String>,
}

/// `None` outside a cluster.
///
/// # Errors
/// Nobody leads it. With the nodes that are away.
pub(super) fn replicas(cluster: Option<&ClusterInfo>) -> Result<Option<Replicas>, Vec<String>> {
    // A single server is its own leader, and names no cluster.
    let Some(cluster) = cluster.filter(|cluster| cluster.name.is_some()) else { return Ok(None) };
    let weak: BTreeMap<_, _> =
        cluster.replicas.iter().filter_map(|peer| Some((peer.name.clone(), weakness(peer)?))).collect();
    if cluster.leader.is_none() {
        return Err(weak.into_keys().collect());
    }
    Ok(Some(Replicas { nodes: cluster.replicas.len() + 1, weak }))
}

/// The server calls a node offline that took its leave. One that was killed or froze is only silent.
fn weakness(peer: &PeerInfo) -> Option<String> {
    if peer.offline {
        return Some("is offline".into());
    }
    if peer.current {
        return None;
    }
    if peer.active.is_zero() {
        return Some("has not been heard".into());
    }
    if peer.active >= SILENCE {
        return Some(format!("has been silent for {} s", peer.active.as_secs()));
    }
    let behind = peer.lag.filter(|lag| *lag >= BEHIND)?;
    Some(format!("is {behind} messages behind"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(current: bool, offline: bool, active: u64, lag: u64) -> PeerInfo {
        PeerInfo { name: "node-1".into(), current, active: Duration::from_secs(active), offline, lag: Some(lag) }
    }

    #[test]
    fn a_replica_is_weak_if_it_cannot_lead() {
        let cases = [
            (peer(true, false, 1, 0), None),
            (peer(false, false, 1, 12), None),
            (peer(true, true, 2, 0), Some("is offline")),
            (peer(false, false, 0, 0), Some("has not been heard")),
            (peer(false, false, 54, 9), Some("has been silent for 54 s")),
            (peer(false, false, 1, 5000), Some("is 5000 messages behind")),
        ];
        for (peer, expected) in cases {
            assert_eq!(weakness(&peer).as_deref(), expected, "{peer:?}");
        }
    }

    #[test]
    fn a_single_server_has_no_replicas() {
        let single = ClusterInfo { leader: Some("alone".into()), ..ClusterInfo::default() };
        assert_eq!(replicas(Some(&single)), Ok(None));
        assert_eq!(replicas(None), Ok(None));
        let cluster = ClusterInfo { name: Some("test".into()), ..single };
        assert_eq!(replicas(Some(&cluster)), Ok(Some(Replicas { nodes: 1, weak: BTreeMap::new() })));
        let headless = ClusterInfo { leader: None, replicas: vec![peer(false, false, 9, 0)], ..cluster };
        assert_eq!(replicas(Some(&headless)), Err(vec!["node-1".into()]));
    }
}
