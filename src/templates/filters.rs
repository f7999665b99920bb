//! Filters and tests for instants, in the template's language and a given time zone.

use std::fmt::Write as _;

use chrono::{
    DateTime, Locale, NaiveDate, Utc,
    format::{Fixed, Item, Numeric, Pad, StrftimeItems},
};
use minijinja::{Environment, Error, ErrorKind, State, UndefinedBehavior, syntax::SyntaxConfig};
use unicode_script::{Script, UnicodeScript};

use super::locale::{DEFAULT_LOCALE, SCRIPTS, key_of};
use crate::{schedule::Zone, text};

/// Built-in variable: the current instant, RFC 3339.
pub(super) const NOW: &str = "now";

/// An error text of ours, which holds no values.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Spoken(String);

/// An error whose text is safe to show with real values.
pub(super) fn spoken(words: &str) -> Error {
    Error::new(ErrorKind::InvalidOperation, words.to_owned()).with_source(Spoken(words.to_owned()))
}

/// Its text, if it comes from [`spoken`].
pub(super) fn what_was_spoken(error: &Error) -> Option<&str> {
    let source: &(dyn std::error::Error + 'static) = std::error::Error::source(error)?;
    source.downcast_ref::<Spoken>().map(|Spoken(words)| words.as_str())
}

pub(super) fn environment(locale: &str) -> Environment<'static> {
    let language = names_of(locale);
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    // Debug output would quote values.
    environment.set_debug(false);
    environment.remove_global("debug");
    // A tag alone on a line leaves no blank line.
    let mut syntax = SyntaxConfig::builder();
    if let Ok(syntax) = syntax.trim_blocks(true).lstrip_blocks(true).build() {
        environment.set_syntax(syntax);
    }
    // Null renders as nothing.
    environment.set_formatter(
        |out, state, value| {
            if value.is_none() { Ok(()) } else { minijinja::escape_formatter(out, state, value) }
        },
    );
    environment.add_filter("local", move |at: &str, zone: &str, pattern: &str| local(language, at, zone, pattern));
    environment.add_filter("time", time);
    environment.add_filter("other_day", move |state: &State, at: &str, zone: &str, pattern: &str| {
        if is_today(state, at, zone)? { Ok(String::new()) } else { local(language, at, zone, pattern) }
    });
    environment.add_test("today", |state: &State, at: &str, zone: &str| is_today(state, at, zone));
    environment
}

fn local(names: Names, at: &str, zone: &str, pattern: &str) -> Result<String, Error> {
    let broken = || spoken(&format!("the pattern {pattern:?} is not one of strftime, such as \"%a %-d %b\""));
    let (language, items) = match names {
        Names::Of(language) => {
            (language, StrftimeItems::new_with_locale(pattern, language).parse().map_err(|_| broken())?)
        }
        Names::Numbers => {
            let items = StrftimeItems::new_with_locale(pattern, Locale::POSIX).parse().map_err(|_| broken())?;
            (Locale::POSIX, without_names(items))
        }
    };
    let local = instant(at)?.with_timezone(&text::zone(zone));
    let mut text = String::new();
    write!(text, "{}", local.format_localized_with_items(items.iter(), language)).map_err(|_| broken())?;
    Ok(text)
}

/// `14:30`; if the time zone is unknown, `13:30 UTC`.
fn time(at: &str, zone: &str) -> Result<String, Error> {
    let zone = text::zone(zone);
    let utc = if zone == Zone::utc() { " UTC" } else { "" };
    Ok(format!("{}{utc}", instant(at)?.with_timezone(&zone).format("%H:%M")))
}

/// Whether an instant is today in this zone. Texts are read later too, so none says "today" or "tomorrow".
fn is_today(state: &State<'_, '_>, at: &str, zone: &str) -> Result<bool, Error> {
    let now = state.lookup(NOW).ok_or_else(|| spoken("the present instant is not known"))?;
    let now = instant(now.as_str().unwrap_or_default())?;
    let zone = text::zone(zone);
    Ok(instant(at)?.with_timezone(&zone).date_naive() == now.with_timezone(&zone).date_naive())
}

fn instant(text: &str) -> Result<DateTime<Utc>, Error> {
    let instant = DateTime::parse_from_rfc3339(text);
    instant
        .map(|instant| instant.to_utc())
        .map_err(|_| spoken("an instant is not RFC 3339, such as 2027-03-01T09:00:00Z"))
}

/// Where a language is at home, if the first of its countries has other names.
const COUNTRIES: [(&str, &str); 3] = [("ar", "EG"), ("sr", "RS"), ("sv", "SE")];

/// How days and months are written.
#[derive(Clone, Copy)]
enum Names {
    Of(Locale),
    /// There are none in the script that is asked for.
    Numbers,
}

