-- Tokens for the console and its API. Only hashes are kept.
CREATE TABLE admin_tokens (
    id           text PRIMARY KEY,
    name         text NOT NULL,              -- of a person or a program, and in the audit log
    hash         bytea NOT NULL UNIQUE,      -- SHA-256 of the token
    role         text NOT NULL CHECK (role IN ('viewer', 'coordinator', 'operator', 'admin')),
    created_at   timestamptz NOT NULL,
    created_by   text NOT NULL,
    expires_at   timestamptz,                -- null: never
    revoked_at   timestamptz,
    last_used_at timestamptz                 -- to the minute
);
CREATE UNIQUE INDEX admin_tokens_name ON admin_tokens (name) WHERE revoked_at IS NULL;

-- Sessions of the console: whoever signed in by a browser.
CREATE TABLE admin_sessions (
    hash       bytea PRIMARY KEY,            -- SHA-256 of the cookie
    token_id   text REFERENCES admin_tokens ON DELETE CASCADE,   -- null: not by a token of the table
    name       text NOT NULL,
    role       text NOT NULL CHECK (role IN ('viewer', 'coordinator', 'operator', 'admin')),
    created_at timestamptz NOT NULL,
    seen_at    timestamptz NOT NULL,         -- to the minute; ends an idle session
    ends_at    timestamptz NOT NULL
);
CREATE INDEX admin_sessions_end ON admin_sessions (ends_at);
