// The outbox on the device, in a real browser: what waits there, who sends it, and who may not store anything.
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { CONSENTS, html, launch, launchProfile, settles, sleep, snippet, until, visit } from './browser.mjs';

let browser;
before(async () => {
  browser = await launch();
});
after(() => browser.close());

const LIMITS = { timeout: 90_000 };
// A page without the agent, to look at the store from, is at /blank.
const granted = { page: (path, gateway) => (path === '/blank' ? '<!doctype html>' : CONSENTS(path, gateway)) };
const CLASS_LONG = 1;
const REASON_EXPIRED = 65;
const REASON_EXPIRED_IN_DOUBT = 66;

// [{ key, sent, seq bytes }] of the store, or null where there is none. Asked of a page that does not run the agent.
const stored = (page) =>
  page.evaluate(async () => {
    if (!(await indexedDB.databases()).some(({ name }) => name === 'tideline/shop')) return null;
    const done = (request) => new Promise((resolve, reject) => ((request.onsuccess = () => resolve(request.result)), (request.onerror = reject)));
    const database = await done(indexedDB.open('tideline/shop'));
    const values = await done(database.transaction('outbox').objectStore('outbox').getAll(IDBKeyRange.lowerBound(new Uint8Array())));
    database.close();
    return values.map(({ sent, batch }) => ({ sent, bytes: batch.length }));
  });

// Puts records into the store, from a page that does not run the agent: batches under their numbers, and pages that live.
const seed = (page, records) =>
  page.evaluate(async (all) => {
    const done = (request) => new Promise((resolve, reject) => ((request.onsuccess = () => resolve(request.result)), (request.onerror = reject)));
    const request = indexedDB.open('tideline/shop');
    request.onupgradeneeded = () => request.result.createObjectStore('outbox');
    const database = await done(request);
    const outbox = database.transaction('outbox', 'readwrite').objectStore('outbox');
    for (const [key, value] of all) {
      if (typeof key === 'string') outbox.put(Date.now(), key);
      else outbox.put({ ...value, batch: Uint8Array.from(value.batch) }, Uint8Array.from(key));
    }
    await done(outbox.count());
    database.close();
  }, records);

// A batch of class long that only reports, and the page that may send it.
const record = (seq, page) => {
  const sid = [...Buffer.from(Date.now().toString(16).padStart(12, '0'), 'hex'), 0x70, 0, 0x80, 0, 0, 0, 0, 0, 0, 7];
  const batch = [0x0a, 16, ...sid, 0x10, seq, 0x18, CLASS_LONG, 0x3a, 4, 0x08, 64, 0x10, 1];
  return [[...sid, 0, 0, 0, seq], { page, sent: false, batch }];
};

// In the page, before the agent: sockets open once `connects()` is called, `stalls` keeps a search for what is free under
// way, and with `failsMarks` nothing can be stored that says that it was sent.
const tampered = () => {
  const Socket = window.WebSocket;
  const held = [];
  window.WebSocket = function (url) {
    const socket = { send: (frame) => socket.real.send(frame), close: () => socket.real?.close() };
    const opens = () => {
      socket.real = new Socket(url);
      socket.real.binaryType = 'arraybuffer';
      for (const name of ['onopen', 'onmessage', 'onclose']) socket.real[name] = (event) => socket[name]?.(event);
    };
    if (window.connected) opens();
    else held.push(opens);
    return socket;
  };
  window.connects = () => {
    window.connected = true;
    held.splice(0).forEach((opens) => opens());
  };
  const { put, openCursor } = IDBObjectStore.prototype;
  IDBObjectStore.prototype.put = function (value, key) {
    if (value.sent && window.failsMarks) throw new DOMException('no room', 'QuotaExceededError');
    return put.call(this, value, key);
  };
  IDBObjectStore.prototype.openCursor = function () {
    if (!window.stalls) return openCursor.call(this);
    const again = () => (this.get('').onsuccess = () => window.stalls && again());
    again();
    return {};
  };
};

// A page that runs the agent, tampered with, beside one that does not; `records` are in the store before.
const beside = async ({ context, page, url }, records = []) => {
  await page.goto(`${url}/blank`);
  if (records.length) await seed(page, records);
  const next = await context.newPage();
  await next.addInitScript(tampered);
  await next.goto(`${url}/next`);
  return next;
};

const untilStored = async (page, count) => {
  for (const end = Date.now() + 10_000; (await stored(page))?.length !== count; await sleep(50)) {
    if (Date.now() > end) throw new Error(`${JSON.stringify(await stored(page))} stored instead of ${count}`);
  }
};

