use super::failed::Failed;
use crate::{
    jobs,
    kind::{Kind, Lane, Queue},
};

pub(super) fn parse_lane(text: &str) -> Result<Lane, String> {
    Lane::parse(text).ok_or_else(|| "the lane must be critical, normal or bulk".into())
}

/// The kind of this name.
pub(super) fn kind_named(text: &str) -> Result<Kind, Failed> {
    let registry = jobs::registry();
    registry.kinds().iter().find(|kind| kind.name == text).copied().ok_or_else(|| {
        let names: Vec<&str> = registry.kinds().iter().map(|kind| kind.name).collect();
        Failed(format!("there is no kind {text:?}; there are {}", names.join(", ")))
    })
}

/// The queue of jobs with this durable name.
pub(super) fn queue_named(text: &str) -> Result<Queue, Failed> {
    let queues: Vec<_> = jobs::registry().kinds().iter().flat_map(Kind::queues).collect();
    queues.iter().find(|queue| queue.durable() == text).copied().ok_or_else(|| {
        let names: Vec<String> = queues.iter().map(Queue::durable).collect();
        Failed(format!("there is no queue {text:?}; there are {}", names.join(", ")))
    })
}
