use super::{
    error::{ExpressionError, shown},
    field::Field,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Values {
    /// One bit per value.
    set: u64,
    /// A bare `*`. `*/1` allows the same values but counts as a restriction.
    pub(super) unrestricted: bool,
}

impl Values {
    pub(super) const ZERO: Self = Self { set: 1, unrestricted: false };

    /// `number` is the field's position, from 1.
    pub(super) fn parse(field: Field, number: usize, text: &str) -> Result<Self, ExpressionError> {
        let mut set = 0;
        for part in text.split(',') {
            set |= parse_part(field, part).map_err(|problem| ExpressionError::in_field(number, field, &problem))?;
        }
        if field == Field::DayOfWeek && set & (1 << 7) != 0 {
            set = set & !(1 << 7) | 1;
        }
        Ok(Self { set, unrestricted: text == "*" })
    }

    /// Ascending; Sunday is 0.
    pub(super) fn iter(self) -> impl Iterator<Item = u32> {
        (0..u64::BITS).filter(move |value| self.set & (1 << value) != 0)
    }
}

fn parse_part(field: Field, part: &str) -> Result<u64, String> {
    if part.is_empty() {
        return Err("it has an empty part before, between or after commas".into());
    }
    let (range, step) = match part.split_once('/') {
        Some((range, step)) => (range, Some(parse_step(field, part, step)?)),
        None => (part, None),
    };
    let (first, last) = match range.split_once('-') {
        _ if range == "*" => (*field.bounds().start(), *field.bounds().end()),
        Some((first, last)) => parse_range(field, range, first, last)?,
        None if step.is_some() => {
            // Ambiguous: some read it as "from 5 on", others as 5 alone.
            return Err(format!("`{}` has a step, but no range: write `*/…` or `{range}-…/…`", shown(part)));
        }
        None => (value(field, range)?, value(field, range)?),
    };
    // A step of `*` would count Sunday twice.
    let last = if field == Field::DayOfWeek && range == "*" { 6 } else { last };
    Ok((first..=last).step_by(step.unwrap_or(1)).fold(0, |set, value| set | 1 << value))
}

fn parse_range(field: Field, range: &str, first: &str, last: &str) -> Result<(u32, u32), String> {
    let (from, mut to) = (value(field, first)?, value(field, last)?);
    // `sat-sun`: a Sunday by name is day 7 here.
    if field == Field::DayOfWeek && to == 0 && from > 0 && !last.starts_with('0') {
        to = 7;
    }
    if from > to {
        let ends = field.bounds();
        let hint = match field {
            Field::DayOfWeek => format!("{first}-7,1-{last}"),
            _ => format!("{first}-{},{}-{last}", ends.end(), ends.start()),
        };
        let hint = if field == Field::DayOfWeek && to == 0 { format!("{first}-7") } else { hint };
        return Err(format!("`{}` runs backwards: write `{}`", shown(range), shown(&hint)));
    }
    Ok((from, to))
}

fn parse_step(field: Field, part: &str, step: &str) -> Result<usize, String> {
    let most = field.count();
    let wrong = |why: &str| format!("the step of `{}` {why}", shown(part));
    match digits(step) {
        Some(0) => Err(wrong("is 0; steps begin at 1")),
        Some(step) if step <= most => Ok(step as usize),
        // Taken literally, `*/90` minutes would be an hour.
        Some(_) => Err(wrong(&format!("is more than {most}; longer intervals are written like `@every 90m`"))),
        None => Err(wrong("is not a whole number")),
    }
}

fn value(field: Field, text: &str) -> Result<u32, String> {
    let bounds = field.bounds();
    if let Some(number) = field.named(text).or(digits(text).filter(|number| bounds.contains(number))) {
        return Ok(number);
    }
    let what = match text {
        "" => "a number is missing before or after `-` or `/`".to_owned(),
        "*" => "`*` stands alone, or before a step as in `*/5`".to_owned(),
        "?" => "`?` is not part of this dialect: write `*`".to_owned(),
        _ if digits(text).is_some() => {
            format!("`{}` is not between {} and {}", shown(text), bounds.start(), bounds.end())
        }
        _ if matches!(field, Field::Month | Field::DayOfWeek) => {
            format!("`{}` is neither a number nor the name of a {}", shown(text), field.name())
        }
        _ => format!("`{}` is not a number", shown(text)),
    };
    Err(what)
}

/// A whole number without a sign; too large ones saturate.
fn digits(text: &str) -> Option<u32> {
    let all = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    all.then(|| text.parse().unwrap_or(u32::MAX))
}
