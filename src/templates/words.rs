//! Words in a template's tags. The engine lists a template's variables without lines, and reports unknown filters and
//! tests only when they run.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Word<'a> {
    pub text: &'a str,
    /// 1-based, within the template.
    pub line: usize,
    pub role: Role,
}

/// Role of a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Variable, function or keyword.
    Name,
    /// After `|` or `{% filter`.
    Filter,
    /// After `is` or `is not`.
    Test,
    /// Attribute, or name of an argument.
    Other,
}

/// Words of a valid template.
pub(super) fn words(source: &str) -> Vec<Word<'_>> {
    let mut words = Vec::new();
    let mut at = 0;
    while let Some(open) = source[at..].find('{').map(|open| at + open) {
        at = match source[open + 1..].chars().next() {
            Some('{') => inside(source, open + 2, "}}", &mut words),
            Some('%') => {
                let before = words.len();
                let end = inside(source, open + 2, "%}", &mut words);
                match words.get(before).map(|word| word.text) {
                    Some("raw") => source[end..].find("endraw").map_or(source.len(), |length| end + length),
                    _ => end,
                }
            }
            Some('#') => source[open..].find("#}").map_or(source.len(), |length| open + length + 2),
            _ => open + 1,
        };
    }
    words
}

/// Reads one tag to its end.
fn inside<'a>(source: &'a str, start: usize, close: &str, words: &mut Vec<Word<'a>>) -> usize {
    let first = words.len();
    let mut before = ' ';
    let mut at = start;
    while let Some(c) = source[at..].chars().next() {
        let rest = &source[at..];
        if rest.starts_with(close) {
            return at + close.len();
        }
        let length = match c {
            '"' | '\'' => quoted(rest, c),
            _ if c.is_alphanumeric() || c == '_' => {
                let length = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
                if !c.is_ascii_digit() {
                    let (text, after) = rest.split_at(length);
                    let line = source[..at].matches('\n').count() + 1;
                    let role = role(text, before, &words[first..], after);
                    words.push(Word { text, line, role });
                }
                length
            }
            _ => c.len_utf8(),
        };
        if !c.is_whitespace() {
            before = c;
        }
        at += length;
    }
    source.len()
}

fn role(text: &str, before: char, of_tag: &[Word<'_>], after: &str) -> Role {
    // True if no sign stands between.
    let follows_word = before.is_alphanumeric() || before == '_';
    let earlier = |n: usize| of_tag.iter().rev().nth(n).filter(|word| word.role == Role::Name).map(|word| word.text);
    let follows = |word: &str| follows_word && earlier(0) == Some(word);
    let after = after.trim_start();
    match before {
        '|' => Role::Filter,
        '.' => Role::Other,
        _ if follows("is") && text != "not" => Role::Test,
        _ if follows("not") && earlier(1) == Some("is") => Role::Test,
        _ if follows("filter") && of_tag.len() == 1 => Role::Filter,
        _ if after.starts_with('=') && !after.starts_with("==") => Role::Other,
        _ => Role::Name,
    }
}

fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(role: Role, source: &str) -> Vec<(&str, usize)> {
        words(source).into_iter().filter(|word| word.role == role).map(|word| (word.text, word.line)).collect()
    }

    #[test]
    fn words_are_found_with_what_they_stand_for_and_their_lines() {
        let source = "no {words} here\n{{ a.b | upper |\nlower }}{% if c is not today(d) and e is none %}\n\
                      {# {{ hidden }} #}{{ \"{{ f }} | g\" }}{% filter trim %}x{% endfilter %}{{ h(i=j) == k }}";
        assert_eq!(of(Role::Filter, source), [("upper", 2), ("lower", 3), ("trim", 4)]);
        assert_eq!(of(Role::Test, source), [("today", 3), ("none", 3)]);
        assert_eq!(of(Role::Other, source), [("b", 2), ("i", 4)]);
        let names: Vec<_> = of(Role::Name, source).into_iter().map(|(text, _)| text).collect();
        let expected = ["a", "if", "c", "is", "not", "d", "and", "e", "is", "filter", "endfilter", "h", "j", "k"];
        assert_eq!(names, expected);
    }

    #[test]
    fn what_is_raw_has_no_words() {
        assert_eq!(of(Role::Name, "{% raw %}{{ a }}{% endraw %}{{ b }}"), [("raw", 1), ("b", 1)]);
    }
}
