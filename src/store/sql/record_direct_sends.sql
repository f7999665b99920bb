-- Records direct sends with the same outcome, by the worker that claimed them.
UPDATE deliveries SET
    state = {state},
    reason = {reason},
    held_until = NULL,
    provider = COALESCE({provider}, provider),
    answer = COALESCE({answer}, answer),
    sent_at = {now},
    recorded_delivery = {delivered},
    updated_at = {now}
WHERE id = ANY({ids})
  AND state = 'sending'
  AND (claim_seq, claim_delivery, claimed_by) = ({sequence}, {delivered}, {worker})
RETURNING id
