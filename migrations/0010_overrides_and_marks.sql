-- A delivery is critical, and a provider took it, or perhaps did, in the person's quiet hours. Stays, whatever becomes of
-- it and of its reason later.
ALTER TABLE deliveries ADD COLUMN overrode_quiet_hours boolean NOT NULL DEFAULT false;
UPDATE deliveries SET overrode_quiet_hours = true WHERE reason = 'quiet_hours_overridden';

-- By an expression: a mark is looked up by its key, and must not be by an index of all marks of that instant, which looks
-- as good to a planner that takes the table for an empty one.
DROP INDEX reminder_marks_instant;
CREATE INDEX reminder_marks_past ON reminder_marks ((instant AT TIME ZONE 'UTC'));
