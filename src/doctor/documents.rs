//! Lists an object of each document store; writes none.

use std::time::Duration;

use tokio::time::timeout;

use super::check::{Check, Egress, Item};
use crate::{clock::Clock, config::Source, documents::Documents};

/// Limit of one store. The client repeats what fails.
const LIMIT: Duration = Duration::from_secs(15);

pub(super) async fn examine(source: &Source, clock: &Clock, egress: Egress) -> Option<Check> {
    let item = Item::DocumentStores;
    let advice = "fix DOCUMENT_STORES or the credentials, or allow the connection; see docs/DOCUMENTS.md";
    let documents = match source.documents() {
        Ok(settings) if settings.stores.is_empty() => return None,
        Ok(settings) => Documents::new(settings, clock),
        Err(problem) => return Some(Check::not_checked(item, format!("{} is not valid", problem.variable))),
    };
    let documents = match documents {
        Ok(documents) if egress != Egress::Offline => documents,
        Ok(_) => return Some(Check::not_checked(item, "--offline")),
        Err(error) => return Some(Check::fail(item, error.to_string(), advice)),
    };
    let (mut reached, mut failed) = (Vec::new(), Vec::new());
    for store in documents.stores() {
        let name = store.name();
        match timeout(LIMIT, store.reach()).await {
            Ok(Ok(())) => reached.push(name),
            Ok(Err(why)) => failed.push(format!("{name}: {why}")),
            Err(_) => failed.push(format!("{name}: no answer within {LIMIT:?}")),
        }
    }
    Some(if failed.is_empty() {
        Check::ok(item, format!("{} reachable", reached.join(", ")))
    } else {
        Check::fail(item, failed.join("; "), advice)
    })
}
