-- The queues that have a rate limit, one row each, shared by all processes. A row is made by the first who asks, and
-- holds the instant from which the next job may start: whoever books a slot moves it on.
--
-- Written some ten times a second and worth nothing after a crash, so it is not in the WAL: no booking waits for a disk,
-- and a server that crashed, or a standby that takes over, begins with an empty table, that is with no slot booked.
CREATE UNLOGGED TABLE rate_limits (
    queue    text PRIMARY KEY,        -- its durable
    free_at  timestamptz NOT NULL,    -- all before this is booked
    asked_at timestamptz NOT NULL,    -- when somebody last asked, by this server's clock
    granted  boolean NOT NULL         -- whether they got what they asked for
) WITH (fillfactor = 50);             -- room for new versions of a row on its own page