// Events that wait: the gateway answers nothing and takes no connection.
const offline = async ({ gateway, page, url }) => {
  await page.goto(url);
  await settles(() => gateway.names(), ['/']);
  await untilStored(page, 0);
  gateway.away = true;
  gateway.cut();
  for (const name of ['One', 'Two', 'Three']) await page.evaluate((called) => tideline(called), name);
};

// Closes the page and gives one without an agent once what could not be sent is on the device.
const leaveForGood = async ({ page, context, url }) => {
  const blank = await context.newPage();
  await blank.goto(`${url}/blank`);
  await page.close({ runBeforeUnload: true });
  await untilStored(blank, 1); // all three events: what cannot leave waits in one batch
  await sleep(300); // the last requests have failed
  return blank;
};

test('with consent a batch is on the device before it is sent, and leaves it with its answer', LIMITS, () =>
  visit(browser, { ...granted, gateway: { acknowledges: false } }, async ({ gateway, page, url }) => {
    await page.goto(url);
    await until(() => gateway.transmissions.length === 1);
    assert.equal(gateway.transmissions[0].batch.class, CLASS_LONG);
    assert.deepEqual(await stored(page), [{ sent: true, bytes: gateway.transmissions[0].bytes.length }]);
    gateway.acknowledges = true;
    gateway.cut();
    await until(() => gateway.transmissions.length === 2);
    await untilStored(page, 0);
    await settles(() => gateway.names(), ['/']);
  }));

test('what a closed page could not send, the next one sends under its numbers', LIMITS, () =>
  visit(browser, granted, async (story) => {
    await offline(story);
    const { gateway, context, url } = story;
    await leaveForGood(story);
    const sent = gateway.transmissions.length;
    gateway.away = false;
    const next = await context.newPage();
    await next.goto(`${url}/next`);
    await settles(() => gateway.names().sort(), ['/', '/next', 'One', 'Three', 'Two'].sort());
    await untilStored(next, 0);
    const sids = gateway.events().map(({ sid }) => sid);
    assert.equal(new Set(sids).size, 2, 'a sid a page');
    assert.ok(gateway.transmissions.slice(sent).every(({ batch }) => batch.class === CLASS_LONG));
  }));

test('it survives the end of the browser', LIMITS, async () => {
  const folder = mkdtempSync(join(tmpdir(), 'tideline-profile-'));
  let first = await launchProfile(folder);
  let second;
  try {
    await visit(null, { ...granted, context: first }, async (story) => {
      await offline(story);
      const { gateway, url } = story;
      await leaveForGood(story);
      await first.close();
      gateway.away = false;
      second = await launchProfile(folder);
      const next = await second.newPage();
      await next.goto(`${url}/next`);
      await settles(() => gateway.names().sort(), ['/', '/next', 'One', 'Three', 'Two'].sort());
      await untilStored(next, 0);
    });
  } finally {
    await first.close().catch(() => {});
    await second?.close().catch(() => {});
    rmSync(folder, { recursive: true, force: true });
  }
});

test('without consent nothing is stored, and denying it deletes what was', LIMITS, () =>
  visit(browser, { page: (_, gateway) => html(gateway) }, async ({ gateway, page, url }) => {
    await page.goto(url);
    gateway.away = true;
    await page.evaluate(() => tideline('Memory'));
    await sleep(1_200);
    assert.deepEqual(await page.evaluate(() => indexedDB.databases()), []);
    await page.evaluate(() => tideline('consent', 'granted'));
    await page.evaluate(() => tideline('Stored'));
    gateway.away = false;
    gateway.acknowledges = false;
    gateway.cut();
    await until(() => gateway.names().includes('Stored'));
    await untilStored(page, 1);
    await page.evaluate(() => tideline('consent', 'denied'));
    for (const end = Date.now() + 5_000; (await page.evaluate(() => indexedDB.databases())).length; await sleep(20)) {
      assert.ok(Date.now() < end, 'the store is still there');
    }
    await page.evaluate(() => tideline('Denied'));
    gateway.acknowledges = true;
    gateway.cut();
    await settles(() => gateway.names(), ['/', 'Memory', 'Stored', 'Denied']);
    const classes = Object.fromEntries(gateway.events().map(({ name, batch }) => [name, batch.class]));
    assert.deepEqual(classes, { pageview: 0, Memory: 0, Stored: CLASS_LONG, Denied: 0 });
    assert.deepEqual(await page.evaluate(() => indexedDB.databases()), []);
  }));

test('two pages at once each send their own, and one of them what a third left', LIMITS, () =>
  visit(browser, granted, async (story) => {
    await offline(story);
    const { gateway, context, url } = story;
    await leaveForGood(story);
    gateway.away = false;
    const pages = [await context.newPage(), await context.newPage()];
    await Promise.all(pages.map((next, number) => next.goto(`${url}/${number}`)));
    await Promise.all(pages.map((next, number) => next.evaluate((called) => tideline(called), `Tab ${number}`)));
    await settles(() => gateway.names().sort(), ['/', '/0', '/1', 'One', 'Tab 0', 'Tab 1', 'Three', 'Two']); // no number twice
    await untilStored(pages[0], 0);
  }));

