-- Carebell's own tables. The care tables (users, medications, ...) are the application's: see care.sql.

-- Web Push subscriptions. The application inserts; Carebell removes those that have ended.
CREATE TABLE push_subscriptions (
    id           text PRIMARY KEY DEFAULT gen_random_uuid()::text,
    user_id      text NOT NULL,
    endpoint     text NOT NULL UNIQUE,
    p256dh       text NOT NULL,              -- the browser's public key, base64url
    auth         text NOT NULL,              -- the shared secret, base64url
    vapid_key_id text,                       -- the public VAPID key it was made with; null = the configured one
    created_at   timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX push_subscriptions_user ON push_subscriptions (user_id);

-- The inbox: one row per job and user. The application reads it, and updates the last three columns.
CREATE TABLE notifications (
    id          text PRIMARY KEY,
    job_id      text NOT NULL,               -- the root: the job that the application published
    user_id     text NOT NULL,
    type        text NOT NULL,
    title       text NOT NULL,
    body        text NOT NULL,
    url         text,
    data        jsonb NOT NULL DEFAULT '{}',
    created_at  timestamptz NOT NULL,
    seen_at     timestamptz,
    read_at     timestamptz,
    archived_at timestamptz,
    UNIQUE (job_id, user_id)
);
CREATE INDEX notifications_user ON notifications (user_id, created_at DESC, id DESC);
CREATE INDEX notifications_unread ON notifications (user_id, created_at DESC, id DESC) WHERE read_at IS NULL;

-- What became of each job of stages 1 and 2.
CREATE TABLE job_runs (
    job_id            text PRIMARY KEY,
    root_id           text NOT NULL,
    kind              text NOT NULL,
    stream            text NOT NULL,
    stream_seq        bigint NOT NULL,       -- the sequence under which `state` was written
    state             text NOT NULL CHECK (state IN ('open', 'done', 'skipped', 'expired', 'dead')),
    reason            text,
    attempts          integer NOT NULL DEFAULT 0,   -- recorded failures
    recorded_delivery bigint NOT NULL DEFAULT 0,    -- the server's delivery count at the last failure or release of stream_seq
    last_error        text,
    children_pending  boolean NOT NULL DEFAULT false,   -- committed, but not yet known to be published
    created_at        timestamptz NOT NULL,
    updated_at        timestamptz NOT NULL
);
CREATE INDEX job_runs_root ON job_runs (root_id);
CREATE INDEX job_runs_children ON job_runs (updated_at) WHERE children_pending;

-- Jobs of a later stage that a run planned, kept until they are known to be published.
CREATE TABLE job_children (
    job_id    text NOT NULL,
    child_id  text NOT NULL,
    root_id   text NOT NULL,
    subject   text NOT NULL,
    body      bytea NOT NULL,
    not_after timestamptz NOT NULL,
    trace     text,
    PRIMARY KEY (job_id, child_id)
);

-- One reminder of one instant of one care record, and the job that owns it.
CREATE TABLE reminder_marks (
    kind         text NOT NULL,
    record_id    text NOT NULL,
    instant      timestamptz NOT NULL,
    lead_minutes integer NOT NULL,
    job_id       text NOT NULL,
    created_at   timestamptz NOT NULL,
    PRIMARY KEY (kind, record_id, instant, lead_minutes)
);

-- The text of a notification job, once for all its deliveries.
CREATE TABLE contents (
    job_id     text PRIMARY KEY,             -- the root
    type       text NOT NULL,
    title      text NOT NULL,
    body       text NOT NULL,
    url        text,
    data       jsonb NOT NULL,
    tag        text,
    created_at timestamptz NOT NULL
);

-- The delivery ledger: one row per job, user, channel and address.
CREATE TABLE deliveries (
    id                text PRIMARY KEY,
    job_id            text NOT NULL,         -- the root
    run_id            text NOT NULL,         -- the notification job that planned it
    user_id           text NOT NULL,         -- empty for a raw address
    channel           text NOT NULL,
    address           text NOT NULL,         -- push_subscriptions.id for Web Push
    lane              text NOT NULL,
    subject           text,                  -- where its message is published; null while the channel is not there
    state             text NOT NULL CHECK (state IN
        ('pending', 'held', 'sending', 'sent', 'delivered', 'failed', 'expired', 'skipped', 'unknown', 'dead')),
    reason            text,
    attempts          integer NOT NULL DEFAULT 0,   -- recorded failures
    claims            integer NOT NULL DEFAULT 0,   -- how often it was taken for sending
    claim_seq         bigint,                -- fence: the sequence and delivery count that hold the claim
    claim_delivery    bigint,
    claimed_at        timestamptz,
    recorded_delivery bigint NOT NULL DEFAULT 0,
    held_until        timestamptz,
    provider          text,
    provider_id       text,
    answer            text,
    not_after         timestamptz NOT NULL,
    trace             text,
    created_at        timestamptz NOT NULL,
    updated_at        timestamptz NOT NULL,
    UNIQUE (job_id, user_id, channel, address)
);
CREATE INDEX deliveries_run ON deliveries (run_id);
