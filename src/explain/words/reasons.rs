//! Reasons of the ledger and of runs in words, and advice for each.

/// Why a delivery ended without being sent. `is_claimed`: a worker was about to send it.
pub(super) fn of_delivery(state: &str, reason: &str, is_claimed: bool) -> String {
    let words = match reason {
        "no_subscription" => "they had no usable push subscription, and nothing else was sent to them",
        "opted_out" if is_claimed => "they had opted out of it by the time it was to be sent",
        "opted_out" => "their preferences leave no channel",
        "inbox_only" => "the job names the inbox only",
        "unknown_user" => "there was no such user in `users`",
        "not_opted_in" => "they have not chosen it, and it is sent only to those who did",
        "not_named" => "no channel that the job names reaches the address",
        "no_channel" => "the worker has no such channel configured",
        "no_address" => "they have no usable address for it",
        "subscription_gone" => "the browser's subscription has ended",
        "address_gone" => "the address was no longer theirs by the time it was to be sent",
        "webhook_gone" => "the webhook has ended",
        "invalid_subscription" => "the browser's subscription is malformed",
        "invalid_address" => "the address is malformed",
        "invalid_number" => "there is no such number",
        "bounced" => "there is no such mailbox",
        "host_not_allowed" => "the settings do not allow its host",
        "no_smtputf8" => "the mail server cannot take the address",
        "undelivered" | "canceled" | "busy" | "no_answer" => {
            return format!("its provider reported `{reason}`");
        }
        "" => return format!("the delivery is {state}"),
        other => return format!("the delivery is {state} ({other})"),
    };
    words.to_owned()
}

/// Why a run was skipped.
pub(super) fn of_run(reason: &str) -> String {
    let words = match reason {
        "gone" => "the care record did not exist",
        "inactive" => "the medication was not active",
        "cancelled" => "it was called off, or the delayed job was taken back",
        "over" => "it was completed",
        "moved" => "it had been moved, and has a reminder of its own at its new time",
        "already_given" => "the dose was on record as given",
        "already_skipped" => "the dose was on record as skipped on purpose",
        "already_sent" => "another job had sent this reminder",
        "replaced" => "its application published the job anew",
        "no_recipients" => "there was nobody to tell",
        "not_needed" => "its endpoint found nothing to do",
        "restocked" => "the supply was above the threshold, or unknown",
        other => return format!("it was skipped ({other})"),
    };
    words.to_owned()
}

/// The next step, by the code of a cause.
pub(super) fn advice(code: &str) -> Option<&'static str> {
    Some(match code {
        "perhaps_told" => "ask the provider, or the person: Carebell does not send it again",
        "no_subscription" | "subscription_gone" => {
            "have them open the application and allow notifications, which subscribes the browser anew"
        }
        "invalid_subscription" | "invalid_address" => "have the application write the row anew, with valid values",
        "opted_out" | "not_opted_in" | "quiet_hours" => "see `preferences`, which the application writes",
        "inbox_only" => "leave `channels` out of the job, or name a channel besides in_app",
        "no_channel" => "configure the channel on all workers (docs/CONFIGURATION.md)",
        "no_address" | "address_gone" | "invalid_number" | "bounced" => {
            "correct the address in `users` or `user_addresses`"
        }
        "unknown_user" | "no_member" | "not_a_recipient" => "see `users` and `family_members`",
        "provider_down" | "retry" | "retry_later" => "wait, or see the provider: docs/METRICS.md, CarebellProviderDown",
        "dead" => "carebell dead-letters list, then redrive what can still be sent",
        "expired" => "see how far queues and providers were behind then: docs/METRICS.md",
        "worker_down" => "start a worker: carebell run",
        "paused" => "carebell queues list shows all pauses, carebell queues resume ends one",
        "pending" | "sending" | "in_flight" | "running" | "not_run" | "unpublished" => {
            "carebell queues list shows how far the queue is behind"
        }
        "scheduler_down" => "start a worker with the duty scheduler, and see its log and /health",
        "scheduler_behind" => "see the log of the schedulers, and docs/METRICS.md, CarebellScheduleLate",
        "not_planned" => "nothing: later doses and starts are planned",
        "gone" => "see whether the id is right",
        "not_their_shift" | "no_recipients" => "see who has the shift, or is of the family",
        "no_schedule" => "see whether the application publishes its reminders, and whether it published this one",
        "already_sent" => "ask by the care record: --medication with --at, --appointment, or --shift",
        "nothing_known" => {
            "see whether the id is right, whether the application published a job, and whether it is older than 90 days; \
             carebell jobs show ID also looks into the streams"
        }
        _ => return None,
    })
}
