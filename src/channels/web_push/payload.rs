//! Plaintext of a push: JSON for service workers, and the declarative form
//! (<https://www.w3.org/TR/push-api/#declarative-push-message>), which Safari shows without one.

use std::borrow::Cow;

use serde::{Serialize, Serializer, ser::SerializeMap};
use serde_json::{Map, Value};
use url::Url;

use crate::cut;

/// Bytes. Push services accept more, but deliver larger ones less reliably.
pub const MAX_PAYLOAD: usize = 2500;

const ICON: &str = "/icon-192x192.png";
const BADGE: &str = "/badge-72x72.png";

// JSON bytes that each part keeps, whatever else is long.
const LEAST_TITLE: usize = 240;
const MAX_TAG: usize = 200;
const LEAST_BODY: usize = 120;
/// More than a job's link may have. A longer one is left out: nothing else would have room.
const MAX_URL: usize = 2100;

/// Content of a notification.
#[derive(Clone, Copy, Debug)]
pub struct Note<'a> {
    /// Headline, cut to 240 bytes of JSON if there is no room for more.
    pub title: &'a str,
    /// Text, cut to the remaining room.
    pub body: &'a str,
    /// Click target: an absolute URL, or a path resolved against `APP_URL`.
    pub url: Option<&'a str>,
    /// Notifications with the same tag replace each other on a device.
    pub tag: &'a str,
    /// The job's own fields, such as `type`.
    pub data: &'a Map<String, Value>,
}

/// The rest of the data, and whether there is a declarative half.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Detail {
    is_declarative: bool,
    data: DataKept,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum DataKept {
    Twice,
    Once,
    OnlyType,
}

/// In the order in which they are tried. All keep the link.
const DETAILS: [Detail; 5] = [
    Detail { is_declarative: true, data: DataKept::Twice },
    Detail { is_declarative: true, data: DataKept::Once },
    Detail { is_declarative: true, data: DataKept::OnlyType },
    Detail { is_declarative: false, data: DataKept::Once },
    Detail { is_declarative: false, data: DataKept::OnlyType },
];

pub struct App {
    url: Url,
    icon: String,
    badge: String,
}

impl App {
    pub fn new(url: Url) -> Self {
        let absolute = |path: &str| url.join(path).map_or_else(|_| path.to_owned(), String::from);
        Self { icon: absolute(ICON), badge: absolute(BADGE), url }
    }
}

/// Builds at most [`MAX_PAYLOAD`] bytes of JSON.
///
/// The declarative half needs an absolute http or https link. To save room, the second copy of the data is dropped, then
/// the body is shortened, then all data but `type` is dropped, then the title is shortened, then the declarative half
/// goes: it has the link once more. The link itself stays.
pub fn build(note: &Note<'_>, app: Option<&App>) -> Vec<u8> {
    let tag = shorten(note.tag, MAX_TAG);
    let url = note.url.filter(|url| json_len(url) <= MAX_URL);
    let navigate = navigate(url, app).filter(|url| json_len(url.as_str()) <= MAX_URL);
    let note = Note { tag: &tag, url, ..*note };
    let whole = render(&note, note.body, navigate.as_ref(), app, DETAILS[0]);
    if whole.len() <= MAX_PAYLOAD {
        return whole;
    }
    let short = shorten(note.title, LEAST_TITLE);
    for is_declarative in [true, false] {
        for title in [note.title, &short] {
            let note = Note { title, ..note };
            let details = DETAILS.iter().skip(1).filter(|detail| detail.is_declarative == is_declarative);
            for detail in details {
                let navigate = navigate.as_ref().filter(|_| detail.is_declarative);
                let frame = render(&note, "", navigate, app, *detail).len();
                let copies = if navigate.is_some() { 2 } else { 1 };
                let Some(room) = MAX_PAYLOAD.checked_sub(frame).map(|room| room / copies) else { continue };
                if room >= json_len(note.body).min(LEAST_BODY) {
                    return render(&note, &shorten(note.body, room), navigate, app, *detail);
                }
            }
        }
    }
    // A link of the greatest length: title and body share the rest.
    let least = DETAILS[DETAILS.len() - 1];
    let frame = render(&Note { title: "", ..note }, "", None, None, least).len();
    let room = MAX_PAYLOAD.saturating_sub(frame);
    let title = shorten(note.title, room.saturating_sub(json_len(note.body).min(room / 2)));
    let body = shorten(note.body, room - json_len(&title));
    render(&Note { title: &title, ..note }, &body, None, None, least)
}

#[derive(Serialize)]
struct Payload<'a> {
    title: &'a str,
    body: &'a str,
    icon: &'a str,
    badge: &'a str,
    tag: &'a str,
    data: &'a Data<'a>,
    #[serde(flatten)]
    declarative: Option<Declarative<'a>>,
}

/// Works without a service worker, so links must be absolute.
#[derive(Serialize)]
struct Declarative<'a> {
    web_push: u16,
    notification: Shown<'a>,
}

#[derive(Serialize)]
struct Shown<'a> {
    title: &'a str,
    body: &'a str,
    navigate: &'a str,
    tag: &'a str,
    icon: &'a str,
    badge: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a Data<'a>>,
}

