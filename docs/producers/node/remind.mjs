// Publishes the reminders of one dose to Carebell, as JSON.
//
// node remind.mjs [--cancel] MEDICATION_ID DOSE_TIME [MINUTES_BEFORE ...]

import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";
import { jetstream, JetStreamApiError, jetstreamManager } from "@nats-io/jetstream";
import { connect, credsAuthenticator, headers } from "@nats-io/transport-node";

const MINUTE = 60_000;

/** One reminder has one id, however often and from wherever it is published. */
function jobId(medicationId, doseTime, minutes) {
  const time = doseTime.toISOString().replace(/[-:]|\.\d+/g, "");
  return `dose:${medicationId}:${time}:${minutes}`;
}

/** Publishes one reminder: for later if its time is still to come, else at once. */
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
  hdrs.set("Nats-Schedule", `@at ${due.toISOString()}`);
  hdrs.set("Nats-Schedule-Target", "due.reminder.medication");
  return await publish(js, `sched.${job}`, body, hdrs);
}

/** Returns when a stream has the job. Until then it is published again: the id makes that safe. */
async function publish(js, subject, body, hdrs) {
  for (const wait of [200, 1000, 5000, null]) {
    try {
      return await js.publish(subject, body, { headers: hdrs, timeout: 5000 });
    } catch (error) {
      const refused = error instanceof JetStreamApiError && error.status === 400;
      // A message that is refused would be again. All else is no acknowledgement, no stream, no room.
      if (refused || wait === null) throw error;
      await sleep(wait);
    }
  }
}

/** Takes a delayed job back. One that has fired is not there any more, and goes its way. */
async function cancel(nc, job) {
  const manager = await jetstreamManager(nc, { checkAPI: false });
  await manager.streams.purge("SCHEDULED", { filter: `sched.${job}` });
}

const { values, positionals } = parseArgs({ options: { cancel: { type: "boolean" } }, allowPositionals: true });
const [medicationId, time, ...minutesBefore] = positionals;
const doseTime = new Date(time);

const { NATS_URL = "nats://localhost:4222", NATS_CREDS } = process.env;
const nc = await connect({
  servers: NATS_URL.split(","),
  ...(NATS_CREDS && { authenticator: credsAuthenticator(readFileSync(NATS_CREDS)) }),
  // This application's own, so that it need not be allowed to read the inboxes of others.
  inboxPrefix: "_INBOX_app",
});
for (const minutes of minutesBefore.length > 0 ? minutesBefore.map(Number) : [0]) {
  const job = jobId(medicationId, doseTime, minutes);
  if (values.cancel) {
    await cancel(nc, job);
    console.log(`${job} is not scheduled any more`);
  } else {
    const ack = await remind(jetstream(nc), medicationId, doseTime, minutes);
    console.log(`${job} is in ${ack.stream} as ${ack.seq}`);
  }
}
await nc.close();
