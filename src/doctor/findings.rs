//! Draws conclusions from a NATS server's answers.

use std::collections::{BTreeMap, BTreeSet};

use super::check::{Check, Item, some};
use crate::{
    nats::{PermissionProbe, ProbeReply},
    streams::{DeclaredConsumer, Look, LookError, NO_LEADER, Streams},
};

const APPLY: &str = "run `carebell streams apply`";

const APPLY_DRIFT: &str = "`carebell streams check` shows all, `carebell streams apply` fixes them";

const RAISE_LEADER: &str = "start the nodes that are down, or mend the network between them; all goes on by itself";

const RAISE_REPLICA: &str = "start the node, or mend its network: the others must stay up until then";

const MORE_REPLICAS: &str = "set STREAMS_REPLICAS=3 and run `carebell streams apply`";

/// A single server that fell silent, or an error that none of these explains.
const SEE_LOG: &str = "see the server's log";

/// Which questions to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Those that a worker's permissions allow.
    Worker,
    /// Also about streams, if the user may see them.
    Full,
}

/// The subject of a question.
pub(super) enum About<'a> {
    /// A consumer that does not exist, which in a cluster only its leader can say.
    Leader(&'a DeclaredConsumer),
    /// A stream, and whether a worker must be allowed to ask.
    Stream {
        name: &'a str,
        is_needed: bool,
    },
    Consumer(&'a DeclaredConsumer),
    Pull,
    Ack,
    /// Calls of sweep and metrics. Without a body, those that change something are rejected.
    Look,
    /// Publishing to this stream.
    Publish(&'static str),
}

/// Conclusions from the answers, for the checks of `JetStream`, streams and permissions.
pub(super) struct Findings<'a> {
    streams: &'a Streams,
    depth: Depth,
    /// This node of a cluster.
    node: Option<String>,
    not_enabled: bool,
    nobody: usize,
    answered: usize,
    refused_subjects: Vec<String>,
    hidden: Vec<String>,
    silent: Vec<String>,
    problems: Vec<String>,
    missing: BTreeSet<String>,
    drift: Vec<String>,
    /// Streams that take no publishes, with a subject.
    deaf: BTreeMap<&'static str, String>,
    /// Whether somebody leads the cluster, if that can be told.
    has_leader: Option<bool>,
    /// Streams and consumers that nobody leads.
    leaderless: BTreeSet<String>,
    /// Nodes that are away, as far as their streams tell.
    away: BTreeSet<String>,
    /// By stream and node. A consumer only where its stream's replica is well.
    weak: BTreeMap<(String, String), String>,
    /// Streams on one node of a cluster.
    single: BTreeSet<String>,
}

impl<'a> Findings<'a> {
    /// `node` is this node's name, if the server is one of a cluster.
    pub(super) fn new(streams: &'a Streams, depth: Depth, node: Option<String>) -> Self {
        Self {
            streams,
            depth,
            node,
            not_enabled: false,
            nobody: 0,
            answered: 0,
            refused_subjects: Vec::new(),
            hidden: Vec::new(),
            silent: Vec::new(),
            problems: Vec::new(),
            missing: BTreeSet::new(),
            drift: Vec::new(),
            deaf: BTreeMap::new(),
            has_leader: None,
            leaderless: BTreeSet::new(),
            away: BTreeSet::new(),
            weak: BTreeMap::new(),
            single: BTreeSet::new(),
        }
    }

    pub(super) fn note(&mut self, about: &About, probe: &PermissionProbe, reply: &ProbeReply) {
        let is_clustered = self.node.is_some();
        match (about, reply) {
            // Neither is needed by workers.
            (About::Leader(_), ProbeReply::Refused) => {}
            (About::Stream { name, is_needed: false }, ProbeReply::Refused) => self.hidden.push((*name).to_owned()),
            (_, ProbeReply::Refused) => self.refused_subjects.push(probe.subject.clone()),
            (About::Stream { .. } | About::Consumer(_), ProbeReply::Nobody) => self.nobody += 1,
            (About::Publish(stream), ProbeReply::Nobody) => {
                self.deaf.insert(*stream, probe.subject.clone());
            }
            // As expected: acks get no reply; permitted pulls and publishes fail for another reason.
            (About::Ack, _)
            | (About::Pull | About::Look | About::Leader(_), ProbeReply::Nobody)
            | (About::Pull | About::Look | About::Publish(_), ProbeReply::Said { .. }) => {}
            (About::Leader(_), ProbeReply::Silent) if is_clustered => self.has_leader = Some(false),
            (About::Stream { name, .. }, ProbeReply::Silent) if is_clustered => {
                self.leaderless.insert((*name).to_owned());
            }
            (About::Consumer(consumer), ProbeReply::Silent) if is_clustered => {
                self.leaderless.insert(consumer.place());
            }
            (_, ProbeReply::Silent) => self.silent.push(probe.subject.clone()),
            (About::Leader(consumer), ProbeReply::Said { body, .. }) => match consumer.look(body) {
                Ok(_) => self.has_leader = Some(true),
                Err(LookError::NoLeader(_)) => self.has_leader = Some(false),
                Err(LookError::NotEnabled) => self.not_enabled = true,
                Err(LookError::Other(_)) => {}
            },
            (About::Stream { name, .. }, ProbeReply::Said { body, .. }) => {
                if let Some(look) = self.look(name, self.streams.look_at_stream(name, body)) {
                    self.look_at_stream(name, look);
                }
            }
            (About::Consumer(consumer), ProbeReply::Said { body, .. }) => {
                let place = consumer.place();
                if let Some(look) = self.look(&place, consumer.look(body)) {
                    self.look_at_replicas(&place, &look);
                    self.drift.extend(look.differences.iter().map(ToString::to_string));
                }
            }
        }
    }

    /// The answer, if the stream or consumer exists and has a leader.
    fn look(&mut self, place: &str, looked: Result<Look, LookError>) -> Option<Look> {
        match looked {
            Ok(look) => {
                self.answered += 1;
                if !look.differences.iter().any(|difference| difference.field.is_empty()) {
                    return Some(look);
                }
                self.missing.extend(look.differences.iter().map(ToString::to_string));
            }
            Err(LookError::NotEnabled) => self.not_enabled = true,
            Err(LookError::NoLeader(away)) => {
                self.leaderless.insert(place.to_owned());
                let here = self.node.as_ref();
                self.away.extend(away.into_iter().filter(|node| Some(node) != here));
            }
            Err(LookError::Other(why)) => self.problems.push(why),
        }
        None
    }

    fn look_at_stream(&mut self, name: &str, look: Look) {
        self.look_at_replicas(name, &look);
        // A worker need not know STREAMS_REPLICAS, nor streams that it only publishes to.
        let drift = if self.depth == Depth::Full { look.differences } else { Vec::new() };
        let is_told = drift.iter().any(|difference| difference.field == "num_replicas");
        if look.replicas.is_some() && look.wanted == 1 && !is_told {
            self.single.insert(name.to_owned());
        }
        self.drift.extend(drift.iter().map(ToString::to_string));
    }

    fn look_at_replicas(&mut self, place: &str, look: &Look) {
        let Some(replicas) = &look.replicas else { return };
        let stream = place.split('.').next().unwrap_or(place);
        let is_stream = stream == place;
        let all = replicas.nodes.max(look.wanted);
        let well = replicas.nodes - replicas.weak.len();
        for (node, why) in &replicas.weak {
            let key = (stream.to_owned(), node.clone());
            if is_stream || !self.weak.contains_key(&key) {
                self.weak.insert(key, format!("{place}: {node} {why} ({well} of {all} replicas)"));
            }
        }
        if replicas.nodes < look.wanted {
            let key = (stream.to_owned(), String::new());
            self.weak.insert(key, format!("{place}: only {} of {all} replicas are placed", replicas.nodes));
        }
    }

    /// The checks of `JetStream`, streams and permissions.
    pub(super) fn checks(self) -> [Check; 3] {
        let jetstream = self.jetstream();
        let streams = match jetstream.is_failure() {
            // Only permissions show.
            true if self.has_no_leader() => Check::not_checked(Item::Streams, "the cluster has no leader"),
            true => Check::not_checked(Item::Streams, "JetStream does not answer"),
            false => self.streams(),
        };
        [jetstream, streams, self.permissions()]
    }

    fn has_no_leader(&self) -> bool {
        !self.has_leader.unwrap_or(self.answered > 0 || self.leaderless.is_empty())
    }

    fn jetstream(&self) -> Check {
        let item = Item::JetStream;
        if self.not_enabled {
            let advice =
                "enable JetStream for the account of this user, in the server's configuration or the account's JWT";
            return Check::fail(item, "JetStream is not enabled for the account", advice);
        }
        if self.has_no_leader() {
            return Check::fail(item, format!("{NO_LEADER}{}", self.nodes_away()), RAISE_LEADER);
        }
        if self.answered > 0 || !self.leaderless.is_empty() {
            return Check::ok(item, "on");
        }
        if self.nobody > 0 {
            let advice = "start nats-server with -js, or with `jetstream` in its configuration";
            return Check::fail(item, "JetStream is off on this server", advice);
        }
        let mut problems = self.problems.clone();
        problems.dedup();
        match (problems.is_empty(), self.silent.is_empty()) {
            (false, _) => Check::fail(item, some(&problems), SEE_LOG),
            (true, false) => Check::fail(item, "JetStream does not answer", SEE_LOG),
            (true, true) => Check::not_checked(item, "the user may not ask"),
        }
    }

    /// ` (away: node-1, node-2)`
    fn nodes_away(&self) -> String {
        if self.away.is_empty() {
            return String::new();
        }
        let away: Vec<&str> = self.away.iter().map(String::as_str).collect();
        format!(" (away: {})", away.join(", "))
    }

    fn streams(&self) -> Check {
        let item = Item::Streams;
        let lost = self.lost();
        if !self.leaderless.is_empty() {
            let mut leaderless = self.leaderless();
            leaderless.extend(lost);
            return Check::fail(item, format!("{}{}", some(&leaderless), self.nodes_away()), RAISE_LEADER);
        }
        if !lost.is_empty() {
            return Check::fail(item, some(&lost), APPLY);
        }
        if !self.problems.is_empty() {
            return Check::fail(item, some(&self.problems), SEE_LOG);
        }
        if let Some(warning) = self.warning() {
            return warning;
        }
        let consumers = self.streams.consumers().len();
        if self.hidden.is_empty() {
            let detail = format!("{} streams and {consumers} consumers match streams/", self.streams.names().count());
            return Check::ok(item, detail);
        }
        let hidden = self.hidden.join(", ");
        Check::ok(item, format!("{consumers} consumers match streams/ (the user may not look at {hidden})"))
    }

    /// Streams and consumers that are not there, and streams without their subjects.
    fn lost(&self) -> Vec<String> {
        let is_known = |stream: &str| {
            self.leaderless.contains(stream) || self.missing.iter().any(|text| text.starts_with(&format!("{stream}:")))
        };
        let deaf = self.deaf.iter().filter(|(stream, _)| !is_known(stream));
        let deaf = deaf.map(|(stream, subject)| format!("{stream}: does not take {subject}"));
        self.missing.iter().cloned().chain(deaf).collect()
    }

    fn leaderless(&self) -> Vec<String> {
        let is_implied =
            |place: &str| place.split_once('.').is_some_and(|(stream, _)| self.leaderless.contains(stream));
        let places = self.leaderless.iter().filter(|place| !is_implied(place));
        places.map(|place| format!("{place}: no leader")).collect()
    }

    fn warning(&self) -> Option<Check> {
        let (mut found, mut advice) = (self.drift.clone(), Vec::new());
        if !self.drift.is_empty() {
            advice.push(APPLY_DRIFT);
        }
        if !self.weak.is_empty() {
            found.extend(self.weak.values().cloned());
            advice.push(RAISE_REPLICA);
        }
        if !self.single.is_empty() {
            let names: Vec<&str> = self.single.iter().map(String::as_str).collect();
            found.push(format!("one replica in a cluster, lost with its node: {}", names.join(", ")));
            advice.push(MORE_REPLICAS);
        }
        (!found.is_empty()).then(|| Check::warn(Item::Streams, some(&found), advice.join("; ")))
    }

    fn permissions(&self) -> Check {
        let item = Item::NatsPermissions;
        if !self.refused_subjects.is_empty() {
            let what = format!("the user may not publish to {}", some(&self.refused_subjects));
            return Check::fail(item, what, "allow it; docs/ARCHITECTURE.md lists the minimum permissions of a worker");
        }
        if !self.silent.is_empty() && (self.has_no_leader() || !self.leaderless.is_empty()) {
            return Check::not_checked(item, "without a leader, not all questions are answered");
        }
        if !self.silent.is_empty() {
            let what = format!("no answer about {}", some(&self.silent));
            return Check::warn(item, what, "see the server's log, and try again");
        }
        Check::ok(item, "the user has the permissions of a worker")
    }
}
