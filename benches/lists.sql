-- Made-up rows for lists and pages: of `rows`, half are runs, two fifths deliveries and a tenth inbox rows, of the last
-- thirty days. One run in twenty was skipped, one delivery in two hundred failed. For an empty database that
-- `carebell migrate` has prepared, never for one in use: it drops and builds indexes anew.
--
--   psql "$DATABASE_URL" -v rows=20000000 -f benches/lists.sql

\set ON_ERROR_STOP on
SELECT :rows / 2 AS runs, :rows * 2 / 5 AS deliveries, :rows / 10 AS inbox \gset
-- Rows that nothing updates need no room for new versions.
ALTER TABLE job_runs SET (fillfactor = 100);
ALTER TABLE deliveries SET (fillfactor = 100);
CREATE TEMP TABLE dropped AS
SELECT indexrelid::regclass::text AS name, pg_get_indexdef(indexrelid) AS definition
FROM pg_index WHERE indrelid IN ('job_runs'::regclass, 'deliveries'::regclass, 'notifications'::regclass)
    AND NOT indisunique;
SELECT 'DROP INDEX ' || name FROM dropped \gexec

-- Text in the order of time, as a UUID of version 7 is.
CREATE FUNCTION pg_temp.id_at(at timestamptz, n bigint) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT substr(hex, 1, 8) || '-' || substr(hex, 9) || '-7000-8000-' || lpad(to_hex(n), 12, '0')
    FROM (SELECT lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') AS hex) AS of_at
$$;

INSERT INTO job_runs (job_id, root_id, kind, lane, stream, stream_seq, state, reason, created_at, updated_at)
SELECT CASE WHEN n % 2 = 0 THEN 'dose-' || n ELSE 'dose-' || n - 1 || '~notification' END, 'dose-' || n - n % 2,
       CASE WHEN n % 2 = 0 THEN 'reminder.medication' ELSE 'notification' END,
       CASE WHEN n % 2 = 0 THEN NULL ELSE 'critical' END, 'JOBS', n,
       CASE WHEN n % 20 = 0 THEN 'skipped' WHEN n % 250001 = 1 THEN 'dead' ELSE 'done' END,
       CASE WHEN n % 20 = 0 THEN 'already_given' WHEN n % 250001 = 1 THEN 'exhausted' END, at, at
FROM generate_series(0, :runs - 1) AS n, LATERAL (SELECT now() - interval '30 days' * (1 - n::float8 / :runs) AS at) AS t;

INSERT INTO deliveries (id, job_id, run_id, user_id, channel, address, lane, state, reason, provider, sent_at, not_after,
                        created_at, updated_at)
SELECT pg_temp.id_at(at, n), 'dose-' || n / 2 * 2, 'dose-' || n / 2 * 2 || '~notification', 'user-' || n % 100000,
       'web_push', 's-' || n, 'critical', CASE WHEN n % 200 = 0 THEN 'failed' ELSE 'sent' END,
       CASE WHEN n % 200 = 0 THEN 'subscription_gone' END, 'fcm.googleapis.com',
       CASE WHEN n % 200 = 0 THEN NULL ELSE at END, at, at, at
FROM generate_series(0, :deliveries - 1) AS n,
     LATERAL (SELECT now() - interval '30 days' * (1 - n::float8 / :deliveries) AS at) AS t;

INSERT INTO unsent_deliveries (delivery_id, state, reason, channel, queue, at)
SELECT id, state, reason, channel, 'deliver_web_push_critical', updated_at FROM deliveries WHERE state = 'failed';

INSERT INTO notifications (id, job_id, user_id, type, title, body, created_at, read_at)
SELECT 'inbox-' || n, 'dose-' || n * 2, 'user-' || n % 10000, 'MEDICATION_REMINDER', 'Time for a dose', '', at, at
FROM generate_series(0, :inbox - 1) AS n,
     LATERAL (SELECT now() - interval '30 days' * (1 - n::float8 / :inbox) AS at) AS t;

-- A week of twenty queues.
INSERT INTO outcome_counts (minute, queue, outcome, reason, count)
SELECT minute, queue, outcome, '', 100
FROM generate_series(date_trunc('minute', now()) - interval '7 days', now(), interval '1 minute') AS minute,
     unnest(ARRAY['reminder_medication', 'reminder_appointment', 'reminder_shift', 'alert_refill', 'notification_critical',
                  'notification_normal', 'notification_bulk', 'deliver_web_push_critical', 'deliver_web_push_normal',
                  'deliver_email_critical', 'deliver_email_normal', 'deliver_sms_critical', 'deliver_sms_normal',
                  'deliver_voice_critical', 'deliver_voice_normal', 'deliver_whatsapp_critical',
                  'deliver_whatsapp_normal', 'deliver_webhook_critical', 'deliver_webhook_normal',
                  'maintenance_prune']) AS queue,
     unnest(ARRAY['done', 'failed', 'retry']) AS outcome
ON CONFLICT DO NOTHING;

SELECT definition FROM dropped \gexec
ANALYZE;
