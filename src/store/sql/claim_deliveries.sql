-- Claims deliveries, and reads all that is needed to send them.

WITH locked AS (
    SELECT asks.*, d.state, d.claim_seq, d.claim_delivery, d.claimed_by
    FROM {asks} JOIN deliveries d USING (id)
    ORDER BY d.id
    FOR UPDATE OF d
),

-- `recorded_delivery` counts within one sequence. A server that lost delivery counts in a crash starts again, so an
-- outcome on record under the same count belongs to an earlier delivery.
claimed AS (
    UPDATE deliveries d SET
        state = 'sending',
        reason = NULL,
        held_until = NULL,
        claims = d.claims + 1,
        claim_seq = l.sequence,
        claim_delivery = l.delivered,
        claimed_by = l.worker,
        claimed_at = l.now,
        updated_at = l.now,
        recorded_delivery = CASE WHEN d.claim_seq = l.sequence THEN least(d.recorded_delivery, l.delivered - 1) ELSE 0 END
    FROM locked l
    WHERE d.id = l.id
      AND (
        d.state = 'pending'
        OR (d.state = 'held' AND (COALESCE(d.held_until <= l.now, true) OR d.not_after <= l.now))
        OR (d.state = 'sending' AND CASE
            -- The same message again: its claim is over, or its worker seems dead.
            WHEN d.claim_seq = l.sequence THEN
                d.claim_delivery <= l.delivered
                AND ((d.claim_delivery, d.claimed_by) = (l.delivered, l.worker)
                     OR d.recorded_delivery >= d.claim_delivery
                     OR d.claimed_at < l.now - l.patience)
            -- Another message, or a direct send: the lease has run out, or the direct send was released.
            ELSE d.claimed_at < l.now - l.lease
                 OR (d.claim_seq = 0 AND d.recorded_delivery >= d.claim_delivery)
            END))
      -- A message delivered repeatedly with nothing recorded kills its workers.
      AND l.delivered - CASE WHEN d.claim_seq = l.sequence THEN d.recorded_delivery ELSE 0 END <= {crashes}
    RETURNING d.id, d.job_id, d.user_id, d.channel, d.address, d.lane, d.attempts, d.claims, d.created_at, d.locale,
              d.named,
              l.state = 'sending'
                  AND (l.claim_seq, l.claim_delivery, l.claimed_by) IS DISTINCT FROM (l.sequence, l.delivered, l.worker)
                  AS unsettled
)

SELECT c.id, c.job_id, c.user_id, c.address, c.lane, c.attempts, c.claims, c.created_at, c.named, c.unsettled,
       t.locale, t.type, t.title, t.body, t.url, t.data, t.tag,
       s.endpoint, s.p256dh, s.auth,
       CASE WHEN c.channel = 'webhook' THEN a.address END AS webhook_url, a.secrets,
       COALESCE(CASE
           WHEN c.channel = 'web_push' THEN s.id IS NOT NULL
           WHEN a.id IS NOT NULL THEN a.state = 'active'
           WHEN c.user_id = '' THEN true
           WHEN c.channel = 'email' THEN btrim(u.email, E' \t\r\n') = c.address
           WHEN c.channel <> 'webhook' THEN btrim(u.phone, E' \t\r\n') = c.address
           END, false) AS is_theirs,
       u.locale AS users_locale, u.timezone,
       COALESCE(p.channels, q.channels) AS channels,
       COALESCE(p.quiet_from, q.quiet_from) AS quiet_from,
       COALESCE(p.quiet_to, q.quiet_to) AS quiet_to,
       COALESCE(p.quiet_zone, q.quiet_zone) AS quiet_zone
FROM claimed c
JOIN contents t ON t.job_id = c.job_id AND t.locale = c.locale
LEFT JOIN push_subscriptions s ON c.channel = 'web_push' AND s.id = c.address
LEFT JOIN user_addresses a
    ON c.channel <> 'web_push' AND a.user_id = c.user_id AND a.channel = c.channel
    AND CASE WHEN c.channel = 'webhook' THEN a.id ELSE a.address END = c.address
LEFT JOIN users u ON u.id = c.user_id
LEFT JOIN preferences p ON p.user_id = c.user_id AND p.type = t.type
LEFT JOIN preferences q ON q.user_id = c.user_id AND q.type = '*'
