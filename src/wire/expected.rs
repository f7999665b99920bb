//! Where a JSON body has a wrong value, and what is expected there. Repeats the names of fields only.

use std::{collections::BTreeSet, fmt};

use prost_reflect::{EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor};
use serde_json::Value;
use serde_path_to_error::{Path, Segment};

use crate::{near::nearest, when::lacks_offset};

/// A field of a message, with its expected form.
pub(super) struct Place {
    path: String,
    /// Whether it is an instant without its offset.
    is_local: bool,
    expected: String,
    meant: Option<String>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let local = if self.is_local { " lacks an offset: it" } else { "" };
        write!(f, "`{}`{local} must {}", self.path, self.expected)?;
        self.meant.as_ref().map_or(Ok(()), |meant| write!(f, "; did you mean {meant}?"))
    }
}

impl Place {
    /// The deepest known field on a path. `None` if the body itself is of another form.
    pub(super) fn of(path: &Path, message: &MessageDescriptor, body: &[u8]) -> Option<Self> {
        let whole: Value = serde_json::from_slice(body).unwrap_or_default();
        let (mut message, mut value) = (Some(message.clone()), Some(&whole));
        let mut found: Option<(String, FieldDescriptor, bool)> = None;
        for segment in path {
            match (segment, &mut found) {
                (Segment::Map { key }, _) => {
                    let Some(field) = message.take().and_then(|message| field(&message, key)) else { break };
                    value = value.and_then(|value| value.get(key));
                    let before = found.as_ref().map(|(path, ..)| format!("{path}.")).unwrap_or_default();
                    message = inner(&field);
                    found = Some((format!("{before}{}", field.json_name()), field, false));
                }
                (Segment::Seq { index }, Some((path, field, is_item))) if field.is_list() && !*is_item => {
                    value = value.and_then(|value| value.get(index));
                    *path = format!("{path}[{index}]");
                    *is_item = true;
                }
                _ => break,
            }
        }
        let (path, field, is_item) = found?;
        let expected = match value.and_then(|value| doubled(&field, value)) {
            Some(one_of) => format!("have exactly one of {one_of}"),
            None => format!("be {}", expected(&field, is_item)),
        };
        let meant = value.and_then(|value| meant(&field, value));
        let is_local = value.is_some_and(|value| is_local(&field, value));
        Some(Self { path, is_local, expected, meant })
    }
}

impl Place {
    /// The path of the field.
    pub(super) fn path(&self) -> &str {
        &self.path
    }
}

/// The members of a `oneof`, if an object has several of them.
fn doubled(field: &FieldDescriptor, value: &Value) -> Option<String> {
    let Kind::Message(message) = field.kind() else { return None };
    let has = |name: &FieldDescriptor| value.get(name.json_name()).or_else(|| value.get(name.name())).is_some();
    let found = message.oneofs().find(|one_of| one_of.fields().filter(has).count() > 1)?;
    Some(found.fields().map(|field| field.json_name().to_owned()).collect::<Vec<_>>().join(", "))
}

fn field(message: &MessageDescriptor, key: &str) -> Option<FieldDescriptor> {
    message.get_field_by_json_name(key).or_else(|| message.get_field_by_name(key))
}

/// The message in a field, unless it has a JSON form of its own.
fn inner(field: &FieldDescriptor) -> Option<MessageDescriptor> {
    match field.kind() {
        Kind::Message(message) if !message.full_name().starts_with("google.protobuf.") => Some(message),
        _ => None,
    }
}

fn expected(field: &FieldDescriptor, is_item: bool) -> String {
    let one = match field.kind() {
        Kind::Message(message) => match message.full_name() {
            "google.protobuf.Timestamp" => {
                "an instant in RFC 3339 with its offset, such as 2027-03-01T09:00:00Z".to_owned()
            }
            _ if field.is_list() && !is_item => "objects".to_owned(),
            _ => "an object".to_owned(),
        },
        Kind::Enum(values) => format!("one of {}", names(&values).join(", ")),
        Kind::String if field.is_list() && !is_item => "strings".to_owned(),
        Kind::String => "a string".to_owned(),
        Kind::Bool => "true or false".to_owned(),
        Kind::Double | Kind::Float => "a number".to_owned(),
        Kind::Bytes => "base64".to_owned(),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => format!("a whole number from {} to {}", i32::MIN, i32::MAX),
        _ => "a whole number".to_owned(),
    };
    if field.is_list() && !is_item { format!("a list, whose items are {one}") } else { one }
}

/// Without the first, which stands for none, and without older names.
fn names(values: &EnumDescriptor) -> Vec<String> {
    let mut numbers = BTreeSet::from([0]);
    let values = &values.enum_descriptor_proto().value;
    values.iter().filter(|value| numbers.insert(value.number())).map(|value| value.name().to_owned()).collect()
}

/// The value of an enumeration that was probably meant, by its name without a prefix: `sms` for `CHANNEL_SMSS`.
fn meant(field: &FieldDescriptor, value: &Value) -> Option<String> {
    let (Kind::Enum(values), Some(text)) = (field.kind(), value.as_str()) else { return None };
    let prefix = format!("{}_", values.name()).to_lowercase();
    let plain = |name: &str| {
        let name = name.to_lowercase().replace([' ', '-'], "_");
        name.strip_prefix(&prefix).map(str::to_owned).unwrap_or(name)
    };
    let (text, proto) = (plain(text), values.enum_descriptor_proto());
    let all: Vec<(String, i32)> = proto.value.iter().map(|value| (plain(value.name()), value.number())).collect();
    let near = nearest(&text, all.iter().filter(|(_, number)| *number != 0).map(|(name, _)| name.as_str()))?;
    let number = all.iter().find(|(name, _)| name == near)?.1;
    let first = proto.value.iter().find(|value| value.number() == number)?;
    Some(first.name().to_owned())
}

/// Whether it is a date and a time of day, of no place on earth.
fn is_local(field: &FieldDescriptor, value: &Value) -> bool {
    let is_instant =
        matches!(field.kind(), Kind::Message(message) if message.full_name() == "google.protobuf.Timestamp");
    is_instant && value.as_str().is_some_and(lacks_offset)
}
