-- Which worker has the claim of a delivery. Sequence and delivery count do not tell two workers apart after a server has
-- forgotten, in a crash, how often it had delivered.
ALTER TABLE deliveries ADD COLUMN claimed_by text;