test('where the store is full or blocked the outbox is in memory', LIMITS, async () => {
  const blocked = () => Object.defineProperty(window, 'indexedDB', { get: () => undefined });
  const full = () => {
    IDBObjectStore.prototype.put = () => {
      throw new DOMException('no room', 'QuotaExceededError');
    };
  };
  const hangs = () => {
    indexedDB.open = () => ({});
  };
  for (const init of [blocked, full, hangs]) {
    await visit(browser, { ...granted, init }, async ({ gateway, page, url }) => {
      await page.goto(url);
      await page.evaluate(() => tideline('Memory'));
      await settles(() => gateway.names(), ['/', 'Memory']);
    });
  }
});

test('what has waited for a day is given up and reported', LIMITS, () =>
  visit(browser, granted, async (story) => {
    await offline(story);
    const { gateway, context, url } = story;
    await leaveForGood(story);
    gateway.away = false;
    const next = await context.newPage();
    await next.clock.install({ time: Date.now() + 24.5 * 3600_000 });
    gateway.clockAheadMs = 24.5 * 3600_000;
    await next.goto(`${url}/next`);
    await until(() => gateway.transmissions.some(({ batch }) => batch.givenUp.length));
    await settles(() => gateway.names(), ['/', '/next']);
    const given = gateway.transmissions.flatMap(({ batch }) => batch.givenUp);
    assert.equal(given.reduce((sum, { events }) => sum + events, 0), 3);
    assert.ok(given.every(({ reason }) => [REASON_EXPIRED, REASON_EXPIRED_IN_DOUBT].includes(reason)));
    await untilStored(next, 0);
  }));

test('a throttled batch stays on the device, a finally refused one does not', LIMITS, () =>
  visit(browser, { ...granted, gateway: { throttle: { waitMs: 1_000 } } }, async ({ gateway, page, url }) => {
    await page.goto(url);
    await until(() => gateway.transmissions.length >= 2);
    assert.equal((await stored(page)).length, 1);
    assert.ok(gateway.transmissions.every(({ bytes }) => bytes.equals(gateway.transmissions[0].bytes)));
    gateway.throttle = null;
    gateway.reject = { reason: 39, final: true, message: 'a program' };
    await until(() => gateway.transmissions.length >= 3);
    await untilStored(page, 0);
  }));

test('a page that stores comes back out of the back-forward cache and sends nothing anew', LIMITS, () =>
  visit(browser, granted, async ({ gateway, page, url }) => {
    await page.goto(`${url}/first`);
    await settles(() => gateway.names(), ['/first']);
    await page.evaluate(() => (window.survived = true));
    await page.goto(`${url}/second`);
    await settles(() => gateway.names(), ['/first', '/second']);
    await page.goBack({ waitUntil: 'commit' });
    assert.equal(await page.evaluate(() => window.survived), true, 'the page was kept');
    await settles(() => gateway.names(), ['/first', '/second', '/first']);
    await page.evaluate(() => tideline('Again'));
    await settles(() => gateway.names(), ['/first', '/second', '/first', 'Again']);
    await untilStored(page, 0);
  }));

test('what was stored without a connection says that it was sent before it is', LIMITS, () =>
  visit(browser, { ...granted, gateway: { acknowledges: false } }, async (story) => {
    const { gateway, page } = story;
    const next = await beside(story, [record(1, 'gone')]);
    await untilStored(page, 2);
    assert.ok((await stored(page)).every(({ sent }) => !sent));
    await next.evaluate(() => connects());
    await until(() => gateway.transmissions.length === 2);
    assert.ok((await stored(page)).every(({ sent }) => sent));
  }));

test('so does what is found while a socket is open', LIMITS, () =>
  visit(browser, { ...granted, gateway: { acknowledges: false } }, async (story) => {
    const { gateway, page } = story;
    const next = await beside(story);
    await next.evaluate(() => connects());
    await until(() => gateway.transmissions.length === 1);
    await seed(page, [record(1, 'gone')]);
    await next.evaluate(() => dispatchEvent(new PageTransitionEvent('pageshow', { persisted: true })));
    await until(() => gateway.transmissions.some(({ batch }) => !batch.events.length));
    assert.ok((await stored(page)).every(({ sent }) => sent));
  }));

