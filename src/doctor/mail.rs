//! Signs in to the mail servers; sends no mail.

use super::check::{Check, Egress, Item};
use crate::{channels::email::Email, config::Source};

pub(super) async fn examine(source: &Source, egress: Egress) -> Option<Check> {
    let item = Item::MailServers;
    let advice = "fix SMTP_URL or SMTP_CA_FILE, or allow the connection";
    let email = match source.email() {
        Ok(settings) => Email::new(settings?),
        Err(problem) => return Some(Check::not_checked(item, format!("{} is not valid", problem.variable))),
    };
    let email = match email {
        Ok(email) if egress != Egress::Offline => email,
        Ok(_) => return Some(Check::not_checked(item, "--offline")),
        Err(error) => return Some(Check::fail(item, error.to_string(), advice)),
    };
    let (mut reached, mut failed) = (Vec::new(), Vec::new());
    for (server, problem) in email.reach().await {
        match problem {
            None => reached.push(server),
            Some(why) => failed.push(format!("{server}: {why}")),
        }
    }
    Some(match (reached.is_empty(), failed.is_empty()) {
        (_, true) => Check::ok(item, format!("{} reachable", reached.join(", "))),
        (true, false) => Check::fail(item, failed.join("; "), advice),
        (false, false) => Check::warn(item, format!("{}; the other server replaces it", failed.join("; ")), advice),
    })
}
