-- What publishes itself: schedules that people make, and reminders that follow from care records.

CREATE TABLE schedules (
    id             text PRIMARY KEY,
    name           text NOT NULL UNIQUE,
    kind           text NOT NULL,            -- of the job that it publishes, for example notification
    lane           text,                     -- for kinds that have lanes
    payload        jsonb NOT NULL,           -- the job, as canonical protobuf JSON
    expression     text NOT NULL,            -- 0 9 * * 1-5, @daily, @every 90m
    zone           text NOT NULL,            -- IANA name
    gap            text NOT NULL DEFAULT 'shift' CHECK (gap IN ('shift', 'skip')),
    fold           text NOT NULL DEFAULT 'first' CHECK (fold IN ('first', 'second', 'both')),
    missed         text NOT NULL DEFAULT 'latest' CHECK (missed IN ('skip', 'latest', 'all')),
    missed_limit   integer NOT NULL DEFAULT 10 CHECK (missed_limit > 0),      -- of `all`
    missed_seconds bigint NOT NULL DEFAULT 3600 CHECK (missed_seconds > 0),   -- what is later than this is not made up
    jitter_seconds bigint NOT NULL DEFAULT 0 CHECK (jitter_seconds >= 0),     -- published up to this much later
    expiry_seconds bigint CHECK (expiry_seconds > 0),   -- of the job, after its instant; null = the kind's own
    starts_at      timestamptz NOT NULL,     -- the anchor of @every; nothing before it
    ends_at        timestamptz,              -- nothing from it on
    paused         boolean NOT NULL DEFAULT false,
    owner          text,                     -- what it belongs to, for example medication:metformin
    next_at        timestamptz,              -- the next instant; null = none is left
    due_at         timestamptz,              -- next_at and its jitter: when it is published
    last_at        timestamptz,              -- the last instant that was published
    last_job_id    text,
    fired          bigint NOT NULL DEFAULT 0,   -- instants that were published
    missed_count   bigint NOT NULL DEFAULT 0,   -- instants that were not, because nobody was there
    last_note      text,                     -- what was last decided about missed instants
    created_at     timestamptz NOT NULL,
    created_by     text NOT NULL,
    changed_at     timestamptz NOT NULL,
    changed_by     text NOT NULL
);
CREATE INDEX schedules_due ON schedules (due_at) WHERE NOT paused AND due_at IS NOT NULL;
CREATE INDEX schedules_owner ON schedules (owner) WHERE owner IS NOT NULL;

-- Reminders that follow from care records, planned a while ahead; each is published once, when it is due. Kept for two
-- days after their instant: until then they say what was planned before.
CREATE TABLE care_reminders (
    kind         text NOT NULL,              -- reminder.medication, reminder.appointment, reminder.shift, alert.refill
    record_id    text NOT NULL,              -- the medication, appointment or shift
    instant      timestamptz NOT NULL,       -- the dose, the start; of a refill, the day (UTC) on which it was seen
    lead_minutes integer NOT NULL,
    due_at       timestamptz NOT NULL,       -- instant less lead_minutes; when it was seen, where that is too late
    published_at timestamptz,                -- or passed over, because a later one of the same instant was due too
    PRIMARY KEY (kind, instant, record_id, lead_minutes)   -- in this order: what is looked at is a span of instants
);
CREATE INDEX care_reminders_due ON care_reminders (kind, due_at) WHERE published_at IS NULL;

-- When each part of the scheduler last looked at everything: what was due since then was missed, what is older is not.
CREATE TABLE scheduler_state (
    part       text PRIMARY KEY,
    looked_at  timestamptz NOT NULL
);
