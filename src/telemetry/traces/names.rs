//! What attributes are called: as in OpenTelemetry's semantic conventions of messaging, HTTP and errors, where they have a
//! name for it, else `carebell.…`. None of them holds an address, a name of a person or a word of a text.

/// Always `nats`.
pub const SYSTEM: &str = "messaging.system";
/// `send` or `process`.
pub const OPERATION_TYPE: &str = "messaging.operation.type";
/// The same.
pub const OPERATION: &str = "messaging.operation.name";
/// The subject, without what is different for each message.
pub const DESTINATION: &str = "messaging.destination.name";
/// The job's id.
pub const MESSAGE: &str = "messaging.message.id";
/// How many messages were published by one span, where that is more than one.
pub const BATCH: &str = "messaging.batch.message_count";
/// The body's size in bytes.
pub const SIZE: &str = "messaging.message.body.size";
/// The durable.
pub const CONSUMER: &str = "messaging.consumer.group.name";
/// Why it failed, in a word.
pub const ERROR: &str = "error.type";
/// Always `POST`.
pub const METHOD: &str = "http.request.method";
/// What a provider answered.
pub const STATUS: &str = "http.response.status_code";
/// A provider's host. Left out for webhooks, whose hosts are users'.
pub const SERVER: &str = "server.address";
/// Its port, where it is not the usual one.
pub const PORT: &str = "server.port";
/// On an event of an error: what it says.
pub const EXCEPTION: &str = "exception.message";

/// The id of the job that an application published.
pub const ROOT: &str = "carebell.root_id";
/// The kind of job.
pub const KIND: &str = "carebell.kind";
/// The stream that the message was read from.
pub const STREAM: &str = "carebell.stream";
/// Its sequence there.
pub const SEQUENCE: &str = "carebell.sequence";
/// How often the server has delivered this message, this time included.
pub const DELIVERED: &str = "carebell.delivered";
/// Which attempt it was; attempts are recorded failures, and one more.
pub const ATTEMPT: &str = "carebell.attempt";
/// What became of the run, in a word.
pub const OUTCOME: &str = "carebell.outcome";
/// Why, in a word.
pub const REASON: &str = "carebell.reason";
/// When the job comes again, or is due.
pub const UNTIL: &str = "carebell.until";
/// How the person is reached.
pub const CHANNEL: &str = "carebell.channel";
/// What a provider's answer means.
pub const ANSWER: &str = "carebell.answer";
