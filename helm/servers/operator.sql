-- Postgres permissions of people on call, for `carebell jobs`, `queues`, `workers`, `explain`, `dead-letters` and
-- `schedules`, and no more: jobs by their ids, counts, schedules, the audit log, and whatever decides who is told. Tests
-- run these commands with exactly these.
--
--   psql "$DATABASE_URL" -v schema=carebell -v role=carebell_operator -f helm/servers/operator.sql

-- The care tables, or views of these names, are in Carebell's schema or in the search path of whoever runs this.
SELECT set_config('search_path', concat_ws(', ', :'schema', nullif(current_setting('search_path'), '')), false);
-- For `explain`. Neither names of people, medications and appointments, nor places, numbers and addresses.
GRANT SELECT (id, timezone) ON users TO :"role";
GRANT SELECT (family_id, user_id) ON family_members TO :"role";
GRANT SELECT (id, family_id, timezone) ON care_recipients TO :"role";
GRANT SELECT (id, care_recipient_id, is_active) ON medications TO :"role";
GRANT SELECT (medication_id, times, weekdays, start_date, end_date, reminder_minutes, status) ON medication_schedules
    TO :"role";
GRANT SELECT (medication_id, scheduled_time, status) ON medication_logs TO :"role";
GRANT SELECT (id, care_recipient_id, starts_at, status, reminder_minutes) ON appointments TO :"role";
GRANT SELECT (id, care_recipient_id, user_id, starts_at, status, reminder_minutes) ON caregiver_shifts TO :"role";
GRANT SELECT (user_id, problem) ON push_subscriptions TO :"role";
GRANT SELECT (user_id, channel, state, reason) ON user_addresses TO :"role";
GRANT SELECT ON care_reminders, preferences, reminder_marks, scheduler_state TO :"role";

GRANT USAGE ON SCHEMA :"schema" TO :"role";
GRANT SELECT ON audit_log, delayed_jobs, deliveries, delivery_attempts, job_children, job_runs, job_tasks,
    operations, outcome_counts, pauses, schedules, unsent_deliveries, workers TO :"role";
-- Not the texts that people read.
GRANT SELECT (id, application, job_id, user_id, created_at, seen_at, read_at, archived_at) ON notifications TO :"role";
GRANT INSERT ON audit_log, job_runs, operations, pauses, schedules, unsent_deliveries TO :"role";
GRANT UPDATE ON delayed_jobs, deliveries, job_runs, operations, pauses, schedules, unsent_deliveries TO :"role";
GRANT DELETE ON pauses, schedules TO :"role";
