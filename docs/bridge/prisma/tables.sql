-- Tables of a care application as Prisma makes them: quoted names, enums, cuid keys, timestamp(3) in UTC. An example.

CREATE TYPE "FamilyRole" AS ENUM ('ADMIN', 'CAREGIVER', 'VIEWER');
CREATE TYPE "MedicationLogStatus" AS ENUM ('PENDING', 'GIVEN', 'SKIPPED', 'MISSED');
CREATE TYPE "AppointmentStatus" AS ENUM ('SCHEDULED', 'CONFIRMED', 'COMPLETED', 'CANCELLED', 'NO_SHOW');
CREATE TYPE "ShiftStatus" AS ENUM ('SCHEDULED', 'IN_PROGRESS', 'COMPLETED', 'CANCELLED', 'NO_SHOW');
CREATE TYPE "Platform" AS ENUM ('WEB', 'IOS', 'ANDROID');

CREATE TABLE "User" (
    "id" TEXT NOT NULL,
    "email" TEXT NOT NULL,
    "fullName" TEXT NOT NULL,
    "phone" TEXT,
    "locale" TEXT,
    "timezone" TEXT NOT NULL DEFAULT 'America/New_York',
    "createdAt" TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    CONSTRAINT "User_pkey" PRIMARY KEY ("id")
);
CREATE TABLE "Family" (
    "id" TEXT NOT NULL,
    "name" TEXT NOT NULL,
    CONSTRAINT "Family_pkey" PRIMARY KEY ("id")
);
CREATE TABLE "FamilyMember" (
    "id" TEXT NOT NULL,
    "familyId" TEXT NOT NULL,
    "userId" TEXT NOT NULL,
    "role" "FamilyRole" NOT NULL DEFAULT 'CAREGIVER',
    "isActive" BOOLEAN NOT NULL DEFAULT true,
    CONSTRAINT "FamilyMember_pkey" PRIMARY KEY ("id")
);
CREATE UNIQUE INDEX "FamilyMember_familyId_userId_key" ON "FamilyMember"("familyId", "userId");
CREATE TABLE "CareRecipient" (
    "id" TEXT NOT NULL,
    "familyId" TEXT NOT NULL,
    "firstName" TEXT NOT NULL,
    "preferredName" TEXT,
    "timezone" TEXT NOT NULL DEFAULT 'America/New_York',
    CONSTRAINT "CareRecipient_pkey" PRIMARY KEY ("id")
);
CREATE TABLE "Medication" (
    "id" TEXT NOT NULL,
    "careRecipientId" TEXT NOT NULL,
    "name" TEXT NOT NULL,
    "dosage" TEXT NOT NULL,
    "scheduledTimes" TEXT[],
    "startDate" TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "endDate" TIMESTAMP(3),
    "isActive" BOOLEAN NOT NULL DEFAULT true,
    "currentSupply" INTEGER,
    "refillAt" INTEGER,
    CONSTRAINT "Medication_pkey" PRIMARY KEY ("id")
);
CREATE TABLE "MedicationLog" (
    "id" TEXT NOT NULL,
    "medicationId" TEXT NOT NULL,
    "scheduledTime" TIMESTAMP(3) NOT NULL,
    "status" "MedicationLogStatus" NOT NULL DEFAULT 'PENDING',
    CONSTRAINT "MedicationLog_pkey" PRIMARY KEY ("id")
);
CREATE INDEX "MedicationLog_medicationId_idx" ON "MedicationLog"("medicationId");
CREATE TABLE "Appointment" (
    "id" TEXT NOT NULL,
    "careRecipientId" TEXT NOT NULL,
    "title" TEXT NOT NULL,
    "startTime" TIMESTAMP(3) NOT NULL,
    "location" TEXT,
    "status" "AppointmentStatus" NOT NULL DEFAULT 'SCHEDULED',
    "reminderMinutes" INTEGER[] DEFAULT ARRAY[60]::INTEGER[],
    CONSTRAINT "Appointment_pkey" PRIMARY KEY ("id")
);
CREATE TABLE "CaregiverShift" (
    "id" TEXT NOT NULL,
    "careRecipientId" TEXT NOT NULL,
    "caregiverId" TEXT NOT NULL,
    "startTime" TIMESTAMP(3) NOT NULL,
    "endTime" TIMESTAMP(3) NOT NULL,
    "status" "ShiftStatus" NOT NULL DEFAULT 'SCHEDULED',
    CONSTRAINT "CaregiverShift_pkey" PRIMARY KEY ("id")
);
CREATE TABLE "PushToken" (
    "id" TEXT NOT NULL,
    "userId" TEXT NOT NULL,
    "platform" "Platform" NOT NULL,
    "token" TEXT NOT NULL,
    "subscriptionJson" JSONB,
    "isActive" BOOLEAN NOT NULL DEFAULT true,
    "createdAt" TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    CONSTRAINT "PushToken_pkey" PRIMARY KEY ("id")
);
