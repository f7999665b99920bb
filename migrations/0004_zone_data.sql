-- The version of the IANA time zone database by which next_at was reckoned, and that instant: a worker of an older version
-- moves next_at alone. Null: unknown.
ALTER TABLE schedules
    ADD COLUMN zone_data text,
    ADD COLUMN zone_next_at timestamptz;
