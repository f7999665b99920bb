//! The providers are asked without sending anything.

use super::check::{Check, Egress, Item};
use crate::{channels::gateway, config::Source};

/// `None` if no channel has a provider.
pub(super) async fn examine(source: &Source, egress: Egress) -> Option<Check> {
    let item = Item::ProviderEgress;
    let channels = match source.gateways() {
        Ok(channels) if channels.is_empty() => return None,
        Ok(channels) => channels,
        Err(problem) => return Some(Check::not_checked(item, format!("{} is not valid", problem.variable))),
    };
    if egress == Egress::Offline {
        return Some(Check::not_checked(item, "--offline"));
    }
    let (mut reached, mut failed) = (Vec::new(), Vec::new());
    for settings in &channels {
        let channel = settings.channel.name();
        match gateway::reach(settings).await {
            Ok(providers) => {
                for (name, problem) in providers {
                    match problem {
                        None => reached.push(format!("{channel} by {name}")),
                        Some(why) => failed.push(format!("{channel} by {name}: {why}")),
                    }
                }
            }
            Err(error) => failed.push(error.to_string()),
        }
    }
    if !failed.is_empty() {
        let advice = "allow the connection, or fix the URL or PROVIDER_CA_FILE";
        return Some(Check::fail(item, failed.join("; "), advice));
    }
    let reports = match source.public_url() {
        Ok(Some(_)) => "",
        _ => "; without PUBLIC_URL they report no deliveries",
    };
    Some(Check::ok(item, format!("{} reachable{reports}", reached.join(", "))))
}
