-- Tokens of applications that publish jobs over HTTP. Only hashes are kept.
CREATE TABLE gateway_tokens (
    id           text PRIMARY KEY,
    name         text NOT NULL,              -- of a program, and in the audit log
    hash         bytea NOT NULL UNIQUE,      -- SHA-256 of the token
    application  text NOT NULL,              -- empty in an installation with one application
    kinds        text[] NOT NULL,            -- that it may publish; `reminder.*` stands for a family
    rate         integer CHECK (rate > 0),   -- jobs a second in each process; null: no limit of its own
    created_at   timestamptz NOT NULL,
    created_by   text NOT NULL,
    expires_at   timestamptz,                -- null: never
    revoked_at   timestamptz,
    last_used_at timestamptz                 -- to the minute
);
CREATE UNIQUE INDEX gateway_tokens_name ON gateway_tokens (name) WHERE revoked_at IS NULL;

-- Jobs that were given to the gateway: a row is written before its job is published, so that an id is one job's alone.
CREATE TABLE gateway_jobs (
    job_id      text PRIMARY KEY,            -- with its application, as in job_runs
    digest      bytea NOT NULL,              -- SHA-256 of kind, lane and body
    kind        text NOT NULL,
    lane        text,
    due_at      timestamptz,                 -- of a delayed job; until then another may replace it
    accepted_at timestamptz NOT NULL,
    keep_until  timestamptz NOT NULL
);
CREATE INDEX gateway_jobs_old ON gateway_jobs (keep_until);   -- for pruning
