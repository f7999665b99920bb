use super::check::{Check, Egress, Item};
use crate::{channels::web_push::WebPush, clock::Clock, config::Source};

pub(super) async fn examine(source: &Source, clock: &Clock, egress: Egress) -> [Check; 2] {
    let settings = match source.web_push() {
        Ok(Some(settings)) => settings,
        Ok(None) => {
            let keys = Check::warn(
                Item::VapidKeys,
                "VAPID_PUBLIC_KEY and VAPID_PRIVATE_KEY are not set: inbox rows only, no Web Push",
                "`carebell keys generate` makes a pair",
            );
            return [keys, Check::not_checked(Item::PushEgress, "there are no VAPID keys")];
        }
        Err(problem) => {
            let why = format!("{} is not valid", problem.variable);
            return [Item::VapidKeys, Item::PushEgress].map(|item| Check::not_checked(item, &*why));
        }
    };
    match WebPush::new(settings, clock.clone()) {
        Ok(web_push) => [Check::ok(Item::VapidKeys, "a pair and a contact"), check_egress(&web_push, egress).await],
        Err(error) => {
            let advice = "`carebell keys generate` makes a pair; with a new pair browsers must subscribe again";
            let keys = Check::fail(Item::VapidKeys, error.to_string(), advice);
            [keys, Check::not_checked(Item::PushEgress, "the settings of Web Push are not valid")]
        }
    }
}

async fn check_egress(web_push: &WebPush, egress: Egress) -> Check {
    let item = Item::PushEgress;
    if egress == Egress::Offline {
        return Check::not_checked(item, "--offline");
    }
    let built_in = async {
        match egress {
            Egress::All => Some(web_push.reach_built_in().await),
            Egress::Named | Egress::Offline => None,
        }
    };
    let (named, built_in) = tokio::join!(web_push.reach_named(), built_in);
    let (reached, failed): (Vec<_>, Vec<_>) = named.into_iter().partition(|(_, problem)| problem.is_none());
    if !failed.is_empty() {
        let failed: Vec<_> =
            failed.into_iter().map(|(place, why)| format!("{place}: {}", why.unwrap_or_default())).collect();
        let advice = "allow the connection, or fix WEB_PUSH_ALLOWED_HOSTS or WEB_PUSH_CA_FILE";
        return Check::fail(item, failed.join("; "), advice);
    }
    let mut reached: Vec<String> = reached.into_iter().map(|(place, _)| place).collect();
    match built_in {
        Some(Err(why)) => Check::warn(
            item,
            format!("no push service of a browser is reachable ({why})"),
            "allow connections to port 443, or ignore this if no such browser subscribes",
        ),
        Some(Ok(host)) => {
            reached.push(host.to_owned());
            Check::ok(item, format!("{} reachable", reached.join(", ")))
        }
        None if reached.is_empty() => Check::not_checked(item, "WEB_PUSH_ALLOWED_HOSTS names none"),
        None => Check::ok(item, format!("{} reachable", reached.join(", "))),
    }
}
