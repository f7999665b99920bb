-- Progress of tasks that are under way. Percents never go back, and words stay until there are others.
UPDATE job_tasks t SET
    percent = GREATEST(t.percent, progress.percent),
    note = COALESCE(progress.note, t.note),
    heartbeat_at = LEAST(GREATEST(t.heartbeat_at, progress.heartbeat_at), t.deadline)
FROM (SELECT * FROM {progress} ORDER BY job_id) AS progress
WHERE t.job_id = progress.job_id AND t.open AND t.state IN ('sending', 'accepted')
