-- A delivery is critical, and a provider took it, or perhaps did, in the person's quiet hours. Stays, whatever becomes of
-- it and of its reason later.
ALTER TABLE deliveries ADD COLUMN overrode_quiet_hours boolean NOT NULL DEFAULT false;
UPDATE deliveries SET overrode_quiet_hours = true WHERE reason = 'quiet_hours_overridden';
