-- How far jobs of producers have come. Each is found by its keys.
SELECT
    asked.job_id,
    coalesce(nullif(r.kind, ''), nullif(d.kind, ''), g.kind) AS kind,
    coalesce(d.lane, g.lane) AS lane,
    g.accepted_at,
    coalesce(d.due_at, g.due_at) AS due_at,
    d.state AS delay,
    r.state AS run,
    r.reason,
    r.attempts,
    r.last_error,
    r.updated_at AS run_at,
    r.result,
    t.percent,
    t.note,
    n.state AS notification,
    n.reason AS notification_reason,
    n.updated_at AS notification_at,
    x.open AS deliveries_open,
    x.sent AS deliveries_sent,
    x.unsent AS deliveries_unsent,
    x.last_at AS deliveries_at
FROM unnest($1::text[]) AS asked (job_id)
LEFT JOIN LATERAL (
    SELECT kind, lane, accepted_at, due_at FROM gateway_jobs WHERE job_id = asked.job_id
) AS g ON true
LEFT JOIN LATERAL (
    SELECT kind, lane, state, due_at FROM delayed_jobs WHERE job_id = asked.job_id
) AS d ON true
LEFT JOIN LATERAL (
    SELECT kind, state, reason, attempts, last_error, updated_at, result FROM job_runs WHERE job_id = asked.job_id
) AS r ON true
LEFT JOIN LATERAL (
    SELECT percent, note FROM job_tasks WHERE job_id = asked.job_id
) AS t ON true
LEFT JOIN LATERAL (
    SELECT state, reason, updated_at FROM job_runs WHERE job_id = asked.job_id || '~notification'
) AS n ON true
LEFT JOIN LATERAL (
    SELECT
        count(*) FILTER (WHERE state IN ('pending', 'held', 'sending')) AS open,
        count(*) FILTER (WHERE state IN ('sent', 'delivered')) AS sent,
        count(*) FILTER (WHERE state NOT IN ('pending', 'held', 'sending', 'sent', 'delivered')) AS unsent,
        max(updated_at) AS last_at
    FROM deliveries
    WHERE job_id = asked.job_id
) AS x ON true
