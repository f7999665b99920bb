//! Attribute names: OpenTelemetry's semantic conventions for messaging, HTTP and errors, or `carebell.…`. Never
//! addresses, people's names or texts.

/// Always `nats`.
pub const SYSTEM: &str = "messaging.system";
/// `send` or `process`.
pub const OPERATION_TYPE: &str = "messaging.operation.type";
/// Likewise.
pub const OPERATION: &str = "messaging.operation.name";
/// The subject, without parts unique to the message.
pub const DESTINATION: &str = "messaging.destination.name";
/// The job id.
pub const MESSAGE: &str = "messaging.message.id";
/// Messages published in one span, if more than one.
pub const BATCH: &str = "messaging.batch.message_count";
/// Body size in bytes.
pub const SIZE: &str = "messaging.message.body.size";
/// The durable.
pub const CONSUMER: &str = "messaging.consumer.group.name";
/// A word for a failure.
pub const ERROR: &str = "error.type";
/// Always `POST`.
pub const METHOD: &str = "http.request.method";
/// A provider's status.
pub const STATUS: &str = "http.response.status_code";
/// A provider's host; omitted for webhooks, whose hosts belong to users.
pub const SERVER: &str = "server.address";
/// Its port, unless it is the default.
pub const PORT: &str = "server.port";
/// An error's text, on its event.
pub const EXCEPTION: &str = "exception.message";

/// Id of the job that an application published.
pub const ROOT: &str = "carebell.root_id";
/// The job's kind.
pub const KIND: &str = "carebell.kind";
/// The message's stream.
pub const STREAM: &str = "carebell.stream";
/// Its sequence there.
pub const SEQUENCE: &str = "carebell.sequence";
/// Deliveries by the server, including this one.
pub const DELIVERED: &str = "carebell.delivered";
/// Recorded failures plus one.
pub const ATTEMPT: &str = "carebell.attempt";
/// Outcome of the run, in a word.
pub const OUTCOME: &str = "carebell.outcome";
/// Its reason, in a word.
pub const REASON: &str = "carebell.reason";
/// When the job comes again, or is due.
pub const UNTIL: &str = "carebell.until";
/// The channel.
pub const CHANNEL: &str = "carebell.channel";
/// Class of a provider's answer.
pub const ANSWER: &str = "carebell.answer";
