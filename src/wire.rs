//! Protobuf messages of `proto/carebell/v1`, generated at build time, and their canonical JSON.

mod expected;

use std::{collections::BTreeSet, sync::LazyLock};

use prost_reflect::{DescriptorPool, DynamicMessage, Kind, MessageDescriptor, ReflectMessage};

use crate::near::nearest;

/// Descriptors of the messages, for canonical JSON.
#[expect(clippy::expect_used, reason = "the bytes were written by build.rs from descriptors that it had just compiled")]
pub static DESCRIPTORS: LazyLock<DescriptorPool> = LazyLock::new(|| {
    let bytes = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
    DescriptorPool::decode(bytes.as_slice()).expect("the descriptors that build.rs compiled")
});

/// As [`DESCRIPTORS`], without the older names of values: JSON is written with the first name of each, and read with all.
#[expect(clippy::expect_used, reason = "as above: names were taken away, and nothing refers to them")]
static WRITTEN: LazyLock<DescriptorPool> = LazyLock::new(|| {
    let mut pool = DescriptorPool::new();
    for mut file in DESCRIPTORS.file_descriptor_protos().cloned() {
        for values in &mut file.enum_type {
            let mut numbers = BTreeSet::new();
            values.value.retain(|value| numbers.insert(value.number()));
        }
        pool.add_file_descriptor_proto(file).expect("a file of the pool that it comes from");
    }
    pool
});

#[allow(clippy::pedantic, missing_docs, reason = "generated from the documented .proto files")]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/carebell.v1.rs"));
}
pub use generated::*;

/// Why a body is unreadable. Never quotes the body.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Not this message in protobuf.
    #[error("the body is not a protobuf {message}: {why}")]
    Protobuf {
        /// Full name of the message.
        message: String,
        /// The decoder's error.
        why: String,
    },
    /// Not this message in canonical JSON.
    #[error("the body is not a {message} as JSON: {why}")]
    Json {
        /// Full name of the message.
        message: String,
        /// The decoder's error, without quoted values.
        why: String,
    },
}

/// Decodes a protobuf body.
///
/// # Errors
/// Names the expected message and the error.
pub fn from_protobuf<M: prost::Message + Default + ReflectMessage>(body: &[u8]) -> Result<M, DecodeError> {
    M::decode(body).map_err(|error| {
        let is_json = body.trim_ascii_start().starts_with(b"{");
        let hint = if is_json { " (it looks like JSON: set the header Content-Type: application/json)" } else { "" };
        DecodeError::Protobuf { message: name::<M>(), why: format!("{error}{hint}") }
    })
}

/// Decodes canonical protobuf JSON. Unknown fields are errors: usually typos.
///
/// # Errors
/// Names the expected message, position and error.
pub fn from_json<M: prost::Message + Default + ReflectMessage>(body: &[u8]) -> Result<M, DecodeError> {
    let error = |why| DecodeError::Json { message: name::<M>(), why };
    let descriptor = M::default().descriptor();
    let mut reader = serde_json::Deserializer::from_slice(body);
    let dynamic = DynamicMessage::deserialize(descriptor.clone(), &mut reader).map_err(|problem| {
        // Read once more, with the path, which costs.
        let mut track = serde_path_to_error::Track::new();
        let mut reader = serde_json::Deserializer::from_slice(body);
        let tracked = serde_path_to_error::Deserializer::new(&mut reader, &mut track);
        let _ = DynamicMessage::deserialize(descriptor.clone(), tracked);
        let place = expected::Place::of(&track.path(), &descriptor, body);
        error(without_values(&problem, &descriptor, place.as_ref()))
    })?;
    reader.end().map_err(|problem| error(without_values(&problem, &descriptor, None)))?;
    dynamic.transcode_to().map_err(|problem| error(problem.to_string()))
}

/// Encodes canonical protobuf JSON.
#[must_use]
pub fn to_json<M: prost::Message + ReflectMessage>(message: &M) -> serde_json::Value {
    let descriptor = message.descriptor();
    let written = WRITTEN.get_message_by_name(descriptor.full_name()).unwrap_or(descriptor);
    let written = DynamicMessage::decode(written, message.encode_to_vec().as_slice());
    written.ok().and_then(|written| serde_json::to_value(written).ok()).unwrap_or_default()
}

