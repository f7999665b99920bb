-- Operations: acts on all that a filter finds. Whoever holds the lease, a console or a command, carries one out in small
-- batches; the next holder goes on where the last one stopped. Rows stay, as those of audit_log do.
CREATE TABLE operations (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    act          text NOT NULL CHECK (act IN ('retry', 'cancel', 'discard', 'empty')),
    filter       jsonb NOT NULL,             -- what it acts on; ids and instants
    counted      bigint NOT NULL,            -- what the filter found when it began, at most what was confirmed
    reason       text NOT NULL,              -- for the colleagues
    actor        text NOT NULL,              -- as in audit_log
    state        text NOT NULL CHECK (state IN ('running', 'done', 'cancelled', 'failed')),
    done         bigint NOT NULL DEFAULT 0,
    skipped      jsonb NOT NULL DEFAULT '{}', -- numbers by reason: in no state for it any more
    failed       jsonb NOT NULL DEFAULT '{}', -- numbers by error
    note         text,                       -- why it waits or failed
    cursor       jsonb NOT NULL DEFAULT '{}', -- where it goes on, and what was begun
    fence        bigint NOT NULL DEFAULT 0,  -- number of leases so far: only the last holder writes
    holder       text,
    leased_until timestamptz,                -- by this server's clock
    started_at   timestamptz NOT NULL,
    updated_at   timestamptz NOT NULL,
    ended_at     timestamptz
) WITH (fillfactor = 70);                    -- room for new row versions on the same page
CREATE INDEX operations_running ON operations (id) WHERE state = 'running';

-- Those acts that a holder has done of a batch of which it did not note the end.
CREATE INDEX audit_log_operation ON audit_log ((detail ->> 'operation'), job_id) WHERE detail ? 'operation';
