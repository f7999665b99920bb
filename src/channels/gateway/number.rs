/// Whether this is an E.164 number: `+`, then 7 to 15 digits, not beginning with 0. Only a provider knows if it is in
/// use.
///
/// ```
/// use carebell::channels::gateway::is_e164;
///
/// assert!(is_e164("+4366012345678"));
/// assert!(!is_e164("0660 1234567"));
/// ```
#[must_use]
pub fn is_e164(text: &str) -> bool {
    let digits = text.strip_prefix('+').unwrap_or_default();
    (7..=15).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit()) && !digits.starts_with('0')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_the_international_form_is_one() {
        for number in ["+4366012345678", "+1234567", "+123456789012345"] {
            assert!(is_e164(number), "{number}");
        }
        for text in [
            "",
            "+",
            "4366012345678",
            "004366012345678",
            "+0123456789",
            "+123456",
            "+1234567890123456",
            "+43 660 1234567",
            "+43-660-1234567",
            "+43660١٢٣٤٥٦٧",
            "whatsapp:+4366012345678",
            "+4366012345678\n",
        ] {
            assert!(!is_e164(text), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_one_is_a_plus_and_digits(text in "\\+?[0-9a-z +]{0,18}") {
            let digits = text.strip_prefix('+').map(|rest| rest.parse::<u64>().ok().filter(|_| !rest.contains('+')));
            let number = digits.flatten().filter(|number| (1_000_000..1_000_000_000_000_000).contains(number));
            prop_assert_eq!(is_e164(&text), number.is_some_and(|number| format!("+{number}") == text));
        }
    }
}
