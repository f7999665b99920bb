-- Pauses: what is not pulled, planned with its reminder or sent, until it is resumed or the pause ends by itself. A row
-- whose pause has ended says nothing; the next command removes it. Workers hold the rows in memory, and hear of changes on
-- the channel carebell_pauses.
CREATE TABLE pauses (
    scope  text NOT NULL CHECK (scope IN ('queue', 'channel', 'provider')),
    name   text NOT NULL,                    -- of a queue: its durable, its kind for all of its lanes, or * for all queues
    reason text NOT NULL,
    actor  text NOT NULL,                    -- as in audit_log
    since  timestamptz NOT NULL,
    until  timestamptz,                      -- null: until it is resumed
    PRIMARY KEY (scope, name)
);
