-- The version of the IANA time zone database by which next_at was reckoned. Null: unknown.
ALTER TABLE schedules ADD COLUMN zone_data text;
