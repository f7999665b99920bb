-- What lists and counts for people are read from, so that none of them counts or scans a large table.

-- How runs ended. Workers add to it in groups, every few seconds; maintenance.prune removes rows after eight days.
CREATE TABLE outcome_counts (
    minute  timestamptz NOT NULL,            -- its begin
    queue   text NOT NULL,                   -- durable name
    outcome text NOT NULL,                   -- as in the log line of a run
    reason  text NOT NULL DEFAULT '',        -- why it was skipped, expired, waits or failed; empty: none
    count   bigint NOT NULL,
    PRIMARY KEY (minute, queue, outcome, reason)
) WITH (fillfactor = 50);                    -- room for new row versions on the same page

-- Living processes of `carebell run`, one row each. One that stops removes its row; that of a lost one is removed after
-- a day.
CREATE TABLE workers (
    id         text PRIMARY KEY,             -- as in deliveries.claimed_by
    host       text NOT NULL,
    version    text NOT NULL,
    duties     text[] NOT NULL,              -- as in `carebell run --only`
    started_at timestamptz NOT NULL,
    seen_at    timestamptz NOT NULL,
    busy       integer NOT NULL,             -- runs in progress
    processed  bigint NOT NULL,              -- runs that ended
    failed     bigint NOT NULL,              -- of these, as failed, unknown, expired or dead
    running    jsonb NOT NULL DEFAULT '[]',  -- the runs that take longest: job_id, queue, since
    batch      bigint NOT NULL               -- last write to outcome_counts: repeated, it counts once
) WITH (fillfactor = 50);

-- Deliveries that did not go out at once: they wait, or ended without being sent. deliveries says how they are now, and
-- has no index of its states: each would cost every send an index entry for each of its updates.
CREATE TABLE unsent_deliveries (
    delivery_id text PRIMARY KEY REFERENCES deliveries ON DELETE CASCADE,
    state       text NOT NULL,               -- held, failed, expired, skipped, unknown or dead
    reason      text,
    channel     text NOT NULL,
    queue       text NOT NULL,               -- durable name
    at          timestamptz NOT NULL         -- when this was recorded
);
CREATE INDEX unsent_deliveries_state ON unsent_deliveries (state, delivery_id);

INSERT INTO unsent_deliveries (delivery_id, state, reason, channel, queue, at)
SELECT id, state, reason, channel,
       'deliver_' || channel || CASE lane WHEN 'critical' THEN '_critical' ELSE '_normal' END, updated_at
FROM deliveries
WHERE state IN ('held', 'failed', 'expired', 'skipped', 'unknown', 'dead') AND reason IS DISTINCT FROM 'inbox_only';

-- The few that a provider reported as delivered. No other write touches it.
CREATE INDEX deliveries_delivered ON deliveries (id) WHERE delivered_at IS NOT NULL;

-- Null: the kind has no lanes, or the run is older than this column.
ALTER TABLE job_runs ADD COLUMN lane text;

-- Runs by what they came to, by rarer kinds, and by application. The usual run, of a medication reminder or notification
-- that is done at once, has an entry in none of them.
CREATE INDEX job_runs_not_done ON job_runs (state, created_at, job_id COLLATE "C") WHERE state <> 'done';
CREATE INDEX job_runs_rare_kind ON job_runs (kind, created_at, job_id COLLATE "C")
    WHERE kind NOT IN ('reminder.medication', 'notification');
CREATE INDEX job_runs_application ON job_runs (split_part(job_id, '~', 2), created_at, job_id COLLATE "C")
    WHERE job_id LIKE '~%';

-- Delayed jobs that wait, newest first.
CREATE INDEX delayed_jobs_newest ON delayed_jobs (updated_at, job_id COLLATE "C") WHERE state = 'waiting';
