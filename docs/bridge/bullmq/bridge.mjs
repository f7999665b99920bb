// Publishes the jobs of BullMQ queues to Carebell, so that a team can move queue by queue.
//
// node bridge.mjs run JOBS.mjs        in place of the old workers: takes jobs as they come due, until SIGTERM
// node bridge.mjs move JOBS.mjs       hands over delayed jobs at once, so that the queues run empty
// node bridge.mjs schedules JOBS.mjs  prints the commands that save repeatable jobs as Carebell's schedules
//
// JOBS.mjs says for each queue what Carebell is to do for a job (jobs.mjs is an example).

import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { pathToFileURL } from "node:url";
import { jetstream, JetStreamApiError } from "@nats-io/jetstream";
import { connect, credsAuthenticator, headers } from "@nats-io/transport-node";
import { Queue, UnrecoverableError, Worker } from "bullmq";

const {
  REDIS_URL = "redis://localhost:6379",
  BULLMQ_PREFIX = "bull",
  BRIDGE_CONCURRENCY = "50",
  // How long after a bridge was killed another takes its jobs.
  BRIDGE_LOCK_MS = "30000",
  NATS_URL = "nats://localhost:4222",
  NATS_CREDS,
  NATS_INBOX_PREFIX = "_INBOX_app",
} = process.env;
const PAGE = 500;
const redis = { connection: { url: REDIS_URL, maxRetriesPerRequest: null }, prefix: BULLMQ_PREFIX };

/** The same for the same BullMQ job, however often it is taken: Carebell runs it once. */
function idOf(queue, job) {
  // Redis counts ids from 1 again after it was emptied. The id of a repeatable job has its instant.
  const id = ["bullmq", queue, job.id, ...(job.repeatJobKey ? [] : [job.timestamp])].join(":");
  return /^[\w:.-]{1,128}$/.test(id) ? id : `bullmq:${createHash("sha256").update(id).digest("hex")}`;
}

/** What Carebell is to do, as JOBS.mjs says it. */
function asked(jobs, queue, { name, data, opts }, due) {
  const { kind, lane, body, notAfter } = jobs[queue]({ name, data, opts, due }) ?? {};
  if (typeof kind !== "string" || typeof body !== "object") {
    throw new Error(`no kind and body for a job called ${JSON.stringify(name)} of the queue ${queue}: see JOBS.mjs`);
  }
  return { subject: lane ? `${kind}.${lane}` : kind, kind, lane, body: JSON.stringify(body), notAfter };
}

/** Publishes until a stream acknowledges it. Its id makes repeats safe. A refused one would be refused again. */
async function publish(js, id, { subject, body, notAfter }, at) {
  const hdrs = headers();
  hdrs.set("Carebell-Job-Id", id);
  hdrs.set("Content-Type", "application/json");
  if (notAfter) hdrs.set("Carebell-Not-After", notAfter.toISOString());
  if (at) hdrs.set("Carebell-At", at.toISOString());
  else hdrs.set("Nats-Msg-Id", id);
  for (let wait = 200; ; wait = Math.min(2 * wait, 5000)) {
    try {
      return await js.publish(`jobs.${at ? "later." : ""}${subject}`, body, { headers: hdrs, timeout: 5000 });
    } catch (error) {
      if (error instanceof JetStreamApiError && error.status === 400) throw error;
      console.error(`${id} is not acknowledged, again in ${wait} ms: ${error.message}`);
      await sleep(wait);
    }
  }
}

/** Until SIGTERM. What is under way then stays in Redis, and the next bridge takes it. */
async function run(jobs, js) {
  const workers = Object.keys(jobs).map((queue) => {
    const take = async (job) => {
      try {
        await publish(js, idOf(queue, job), asked(jobs, queue, job, new Date()));
      } catch (error) {
        // It stays in the queue's failed jobs, where people see it and retry it.
        throw new UnrecoverableError(error.message);
      }
    };
    return new Worker(queue, take, {
      ...redis,
      concurrency: Number(BRIDGE_CONCURRENCY),
      lockDuration: Number(BRIDGE_LOCK_MS),
      stalledInterval: Number(BRIDGE_LOCK_MS),
      // A bridge may be killed as often as it likes: a job is never given up for that.
      maxStalledCount: 1_000_000,
    })
      .on("failed", (job, error) => console.error(`${queue}: job ${job?.id} failed: ${error.message}`))
      .on("error", (error) => console.error(`${queue}: ${error.message}`));
  });
  await Promise.all(workers.map((worker) => worker.waitUntilReady()));
  console.log(`takes jobs of ${Object.keys(jobs).join(", ")}`);
  await new Promise((stop) => ["SIGTERM", "SIGINT"].forEach((signal) => process.once(signal, stop)));
  const ended = Promise.all(workers.map((worker) => worker.close()));
  await Promise.race([ended, sleep(10_000)]);
}

