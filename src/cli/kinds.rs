use crate::{
    kind::{Kind, Lane, Stage},
    pipeline::Registry,
};

/// A kind that may be published from outside.
pub(super) fn open_kind(registry: &Registry, name: &str) -> Result<Kind, String> {
    let mut open = registry.kinds().iter().filter(|kind| kind.stage != Stage::Delivery);
    open.clone().find(|kind| kind.name == name).copied().ok_or_else(|| {
        let names: Vec<_> = open.by_ref().map(|kind| kind.name).collect();
        format!("there is no kind {name:?}; there are {}", names.join(", "))
    })
}

pub(super) fn parse_lane(text: &str) -> Result<Lane, String> {
    Lane::parse(text).ok_or_else(|| "the lane must be critical, normal or bulk".into())
}
