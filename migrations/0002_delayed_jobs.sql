-- Delayed jobs: one row for each id, which says what its last message was. The job itself waits in the stream HOLD; when
-- it comes, it runs only if its position is the row's. Messages may be processed in any order: one counts only if it is
-- after the row's barrier, the position of the last message that was taken.
CREATE TABLE delayed_jobs (
    job_id          text PRIMARY KEY,
    application     text NOT NULL,           -- empty in an installation with one application
    kind            text NOT NULL,           -- empty: cancelled before it was known
    lane            text,
    state           text NOT NULL CHECK (state IN ('waiting', 'fired', 'cancelled')),
    due_at          timestamptz,
    size            integer NOT NULL,        -- bytes of its body
    -- The position in the application's stream. A stream made anew counts from 1 again, so its creation comes first.
    stream          text NOT NULL,
    stream_created  timestamptz NOT NULL,
    stream_seq      bigint NOT NULL,
    barrier_created timestamptz NOT NULL,
    barrier_seq     bigint NOT NULL,
    updated_at      timestamptz NOT NULL,
    -- Last change, or last instant of any of its messages if that is later: until then one may come back from HOLD.
    keep_until      timestamptz NOT NULL
) WITH (fillfactor = 70);
CREATE INDEX delayed_jobs_waiting ON delayed_jobs (due_at, application) INCLUDE (size) WHERE state = 'waiting';
CREATE INDEX delayed_jobs_old ON delayed_jobs (keep_until);   -- for pruning