/** Those of schedulers stay: `run` takes each when it is due, and BullMQ makes the next. */
async function move(jobs, js) {
  let failed = 0;
  for (const name of Object.keys(jobs)) {
    const queue = new Queue(name, redis);
    const client = await queue.client;
    let [moved, left] = [0, 0];
    for (;;) {
      const page = await queue.getDelayed(left, left + PAGE - 1);
      if (page.length === 0) break;
      for (const job of page) {
        const score = job && (await client.zscore(queue.toKey("delayed"), job.id));
        // It has come due, or is gone.
        if (!score) continue;
        if (job.repeatJobKey) {
          left += 1;
          continue;
        }
        // BullMQ keeps the instant in milliseconds above twelve bits that number jobs of the same instant.
        const due = new Date(Math.floor(Number(score) / 4096));
        try {
          await publish(js, idOf(name, job), asked(jobs, name, job, due), due);
        } catch (error) {
          console.error(`${name}: job ${job.id} is left: ${error.message}`);
          [left, failed] = [left + 1, failed + 1];
          continue;
        }
        // One that came due meanwhile is taken by `run`, under the same id.
        moved += await queue.remove(job.id);
      }
    }
    const { waiting, prioritized, active, paused, delayed } = await queue.getJobCounts();
    console.log(`${name}: moved ${moved}; left ${waiting + prioritized + paused} waiting, ${active} active, ${delayed} delayed`);
    await queue.close();
  }
  return failed;
}

const quoted = (text) => `'${text.replaceAll("'", `'\\''`)}'`;

async function schedules(jobs) {
  for (const name of Object.keys(jobs)) {
    const queue = new Queue(name, redis);
    for (const scheduler of await queue.getJobSchedulers(0, -1)) {
      const { key, pattern, every, tz, limit, endDate, next } = scheduler;
      const own = `${name}-${key}`.replace(/[^\w.-]/g, "-").slice(0, 64);
      console.log(`# ${name}, ${key}${limit ? `: ended after ${limit} runs there, goes on here` : ""}`);
      if (!pattern && every % 1000 !== 0) {
        console.log(`# it repeats every ${every} ms; a schedule has whole seconds`);
        continue;
      }
      const job = { name: scheduler.name, data: scheduler.template?.data ?? {}, opts: scheduler.template?.opts ?? {} };
      const { kind, lane, body } = asked(jobs, name, job, new Date(next ?? Date.now()));
      const zone = tz ?? Intl.DateTimeFormat().resolvedOptions().timeZone;
      const options = [
        ["--cron", quoted(pattern ?? `@every ${every / 1000}s`)],
        ["--tz", zone],
        ["--kind", kind],
        ...(lane ? [["--lane", lane]] : []),
        // An interval counts from its start: here from the next run there.
        ...(pattern || !next ? [] : [["--start", new Date(next).toISOString()]]),
        ...(endDate ? [["--end", new Date(endDate).toISOString()]] : []),
        ["--json", quoted(body)],
      ];
      console.log(`carebell schedules add ${own} ${options.flat().join(" ")}`);
    }
    await queue.close();
  }
}

const [act, file] = process.argv.slice(2);
if (!["run", "move", "schedules"].includes(act) || !file) {
  console.error("usage: node bridge.mjs run|move|schedules JOBS.mjs");
  process.exit(2);
}
const { default: jobs } = await import(pathToFileURL(resolve(file)));
if (act === "schedules") {
  await schedules(jobs);
  process.exit(0);
}
const nc = await connect({
  servers: NATS_URL.split(","),
  ...(NATS_CREDS && { authenticator: credsAuthenticator(readFileSync(NATS_CREDS)) }),
  inboxPrefix: NATS_INBOX_PREFIX,
  maxReconnectAttempts: -1,
  waitOnFirstConnect: true,
});
const failed = await (act === "run" ? run : move)(jobs, jetstream(nc));
await nc.close();
process.exit(failed ? 1 : 0);
