-- Records a provider's report, also for a worker that still holds the claim.
WITH written AS (
    UPDATE deliveries SET
        state = {state},
        held_until = NULL,
        reason = CASE WHEN {reason} IS NULL AND overrode_quiet_hours THEN 'quiet_hours_overridden' ELSE {reason} END,
        provider = COALESCE(provider, {provider}),
        provider_id = COALESCE(provider_id, {provider_id}),
        answer = CASE WHEN {state} = 'failed' OR state <> 'sent' THEN {words} ELSE COALESCE(answer, {words}) END,
        sent_at = CASE WHEN {state} = 'failed' THEN sent_at ELSE COALESCE(sent_at, {now}) END,
        delivered_at = CASE WHEN {state} = 'delivered' THEN {now} ELSE delivered_at END,
        recorded_delivery = GREATEST(recorded_delivery, COALESCE(claim_delivery, 0)),
        updated_at = {now}
    WHERE id = {id}
    RETURNING id, state, reason, channel, lane
)
INSERT INTO unsent_deliveries (delivery_id, state, reason, channel, queue, at)
SELECT id, state, reason, channel,
       'deliver_' || channel || CASE lane WHEN 'critical' THEN '_critical' ELSE '_normal' END, {now}
FROM written WHERE state = 'failed'
ON CONFLICT (delivery_id) DO UPDATE SET state = EXCLUDED.state, reason = EXCLUDED.reason, at = EXCLUDED.at
