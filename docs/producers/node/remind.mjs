// Publishes the reminders of one dose to Carebell, as JSON.
//
// node remind.mjs [--cancel] MEDICATION_ID DOSE_TIME [MINUTES_BEFORE ...]

import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";
import { jetstream, JetStreamApiError } from "@nats-io/jetstream";
import { connect, credsAuthenticator, headers } from "@nats-io/transport-node";

const MINUTE = 60_000;

/** A reminder has one id, whenever and wherever it is published. */
function jobId(medicationId, doseTime, minutes) {
  const time = doseTime.toISOString().replace(/[-:]|\.\d+/g, "");
  return `dose:${medicationId}:${time}:${minutes}`;
}

/** Publishes one reminder: at once if it is due, else as a delayed job. */
async function remind(js, medicationId, doseTime, minutes) {
  const job = jobId(medicationId, doseTime, minutes);
  const body = JSON.stringify({ medicationId, scheduledTime: doseTime.toISOString(), reminderMinutes: minutes });
  const hdrs = headers();
  hdrs.set("Carebell-Job-Id", job);
  hdrs.set("Carebell-Not-After", new Date(doseTime.getTime() + 30 * MINUTE).toISOString());
  hdrs.set("Content-Type", "application/json");
  const due = new Date(doseTime.getTime() - minutes * MINUTE);
  if (due <= new Date()) {
    hdrs.set("Nats-Msg-Id", job);
    return await publish(js, "jobs.reminder.medication", body, hdrs);
  }
  hdrs.set("Carebell-At", due.toISOString());
  return await publish(js, "jobs.later.reminder.medication", body, hdrs);
}

/** Publishes until a stream acknowledges the job. Its id makes repeats safe. */
async function publish(js, subject, body, hdrs) {
  for (const wait of [200, 1000, 5000, null]) {
    try {
      return await js.publish(subject, body, { headers: hdrs, timeout: 5000 });
    } catch (error) {
      const refused = error instanceof JetStreamApiError && error.status === 400;
      // A refused message would be refused again. Anything else: no acknowledgement, no stream or no room.
      if (refused || wait === null) throw error;
      await sleep(wait);
    }
  }
}

/** Takes a delayed job back. One that is due already still runs. */
async function cancel(js, job) {
  const hdrs = headers();
  hdrs.set("Carebell-Job-Id", job);
  await publish(js, "jobs.cancel", "", hdrs);
}

const { values, positionals } = parseArgs({ options: { cancel: { type: "boolean" } }, allowPositionals: true });
const [medicationId, time, ...minutesBefore] = positionals;
const doseTime = new Date(time);

const { NATS_URL = "nats://localhost:4222", NATS_CREDS, NATS_INBOX_PREFIX = "_INBOX_app" } = process.env;
const nc = await connect({
  servers: NATS_URL.split(","),
  ...(NATS_CREDS && { authenticator: credsAuthenticator(readFileSync(NATS_CREDS)) }),
  // A prefix of its own: the application needs no permission for other clients' inboxes.
  inboxPrefix: NATS_INBOX_PREFIX,
});
for (const minutes of minutesBefore.length > 0 ? minutesBefore.map(Number) : [0]) {
  const job = jobId(medicationId, doseTime, minutes);
  if (values.cancel) {
    await cancel(jetstream(nc), job);
    console.log(`${job} is taken back`);
  } else {
    const ack = await remind(jetstream(nc), medicationId, doseTime, minutes);
    console.log(`${job} is in ${ack.stream} as ${ack.seq}`);
  }
}
await nc.close();