struct Data<'a> {
    fields: Cow<'a, Map<String, Value>>,
    url: Option<&'a str>,
}

impl Serialize for Data<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (key, value) in self.fields.iter().filter(|(key, _)| self.url.is_none() || key.as_str() != "url") {
            map.serialize_entry(key, value)?;
        }
        if let Some(url) = self.url {
            map.serialize_entry("url", url)?;
        }
        map.end()
    }
}

fn render(note: &Note<'_>, body: &str, navigate: Option<&Url>, app: Option<&App>, detail: Detail) -> Vec<u8> {
    let fields = match detail.data {
        DataKept::Twice | DataKept::Once => Cow::Borrowed(note.data),
        DataKept::OnlyType => Cow::Owned(kind(note.data)),
    };
    let data = Data { fields, url: note.url };
    let (title, tag) = (note.title, note.tag);
    let declarative = navigate.map(|navigate| Declarative {
        web_push: 8030,
        notification: Shown {
            title,
            body,
            navigate: navigate.as_str(),
            tag,
            icon: app.map_or(ICON, |app| &app.icon),
            badge: app.map_or(BADGE, |app| &app.badge),
            data: (detail.data == DataKept::Twice).then_some(&data),
        },
    });
    let payload = Payload { title, body, icon: ICON, badge: BADGE, tag, data: &data, declarative };
    let mut bytes = Vec::with_capacity(1024);
    // Writing to a `Vec` can't fail.
    let _ = serde_json::to_writer(&mut bytes, &payload);
    bytes
}

/// Only the `type`, if it is a short text.
fn kind(data: &Map<String, Value>) -> Map<String, Value> {
    let short = |value: &&Value| value.as_str().is_some_and(|text| json_len(text) <= 64);
    data.get("type").filter(short).map(|kind| ("type".to_owned(), kind.clone())).into_iter().collect()
}

fn navigate(url: Option<&str>, app: Option<&App>) -> Option<Url> {
    let target = match (url, app.map(|app| &app.url)) {
        (Some(url), Some(base)) => base.join(url).ok()?,
        (Some(url), None) => Url::parse(url).ok()?,
        (None, base) => base?.clone(),
    };
    matches!(target.scheme(), "http" | "https").then_some(target)
}

/// Cut to at most `room` bytes inside a JSON string.
fn shorten(text: &str, room: usize) -> String {
    cut::with_ellipsis(text, room, escaped_len)
}

fn json_len(text: &str) -> usize {
    text.chars().map(escaped_len).sum()
}

