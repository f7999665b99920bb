//! Preferences of recipients: channels and quiet hours.

use chrono::{DateTime, NaiveTime, Utc};

use crate::{
    plan::Channel,
    schedule::{self, Zone},
};

/// A recipient's rows of `preferences` for one type of notification, or the defaults.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Preferences {
    /// The chosen channels; `None` without a choice.
    pub channels: Option<Vec<Channel>>,
    /// When not to be disturbed.
    pub quiet: Option<QuietHours>,
}

/// A daily period without sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuietHours {
    /// First minute.
    pub from: NaiveTime,
    /// End, exclusive; before `from` if it spans midnight.
    pub to: NaiveTime,
    /// Time zone of both.
    pub zone: Zone,
}

/// A time of day, which in Postgres may be 24:00.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeOfDay {
    /// From 00:00 to 23:59:59.
    At(NaiveTime),
    /// 24:00.
    EndOfDay,
}

impl Preferences {
    /// Whether to use a channel. A job can force only Web Push and e-mail. The others cost money, ring, or pass
    /// personal data to a third party, so they need the recipient's choice.
    #[must_use]
    pub fn want(&self, channel: Channel, named: bool) -> bool {
        let chosen = self.channels.as_ref().map(|channels| channels.contains(&channel));
        match channel {
            Channel::WebPush | Channel::Email => named || chosen.unwrap_or(true),
            Channel::Sms | Channel::WhatsApp | Channel::Voice | Channel::Webhook => chosen.unwrap_or(false),
        }
    }

    /// End of the current quiet hours, if any. They don't apply to webhooks.
    #[must_use]
    pub fn quiet_until(&self, channel: Channel, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let QuietHours { from, to, zone } = self.quiet.as_ref().filter(|_| channel != Channel::Webhook)?;
        schedule::quiet_until(*from, *to, *zone, now)
    }
}

impl QuietHours {
    /// From the columns of `preferences` and `users.timezone`.
    #[must_use]
    pub fn new(
        from: Option<TimeOfDay>,
        to: Option<TimeOfDay>,
        zone: Option<&str>,
        users_zone: Option<&str>,
    ) -> Option<Self> {
        let (from, to) = (from?, to?);
        // 24:00 is midnight of the next day: quiet hours that begin at 00:00 then last the whole day.
        let clock = |time| match time {
            TimeOfDay::At(time) => time,
            TimeOfDay::EndOfDay => NaiveTime::MIN,
        };
        let is_whole_day = from == TimeOfDay::At(NaiveTime::MIN) && to == TimeOfDay::EndOfDay;
        let (from, to) = (clock(from), clock(to));
        let is_none = from == to && !is_whole_day;
        // Postgres accepts zone names that are unknown here. The user's own zone is then closer than UTC.
        let known = |name: Option<&str>| name.and_then(|name| name.trim().parse().ok());
        let zone = known(zone).or_else(|| known(users_zone)).unwrap_or_else(Zone::utc);
        (!is_none).then_some(Self { from, to, zone })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_costs_or_rings_is_used_of_nobody_who_did_not_choose_it() {
        let shipped = Preferences::default();
        let by_text = Preferences { channels: Some(vec![Channel::Sms]), ..Preferences::default() };
        for (channel, by_default, by_name, chosen, chosen_and_named) in [
            (Channel::WebPush, true, true, false, true),
            (Channel::Email, true, true, false, true),
            (Channel::Sms, false, false, true, true),
            (Channel::WhatsApp, false, false, false, false),
            (Channel::Voice, false, false, false, false),
            (Channel::Webhook, false, false, false, false),
        ] {
            let found = (shipped.want(channel, false), shipped.want(channel, true));
            assert_eq!(found, (by_default, by_name), "{channel:?}");
            let found = (by_text.want(channel, false), by_text.want(channel, true));
            assert_eq!(found, (chosen, chosen_and_named), "{channel:?}");
        }
    }

    #[test]
    fn quiet_hours_are_on_the_clocks_of_the_recipient() {
        let at = |hour, minute| NaiveTime::from_hms_opt(hour, minute, 0);
        let until = |hour| at(hour, 0).map(TimeOfDay::At);
        let end = Some(TimeOfDay::EndOfDay);
        assert_eq!(QuietHours::new(end, end, None, None), None);
        assert_eq!(QuietHours::new(end, until(0), None, None), None);
        assert!(QuietHours::new(until(0), end, None, None).is_some(), "the whole day");
        assert_eq!(QuietHours::new(until(22), until(22), None, None), None, "equal ends switch them off");
        assert_eq!(QuietHours::new(until(22), None, None, None), None);
        let zone = |own, users| QuietHours::new(until(22), until(7), own, users).unwrap().zone;
        assert_eq!(zone(Some("Asia/Tokyo"), Some("Europe/Vienna")), "Asia/Tokyo".parse().unwrap());
        assert_eq!(zone(None, Some("Europe/Vienna")), "Europe/Vienna".parse().unwrap());
        assert_eq!(zone(None, None), Zone::utc());
        assert_eq!(zone(Some("CEST"), Some("Europe/Vienna")), "Europe/Vienna".parse().unwrap());
        let quiet = QuietHours::new(until(22), until(7), Some("Asia/Tokyo"), None);
        let preferences = Preferences { quiet, ..Preferences::default() };
        let night = "2027-03-01T15:00:00Z".parse().unwrap();
        let morning = "2027-03-01T22:00:00Z".parse().unwrap();
        assert_eq!(preferences.quiet_until(Channel::WebPush, night), Some(morning));
        assert_eq!(preferences.quiet_until(Channel::Webhook, night), None);
        assert_eq!(preferences.quiet_until(Channel::WebPush, morning), None);
    }
}
