-- Postgres permissions of a worker, and no more. `carebell doctor` names missing ones; a test runs a worker with exactly
-- these. The owner of the tables runs this after each migration; repeating it is safe.
--
--   psql "$DATABASE_URL" -v schema=carebell -v role=carebell_worker -f helm/servers/worker.sql

-- The care tables, or views of these names, are in Carebell's schema or in the search path of whoever runs this.
SELECT set_config('search_path', concat_ws(', ', :'schema', nullif(current_setting('search_path'), '')), false);
GRANT SELECT ON users, family_members, care_recipients, medications, medication_schedules, medication_logs, appointments,
    caregiver_shifts TO :"role";

GRANT USAGE ON SCHEMA :"schema" TO :"role";
GRANT SELECT ON _sqlx_migrations, care_reminders, contents, delayed_jobs, deliveries, delivery_attempts, job_children,
    job_runs, job_tasks, notifications, outcome_counts, pauses, preferences, push_subscriptions, rate_limits,
    refill_shortages, reminder_marks, scheduler_state, schedules, unsent_deliveries, user_addresses, workers TO :"role";
GRANT INSERT ON care_reminders, contents, delayed_jobs, deliveries, delivery_attempts, job_children, job_runs, job_tasks,
    notifications, outcome_counts, rate_limits, refill_shortages, reminder_marks, scheduler_state, unsent_deliveries,
    user_addresses, workers TO :"role";
GRANT UPDATE ON care_reminders, delayed_jobs, deliveries, job_runs, job_tasks, outcome_counts, push_subscriptions,
    rate_limits, refill_shortages, scheduler_state, schedules, unsent_deliveries, user_addresses, workers TO :"role";
GRANT DELETE ON care_reminders, contents, delayed_jobs, deliveries, job_children, job_runs, job_tasks, outcome_counts,
    push_subscriptions, refill_shortages, reminder_marks, unsent_deliveries, user_addresses, workers TO :"role";
