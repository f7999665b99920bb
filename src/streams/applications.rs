//! Streams of applications that are kept apart. Each has an account, whose subjects the server maps, and a stream like
//! JOBS with the kinds that it may publish.

use async_nats::jetstream::stream;

use super::declared::{Adjustments, Application, DeclaredConsumer, FileError, Reader, adjust, covers};
use crate::{
    events,
    intake::{self, INTAKE, stream_of},
    kind::{CANCEL, DELAYED, JOBS, LATER, Lane},
    policy::Policy,
};

/// The most bytes of an application's stream, so that it cannot fill the disk for others.
const MOST_BYTES: i64 = 1 << 30;

/// Adds each application's stream and consumers, made from those of JOBS, and its advisories.
///
/// # Errors
/// If two applications have one name, or a kind does not exist.
pub(super) fn add(
    streams: &mut Vec<stream::Config>,
    consumers: &mut Vec<DeclaredConsumer>,
    adjustments: &Adjustments,
) -> Result<(), FileError> {
    let refused = |why: String| FileError::Applications(why);
    let Some(model) = streams.iter().find(|stream| stream.name == intake::STREAM).cloned() else { return Ok(()) };
    let models: Vec<DeclaredConsumer> =
        consumers.iter().filter(|consumer| consumer.stream == intake::STREAM).cloned().collect();
    for (number, application) in adjustments.applications.iter().enumerate() {
        let name = &application.name;
        if adjustments.applications[..number].iter().any(|other| other.name == *name) {
            return Err(refused(format!("{name} is there twice")));
        }
        let known: Vec<&str> = models.iter().filter_map(kind).collect();
        if let Some(unknown) = application.kinds.iter().find(|granted| !known.iter().any(|kind| covers(granted, kind)))
        {
            let mut known = known.clone();
            known.dedup();
            return Err(refused(format!("{name} may publish no kind {unknown:?}; there are {}", known.join(", "))));
        }
        let mut stream =
            stream::Config { name: stream_of(name), max_bytes: MOST_BYTES, subjects: Vec::new(), ..model.clone() };
        stream.description = Some(format!("What the application {name} publishes"));
        let prefix = format!("{INTAKE}{name}.");
        for model in &models {
            let rest = model.config.filter_subject.strip_prefix(JOBS).unwrap_or_default();
            match kind(model) {
                Some(kind) if application.may_publish(kind) => {
                    stream.subjects.extend([format!("{prefix}{rest}"), format!("{prefix}{LATER}{rest}")]);
                }
                Some(_) => continue,
                None if model.durable() == CANCEL.durable() => stream.subjects.push(format!("{prefix}{rest}")),
                None => {}
            }
            let mut consumer = DeclaredConsumer { stream: stream.name.clone(), ..model.clone() };
            consumer.config.filter_subject = format!("{prefix}{rest}");
            let place = consumer.place();
            for change in adjustments.overrides.iter().filter(|change| change.durable == place) {
                adjust(&mut consumer.config, &change.key, &change.value)?;
                consumer.has_own_rate |= change.key == "rate";
            }
            let policy = Policy::from_metadata(&consumer.config.metadata);
            consumer.policy = policy.map_err(|why| FileError::Policy { file: place, why })?;
            consumers.push(consumer);
        }
        for stream in streams.iter_mut().filter(|stream| stream.name == "ADVISORIES") {
            let advisory = |what: &str| format!("$JS.EVENT.ADVISORY.CONSUMER.{what}.{}.*", stream_of(name));
            stream.subjects.extend(["MAX_DELIVERIES", "MSG_TERMINATED"].map(advisory));
        }
        streams.push(stream);
    }
    Ok(())
}

/// Adds the durable through which each application reads its events, made from that of JOBS.
pub(super) fn add_readers(readers: &mut Vec<Reader>, adjustments: &Adjustments) {
    let Some(model) = readers.first().cloned() else { return };
    for Application { name, .. } in &adjustments.applications {
        let mut reader = model.clone();
        reader.config.durable_name = Some(format!("events_{name}"));
        reader.config.filter_subject = events::subjects(name);
        reader.config.description = Some(format!("Events of the application {name}"));
        readers.push(reader);
    }
}

/// The kind of a consumer's jobs; none of the two for delayed jobs of all kinds.
fn kind(consumer: &DeclaredConsumer) -> Option<&str> {
    if [DELAYED.durable(), CANCEL.durable()].iter().any(|durable| durable == consumer.durable()) {
        return None;
    }
    let rest = consumer.config.filter_subject.strip_prefix(JOBS)?;
    match rest.rsplit_once('.') {
        Some((kind, lane)) if Lane::parse(lane).is_some() => Some(kind),
        _ => Some(rest),
    }
}
