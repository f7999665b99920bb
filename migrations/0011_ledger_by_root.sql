-- What a run planned is looked for by its root, by which the rows of `deliveries` are unique: an index less to write for
-- each of them.
DROP INDEX deliveries_run;
