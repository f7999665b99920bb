-- The care tables as Carebell reads them, for an application that has none of its own (`carebell migrate
-- --care-tables`), for `carebell dev` and for tests. An application with other tables puts views of these names over
-- them instead. Carebell never writes to them. Views may leave out columns marked `-- not read yet`.

CREATE TABLE IF NOT EXISTS users (
    id       text PRIMARY KEY,
    name     text NOT NULL, -- not read yet
    email    text,          -- where e-mail goes, unless user_addresses has another
    phone    text,          -- E.164: where text messages, WhatsApp messages and calls go, likewise
    locale   text,          -- the language of texts, for example de or en-GB
    timezone text           -- IANA name: on whose clocks quiet hours are
);
-- not read yet
CREATE TABLE IF NOT EXISTS families (id text PRIMARY KEY);
CREATE TABLE IF NOT EXISTS family_members (
    family_id text NOT NULL REFERENCES families,
    user_id   text NOT NULL REFERENCES users,
    role      text NOT NULL DEFAULT 'member', -- not read yet
    PRIMARY KEY (family_id, user_id)
);
CREATE TABLE IF NOT EXISTS care_recipients (
    id        text PRIMARY KEY,
    family_id text NOT NULL REFERENCES families,
    name      text NOT NULL,
    timezone  text NOT NULL DEFAULT 'UTC'
);
CREATE TABLE IF NOT EXISTS medications (
    id                text PRIMARY KEY,
    care_recipient_id text NOT NULL REFERENCES care_recipients,
    name              text NOT NULL,
    dosage            text NOT NULL,
    is_active         boolean NOT NULL DEFAULT true,
    current_supply    integer,
    refill_at         integer
);
-- When doses are due: times of day on these days, in the care recipient's time zone. status: ACTIVE; anything else rests.
-- reminder_minutes, here and below: how long before a dose or a start its reminders are sent, one for each number.
CREATE TABLE IF NOT EXISTS medication_schedules (
    id               text PRIMARY KEY, -- not read yet
    medication_id    text NOT NULL REFERENCES medications,
    times            time[] NOT NULL,
    weekdays         integer[] NOT NULL DEFAULT '{}', -- ISO: 1 is Monday, 7 is Sunday; empty is each day
    start_date       date NOT NULL,    -- the first day
    end_date         date,             -- the last day, this included
    reminder_minutes integer[] NOT NULL DEFAULT '{0}',
    status           text NOT NULL DEFAULT 'ACTIVE'
);
CREATE INDEX IF NOT EXISTS medication_schedules_medication ON medication_schedules (medication_id);
-- medication_logs.status: GIVEN or SKIPPED settles a dose; anything else leaves it open. scheduled_time must equal the
-- job's scheduledTime exactly, to the microsecond.
CREATE TABLE IF NOT EXISTS medication_logs (
    id             text PRIMARY KEY DEFAULT gen_random_uuid()::text, -- not read yet
    medication_id  text NOT NULL REFERENCES medications,
    scheduled_time timestamptz NOT NULL,
    status         text NOT NULL
);
CREATE INDEX IF NOT EXISTS medication_logs_dose ON medication_logs (medication_id, scheduled_time);
-- appointments.status, caregiver_shifts.status: CANCELLED or COMPLETED; anything else is to take place.
CREATE TABLE IF NOT EXISTS appointments (
    id                text PRIMARY KEY,
    care_recipient_id text NOT NULL REFERENCES care_recipients,
    title             text NOT NULL,
    starts_at         timestamptz NOT NULL,
    location          text,
    status            text NOT NULL DEFAULT 'SCHEDULED',
    reminder_minutes  integer[] NOT NULL DEFAULT '{60}'
);
CREATE INDEX IF NOT EXISTS appointments_start ON appointments (starts_at);
CREATE TABLE IF NOT EXISTS caregiver_shifts (
    id                text PRIMARY KEY,
    care_recipient_id text NOT NULL REFERENCES care_recipients,
    user_id           text NOT NULL REFERENCES users,
    starts_at         timestamptz NOT NULL,
    ends_at           timestamptz NOT NULL,
    status            text NOT NULL DEFAULT 'SCHEDULED',
    reminder_minutes  integer[] NOT NULL DEFAULT '{60}'
);
CREATE INDEX IF NOT EXISTS caregiver_shifts_start ON caregiver_shifts (starts_at);
