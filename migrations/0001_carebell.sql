-- Carebell's own tables. The care tables (users, medications, …) belong to the application: see care.sql.
--
-- No name here carries a schema: search_path decides where the tables go. All ids are text, so that the cuid or uuid of
-- an application fits.
--
--   1. People       push_subscriptions, user_addresses, preferences, notifications
--   2. Jobs         job_runs, job_children, reminder_marks, refill_shortages
--   3. Deliveries   contents, deliveries, delivery_attempts
--   4. Scheduler    schedules, care_reminders, scheduler_state
--   5. Operations   rate_limits, audit_log


-- 1. People ---------------------------------------------------------------------------------------------------------

-- Web Push subscriptions. The application inserts them. Carebell deletes those that the push service reports as gone.
CREATE TABLE push_subscriptions (
    id           text PRIMARY KEY DEFAULT gen_random_uuid()::text,
    user_id      text NOT NULL,
    endpoint     text NOT NULL UNIQUE,
    p256dh       text NOT NULL,              -- the browser's public key, base64url
    auth         text NOT NULL,              -- the shared secret, base64url
    vapid_key_id text,                       -- public VAPID key of the subscription; null: the configured one
    created_at   timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX push_subscriptions_user ON push_subscriptions (user_id);   -- addresses of a recipient

-- Addresses beside users.email and users.phone, which apply when a user has no active address here. The application
-- writes them. Carebell marks those that no longer exist.
CREATE TABLE user_addresses (
    id         text PRIMARY KEY DEFAULT gen_random_uuid()::text,
    user_id    text NOT NULL,                -- empty: a raw address, kept because it is gone
    channel    text NOT NULL CHECK (channel IN ('email', 'sms', 'whatsapp', 'voice', 'webhook')),
    address    text NOT NULL,                -- e-mail address, E.164 number or https URL
    secrets    text,                         -- of a webhook: whsec_…; several during rotation, separated by blanks
    state      text NOT NULL DEFAULT 'active' CHECK (state IN ('active', 'gone')),
    reason     text,                         -- why it is gone, for example bounced
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (user_id, channel, address)
);

-- Channels and quiet hours of a user, for one type of notification or for all others (type *). A null falls back to the
-- row *, then to the default: push and e-mail, no quiet hours. Inbox rows are written regardless.
CREATE TABLE preferences (
    user_id    text NOT NULL,
    type       text NOT NULL DEFAULT '*',    -- notifications.type
    channels   text[] CHECK (channels <@ ARRAY['push', 'email', 'sms', 'whatsapp', 'voice', 'webhook']),
    quiet_from time,                         -- time of day in quiet_zone; equal to quiet_to: none
    quiet_to   time,
    quiet_zone text,                         -- IANA name; null: users.timezone
    PRIMARY KEY (user_id, type),
    CHECK ((quiet_from IS NULL) = (quiet_to IS NULL)),
    CHECK (quiet_zone IS NULL OR timestamp '2000-01-01' AT TIME ZONE quiet_zone IS NOT NULL)
);

-- The inbox: one row per root job and user. The application reads it and updates the last three columns.
CREATE TABLE notifications (
    id          text PRIMARY KEY,
    job_id      text NOT NULL,               -- root: the job that the application published
    user_id     text NOT NULL,
    type        text NOT NULL,               -- for example MEDICATION_REMINDER
    title       text NOT NULL,
    body        text NOT NULL,
    url         text,
    data        jsonb NOT NULL DEFAULT '{}', -- for the application
    created_at  timestamptz NOT NULL,
    seen_at     timestamptz,
    read_at     timestamptz,
    archived_at timestamptz,
    UNIQUE (job_id, user_id)
);
CREATE INDEX notifications_user ON notifications (user_id, created_at DESC, id DESC);   -- pages of an inbox
CREATE INDEX notifications_unread ON notifications (user_id, created_at DESC, id DESC)  -- unread rows and their number
    WHERE read_at IS NULL;


-- 2. Jobs -----------------------------------------------------------------------------------------------------------

-- Runs: one row per job of stage 1 (reminder), stage 2 (notification) or maintenance.
CREATE TABLE job_runs (
    job_id            text PRIMARY KEY,
    root_id           text NOT NULL,         -- the job that the application published
    kind              text NOT NULL,
    stream            text NOT NULL,
    stream_seq        bigint NOT NULL,       -- sequence that wrote `state`; 0: no message, planned with its reminder
    state             text NOT NULL CHECK (state IN ('open', 'done', 'skipped', 'expired', 'dead')),
    reason            text,
    attempts          integer NOT NULL DEFAULT 0,       -- recorded failures
    recorded_delivery bigint NOT NULL DEFAULT 0,        -- delivery count at the last failure or release of stream_seq
    last_error        text,
    children_pending  boolean NOT NULL DEFAULT false,   -- committed, but not known to be published
    result            jsonb,                            -- of maintenance: number of rows removed, by table
    created_at        timestamptz NOT NULL,
    updated_at        timestamptz NOT NULL
) WITH (fillfactor = 50);                    -- room for new row versions on the same page
CREATE INDEX job_runs_root ON job_runs (root_id);
CREATE INDEX job_runs_children ON job_runs (updated_at) WHERE children_pending;   -- children to publish after a crash
-- Old runs, for pruning. BRIN would be cheaper to write, but is useless once freed pages are filled again:
-- docs/DECISIONS.md.
CREATE INDEX job_runs_created ON job_runs (created_at);

-- Jobs of the next stage that a run planned, kept until they are known to be published.
CREATE TABLE job_children (
    job_id    text NOT NULL,                 -- the run
    child_id  text NOT NULL,                 -- job id of the child
    root_id   text NOT NULL,
    subject   text NOT NULL,
    body      bytea NOT NULL,
    not_after timestamptz NOT NULL,
    trace     text,                          -- W3C trace context
    PRIMARY KEY (job_id, child_id)
);

-- One reminder of one instant of one care record, owned by the first job that commits it.
CREATE TABLE reminder_marks (
    kind         text NOT NULL,
    record_id    text NOT NULL,
    instant      timestamptz NOT NULL,
    lead_minutes integer NOT NULL,
    job_id       text NOT NULL,              -- the owner
    created_at   timestamptz NOT NULL,
    PRIMARY KEY (kind, record_id, instant, lead_minutes)
);
-- Old marks, for pruning. An expression, so that the planner cannot use this index to look up a mark by its key: on a
-- table that it takes for empty, an index on the plain instant looks as good as the key.
CREATE INDEX reminder_marks_past ON reminder_marks ((instant AT TIME ZONE 'UTC'));

-- Shortages: medications that run low and whose family was told. A row lives from the alert until the supply is seen
-- above the threshold again. Meanwhile no other job alerts.
CREATE TABLE refill_shortages (
    medication_id text PRIMARY KEY,
    refill_at     integer NOT NULL,          -- threshold of the last alert, for a medication that has none
    job_id        text NOT NULL,             -- the job that alerted
    opened_at     timestamptz NOT NULL
);


-- 3. Deliveries -----------------------------------------------------------------------------------------------------

-- Texts of a notification: one row per language of its recipients.
CREATE TABLE contents (
    job_id     text NOT NULL,                -- root
    locale     text NOT NULL DEFAULT '',
    type       text NOT NULL,                -- notifications.type
    title      text NOT NULL,
    body       text NOT NULL,
    url        text,
    data       jsonb NOT NULL,
    tag        text,                         -- notifications with the same tag replace each other on a device
    created_at timestamptz NOT NULL,
    PRIMARY KEY (job_id, locale)
);

-- The ledger: one row per root job, user, channel and address.
CREATE TABLE deliveries (
    id                   text PRIMARY KEY,
    job_id               text NOT NULL,                  -- root
    run_id               text NOT NULL,                  -- the notification job that planned it
    user_id              text NOT NULL,                  -- empty for a raw address
    channel              text NOT NULL,
    address              text NOT NULL,                  -- id of the push subscription or webhook; else the address
    locale               text NOT NULL DEFAULT '',       -- of its text in contents
    lane                 text NOT NULL,
    named                boolean NOT NULL DEFAULT false, -- the job named the channel: the user's choice does not count
    subject              text,                           -- of its message; null: it is never sent
    state                text NOT NULL CHECK (state IN
        ('pending', 'held', 'sending', 'sent', 'delivered', 'failed', 'expired', 'skipped', 'unknown', 'dead')),
    reason               text,
    attempts             integer NOT NULL DEFAULT 0,     -- recorded failures
    overrode_quiet_hours boolean NOT NULL DEFAULT false, -- critical, and perhaps sent in quiet hours; never reset

    -- The claim and its fence.
    claims               integer NOT NULL DEFAULT 0,     -- number of claims so far
    claim_seq            bigint,                         -- stream sequence of the claim; 0: direct send, no message
    claim_delivery       bigint,                         -- delivery count of the claim
    claimed_by           text,                           -- worker: a server that crashed may repeat a delivery count
    claimed_at           timestamptz,                    -- begin of the lease
    recorded_delivery    bigint NOT NULL DEFAULT 0,      -- last delivery count of claim_seq with an outcome on record
    held_until           timestamptz,

    -- The provider's side.
    provider             text,
    provider_id          text,
    answer               text,
    sent_at              timestamptz,                    -- accepted by the provider
    delivered_at         timestamptz,                    -- reported by the provider as delivered

    not_after            timestamptz NOT NULL,
    trace                text,                           -- W3C trace context
    created_at           timestamptz NOT NULL,
    updated_at           timestamptz NOT NULL,
    UNIQUE (job_id, user_id, channel, address)           -- also finds the rows of a run: they share its root
) WITH (fillfactor = 40);                    -- room for new row versions on the same page

-- Failures of a delivery, oldest first. The last answer is in deliveries too.
CREATE TABLE delivery_attempts (
    delivery_id text NOT NULL REFERENCES deliveries ON DELETE CASCADE,
    at          timestamptz NOT NULL,
    answer      text NOT NULL,
    PRIMARY KEY (delivery_id, at)
);


-- 4. Scheduler ------------------------------------------------------------------------------------------------------

-- Saved schedules: jobs that are published again and again.
CREATE TABLE schedules (
    id             text PRIMARY KEY,
    name           text NOT NULL UNIQUE,
    kind           text NOT NULL,            -- of its jobs, for example notification
    lane           text,                     -- for kinds that have lanes
    payload        jsonb NOT NULL,           -- the job, as canonical protobuf JSON
    expression     text NOT NULL,            -- 0 9 * * 1-5, @daily, @every 90m
    zone           text NOT NULL,            -- IANA name
    gap            text NOT NULL DEFAULT 'shift' CHECK (gap IN ('shift', 'skip')),
    fold           text NOT NULL DEFAULT 'first' CHECK (fold IN ('first', 'second', 'both')),
    missed         text NOT NULL DEFAULT 'latest' CHECK (missed IN ('skip', 'latest', 'all')),
    missed_limit   integer NOT NULL DEFAULT 10 CHECK (missed_limit > 0),      -- of missed = all
    missed_seconds bigint NOT NULL DEFAULT 3600 CHECK (missed_seconds > 0),   -- older instants are not made up
    jitter_seconds bigint NOT NULL DEFAULT 0 CHECK (jitter_seconds >= 0),     -- upper bound
    expiry_seconds bigint CHECK (expiry_seconds > 0),   -- of a job, after its instant; null: default of the kind
    starts_at      timestamptz NOT NULL,     -- first possible instant, and the anchor of @every
    ends_at        timestamptz,              -- exclusive
    paused         boolean NOT NULL DEFAULT false,
    owner          text,                     -- for example medication:metformin
    next_at        timestamptz,              -- next instant; null: none is left
    due_at         timestamptz,              -- next_at plus jitter: when it is published
    last_at        timestamptz,              -- last instant that was published
    last_job_id    text,
    fired          bigint NOT NULL DEFAULT 0,   -- instants published
    missed_count   bigint NOT NULL DEFAULT 0,   -- instants missed because no scheduler ran
    last_note      text,                     -- last decision about missed instants
    created_at     timestamptz NOT NULL,
    created_by     text NOT NULL,
    changed_at     timestamptz NOT NULL,
    changed_by     text NOT NULL
);
CREATE INDEX schedules_due ON schedules (due_at) WHERE NOT paused AND due_at IS NOT NULL;
CREATE INDEX schedules_owner ON schedules (owner) WHERE owner IS NOT NULL;

-- Reminders planned from care records, each published once when it is due. A row is kept for two days after its
-- instant, so that the reminder is not planned again.
CREATE TABLE care_reminders (
    kind         text NOT NULL,              -- reminder.medication, reminder.appointment, reminder.shift, alert.refill
    record_id    text NOT NULL,              -- the medication, appointment or shift
    instant      timestamptz NOT NULL,       -- dose or start; of a refill, the UTC day on which it was seen
    lead_minutes integer NOT NULL,
    due_at       timestamptz NOT NULL,       -- instant less lead_minutes; when it was seen, if that had passed
    published_at timestamptz,                -- published, or passed over for a later reminder of the same instant
    PRIMARY KEY (kind, instant, record_id, lead_minutes)   -- instant first: a pass reads a span of instants
);
CREATE INDEX care_reminders_due ON care_reminders (kind, due_at) WHERE published_at IS NULL;

-- Last complete pass of each part of the scheduler. Instants due since then were missed; older ones were handled.
CREATE TABLE scheduler_state (
    part       text PRIMARY KEY,
    looked_at  timestamptz NOT NULL
);

-- The built-in schedules. They are inserted once, then belong to the operator: a deleted one stays deleted. The first
-- instants are tomorrow's 03:17, and 03:47 of the first Sunday from tomorrow on.
INSERT INTO schedules (id, name, kind, payload, expression, zone, missed_seconds, starts_at, next_at, due_at,
                       created_at, created_by, changed_at, changed_by)
SELECT gen_random_uuid()::text, name, kind, payload, expression, 'UTC', missed_seconds, first, first, first, now(),
       'carebell', now(), 'carebell'
FROM (VALUES
    ('carebell.prune', 'maintenance.prune', '{"keepDays": 90}'::jsonb, '17 3 * * *', 43200,
     (date_trunc('day', now() AT TIME ZONE 'UTC') + interval '1 day 3 hours 17 minutes') AT TIME ZONE 'UTC'),
    ('carebell.subscriptions', 'maintenance.subscriptions', '{}', '47 3 * * 0', 259200,
     (date_trunc('week', now() AT TIME ZONE 'UTC' + interval '1 day') + interval '6 days 3 hours 47 minutes')
         AT TIME ZONE 'UTC')
) AS built_in(name, kind, payload, expression, missed_seconds, first);


-- 5. Operations -----------------------------------------------------------------------------------------------------

-- Queues with a rate limit, one row each, shared by all processes. A row is created by the first booking. Each booking
-- moves free_at on.
--
-- Not in the WAL: it is written some ten times a second and worthless after a crash. No booking waits for a disk. A
-- server that crashed, or a standby that takes over, starts with an empty table, that is with no slot booked.
CREATE UNLOGGED TABLE rate_limits (
    queue    text PRIMARY KEY,               -- durable name
    free_at  timestamptz NOT NULL,           -- everything before is booked
    asked_at timestamptz NOT NULL,           -- last request, by this server's clock
    granted  boolean NOT NULL                -- outcome of the last request
) WITH (fillfactor = 50);                    -- room for new row versions on the same page

-- Manual actions. Holds ids, instants and reasons, never text written by one person to another.
CREATE TABLE audit_log (
    id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at      timestamptz NOT NULL,
    actor   text NOT NULL,                   -- as given to the command, else the operating system's user
    action  text NOT NULL,                   -- for example dead_letter.redriven
    job_id  text,
    root_id text,                            -- the job that the application published
    detail  jsonb NOT NULL DEFAULT '{}'
);
CREATE INDEX audit_log_root ON audit_log (root_id);
CREATE INDEX audit_log_job ON audit_log (job_id);
CREATE INDEX audit_log_letter ON audit_log ((detail ->> 'letter')) WHERE action LIKE 'dead_letter.%';