/// `google.protobuf.Struct` as a JSON object. NaN and infinities become null.
#[must_use]
pub fn struct_to_json(data: prost_types::Struct) -> serde_json::Map<String, serde_json::Value> {
    data.fields.into_iter().map(|(key, value)| (key, value_to_json(value))).collect()
}

fn value_to_json(value: prost_types::Value) -> serde_json::Value {
    use prost_types::value::Kind;
    match value.kind {
        None | Some(Kind::NullValue(_)) => serde_json::Value::Null,
        Some(Kind::NumberValue(number)) => number_to_json(number),
        Some(Kind::StringValue(text)) => text.into(),
        Some(Kind::BoolValue(flag)) => flag.into(),
        Some(Kind::StructValue(data)) => struct_to_json(data).into(),
        Some(Kind::ListValue(list)) => list.values.into_iter().map(value_to_json).collect(),
    }
}

/// Protobuf has only doubles. Whole numbers lose their fraction, as producers most likely sent them.
#[expect(clippy::cast_possible_truncation, reason = "the range is checked: every integer up to 2^53 is exact")]
fn number_to_json(number: f64) -> serde_json::Value {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if number.fract() == 0.0 && number.abs() <= EXACT { (number as i64).into() } else { number.into() }
}

fn name<M: Default + ReflectMessage>() -> String {
    M::default().descriptor().full_name().to_owned()
}

/// serde quotes offending values and names, which may be personal.
fn without_values(
    error: &serde_json::Error,
    descriptor: &MessageDescriptor,
    place: Option<&expected::Place>,
) -> String {
    let text = error.to_string();
    let position = format!("line {} column {}", error.line(), error.column());
    match text.split_once("unrecognized field name ") {
        Some((_, rest)) => {
            let found = rest.split(" at line").next().unwrap_or_default().trim_matches(['\'', '"', '`']);
            let mut known = BTreeSet::new();
            field_names(descriptor, &mut known, &mut BTreeSet::new());
            let meant = nearest(found, known.iter().map(String::as_str));
            let meant = meant.map(|field| format!("; did you mean `{field}`?")).unwrap_or_default();
            let inside = place.map(|place| format!(" in `{}`", place.path())).unwrap_or_default();
            format!("unrecognized field{inside} at {position}{meant}")
        }
        None if error.is_syntax() || error.is_eof() => text,
        None => match place {
            Some(place) => format!("{place} ({position})"),
            None => format!("it must be one JSON object, with the message's fields ({position})"),
        },
    }
}

/// The JSON names of a message's fields, and of the messages in it.
fn field_names(message: &MessageDescriptor, into: &mut BTreeSet<String>, seen: &mut BTreeSet<String>) {
    if !seen.insert(message.full_name().to_owned()) {
        return;
    }
    for field in message.fields() {
        into.insert(field.json_name().to_owned());
        if let Kind::Message(inner) = field.kind() {
            field_names(&inner, into, seen);
        }
    }
}

/// A JSON object as `google.protobuf.Struct`; `None` for other values.
#[must_use]
pub fn json_to_struct(value: serde_json::Value) -> Option<prost_types::Struct> {
    match json_to_value(value).kind {
        Some(prost_types::value::Kind::StructValue(data)) => Some(data),
        _ => None,
    }
}

