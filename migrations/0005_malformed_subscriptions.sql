-- Why a subscription cannot be sent to, such as a key that is none; null: it can, as far as is known. Carebell sets it at
-- the first push, and from then on passes over the row. problem_of is the SHA-256 of endpoint and keys that were tried, so that
-- a row which the application corrects is tried anew.
ALTER TABLE push_subscriptions
    ADD COLUMN problem text,
    ADD COLUMN problem_of text;