/// Names of days and months in a locale's language and script; English if there are none of its language. They hardly
/// differ between countries, so any will do if none is given. Another script is no substitute.
fn names_of(locale: &str) -> Names {
    let key = key_of(locale);
    let mut parts = key.split('-');
    let language = parts.next().unwrap_or_default().to_owned();
    let parts: Vec<&str> = parts.collect();
    let script = parts.iter().find(|part| part.len() == 4 && part.bytes().all(|byte| byte.is_ascii_alphabetic()));
    let country = parts.iter().find(|part| part.len() == 2).map(|part| part.to_ascii_uppercase());
    let of = |country: &str, modifier: &str| Locale::try_from(format!("{language}_{country}{modifier}").as_str()).ok();
    if language == DEFAULT_LOCALE && script.is_none() {
        return Names::Of(country.and_then(|country| of(&country, "")).unwrap_or(Locale::POSIX));
    }
    let has_country = country.is_some();
    let letters = 'A'..='Z';
    let every = letters.clone().flat_map(|first| ('A'..='Z').map(move |second| format!("{first}{second}")));
    let usual = COUNTRIES.iter().find(|(of, _)| *of == language).map(|(_, country)| (*country).to_owned());
    let countries = country.into_iter().chain(usual).chain([language.to_ascii_uppercase()]).chain(every);
    let Some(script) = script else {
        return Names::Of(countries.into_iter().find_map(|country| of(&country, "")).unwrap_or(Locale::POSIX));
    };
    let mut countries: Vec<String> = countries.collect();
    // Han names are the same script in the data; the countries differ in it.
    let of_script: &[&str] = match *script {
        "hant" => &["TW", "HK"],
        "hans" => &["CN", "SG"],
        _ => &[],
    };
    let named = usize::from(has_country);
    countries.splice(named..named, of_script.iter().map(|country| (*country).to_owned()));
    let modifiers: Vec<String> =
        [String::new()].into_iter().chain(SCRIPTS.iter().map(|(name, _)| format!("@{name}"))).collect();
    let found = countries.iter().find_map(|country| {
        modifiers.iter().filter_map(|modifier| of(country, modifier)).find(|found| is_written_in(*found, script))
    });
    if found.is_none() && language == DEFAULT_LOCALE && *script == "latn" {
        return Names::Of(Locale::POSIX);
    }
    found.map_or(Names::Numbers, Names::Of)
}

/// Whether a locale's names of days are in a script (ISO 15924, in lower case).
fn is_written_in(locale: Locale, script: &str) -> bool {
    let Some(day) = NaiveDate::from_ymd_opt(2027, 3, 1) else { return false };
    let day = day.format_localized("%A", locale).to_string();
    let found = day.chars().map(|c| c.script()).find(|found| !matches!(found, Script::Common | Script::Inherited));
    let found = found.map(|found| found.short_name().to_lowercase()).unwrap_or_default();
    match script {
        "hans" | "hant" | "jpan" => found == "hani" || (script == "jpan" && matches!(found.as_str(), "hira" | "kana")),
        "kore" => found == "hang",
        _ => found == script,
    }
}