test('so does what is there already after the store was too slow once', LIMITS, () =>
  visit(browser, { ...granted, gateway: { acknowledges: false } }, async (story) => {
    const { gateway, page } = story;
    const next = await beside(story);
    await untilStored(page, 1);
    await next.evaluate(() => {
      window.stalls = true;
      dispatchEvent(new PageTransitionEvent('pageshow', { persisted: true }));
    });
    await sleep(2_500);
    await next.evaluate(() => {
      window.stalls = false;
      connects();
    });
    await until(() => gateway.transmissions.length);
    await sleep(300);
    assert.ok((await stored(page)).every(({ sent }) => sent));
    gateway.acknowledges = true;
    gateway.cut();
    await untilStored(page, 0);
  }));

test('what the store cannot mark waits until it can, and nothing is erased', LIMITS, () =>
  visit(browser, granted, async (story) => {
    const { gateway, page } = story;
    const next = await beside(story, [['other'], record(1, 'other'), record(2, 'gone')]);
    await untilStored(page, 3);
    await next.evaluate(() => {
      window.failsMarks = true;
      connects();
    });
    await until(() => gateway.hellos.length);
    await sleep(1_000);
    assert.deepEqual([gateway.transmissions.length, (await stored(page)).length], [0, 3]);
    await next.evaluate(() => (window.failsMarks = false));
    for (const end = Date.now() + 15_000; gateway.transmissions.length < 2 && Date.now() < end; ) await sleep(50);
    assert.deepEqual(gateway.names(), ['/next']);
    await untilStored(page, 1);
  }));

test('what another page has taken is neither sent nor written back', LIMITS, () =>
  visit(browser, granted, async (story) => {
    const { gateway, page } = story;
    const [number, value] = record(1, 'gone');
    const next = await beside(story, [['other'], [number, value]]);
    await untilStored(page, 2);
    await seed(page, [[number, { ...value, page: 'other' }]]);
    await next.evaluate(() => connects());
    await settles(() => gateway.transmissions.map(({ batch }) => batch.events.length), [1]);
    assert.deepEqual((await stored(page)).map(({ sent }) => sent), [false]);
  }));

test('a full store takes no more, whatever becomes of what is in memory', LIMITS, () =>
  visit(browser, granted, async (story) => {
    const { gateway, page } = story;
    const next = await beside(story, [['other'], ...Array.from({ length: 64 }, (_, place) => record(place + 1, 'other'))]);
    await next.evaluate(() => connects());
    await settles(() => gateway.names(), ['/next']);
    gateway.acknowledges = false;
    await next.evaluate(() => tideline('Unanswered'));
    await settles(() => gateway.names(), ['/next', 'Unanswered']);
    assert.equal((await stored(page)).length, 64);
  }));

test('what is no batch is deleted', LIMITS, () =>
  visit(browser, granted, async (story) => {
    const [number, value] = record(1, 'gone');
    const next = await beside(story, [[number, { ...value, batch: [1, 2, 3] }]]);
    await next.evaluate(() => connects());
    await settles(() => story.gateway.names(), ['/next']);
    await untilStored(story.page, 0);
  }));

test('what is sent before the core comes is on the device too', LIMITS, () =>
  visit(browser, { ...granted, gateway: { fileDelay: 3_000, away: true } }, async (story) => {
    const { gateway, context, page, url } = story;
    await page.goto(`${url}/short`);
    const blank = await leaveForGood(story);
    assert.deepEqual((await stored(blank)).map(({ sent }) => sent), [true]);
    gateway.away = false;
    const next = await context.newPage();
    await next.goto(`${url}/next`);
    await settles(() => gateway.names().sort(), ['/next', '/short']);
    await untilStored(blank, 0);
  }));

test('a page out of the back-forward cache stores nothing where another has denied it', LIMITS, () => {
  const page = (path, gateway) => (path === '/second' ? html(gateway) : CONSENTS(path, gateway));
  return visit(browser, { page }, async ({ gateway, page, url }) => {
    await page.goto(`${url}/first`);
    await settles(() => gateway.names(), ['/first']);
    await page.evaluate(() => {
      window.survived = true;
      dispatchEvent(new PageTransitionEvent('pagehide', { persisted: true }));
    });
    await sleep(300); // Chromium drops a page whose connection is still being closed when the store is deleted
    await page.goto(`${url}/second`);
    await settles(() => gateway.names(), ['/first', '/second']);
    await page.evaluate(() => tideline('consent', 'denied'));
    for (const end = Date.now() + 5_000; (await page.evaluate(() => indexedDB.databases())).length; await sleep(20)) {
      assert.ok(Date.now() < end, 'the store is still there');
    }
    gateway.acknowledges = false;
    await page.goBack({ waitUntil: 'commit' });
    assert.equal(await page.evaluate(() => window.survived), true, 'the page was kept');
    await page.evaluate(() => tideline('Again'));
    await until(() => gateway.names().includes('Again'));
    assert.deepEqual(await page.evaluate(() => indexedDB.databases()), []);
  });
});
