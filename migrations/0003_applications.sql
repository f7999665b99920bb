-- Jobs of applications that are kept apart have ids `~<application>~<id>` in Carebell's own columns. The inbox, which the
-- application reads, keeps the id as its application gave it.
ALTER TABLE notifications
    ADD COLUMN application text NOT NULL DEFAULT '',   -- empty in an installation with one application
    DROP CONSTRAINT notifications_job_id_user_id_key,
    ADD CONSTRAINT notifications_of_a_job UNIQUE (job_id, user_id, application);

-- Reminders that applications published before they are due: they wait in HOLD, and are bounded with the delayed jobs.
CREATE INDEX job_runs_not_due ON job_runs (job_id) WHERE state = 'open' AND reason = 'not_due';
