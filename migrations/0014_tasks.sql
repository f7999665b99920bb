-- Jobs of declared kinds, which an endpoint carries out.

-- What follows from such a job is JSON, and may be delayed.
ALTER TABLE job_children ADD COLUMN at timestamptz;
ALTER TABLE job_children ADD COLUMN is_json boolean NOT NULL DEFAULT false;

-- When people asked to cancel a task that may be under way: its next attempt does not begin.
ALTER TABLE job_runs ADD COLUMN cancel_at timestamptz;

-- Tasks that an endpoint may be working at: a row is written before the request, unless its kind only answers at once.
-- The job's run decides how it ends; a row is open until then, or until the attempt has failed.
CREATE TABLE job_tasks (
    job_id         text PRIMARY KEY,
    kind           text NOT NULL,
    attempt        integer NOT NULL,
    stream         text NOT NULL,            -- of the message that began the attempt
    stream_seq     bigint NOT NULL,
    state          text NOT NULL CHECK (state IN ('sending', 'accepted', 'completed', 'failed')),
    open           boolean NOT NULL,
    tokens         bytea[] NOT NULL,         -- SHA-256 of this attempt's tokens; one for each time that it was sent
    old_tokens     bytea[] NOT NULL,         -- of attempts before
    deadline       timestamptz NOT NULL,
    heartbeat_at   timestamptz NOT NULL,     -- until when the endpoint may be silent
    percent        smallint CHECK (percent BETWEEN 0 AND 100),
    note           text,
    answer         jsonb,                    -- of a completed or failed one: what is to follow
    cancel_told_at timestamptz,              -- when the endpoint was told that it is cancelled
    created_at     timestamptz NOT NULL,
    changed_at     timestamptz NOT NULL
) WITH (fillfactor = 70);                    -- progress is written in place
CREATE INDEX job_tasks_open ON job_tasks (kind) WHERE open;
