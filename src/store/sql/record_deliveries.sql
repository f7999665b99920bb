-- Records outcomes of claimed deliveries, each with its own values.

WITH locked AS (
    -- A locked row is read as it is then: a provider's report may have been written during the wait.
    SELECT outcomes.*, d.claim_seq, d.claim_delivery, d.recorded_delivery, d.claimed_by, d.claims, d.user_id, d.channel, d.address
    FROM {outcomes} JOIN deliveries d USING (id)
    ORDER BY d.id
    FOR UPDATE OF d
),

-- Addresses that are gone: subscriptions are deleted, others marked, and so are subscriptions that are malformed.
ended_subscriptions AS (
    SELECT s.id, locked.tried, CASE WHEN locked.reason = 'invalid_subscription' THEN locked.answer END AS problem
    FROM locked JOIN push_subscriptions s ON locked.channel = 'web_push' AND s.id = locked.address
    WHERE locked.gone
      -- Not one that was corrected meanwhile.
      AND (locked.tried IS NULL OR locked.tried = encode(sha256(convert_to(s.endpoint || ' ' || s.p256dh || ' ' || s.auth, 'UTF8')), 'hex'))
    ORDER BY s.id
    FOR UPDATE OF s
),
deleted_subscriptions AS (
    DELETE FROM push_subscriptions s USING ended_subscriptions ended WHERE s.id = ended.id AND ended.problem IS NULL
),
marked_subscriptions AS (
    UPDATE push_subscriptions s SET problem = ended.problem, problem_of = ended.tried
    FROM ended_subscriptions ended
    WHERE s.id = ended.id AND ended.problem IS NOT NULL
      AND NOT EXISTS (SELECT FROM ended_subscriptions other WHERE other.id = s.id AND other.problem IS NULL)
),
marked_addresses AS (
    INSERT INTO user_addresses (user_id, channel, address, state, reason, created_at, updated_at)
    SELECT DISTINCT ON (user_id, channel, address) user_id, channel, address, 'gone', reason, now, now
    FROM locked
    WHERE gone AND channel NOT IN ('web_push', 'webhook')
    ORDER BY user_id, channel, address
    ON CONFLICT (user_id, channel, address) DO UPDATE
        SET state = 'gone', reason = EXCLUDED.reason, updated_at = EXCLUDED.updated_at
),
marked_webhooks AS (
    UPDATE user_addresses w SET state = 'gone', reason = locked.reason, updated_at = locked.now
    FROM locked
    WHERE locked.gone AND locked.channel = 'webhook' AND w.id = locked.address
),

-- The fence: only the claim's holder writes, except that a successful send is always recorded.
written AS (
    UPDATE deliveries d SET
        state = l.state,
        reason = l.reason,
        attempts = d.attempts + l.burnt,
        held_until = l.held_until,
        provider = COALESCE(l.provider, d.provider),
        provider_id = COALESCE(l.provider_id, d.provider_id),
        answer = COALESCE(l.answer, d.answer),
        sent_at = CASE WHEN l.state = 'sent' THEN l.now ELSE d.sent_at END,
        recorded_delivery = l.delivered,
        updated_at = l.now
    FROM locked l
    WHERE d.id = l.id
      AND (d.state = 'sending'
           OR (d.state IN ('pending', 'held', 'dead', 'unknown', 'expired', 'skipped') AND l.state = 'sent'))
      AND (l.state = 'sent' OR (d.claim_seq, d.claim_delivery, d.claimed_by) = (l.sequence, l.delivered, l.worker))
    RETURNING d.id, d.state, d.reason, d.channel, d.lane, l.burnt, l.now, l.answer, l.claims
),
attempts AS (
    INSERT INTO delivery_attempts (delivery_id, at, answer)
    SELECT id, now, answer FROM written WHERE burnt = 1
    ON CONFLICT DO NOTHING
),

-- For lists of what was not sent. A first claim that is sent has no row there.
unsent AS (
    INSERT INTO unsent_deliveries (delivery_id, state, reason, channel, queue, at)
    SELECT id, state, reason, channel,
           'deliver_' || channel || CASE lane WHEN 'critical' THEN '_critical' ELSE '_normal' END, now
    FROM written
    WHERE state IN ('held', 'failed', 'expired', 'skipped', 'unknown', 'dead')
    ORDER BY id
    ON CONFLICT (delivery_id) DO UPDATE SET state = EXCLUDED.state, reason = EXCLUDED.reason, at = EXCLUDED.at
),
sent_after_all AS (
    DELETE FROM unsent_deliveries WHERE delivery_id = ANY (
        ARRAY(SELECT id FROM written WHERE state = 'sent' AND claims > 1 ORDER BY id))
)

SELECT id FROM written
-- Recorded before: the same record counts once.
UNION ALL
SELECT id FROM locked
WHERE (claim_seq, claim_delivery, recorded_delivery, claimed_by) = (sequence, delivered, delivered, worker)