/// The items of a pattern, with `2027-03-01` in the place of a date that has names.
fn without_names(items: Vec<Item<'_>>) -> Vec<Item<'_>> {
    let is_name = |item: &Item<'_>| {
        matches!(
            item,
            Item::Fixed(
                Fixed::ShortMonthName | Fixed::LongMonthName | Fixed::ShortWeekdayName | Fixed::LongWeekdayName
            )
        )
    };
    let is_date = |item: &Item<'_>| {
        is_name(item) || matches!(item, Item::Numeric(Numeric::Day | Numeric::Month | Numeric::Year, _))
    };
    if !items.iter().any(is_name) {
        return items;
    }
    let number = |numeric| Item::Numeric(numeric, Pad::Zero);
    let date =
        [number(Numeric::Year), Item::Literal("-"), number(Numeric::Month), Item::Literal("-"), number(Numeric::Day)];
    let (mut kept, mut between, mut date) = (Vec::new(), Vec::new(), Some(date));
    let mut follows_date = false;
    for item in items {
        match item {
            _ if is_date(&item) => {
                // What separates two parts of a date goes with them.
                between.clear();
                kept.extend(date.take().into_iter().flatten());
                follows_date = true;
            }
            Item::Literal(_) | Item::OwnedLiteral(_) | Item::Space(_) | Item::OwnedSpace(_) if follows_date => {
                between.push(item);
            }
            _ => {
                kept.append(&mut between);
                kept.push(item);
                follows_date = false;
            }
        }
    }
    kept.append(&mut between);
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(locale: &str, template: &str, at: &str, zone: &str) -> Result<String, Error> {
        let now = "2027-03-01T08:00:00Z";
        environment(locale).render_str(template, minijinja::context! { at, zone, now })
    }

    #[test]
    fn a_time_is_told_on_the_clocks_of_its_place() {
        let cases = [
            ("2027-03-01T13:30:00Z", "Europe/Vienna", "at 14:30"),
            ("2027-03-01T13:30:00Z", "America/New_York", "at 08:30"),
            ("2027-03-01T13:30:00Z", "UTC", "at 13:30 UTC"),
            ("2027-03-01T13:30:00Z", "Vienna, I think", "at 13:30 UTC"),
            ("2027-03-01T13:30:00Z", "", "at 13:30 UTC"),
            ("2027-03-03T13:30:00Z", "Europe/Vienna", "on Wed 3 Mar at 14:30"),
            ("2027-03-01T13:30:00Z", "Pacific/Auckland", "on Tue 2 Mar at 02:30"),
            ("2027-03-02T01:30:00Z", "America/New_York", "at 20:30"),
            // The hour skipped in spring.
            ("2027-03-28T00:30:00Z", "Europe/Vienna", "on Sun 28 Mar at 01:30"),
            ("2027-03-28T01:30:00Z", "Europe/Vienna", "on Sun 28 Mar at 03:30"),
        ];
        for (at, zone, expected) in cases {
            let text = render("en", "{{ at | other_day(zone, 'on %a %-d %b ') }}at {{ at | time(zone) }}", at, zone);
            assert_eq!(text.unwrap(), expected, "{at} {zone}");
            let today = render("en", "{{ at is today(zone) }}", at, zone).unwrap() == "True";
            assert_eq!(today, !expected.starts_with("on"), "{at} {zone}");
        }
    }

    #[test]
    fn days_and_months_have_the_names_of_the_language() {
        let cases = [
            ("en", "Wednesday 3 March"),
            ("en-US", "Wednesday 3 March"),
            ("de", "Mittwoch 3 März"),
            ("de-AT", "Mittwoch 3 März"),
            ("de_CH.UTF-8", "Mittwoch 3 März"),
            ("es", "miércoles 3 marzo"),
            ("fr", "mercredi 3 mars"),
            ("sv", "onsdag 3 mars"),
            ("zh-Hant", "週三 3 三月"),
            ("zh-Hans", "星期三 3 三月"),
            ("zh-Hant-HK", "星期三 3 三月"),
            ("sr", "среда 3 март"),
            ("sr-Latn", "sreda 3 mart"),
            ("sr-Latn-ME", "sreda 3 mart"),
            ("sr_RS@latin", "sreda 3 mart"),
            ("sr-Cyrl", "среда 3 март"),
            ("be-Latn", "Sierada 3 sakavika"),
            ("uz-Cyrl", "Чоршанба 3 Март"),
            ("uz-Latn", "Chorshanba 3 Mart"),
            ("pa-Arab", "بدھ 3 مارچ"),
            ("pa-Guru", "ਬੁੱਧਵਾਰ 3 ਮਾਰਚ"),
            ("sd-Deva", "ॿ\u{941}धर\u{942} 3 मार\u{94d}चि"),
            ("ks-Deva", "ब\u{94d}वदवार 3 मार\u{94d}च"),
            ("sr-Arab", "2027-03-03"),
            ("en-Cyrl", "2027-03-03"),
            ("en-Latn", "Wednesday 3 March"),
            ("ja-Jpan", "水曜日 3 3月"),
            ("ko-Kore", "수요일 3 3월"),
            ("xx", "Wednesday 3 March"),
            ("", "Wednesday 3 March"),
        ];
        for (locale, expected) in cases {
            let text = render(locale, "{{ at | local(zone, '%A %-d %B') }}", "2027-03-03T13:30:00Z", "UTC");
            assert_eq!(text.unwrap(), expected, "{locale}");
        }
    }

    #[test]
    fn without_names_a_date_is_numbers_and_all_else_stays() {
        for (pattern, expected) in [
            ("on %a %-d %b ", "on 2027-03-03 "),
            ("%A %H:%M, %-d %B", "2027-03-03 13:30, "),
            ("%B %Y", "2027-03-03"),
            ("%H:%M", "13:30"),
            ("%d.%m.", "03.03."),
        ] {
            let template = format!("{{{{ at | local(zone, '{pattern}') }}}}");
            let text = render("sr-Arab", &template, "2027-03-03T13:30:00Z", "UTC");
            assert_eq!(text.unwrap(), expected, "{pattern}");
        }
    }

    #[test]
    fn a_mistake_is_told_without_the_value() {
        let cases = [
            ("{{ at | local(zone, '%Q') }}", "2027-03-03T13:30:00Z", "\"%Q\" is not one of strftime"),
            ("{{ at | time(zone) }}", "tomorrow, says Rose", "not RFC 3339"),
        ];
        for (template, at, expected) in cases {
            let error = render("en", template, at, "UTC").unwrap_err();
            let words = what_was_spoken(&error).unwrap();
            assert!(words.contains(expected) && !words.contains("Rose"), "{words}");
        }
        let error = render("en", "{{ at | round }}", "Rose", "UTC").unwrap_err();
        assert_eq!(what_was_spoken(&error), None);
    }
}
