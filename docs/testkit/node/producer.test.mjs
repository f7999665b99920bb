// Tests of a producer with node:test. The kit is started once, and reset before each test.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { after, before, beforeEach, test } from 'node:test';

let process_, env;

before(async () => {
  process_ = spawn(process.env.CAREBELL ?? 'carebell', ['testkit', '--json'], { stdio: ['ignore', 'pipe', 'inherit'] });
  const [line] = await once(createInterface({ input: process_.stdout }), 'line');
  env = JSON.parse(line).env;
});
after(() => process_.kill('SIGTERM'));
beforeEach(() => kit('POST', '/reset'));

async function kit(method, path, body) {
  const headers = { 'content-type': 'application/json' };
  const answer = await fetch(env.KIT_URL + path, { method, headers, body: body && JSON.stringify(body) });
  assert.equal(answer.status, 200, await answer.clone().text());
  return answer.json();
}

// The producer under test.
async function remind(jobId, more = {}) {
  const job = { recipients: [{ userId: 'ben' }], title: 'Tea is ready' };
  const headers = { 'content-type': 'application/json', authorization: `Bearer ${env.GATEWAY_TOKEN}` };
  const body = JSON.stringify({ kind: 'notification', jobId, job, ...more });
  const answer = await fetch(`${env.GATEWAY_URL}/v1/jobs`, { method: 'POST', headers, body });
  assert.equal(answer.status, 202, await answer.clone().text());
}

test('Ben is told by push and by mail', async () => {
  await remind('tea');
  assert.equal((await kit('GET', '/jobs/tea?wait=20s')).state, 'done');
  const { sent } = await kit('GET', '/sent?user=ben');
  assert.deepEqual(sent.map(({ channel, title }) => [channel, title]), [
    ['web_push', 'Tea is ready'],
    ['email', 'Tea is ready'],
  ]);
});

test('a delayed reminder comes when it is due', async () => {
  await remind('tea', { delay: '1day' });
  await kit('POST', '/clock', { by: '1day' });
  assert.equal((await kit('GET', '/jobs/tea?wait=20s')).state, 'done');
});
