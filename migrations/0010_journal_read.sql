-- Of a timeline: the last message of the journal that was read for it.
ALTER TABLE scheduler_state ADD COLUMN journal_seq bigint;
