// The official clients of gRPC-Web and Connect in Chromium, from a page of another origin than the gateway's.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { build } from 'esbuild';
import 'protobufjs/ext/descriptor.js';
import { Instance, launch, person, sleep, until } from './instance.mjs';
import { Network } from './network.mjs';
import { Batch, PACKAGE, schema } from './protocol.mjs';

const LIMITS = { timeout: 60_000 };
const REPORT_MAX_MS = 40_000;
const ANOTHER_CUT_MS = 12_000;
const NOT_FOUND = 5; // of gRPC
const SITE = 'clients';
const CLIENTS = ['grpc-web', 'connect-web'];

let instance;
let browser;
let network;
let page;
before(async () => {
  instance = await Instance.start();
  browser = await launch();
  network = await Network.start(instance, SITE);
  page = await (await person(browser)).newPage();
  await page.goto(`${network.shop}/shop.css`); // of the shop's origin, and without an agent
  await page.addScriptTag({ content: await bundle() });
  await page.evaluate(([gateway, descriptors]) => clients.start(gateway, descriptors), [network.url, descriptors()]);
}, { timeout: 150_000 });
after(async () => {
  await browser?.close();
  await network?.stop();
  await instance?.stop();
});

const bundle = async () => {
  const options = { entryPoints: [`${import.meta.dirname}/clients.page.mjs`], bundle: true, write: false, format: 'iife', globalName: 'clients' };
  const { outputFiles } = await build({ ...options, logLevel: 'silent' });
  return outputFiles[0].text;
};

// As `protoc --descriptor_set_out` would give them, with whole names for types, in base64.
const descriptors = () => {
  const set = schema.resolveAll().toDescriptor('proto3');
  for (const { field } of set.file.flatMap((file) => file.messageType)) {
    for (const part of field) part.typeName &&= `.${PACKAGE}.${part.typeName}`;
  }
  return Buffer.from(set.constructor.encode(set).finish()).toString('base64');
};

// Two events of a page of the shop, as an agent would number them, in base64.
const batch = (name) => {
  const sid = crypto.getRandomValues(new Uint8Array(16));
  const now = Date.now();
  for (let i = 0; i < 6; i++) sid[i] = Math.floor(now / 2 ** (8 * (5 - i))) & 0xff;
  sid[6] = 0x70 | (sid[6] & 0x0f);
  sid[8] = 0x80 | (sid[8] & 0x3f);
  const strings = ['pageview', name, `${network.shop}/${name}`];
  const events = [{ name: 1, url: 3 }, { name: 2, url: 3, deltaMs: 1 }];
  return Buffer.from(Batch.encode({ sid, seq: 1, baseMs: now, strings, events }).finish()).toString('base64');
};

const call = (client, method, ...values) =>
  page.evaluate(([client, method, values]) => clients[method](client, ...values), [client, method, values]);

for (const client of CLIENTS) {
  test(`${client}: a batch is sent, sent again and acknowledged each time`, LIMITS, async () => {
    const bytes = batch(client);
    for (let times = 0; times < 2; times++) {
      const answer = await call(client, 'send', SITE, bytes);
      assert.deepEqual([answer.frame, answer.seqs], ['ack', [1]], JSON.stringify(answer));
    }
  });

  test(`${client}: a subscription begins with a Welcome`, LIMITS, async () => {
    const answer = await call(client, 'subscribe', SITE);
    assert.deepEqual([answer.frame, answer.region], ['welcome', 'local'], JSON.stringify(answer));
  });

  for (const [method, ...more] of [['send', batch], ['subscribe']]) {
    test(`${client}: ${method} for an unknown site has the status NOT_FOUND`, LIMITS, async () => {
      const refused = await call(client, method, 'nobody', ...more.map((made) => made(client)));
      assert.ok(refused.code === NOT_FOUND && refused.message.includes('site'), JSON.stringify(refused));
    });
  }
}

test('each call was asked for before it was made', LIMITS, () => {
  const asked = network.preflights.map(({ url, headers }) => `${url.split('/').pop()} ${headers['access-control-request-headers']}`);
  console.log(`preflights: ${asked.join('; ')}`);
  const wanted = ['Send', 'Subscribe'].flatMap((method) => ['x-user-agent', 'x-grpc-web'].map((header) => [method, header]));
  for (const [method, header] of wanted) assert.ok(asked.some((line) => line.startsWith(method) && line.includes(header)), `${method} ${header}`);
});

test('what they sent is counted once', LIMITS, async () => {
  const wanted = String([CLIENTS.length, 2 * CLIENTS.length]);
  await until(`counts ${wanted}`, async () => String(await instance.counts(SITE)) === wanted, REPORT_MAX_MS).catch(async (error) =>
    assert.fail(`${error.message}; they are ${await instance.counts(SITE)}\n${instance.logs()}`),
  );
  await sleep(ANOTHER_CUT_MS); // what is counted twice would show by then
  assert.equal(String(await instance.counts(SITE)), wanted);
  assert.deepEqual(await instance.by('event:name', 'events', SITE), { pageview: CLIENTS.length, 'grpc-web': 1, 'connect-web': 1 });
  assert.deepEqual(await instance.batches(), { grpc: 2 * CLIENTS.length });
  const { state, difference } = await instance.audit(SITE);
  assert.deepEqual({ state, difference }, { state: 'clean', difference: 0 });
});
