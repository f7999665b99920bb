//! A real trace collector, and the spans that it reports.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    path::{Path, PathBuf},
};

use carebell::dev::guard::{Guarded, PrivateDir, Program, StopSignal, private_dir};
use tokio::{
    net::{TcpSocket, TcpStream},
    time::{Duration, Instant, sleep},
};

use super::{LIMIT, rotel};

const LOG: &str = "rotel.log";

pub struct Collector {
    guarded: Option<Guarded>,
    program: PathBuf,
    ports: [u16; 2],
    /// Its ports while it is away: bound but not listening, so that connections are refused.
    held: Option<[TcpSocket; 2]>,
    directory: PrivateDir,
}

#[derive(Clone, Debug, Default)]
pub struct Span {
    pub trace: String,
    pub id: String,
    /// Empty for a root.
    pub parent: String,
    pub name: String,
    /// `PRODUCER`, `CONSUMER` or `CLIENT`.
    pub kind: String,
    /// `UNSET` or `ERROR`, and the message.
    pub status: (String, String),
    pub attributes: BTreeMap<String, String>,
    pub links: Vec<String>,
    /// `tracestate` of the links.
    pub states: Vec<String>,
    pub events: Vec<String>,
}

impl Collector {
    pub async fn start() -> Self {
        let mut collector = Self::away().await;
        // It cannot report a port it chose itself, and a free port may be taken.
        for _ in 0..5 {
            if collector.come().await {
                return collector;
            }
            let (ports, held) = hold_ports();
            (collector.ports, collector.held) = (ports, Some(held));
        }
        panic!("the collector does not start");
    }

    pub async fn away() -> Self {
        let (ports, held) = hold_ports();
        Self { guarded: None, program: rotel().await, ports, held: Some(held), directory: private_dir().unwrap() }
    }

    /// Answers whether it started.
    pub async fn come(&mut self) -> bool {
        drop(self.held.take());
        let mut guarded = spawn(&self.program, self.directory.path(), self.ports);
        let is_up = is_up(&mut guarded, self.ports).await;
        self.guarded = Some(guarded);
        is_up
    }

    pub fn grpc(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports[0])
    }

    pub fn http(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports[1])
    }

    pub fn output(&self) -> String {
        std::fs::read_to_string(self.directory.path().join(LOG)).unwrap_or_default()
    }

    /// Waits for enough spans and a log that no longer grows.
    pub async fn spans_once(&self, what: &str, enough: impl Fn(&[Span]) -> bool) -> Vec<Span> {
        let since = Instant::now();
        let mut before = String::new();
        loop {
            let output = self.output();
            let spans = parse(&output);
            if enough(&spans) && output == before {
                return spans;
            }
            before = output;
            assert!(since.elapsed() < LIMIT, "the collector has not received {what}:\n{}", tree(&spans));
            sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Spans under their parents: name, kind and outcome.
pub fn tree(spans: &[Span]) -> String {
    fn write(spans: &[Span], parent: &Span, depth: usize, into: &mut String) {
        let said = |name: &str| parent.attributes.get(name).map(|value| format!("  {value}")).unwrap_or_default();
        let (outcome, status) = (said("carebell.outcome"), said("http.response.status_code"));
        let job = said("messaging.message.id");
        let indent = "  ".repeat(depth);
        let _ = writeln!(into, "{indent}{} ({}){outcome}{status}{job}", parent.name, parent.kind);
        for child in spans.iter().filter(|span| span.parent == parent.id) {
            write(spans, child, depth + 1, into);
        }
    }
    let mut text = String::new();
    for root in spans.iter().filter(|span| !spans.iter().any(|other| other.id == span.parent)) {
        let _ = writeln!(text, "trace {}", root.trace);
        write(spans, root, 1, &mut text);
    }
    text
}

fn hold_ports() -> ([u16; 2], [TcpSocket; 2]) {
    let held = [(); 2].map(|()| {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
        socket
    });
    (held.each_ref().map(|socket| socket.local_addr().unwrap().port()), held)
}

fn spawn(program: &Path, directory: &Path, [grpc, http]: [u16; 2]) -> Guarded {
    let mut args: Vec<String> =
        "start --exporter blackhole --debug-log traces --debug-log-verbosity detailed --otlp-grpc-endpoint"
            .split(' ')
            .map(str::to_owned)
            .collect();
    args.extend([format!("127.0.0.1:{grpc}"), "--otlp-http-endpoint".into(), format!("127.0.0.1:{http}")]);
    Guarded::spawn(&Program {
        path: program,
        args: args.into_iter().map(Into::into).collect(),
        directory,
        environment: &[],
        user: None,
        log: &directory.join(LOG),
        stop: StopSignal::Terminate,
    })
    .unwrap()
}

async fn is_up(guarded: &mut Guarded, ports: [u16; 2]) -> bool {
    let since = Instant::now();
    for port in ports {
        while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            if guarded.ended().is_some() {
                return false;
            }
            assert!(since.elapsed() < LIMIT, "the collector does not listen:\n{}", guarded.output());
            sleep(Duration::from_millis(10)).await;
        }
    }
    true
}

/// The log has a line for each field of a span.
fn parse(output: &str) -> Vec<Span> {
    let mut spans: Vec<Span> = Vec::new();
    let mut part = "";
    for line in output.lines() {
        let text = line.trim();
        if text.starts_with("Span #") {
            spans.push(Span::default());
            part = "span";
        } else if text.starts_with("SpanLink #") {
            part = "link";
        } else if text.starts_with("SpanEvent #") {
            part = "event";
        } else if text.starts_with("ResourceSpans #") || text.starts_with("ScopeSpans #") {
            part = "resource";
        }
        let Some(span) = spans.last_mut() else { continue };
        let field = text.trim_start_matches("-> ").split_once(':');
        let Some((name, value)) = field.map(|(name, value)| (name.trim(), value.trim())) else { continue };
        match (part, name) {
            ("span", "Trace ID") => value.clone_into(&mut span.trace),
            ("span", "Parent ID") => value.clone_into(&mut span.parent),
            ("span", "ID") => value.clone_into(&mut span.id),
            ("span", "Name") => value.clone_into(&mut span.name),
            ("span", "Kind") => value.trim_start_matches("SPAN_KIND_").clone_into(&mut span.kind),
            ("span", "Status code") => value.trim_start_matches("STATUS_CODE_").clone_into(&mut span.status.0),
            ("span", "Status message") => value.clone_into(&mut span.status.1),
            ("span", name) if text.starts_with("->") => {
                let value = value.split_once('(').map_or(value, |(_, value)| value.trim_end_matches(')'));
                span.attributes.insert(name.to_owned(), value.to_owned());
            }
            ("link", "ID") => span.links.push(value.to_owned()),
            ("link", "TraceState") => span.states.push(value.to_owned()),
            ("event", "Name") => span.events.push(value.to_owned()),
            _ => {}
        }
    }
    spans
}
