//! Trace context as stored with each job (columns `trace`): the text of `traceparent`, then optionally a blank and
//! `tracestate` (W3C Trace Context).

use std::str::FromStr;

use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};

/// `version-trace-parent-flags`.
const LENGTH: usize = 55;

/// W3C asks for at least 512 characters.
const LONGEST_STATE: usize = 512;

/// The context in two headers. An invalid `traceparent` gives `None`; an invalid or empty `tracestate` is omitted.
#[must_use]
pub fn of_headers(traceparent: Option<&str>, tracestate: Option<&str>) -> Option<String> {
    let parent = traceparent.filter(|text| is_traceparent(text))?;
    // Keeps the known part of a later version.
    let mut trace = String::with_capacity(LENGTH + tracestate.map_or(0, |state| state.len() + 1));
    trace.push_str("00");
    trace.push_str(&parent[2..LENGTH]);
    let is_state = |state: &&str| (1..=LONGEST_STATE).contains(&state.len()) && TraceState::from_str(state).is_ok();
    if let Some(state) = tracestate.map(str::trim).filter(is_state) {
        trace.push(' ');
        trace.push_str(state);
    }
    Some(trace)
}

/// Texts of `traceparent` and `tracestate`.
#[must_use]
pub fn headers(trace: &str) -> (&str, Option<&str>) {
    trace.split_once(' ').map_or((trace, None), |(parent, state)| (parent, Some(state)))
}

/// Whether the producer samples the trace.
#[must_use]
pub fn is_sampled(trace: &str) -> bool {
    let flags = trace.get(LENGTH - 2..LENGTH).and_then(|flags| u8::from_str_radix(flags, 16).ok());
    flags.is_some_and(|flags| flags & 1 == 1)
}

/// The trace id, in hex.
#[must_use]
pub fn trace_id(trace: &str) -> Option<&str> {
    trace.get(3..35)
}

/// Invalid text gives an invalid context.
pub(super) fn parse(trace: &str) -> SpanContext {
    let (parent, state) = headers(trace);
    let parts = || {
        let trace_id = TraceId::from_hex(parent.get(3..35)?).ok()?;
        let span_id = SpanId::from_hex(parent.get(36..52)?).ok()?;
        let flags = u8::from_str_radix(parent.get(53..LENGTH)?, 16).ok()?;
        let state = state.and_then(|state| TraceState::from_str(state).ok()).unwrap_or_default();
        Some(SpanContext::new(trace_id, span_id, TraceFlags::new(flags), true, state))
    };
    parts().unwrap_or_else(SpanContext::empty_context)
}

pub(super) fn write(context: &SpanContext) -> String {
    let flags = context.trace_flags() & TraceFlags::SAMPLED;
    let mut trace = format!("00-{}-{}-{flags:02x}", context.trace_id(), context.span_id());
    let state = context.trace_state().header();
    if !state.is_empty() {
        trace.push(' ');
        trace.push_str(&state);
    }
    trace
}

/// W3C Trace Context §3.2: lower-case hex of these lengths, non-zero ids. Later versions may append parts after another
/// `-`.
fn is_traceparent(text: &str) -> bool {
    let bytes = text.as_bytes();
    let is_hex = |part: &[u8]| part.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let is_id = |part: &[u8]| is_hex(part) && part.iter().any(|byte| *byte != b'0');
    bytes.len() >= LENGTH
        && [2, 35, 52].iter().all(|at| bytes[*at] == b'-')
        && is_hex(&bytes[..2])
        && &bytes[..2] != b"ff"
        && is_id(&bytes[3..35])
        && is_id(&bytes[36..52])
        && is_hex(&bytes[53..LENGTH])
        && (bytes.len() == LENGTH || (&bytes[..2] != b"00" && bytes[LENGTH] == b'-'))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use opentelemetry::{propagation::TextMapPropagator, trace::TraceContextExt};
    use opentelemetry_sdk::propagation::TraceContextPropagator;
    use proptest::prelude::*;

    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn oracle(parent: &str, state: &str) -> SpanContext {
        let headers = [("traceparent", parent), ("tracestate", state)];
        let headers: HashMap<String, String> = headers.map(|(a, b)| (a.to_owned(), b.to_owned())).into();
        TraceContextPropagator::new().extract(&headers).span().span_context().clone()
    }

    #[test]
    fn what_is_handed_on_is_what_came() {
        let trace = of_headers(Some(PARENT), Some("congo=t61rcWkgMzE,rojo=1")).unwrap();
        assert_eq!(headers(&trace), (PARENT, Some("congo=t61rcWkgMzE,rojo=1")));
        assert_eq!(write(&parse(&trace)), trace);
        assert_eq!(trace_id(&trace), Some("0af7651916cd43dd8448eb211c80319c"));
        assert!(is_sampled(&trace));
        assert!(!is_sampled(&PARENT.replace("-01", "-00")));
        for state in ["", " ", "no state", &"x".repeat(513)] {
            assert_eq!(of_headers(Some(PARENT), Some(state)).as_deref(), Some(PARENT), "{state:?} is left out");
        }
        assert_eq!(of_headers(None, Some("a=b")), None, "a state without a parent says nothing");
        let later = format!("cc{}-what-is-new", &PARENT[2..]);
        assert_eq!(of_headers(Some(&later), None).as_deref(), Some(PARENT));
    }

    #[test]
    fn what_is_no_context_is_passed_over() {
        let (ids, upper) = (&PARENT[3..52], PARENT[3..52].to_ascii_uppercase());
        let zero =
            [format!("00-{}-{}-01", "0".repeat(32), &ids[33..]), format!("00-{}-{}-01", &ids[..32], "0".repeat(16))];
        let more = [String::new(), format!("00-{ids}"), format!("00-{ids}-1"), format!("00-{ids}-01-x")];
        let other = [format!("ff-{ids}-01"), format!("0g-{ids}-01"), format!("00-{upper}-01"), format!("cc-{ids}-01x")];
        for parent in zero.iter().chain(&more).chain(&other).map(String::as_str).chain(["ü", "00-ü-ü-01"]) {
            assert_eq!(of_headers(Some(parent), None), None, "{parent}");
        }
    }

    proptest! {
        #[test]
        fn what_is_a_context_is_the_same_to_opentelemetry(
            version in "00|01|fe", trace in "[0-9a-f]{32}", span in "[0-9a-f]{16}", flags in "0[01]",
            state in "|a=b|a=b,c=d",
        ) {
            let parent = format!("{version}-{trace}-{span}-{flags}");
            let ours = of_headers(Some(&parent), Some(&state)).unwrap();
            let theirs = oracle(&parent, &state);
            prop_assert_eq!(parse(&ours).trace_id(), theirs.trace_id());
            prop_assert_eq!(parse(&ours).span_id(), theirs.span_id());
            prop_assert_eq!(is_sampled(&ours), theirs.is_sampled());
            prop_assert_eq!(parse(&ours).trace_state().header(), theirs.trace_state().header());
        }
    }
}
