-- Gives back claims that a failover lost. The rows are locked in key order, as for the outcomes that follow.
WITH locked AS (
    SELECT outcomes.*
    FROM {outcomes} JOIN deliveries d USING (id)
    WHERE d.state IN ('pending', 'held', 'sending')
    ORDER BY d.id
    FOR UPDATE OF d
)
UPDATE deliveries d SET
    state = 'sending',
    claims = greatest(d.claims, 1),
    claim_seq = locked.sequence,
    claim_delivery = locked.delivered,
    claimed_by = locked.worker,
    claimed_at = locked.now
FROM locked
WHERE d.id = locked.id