fn escaped_len(c: char) -> usize {
    match c {
        '"' | '\\' | '\n' | '\r' | '\t' | '\u{8}' | '\u{c}' => 2,
        '\0'..='\u{1f}' => 6,
        _ => c.len_utf8(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn data() -> Map<String, Value> {
        json!({"type": "MEDICATION_REMINDER", "medicationId": "m1"}).as_object().unwrap().clone()
    }

    fn app() -> App {
        App::new(Url::parse("https://care.example/app/").unwrap())
    }

    fn built(note: &Note<'_>, app: Option<&App>) -> Value {
        let bytes = build(note, app);
        assert!(bytes.len() <= MAX_PAYLOAD, "{} bytes", bytes.len());
        serde_json::from_slice(&bytes).unwrap()
    }

    #[test]
    fn one_json_serves_service_workers_and_the_declarative_form() {
        let data = data();
        let note = Note { title: "Aspirin", body: "100 mg", url: Some("/medications?id=m1"), tag: "t1", data: &data };
        assert_eq!(
            built(&note, Some(&app())),
            json!({
                "title": "Aspirin", "body": "100 mg", "icon": "/icon-192x192.png", "badge": "/badge-72x72.png",
                "tag": "t1",
                "data": {"type": "MEDICATION_REMINDER", "medicationId": "m1", "url": "/medications?id=m1"},
                "web_push": 8030,
                "notification": {
                    "title": "Aspirin", "body": "100 mg", "navigate": "https://care.example/medications?id=m1",
                    "tag": "t1", "icon": "https://care.example/icon-192x192.png",
                    "badge": "https://care.example/badge-72x72.png",
                    "data": {"type": "MEDICATION_REMINDER", "medicationId": "m1", "url": "/medications?id=m1"},
                },
            })
        );
    }

    #[test]
    fn the_declarative_half_needs_an_absolute_link() {
        let data = Map::new();
        let note = Note { title: "t", body: "b", url: None, tag: "x", data: &data };
        let app = app();
        for (url, app_url, navigate) in [
            (Some("/a"), Some(&app), Some("https://care.example/a")),
            (Some("a?b#c"), Some(&app), Some("https://care.example/app/a?b#c")),
            (None, Some(&app), Some("https://care.example/app/")),
            (Some("https://other.example/a"), None, Some("https://other.example/a")),
            (Some("/a"), None, None),
            (None, None, None),
            (Some("javascript:alert(1)"), Some(&app), None),
            (Some("https://"), Some(&app), None),
        ] {
            let payload = built(&Note { url, ..note }, app_url);
            assert_eq!(payload["notification"]["navigate"].as_str(), navigate, "{url:?}");
            assert_eq!(payload.get("web_push").is_some(), navigate.is_some());
            assert_eq!(payload["data"]["url"].as_str(), url);
        }
    }

    #[test]
    fn a_long_body_is_shortened_between_characters() {
        let data = data();
        let body = "Ünïcödé \"quoted\" 💊\n".repeat(300);
        let note = Note { title: "Aspirin", body: &body, url: Some("/m"), tag: "t1", data: &data };
        let bytes = build(&note, Some(&app()));
        assert!(bytes.len() <= MAX_PAYLOAD && bytes.len() > MAX_PAYLOAD - 20, "{} bytes", bytes.len());
        let payload: Value = serde_json::from_slice(&bytes).unwrap();
        let (kept, same) = (payload["body"].as_str().unwrap(), payload["notification"]["body"].as_str().unwrap());
        assert_eq!(kept, same);
        assert!(body.starts_with(kept.strip_suffix('…').unwrap()));
        assert_eq!(payload["data"]["medicationId"], "m1");
    }

    #[test]
    fn what_is_cut_ends_with_a_word_or_a_letter_and_not_with_a_blank() {
        for (room, kept) in
            [(13, "one two three"), (12, "one two t…"), (11, "one two…"), (6, "one…"), (3, "…"), (2, "")]
        {
            assert_eq!(shorten("one two three", room), kept, "{room}");
        }
    }

    #[test]
    fn data_gives_way_before_the_body_vanishes() {
        let body = "b".repeat(500);
        for (bytes, twice, kept) in [(100, true, true), (700, false, true), (1500, false, true), (5000, false, false)] {
            let mut data = data();
            data.insert("blob".to_owned(), "x".repeat(bytes).into());
            let note = Note { title: "Aspirin", body: &body, url: Some("/m"), tag: "t1", data: &data };
            let payload = built(&note, Some(&app()));
            assert!(payload["body"].as_str().unwrap().len() >= LEAST_BODY);
            assert_eq!(payload["notification"].get("data").is_some(), twice, "{bytes}");
            assert_eq!(payload["data"].get("blob").is_some(), kept, "{bytes}");
            assert_eq!(
                (&payload["data"]["type"], &payload["data"]["url"]),
                (&json!("MEDICATION_REMINDER"), &json!("/m"))
            );
            assert_eq!(payload["web_push"], 8030);
        }
    }

    #[test]
    fn a_link_of_any_length_that_a_job_may_have_stays() {
        let data = data();
        let body = "b".repeat(2000);
        let title = "t".repeat(200);
        for (length, is_declarative) in [(600, true), (800, false), (1100, false), (2000, false)] {
            let url = format!("https://care.example/{}", "x".repeat(length - 21));
            let note = Note { title: &title, body: &body, url: Some(&url), tag: "t1", data: &data };
            let payload = built(&note, Some(&app()));
            assert_eq!(payload["data"]["url"], url, "{length}");
            assert_eq!(payload.get("web_push").is_some(), is_declarative, "{length}");
            assert!(payload["body"].as_str().unwrap().len() > 100, "{length}: {}", payload["body"]);
            assert!(payload["title"].as_str().unwrap().len() > 50, "{length}: {}", payload["title"]);
        }
    }

    #[test]
    fn a_title_is_cut_only_where_there_is_no_room() {
        // 106 characters, 314 bytes.
        let title = "रोज़ की दवा ".repeat(10);
        let title: String = title.chars().take(106).collect();
        let note = Note { title: &title, body: "दवा", url: Some("/m"), tag: "t1", data: &Map::new() };
        let payload = built(&note, Some(&app()));
        assert_eq!((&payload["title"], &payload["notification"]["title"]), (&json!(title), &json!(title)));
        let body = "दवा ".repeat(1000);
        let payload = built(&Note { body: &body, ..note }, Some(&app()));
        assert_eq!(payload["title"], title, "the body gives way first");
    }

    #[test]
    fn lengths_inside_json_are_those_of_serde() {
        for text in ["", "plain", "\"\\/\n\r\t\u{8}\u{c}\0\u{1f}\u{7f}", "äöü€💊\u{2028}"] {
            assert_eq!(json_len(text) + 2, serde_json::to_string(text).unwrap().len(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_said_fits_and_parses(
            title in "\\PC{0,600}", body in any::<String>(), long in 0_usize..400, url in proptest::option::of("[ -~]{0,1500}"),
            tag in "\\PC{0,400}", value in any::<String>(), app in any::<bool>(),
        ) {
            let body = body.repeat(long);
            let data = Map::from_iter([("type".to_owned(), Value::from(value))]);
            let note = Note { title: &title, body: &body, url: url.as_deref(), tag: &tag, data: &data };
            let payload = built(&note, app.then(self::app).as_ref());
            let kept = payload["body"].as_str().unwrap();
            prop_assert!(kept == body || body.starts_with(kept.strip_suffix('…').unwrap()));
        }
    }
}
