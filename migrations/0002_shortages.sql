-- Medications that run out and of which the family was told. A row is there from the alert until the supply is seen
-- above the threshold again; while it is there, no other job alerts.
CREATE TABLE refill_shortages (
    medication_id text PRIMARY KEY,
    refill_at     integer NOT NULL,          -- the threshold of the last alert, for a medication that names none
    job_id        text NOT NULL,             -- the job that told of it
    opened_at     timestamptz NOT NULL
);
