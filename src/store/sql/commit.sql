-- Writes runs with their effects: marks, children, runs planned with them, texts, inbox rows and ledger rows.
--
-- A row is written only if its run is. `(… IN (SELECT …)) IS TRUE` uses a hash table; a join would compare each row
-- with each.

-- A mark owned by another job turns the run into a skipped one. `LIMIT 1` looks up each mark by its key, whatever the
-- planner's statistics say.
WITH asked AS (
    SELECT runs.*, mark.job_id AS owner, mark.job_id <> runs.job_id AS taken
    FROM {runs}
    LEFT JOIN LATERAL (
        SELECT m.job_id FROM reminder_marks m
        WHERE (m.kind, m.record_id, m.instant, m.lead_minutes)
            = (runs.kind, runs.record_id, runs.instant, runs.lead_minutes)
        LIMIT 1
    ) mark ON true
),
written AS (
    INSERT INTO job_runs AS r (
        job_id, root_id, kind, lane, stream, stream_seq, state, reason, children_pending, result, created_at, updated_at)
    SELECT job_id, root_id, kind, lane, stream, sequence,
           CASE WHEN taken THEN 'skipped' ELSE state END,
           CASE WHEN taken THEN 'already_sent' ELSE reason END,
           publishes AND taken IS NOT TRUE,
           result, now, now
    FROM asked
    {replace_unfinished}
    RETURNING job_id
),
effective AS (
    SELECT asked.* FROM asked
    WHERE asked.taken IS NOT TRUE AND (asked.job_id IN (SELECT job_id FROM written)) IS TRUE
),
-- If two groups write the same mark, one is refused, tries again and finds it (`StoreError::Busy`).
marked AS (
    INSERT INTO reminder_marks (kind, record_id, instant, lead_minutes, job_id, created_at)
    SELECT kind, record_id, instant, lead_minutes, job_id, now FROM effective
    WHERE record_id IS NOT NULL AND owner IS NULL
    ORDER BY kind, record_id, instant, lead_minutes
),
planned_children AS (
    INSERT INTO job_children (job_id, child_id, root_id, subject, body, not_after, trace, at, is_json)
    SELECT run_id, job_id, root_id, subject, body, not_after, trace, at, is_json
    FROM {children}
    WHERE (children.run_id IN (SELECT job_id FROM effective)) IS TRUE
    ON CONFLICT DO NOTHING
),

-- Notifications planned with their reminder.
followed AS (
    INSERT INTO job_runs AS r (
        job_id, root_id, kind, lane, stream, stream_seq, state, reason, children_pending, result, created_at, updated_at)
    SELECT job_id, root_id, kind, lane, stream, sequence, 'done', NULL, publishes, NULL, now, now
    FROM {next_runs}
    WHERE (next_runs.reminder_id IN (SELECT job_id FROM effective)) IS TRUE
    {replace_unfinished}
    RETURNING job_id
),

-- Runs with texts, inbox rows and ledger rows.
plans AS (
    SELECT job_id FROM effective UNION ALL SELECT job_id FROM followed
),
texts AS (
    INSERT INTO contents (job_id, locale, type, title, body, url, data, tag, created_at)
    SELECT root_id, locale, kind, title, body, url, data, tag, now
    FROM {contents}
    WHERE (contents.run_id IN (SELECT job_id FROM plans)) IS TRUE
    {if_there_already}
),
-- Inbox rows copy their text. It is sent once; `content` is its position, counted from 1.
inboxed AS (
    INSERT INTO notifications (id, application, job_id, user_id, type, title, body, url, data, created_at)
    SELECT inbox.id, ({contents.application})[content], ({contents.id})[content], inbox.user_id,
           ({contents.kind})[content], ({contents.title})[content], ({contents.body})[content], ({contents.url})[content],
           ({contents.data})[content], ({contents.now})[content]
    FROM {inbox}
    WHERE (inbox.run_id IN (SELECT job_id FROM plans)) IS TRUE
    {if_there_already}
),
-- A direct send is claimed as it is planned: by a worker, under sequence 0 and delivery 1.
planned_deliveries AS (
    INSERT INTO deliveries (
        id, job_id, run_id, user_id, channel, address, locale, lane, named, subject, state, reason, not_after, trace,
        created_at, updated_at, claims, claim_seq, claim_delivery, claimed_by, claimed_at)
    SELECT id, root_id, run_id, user_id, channel, address, locale, lane, named, subject, state, reason, not_after, trace,
           now, now,
           (worker IS NOT NULL)::int,
           CASE WHEN worker IS NOT NULL THEN 0 END,
           CASE WHEN worker IS NOT NULL THEN 1 END,
           worker,
           CASE WHEN worker IS NOT NULL THEN now END
    FROM {ledger}
    WHERE (ledger.run_id IN (SELECT job_id FROM plans)) IS TRUE
    {if_there_already}
    RETURNING id, state, reason, channel, lane, created_at, claimed_by
),
-- Those that are never sent are listed too, unless the inbox is all that was asked for.
unsent AS (
    INSERT INTO unsent_deliveries (delivery_id, state, reason, channel, queue, at)
    SELECT id, state, reason, channel,
           'deliver_' || channel || CASE lane WHEN 'critical' THEN '_critical' ELSE '_normal' END, created_at
    FROM planned_deliveries WHERE state NOT IN ('pending', 'sending') AND reason IS DISTINCT FROM 'inbox_only'
)

SELECT (SELECT array_agg(job_id) FROM written) AS written,
       (SELECT array_agg(job_id) FROM effective) AS effective,
       (SELECT array_agg(job_id) FROM followed) AS followed,
       (SELECT array_agg(id) FROM planned_deliveries WHERE claimed_by IS NOT NULL) AS claimed
