//! A strict reader of call instructions: one `Response` of `Say` and `Pause`.

/// Speech of a call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spoken {
    /// Each `Say`: language, if named, and text.
    pub says: Vec<(Option<String>, String)>,
    /// Number of pauses.
    pub pauses: usize,
}

impl Spoken {
    /// All that is said.
    #[must_use]
    pub fn text(&self) -> String {
        let says: Vec<&str> = self.says.iter().map(|(_, text)| text.as_str()).collect();
        says.join(" ")
    }
}

/// Parses instructions.
///
/// # Errors
/// Names the broken rule.
pub fn read(xml: &str) -> Result<Spoken, String> {
    let inner = xml.strip_prefix("<Response>").and_then(|rest| rest.strip_suffix("</Response>"));
    let mut rest = inner.ok_or("the instructions are not one Response")?;
    let mut spoken = Spoken::default();
    while !rest.is_empty() {
        let (tag, behind) =
            rest.strip_prefix('<').and_then(|tag| tag.split_once('>')).ok_or("there is text outside")?;
        if let Some(pause) = tag.strip_suffix('/') {
            let length = pause.strip_prefix("Pause length=\"").and_then(|length| length.strip_suffix('"'));
            length.and_then(|length| length.parse::<u8>().ok()).ok_or("an element is no Pause")?;
            spoken.pauses += 1;
            rest = behind;
            continue;
        }
        let attribute = tag.strip_prefix("Say").ok_or("an element is neither Say nor Pause")?;
        let language = match attribute {
            "" => None,
            _ => Some(language(attribute)?),
        };
        let (text, after) = behind.split_once("</Say>").ok_or("a Say does not end")?;
        spoken.says.push((language, unescaped(text)?));
        rest = after;
    }
    if spoken.says.is_empty() { Err("nothing is said".into()) } else { Ok(spoken) }
}

fn language(attribute: &str) -> Result<String, String> {
    let value = attribute.strip_prefix(" language=\"").and_then(|value| value.strip_suffix('"'));
    let is_tag = |value: &&str| {
        let letters = |part: &str| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_alphabetic());
        value.split_once('-').is_some_and(|(language, region)| letters(language) && letters(region))
    };
    value.filter(is_tag).map(str::to_owned).ok_or_else(|| "a Say has an attribute that is no language".to_owned())
}

fn unescaped(text: &str) -> Result<String, String> {
    if text.contains(['<', '>', '"']) || text.chars().any(char::is_control) {
        return Err("a text holds a mark that is not escaped".into());
    }
    let mut parts = text.split('&');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (name, rest) = part.split_once(';').ok_or("an & is not escaped")?;
        plain.push(match name {
            "amp" => '&',
            "lt" => '<',
            "gt" => '>',
            "quot" => '"',
            "apos" => '\'',
            _ => return Err("an entity is not one of XML".into()),
        });
        plain.push_str(rest);
    }
    if plain.trim().is_empty() { Err("a Say is empty".into()) } else { Ok(plain) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_well_formed_instructions_are_read() {
        let right =
            "<Response><Say language=\"de-DE\">a &amp; &lt;b&gt;</Say><Pause length=\"1\"/><Say>c</Say></Response>";
        let says = vec![(Some("de-DE".into()), "a & <b>".into()), (None, "c".into())];
        assert_eq!(read(right), Ok(Spoken { says, pauses: 1 }));
        for wrong in [
            "",
            "<Response></Response>",
            "<Response><Say></Say></Response>",
            "<Response><Say>a & b</Say></Response>",
            "<Response><Say>a < b</Say></Response>",
            "<Response><Say>a\nb</Say></Response>",
            "<Response><Say>a</Say>",
            "<Response><Say>a</Say><Say>b</Response>",
            "<Response>a<Say>b</Say></Response>",
            "<Response><Say voice=\"x\">b</Say></Response>",
            "<Response><Hangup/></Response>",
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