fn json_to_value(value: serde_json::Value) -> prost_types::Value {
    use prost_types::value::Kind;
    use serde_json::Value;
    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(flag) => Kind::BoolValue(flag),
        Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or_default()),
        Value::String(text) => Kind::StringValue(text),
        Value::Array(items) => {
            Kind::ListValue(prost_types::ListValue { values: items.into_iter().map(json_to_value).collect() })
        }
        Value::Object(fields) => Kind::StructValue(prost_types::Struct {
            fields: fields.into_iter().map(|(key, value)| (key, json_to_value(value))).collect(),
        }),
    };
    prost_types::Value { kind: Some(kind) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_value_is_told_with_its_path_and_what_is_expected() {
        let told = |json: &str| from_json::<Notification>(json.as_bytes()).unwrap_err().to_string();
        let cases = [
            (r#"{"channels": ["sms", "smss"]}"#, "`channels[1]` must be one of in_app, web_push, email, sms, "),
            (r#"{"channels": ["sms", "SMS"]}"#, "; did you mean sms?"),
            (r#"{"channels": ["push"]}"#, "`channels[0]` must be one of in_app, "),
            (r#"{"channels": ["push"]}"#, "whatsapp, voice, webhook; did you mean web_push?"),
            (r#"{"channels": ["CHANNEL_PUHS"]}"#, "; did you mean web_push?"),
            (r#"{"channels": "sms"}"#, "`channels` must be a list, whose items are one of in_app, "),
            (r#"{"title": 7}"#, "`title` must be a string"),
            (r#"{"title": {"Rose": 7}}"#, "`title` must be a string"),
            (r#"{"recipients": [{"userId": "a"}, {"userId": 7}]}"#, "`recipients[1].userId` must be a string"),
            (r#"{"recipients": {"userId": "a"}}"#, "`recipients` must be a list, whose items are objects"),
            (r#"{"recipients": ["ana"]}"#, "`recipients[0]` must be an object"),
            (r#"{"data": ["Rose Miller"]}"#, "`data` must be an object"),
            (
                r#"{"recipients": [{"userId": "ana", "email": "a@b.c"}]}"#,
                "`recipients[0]` must have exactly one of userId, email, phone",
            ),
            (r#"{"recipients": [{"userid": "ana"}]}"#, "unrecognized field in `recipients[0]` at line 1"),
            (r#"["Rose"]"#, "it must be one JSON object"),
            (r#""{\"title\": 1}""#, "it must be one JSON object"),
        ];
        for (json, expected) in cases {
            let said = told(json);
            assert!(said.contains(expected) && !said.contains("Rose"), "{json}: {said}");
        }
        let told = |json: &str| from_json::<MedicationReminder>(json.as_bytes()).unwrap_err().to_string();
        let cases = [
            (
                r#"{"scheduledTime": "2027-03-01T09:00:00"}"#,
                "`scheduledTime` lacks an offset: it must be an instant in RFC 3339 with its offset, such as 2027-",
            ),
            (r#"{"scheduledTime": "2027-03-01 09:00:00.5"}"#, "`scheduledTime` lacks an offset: it must be"),
            (r#"{"scheduledTime": "2027-02-30T09:00:00"}"#, "`scheduledTime` must be an instant in RFC 3339"),
            (r#"{"scheduledTime": 1772355600}"#, "`scheduledTime` must be an instant in RFC 3339 with its offset"),
            (r#"{"reminderMinutes": "soon"}"#, "`reminderMinutes` must be a whole number"),
            (r#"{"reminderMinutes": 3000000000}"#, "must be a whole number from -2147483648 to 2147483647"),
            (r#"{"medicationId": 7}"#, "`medicationId` must be a string"),
        ];
        for (json, expected) in cases {
            let said = told(json);
            assert!(said.contains(expected) && said.contains("line 1 column"), "{json}: {said}");
        }
        let said = from_protobuf::<MedicationReminder>(br#" {"medicationId": "m"}"#).unwrap_err().to_string();
        assert!(said.contains("set the header Content-Type: application/json"), "{said}");
    }

    #[test]
    fn a_channel_is_read_by_each_of_its_names_and_written_by_the_first() {
        let names = ["in_app", "web_push", "email", "sms", "whatsapp", "voice", "webhook"];
        for (number, name) in (1..).zip(names) {
            let old = if name == "web_push" { "PUSH".to_owned() } else { name.to_uppercase() };
            let json = format!(r#"{{"channels": ["{name}", "CHANNEL_{old}", {number}]}}"#);
            let read = from_json::<Notification>(json.as_bytes()).unwrap();
            assert_eq!(read.channels, [number; 3], "{json}");
            assert_eq!(to_json(&read)["channels"], serde_json::json!([name, name, name]));
        }
        let unknown = Notification { channels: vec![0, 99], ..Notification::default() };
        assert_eq!(to_json(&unknown)["channels"], serde_json::json!(["CHANNEL_UNSPECIFIED", 99]));
    }

    #[test]
    fn an_unknown_field_is_not_repeated_but_its_neighbour_is_named() {
        let said = |json: &str| from_json::<Notification>(json.as_bytes()).unwrap_err().to_string();
        let near = said(r#"{"titles": "x"}"#);
        assert!(near.ends_with("unrecognized field at line 1 column 9; did you mean `title`?"), "{near}");
        let nested = said(r#"{"recipients": [{"userid": "ana"}]}"#);
        assert!(nested.ends_with("; did you mean `userId`?"), "{nested}");
        let personal = said(r#"{"Rose Miller's insulin": 1}"#);
        assert!(personal.contains("unrecognized field at line 1") && !personal.contains("Rose"), "{personal}");
    }
}
