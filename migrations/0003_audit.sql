-- Who did what by hand. Holds ids, instants and reasons; nothing that a person wrote to another.
CREATE TABLE audit_log (
    id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at      timestamptz NOT NULL,
    actor   text NOT NULL,                   -- who, as the command was told or the system knows
    action  text NOT NULL,                   -- for example dead_letter.redriven
    job_id  text,
    root_id text,                            -- the job that an application published
    detail  jsonb NOT NULL DEFAULT '{}'
);
CREATE INDEX audit_log_root ON audit_log (root_id);
CREATE INDEX audit_log_job ON audit_log (job_id);
CREATE INDEX audit_log_letter ON audit_log ((detail ->> 'letter')) WHERE action LIKE 'dead_letter.%';
