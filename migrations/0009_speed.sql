-- Rows that are written some times in a row: room for their new versions on their own pages, where these need no new
-- entries in the indexes.
ALTER TABLE deliveries SET (fillfactor = 40);
ALTER TABLE job_runs SET (fillfactor = 50);
