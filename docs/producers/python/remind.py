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
    """One reminder has one id, however often and from wherever it is published."""
    return f"dose:{medication_id}:{dose_time:%Y%m%dT%H%M%SZ}:{minutes}"


async def remind(js, medication_id, dose_time, minutes):
    """Publishes one reminder: for later if its time is still to come, else at once."""
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
    headers["Nats-Schedule"] = f"@at {rfc3339(due)}"
    headers["Nats-Schedule-Target"] = "due.reminder.medication"
    return await publish(js, f"sched.{job}", body, headers)


async def publish(js, subject, body, headers):
    """Returns when a stream has the job. Until then it is published again: the id makes that safe."""
    for wait in (0.2, 1, 5, None):
        try:
            return await js.publish(subject, body, headers=headers, timeout=5)
        except (BadRequestError, MaxPayloadError):
            raise  # the message itself is refused, and would be again
        except Error:  # no acknowledgement, no stream, no room
            if wait is None:
                raise
            await asyncio.sleep(wait)


async def cancel(js, job):
    """Takes a delayed job back. One that has fired is not there any more, and goes its way."""
    await js.purge_stream("SCHEDULED", subject=f"sched.{job}")


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

    # The prefix is this application's own, so that it need not be allowed to read the inboxes of others.
    nc = await nats.connect(
        os.environ.get("NATS_URL", "nats://localhost:4222").split(","),
        user_credentials=os.environ.get("NATS_CREDS"),
        inbox_prefix=b"_INBOX_app",
    )
    js = nc.jetstream()
    for minutes in args.minutes_before:
        job = job_id(args.medication_id, dose_time, minutes)
        if args.cancel:
            await cancel(js, job)
            print(f"{job} is not scheduled any more")
        else:
            ack = await remind(js, args.medication_id, dose_time, minutes)
            print(f"{job} is in {ack.stream} as {ack.seq}")
    await nc.close()


if __name__ == "__main__":
    asyncio.run(main())
