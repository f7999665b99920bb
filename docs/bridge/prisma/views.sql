-- The care tables of Carebell as views of these (docs/MIGRATING.md), with the indexes that they need. Create the views in
-- Carebell's schema, or anywhere in its role's search path:
--   psql -v ON_ERROR_STOP=1 -c 'SET search_path TO carebell, public' -f views.sql

-- Prisma writes instants in UTC, without a zone.
CREATE VIEW users AS
    SELECT "id" AS id, "fullName" AS name, "email" AS email, "phone" AS phone, "locale" AS locale,
           "timezone" AS timezone
    FROM "User";
CREATE VIEW families AS SELECT "id" AS id FROM "Family";
CREATE VIEW family_members AS
    SELECT "familyId" AS family_id, "userId" AS user_id, "role"::text AS role FROM "FamilyMember" WHERE "isActive";
CREATE VIEW care_recipients AS
    SELECT "id" AS id, "familyId" AS family_id, COALESCE("preferredName", "firstName") AS name, "timezone" AS timezone
    FROM "CareRecipient";
CREATE VIEW medications AS
    SELECT "id" AS id, "careRecipientId" AS care_recipient_id, "name" AS name, "dosage" AS dosage,
           "isActive" AS is_active, "currentSupply" AS current_supply, "refillAt" AS refill_at
    FROM "Medication";
-- A time that is none is left out: a cast that fails would fail every look-up.
CREATE VIEW medication_schedules AS
    SELECT "id" AS id, "id" AS medication_id,
           ARRAY(SELECT t::time FROM unnest("scheduledTimes") t WHERE t ~ '^([01]?\d|2[0-3]):[0-5]\d$') AS times,
           '{}'::integer[] AS weekdays, "startDate"::date AS start_date, "endDate"::date AS end_date,
           '{0}'::integer[] AS reminder_minutes, CASE WHEN "isActive" THEN 'ACTIVE' ELSE 'ENDED' END AS status
    FROM "Medication";
CREATE VIEW medication_logs AS
    SELECT "id" AS id, "medicationId" AS medication_id, "scheduledTime" AT TIME ZONE 'UTC' AS scheduled_time,
           "status"::text AS status
    FROM "MedicationLog";
CREATE VIEW appointments AS
    SELECT "id" AS id, "careRecipientId" AS care_recipient_id, "title" AS title,
           "startTime" AT TIME ZONE 'UTC' AS starts_at, "location" AS location, "status"::text AS status,
           COALESCE("reminderMinutes", '{60}') AS reminder_minutes
    FROM "Appointment";
CREATE VIEW caregiver_shifts AS
    SELECT "id" AS id, "careRecipientId" AS care_recipient_id, "caregiverId" AS user_id,
           "startTime" AT TIME ZONE 'UTC' AS starts_at, "endTime" AT TIME ZONE 'UTC' AS ends_at,
           "status"::text AS status, '{60}'::integer[] AS reminder_minutes
    FROM "CaregiverShift";

-- What Carebell looks up beside primary keys. On a large table use CREATE INDEX CONCURRENTLY.
CREATE INDEX "MedicationLog_dose" ON "MedicationLog" ("medicationId", ("scheduledTime" AT TIME ZONE 'UTC'));
CREATE INDEX "Appointment_start" ON "Appointment" (("startTime" AT TIME ZONE 'UTC'));
CREATE INDEX "CaregiverShift_start" ON "CaregiverShift" (("startTime" AT TIME ZONE 'UTC'));
