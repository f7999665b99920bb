-- Counts the published jobs of one page, and their deliveries. Each job's rows are found by its key: a join of whole tables
-- would read the ledger. The last row has the page's end and size.

WITH page AS MATERIALIZED (
    SELECT created_at, job_id, kind, COALESCE(lane, '') AS lane, state
    FROM job_runs
    WHERE created_at >= $1 AND created_at < $2 AND (created_at, job_id) > ($1, $3) AND job_id = root_id
    ORDER BY created_at, job_id
    LIMIT 2000
),
sends AS MATERIALIZED (
    SELECT page.job_id, page.kind, d.channel, d.lane, d.state, d.sent_at - page.created_at > $4 AS late
    FROM page CROSS JOIN LATERAL (
        SELECT channel, lane, state, sent_at FROM deliveries WHERE deliveries.job_id = page.job_id OFFSET 0
    ) AS d
),
ways AS (
    SELECT job_id,
           bool_or(state IN ('sent', 'delivered') AND late IS NOT TRUE) AS in_time,
           bool_or(state IN ('sent', 'delivered')) AS told,
           bool_or(state IN ('pending', 'held', 'sending')) AS open,
           bool_or(state IN ('failed', 'expired', 'dead', 'unknown')) AS failed
    FROM sends GROUP BY job_id
),
jobs AS (
    SELECT kind, lane,
           CASE WHEN state <> 'done' THEN state
                WHEN in_time THEN 'told'
                WHEN told THEN 'late'
                WHEN open THEN 'open'
                WHEN failed THEN 'missed'
                ELSE 'quiet' END AS outcome
    FROM page LEFT JOIN ways USING (job_id)
)
SELECT 'job' AS what, kind, '' AS channel, lane, outcome, count(*) AS number, NULL::timestamptz AS created_at
FROM jobs GROUP BY kind, lane, outcome
UNION ALL
SELECT 'delivery', kind, channel, lane,
       CASE WHEN state IN ('pending', 'held', 'sending') THEN 'open'
            WHEN state NOT IN ('sent', 'delivered') THEN state
            WHEN late THEN 'late'
            ELSE 'sent' END AS outcome,
       count(*), NULL
FROM sends GROUP BY kind, channel, lane, outcome
UNION ALL
SELECT 'end', '', '', '', job_id, (SELECT count(*) FROM page), created_at
FROM (SELECT job_id, created_at FROM page ORDER BY created_at DESC, job_id DESC LIMIT 1) AS last
