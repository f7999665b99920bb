"""Publishes the reminders of one dose to Carebell, as protobuf.

python remind.py [--cancel] MEDICATION_ID DOSE_TIME [MINUTES_BEFORE ...]
"""

import argparse
import asyncio
import os
from datetime import datetime, timedelta, timezone

import nats
from nats.errors import Error, MaxPayloadError
from nats.js.errors import BadRequestError

from carebell.v1.jobs_pb2 import MedicationReminder  # made by protoc


def job_id(medication_id, dose_time, minutes):
    """A reminder has one id, whenever and wherever it is published."""
    return f"dose:{medication_id}:{dose_time:%Y%m%dT%H%M%SZ}:{minutes}"


async def remind(js, medication_id, dose_time, minutes):
    """Publishes one reminder: at once if it is due, else as a delayed job."""
    job = job_id(medication_id, dose_time, minutes)
    body = MedicationReminder(
        medication_id=medication_id, scheduled_time=dose_time, reminder_minutes=minutes
    ).SerializeToString()
    headers = {
        "Carebell-Job-Id": job,
        "Carebell-Not-After": rfc3339(dose_time + timedelta(minutes=30)),
        "Content-Type": "application/x-protobuf",
    }
    due = dose_time - timedelta(minutes=minutes)
    if due <= datetime.now(timezone.utc):
        headers["Nats-Msg-Id"] = job
        return await publish(js, "jobs.reminder.medication", body, headers)
    headers["Carebell-At"] = rfc3339(due)
    return await publish(js, "jobs.later.reminder.medication", body, headers)


async def publish(js, subject, body, headers):
    """Publishes until a stream acknowledges the job. Its id makes repeats safe."""
    for wait in (0.2, 1, 5, None):
        try:
            return await js.publish(subject, body, headers=headers, timeout=5)
        except (BadRequestError, MaxPayloadError):
            raise  # the message itself is at fault: a repeat would be refused too
        except Error:  # no acknowledgement, no stream or no room
            if wait is None:
                raise
            await asyncio.sleep(wait)


async def cancel(js, job):
    """Takes a delayed job back. One that is due already still runs."""
    await publish(js, "jobs.cancel", b"", {"Carebell-Job-Id": job})


def rfc3339(instant):
    return instant.astimezone(timezone.utc).isoformat().replace("+00:00", "Z")


async def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--cancel", action="store_true")
    parser.add_argument("medication_id")
    parser.add_argument("dose_time", type=datetime.fromisoformat, help="2027-03-01T09:00:00Z")
    parser.add_argument("minutes_before", type=int, nargs="*", default=[0])
    args = parser.parse_args()
    dose_time = args.dose_time.astimezone(timezone.utc)

    # A prefix of its own: the application needs no permission for other clients' inboxes.
    nc = await nats.connect(
        os.environ.get("NATS_URL", "nats://localhost:4222").split(","),
        user_credentials=os.environ.get("NATS_CREDS"),
        inbox_prefix=os.environ.get("NATS_INBOX_PREFIX", "_INBOX_app").encode(),
    )
    js = nc.jetstream()
    for minutes in args.minutes_before:
        job = job_id(args.medication_id, dose_time, minutes)
        if args.cancel:
            await cancel(js, job)
            print(f"{job} is taken back")
        else:
            ack = await remind(js, args.medication_id, dose_time, minutes)
            print(f"{job} is in {ack.stream} as {ack.seq}")
    await nc.close()


if __name__ == "__main__":
    asyncio.run(main())
