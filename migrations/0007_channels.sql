-- Where people can be reached, by which channels they want to be, and when they want to be left alone. The application
-- writes both tables; Carebell marks addresses that do not exist any more.

-- Addresses beside users.email and users.phone. Those of the users table are taken where a user has none here.
CREATE TABLE user_addresses (
    id         text PRIMARY KEY DEFAULT gen_random_uuid()::text,
    user_id    text NOT NULL,                -- empty: an address that belongs to no user, kept because it is gone
    channel    text NOT NULL CHECK (channel IN ('email', 'sms', 'whatsapp', 'voice', 'webhook')),
    address    text NOT NULL,                -- an e-mail address, a number (E.164), an https URL
    secrets    text,                         -- of a webhook: whsec_…; several while keys are changed, separated by blanks
    state      text NOT NULL DEFAULT 'active' CHECK (state IN ('active', 'gone')),
    reason     text,                         -- why it is gone, for example bounced
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (user_id, channel, address)
);

-- What a user wants of one type of notification, or of all that have no row of their own (type *). What is null is as
-- in *, and there as shipped: push and e-mail, and no quiet hours. An inbox row is written in any case.
CREATE TABLE preferences (
    user_id    text NOT NULL,
    type       text NOT NULL DEFAULT '*',    -- notifications.type
    channels   text[] CHECK (channels <@ ARRAY['push', 'email', 'sms', 'whatsapp', 'voice', 'webhook']),
    quiet_from time,                         -- of the day, on the clocks of quiet_zone; equal to quiet_to = none
    quiet_to   time,
    quiet_zone text,                         -- IANA name; null = users.timezone
    PRIMARY KEY (user_id, type),
    CHECK ((quiet_from IS NULL) = (quiet_to IS NULL)),
    CHECK (quiet_zone IS NULL OR timestamp '2000-01-01' AT TIME ZONE quiet_zone IS NOT NULL)
);

-- The text of a notification job, once for each language of its recipients.
ALTER TABLE contents ADD COLUMN locale text NOT NULL DEFAULT '';
ALTER TABLE contents DROP CONSTRAINT contents_pkey, ADD PRIMARY KEY (job_id, locale);

ALTER TABLE deliveries
    ADD COLUMN locale       text NOT NULL DEFAULT '',      -- of its text in contents
    ADD COLUMN named        boolean NOT NULL DEFAULT false, -- the job named the channel: the user's choice of it does not count
    ADD COLUMN sent_at      timestamptz,                   -- accepted by the provider
    ADD COLUMN delivered_at timestamptz;                   -- reported by the provider as delivered

-- Recorded failures of a delivery, in the order in which they happened. The last answer is in deliveries.
CREATE TABLE delivery_attempts (
    delivery_id text NOT NULL REFERENCES deliveries ON DELETE CASCADE,
    at          timestamptz NOT NULL,
    answer      text NOT NULL,
    PRIMARY KEY (delivery_id, at)
);

-- They waited for channels that did not exist, and have no message that could wake them.
UPDATE deliveries SET state = 'failed' WHERE state = 'held' AND reason = 'no_channel';
