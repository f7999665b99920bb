-- Gives back claims that a failover lost. The rows are locked in key order, as for the outcomes that follow.
WITH locked AS (
    SELECT outcomes.*
    FROM {outcomes} JOIN deliveries d USING (id)
    WHERE d.state IN ('pending', 'held', 'sending')
      -- No later claim, whose worker may be sending, and no redriven delivery, which was claimed before.
      AND (d.claims = 0 OR (d.claim_seq, d.claim_delivery) <= (outcomes.sequence, outcomes.delivered))
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
